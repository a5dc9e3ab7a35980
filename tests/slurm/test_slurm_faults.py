"""Jobs that end early under a real Slurm, and what resumes them: see `scripts/slurm_sandbox`.

Signals, time limits, ranks and nodes that are lost, and the batch script that copes with them.
"""

from __future__ import annotations

import os
import re
import select
import signal
import subprocess
import sys
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
from conftest import (
    ENDING_S,
    MARKER,
    Launcher,
    end_all,
    is_runner,
    processes_of,
    start_environment,
)
from sandbox import SANDBOX, Slurm, running_slurm
from watching import pidfd_of

from acme_mpi.history.records import read_history
from acme_mpi.history.status import read_status

pytestmark = [pytest.mark.once, pytest.mark.slurm, pytest.mark.slow]

N_TASKS = 60
N_FREE = 8  # tasks that never wait
DONE, STOPPED, RANK_LOST = 0, 75, 69
KILLED, TERMINATED = 128 + signal.SIGKILL, 128 + signal.SIGTERM
LIMIT_S = 60
AT_ONCE_S = 20  # on a busy machine; a job that nobody ends would go on for 15 minutes
PAIR = ("-N2", "-n2")
EVEN = ("-N2", "--ntasks-per-node=2")
# Tasks note that they begin and end. All but the first wait until they are allowed to end.
MODULE = f"""\
import os
import time
import uuid


def note(kind, x):
    open(os.path.join(kind, f"{{x}}.{{uuid.uuid4().hex}}"), "x").close()


def f(x):
    note("begun", x)
    while x >= {N_FREE} and not os.path.exists("allowed"):
        time.sleep(0.01)
    note("ended", x)
    return x * 1.5


def brief(x):
    note("begun", x)
    time.sleep(0.25)
    return x * 1.5
"""
SCRIPT = """\
import numpy as np

import acme_mpi
from mymod import f

acme_mpi.map(f, np.load("args.npz")["x"], output_dir="out", resume=True)
"""
JOB = SANDBOX.with_name("job.sbatch")


class Job:
    """A command on the login machine, beside the test."""

    def __init__(self, slurm: Slurm, folder: Path, *command: str) -> None:
        self.slurm, self.folder, self.id = slurm, folder, uuid.uuid4().hex
        path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
        self._output = open(folder / f"output{self.id}", "w+")  # noqa: SIM115
        self.process = subprocess.Popen(
            slurm.command(*command),
            cwd=folder,
            stdin=subprocess.DEVNULL,
            stdout=self._output,
            stderr=self._output,
            env={**start_environment(), "PATH": path, MARKER: self.id},
            start_new_session=True,
        )

    def until(self, condition: Callable[[], Any], what: str = "") -> None:
        """Wait until something has happened; the job must not end before."""
        with pidfd_of(self.process.pid) as pidfd:
            for _ in range(LIMIT_S * 50):
                if condition():
                    return
                assert not select.select([pidfd], [], [], 0.02)[0], self.said()
        pytest.fail(f"it did not happen: {what} {self.said()}")

    def until_all_wait(self, n_ranks: int) -> None:
        """Wait until each rank is in a task that does not end, and some results are recorded."""

        def is_so() -> bool:
            waiting = [task for task in names(self.folder, "begun") if task >= N_FREE]
            return len(waiting) >= n_ranks and bool(done(self.folder))

        self.until(is_so)

    def until_it_stops(self) -> None:
        self.until(lambda: "the run stops" in self.said(), "the run stops")

    def agent(self, rank: int) -> int:
        """Return the process id of a rank."""
        (found,) = (pid for pid in processes_of(self.id) if is_rank(pid, rank))
        return found

    def end(self, timeout_s: float = LIMIT_S) -> int:
        """Wait for the end; return the exit status. Nothing may be left behind."""
        try:
            status = self.process.wait(timeout_s)
        except subprocess.TimeoutExpired:
            pytest.fail(f"not finished after {timeout_s} s: {self.said()}")
        left = end_all(self.id, ENDING_S)
        assert not left, left
        return status

    def n_rounds(self) -> int:
        """Return how often the ranks were started. Usually once, but MPI's own start may crash."""
        return len(re.findall(r"^round \d+: ", self.said(), re.MULTILINE))

    def said(self) -> str:
        logs = sorted(self.folder.glob("*.log"))
        outputs = [Path(self._output.name), *logs]
        return "".join(path.read_text(errors="replace") for path in outputs)

    def kill(self) -> None:
        if processes_of(self.id):
            self.slurm.end_jobs()
            end_all(self.id, ENDING_S)
        self.process.wait()
        self._output.close()


