"""Ranks of this machine that stay: what is lost, found again, and left behind."""

from __future__ import annotations

import json

import pytest

pytestmark = [pytest.mark.slow]

BEGIN = """
import gc, json, os, select, signal, socket, sys, threading
import acme_mpi

os.environ["XDG_STATE_HOME"] = os.getcwd()

def call():
    return acme_mpi.map(abs, [-1, 2], write_worker_results=False)

def fails(func, *given):
    try:
        return func(*given)
    except acme_mpi.AcmeMpiError as error:
        return f"{type(error).__name__}: {error}"

said = {}
"""
FEW, MANY = 1, 200  # after the first


@pytest.fixture
def run(mpiexec, write_script):
    """Return a function that runs a script, and returns what it has said; nothing may stay."""

    def run(text, **options):
        script = write_script(BEGIN + text + "\nprint(json.dumps(said))")
        ran = mpiexec(0, script, env={"ACME_MPI_LAUNCH": ""}, **options)
        assert ran.returncode == 0, ran.stderr
        return json.loads(ran.stdout.splitlines()[-1])

    return run


@pytest.mark.every
def test_what_becomes_of_ranks_that_are_out_of_reach(run):
    said = run(
        """
ranks = acme_mpi.launch(2, idle="2min")
said["way"] = ranks.way
said["last"] = fails(ranks.last_result)
forked = os.fork()
if not forked:
    taken = [os.open(os.devnull, os.O_RDONLY) for _ in range(50)]
    call()
    del ranks
    gc.collect()
    for descriptor in taken:  # closed by nobody who has closed his own before
        os.close(descriptor)
    os._exit(0)
said["fork"] = os.waitpid(forked, 0)[1]
said["after"] = call()
ranks._bridge.transport._socket.shutdown(socket.SHUT_RDWR)
said["lost"] = fails(call)
os.environ.update(MARK="new", SLURM_JOB_ID="1")
again = acme_mpi.connect()
said["variables"] = acme_mpi.map(os.getenv, ["MARK", "SLURM_JOB_ID"], write_worker_results=False)
del os.environ["SLURM_JOB_ID"]
said["again"] = call(), again.ranks == ranks.ranks, again.status()
said["same"] = acme_mpi.connect(again.directory) is again
said["own"] = fails(again.last_result)
script = os.pidfd_open(int(again.job_id.split()[-1]))
for _, pid in again.ranks:
    os.kill(pid, signal.SIGKILL)
said["killed"] = fails(call)
select.select([script], [], [])  # its last line is not its end
os.unlink(os.path.join(again.directory, "exit"))  # as if the script had been killed as well
said["none"] = fails(acme_mpi.connect)
said["gone"] = fails(acme_mpi.connect, again.directory)
again.stop()
said["left"] = os.listdir("acme_mpi")
""",
        timeout_s=150,
    )

    assert said["way"].startswith("a socket of ")
    assert said["last"].startswith("InputError: no call of a process before this one")
    assert (said["fork"], said["after"]) == (0, [1, 2])
    assert said["lost"].startswith("LaunchError: the ranks that served this process have gone")
    assert said["again"] == [[1, 2], True, "running"]
    assert said["same"]
    assert said["variables"] == ["new", None]
    assert said["own"].startswith("InputError: ")
    assert said["killed"].startswith("LaunchError: the ranks that served this process have gone")
    assert said["gone"].startswith("LaunchError: the ranks have ended: job ")
    assert said["none"].startswith("LaunchError: there are no ranks in ")
    assert said["left"] == []


@pytest.mark.once
@pytest.mark.parametrize("idle", ["0", "''", "False"])
def test_a_time_of_nothing_to_stay_is_refused(run, idle):
    said = run(f'said["error"] = fails(lambda: acme_mpi.launch(1, idle={idle}).stop())')

    assert "`idle` has to be a" in said["error"]
    assert f"not {idle}" in said["error"]


@pytest.mark.once
@pytest.mark.parametrize("words", ["", ', idle="1min"'])
@pytest.mark.parametrize(
    "n", [FEW, pytest.param(MANY, marks=[pytest.mark.many, pytest.mark.timeout(3600)])]
)
def test_launches_and_stops_in_a_row_leave_nothing_behind(run, n, words):
    said = run(
        f"""
def there():
    gc.collect()
    n_streams = sum(type(each).__name__ == "ClientStream" for each in gc.get_objects())
    return n_streams, len(os.listdir("/proc/self/fd")), threading.active_count(), os.listdir()

def launch():
    with acme_mpi.launch(2{words}) as ranks:
        assert call() == [1, 2]
        with acme_mpi.Pool() as pool:
            assert pool.map(abs, [-3]) == [3]

launch()
said["before"] = there()
for _ in range({n}):
    launch()
said["after"] = there()
said["left"] = os.path.isdir("acme_mpi") and os.listdir("acme_mpi")
with open("/proc/self/task/%d/children" % os.getpid()) as file:
    said["children"] = file.read()
""",
        timeout_s=20.0 * (n + 2),
    )

    assert said["after"] == said["before"]
    assert not said["left"]
    assert said["children"] == ""
