"""Plain Python scripts whose calls start ranks: which ones run, and that all of them end."""

from __future__ import annotations

import json
import os
import signal

import pytest

import acme_mpi
from acme_mpi.standing import calling

PLAIN = {"ACME_MPI_LAUNCH": ""}
# The parent of the process that calls a task is a rank's agent. All tasks wait until `n` ranks have
# one, so that no rank gets all of them on a machine that is busy.
BEGIN = """
import json, os, signal, sys, tempfile, time
import acme_mpi

os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[:2])  # ranks by default

def agent(k, folder, n):
    open(f"{folder}/{os.getppid()}", "w").close()
    while len(os.listdir(folder)) < n:
        time.sleep(0.001)
    return os.getppid()

def agents(n=2, by=None):
    by = by or (lambda *given: acme_mpi.map(agent, *given, write_worker_results=False))
    with tempfile.TemporaryDirectory() as folder:
        return sorted(set(by(range(4 * n), folder, n)))

def by_pool(pool):
    return lambda tasks, *given: pool.starmap(agent, [(k, *given) for k in tasks], 1)

def by_executor(executor):
    return lambda tasks, *given: executor.starmap(agent, [(k, *given) for k in tasks])

def by_parallel_map(*given):
    with acme_mpi.ParallelMap(agent, *given, write_worker_results=False) as pmap:
        return pmap.compute()

def say(*values):
    print(json.dumps(values), flush=True)

me = os.getpid()

def rest():
    # A task that does not end by itself before whatever the test does ends it.
    time.sleep(60)

def signal_at_1(k, number):
    if k == 1:
        os.kill(me, number)
    rest()
"""


@pytest.fixture
def run(mpiexec, write_script):
    """Return a function that runs a script without a launcher, and returns what it has said."""

    def run(text, status=0, **options):
        script = write_script(BEGIN + text)
        options["env"] = {**PLAIN, **options.get("env", {})}
        ran = mpiexec(0, script, **options)
        assert ran.returncode == status, ran.stderr
        run.stderr = ran.stderr
        return [json.loads(line) for line in ran.stdout.splitlines() if line.startswith("[")]

    return run


@pytest.mark.every
def test_all_dialects_use_the_same_two_ranks(run):
    used = run("""
with acme_mpi.launch(2) as ranks:
    say(*sorted(pid for _, pid in ranks.ranks))
    say(*agents())
    say(*agents(by=by_parallel_map))
    with acme_mpi.Pool() as pool:
        say(*agents(by=by_pool(pool)))
    with acme_mpi.Executor() as executor:
        say(*agents(by=by_executor(executor)))
""")

    assert used == [used[0]] * 5


def test_each_of_the_ranks_has_its_own_gpus(run):
    options = {"env": {"ACME_MPI_GPUS_PER_RANK": "2"}}
    (seen,) = run(
        """
os.environ.pop("CUDA_VISIBLE_DEVICES", None)

def seen(*given):
    agent(*given)
    return os.environ["CUDA_VISIBLE_DEVICES"]

with tempfile.TemporaryDirectory() as folder:
    say(*sorted(set(acme_mpi.map(seen, range(8), folder, 2, write_worker_results=False))))
""",
        **options,
    )

    assert seen == ["0,1", "2,3"]


@pytest.mark.every
def test_the_first_call_starts_ranks_for_all(run):
    first, second, mpi = run("""
with acme_mpi.Pool(2) as pool:
    say(*agents(by=by_pool(pool)))
say(*agents())
say("mpi4py.MPI" in sys.modules)
""")

    assert len(first) == 2
    assert second == first
    assert mpi == [False]


@pytest.mark.every
@pytest.mark.parametrize("when", ["in a call", "between calls"])
def test_a_killed_script_leaves_no_process(run, when):
    """The start fails by itself if a process stays."""
    (before,) = run(
        f"""
say(*agents())
if {when!r} == "between calls":
    os.kill(me, signal.SIGKILL)
acme_mpi.map(signal_at_1, range(2), signal.SIGKILL, write_worker_results=False)
""",
        status=-signal.SIGKILL,
    )

    assert len(before) == 2


@pytest.mark.every
def test_an_interrupt_ends_the_call_and_keeps_the_ranks(run):
    before, said, after = run("""
say(*agents())
try:
    acme_mpi.map(signal_at_1, range(2), signal.SIGINT, write_worker_results=False)
except acme_mpi.StoppedError as error:
    say(str(error))
say(*agents())
""")

    assert said == ["2 of 2 tasks were not run, because this process got SIGINT"]
    assert set(after) <= set(before)


def test_an_interrupted_run_can_be_resumed(run, tmp_path):
    said, done = run("""
def task(k, path="ended"):
    if k == 7 and not os.path.exists(path):
        open(path, "w").close()
        os.kill(me, signal.SIGINT)
        rest()
    return k

for resume in (False, True):
    try:
        files = acme_mpi.map(task, range(8), output_dir="out", resume=resume)
    except acme_mpi.StoppedError as error:
        say(str(error))
import h5py
with h5py.File(files[0]) as file:
    say(*[int(file[f"comp_{k}/result_0"][0]) for k in range(8)])
""")

    assert "because this process got SIGINT" in said[0]
    assert "resume with: the same call" in said[0] or "resume=True" in said[0]
    assert done == [*range(8)]


