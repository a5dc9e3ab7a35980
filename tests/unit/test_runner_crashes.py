"""What a child process must survive, and what it costs when it does not."""

from __future__ import annotations

import ctypes
import os
import resource
import select
import signal
import socket
import sys
import threading

import cloudpickle
import pytest
from running import (
    LIMIT_S,
    events_of,
    failures_by_index,
    indices_of,
    is_gone,
    make_assignment,
    only_event,
    run_tasks,
    values_by_index,
    wait_until,
)

from acme_mpi.runner.base import Outcome, Ready, Unready
from acme_mpi.runner.channel import Kind
from acme_mpi.runner.process import ending_text

pytestmark = pytest.mark.once

# Functions of a user are defined inside the tests: they travel by value, as those of a script do.


class FailsToLoad:
    """Unpickles with an exception."""

    def __reduce__(self):
        return int, ("no number",)


def end_by_signal(number):
    def end():
        os.kill(os.getpid(), number)
        signal.pause()

    return end


def end_by_segfault():
    ctypes.string_at(0)


def write_garbage():
    for name in os.listdir("/proc/self/fd"):
        try:
            if os.readlink(f"/proc/self/fd/{name}").startswith("socket:"):
                os.write(int(name), b"user code was here")
        except OSError:
            continue
    signal.pause()


def close_everything():
    os.closerange(3, 256)
    signal.pause()


# A function that crashes travels by value, with all it calls.
cloudpickle.register_pickle_by_value(sys.modules[__name__])

CRASHES = {
    "SIGKILL": (end_by_signal(signal.SIGKILL), "killed", "SIGKILL"),
    "SIGABRT": (os.abort, "killed", "SIGABRT"),
    "SIGSEGV": (end_by_segfault, "killed", "SIGSEGV"),
    "os._exit(0)": (lambda: os._exit(0), "exit", "exit code 0"),
    "os._exit(7)": (lambda: os._exit(7), "exit", "exit code 7"),
    "garbage": (write_garbage, "protocol", "garbage"),
    "closed descriptors": (close_everything, "protocol", "closed its channel"),
}


@pytest.fixture
def no_core_files():
    """A crash on purpose leaves no core file behind."""
    import resource

    limits = resource.getrlimit(resource.RLIMIT_CORE)
    resource.setrlimit(resource.RLIMIT_CORE, (0, limits[1]))
    yield
    resource.setrlimit(resource.RLIMIT_CORE, limits)