def is_rank(pid: int, rank: int) -> bool:
    """Tell whether a process is an agent of that rank."""
    try:
        environment = Path(f"/proc/{pid}/environ").read_bytes().split(b"\0")
        words = Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0")
    except OSError:
        return False
    if is_runner(pid):
        return False
    return b"acme_mpi" in words and f"SLURM_PROCID={rank}".encode() in environment


def names(folder: Path, kind: str) -> list[int]:
    """Return which tasks have noted something, each as often as it did."""
    return sorted(int(name.split(".")[0]) for name in os.listdir(folder / kind))


def done(folder: Path, func: str = "f") -> set[int]:
    """Return the tasks whose results are recorded."""
    dot_folder = folder / "out" / ".acme_mpi" / func
    if not dot_folder.exists():
        return set()
    return set(np.flatnonzero(read_history(str(dot_folder)).is_done(N_TASKS)).tolist())


def stored(folder: Path, func: str = "f") -> dict[int, float]:
    """Return the results in the container by task."""
    with h5py.File(folder / "out" / f"{func}.h5") as file:
        return {int(k.split("_")[1]): float(v["result_0"][0]) for k, v in file.items()}


def prepare(path: Path) -> Path:
    for folder in (path, path / "begun", path / "ended"):
        folder.mkdir()
    (path / "mymod.py").write_text(MODULE)
    (path / "script.py").write_text(SCRIPT)
    np.savez(path / "args.npz", x=np.arange(N_TASKS))
    return path


@pytest.fixture
def folder(slurm: Slurm, request: pytest.FixtureRequest) -> Path:
    """Return a directory that all nodes see, with the module and the arguments."""
    name = "".join(c if c.isalnum() else "_" for c in request.node.name)
    return prepare(slurm.shared_dir / name)


@pytest.fixture
def start(slurm: Slurm, folder: Path) -> Iterator[Callable[..., Job]]:
    """Return the function that starts a command under Slurm; it is ended with the test."""
    started: list[Job] = []

    def start_it(*command: str) -> Job:
        started.append(Job(slurm, folder, *command))
        return started[-1]

    yield start_it
    for each in started:
        each.kill()


@pytest.fixture(scope="module")
def undisturbed(
    tmp_path_factory: pytest.TempPathFactory, mpiexec: Launcher, content_of: Any
) -> dict[str, Any]:
    """Return the content of the containers of runs without trouble."""
    path = prepare(tmp_path_factory.mktemp("undisturbed") / "place")
    (path / "allowed").touch()
    ran = mpiexec(0, *program("f"), cwd=path)
    assert ran.returncode == DONE, ran.stderr
    return {"f": content_of(path / "out" / "f.h5")}


def program(func: str = "f") -> list[str]:
    return ["-m", "acme_mpi", f"mymod:{func}", "args.npz", "--output-dir", "out"]


def srun(*options: str, func: str = "f") -> list[str]:
    """Return the command line of a run under srun, which can be told by its name."""
    return ["srun", "--job-name=acme", *options, sys.executable, *program(func)]