def test_an_interrupt_ends_what_a_pool_calls(run):
    before, after = run("""
say(*agents())
try:
    with acme_mpi.Pool() as pool:
        pool.starmap(signal_at_1, [(k, signal.SIGINT) for k in range(2)], 1)
except KeyboardInterrupt:
    say(*agents())
""")

    assert after == before


@pytest.mark.once
def test_without_mpiexec_one_rank_works_and_says_so(run, tmp_path):
    (used,) = run(
        "import acme_mpi.comm.mpiexec as found\nfound._folders = lambda: ()\n"
        "with acme_mpi.Pool() as pool: pool.map(abs, [1, 2])\n"
        "say(agents(1) == [os.getpid()])",
        env={"PATH": str(tmp_path)},
    )

    assert used == [True]
    assert run.stderr.count("one rank calls all tasks") == 1
    assert 'pip install "acme-mpi[mpi]"' in run.stderr


@pytest.mark.once
def test_what_mpiexec_says_of_a_failure_is_said_once(run, tmp_path):
    fake = tmp_path / "mpiexec"
    fake.write_text("#!/bin/sh\necho no slots\nexit 3\n")
    fake.chmod(0o755)
    used, said = run(
        "import acme_mpi.comm.mpiexec as found\nfound._folders = lambda: ()\n"
        "say(agents(1) == agents(1) == [os.getpid()])\n"
        "try: acme_mpi.launch(2)\nexcept acme_mpi.LaunchError as error: say(str(error))",
        env={"PATH": f"{tmp_path}:{os.environ['PATH']}"},
    )

    assert used == [True]
    assert run.stderr.count("no slots") == 1
    assert said == [f"{fake} was to start ranks, and has ended; it has said:\n  no slots"]


@pytest.mark.once
@pytest.mark.parametrize(
    ("n", "kind", "message"),
    [
        (0, ValueError, "`n` has to be a whole number >= 1, not 0"),
        (True, TypeError, "`n` has to be a whole number >= 1, not True"),
        ("2", ValueError, "`launch` has to be one of 'local', 'slurm', 'sge', not '2'"),
        (2.0, TypeError, "`launch` has to be the name of a launcher, .* not 2.0"),
    ],
)
def test_a_wrong_number_of_ranks_is_refused(n, kind, message):
    with pytest.raises(kind, match=message):
        acme_mpi.launch(n)


@pytest.mark.once
def test_a_task_cannot_launch_ranks():
    with calling(), pytest.raises(acme_mpi.LaunchError, match="a task, or a script"):
        acme_mpi.launch(2)


@pytest.mark.once
def test_one_core_needs_no_ranks(run):
    (used,) = run("""
os.sched_setaffinity(0, [min(os.sched_getaffinity(0))])
say(agents(1) == [os.getpid()])
""")

    assert used == [True]


@pytest.mark.once
def test_the_variable_says_that_no_ranks_are_wanted(run):
    (used,) = run("say(agents(1) == [os.getpid()])", env={"ACME_MPI_LAUNCH": "none"})

    assert used == [True]


def test_calls_of_tasks_and_forks_start_no_ranks(run):
    nested, forked = run("""
def task(k):
    with acme_mpi.Pool() as pool:
        return [*agents(1), *agents(1, by_pool(pool))] == [os.getppid()] * 2

say(*acme_mpi.map(task, range(2), write_worker_results=False))
pid = os.fork()
if not pid:
    say(agents(1) == [os.getpid()])
    os._exit(0)
os.waitpid(pid, 0)
agents()
""")

    assert nested == [True, True]
    assert forked == [True]


@pytest.mark.once
def test_children_of_multiprocessing_start_no_ranks(run):
    (used,) = run("""
import multiprocessing

def child(k):
    found = acme_mpi.map(os.getppid, n_inputs=2, write_worker_results=False)
    return [each == os.getpid() for each in found]

if __name__ == "__main__":
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        say(*pool.map(child, range(1))[0])
""")

    assert used == [True, True]


def test_what_tasks_print_comes_before_their_results(mpiexec, write_script):
    script = write_script("""
        import sys
        import acme_mpi

        def task(k):
            sys.stdout.write(f"task {k}\\n")  # at once: nothing is buffered, and two ranks write

        acme_mpi.map(task, range(2), write_worker_results=False)
        print("all", flush=True)
    """)

    ran = mpiexec(0, script, env={**PLAIN, "PYTHONUNBUFFERED": "1"})

    lines = ran.stdout.splitlines()
    assert sorted(lines[:2]) == ["task 0", "task 1"]
    assert lines[2:] == ["all"]