@pytest.mark.usefixtures("no_core_files")
class TestCrashes:
    @pytest.mark.parametrize(("crash", "kind", "text"), CRASHES.values(), ids=CRASHES)
    def test_a_crash_costs_its_task_alone_and_is_named(self, start_runner, crash, kind, text):
        def f(x):
            if x == 2:
                crash()
            return x * 10

        runner = start_runner()
        runner.prepare(make_assignment(f, list(range(6))))
        outcomes = run_tasks(runner, [range(4), range(4, 6)])

        assert indices_of(outcomes) == list(range(6))
        assert values_by_index(outcomes) == {0: 0, 1: 10, 3: 30, 4: 40, 5: 50}
        (failure,) = failures_by_index(outcomes).values()
        assert (failure["index"], failure["type"]) == (2, kind)
        assert text in failure["message"]

    @pytest.mark.parametrize("bad", [{0}, {5}, {0, 1, 2, 3, 4, 5}])
    def test_first_last_and_all_tasks_may_crash(self, start_runner, bad):
        def f(x):
            if x in bad:
                os._exit(1)
            return x

        runner = start_runner()
        runner.prepare(make_assignment(f, list(range(6))))
        outcomes = run_tasks(runner, [range(3), range(3, 6)])

        assert indices_of(outcomes) == list(range(6))
        assert set(failures_by_index(outcomes)) == bad
        assert set(values_by_index(outcomes)) == set(range(6)) - bad

    def test_a_crash_while_the_function_is_loaded_is_unready(self, start_runner):
        class Killer:
            def __reduce__(self):
                return os._exit, (5,)

        runner = start_runner()
        assignment = make_assignment(lambda x: x, [1])
        assignment.func = cloudpickle.dumps(Killer())
        runner.prepare(assignment)

        event = only_event(runner)

        assert isinstance(event, Unready)
        assert "exit code 5" in event.reason
        assert "while the function was loaded" in event.reason

    def test_after_a_crash_while_loading_another_function_runs(self, start_runner):
        runner = start_runner()
        assignment = make_assignment(lambda x: x, [1])
        assignment.func = b"garbage"
        runner.prepare(assignment)
        assert isinstance(only_event(runner), Unready)

        runner.prepare(make_assignment(lambda x: -x, [1]))

        assert values_by_index(run_tasks(runner, [range(1)])) == {0: -1}

    def test_what_an_earlier_function_left_costs_no_task(self, start_runner, tmp_path):
        """A thread that ends the child while it loads another function."""
        loading = tmp_path / "loading"

        def leave_thread(x):
            def end_child():
                while not loading.exists():
                    os.sched_yield()
                os.kill(os.getpid(), signal.SIGKILL)

            threading.Thread(target=end_child).start()

        def load():
            if not loading.exists():
                loading.touch()
                signal.pause()
            return lambda x: -x

        class WaitsForItsEnd:
            def __reduce__(self):
                return load, ()

        runner = start_runner()
        runner.prepare(make_assignment(leave_thread, [1]))
        run_tasks(runner, [range(1)])
        runner.forget()
        assignment = make_assignment(lambda x: x, [1])
        assignment.func = cloudpickle.dumps(WaitsForItsEnd())
        runner.prepare(assignment)

        assert isinstance(only_event(runner), Ready)
        assert values_by_index(run_tasks(runner, [range(1)])) == {0: -1}

    @pytest.mark.parametrize("fails", [False, True], ids=["ready", "unready"])
    def test_what_a_child_says_of_a_run_that_is_over_is_no_event(self, start_runner, fails):
        """Others have done all tasks before it had loaded the function, or there were none."""
        runner = start_runner()
        assignment = make_assignment(lambda x: x, [])
        if fails:
            assignment.func = cloudpickle.dumps(FailsToLoad())
        runner.prepare(assignment)
        runner.forget()
        runner.ask(Kind.SHOW, ([], 0, [*sys.path], False))

        events = []
        while not runner.other_messages:  # the answer to what was asked after the run
            select.select(runner.descriptors(), [], [], LIMIT_S)
            events += runner.poll()

        assert (events, runner.other_messages.popleft()) == ([], (Kind.SHOWN, ([], {})))

    def test_a_child_killed_between_two_tasks_costs_nothing(self, start_runner):
        runner = start_runner()
        runner.prepare(make_assignment(lambda x: x, [1, 2, 3]))
        outcomes = run_tasks(runner, [range(1)])
        os.kill(runner.pid, signal.SIGKILL)

        outcomes += run_tasks(runner, [range(1, 3)])

        assert values_by_index(outcomes) == {0: 1, 1: 2, 2: 3}
        assert failures_by_index(outcomes) == {}

    def test_a_child_killed_unprepared_is_replaced_or_unready(self, start_runner):
        """Nobody waits for ever."""
        runner = start_runner()
        os.kill(runner.pid, signal.SIGKILL)
        runner.prepare(make_assignment(lambda x: x, [1]))

        assert isinstance(only_event(runner), (Ready, Unready))

    def test_tasks_whose_child_dies_later_are_failed_one_by_one(self, start_runner):
        """Their results are lost again and again; which task it was is found by halving."""

        def f(x):
            real_send = socket.socket.sendmsg

            def die(*args, **kwargs):
                os._exit(9)

            socket.socket.sendmsg = die
            return real_send is not die

        runner = start_runner()
        runner.prepare(make_assignment(f, [1, 2]))
        runner.submit(range(2))
        events = events_of(runner)

        outcomes = (event for event in events if isinstance(event, Outcome))
        failures = failures_by_index([next(outcomes), next(outcomes)])

        assert sorted(failures) == [0, 1]
        assert all("exit code 9" in failure["message"] for failure in failures.values())

    def test_a_running_thread_does_not_keep_the_child_alive(self, start_runner):
        """A thread that keeps running does not keep the child alive."""

        def f(x):
            import threading

            threading.Thread(target=threading.Event().wait).start()
            return os.getpid()

        runner = start_runner()
        runner.prepare(make_assignment(f, [1]))
        (pid,) = values_by_index(run_tasks(runner, [range(1)])).values()
        runner.stop()

        assert is_gone(pid)

    def test_stop_is_safe_twice_and_prepare_works_afterwards(self, start_runner):
        runner = start_runner()
        runner.stop()
        runner.stop()
        assert runner.descriptors() == []

        runner.prepare(make_assignment(lambda x: -x, [1]))

        assert values_by_index(run_tasks(runner, [range(1)])) == {0: -1}

    def test_stop_ends_a_task_that_hangs(self, start_runner, tmp_path):
        def f(x):
            (tmp_path / "pid.new").write_text(str(os.getpid()))
            (tmp_path / "pid.new").rename(tmp_path / "pid")
            signal.pause()

        runner = start_runner()
        runner.prepare(make_assignment(f, [1]))
        runner.submit(range(1))
        wait_until((tmp_path / "pid").exists)
        runner.stop()

        assert is_gone(int((tmp_path / "pid").read_text()))

    def test_replaced_children_cost_no_descriptor_for_good(self, start_runner):
        def f(x):
            if x:
                os._exit(1)

        runner = start_runner()
        runner.prepare(make_assignment(f, [0, 1, 1]))
        run_tasks(runner, [range(1)])
        before = len(os.listdir("/proc/self/fd"))
        run_tasks(runner, [range(1, 3)])

        assert len(os.listdir("/proc/self/fd")) == before


@pytest.mark.parametrize(
    ("status", "kind", "text"),
    [
        (0, "exit", "exit code 0"),
        (3, "exit", "exit code 3"),
        (-signal.SIGSEGV, "killed", "SIGSEGV (a segmentation fault)"),
        (-signal.SIGKILL, "killed", "SIGKILL (killed from outside, probably out of memory)"),
        (-signal.SIGRTMIN - 3, "killed", "signal 37"),
    ],
)
def test_the_ending_of_a_process_in_words(status, kind, text):
    assert ending_text(status)[0] == kind
    assert text in ending_text(status)[1]


@pytest.mark.once
def test_a_process_that_cannot_be_started_is_tried_again(start_runner):
    """A process that cannot be started is a reason and is tried again."""
    assignment = make_assignment(abs, [-1, -2])
    limits = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (3, limits[1]))
    try:
        runner = start_runner()
        runner.prepare(assignment)
        runner.limit(1, 0)
        events = runner.poll()
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, limits)

    assert [type(event) for event in events] == [Unready]
    assert "no process for tasks can be started: Too many open files" in events[0].reason
    runner.prepare(assignment)
    assert values_by_index(run_tasks(runner, [range(2)])) == {0: 1, 1: 2}