def assert_the_rest_is_done(
    folder: Path, run: Callable[[], Any], content_of: Any, undisturbed: Any
) -> None:
    """Check that a run resumes with what is recorded, and ends with what it would have been."""
    kept, calls = done(folder), names(folder, "begun")
    (folder / "allowed").touch()

    ran = run()

    assert ran.returncode == DONE, ran.stderr
    again = list(names(folder, "begun"))
    for task in calls:
        again.remove(task)
    assert again == sorted(set(range(N_TASKS)) - kept)  # each once
    assert content_of(folder / "out" / "f.h5") == undisturbed["f"]


class TestSignals:
    @pytest.mark.parametrize("name", ["USR2", "TERM"])
    def test_it_drains(self, slurm, folder, start, content_of, undisturbed, name):
        job = start(*srun(*PAIR))
        job.until_all_wait(2)
        slurm.call("scancel", f"--signal={name}", "--name=acme")
        job.until_it_stops()
        (folder / "allowed").touch()

        assert job.end() == STOPPED, job.said()
        begun = names(folder, "begun")
        assert begun == names(folder, "ended") == sorted(done(folder)) == sorted(stored(folder))
        assert len(begun) < N_TASKS
        # By another number of ranks.
        again = [*program(), "--quiet"]
        assert_the_rest_is_done(
            folder,
            lambda: slurm.srun("-n1", sys.executable, *again, cwd=folder),
            content_of,
            undisturbed,
        )

    def test_scancel_loses_nothing_that_is_recorded(
        self, slurm, folder, start, content_of, undisturbed
    ):
        """Slurm kills it 2 s later here; these tasks take longer."""
        job = start(*srun(*PAIR))
        job.until_all_wait(2)
        slurm.call("scancel", "--name=acme")

        # With status 0: srun has not been told in time how its ranks have ended.
        job.end()
        assert "the run stops" in job.said()
        assert_the_rest_is_done(
            folder,
            lambda: slurm.srun_acme("-n1", args=program()[2:], cwd=folder),
            content_of,
            undisturbed,
        )

    def test_a_script_is_ended_in_good_order_with_its_call(
        self, slurm, folder, start, content_of, undisturbed
    ):
        """Slurm signals the process that runs the script, too."""
        line = ["srun", "--job-name=acme", *PAIR, sys.executable, "-m", "acme_mpi", "script.py"]
        job = start(*line)
        job.until_all_wait(2)
        slurm.call("scancel", "--signal=USR2", "--name=acme")
        job.until_it_stops()
        (folder / "allowed").touch()

        assert job.end() == STOPPED, job.said()
        assert "StoppedError" in job.said()
        assert names(folder, "begun") == sorted(stored(folder))
        again = slurm.srun_acme("-n1", args=["script.py"], cwd=folder)
        assert again.returncode == DONE, again.stderr
        assert names(folder, "begun") == list(range(N_TASKS))
        assert content_of(folder / "out" / "f.h5") == undisturbed["f"]


LIMITED = """\
#!/bin/bash
scontrol update "jobid=$SLURM_JOB_ID" "EndTime=$(date -d '+10 seconds' +%FT%T)"
squeue --noheader "--jobs=$SLURM_JOB_ID" --format=%e > end
python -c 'import time; from acme_mpi.engine.deadline import job_left_s; print(time.time() + job_left_s())' > found
srun python -m acme_mpi mymod:brief args.npz --output-dir out --quiet
"""  # noqa: E501


