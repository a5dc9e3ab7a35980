"""What a script and the ranks that serve it owe each other, also when one of them gives up.

Tasks for whose end nobody shall wait have none, so a job that waits is seen as one that hangs.
"""

from __future__ import annotations

import signal
import sys
from pathlib import Path
from typing import Any

import pytest
from conftest import by_stacks
from test_dry_run import TERMINAL

pytestmark = pytest.mark.slow

LIMIT_S = 30  # many times what any of these jobs takes

# A task waits for the file that its caller makes on giving up, the last one for ever.
GIVEN_UP = """
import os
import signal

from acme_mpi import ParallelMap

MEMORY = {"write_worker_results": False}


class Late(Exception):
    pass


def be_late(number, frame):
    if path != "never":
        open(path, "w").close()
    raise Late


def alarm(path, script):
    os.kill(script, signal.SIGALRM)
    while not os.path.exists(path):
        os.sched_yield()
    return "late"


def double(x):
    return 2 * x


signal.signal(signal.SIGALRM, be_late)
for path, stop_client in [("first", False), ("second", True), ("never", False)]:
    try:
        with ParallelMap(alarm, [path], os.getpid(), stop_client=stop_client, **MEMORY) as pmap:
            pmap.compute()
    except Late:
        pass
    print(ParallelMap(double, [1, 2, 3], **MEMORY).compute(), flush=True)
"""
# Calls that begin together overtake each other between request and answer, if they can.
THREADS = """
import threading
from concurrent.futures import ThreadPoolExecutor

from acme_mpi import ParallelMap

together = threading.Barrier(8)


def compute(i):
    together.wait()
    return ParallelMap(lambda k: 100 * i + k, range(3), write_worker_results=False).compute()


with ThreadPoolExecutor(8) as threads:
    results = list(threads.map(compute, range(64)))
print(results == [[100 * i, 100 * i + 1, 100 * i + 2] for i in range(64)])
"""
BROKEN_AGENT = """
from acme_mpi import __main__
from acme_mpi.session import following


def fail(*args):
    raise RuntimeError("a mistake of ours")


following.run = fail
__main__.main()
"""
INTERRUPTED = """
import os
import signal

from acme_mpi import ParallelMap

MEMORY = {{"write_worker_results": False}}


def interrupt(i, group):
    os.killpg(group, signal.SIGINT)
    signal.pause()


try:
    {act}
    while True:
        pass
except KeyboardInterrupt:
    print("interrupted", flush=True)
print(ParallelMap(abs, [-1, -2], **MEMORY).compute())
"""
# The last task ends the script when it is time, and then waits for ever.
ENDED = """
import os
import signal

from acme_mpi import ParallelMap


def f(i, script):
    open(f"begun{{i}}", "w").close()
    if i == {n_tasks} - 1:
        while not {is_time}:
            os.sched_yield()
        os.kill(script, signal.SIGKILL)
    elif {returns}:
        return i
    signal.pause()


ParallelMap(f, range({n_tasks}), os.getpid(), output_dir="out").compute()
"""
DRY_RUNS = """
from acme_mpi import ParallelMap, TaskError


def fail(x):
    raise LookupError("not here")


ParallelMap(abs, [-1, -2], dryrun=True)
try:
    ParallelMap(fail, [1, 2], dryrun=True)
except TaskError:
    print("failed")
"""
PIPED = """
import sys

from acme_mpi import ParallelMap

ParallelMap(abs, [-1, -2], dryrun=True)
print(sys.stdin.readlines())
"""


@pytest.fixture
def serve(mpiexec, tmp_path) -> Any:
    """Return a function that has n ranks serve a script, 0: without a launcher."""

    def run(n: int, text: str, *options: str) -> Any:
        (tmp_path / "script.py").write_text(text)
        command = ["-m", "acme_mpi", *(options or ["-q"]), "script.py"]
        return mpiexec(n, *command, cwd=tmp_path, timeout_s=LIMIT_S)

    return run


@pytest.mark.parametrize("n", by_stacks([0, 2], twice=[2]))
def test_a_call_gets_its_own_answer(serve, n):
    """A call gets its own answer whatever became of earlier ones."""
    ran = serve(n, GIVEN_UP)

    assert (ran.returncode, ran.stdout) == (0, "[2, 4, 6]\n" * 3), ran.stderr


