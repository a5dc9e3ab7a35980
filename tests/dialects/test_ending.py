"""How runs end early: by signals, `stop`, the time limit; what they do with tasks in trouble."""

from __future__ import annotations

import json
import os
import re
import select
import shlex
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
    by_stacks,
    end_all,
    is_runner,
    processes_of,
    start_environment,
)
from watching import pidfd_of

pytestmark = pytest.mark.slow

N_TASKS = 60
# Of `flaky`. In no chunk with task 3: what had failed there before the crash would be called again.
CRASHING = 33
MODULE = """\
import ctypes
import os
import re
import signal
import subprocess
import sys
import time
import uuid


def note(kind, index):
    open(os.path.join(kind, f"{index}.{uuid.uuid4().hex}"), "x").close()


def wait(x):
    '''Return once it is allowed, by a file.'''
    note("begun", x)
    while not os.path.exists("allowed"):
        os.sched_yield()
    note("ended", x)
    return x


def brief(x):
    deadline = time.monotonic() + 0.1
    while time.monotonic() < deadline:
        pass
    return x


def mixed(x):
    note("begun", x)
    if x == 1:
        while True:
            pass
    if x == 4:
        hold_the_gil()
    if x == 7:
        hog = bytearray(600 * 2**20)
        while True:
            pass
    return x * 2.0


def hold_the_gil():
    ctypes.PyDLL(None).pause()


def flaky(x):
    n_before = sum(name.startswith(f"{x}.") for name in os.listdir("begun"))
    note("begun", x)
    if x == 3 and n_before < 2:
        raise ValueError("not yet")
    if x == 33 and n_before < 2:
        os.kill(os.getpid(), signal.SIGKILL)
    return x


def median(x):
    note("begun", x)
    deadline = time.monotonic() + 0.02
    while time.monotonic() < deadline:
        pass
    while x == 11:
        pass
    return x


def fork(x):
    pid = os.fork() if x % 2 else 0
    if not pid:
        if x == 3:
            raise ValueError("in a forked child")
        if x == 5:
            sys.exit(5)
        return 0.0
    return float(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]))
"""


class Place:
    """A folder with the module, from which runs are started."""

    def __init__(self, path: Path, launcher: Launcher) -> None:
        self.path, self.launcher = path, launcher
        (path / "mymod.py").write_text(MODULE)
        for folder in ("begun", "ended"):
            (path / folder).mkdir()
        np.savez(path / "args.npz", x=np.arange(N_TASKS))

    def command(self, func: str, *options: str) -> list[str]:
        return ["-m", "acme_mpi", f"mymod:{func}", "args.npz", "--output-dir", "out", *options]

    def run(self, n: int, func: str, *options: str) -> Any:
        return self.launcher(n, *self.command(func, *options), cwd=self.path)

    def tell(self, command: str, *options: str) -> Any:
        """Run a command on the output directory, as from any shell."""
        server = self.launcher.fork_server
        return server.run(command, "out", *options, cwd=self.path, timeout_s=60)

    def names(self, folder: str) -> list[int]:
        """Return which tasks have noted something."""
        return sorted(int(name.split(".")[0]) for name in os.listdir(self.path / folder))

    def allow(self) -> None:
        (self.path / "allowed").touch()

    def stored(self, func: str) -> dict[int, float]:
        """Return the results in the container by task."""
        with h5py.File(self.path / "out" / f"{func}.h5") as file:
            return {int(k.split("_")[1]): float(v["result_0"][0]) for k, v in file.items()}


@pytest.fixture
def place(tmp_path, mpiexec) -> Place:
    return Place(tmp_path, mpiexec)


