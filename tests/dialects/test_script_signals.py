"""Signals that end a job, in script mode: they reach the script, its agents, or both."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import h5py
import pytest
from conftest import Launcher
from test_ending import Started

pytestmark = pytest.mark.slow

STOPPED = 75
N_TASKS = 100
# Tasks note that they have begun, and end when they are allowed to.
SCRIPT = """\
import os
import signal

import acme_mpi


def f(x):
    open(f"begun/{x}", "w").close()
    while not os.path.exists("allowed"):
        os.sched_yield()
    return x


"""
CALL = f'acme_mpi.map(f, range({N_TASKS}), output_dir="out")\n'


class Served(Started):
    """A script that ranks serve, beside the test."""

    def __init__(self, folder: Path, launcher: Launcher, n: int, text: str) -> None:
        self.folder = folder
        (folder / "script.py").write_text(SCRIPT + text)
        (folder / "begun").mkdir()
        place: Any = SimpleNamespace(path=folder, launcher=launcher)
        super().__init__(place, n, ["-m", "acme_mpi", "script.py"])

    def wait_for_tasks(self, n: int) -> None:
        self.until(lambda: len(self.begun()) >= n)

    def begun(self) -> set[str]:
        return set(os.listdir(self.folder / "begun"))

    def allow(self) -> None:
        (self.folder / "allowed").touch()

    def stored(self) -> set[str]:
        with h5py.File(self.folder / "out" / "f.h5") as file:
            return {name.removeprefix("comp_") for name in file}


@pytest.fixture
def serve(tmp_path: Path, mpiexec: Launcher) -> Iterator[Callable[[int, str], Served]]:
    """Return the function that has n ranks serve a script; it is ended with the test."""
    started: list[Served] = []

    def start(n: int, text: str) -> Served:
        started.append(Served(tmp_path, mpiexec, n, text))
        return started[-1]

    yield start
    for each in started:
        each.kill()


@pytest.mark.parametrize("name", ["SIGTERM", "SIGUSR1", "SIGUSR2"])
def test_a_call_ends_in_good_order_when_all_processes_get_it(serve, name):
    """As under Slurm."""
    run = serve(0, CALL)
    run.wait_for_tasks(1)
    os.killpg(run.process.pid, getattr(signal, name))
    run.until(lambda: "the run stops" in run.said())
    run.allow()

    assert run.end() == STOPPED, run.said()
    assert run.said().count("acme_mpi.errors.StoppedError: ") == 1
    assert run.stored() == run.begun() != {str(i) for i in range(N_TASKS)}


@pytest.mark.every
def test_usr1_to_mpiexec_ends_the_call_in_good_order(serve):
    run = serve(2, CALL)
    run.wait_for_tasks(2)
    run.process.send_signal(signal.SIGUSR1)
    run.until(lambda: "the run stops" in run.said())
    run.allow()

    assert run.end() == STOPPED, run.said()
    assert run.stored() == run.begun() != {str(i) for i in range(N_TASKS)}


@pytest.mark.every
def test_a_term_of_the_script_alone_ends_its_call_in_good_order(serve):
    run = serve(2, f'open("pid", "w").write(str(os.getpid()))\n{CALL}')
    run.wait_for_tasks(2)
    os.kill(int((run.folder / "pid").read_text()), signal.SIGTERM)
    run.until(lambda: "the run stops" in run.said())
    run.allow()

    assert run.end() == STOPPED, run.said()
    assert run.stored() == run.begun() != {str(i) for i in range(N_TASKS)}


@pytest.mark.once
def test_a_second_term_ends_the_script_at_once(serve):
    run = serve(1, f'open("pid", "w").write(str(os.getpid()))\n{CALL}')
    run.wait_for_tasks(1)
    script = int((run.folder / "pid").read_text())
    os.kill(script, signal.SIGTERM)
    run.until(lambda: "the run stops" in run.said())
    os.kill(script, signal.SIGTERM)

    assert run.end() == 128 + signal.SIGTERM, run.said()


@pytest.mark.once
def test_a_script_may_catch_the_error_and_ends_as_it_likes(serve):
    run = serve(0, f"try:\n    {CALL}except acme_mpi.StoppedError:\n    raise SystemExit(3)\n")
    run.wait_for_tasks(1)
    os.killpg(run.process.pid, signal.SIGUSR2)
    run.until(lambda: "the run stops" in run.said())
    run.allow()

    assert run.end() == 3, run.said()


WAIT = 'open("begun/-", "w").close()\nwhile not os.path.exists("allowed"):\n    os.sched_yield()\n'


@pytest.mark.parametrize("name", ["SIGUSR1", "SIGUSR2"])
@pytest.mark.once
def test_after_a_signal_between_calls_nothing_is_called(serve, name):
    """Between calls the script goes on and the next call calls nothing."""
    run = serve(0, WAIT + CALL)
    run.wait_for_tasks(1)
    os.killpg(run.process.pid, getattr(signal, name))
    run.allow()

    assert run.end() == STOPPED, run.said()
    assert run.begun() == {"-"}


@pytest.mark.once
def test_between_calls_term_ends_the_script(serve):
    run = serve(0, WAIT)
    run.wait_for_tasks(1)
    os.killpg(run.process.pid, signal.SIGTERM)

    assert run.end() == 128 + signal.SIGTERM, run.said()


@pytest.mark.once
def test_what_the_script_forks_has_the_usual_signals(serve):
    text = """\
import multiprocessing

process = multiprocessing.get_context("fork").Process(target=signal.pause)
process.start()
process.terminate()
process.join()
raise SystemExit(0 if process.exitcode == -signal.SIGTERM else 9)
"""
    assert serve(0, text).end() == 0
