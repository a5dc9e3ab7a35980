"""Runners: one contract for both kinds, and what a child process must survive or not outlive."""

from __future__ import annotations

import ctypes
import json
import multiprocessing
import os
import resource
import select
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import cloudpickle
import numpy as np
import pytest

from acme_mpi import PerTask, Shared
from acme_mpi.results import PLACED_BYTES, Encoder, RowSpec, is_placed, parts_of
from acme_mpi.runner import base
from acme_mpi.runner.base import (
    MEDIUM,
    Assignment,
    NotCalled,
    Outcome,
    PlaceRequest,
    Ready,
    Runner,
    Unready,
    describe_failure,
    run_chunk,
)
from acme_mpi.runner.channel import Kind
from acme_mpi.runner.child import ChildRunner
from acme_mpi.runner.inline import InlineRunner
from acme_mpi.runner.packing import pack
from acme_mpi.runner.pickling import load_values, pickle_given
from acme_mpi.runner.process import child_environment, ending_text
from acme_mpi.runner.surroundings import Surroundings
from acme_mpi.runner.threads import THREAD_VARIABLES
from acme_mpi.tasks import distribute

pytestmark = pytest.mark.once

LIMIT_S = 30.0  # far more than any of these runs takes, also on a busy machine
LARGE = np.arange(PLACED_BYTES // 8, dtype=np.float64)

# Functions of a user are defined inside the tests: they travel by value, as those of a script do.


class FailsToLoad:
    """Unpickles with an exception."""

    def __reduce__(self):
        return int, ("no number",)


def make_assignment(func, *args, spec=None, in_memory=True, can_place=False, **kwargs):
    """Return the assignment of a run; results stay in memory unless said otherwise."""
    tasks = distribute(func, args, kwargs)
    return Assignment(
        pickle_given(func),
        pack(None, tasks),
        Surroundings.here(),
        spec,
        in_memory,
        can_place,
    )


def events_of(runner: Runner) -> Iterator[Any]:
    """Yield what happens, asleep in between; a silence of `LIMIT_S` fails the test."""
    deadline = time.monotonic() + LIMIT_S
    while True:
        events = runner.poll()
        yield from events
        if not events:
            left_s = deadline - time.monotonic()
            descriptors = runner.descriptors()
            assert left_s > 0, f"nothing has happened for {LIMIT_S} s"
            assert descriptors, "nothing will ever happen"
            select.select(descriptors, [], [], left_s)
        else:
            deadline = time.monotonic() + LIMIT_S


def run_tasks(
    runner: Runner,
    chunks: list[range],
    answer: Callable[[PlaceRequest], Any] = lambda request: None,
) -> list[Outcome]:
    """Submit all chunks at once and return the outcomes of all their tasks, as they came."""
    for chunk in chunks:
        runner.submit(chunk)
    outcomes, n_left = list[Outcome](), sum(map(len, chunks))
    if not n_left:
        return outcomes
    for event in events_of(runner):
        if isinstance(event, PlaceRequest):
            runner.answer(event, answer(event))
        elif isinstance(event, Outcome):
            outcomes.append(event)
            n_left -= event.stop - event.start
            if n_left <= 0:
                break
        else:
            assert isinstance(event, Ready), event
    return outcomes


def first_event(runner: Runner) -> Any:
    return next(events_of(runner))


def values_by_index(outcomes: list[Outcome]) -> dict[int, Any]:
    """Return the values of all tasks that have one."""
    values = {}
    for outcome in outcomes:
        if outcome.content.values is not None:
            loaded, _ = load_values(outcome.content.values, outcome.content.buffers or [])
            indices = [index for run in outcome.succeeded() for index in run]
            values.update(zip(indices, loaded, strict=True))
    return values


def failures_by_index(outcomes: list[Outcome]) -> dict[int, dict[str, Any]]:
    return {fields["index"]: fields for outcome in outcomes for fields in outcome.failures}


def indices_of(outcomes: list[Outcome]) -> list[int]:
    return sorted(index for each in outcomes for index in range(each.start, each.stop))


@pytest.fixture
def start_runner() -> Iterator[Callable[..., Any]]:
    """Return a function that makes a runner of a kind; all are stopped at the end."""
    runners: list[Runner] = []

    def start(kind: type[Runner] = ChildRunner, *args: Any) -> Runner:
        runners.append(kind(*args))
        return runners[-1]

    yield start
    for runner in runners:
        runner.stop()


@pytest.fixture(scope="module")
def lasting_child() -> Iterator[ChildRunner]:
    """Return a child that serves many tests, as it serves many runs of a script."""
    runner = ChildRunner()
    yield runner
    runner.stop()


@pytest.fixture(params=["inline", "child"])
def runner(request) -> Runner:
    if request.param == "inline":
        return InlineRunner()
    return request.getfixturevalue("lasting_child")


class TestContract:
    """What holds for every runner."""

    def run(self, runner, func, *args, chunks=None, **kwargs):
        options = {k: kwargs.pop(k) for k in ("spec", "in_memory") if k in kwargs}
        runner.prepare(make_assignment(func, *args, **options, **kwargs))
        n_tasks = distribute(func, args, kwargs).n_tasks
        return run_tasks(runner, [range(n_tasks)] if chunks is None else chunks)

    def test_ready_comes_first(self, runner):
        runner.prepare(make_assignment(lambda x: x, [1]))

        assert isinstance(first_event(runner), Ready)

    @pytest.mark.parametrize(
        "chunks",
        [
            [range(1)],
            [range(10)],
            [range(4), range(4, 5), range(5, 10)],
            [range(5, 10), range(2)],
            [range(k, k + 1) for k in range(10)],
        ],
        ids=str,
    )
    def test_outcomes_cover_each_chunk_exactly(self, runner, chunks):
        outcomes = self.run(runner, lambda x: x * 10, list(range(10)), chunks=chunks)

        tasks = [index for chunk in chunks for index in chunk]
        assert [i for each in outcomes for i in range(each.start, each.stop)] == tasks
        assert values_by_index(outcomes) == {index: index * 10 for index in tasks}
        assert all(each.busy_ns > 0 for each in outcomes)

    def test_no_outcome_reaches_over_the_end_of_a_chunk(self, runner):
        chunks = [range(3), range(3, 6)]

        for outcome in self.run(runner, lambda x: x, list(range(6)), chunks=chunks):
            assert any(c.start <= outcome.start < outcome.stop <= c.stop for c in chunks)

    def test_a_failing_task_costs_itself_alone(self, runner):
        def f(x):
            if x in (0, 3, 5):
                raise ValueError(f"bad {x}")
            return x

        outcomes = self.run(runner, f, list(range(6)))

        assert set(failures_by_index(outcomes)) == {0, 3, 5}
        assert values_by_index(outcomes) == {1: 1, 2: 2, 4: 4}

    def test_a_failure_says_type_text_place_and_call(self, runner):
        def f(x, y):
            raise KeyError(x)

        line = f.__code__.co_firstlineno + 1
        (failure,) = failures_by_index(self.run(runner, f, ["key"], 4)).values()

        assert failure["type"] == "KeyError"
        assert failure["message"] == "'key'"
        assert failure["location"] == f"{__file__}:{line}"
        assert failure["call"] == "f('key', 4)"
        assert "Traceback (most recent call last)" in failure["traceback"]
        assert f'{__file__}", line {line}' in failure["traceback"]
        assert "acme_mpi/runner" not in failure["traceback"]

    def test_the_place_is_the_innermost_frame_of_the_user(self, runner):
        def inner(x):
            return 1 // x

        def f(x):
            return inner(x)

        (failure,) = failures_by_index(self.run(runner, f, [0])).values()

        assert failure["location"].endswith(f":{inner.__code__.co_firstlineno + 1}")

    @pytest.mark.parametrize("code", [0, 3, "text", None])
    def test_sys_exit_costs_its_task_alone(self, runner, code):
        def f(x):
            if x == 1:
                sys.exit(code)
            return x

        outcomes = self.run(runner, f, [0, 1, 2])

        failure = failures_by_index(outcomes)[1]
        assert failure["type"] == "exit"
        assert f"sys.exit({code!r})" in failure["message"]
        assert values_by_index(outcomes) == {0: 0, 2: 2}

    def test_a_result_that_cannot_be_kept_is_a_failure(self, runner):
        import threading

        outcomes = self.run(runner, lambda x: threading.Lock() if x else x, [0, 1])

        assert failures_by_index(outcomes)[1]["type"] == "ResultError"
        assert values_by_index(outcomes) == {0: 0}

    def test_a_result_that_does_not_fit_is_a_failure_with_both_sides(self, runner):
        outcomes = self.run(
            runner, lambda x: [x] * x, [2, 3], spec=RowSpec((2,), 0, "<f8"), in_memory=False
        )

        failure = failures_by_index(outcomes)[1]
        assert failure["message"] == "expected shape (2,) float64, got shape (3,) int64"
        assert failure["call"].endswith("(3)")

    @pytest.mark.parametrize("n_bytes", [8, 10_000, 20_000, 50_000, 70_000, 3_000_000])
    def test_values_of_any_size_come_back_bit_by_bit(self, runner, n_bytes):
        arrays = [np.arange(n_bytes // 8) + k for k in range(3)]

        outcomes = self.run(runner, lambda x: (x, "text"), PerTask(arrays))

        values = values_by_index(outcomes)
        for index, array in enumerate(arrays):
            np.testing.assert_array_equal(values[index][0], array)
            assert values[index][1] == "text"

    @pytest.mark.parametrize("mark", [PerTask, Shared])
    @pytest.mark.parametrize("n_bytes", [8, 10_000, 20_000, 50_000, 70_000, 3_000_000])
    def test_a_function_cannot_write_into_arrays_of_any_size(self, runner, n_bytes, mark):
        def f(x, k):
            own = x.copy()
            own += 1
            x += 1

        outcomes = self.run(runner, f, mark(np.zeros((2, n_bytes // 8))), [1, 2])

        failures = failures_by_index(outcomes)
        assert list(failures) == [0, 1]
        assert all(fields["type"] == "ValueError" for fields in failures.values())
        assert all("read-only (" in fields["message"] for fields in failures.values())
        assert all("write into a copy" in fields["message"] for fields in failures.values())

    def test_what_a_task_changes_of_its_arguments_no_other_one_sees(self, runner):
        def f(i, config, table, *, names):
            config["parts"].append(i)
            names.add(i)
            return len(config["parts"]), table.pop("k"), sorted(names)

        outcomes = self.run(runner, f, range(20), {"parts": []}, Shared({"k": 1}), names=set())

        assert values_by_index(outcomes) == {i: (1, 1, [i]) for i in range(20)}

    def test_an_argument_that_a_task_has_changed_is_shown_as_it_was_given(self, runner):
        def f(i, config):
            config.clear()
            raise ValueError(i)

        outcomes = self.run(runner, f, [1], {"k": 5})

        assert failures_by_index(outcomes)[0]["call"] == "f(1, {'k': 5})"

    def test_results_for_files_are_parts(self, runner):
        outcomes = self.run(runner, lambda x: (x, "text", None), [1, 2], in_memory=False)

        parts = [parts_of(each) for outcome in outcomes for each in outcome.content.parts]
        assert [[None if p is None else p.tolist() for p in each] for each in parts] == [
            [1, "text", None],
            [2, "text", None],
        ]

    def test_results_with_a_form_are_rows(self, runner):
        outcomes = self.run(
            runner,
            lambda x: (x, 2 * x),
            PerTask(np.arange(6).reshape(3, 2)),
            spec=RowSpec((2,), 0, "<f4"),
            in_memory=False,
        )

        rows = np.concatenate([outcome.content.rows for outcome in outcomes])
        assert rows.dtype == np.float32
        np.testing.assert_array_equal(rows, np.arange(6).reshape(3, 2))
        assert [p.tolist() for o in outcomes for (p,) in o.content.parts] == [
            [0, 2],
            [4, 6],
            [8, 10],
        ]

    def test_task_ids_are_those_of_the_run(self, runner):
        def f(x, taskID):
            return taskID

        outcomes = self.run(runner, f, list(range(9)), chunks=[range(6, 9), range(2)])

        assert values_by_index(outcomes) == {6: 6, 7: 7, 8: 8, 0: 0, 1: 1}

    def test_a_function_that_cannot_be_loaded_is_unready_with_the_reason(self, runner):
        assignment = make_assignment(lambda x: x, [1])
        assignment.func = b"c__no_such_module__\nf\n."
        runner.prepare(assignment)

        event = first_event(runner)

        assert isinstance(event, Unready)
        assert "no_such_module" in event.reason

    def test_it_can_be_prepared_again_for_another_function(self, runner):
        first = self.run(runner, lambda x: x, [1, 2])
        second = self.run(runner, lambda x: -x, [1, 2, 3])

        assert values_by_index(first) == {0: 1, 1: 2}
        assert values_by_index(second) == {0: -1, 1: -2, 2: -3}

    def test_state_of_the_function_lasts_from_task_to_task(self, runner):
        """A function may keep a model or a file that is expensive to load."""
        seen = []

        def f(x):
            seen.append(x)
            return len(seen)

        outcomes = self.run(runner, f, [7, 8, 9], chunks=[range(2), range(2, 3)])

        assert values_by_index(outcomes) == {0: 1, 1: 2, 2: 3}

    def test_outcomes_say_when_their_first_task_began(self, runner):
        before_s = time.time()
        outcomes = self.run(runner, lambda x: time.time(), [1, 2], chunks=[range(1), range(1, 2)])

        began_s = list(values_by_index(outcomes).values())
        starts_s = [outcome.start_s for outcome in outcomes]
        assert before_s <= starts_s[0] <= began_s[0] <= starts_s[1] <= began_s[1]

    def test_the_peak_of_memory_is_that_of_the_tasks_of_an_outcome(self, runner):
        def f(mb):
            np.ones(mb * 125_000)

        outcomes = self.run(runner, f, [1, 200, 1], chunks=[range(k, k + 1) for k in range(3)])

        before, large, after = (outcome.peak_bytes for outcome in outcomes)
        assert large > before + 150e6
        assert large > after + 150e6


class TestRunChunk:
    """The loop that both runners share."""

    def collect(self, func, *args, chunk=None, spec=None):
        tasks = distribute(func, args, {})
        encoder = Encoder(spec, False)
        chunk = range(tasks.n_tasks) if chunk is None else chunk
        return list(run_chunk(func, "f", tasks, encoder, chunk, [-1, 0, 0]))

    def test_results_leave_after_every_task_that_takes_longer_than_the_bound(self, monkeypatch):
        monkeypatch.setattr(base, "REPORT_NS", -1)
        monkeypatch.setattr(base, "CLOCK_NS", 0)

        outcomes = self.collect(lambda x: x, [1, 2, 3])

        assert [(o.start, o.stop) for o in outcomes] == [(0, 1), (1, 2), (2, 3)]

    def test_results_leave_before_they_grow_too_large(self, monkeypatch):
        monkeypatch.setattr(base, "REPORT_BYTES", 1000)
        monkeypatch.setattr(base, "CLOCK_NS", 0)

        outcomes = self.collect(lambda x: np.zeros(60), [1, 2, 3, 4, 5])

        assert [(o.start, o.stop) for o in outcomes] == [(0, 3), (3, 5)]

    def test_short_tasks_leave_together(self):
        assert [(o.start, o.stop) for o in self.collect(lambda x: x, range(100))] == [(0, 100)]

    def test_the_running_task_is_visible_during_the_call_and_none_afterwards(self):
        words, seen = [-1, 0, 0], []

        def f(x):
            seen.append(words[0])

        tasks = distribute(f, [list(range(10))], {})
        list(run_chunk(f, "f", tasks, Encoder(None, False), range(3, 6), words))

        assert seen == [3, 4, 5]
        assert words[0] == -1


class TestSlowTasks:
    """Which tasks an outcome lists with their times."""

    START_S = 1_000_000.0

    @pytest.fixture
    def run(self, monkeypatch):
        """Return a function that calls tasks of given durations in ms; negative: they fail."""
        now_ns = 5_000_000_000

        def f(duration_ms):
            nonlocal now_ns
            now_ns += round(abs(duration_ms) * 1e6)
            if duration_ms < 0:
                raise ValueError

        def run(durations_ms):
            tasks = distribute(f, [durations_ms], {})
            chunk = range(len(durations_ms))
            outcomes = list(run_chunk(f, "f", tasks, Encoder(None, False), chunk, [-1, 0, 0]))
            return [entry for outcome in outcomes for entry in outcome.slow]

        monkeypatch.setattr(base, "monotonic_ns", lambda: now_ns)
        monkeypatch.setattr(base, "time", lambda: self.START_S + now_ns / 1e9 - 5)
        return run

    def test_tasks_are_listed_from_ten_milliseconds_on(self, run):
        assert run([9.9, 10, 3, 45]) == [
            (1, 1, pytest.approx(self.START_S + 0.0099), pytest.approx(0.01)),
            (3, 1, pytest.approx(self.START_S + 0.0229), pytest.approx(0.045)),
        ]

    def test_tasks_that_fail_are_listed_too(self, run):
        assert run([1, -20]) == [(1, 1, pytest.approx(self.START_S + 0.001), 0.02)]

    def test_tasks_that_share_a_look_at_the_clock_are_listed_together(self, run, monkeypatch):
        monkeypatch.setattr(base, "CLOCK_NS", 10**9)

        # The blocks are 1, 2 and 4 tasks long.
        assert run([0.1, 0.1, 0.1, 4, 4, 4, 4, 1]) == [
            (3, 4, pytest.approx(self.START_S + 0.0003), pytest.approx(0.016))
        ]

    def test_times_go_on_after_results_have_left(self, run, monkeypatch):
        monkeypatch.setattr(base, "REPORT_NS", -1)

        assert run([20, 30]) == [
            (0, 1, self.START_S, 0.02),
            (1, 1, pytest.approx(self.START_S + 0.02), 0.03),
        ]


def events_of_tasks(runner: Runner, chunks: list[range]) -> list[Outcome | NotCalled]:
    """Return what becomes of the tasks of `chunks`, which were submitted before."""
    events, n_left = list[Any](), sum(map(len, chunks))
    for event in events_of(runner):
        if isinstance(event, (Outcome, NotCalled)):
            events.append(event)
            n_left -= event.stop - event.start
            if n_left <= 0:
                break
    return events


CHUNKS = [range(4), range(4, 6), range(6, 7)]
REST = [NotCalled(1, 4), NotCalled(4, 6), NotCalled(6, 7)]  # after task 0 has run


class TestDrain:
    """After the wish to drain nothing new is started, and all that was not started comes back."""

    @pytest.fixture
    def hold(self, tmp_path) -> Iterator[Callable[[Callable[[], Any]], None]]:
        """Return a function that calls another one while task 0 runs, held by its `path`."""
        path = tmp_path / "hold"
        os.mkfifo(path)

        def hold(meanwhile):
            with open(path, "w"):  # as soon as the task opens it
                meanwhile()

        hold.path = path
        return hold

    def start(self, runner, path, end=lambda: None):
        def f(x):
            if x == 0:
                path.read_text()
                end()
            return x

        runner.prepare(make_assignment(f, list(range(7))))
        for chunk in CHUNKS:
            runner.submit(chunk)

    def test_the_running_task_ends_and_the_others_come_back(self, lasting_child, hold):
        self.start(lasting_child, hold.path)
        hold(lasting_child.drain)

        outcome, *rest = events_of_tasks(lasting_child, CHUNKS)

        assert values_by_index([outcome]) == {0: 0}
        assert rest == REST

    def test_an_inline_task_ends_and_the_others_come_back(self):
        runner = InlineRunner(lambda x: runner.drain())
        runner.prepare(make_assignment(lambda x: x, list(range(7))))
        for chunk in CHUNKS:
            runner.submit(chunk)

        outcome, *rest = events_of_tasks(runner, CHUNKS)

        assert (outcome.start, outcome.stop) == (0, 1)
        assert rest == REST

    def test_chunks_that_are_submitted_afterwards_come_back(self, runner):
        runner.prepare(make_assignment(lambda x: x, list(range(7))))
        runner.drain()
        for chunk in CHUNKS:
            runner.submit(chunk)

        assert events_of_tasks(runner, CHUNKS) == [NotCalled(0, 4), *REST[1:]]

    def test_the_next_run_calls_its_tasks(self, runner):
        runner.prepare(make_assignment(lambda x: x, [1, 2]))
        runner.drain()
        runner.submit(range(2))
        assert events_of_tasks(runner, [range(2)]) == [NotCalled(0, 2)]

        runner.prepare(make_assignment(lambda x: -x, [1, 2]))

        assert values_by_index(run_tasks(runner, [range(2)])) == {0: -1, 1: -2}

    def test_if_the_running_task_crashes_it_fails_and_the_others_come_back(
        self, start_runner, hold
    ):
        """Its child has no successor: that would have nothing to do."""
        runner = start_runner()
        self.start(runner, hold.path, lambda: os._exit(3))
        hold(runner.drain)

        outcome, *rest = events_of_tasks(runner, CHUNKS)

        assert [failure["type"] for failure in outcome.failures] == ["exit"]
        assert rest == REST
        assert runner.pid == 0
        runner.submit(range(5, 7))
        assert runner.poll() == [NotCalled(5, 7)]

    def test_a_child_that_dies_before_it_has_started_a_task_costs_nothing(self, start_runner):
        runner = start_runner()
        runner.prepare(make_assignment(lambda x: x, list(range(7))))
        first_event(runner)
        os.kill(runner.pid, signal.SIGSTOP)
        runner.drain()
        runner.submit(range(1))
        os.kill(runner.pid, signal.SIGKILL)

        assert events_of_tasks(runner, [range(1)]) == [NotCalled(0, 1)]


class NastyError(Exception):
    """An exception whose text cannot be had."""

    def __str__(self):
        raise RuntimeError("no text")


class NastyCode:
    def __repr__(self):
        raise RuntimeError("no text")


@pytest.mark.parametrize(
    "error",
    [NastyError(), SystemExit(NastyCode()), KeyboardInterrupt(), ValueError("x" * 10_000_000)],
    ids=lambda error: type(error).__name__,
)
def test_a_failure_is_described_whatever_the_exception_does(error):
    fields = describe_failure(error, 3, "f", None)

    assert fields["index"] == 3
    assert len(fields["message"]) < 10_000


class TestOutcome:
    @pytest.mark.parametrize(
        ("failed", "runs"),
        [
            ([], [range(2, 7)]),
            ([2], [range(3, 7)]),
            ([6], [range(2, 6)]),
            ([3, 5], [range(2, 3), range(4, 5), range(6, 7)]),
            ([5, 3], [range(2, 3), range(4, 5), range(6, 7)]),
            ([2, 3, 4, 5, 6], []),
        ],
    )
    def test_succeeded_leaves_out_failed_tasks(self, failed, runs):
        outcome = Outcome(2, 7, [{"index": index} for index in failed])

        assert outcome.succeeded() == runs
        assert outcome.stop - outcome.start - len(outcome.failures) == sum(map(len, runs))


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

        event = first_event(runner)

        assert isinstance(event, Unready)
        assert "exit code 5" in event.reason
        assert "while the function was loaded" in event.reason

    def test_after_a_crash_while_loading_another_function_runs(self, start_runner):
        runner = start_runner()
        assignment = make_assignment(lambda x: x, [1])
        assignment.func = b"garbage"
        runner.prepare(assignment)
        assert isinstance(first_event(runner), Unready)

        runner.prepare(make_assignment(lambda x: -x, [1]))

        assert values_by_index(run_tasks(runner, [range(1)])) == {0: -1}

    def test_what_an_earlier_function_has_left_behind_costs_the_next_one_nothing(
        self, start_runner, tmp_path
    ):
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

        assert isinstance(first_event(runner), Ready)
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
        runner.send(Kind.SHOW, ([], 0))

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

    def test_a_child_killed_before_it_was_prepared_is_replaced_or_unready(self, start_runner):
        """Nobody waits for ever."""
        runner = start_runner()
        os.kill(runner.pid, signal.SIGKILL)
        runner.prepare(make_assignment(lambda x: x, [1]))

        assert isinstance(first_event(runner), (Ready, Unready))

    def test_tasks_whose_child_dies_after_their_return_are_failed_one_by_one(self, start_runner):
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

    def test_a_thread_that_keeps_running_does_not_keep_the_child_alive(self, start_runner):
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


def wait_until(is_true: Callable[[], Any]) -> None:
    """Look again and again, at most `LIMIT_S`."""
    deadline = time.monotonic() + LIMIT_S
    while not is_true():
        assert time.monotonic() < deadline, "it has not happened"
        select.select([], [], [], 0.002)


def is_gone(pid: int) -> bool:
    """Wait until a process has ended (a zombie has); False if it does not."""

    def has_ended() -> bool:
        try:
            state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
        except (FileNotFoundError, ProcessLookupError):
            return True
        return state in "ZX"

    try:
        wait_until(has_ended)
    except AssertionError:
        return False
    return True


def start_sleepers():
    """Start a process and one that leads a process group of its own; return their ids."""
    command = [sys.executable, "-c", "import signal; print(flush=True); signal.pause()"]
    sleepers = [subprocess.Popen(command, stdout=subprocess.PIPE) for _ in range(2)]
    for sleeper in sleepers:
        sleeper.stdout.readline()
    return [sleeper.pid for sleeper in sleepers]


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
    def test_it_ends_as_those_of_multiprocessing_and_the_tasks_resume_command(
        self, runner, tmp_path, end, status
    ):
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


class TestEnvironment:
    def environment_seen(self, start_runner, n_threads=1) -> dict[str, str]:
        runner = start_runner(ChildRunner, n_threads)
        runner.prepare(make_assignment(lambda x: dict(os.environ), [1]))
        (environment,) = values_by_index(run_tasks(runner, [range(1)])).values()
        return environment

    def test_the_place_of_the_agent_is_not_inherited_and_all_else_is(
        self, start_runner, monkeypatch
    ):
        launcher = [
            "OMPI_COMM_WORLD_RANK",
            "PMIX_RANK",
            "PMI_SIZE",
            "PRTE_LAUNCHED",
            "SLURM_STEP_ID",
            "SLURM_STEPID",
            "SLURM_PROCID",
            "SLURM_LOCALID",
            "SLURM_TASK_PID",
            "HYDI_CONTROL_FD",
            "MPI_LOCALNRANKS",
        ]
        launcher += ["OMPI_MCA_orte_hnp_uri", "OMPI_MCA_ess_base_vpid", "OMPI_MCA_pmix"]
        other = ["SLURM_JOB_ID", "SLURM_CPUS_PER_TASK", "MY_VARIABLE", "PYTHONPATH"]
        other += ["OMPI_MCA_btl", "OMPI_ALLOW_RUN_AS_ROOT", "OMPI_CC", "PMIX_MCA_gds"]
        other += ["PRTE_MCA_rmaps_default_mapping_policy", "PRTE_ALLOW_RUN_AS_ROOT_CONFIRM"]
        for name in launcher + other:
            monkeypatch.setenv(name, "/1")

        environment = self.environment_seen(start_runner)

        assert [name for name in launcher if name in environment] == []
        assert [name for name in other if environment.get(name) != "/1"] == []

    def test_libraries_get_the_number_of_threads_unless_it_is_set(self, start_runner, monkeypatch):
        for name in THREAD_VARIABLES:
            monkeypatch.delenv(name, raising=False)
        monkeypatch.setenv("MKL_NUM_THREADS", "7")

        environment = self.environment_seen(start_runner, n_threads=3)

        assert environment["OMP_NUM_THREADS"] == "3"
        assert environment["OPENBLAS_NUM_THREADS"] == "3"
        assert environment["NUMEXPR_NUM_THREADS"] == "3"
        assert environment["NUMBA_NUM_THREADS"] == environment["POLARS_MAX_THREADS"] == "3"
        assert environment["MKL_NUM_THREADS"] == "7"

    def test_the_environment_of_this_process_stays_as_it_is(self, monkeypatch):
        monkeypatch.setenv("PMI_RANK", "1")
        child_environment(5)

        assert os.environ["PMI_RANK"] == "1"
        assert os.environ.get("OMP_NUM_THREADS") != "5"

    def test_working_directory_and_search_path_are_the_callers(
        self, lasting_child, tmp_path, monkeypatch
    ):
        (tmp_path / "module_of_the_caller.py").write_text("def f(x):\n    return x + 1\n")
        monkeypatch.chdir(tmp_path)
        monkeypatch.syspath_prepend(str(tmp_path))
        import module_of_the_caller  # type: ignore[import-not-found]

        lasting_child.prepare(make_assignment(module_of_the_caller.f, [1]))
        assert values_by_index(run_tasks(lasting_child, [range(1)])) == {0: 2}

        lasting_child.prepare(make_assignment(lambda x: os.getcwd(), [1]))
        assert values_by_index(run_tasks(lasting_child, [range(1)])) == {0: str(tmp_path)}

    def test_standard_input_is_empty_and_standard_output_is_the_agents(self, start_runner, capfd):
        def f(x):
            print("printed by a task")
            return sys.stdin.read()

        runner = start_runner()
        runner.prepare(make_assignment(f, [1]))

        assert values_by_index(run_tasks(runner, [range(1)])) == {0: ""}
        assert capfd.readouterr().out == "printed by a task\n"

    @pytest.mark.parametrize("number", ["SIGINT", "SIGTERM", "SIGUSR1", "SIGUSR2"])
    def test_signals_that_end_a_job_are_left_to_the_agent(self, lasting_child, number):
        def f(x):
            os.kill(os.getpid(), getattr(signal, number))
            return x

        lasting_child.prepare(make_assignment(f, [1, 2]))

        assert values_by_index(run_tasks(lasting_child, [range(2)])) == {0: 1, 1: 2}

    def test_a_function_that_changes_the_streams_does_no_harm(self, start_runner):
        def f(x):
            sys.stdout.close()
            sys.stderr = None
            return x

        runner = start_runner()
        runner.prepare(make_assignment(f, [1]))

        assert values_by_index(run_tasks(runner, [range(1)])) == {0: 1}

    def test_a_stream_that_never_comes_back_holds_nothing_up(self, start_runner, capfd):
        def never(*args):
            threading.Event().wait()

        def fail(*args):
            raise RuntimeError("no")

        def spoil(name, flush):
            print("said before", name)
            if name == "object":
                stream = type("Stream", (), {"write": len, "flush": flush})()
                sys.stdout = sys.stderr = stream
            elif name == "method":
                sys.stdout.flush = flush
            elif name == "buffer":
                sys.stdout.buffer.flush = flush
            return name

        names = ["object", "none", "method", "none", "buffer", "none", "object"]
        runner = start_runner()
        runner.prepare(make_assignment(spoil, names, PerTask([never] * 6 + [fail])))
        outcomes = run_tasks(runner, [range(k, k + 1) for k in range(len(names))])

        assert values_by_index(outcomes) == dict(enumerate(names))
        # What was printed into a stream just before it is spoilt is lost with that stream.
        said = capfd.readouterr().out.split("\n")
        assert said.count("said before none") == 3
        assert said.count("said before object") == 2

    def test_what_is_printed_through_an_object_of_the_users_comes_out_in_time(
        self, start_runner, capfd
    ):
        class Loud:
            def __init__(self, stream):
                self.stream, self.kept = stream, []

            def write(self, text):
                self.kept.append(text.upper())

            def flush(self):
                self.stream.write("".join(self.kept))
                self.kept.clear()

        def f(x):
            if not isinstance(sys.stdout, Loud):
                sys.stdout = Loud(sys.stdout)
            print("said", x)

        runner = start_runner()
        runner.prepare(make_assignment(f, [0, 1]))
        for x in range(2):
            run_tasks(runner, [range(x, x + 1)])
            assert capfd.readouterr().out == f"SAID {x}\n"


class TestPlacing:
    @pytest.fixture
    def file(self, tmp_path) -> Path:
        path = tmp_path / "data"
        path.write_bytes(bytes(1000))
        return path

    def run(self, runner, func, n, answer, spec=None):
        runner.prepare(
            make_assignment(func, list(range(n)), in_memory=False, can_place=True, spec=spec)
        )
        return run_tasks(runner, [range(n)], answer)

    def test_a_large_array_is_written_where_the_agent_says(self, lasting_child, file):
        requests = []

        def answer(request):
            requests.append(request)
            return str(file), 1000 + request.index * LARGE.nbytes

        outcomes = self.run(lasting_child, lambda x: LARGE + x, 3, answer)

        asked = [(each.index, each.k, each.shape, each.dtype) for each in requests]
        assert asked == [(k, 0, LARGE.shape, "<f8") for k in range(3)]
        assert file.read_bytes() == bytes(1000) + b"".join((LARGE + k).tobytes() for k in range(3))
        assert all(is_placed(p) for o in outcomes for each in o.content.parts for p in each)

    def test_the_bytes_are_those_in_c_order(self, lasting_child, file):
        outcomes = self.run(
            lasting_child,
            lambda x: np.asfortranarray(np.arange(PLACED_BYTES // 8).reshape(2, -1)),
            1,
            lambda request: (str(file), 0),
        )

        assert failures_by_index(outcomes) == {}
        assert file.read_bytes() == np.arange(PLACED_BYTES // 8).tobytes()

    def test_without_a_place_it_travels(self, lasting_child):
        outcomes = self.run(lasting_child, lambda x: LARGE + x, 2, lambda request: None)

        arrays = [each[0] for o in outcomes for each in o.content.parts]
        np.testing.assert_array_equal(arrays, [LARGE, LARGE + 1])

    def test_rows_are_placed_too(self, lasting_child, file):
        outcomes = self.run(
            lasting_child,
            lambda x: LARGE,
            1,
            lambda request: (str(file), 0),
            spec=RowSpec((len(LARGE),), 0, "<f8"),
        )

        assert [is_placed(row) for o in outcomes for row in o.content.rows] == [True]
        assert file.read_bytes() == LARGE.tobytes()

    def test_a_medium_that_refuses_is_the_storage_and_not_the_task(self, lasting_child):
        """A full disk ends the run; it is not a mistake of the function."""
        outcomes = self.run(lasting_child, lambda x: LARGE, 1, lambda request: ("/dev/full", 0))

        (failure,) = failures_by_index(outcomes).values()
        assert failure["type"] == MEDIUM
        assert "/dev/full" in failure["message"]
        assert "No space left" in failure["message"]

    def test_chunks_that_come_in_while_it_waits_are_run_afterwards(self, lasting_child, file):
        lasting_child.prepare(
            make_assignment(lambda x: LARGE, [1, 2, 3, 4], in_memory=False, can_place=True)
        )
        lasting_child.submit(range(2))
        outcomes, is_submitted = list[Outcome](), False
        for event in events_of(lasting_child):
            if isinstance(event, PlaceRequest):
                if not is_submitted:
                    lasting_child.submit(range(2, 4))
                    is_submitted = True
                lasting_child.answer(event, (str(file), 0))
            elif isinstance(event, Outcome):
                outcomes.append(event)
                if event.stop == 4:
                    break

        assert indices_of(outcomes) == [0, 1, 2, 3]

    def prepare_large(self, runner, n):
        tasks = list(range(n))
        runner.prepare(make_assignment(lambda x: LARGE + x, tasks, in_memory=False, can_place=True))
        for k in tasks:
            runner.submit(range(k, k + 1))
        assert isinstance(first_event(runner), Ready)

    def test_what_is_granted_to_a_dead_child_does_not_reach_the_next(self, start_runner, file):
        runner = start_runner()
        self.prepare_large(runner, 2)
        of_the_dead = first_event(runner)
        os.kill(runner.pid, signal.SIGKILL)

        answered, events = False, list[Any]()
        for event in events_of(runner):
            events.append(event)
            if isinstance(event, PlaceRequest):
                if not answered:
                    runner.answer(of_the_dead, (str(file), 1000 + LARGE.nbytes))
                    answered = True
                runner.answer(event, (str(file), 1000))
            if isinstance(event, Outcome) and event.stop == 2:
                break

        assert [type(event) for event in events] == [Outcome, Ready, PlaceRequest, Outcome]
        assert file.read_bytes() == bytes(1000) + (LARGE + 1).tobytes()

    def test_what_a_dead_child_asks_is_not_told(self, start_runner):
        runner = start_runner()
        self.prepare_large(runner, 2)
        channel, process = runner.descriptors()
        select.select([channel], [], [], LIMIT_S)
        os.kill(runner.pid, signal.SIGKILL)
        assert select.select([process], [], [], LIMIT_S)[0]

        assert [type(event) for event in runner.poll()] == [Outcome]

    def test_a_crash_after_placing_costs_its_task_alone(self, start_runner, file):
        def f(x):
            if x == 1:
                # The array is on its way, and then the process dies before it has reported.
                real = os.pwrite

                def write_half(descriptor, data, offset):
                    real(descriptor, data[: len(data) // 2], offset)
                    os._exit(1)

                os.pwrite = write_half
            return LARGE

        runner = start_runner()
        outcomes = self.run(runner, f, 3, lambda request: (str(file), request.index * LARGE.nbytes))

        assert set(failures_by_index(outcomes)) == {1}
        assert sorted(i for o in outcomes for r in o.succeeded() for i in r) == [0, 2]


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


PARENT = """
import json, os, signal, subprocess, sys
import cloudpickle, numpy as np
sys.path.insert(0, sys.argv[1])
import test_runner as t

def f(x):
    return [os.getpid(), *t.start_sleepers()]

runner = t.ChildRunner()
runner.prepare(t.make_assignment(f, [1, 2]))
values = t.values_by_index(t.run_tasks(runner, [range(1)]))
print(json.dumps(values[0]), flush=True)
if sys.argv[2] == "during a task":
    runner.prepare(t.make_assignment(lambda x: signal.pause(), [1]))
    t.first_event(runner)
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
            [sys.executable, "-c", PARENT, str(Path(__file__).parent), when],
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


@pytest.mark.once
def test_a_process_that_cannot_be_started_is_a_reason_and_is_tried_again(start_runner):
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