class Started:
    """A run that goes on beside the test."""

    def __init__(self, place: Place, n: int, command: list[str]) -> None:
        self._id, self._place = uuid.uuid4().hex, place
        line = [sys.executable, *command]
        if n:
            if place.launcher.program is None:
                pytest.skip("there is no mpiexec")
            line = [place.launcher.program, "-n", str(n), *line]
        self._errors = open(place.path / "stderr", "w+")  # noqa: SIM115
        self.process = subprocess.Popen(
            line,
            cwd=place.path,
            stdin=subprocess.DEVNULL,
            stdout=self._errors,
            stderr=self._errors,
            env={**start_environment(), MARKER: self._id},
            start_new_session=True,
        )

    def until(self, condition: Callable[[], Any], timeout_s: float = 40) -> None:
        """Wait until something has happened; the run must not end before."""
        with pidfd_of(self.process.pid) as pidfd:
            waited_s = 0.0
            while not condition():
                assert waited_s < timeout_s, f"it did not happen: {self.said()}"
                assert not select.select([pidfd], [], [], 0.02)[0], self.said()
                waited_s += 0.02

    def agents(self) -> list[int]:
        """Return the process ids of the ranks."""
        found = []
        for pid in processes_of(self._id):
            program, *words = Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0")
            # The launcher, whatever it is called, has the same words.
            is_python = os.path.basename(program).startswith(b"python")
            if b"acme_mpi" in words and is_python and not is_runner(pid):
                found.append(pid)
        return found

    def end(self, timeout_s: float = 40) -> int:
        """Wait for the end; return the exit status. Nothing may be left behind."""
        status = self.process.wait(timeout_s)
        left = end_all(self._id, ENDING_S)
        assert not left, left
        return status

    def said(self) -> str:
        self._errors.flush()
        return (self._place.path / "stderr").read_text()

    def kill(self) -> None:
        end_all(self._id, 0)
        self.process.wait()
        self._errors.close()


@pytest.fixture
def start(place) -> Iterator[Callable[..., Started]]:
    """Return the function that starts a run on n ranks; it is ended with the test."""
    started: list[Started] = []

    def start_it(n: int, *command: str) -> Started:
        started.append(Started(place, n, list(command)))
        return started[-1]

    yield start_it
    for each in started:
        each.kill()


def assert_drained(place: Place, run: Started, func: str = "wait") -> None:
    """Check that what had begun has ended and is stored, that the rest has not, and can be run."""
    assert run.end() == 75, run.said()
    begun = place.names("begun")
    assert 0 < len(begun) < N_TASKS
    assert place.names("ended") == begun
    assert sorted(place.stored(func)) == begun
    said = run.said()
    assert f"{N_TASKS - len(begun)} of {N_TASKS} tasks were not run" in said
    assert "Traceback" not in said
    (line,) = [line for line in said.splitlines() if "resume with: " in line]
    again = subprocess.run(
        shlex.split(line.split("resume with: ")[1]),
        cwd=place.path,
        env=start_environment(),
        timeout=60,
        capture_output=True,
        text=True,
    )
    assert again.returncode == 0, again.stderr
    assert place.names("begun") == list(range(N_TASKS))  # each once
    assert place.stored(func) == {i: float(i) for i in range(N_TASKS)}