BETWEEN = """
import acme_mpi
from acme_mpi.runner.channel import Kind
from acme_mpi.session import current

session = current()


def ask(kind, wanted, real=session._ask_agent):
    answer = real(kind, wanted)
    if kind == Kind.CALL:
        session._ask_agent = real
        raise TimeoutError
    return answer


session._ask_agent = ask
try:
    acme_mpi.map(abs, [-1], write_worker_results=False)
except TimeoutError:
    print(acme_mpi.map(abs, [-2], write_worker_results=False))
"""


@pytest.mark.once
def test_an_exception_before_the_values_spoils_no_later_call(serve):
    """As a signal handler may raise it at any moment."""
    ran = serve(0, BETWEEN)

    assert (ran.returncode, ran.stdout) == (0, "[2]\n"), ran.stderr


@pytest.mark.parametrize(
    "command",
    [
        pytest.param(["-m", "acme_mpi", "-q", "script.py"], id="served"),
        pytest.param(["script.py"], id="plain"),
    ],
)
@pytest.mark.once
def test_threads_get_their_own_answers(mpiexec, tmp_path, command):
    (tmp_path / "script.py").write_text(THREADS)

    ran = mpiexec(0, *command, cwd=tmp_path, timeout_s=LIMIT_S)

    assert (ran.returncode, ran.stdout) == (0, "True\n"), ran.stderr


@pytest.mark.once
def test_a_mistake_of_the_agent_ends_the_script(mpiexec, write_script):
    path = write_script("import acme_mpi\n\nacme_mpi.map(abs, [-1])\n")

    ran = mpiexec(0, "-c", BROKEN_AGENT, path, timeout_s=LIMIT_S)

    assert ran.returncode == 70
    assert ran.stderr.count("RuntimeError: a mistake of ours") == 1


@pytest.mark.parametrize(
    "act",
    [
        pytest.param("os.killpg(0, signal.SIGINT)", id="between calls"),
        pytest.param(
            "ParallelMap(interrupt, [0], os.getpgrp(), **MEMORY).compute()", id="during a call"
        ),
    ],
)
@pytest.mark.once
def test_an_interrupt_is_what_the_script_makes_of_it(serve, act):
    """Control-C reaches the agent, too."""
    ran = serve(0, INTERRUPTED.format(act=act))

    assert (ran.returncode, ran.stdout) == (0, "interrupted\n[1, 2]\n"), ran.stderr


@pytest.mark.parametrize("n", by_stacks([0, 2], every=[2]))
def test_the_job_ends_with_its_script_though_tasks_run(serve, n):
    n_tasks = max(1, n)
    is_time = f"all(os.path.exists(f'begun{{k}}') for k in range({n_tasks}))"

    ran = serve(n, ENDED.format(n_tasks=n_tasks, is_time=is_time, returns=False))

    assert ran.returncode == 128 + signal.SIGKILL


def test_what_was_done_before_the_script_ended_is_kept(serve, tmp_path, content_of):
    is_time = "os.path.exists('out/f_payload/f_0.h5')"

    ran = serve(2, ENDED.format(n_tasks=2, is_time=is_time, returns=True), "-v")

    assert ran.returncode == 128 + signal.SIGKILL
    assert list(content_of(tmp_path / "out" / "f.h5")) == ["comp_0/result_0"]
    assert ran.stderr.count("nobody waits for the results any more") == 1


@pytest.mark.once
def test_a_dry_run_is_all_that_is_said_of_it(serve):
    ran = serve(0, DRY_RUNS, "-v")

    assert (ran.returncode, ran.stdout) == (0, "failed\n"), ran.stderr
    assert ran.stderr.count("Performing a single dry-run") == 2
    assert not [said for said in ("Preparing", "SUCCESS", "tasks failed") if said in ran.stderr]


@pytest.mark.once
def test_a_dry_run_takes_no_answer_from_a_pipe(mpiexec, tmp_path):
    """A dry run takes no answer from what is piped into the script."""
    Path(tmp_path, "script.py").write_text(PIPED)
    pipe = f"printf 'some\\nlines\\n' | {sys.executable} -m acme_mpi -q script.py"

    ran = mpiexec(0, "-c", TERMINAL, "", "sh", "-c", pipe, cwd=tmp_path, timeout_s=LIMIT_S)

    assert ran.stdout.splitlines()[-1] == r"['some\n', 'lines\n']"
    assert "[Y/n]" not in ran.stdout
