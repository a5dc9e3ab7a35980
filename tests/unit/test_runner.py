"""Runners: one contract for both kinds."""

from __future__ import annotations

import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import cloudpickle
import numpy as np
import pytest
from running import (
    events_of,
    failures_by_index,
    make_assignment,
    only_event,
    run_tasks,
    values_by_index,
)

from acme_mpi import PerTask, Shared
from acme_mpi.results.encoder import encoder_of
from acme_mpi.results.parts import parts_of
from acme_mpi.results.spec import RowSpec
from acme_mpi.runner import chunk as chunk_module
from acme_mpi.runner import failure
from acme_mpi.runner.base import NotCalled, Outcome, Ready, Runner, Unready
from acme_mpi.runner.chunk import run_chunk
from acme_mpi.runner.failure import describe_failure
from acme_mpi.runner.inline import InlineRunner
from acme_mpi.tasks.distributing import distribute

pytestmark = pytest.mark.once


class TestContract:
    """What holds for every runner."""

    def run(self, runner, func, *args, chunks=None, **kwargs):
        options = {k: kwargs.pop(k) for k in ("spec", "in_memory") if k in kwargs}
        runner.prepare(make_assignment(func, *args, **options, **kwargs))
        n_tasks = distribute(func, args, kwargs).n_tasks
        return run_tasks(runner, [range(n_tasks)] if chunks is None else chunks)

    def test_ready_comes_first(self, runner):
        runner.prepare(make_assignment(lambda x: x, [1]))

        assert isinstance(only_event(runner), Ready)

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

        outcomes = self.run(runner, lambda x: threading.Lock() if x else x, [0, 1])

        assert failures_by_index(outcomes)[1]["type"] == "ResultError"
        assert values_by_index(outcomes) == {0: 0}

    def test_a_result_that_does_not_fit_shows_both_sides(self, runner):
        """A result that does not fit is a failure with both sides."""
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

    def test_a_changed_argument_is_shown_as_it_was_given(self, runner):
        """An argument that a task has changed is shown as it was given."""

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

    def test_a_function_that_cannot_be_loaded_is_unready(self, runner):
        """A function that cannot be loaded is unready with the reason."""
        assignment = make_assignment(lambda x: x, [1])
        assignment.func = b"c__no_such_module__\nf\n."
        runner.prepare(assignment)

        event = only_event(runner)

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
        encoder = encoder_of(spec, False)
        chunk = range(tasks.n_tasks) if chunk is None else chunk
        return list(run_chunk(func, "f", tasks, encoder, chunk, [-1, 0, 0]))

    def test_results_leave_after_every_long_task(self, monkeypatch):
        """Results leave after every task that takes longer than the bound."""
        monkeypatch.setattr(chunk_module, "REPORT_NS", -1)
        monkeypatch.setattr(chunk_module, "CLOCK_NS", 0)

        outcomes = self.collect(lambda x: x, [1, 2, 3])

        assert [(o.start, o.stop) for o in outcomes] == [(0, 1), (1, 2), (2, 3)]

    def test_results_leave_before_they_grow_too_large(self, monkeypatch):
        monkeypatch.setattr(chunk_module, "REPORT_BYTES", 1000)
        monkeypatch.setattr(chunk_module, "CLOCK_NS", 0)

        outcomes = self.collect(lambda x: np.zeros(60), [1, 2, 3, 4, 5])

        assert [(o.start, o.stop) for o in outcomes] == [(0, 3), (3, 5)]

    def test_short_tasks_leave_together(self):
        assert [(o.start, o.stop) for o in self.collect(lambda x: x, range(100))] == [(0, 100)]

    def test_the_running_task_is_visible_during_the_call(self):
        """The running task is visible during the call and none afterwards."""
        words, seen = [-1, 0, 0], []

        def f(x):
            seen.append(words[0])

        tasks = distribute(f, [list(range(10))], {})
        list(run_chunk(f, "f", tasks, encoder_of(None, False), range(3, 6), words))

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
            outcomes = list(run_chunk(f, "f", tasks, encoder_of(None, False), chunk, [-1, 0, 0]))
            run.calls = {k: call for each in outcomes for k, call in each.calls.items()}
            return [entry for outcome in outcomes for entry in outcome.slow]

        monkeypatch.setattr(chunk_module, "monotonic_ns", lambda: now_ns)
        monkeypatch.setattr(chunk_module, "time", lambda: self.START_S + now_ns / 1e9 - 5)
        return run

    def test_tasks_are_listed_from_ten_milliseconds_on(self, run):
        assert run([9.9, 10, 3, 45]) == [
            (1, 1, pytest.approx(self.START_S + 0.0099), pytest.approx(0.01)),
            (3, 1, pytest.approx(self.START_S + 0.0229), pytest.approx(0.045)),
        ]

    def test_the_slowest_are_told_with_their_arguments(self, run, monkeypatch):
        monkeypatch.setattr(chunk_module, "N_SLOWEST", 2)

        run([99, 100, 300, 200, 50, 150, 400])

        assert run.calls == {1: "f(100)", 2: "f(300)", 3: "f(200)", 6: "f(400)"}

    def test_a_call_that_cannot_be_shown_is_none(self, monkeypatch):
        class Shy:
            def __repr__(self):
                sys.exit("no")

        def f(x):
            pass

        tasks = distribute(f, [[Shy()]], {})
        monkeypatch.setattr(chunk_module, "TOLD_NS", 0)
        monkeypatch.setattr(chunk_module, "SLOW_NS", 0)
        (outcome,) = run_chunk(f, "f", tasks, encoder_of(None, False), range(1), [-1, 0, 0])

        assert (outcome.calls, outcome.failures) == ({0: ""}, [])

    def test_tasks_that_fail_are_listed_too(self, run):
        assert run([1, -20]) == [(1, 1, pytest.approx(self.START_S + 0.001), 0.02)]

    def test_tasks_that_share_a_clock_reading_are_one_entry(self, run, monkeypatch):
        """Tasks that share a look at the clock are listed together."""
        monkeypatch.setattr(chunk_module, "CLOCK_NS", 10**9)

        # The blocks are 1, 2 and 4 tasks long.
        assert run([0.1, 0.1, 0.1, 4, 4, 4, 4, 1]) == [
            (3, 4, pytest.approx(self.START_S + 0.0003), pytest.approx(0.016))
        ]

    def test_times_go_on_after_results_have_left(self, run, monkeypatch):
        monkeypatch.setattr(chunk_module, "REPORT_NS", -1)

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

    def test_if_the_running_task_crashes_it_alone_fails(self, start_runner, hold):
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

    def test_a_child_that_dies_before_any_task_costs_nothing(self, start_runner):
        """A child that dies before it has started a task costs nothing."""
        runner = start_runner()
        runner.prepare(make_assignment(lambda x: x, list(range(7))))
        only_event(runner)
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


def test_a_failure_is_described_where_nothing_can_be_imported_any_more(monkeypatch):
    """As a task has cleared `sys.path`."""
    monkeypatch.setattr(sys, "path", [])
    monkeypatch.delitem(sys.modules, "sysconfig", raising=False)

    try:
        fail()
    except ValueError as error:
        fields = describe_failure(error, 3, "f", None)

    assert fields["message"] == "failed"
    assert Path(fields["location"].split(":")[0]).name == "test_runner.py"


def fail():
    raise ValueError("failed")


def test_a_failure_that_cannot_be_described_is_that_of_its_own_task(monkeypatch):
    def no_memory(error):
        raise MemoryError

    def func(i):
        return fail() if i == 1 else float(i)

    monkeypatch.setattr(failure, "user_frames", no_memory)
    tasks = distribute(func, [range(3)], {})

    (outcome,) = run_chunk(func, "f", tasks, encoder_of(None, False), range(3), [-1, 0, 0])

    assert [(f["index"], f["type"]) for f in outcome.failures] == [(1, "ValueError")]
    assert outcome.succeeded() == [range(1), range(2, 3)]


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


# A function that crashes travels by value, with all it calls.
cloudpickle.register_pickle_by_value(sys.modules[__name__])
