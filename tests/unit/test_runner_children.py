"""Processes that the function starts or forks, and the end of all with the agent."""

from __future__ import annotations

import json
import multiprocessing
import os
import signal
import subprocess
import sys
import threading
from pathlib import Path

import cloudpickle
import pytest
from running import (
    LARGE,
    LIMIT_S,
    failures_by_index,
    is_gone,
    make_assignment,
    run_tasks,
    start_sleepers,
    values_by_index,
)

from acme_mpi.runner.inline import InlineRunner

pytestmark = pytest.mark.once

# A function that crashes travels by value, with all it calls.
cloudpickle.register_pickle_by_value(sys.modules[__name__])


class TestChildrenOfTheFunction:
    def test_they_end_when_the_runner_is_stopped(self, start_runner):
        runner = start_runner()
        runner.prepare(make_assignment(lambda x: start_sleepers(), [1]))
        (pids,) = values_by_index(run_tasks(runner, [range(1)])).values()

        runner.stop()

        assert all(is_gone(pid) for pid in pids)

    def test_they_end_when_their_task_crashes(self, start_runner, tmp_path):
        path = tmp_path / "pids"

        def f(x):
            path.write_text(json.dumps(start_sleepers()))
            os._exit(1)

        runner = start_runner()
        runner.prepare(make_assignment(f, [1]))
        run_tasks(runner, [range(1)])

        assert all(is_gone(pid) for pid in json.loads(path.read_text()))

    def test_they_can_be_interrupted_and_terminated_as_usual(self, lasting_child):
        """The runner leaves these signals to the agent; its children must not inherit that."""

        def f(number):
            sleeper = subprocess.Popen(
                [sys.executable, "-c", "import signal; print(flush=True); signal.pause()"],
                stdout=subprocess.PIPE,
                stderr=subprocess.DEVNULL,
            )
            sleeper.stdout.readline()
            sleeper.send_signal(number)
            return sleeper.wait(LIMIT_S)

        def g(number):
            pid = os.fork()
            if pid == 0:
                try:
                    os.kill(os.getpid(), number)
                    signal.pause()
                finally:
                    os._exit(0)
            return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])

        numbers = [signal.SIGTERM, signal.SIGUSR1]
        for func in (f, g):
            lasting_child.prepare(make_assignment(func, [int(number) for number in numbers]))
            values = values_by_index(run_tasks(lasting_child, [range(2)]))
            assert list(values.values()) == [-number for number in numbers]


def double_fork():
    """Leave a grandchild that returns when its parent has gone, as daemons are made."""
    if os.fork() == 0:
        os.setsid()
        return os.getppid()
    return sys.exit(5)


def fork_in_a_thread():
    """Have a thread fork; the child is that thread alone, and ends with it."""
    pids, has_started = [], threading.Event()

    def fork():
        has_started.wait()  # Python does not bear a fork in the middle of a thread's start
        pids.append(os.fork())

    thread = threading.Thread(target=fork)
    thread.start()
    has_started.set()
    thread.join()
    return pids[0]


def raise_value_error():
    raise ValueError("in a forked child")


FORKED = {
    "returns": (lambda: 1, 0),
    "returns what cannot be kept": (threading.Lock, 0),
    "sys.exit()": (sys.exit, 0),
    "sys.exit(3)": (lambda: sys.exit(3), 3),
    "sys.exit(text)": (lambda: sys.exit("its last words"), 1),
    "raises": (raise_value_error, 1),
    "is interrupted": (lambda: os.kill(os.getpid(), signal.SIGINT), 1),
    "forks again": (double_fork, 5),
    "os._exit(9)": (lambda: os._exit(9), 9),
}