class TestSignals:
    @pytest.mark.parametrize("name", ["SIGINT", "SIGTERM", "SIGUSR1", "SIGUSR2"])
    @pytest.mark.once
    def test_the_first_drains_one_process(self, place, start, name):
        run = start(0, *place.command("wait"))
        run.until(lambda: place.names("begun"))
        run.process.send_signal(getattr(signal, name))
        run.until(lambda: "the run stops" in run.said())
        place.allow()

        assert_drained(place, run)

    @pytest.mark.parametrize(
        "signal_of_rank",
        by_stacks(
            ["TERM 0 of 2", "USR2 0 of 2", "TERM 2 of 3", "USR2 1 of 2"], every=["TERM 2 of 3"]
        ),
    )
    def test_one_rank_is_enough(self, place, start, signal_of_rank):
        name, rank, _, n = signal_of_rank.split()
        run = start(int(n), *place.command("wait"))
        run.until(lambda: len(place.names("begun")) >= int(n))
        os.kill(sorted(run.agents())[int(rank)], getattr(signal, f"SIG{name}"))
        run.until(lambda: "the run stops" in run.said())
        place.allow()

        assert_drained(place, run)

    @pytest.mark.every
    @pytest.mark.parametrize("name", ["SIGUSR1", "SIGINT", "SIGTERM"])
    def test_mpiexec_passes_it_on(self, place, start, name):
        if name != "SIGUSR1" and not place.launcher.is_hydra:
            pytest.skip("Open MPI's mpiexec kills its ranks")
        run = start(2, *place.command("wait"))
        run.until(lambda: len(place.names("begun")) >= 2)
        run.process.send_signal(getattr(signal, name))
        run.until(lambda: "the run stops" in run.said())
        place.allow()

        assert_drained(place, run)

    @pytest.mark.parametrize("n", by_stacks([0, 2], every=[2]))
    def test_a_second_one_leaves_at_once_with_valid_files(self, place, start, n):
        run = start(n, *place.command("wait"))
        run.until(lambda: len(place.names("begun")) >= max(1, n))
        for agent in run.agents():
            os.kill(agent, signal.SIGUSR2)
        run.until(lambda: "the run stops" in run.said())
        for agent in run.agents():
            os.kill(agent, signal.SIGUSR2)

        assert run.end() != 0
        assert place.tell("recover").returncode == 0
        assert place.tell("check").returncode == 0
        assert place.stored("wait") == {}
        place.allow()
        assert place.run(2, "wait").returncode == 0

    @pytest.mark.every
    def test_what_was_journalled_survives_a_launcher_that_kills(self, place, start):
        """Open MPI ends the ranks a second after the first TERM."""
        run = start(2, *place.command("brief"))
        journal = place.path / "out" / ".acme_mpi" / "brief" / "run0_rank0.journal"
        run.until(lambda: journal.exists() and journal.stat().st_size > 1000)
        run.process.send_signal(signal.SIGTERM)

        assert run.end() != 0
        assert place.tell("recover").returncode == 0
        assert place.tell("check").returncode == 0
        stored = place.stored("brief")
        assert 0 < len(stored) < N_TASKS
        assert all(value == index for index, value in stored.items())
        assert place.run(0, "brief").returncode == 0
        assert len(place.stored("brief")) == N_TASKS


class TestStop:
    @pytest.mark.every
    def test_it_drains_a_run_that_goes_on(self, place, start):
        run = start(2, *place.command("wait"))
        run.until(lambda: len(place.names("begun")) >= 2)
        told = place.tell("stop")
        assert told.returncode == 0
        assert "was asked to stop" in told.stdout
        run.until(lambda: "the run stops" in run.said())
        place.allow()

        assert_drained(place, run)

    @pytest.mark.once
    def test_without_a_run_it_says_so(self, place):
        place.allow()
        assert place.run(0, "wait").returncode == 0

        assert "no run is active" in place.tell("stop").stdout
        assert place.run(0, "wait").returncode == 0

    @pytest.mark.once
    def test_status_says_what_goes_on(self, place, start):
        run = start(2, *place.command("wait"))
        run.until(lambda: len(place.names("begun")) >= 2)
        status = json.loads(place.tell("status", "--json").stdout)
        assert (status["state"], status["n_done"], status["n_open"]) == ("running", 0, N_TASKS)
        assert "running" in place.tell("status").stdout
        place.allow()
        assert run.end() == 0
        status = json.loads(place.tell("status", "--json").stdout)
        assert (status["state"], status["n_done"]) == ("finished", N_TASKS)
        assert len(place.tell("status", "--joblog").stdout.splitlines()) == N_TASKS + 1

    @pytest.mark.parametrize("command", ["status", "stop", "recover", "check"])
    @pytest.mark.once
    def test_a_directory_without_a_run_is_refused(self, place, command):
        told = place.launcher(0, "-m", "acme_mpi", command, ".", cwd=place.path)

        assert told.returncode == 2
        assert f"{place.path} holds no run" in told.stderr
        assert "Traceback" not in told.stderr


