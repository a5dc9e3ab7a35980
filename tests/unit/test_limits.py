"""Tasks that take too long or too much memory, and what is told of a runner that was killed."""

from __future__ import annotations

import importlib
import mmap
import os
import select
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest
from running import (
    LIMIT_S,
    failures_by_index,
    indices_of,
    make_assignment,
    only_event,
    values_by_index,
    wait_until,
)

import acme_mpi
from acme_mpi.linux import footprint
from acme_mpi.linux.footprint import Footprint
from acme_mpi.linux.oom import oom_kills, oom_remark
from acme_mpi.runner import guard, stack
from acme_mpi.runner.base import NotCalled, Outcome, Ready, Runner
from acme_mpi.runner.child import ChildRunner
from acme_mpi.runner.guard import Guard, Limits
from acme_mpi.runner.inline import InlineRunner
from acme_mpi.runner.process import Ending, ending_text
from acme_mpi.runner.stack import STACK_SIGNAL, read_stack
from acme_mpi.runner.watch import STOPPED_S, Watch

pytestmark = pytest.mark.once

SHORT_S = 0.3  # the limit of tasks that hang; the others of their run end at once
MB = 1_000_000

# A module and not a function of this file: it is loaded from its file, as users' modules are.
STUCK = """
import ctypes
import re
import signal
import threading

def spin():
    while True: pass

def match():
    re.match("(a+)+$", "a" * 40 + "b")

def keep_the_lock():
    ctypes.PyDLL(None).pause()

def wait_for_ever():
    threading.Event().wait()

def block_the_signal():
    signal.pthread_sigmask(signal.SIG_BLOCK, signal.valid_signals())
    signal.pause()

HANGS = [spin, match, keep_the_lock, wait_for_ever, block_the_signal]

def hang(task, which):
    if task in which:
        which[task]()
    return 10 * task
"""


@pytest.fixture
def stuck(tmp_path, monkeypatch) -> Any:
    """Return the module `STUCK`."""
    (tmp_path / "stuck.py").write_text(STUCK)
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.delitem(sys.modules, "stuck", raising=False)
    yield importlib.import_module("stuck")
    sys.modules.pop("stuck")


@pytest.fixture
def runner() -> Iterator[ChildRunner]:
    runner = ChildRunner()
    yield runner
    runner.stop()


def watch_tasks(runner: Runner, n_tasks: int) -> list[Outcome]:
    """Look at what runs, as an agent does, until so many tasks have ended; return the outcomes."""
    outcomes, give_up_s = list[Outcome](), time.monotonic() + LIMIT_S
    while sum(outcome.stop - outcome.start for outcome in outcomes) < n_tasks:
        assert time.monotonic() < give_up_s, "the tasks do not end"
        runner.look()
        events = runner.poll()
        outcomes += [event for event in events if isinstance(event, Outcome)]
        assert all(isinstance(event, (Outcome, Ready)) for event in events), events
        if not events:
            select.select(runner.descriptors(), [], [], runner.look_s)
    return outcomes


def run(runner, func, chunks, *args, seconds=0.0, n_bytes=0) -> list[Outcome]:
    """Call ``func(task, *args)`` under limits; return the outcomes as they came."""
    n_tasks = max(chunk.stop for chunk in chunks)
    runner.prepare(make_assignment(func, list(range(n_tasks)), *args))
    runner.limit(seconds, n_bytes)
    for chunk in chunks:
        runner.submit(chunk)
    return watch_tasks(runner, sum(map(len, chunks)))


@pytest.fixture
def hold(tmp_path) -> Any:
    """Return a function that calls another one while a task waits in ``hold.path.read_text()``."""
    path = tmp_path / "hold"
    os.mkfifo(path)

    def hold(meanwhile):
        with open(path, "w"):  # as soon as the task opens it
            return meanwhile()

    hold.path = path
    return hold


def look_often(runner: Runner) -> None:
    for _ in range(20):
        runner.look()