def test_messages_go_to_the_loggers_of_the_script(run):
    assert run("""
import logging
logging.basicConfig(level=logging.INFO, stream=sys.stdout, format='["%(message)s"]')
acme_mpi.map(abs, range(2), write_worker_results=False)
""") == [
        ["Started 2 ranks on this machine for this process"],
        ["Preparing 2 parallel calls of `abs` using 2 workers"],
        ["SUCCESS! 2 tasks done. Finished parallel computation"],
    ]


def test_a_plain_script_says_nothing_of_its_ranks(run):
    run("agents()")

    assert run.stderr == ""


def test_the_end_of_a_quiet_call_is_waited_for_by_the_next(run):
    said = run("""
def call(func, tasks):
    return acme_mpi.map(func, tasks, write_worker_results=False)

for k in range(30):
    values = call(lambda x: x + k, range(3))
with acme_mpi.Pool() as pool:
    say(*values, *pool.map(abs, [-1]), *call(abs, [-2, 3]))
try:
    call(lambda x: 1 / x, [0, 1])
except acme_mpi.TaskError as error:
    say(len(error.failures))
call(abs, [1, 2])
""")

    assert said == [[29, 30, 31, 1, 2, 3], [1]]
    assert run.stderr.startswith("1 of 2 tasks failed")


def test_a_rank_that_dies_is_told_and_the_next_call_has_new_ones(run):
    said, used = run("""
def task(k):
    os.kill(os.getppid(), signal.SIGKILL)
    rest()

try:
    acme_mpi.map(task, range(4), write_worker_results=False)
except acme_mpi.LaunchError as error:
    say(str(error).splitlines()[0])
say(len(agents()))
""")

    assert said[0].startswith("the ranks that this process has started have gone")
    assert used == [2]


def test_a_rank_that_dies_under_a_pool_costs_no_later_pool(run):
    said, values = run("""
def task(k):
    if k == 1:
        os.kill(os.getppid(), signal.SIGKILL)
    rest()

try:
    acme_mpi.Pool().map(task, range(3), 1)
except acme_mpi.LaunchError as error:
    say(*str(error).splitlines())
with acme_mpi.Pool() as pool:  # at once: mpiexec may not have ended yet
    say(*pool.map(abs, [-1, 2]), *acme_mpi.map(abs, [-3, 4], write_worker_results=False))
""")

    assert said[0].startswith("the ranks that served this process's pools have gone; a new call")
    assert said[0].endswith("it has said:")
    assert said[1:]
    assert values == [1, 2, 3, 4]


def test_more_ranks_take_the_place_of_fewer_that_are_idle(run):
    counts, kept = run("""
acme_mpi.launch(1).stop()
with acme_mpi.Pool(2) as pool:
    used = [len(agents(2, by_pool(pool)))]
with acme_mpi.Executor(3) as executor:
    used.append(len(agents(3, by_executor(executor))))
    with acme_mpi.Pool(4) as pool:  # the executor is open
        used.append(pool.size)
say(*used)
with acme_mpi.launch(2) as ranks:
    with acme_mpi.Pool(3) as pool:
        say(pool.size, len(ranks.hosts), ranks.status())
""")

    assert counts == [2, 3, 3]
    assert kept == [2, 1, "running"]
    assert "4 ranks were asked for, and 3 are used: they are in use" in run.stderr


def test_ranks_that_are_in_use_are_not_started_twice(run):
    said, status = run("""
ranks = acme_mpi.launch(2)
try:
    acme_mpi.launch(3)
except acme_mpi.LaunchError as error:
    say(str(error))
ranks.stop()
ranks.stop()
say(ranks.status())
""")

    assert said[0].startswith("this process has 2 ranks already")
    assert status == ["ended"]


def test_acmes_set_up_starts_ranks_and_cleanup_ends_them(run):
    first, second, cleaned = run("""
client = acme_mpi.local_cluster_setup(n_workers=3)
used = sorted({each["pid"] for each in client.cluster.workers.values()})
say(*used)
say(*agents(3, by_parallel_map))
acme_mpi.cluster_cleanup()
after = agents(2, by_parallel_map)
say(len(after), set(used).isdisjoint(after))
""")

    assert len(first) == 3
    assert second == first
    assert cleaned == [2, True]


def test_a_function_that_is_not_isolated_is_called_here(run):
    (found,) = run("""
seen = []

def task(k):
    seen.append(os.getpid())

agents()
acme_mpi.map(task, range(3), isolate=False, write_worker_results=False)
say(*seen, os.getpid())
""")

    assert len(found) == 4
    assert len(set(found)) == 1


@pytest.mark.once
def test_joblib_gets_the_ranks(run):
    pytest.importorskip("joblib")
    (used,) = run("""
import joblib
acme_mpi.register_joblib()
with joblib.parallel_config("acme_mpi", n_jobs=2):
    parallel = joblib.Parallel(batch_size=1)
    say(len(agents(2, lambda ks, *rest: parallel(joblib.delayed(agent)(k, *rest) for k in ks))))
""")

    assert used == [2]