def test_the_end_of_the_job_is_the_end_of_its_run(slurm, folder, start):
    """Sixty tasks of 0.25 s on one rank take 15 s, and the job has 10."""
    (folder / "limited.sh").write_text(LIMITED)
    job = start(*submit("--time=1", "--ntasks-per-node=1", script=Path("limited.sh")))

    assert job.end() == STOPPED, job.said()
    end = np.datetime64((folder / "end").read_text().strip())
    found = np.datetime64(round(float((folder / "found").read_text())), "s")
    local = np.timedelta64(round(utc_offset_s()), "s")
    assert abs((found + local - end).astype(int)) <= 1
    # The latter on a busy machine, where a task lasts longer than those before it.
    assert re.search("no further task can end in time|the time is up", job.said())
    kept, begun = set(stored(folder, "brief")), names(folder, "begun")
    assert kept <= set(begun)
    assert 0 < len(kept) < N_TASKS

    again = slurm.srun_acme("-n4", args=program("brief")[2:], cwd=folder)
    assert again.returncode == DONE, again.stderr
    assert names(folder, "begun") == sorted([*begun, *(set(range(N_TASKS)) - kept)])  # once
    assert stored(folder, "brief") == {i: i * 1.5 for i in range(N_TASKS)}


class TestLostRanks:
    @pytest.mark.parametrize(
        ("options", "rank"),
        [
            pytest.param(EVEN, 3, id="others_on_its_node"),
            pytest.param(PAIR, 1, id="alone_on_its_node"),
            pytest.param(PAIR, 0, id="the_master_alone"),
        ],
    )
    def test_the_job_ends_at_once(
        self, slurm, folder, start, content_of, undisturbed, options, rank
    ):
        """Without --kill-on-bad-exit, by which Slurm itself would end it."""
        job = start(*srun(*options))
        job.until_all_wait(4 if options == EVEN else 2)
        os.kill(job.agent(rank), signal.SIGKILL)

        assert job.end(AT_ONCE_S) in (RANK_LOST, KILLED), job.said()
        assert "has died; the job ends" in job.said()
        lost = read_status(str(folder / "out" / ".acme_mpi" / "f")).lost
        assert lost[0].rank == rank
        assert_the_rest_is_done(
            folder,
            lambda: slurm.srun_acme("-n1", args=program()[2:], cwd=folder),
            content_of,
            undisturbed,
        )

    def test_slurm_ends_it_where_it_is_told_to(self, slurm, folder, start, content_of, undisturbed):
        job = start(*srun(*PAIR, "--kill-on-bad-exit=1"))
        job.until_all_wait(2)
        os.kill(job.agent(1), signal.SIGKILL)

        assert job.end(AT_ONCE_S) in (RANK_LOST, KILLED), job.said()
        assert_the_rest_is_done(
            folder,
            lambda: slurm.srun_acme("-n1", args=program()[2:], cwd=folder),
            content_of,
            undisturbed,
        )


class TestOtherLaunchers:
    def test_stopped_under_srun_and_resumed_under_mpiexec(
        self, slurm, folder, start, mpiexec, content_of, undisturbed
    ):
        job = start(*srun(*PAIR))
        job.until_all_wait(2)
        slurm.call("scancel", "--signal=USR1", "--name=acme")
        job.until_it_stops()
        (folder / "allowed").touch()
        assert job.end() == STOPPED, job.said()

        assert_the_rest_is_done(
            folder, lambda: mpiexec(0, *program(), cwd=folder), content_of, undisturbed
        )

    def test_stopped_under_mpiexec_and_resumed_under_srun(
        self, slurm, folder, mpiexec, content_of, undisturbed
    ):
        (folder / "allowed").touch()
        ran = mpiexec(2, *program("brief"), "--time-limit", "3s", cwd=folder)
        assert ran.returncode == STOPPED, ran.stderr

        again = slurm.srun_acme(*PAIR, args=program("brief")[2:], cwd=folder)
        assert again.returncode == DONE, again.stderr
        assert names(folder, "begun") == list(range(N_TASKS))
        assert stored(folder, "brief") == {i: i * 1.5 for i in range(N_TASKS)}