class TestForks:
    """A child that a task forks ends where it would come back into our code."""

    def run(self, runner, func, n_tasks=4, **options):
        runner.prepare(make_assignment(func, list(range(n_tasks)), **options))
        return run_tasks(runner, [range(n_tasks - 1), range(n_tasks - 1, n_tasks)])

    @pytest.mark.parametrize(("end", "status"), FORKED.values(), ids=FORKED)
    def test_it_ends_as_those_of_multiprocessing(self, runner, tmp_path, end, status):
        calls = tmp_path / "calls"

        def f(x):
            with calls.open("a") as file:
                file.write(f"{x}\n")
            if x != 1:
                return x
            pid = os.fork()
            if pid == 0:
                return end()
            return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])

        outcomes = self.run(runner, f)

        assert failures_by_index(outcomes) == {}
        assert values_by_index(outcomes) == {0: 0, 1: status, 2: 2, 3: 3}
        assert calls.read_text().split() == ["0", "1", "2", "3"]

    def test_it_makes_no_further_calls_after_a_nested_run(self, runner, tmp_path):
        """The calls of the inner run are over, those of the outer one are not."""
        calls = tmp_path / "calls"

        def f(x):
            import acme_mpi

            with calls.open("a") as file:
                file.write(f"{x}\n")
            inner = acme_mpi.map(abs, [-x, -x], write_worker_results=False)
            if x == 1 and (pid := os.fork()):
                os.waitpid(pid, 0)
            return inner

        outcomes = self.run(runner, f, 5)

        assert values_by_index(outcomes) == {x: [x, x] for x in range(5)}
        assert calls.read_text().split() == [str(x) for x in range(5)]

    def test_what_it_raises_is_printed_without_our_frames(self, runner, capfd):
        def f(x):
            pid = os.fork()
            if pid == 0:
                raise_value_error()
            os.waitpid(pid, 0)

        self.run(runner, f, 2)

        printed = capfd.readouterr().err
        if isinstance(runner, InlineRunner):  # the lasting child has a terminal of its own
            assert printed.count("ValueError: in a forked child") == 2
            assert "run_chunk" not in printed

    def test_a_large_result_is_not_written_twice(self, lasting_child, tmp_path):
        def f(x):
            pid = os.fork()
            if pid:
                os.waitpid(pid, 0)
            return LARGE

        file = tmp_path / "file"
        file.write_bytes(bytes(LARGE.nbytes))
        lasting_child.prepare(make_assignment(f, [1], in_memory=False, can_place=True))
        asked = []
        outcomes = run_tasks(
            lasting_child, [range(1)], lambda request: asked.append(request) or (str(file), 0)
        )

        assert len(asked) == 1
        assert [len(outcome.failures) for outcome in outcomes] == [0]

    def test_a_thread_may_fork(self, lasting_child):
        def f(x):
            pid = fork_in_a_thread()
            return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])

        assert values_by_index(self.run(lasting_child, f)) == dict.fromkeys(range(4), 0)

    def test_pools_of_forked_processes_work(self, runner):
        def f(x):
            with multiprocessing.get_context("fork").Pool(2) as pool:
                return pool.map(abs, [-x, x - 1])

        assert values_by_index(self.run(runner, f, 2)) == {0: [0, 1], 1: [1, 0]}

    def test_what_forks_while_it_is_loaded_is_loaded_once(self, start_runner):
        def load(end):
            pid = os.fork()
            if pid == 0:
                return end()
            status = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
            return lambda x: status

        class Forks:
            def __init__(self, end):
                self.end = end

            def __reduce__(self):
                return load, (self.end,)

        runner = start_runner()
        for end, status in (FORKED["returns"], FORKED["raises"]):
            assignment = make_assignment(lambda x: x, [1])
            assignment.func = cloudpickle.dumps(Forks(end))
            runner.prepare(assignment)
            assert values_by_index(run_tasks(runner, [range(1)])) == {0: status}

    def test_what_a_task_has_printed_is_printed_once(self, start_runner, capfd):
        def f(x):
            print("said", x)
            pid = os.fork()
            if pid == 0:
                print("child", x)
                sys.exit()
            os.waitpid(pid, 0)

        self.run(start_runner(), f, 3)

        said = capfd.readouterr().out.splitlines()
        assert sorted(said) == [f"{who} {x}" for who in ("child", "said") for x in range(3)]

    def test_a_fork_of_the_agent_leaves_its_runner_alone(self, start_runner):
        """A script forks between two calls; the child neither ends the runner nor keeps it."""
        runner = start_runner()
        lifeline = runner._child._lifeline
        pid = os.fork()
        if pid == 0:
            os._exit(os.path.exists(f"/proc/self/fd/{lifeline}"))
        assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0

        runner.prepare(make_assignment(lambda x: -x, [1]))
        assert values_by_index(run_tasks(runner, [range(1)])) == {0: -1}


PARENT = """
import json, os, signal, subprocess, sys
import cloudpickle, numpy as np
sys.path.insert(0, sys.argv[1])
import running as t
from acme_mpi.runner.child import ChildRunner

def f(x):
    return [os.getpid(), *t.start_sleepers()]

runner = ChildRunner()
runner.prepare(t.make_assignment(f, [1, 2]))
values = t.values_by_index(t.run_tasks(runner, [range(1)]))
print(json.dumps(values[0]), flush=True)
if sys.argv[2] == "during a task":
    runner.prepare(t.make_assignment(lambda x: signal.pause(), [1]))
    t.only_event(runner)
    runner.submit(range(1))
    t.wait_until(lambda: runner._child.words[0] == 0)
print("armed", flush=True)
signal.pause()
"""


class TestLifeline:
    @pytest.mark.parametrize("when", ["between tasks", "during a task"])
    @pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM])
    def test_when_the_agent_goes_the_runner_and_its_children_go(self, number, when):
        agent = subprocess.Popen(
            [sys.executable, "-c", PARENT, str(Path(__file__).parents[1]), when],
            stdout=subprocess.PIPE,
            text=True,
        )
        try:
            pids = json.loads(agent.stdout.readline())
            assert agent.stdout.readline() == "armed\n"
            agent.send_signal(number)
            agent.wait(LIMIT_S)

            assert len(pids) == 3
            assert all(is_gone(pid) for pid in pids)
        finally:
            agent.kill()
            agent.stdout.close()
            agent.wait()