@pytest.mark.once
class TestTimeLimit:
    @pytest.mark.parametrize("n", [0, 2])
    def test_the_run_ends_in_time_and_can_be_gone_on_with(self, place, n):
        """Tasks of 0.1 s: 60 of them need more than 3 s on two ranks."""
        ran = place.run(n, "brief", "--time-limit", "2s")

        assert ran.returncode == 75, ran.stderr
        # The latter on a busy machine, where a task lasts longer than those before it.
        assert re.search("no further task can end in time|the time is up", ran.stderr)
        assert 0 < len(place.stored("brief")) < N_TASKS
        assert place.run(2, "brief").returncode == 0
        assert place.stored("brief") == {i: float(i) for i in range(N_TASKS)}

    def test_what_does_not_end_is_ended(self, place):
        ran = place.run(2, "wait", "--time-limit", "2s")

        assert ran.returncode == 75, ran.stderr
        assert "the time is up" in ran.stderr
        assert place.stored("wait") == {}


@pytest.mark.once
class TestTroubledTasks:
    def test_hung_and_greedy_tasks_cost_themselves_alone(self, place):
        """One rank: it goes on after each."""
        ran = place.run(1, "mixed", "--timeout", "5s", "--memory", "400M")

        assert ran.returncode == 1, ran.stderr
        assert place.stored("mixed") == {i: 2.0 * i for i in range(N_TASKS) if i not in (1, 4, 7)}
        said = json.loads(place.tell("status", "--json").stdout)
        kinds = {group["first_indices"][0]: group["type"] for group in said["failures"]}
        assert kinds == {1: "timeout", 4: "timeout", 7: "memory"}
        assert "hold_the_gil" in traceback_of(place, "mixed", 4)
        assert "in mixed" in traceback_of(place, "mixed", 1)

    def test_a_timeout_may_be_a_share_of_the_median(self, place):
        ran = place.run(2, "median", "--timeout", "2000%")

        assert ran.returncode == 1, ran.stderr
        assert sorted(place.stored("median")) == [i for i in range(N_TASKS) if i != 11]
        assert "still running after" in ran.stderr

    def test_retries_and_crashes_have_limits_of_their_own(self, place):
        ran = place.run(2, "flaky", "--retries", "2", "--crash-limit", "3")

        assert ran.returncode == 0, ran.stderr
        begun = place.names("begun")
        assert (begun.count(3), begun.count(CRASHING)) == (3, 3)
        assert place.stored("flaky") == {i: float(i) for i in range(N_TASKS)}

    def test_after_the_last_attempt_they_have_failed(self, place):
        ran = place.run(2, "flaky", "--retries", "1", "--crash-limit", "2")

        assert ran.returncode == 1, ran.stderr
        assert sorted(place.stored("flaky")) == [
            i for i in range(N_TASKS) if i not in (3, CRASHING)
        ]

    def test_a_fork_inside_the_agent_never_becomes_a_rank(self, place):
        """What forks where the agent calls it never goes on as a rank."""
        ran = place.run(2, "fork", "--no-isolate")

        assert ran.returncode == 0, ran.stderr
        assert place.stored("fork") == {i: float({3: 1, 5: 5}.get(i, 0)) for i in range(N_TASKS)}
        assert ran.stderr.count("Traceback") == ran.stderr.count("in a forked child") / 2 == 1

    def test_a_second_kill_from_outside_is_put_down_to_memory(self, place):
        """A kill from outside is tried again and then probably the memory."""
        ran = place.run(1, "flaky")

        assert place.names("begun").count(CRASHING) == 2
        assert "SIGKILL (killed from outside, probably out of memory" in ran.stderr
        assert "; it was tried 2 times" in ran.stderr

    def test_a_runner_that_somebody_else_kills_costs_nothing(self, place, start):
        """Here, as the kernel does it, for the sake of another process."""
        run = start(0, *place.command("wait"))
        run.until(lambda: place.names("begun"))
        (runner,) = filter(is_runner, processes_of(run._id))
        os.kill(runner, signal.SIGKILL)
        place.allow()

        assert run.end() == 0, run.said()
        assert sorted(place.stored("wait")) == list(range(N_TASKS))


def traceback_of(place: Place, func: str, index: int) -> str:
    """Return the text of the traceback that is recorded of a failed task."""
    from acme_mpi.history.records import read_history

    history = read_history(str(place.path / "out" / ".acme_mpi" / func))
    return history.failed[index].traceback