# `sbatch --wait` looks every 10 s. A job is known to its controller for minutes after its end.
SUBMIT = """\
job=$(sbatch --parsable --ntasks-per-node=2 --output=job.log "$@") || exit
while squeue --noheader "--jobs=$job" --states=PENDING,CONFIGURING,RUNNING | grep --quiet .; do
    sleep 0.2
done
scontrol show job "$job" | sed -n 's/.* ExitCode=\\([0-9]*\\):.*/\\1/p' > status
exit "$(cat status)"
"""


def submit(*options: str, script: Path = JOB) -> list[str]:
    """Return the command line that submits a batch script and waits for its end."""
    return ["bash", "-c", SUBMIT, "submit", *options, str(script)]


class TestBatchScript:
    def test_it_needs_one_round(self, folder, start, content_of, undisturbed):
        (folder / "allowed").touch()
        job = start(*submit())

        assert job.end() == DONE, job.said()
        assert names(folder, "begun") == list(range(N_TASKS))
        assert content_of(folder / "out" / "f.h5") == undisturbed["f"]
        assert job.said().count("\nround ") + job.said().startswith("round ") == 1

    def test_another_round_does_what_a_lost_rank_has_left(
        self, folder, start, content_of, undisturbed
    ):
        job = start(*submit())
        job.until_all_wait(4)
        n_before = job.n_rounds()
        os.kill(job.agent(3), signal.SIGKILL)
        kept = done(folder)
        (folder / "allowed").touch()

        assert job.end() == DONE, job.said()
        assert job.n_rounds() == n_before + 1
        begun = names(folder, "begun")
        assert set(begun) == set(range(N_TASKS))
        assert all(begun.count(task) == 1 for task in kept)
        assert content_of(folder / "out" / "f.h5") == undisturbed["f"]

    def test_a_job_that_is_asked_to_stop_is_not_run_again(self, slurm, folder, start):
        job = start(*submit())
        job.until_all_wait(2)
        n_before = job.n_rounds()
        slurm.call("scancel", "--signal=USR2", "--name=acme")
        job.until_it_stops()
        (folder / "allowed").touch()

        assert job.end() == STOPPED, job.said()
        assert job.n_rounds() == n_before

    def test_two_rounds_that_bring_nothing_end_it(self, folder, start):
        """Every rank dies before it has called anything."""
        (folder / "python").write_text(
            f'#!/bin/sh\n[ -n "$SLURM_STEP_NUM_TASKS" ] && kill -9 $$\nexec {sys.executable} "$@"\n'
        )
        (folder / "python").chmod(0o755)
        job = start("env", f"PATH={folder}:{os.environ['PATH']}", *submit("--export=ALL"))

        # Slurm ends the others, perhaps before they have killed themselves.
        status = job.end()
        assert status in (KILLED, TERMINATED), job.said()
        assert "round 1 has brought nothing and ended with status" in job.said()
        assert f"round 2 has brought nothing and ended with status {status}" in job.said()
        assert job.n_rounds() == 2

    def test_a_lost_node_is_gone_on_without(self, tmp_path_factory, content_of, undisturbed):
        """In a Slurm of its own, as the node does not come back."""
        with running_slurm(tmp_path_factory.mktemp("shared")) as slurm:
            folder = prepare(slurm.shared_dir / "place")
            job = Job(slurm, folder, *submit())
            try:
                job.until_all_wait(4)
                kept = done(folder)
                slurm.lose("node2")
                (folder / "allowed").touch()

                assert job.end(2 * LIMIT_S) == DONE, job.said()
            finally:
                job.kill()
            begun = names(folder, "begun")
            assert set(begun) == set(range(N_TASKS))
            assert all(begun.count(task) == 1 for task in kept)
            assert content_of(folder / "out" / "f.h5") == undisturbed["f"]
            assert "nodes: node1,node2\n" in job.said()
            assert "nodes: node1\n" in job.said()


def utc_offset_s() -> float:
    """Return how much later local time is than UTC."""
    from datetime import datetime

    offset = datetime.now().astimezone().utcoffset()
    assert offset is not None
    return offset.total_seconds()