class TestTime:
    @pytest.mark.slow
    @pytest.mark.parametrize("name", ["spin", "match", "keep_the_lock", "wait_for_ever"])
    def test_a_task_that_hangs_costs_itself_alone_and_shows_where(self, runner, stuck, name):
        which = {2: getattr(stuck, name)}
        outcomes = run(runner, stuck.hang, [range(4), range(4, 6)], which, seconds=SHORT_S)

        assert indices_of(outcomes) == list(range(6))
        assert values_by_index(outcomes) == {0: 0, 1: 10, 3: 30, 4: 40, 5: 50}
        (failure,) = failures_by_index(outcomes).values()
        assert (failure["index"], failure["type"]) == (2, "timeout")
        assert failure["message"].startswith("still running after ")
        assert failure["message"].endswith("(limit 0.3 s)")
        assert f" in {name}\n" in failure["traceback"]
        assert failure["traceback"].endswith(" in hang")
        assert os.path.dirname(acme_mpi.__file__) not in failure["traceback"]
        line = getattr(stuck, name).__code__.co_firstlineno + 1
        assert failure["location"] == f"{stuck.__file__}:{line}"

    @pytest.mark.slow
    def test_a_task_that_does_not_show_its_stack_is_killed_too(self, runner, stuck):
        outcomes = run(runner, stuck.hang, [range(2)], {0: stuck.block_the_signal}, seconds=SHORT_S)

        (failure,) = failures_by_index(outcomes).values()
        assert (failure["type"], failure["traceback"]) == ("timeout", "")
        assert values_by_index(outcomes) == {1: 10}

    @pytest.mark.slow
    def test_every_task_that_hangs_is_found(self, runner, stuck):
        which = {0: stuck.spin, 1: stuck.spin, 3: stuck.wait_for_ever}
        outcomes = run(runner, stuck.hang, [range(4)], which, seconds=SHORT_S)

        assert set(failures_by_index(outcomes)) == {0, 1, 3}
        assert values_by_index(outcomes) == {2: 20}

    @pytest.mark.slow
    def test_its_outcome_says_when_it_began_and_what_it_used(self, runner, stuck):
        before_s = time.time()
        (outcome,) = run(runner, stuck.hang, [range(1)], {0: stuck.spin}, seconds=SHORT_S)

        assert before_s <= outcome.start_s <= time.time() - SHORT_S
        assert outcome.peak_bytes > MB

    def test_a_limit_that_is_not_reached_kills_nothing(self, runner, hold):
        pid, path = runner.pid, hold.path
        runner.prepare(make_assignment(lambda x: path.read_text(), [0]))
        runner.limit(LIMIT_S, 10**12)
        runner.submit(range(1))
        hold(lambda: look_often(runner))

        (outcome,) = watch_tasks(runner, 1)

        assert outcome.failures == []
        assert runner.pid == pid

    @pytest.mark.slow
    def test_a_limit_may_be_set_while_a_task_runs(self, runner, hold):
        path = hold.path
        runner.prepare(make_assignment(lambda x: path.read_text(), [0]))
        runner.submit(range(1))

        def wait():
            assert runner.look_s is None
            runner.limit(0.05, 0)
            return watch_tasks(runner, 1)

        (outcome,) = hold(wait)

        assert [failure["type"] for failure in outcome.failures] == ["timeout"]

    @pytest.mark.slow
    def test_a_task_that_hangs_in_a_drained_runner_is_killed(self, runner, stuck):
        """A task that hangs while its runner is drained is killed."""
        runner.prepare(make_assignment(stuck.hang, [0, 1, 2], {0: stuck.spin}))
        runner.submit(range(3))
        assert isinstance(only_event(runner), Ready)
        wait_until(runner.running)
        runner.drain()
        runner.limit(0.05, 0)

        while not (events := runner.poll()):
            runner.look()
            select.select(runner.descriptors(), [], [], runner.look_s)

        assert [failure["type"] for failure in events[0].failures] == ["timeout"]
        assert events[1:] == [NotCalled(1, 3)]

    def test_the_next_run_has_no_limits(self, runner):
        runner.limit(1.0, 0)
        runner.prepare(make_assignment(lambda x: x, [0]))

        assert runner.look_s is None

    def test_what_runs_is_known_without_limits_too(self, runner, hold):
        path = hold.path
        runner.prepare(make_assignment(lambda x: path.read_text(), [0, 1]))
        assert runner.running() is None
        runner.submit(range(1, 2))

        (index, before_s), (_, after_s) = hold(lambda: (runner.running(), runner.running()))

        assert index == 1
        assert 0 <= before_s < after_s < LIMIT_S
        watch_tasks(runner, 1)
        assert runner.running() is None

    def test_what_the_agent_itself_calls_has_no_limits(self):
        runner = InlineRunner()
        outcomes = run(runner, lambda x: x, [range(2)], seconds=1e-9, n_bytes=1)

        assert (runner.look_s, runner.running()) == (None, None)
        assert failures_by_index(outcomes) == {}


def allocate(n_mb: int) -> Any:
    """Return memory that has been written to."""
    return np.ones(n_mb * MB // 8)


def test_a_runners_own_memory_is_far_below_the_limits_here(runner):
    """The memory that a runner needs by itself is far below the limits of these tests."""
    runner.prepare(make_assignment(lambda x: x, [0]))
    only_event(runner)

    assert footprint.anonymous_bytes(runner.pid) < 100 * MB


class TestMemory:
    LIMIT = 250 * MB

    def run(self, runner, func):
        return run(runner, func, [range(3), range(3, 4)], n_bytes=self.LIMIT)

    def held(self, runner, hold, func):
        """Return the outcome of a task that was looked at while it ran."""
        runner.prepare(make_assignment(func, [0]))
        runner.limit(0, self.LIMIT)
        runner.submit(range(1))
        hold(lambda: look_often(runner))
        return watch_tasks(runner, 1)

    @pytest.mark.slow
    def test_a_task_that_uses_too_much_costs_itself_alone(self, runner):
        def f(x):
            if x == 1:
                kept = allocate(300)
                signal.pause()
                del kept
            return x

        outcomes = self.run(runner, f)

        assert values_by_index(outcomes) == {0: 0, 2: 2, 3: 3}
        (failure,) = failures_by_index(outcomes).values()
        assert (failure["index"], failure["type"]) == (1, "memory")
        assert failure["message"].startswith("used ")
        assert failure["message"].endswith(" MB of memory (limit 250.0 MB)")
        assert " in f" in failure["traceback"]

    @pytest.mark.slow
    def test_memory_of_programs_that_it_has_started_counts(self, runner):
        program = f"kept = b'x' * {300 * MB}; import signal; signal.pause()"

        def f(x):
            if x == 1:
                subprocess.run([sys.executable, "-c", program])
            return x

        outcomes = self.run(runner, f)

        assert values_by_index(outcomes) == {0: 0, 2: 2, 3: 3}
        assert failures_by_index(outcomes)[1]["type"] == "memory"

    @pytest.mark.slow
    def test_shared_memory_does_not_count(self, runner, hold):
        path = hold.path

        def f(x):
            shared = mmap.mmap(-1, 300 * MB)
            for _ in range(300):
                shared.write(b"x" * MB)
            path.read_text()

        assert failures_by_index(self.held(runner, hold, f)) == {}

    @pytest.mark.slow
    def test_pages_that_forked_processes_share_count_once(self, runner, hold):
        path = hold.path

        def f(x):
            kept = allocate(120)
            children = [os.fork() for _ in range(2)]
            if 0 in children:
                signal.pause()
            path.read_text()
            for child in children:
                os.kill(child, signal.SIGKILL)
            del kept

        assert failures_by_index(self.held(runner, hold, f)) == {}


def test_descendants_are_found_in_every_generation():
    program = "import os, signal; os.fork() or os.fork(); print(flush=True); signal.pause()"
    with subprocess.Popen(
        [sys.executable, "-c", program], stdout=subprocess.PIPE, start_new_session=True
    ) as process:
        for _ in range(3):
            process.stdout.readline()
        family = footprint.with_descendants(process.pid)
        os.killpg(process.pid, signal.SIGKILL)

    assert len(set(family)) == 3
    assert family[0] == process.pid


@pytest.mark.parametrize("is_told", [True, False], ids=["told by the kernel", "searched"])
def test_descendants_are_found_also_without_the_kernels_list(tmp_path, is_told):
    """Descendants are found with and without the help of the kernel."""
    parents = {10: 1, 11: 10, 12: 10, 13: 12, 20: 1, 21: 20}
    for pid, parent in parents.items():
        (tmp_path / f"{pid}/task/{pid}").mkdir(parents=True)
        (tmp_path / f"{pid}/task/{pid}0").mkdir()  # another thread
        (tmp_path / f"{pid}/stat").write_text(f"{pid} (a ) 7 b) S {parent}{' 0' * 48}")
        if is_told:
            (tmp_path / f"{pid}/task/{pid}/children").touch()
            (tmp_path / f"{pid}/task/{pid}0/children").touch()
    if is_told:
        (tmp_path / "10/task/10/children").write_text("11 ")
        (tmp_path / "10/task/100/children").write_text("12 ")
        (tmp_path / "12/task/12/children").write_text("13 ")

    family = footprint.with_descendants(10, str(tmp_path))

    assert family[0] == 10
    assert sorted(family) == [10, 11, 12, 13]


def test_a_process_that_has_gone_has_no_memory():
    process = subprocess.Popen(["true"])
    process.wait()

    assert footprint.with_descendants(process.pid) == [process.pid]
    assert Footprint(process.pid).above(0) == 0


class FakeClock:
    now_s = 100.0

    def __call__(self) -> float:
        return self.now_s


class TestWatch:
    @pytest.fixture
    def clock(self) -> FakeClock:
        return FakeClock()

    @pytest.fixture
    def words(self) -> list[int]:
        return [-1, 0, 0]

    @pytest.fixture
    def watch(self, words, clock) -> Watch:
        return Watch(words, clock)

    def test_nothing_runs_between_tasks(self, watch):
        assert watch.running() is None
        assert watch.look() is None

    def test_a_task_has_run_since_it_was_first_seen(self, watch, words, clock):
        words[:2] = 7, 12345
        assert watch.running() == (7, 0.0)
        clock.now_s += 2

        assert watch.running() == (7, 2.0)

    @pytest.mark.parametrize("next_words", [(8, 12345), (7, 99999)], ids=["index", "start"])
    def test_another_task_begins_anew(self, watch, words, clock, next_words):
        words[:2] = 7, 12345
        watch.running()
        clock.now_s += 2
        words[:2] = next_words

        assert watch.running() == (next_words[0], 0.0)

    def test_time_in_which_the_job_was_suspended_does_not_count(self, watch, words, clock):
        words[:2] = 7, 12345
        watch.look()
        clock.now_s += 1
        watch.look()
        clock.now_s += STOPPED_S + 1000

        assert watch.look() == (7, 1.0)

    def test_time_before_there_were_limits_counts(self, watch, words, clock):
        words[:2] = 7, 12345
        watch.running()
        clock.now_s += STOPPED_S + 1000
        watch.begin_looks()

        assert watch.look() == (7, STOPPED_S + 1000)

    def test_no_task_has_run_for_less_than_no_time(self, watch, words, clock):
        clock.now_s += 100
        words[:2] = 7, 12345
        watch.running()
        clock.now_s += 1

        assert watch.look() == (7, 0.0)

    def test_it_can_begin_anew(self, watch, words, clock):
        words[:2] = 7, 12345
        watch.running()
        clock.now_s += 3
        watch.restart()

        assert watch.running() == (7, 0.0)


@pytest.mark.parametrize(
    ("limits", "look_s"),
    [
        (Limits(), None),
        (Limits(0, 0), None),
        (Limits(3600), 0.25),
        (Limits(1.0), 0.1),
        (Limits(0.001), 0.01),
        (Limits(0, MB), 0.05),
        (Limits(3600, MB), 0.05),
        (Limits(0.1, MB), 0.01),
    ],
    ids=str,
)
def test_how_often_to_look(limits, look_s):
    assert limits.look_s == look_s


@pytest.mark.parametrize(
    ("limit", "seconds", "message"),
    [
        (30, 30.04, "still running after 30 s (limit 30 s)"),
        (0.25, 0.2612, "still running after 0.261 s (limit 0.25 s)"),
        (3600, 3600.24, "still running after 3600 s (limit 3600 s)"),
    ],
)
def test_a_task_that_takes_too_long_is_told_in_seconds(limit, seconds, message):
    assert Limits(limit).breach(seconds, Footprint(os.getpid())) == ("timeout", message)


class FakeChild:
    """Runs task 3, and does something of its own when it is asked for its stack."""

    pid = 0

    def __init__(self, when_asked: Callable[[list[int]], None]) -> None:
        self.words = [3, 1, 0]
        self.when_asked = when_asked
        self.news = self.is_killed = False

    def look(self) -> tuple[bool, bool]:
        return self.news, False

    def stack(self) -> str:
        self.when_asked(self.words)
        return ""

    def send_kill(self) -> None:
        self.is_killed = True


class TestGuard:
    def look(self, when_asked=lambda words: None, news=False) -> tuple[FakeChild, Guard]:
        child = FakeChild(when_asked)
        child.news = news
        watching = Guard(child)
        watching.look(Limits(1e-9))
        watching.look(Limits(1e-9))
        return child, watching

    def test_a_task_over_its_limit_is_killed_and_told(self):
        child, watching = self.look()

        assert child.is_killed
        assert watching.ending(-signal.SIGKILL, None)[1].type == "timeout"

    def test_a_task_that_ends_during_its_stack_dump_was_too_long(self):
        """The signal may have ended what it waited for; the task behind it is not blamed."""

        def go_on(words):
            words[:2] = words[0] + 1, words[1] + 1

        child, watching = self.look(go_on)

        assert child.is_killed
        assert watching.ending(-signal.SIGKILL, None)[0] == 3

    def test_what_the_child_has_said_is_read_first(self):
        assert not self.look(news=True)[0].is_killed

    def test_a_misdeed_does_not_hide_why_the_child_was_killed(self):
        """A large process closes its channel some time before it is gone."""
        watching = self.look()[1]

        assert watching.ending(-signal.SIGKILL, "closed its channel")[1].type == "timeout"


DUMP = f"""\
Thread 0x00007f01 (most recent call first):
  File "{guard.__file__}", line 3 in look

Thread 0x00007f02 (most recent call first):
  File "{os.__file__}", line 10 in read
  File "/home/user/reader.py", line 7 in follow

Current thread 0x00007f03 (most recent call first):
  File "{os.__file__}", line 300 in walk
  File "/home/J\\xfcrgen/\\u4e2d.py", line 12 in search
  File "/home/user/run.py", line 5 in f
  File "{guard.__file__}", line 300 in run_chunk
  File "<string>", line 1 in <module>
"""


class TestStack:
    def test_the_tasks_thread_comes_first_without_our_frames(self):
        """The thread of the task comes first without frames of ours."""
        text, location = read_stack(DUMP)

        assert text == (
            "Current thread 0x00007f03 (most recent call first):\n"
            f'  File "{os.__file__}", line 300 in walk\n'
            '  File "/home/Jürgen/中.py", line 12 in search\n'
            '  File "/home/user/run.py", line 5 in f\n'
            "\n"
            "Thread 0x00007f02 (most recent call first):\n"
            f'  File "{os.__file__}", line 10 in read\n'
            '  File "/home/user/reader.py", line 7 in follow'
        )
        assert location == "/home/Jürgen/中.py:12"

    @pytest.mark.parametrize("dump", ["", "\n", DUMP[:10], DUMP[:200], DUMP[:-30]])
    def test_what_is_not_complete_can_be_read_too(self, dump):
        text, location = read_stack(dump)

        assert guard.__file__ not in text or dump.endswith(text)
        assert location == "" or ":" in location

    def test_a_name_that_is_no_text_stays_as_it_is_written(self):
        text, _ = read_stack('Thread 0x1:\n  File "/\\udcff\\x0a.py", line 1 in f\n')

        assert '"/\\udcff\\x0a.py"' in text

    def test_a_process_that_has_gone_shows_none(self):
        descriptor = os.memfd_create("stack")
        process = subprocess.Popen(["true"])
        pidfd = os.pidfd_open(process.pid)
        process.wait()

        assert stack.ask_for_stack(pidfd, descriptor) == ""
        os.close(descriptor)
        os.close(pidfd)

    def test_the_signal_is_one_that_nobody_else_takes(self):
        assert signal.SIGRTMIN < STACK_SIGNAL < signal.SIGRTMAX
        assert signal.getsignal(STACK_SIGNAL) == signal.SIG_DFL


VERSION_1 = "9:name=systemd:/\n4:cpu,memory:/slurm/job_1/step_0\n0::/\n"
VERSION_2 = "0::/system.slice/job_1/step_0\n"


class TestOutOfMemory:
    @pytest.fixture
    def count(self, tmp_path) -> Callable[[str, dict[str, int | str]], int | None]:
        """Return a function that counts kills where some files of control groups exist."""

        def count(membership, counters):
            (tmp_path / "cgroup").write_text(membership)
            for name, value in counters.items():
                path = tmp_path / "mount" / name
                path.parent.mkdir(parents=True, exist_ok=True)
                path.write_text(f"low 0\noom 7\noom_kill {value}\nunder_oom 9\n")
            return oom_kills(str(tmp_path / "cgroup"), str(tmp_path / "mount"))

        return count

    @pytest.mark.parametrize(
        ("membership", "counters", "n_kills"),
        [
            (VERSION_2, {"system.slice/job_1/step_0/memory.events": 3}, 3),
            (VERSION_2, {"unified/system.slice/job_1/step_0/memory.events": 3}, 3),
            (VERSION_1, {"memory/slurm/job_1/step_0/memory.oom_control": 2}, 2),
            (VERSION_1, {"memory/memory.oom_control": 5}, 5),
            (
                VERSION_1,
                {"memory/memory.oom_control": 5, "memory/slurm/job_1/step_0/memory.oom_control": 2},
                2,
            ),
            (VERSION_2, {"memory.events": 4}, 4),
            (VERSION_2, {}, None),
            ("", {"memory.events": 4}, None),
        ],
    )
    def test_the_count_is_that_of_the_group_or_of_its_container(
        self, count, membership, counters, n_kills
    ):
        assert count(membership, counters) == n_kills

    def test_without_control_groups_there_is_no_count(self, tmp_path):
        assert oom_kills(str(tmp_path / "missing"), str(tmp_path)) is None

    @pytest.mark.parametrize(
        ("before", "now", "text"),
        [
            (None, 3, ""),
            (3, None, ""),
            (3, 4, ": the kernel has killed 1 process(es) of this cgroup for it meanwhile"),
            (3, 3, ", although the kernel has counted no such kill in this cgroup"),
        ],
    )
    def test_what_two_counts_say(self, before, now, text):
        assert oom_remark(before, now) == text
        assert ending_text(-signal.SIGKILL, oom_remark(before, now)) == Ending(
            "killed",
            "the process that ran the task ended by SIGKILL (killed from outside, probably out of "
            f"memory{text})",
            is_from_outside=True,
        )

    @pytest.mark.parametrize(
        ("n_kills", "fact"), [(4, "has killed 1 process(es)"), (3, "counted no such kill")]
    )
    def test_a_runner_that_was_killed_tells_what_is_known(self, monkeypatch, n_kills, fact):
        monkeypatch.setattr(guard, "oom_kills", iter([3, n_kills, 3]).__next__)
        runner = ChildRunner()
        try:
            (outcome,) = run(runner, lambda x: os.kill(os.getpid(), signal.SIGKILL), [range(1)])
        finally:
            runner.stop()

        (failure,) = outcome.failures
        assert failure["type"] == "killed"
        assert "killed from outside, probably out of memory" in failure["message"]
        assert fact in failure["message"]

    def test_a_runner_that_was_killed_tells_its_last_known_memory(self, runner):
        def f(x):
            if x:
                os.kill(os.getpid(), signal.SIGKILL)

        outcomes = run(runner, f, [range(1), range(1, 2)])

        assert "; last seen with " in failures_by_index(outcomes)[1]["message"]
        assert outcomes[-1].start_s >= outcomes[0].start_s > 0
