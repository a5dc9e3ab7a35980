"""The protocol between master and workers: every task is done exactly once.

Whatever happens to single ranks, nobody waits for ever.
"""

from __future__ import annotations

import threading
from itertools import chain
from typing import Any

import cloudpickle
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from playing import SCHEDULES, Script, ScriptedRunner, after_ready, assert_complete, play

from acme_mpi.comm import TAG_CHUNK, TAG_REPORT, SerialWorld
from acme_mpi.engine import worker as worker_module
from acme_mpi.engine.master import CREDIT, Master
from acme_mpi.engine.progress import Progress
from acme_mpi.engine.protocol import (
    Again,
    CallChunk,
    Ended,
    GivenBack,
    Joined,
    Report,
    Retired,
    from_ints,
    to_ints,
)
from acme_mpi.engine.schedule import FixedChunks
from acme_mpi.engine.worker import Worker
from acme_mpi.errors import StoreError
from acme_mpi.rules import Rules
from acme_mpi.runner.base import Assignment, NotCalled, Outcome, PlaceRequest, Unready
from acme_mpi.runner.failure import DIED, MEDIUM
from acme_mpi.runner.inline import InlineRunner
from acme_mpi.runner.surroundings import Surroundings
from acme_mpi.storage import Layout, MemoryStore
from acme_mpi.tasks.distributing import distribute
from acme_mpi.tasks.packing import pack

pytestmark = pytest.mark.once


class FailingStore(MemoryStore):
    """A store whose medium is full after some outcomes."""

    def __init__(
        self, *args: Any, n_good: int = 0, closes: bool = True, is_full: Any = None
    ) -> None:
        super().__init__(*args)
        self.n_good, self.closes, self.is_full = n_good, closes, is_full or threading.Event()

    def write(self, outcome: Outcome) -> None:
        if self.n_good == 0:
            self.is_full.set()
            raise StoreError("cannot write /full/disk: No space left on device")
        self.n_good -= 1
        super().write(outcome)

    def place(self, index: int, k: int, shape: Any, dtype: str) -> Any:
        if self.n_good == 0:
            raise StoreError("cannot write /full/disk: No space left on device")
        return None

    def close(self) -> None:
        if not self.closes:
            raise StoreError("cannot bring results to the disk")


@pytest.mark.parametrize("n_tasks", [0, 1, 3, 100])
@pytest.mark.parametrize("size", [1, 2, 3, 5])
@pytest.mark.parametrize("make_schedule", SCHEDULES.values(), ids=SCHEDULES)
def test_every_task_is_done_exactly_once(make_schedule, size, n_tasks):
    seen = play(n_tasks, size, make_schedule=make_schedule)

    assert_complete(seen, n_tasks)
    assert seen.done == list(range(n_tasks))
    assert sorted(chain.from_iterable(seen.called)) == list(range(n_tasks))
    assert seen.n_ready <= size


@pytest.mark.parametrize("size", [2, 3])
def test_rank_0_may_be_master_only(size):
    seen = play(30, size, first_worker=1)

    assert_complete(seen, 30)
    assert seen.called[0] == []


class TestFailures:
    @pytest.mark.parametrize("failing", [{0}, {19}, {0, 19}, set(range(20))], ids=str)
    @pytest.mark.parametrize("size", [1, 3])
    def test_failing_tasks_do_not_stop_their_worker(self, size, failing):
        script = Script(failing=failing)

        seen = play(20, size, dict.fromkeys(range(size), script), SCHEDULES["chunks of 4"])

        assert_complete(seen, 20)
        assert [failure.index for failure in seen.failed] == sorted(failing)

    def test_a_failure_knows_its_rank_and_host(self):
        seen = play(9, 3, {k: Script(failing=set(range(9))) for k in range(3)})

        for failure in seen.failed:
            assert failure.index in seen.runners[failure.rank].called
            assert failure.host
            assert (failure.type, failure.message) == ("ValueError", f"bad {failure.index}")

    @pytest.mark.parametrize("crashing", [{0}, {5}, {7}, {1, 2, 6}, set(range(8))], ids=str)
    def test_a_crash_in_the_middle_of_a_chunk_costs_its_task_alone(self, crashing):
        """The tasks in front of it are reported later than the crash, being called again."""
        script = Script(crashing=crashing, step=2)

        seen = play(24, 2, {0: script, 1: script}, lambda n, workers: FixedChunks(n, workers, 8))

        assert_complete(seen, 24)
        assert {failure.index for failure in seen.failed} == crashing

    def test_a_million_equal_tracebacks_are_one_string(self):
        runner = ScriptedRunner(Script())
        world = SerialWorld()
        worker = Worker(world, runner, MemoryStore(world, Layout("", "f"), None, 2))
        for index in range(2):
            text = "".join(["Traceback", " of ", "both"])
            worker._chunks.append(worker_module._Open(range(index, index + 1)))
            fields = {"index": index, "type": "E", "message": "m", "traceback": text}
            worker._finish(Outcome(index, index + 1, [fields]))

        assert worker.failures[0].traceback is worker.failures[1].traceback


class TestSlowRanks:
    def test_one_slow_rank_keeps_only_what_it_holds(self):
        """It is held back until the others have done everything else."""
        n_tasks = 60
        runners = [ScriptedRunner(Script(step=1)) for _ in range(3)]
        slow = runners[2]

        def others_have_work() -> bool:
            n_called = sum(len(runner.called) for runner in runners[:2])
            return n_called + slow.n_submitted < n_tasks

        slow.script.is_held = after_ready(others_have_work)
        seen = play(n_tasks, 3, runners=runners)

        assert_complete(seen, n_tasks)
        assert len(seen.called[2]) <= CREDIT

    def test_a_rank_that_is_ready_too_late_holds_nobody_up(self):
        """It becomes ready when all tasks are done, and leaves with the others."""
        runners = [ScriptedRunner(Script()) for _ in range(3)]
        runners[2].script.is_held = lambda: sum(len(r.called) for r in runners[:2]) < 30

        seen = play(30, 3, runners=runners)

        assert_complete(seen, 30)
        assert seen.called[2] == []

    def test_a_rank_that_never_becomes_ready_holds_nobody_up(self):
        seen = play(30, 3, {1: Script(is_held=lambda: True)})

        assert_complete(seen, 30)
        assert seen.n_ready <= 2
        assert seen.called[1] == []


class TestRanksThatCannotWork:
    @pytest.mark.parametrize("unready", [0, 1, 2])
    def test_one_rank_that_is_not_ready_is_done_without(self, unready):
        has_started = threading.Event()
        scripts = {rank: Script(is_held=lambda: not has_started.is_set()) for rank in range(3)}
        scripts[unready] = Script(is_ready=False, is_held=lambda: bool(has_started.set()))

        seen = play(20, 3, scripts)

        assert_complete(seen, 20)
        assert seen.n_ready <= 2
        assert seen.called[unready] == []
        assert seen.workers[unready].retired_because == "no module named mymod"

    @pytest.mark.parametrize("size", [1, 3])
    @pytest.mark.parametrize("n_tasks", [0, 1, 20])
    def test_with_none_ready_nothing_is_done_and_nobody_hangs(self, size, n_tasks):
        seen = play(n_tasks, size, {k: Script(is_ready=False) for k in range(size)})

        assert (seen.done, seen.failed) == ([], [])
        assert seen.n_left == n_tasks
        assert seen.n_ready == 0

    @pytest.mark.parametrize("after", [0, 1, 4])
    @pytest.mark.parametrize("rank", [0, 1])
    @pytest.mark.parametrize("make_schedule", SCHEDULES.values(), ids=SCHEDULES)
    def test_a_rank_that_retires_midway_gives_everything_back(self, make_schedule, rank, after):
        """A rank that retires in the middle gives everything back."""
        script = Script(unready_after=after, step=1)

        seen = play(40, 3, {rank: script}, make_schedule)

        assert_complete(seen, 40)
        assert sorted(chain.from_iterable(seen.called)) == list(range(40))
        assert len(seen.called[rank]) <= after

    def test_a_rank_retiring_after_a_crash_returns_both_sides(self):
        """Its chunk was torn: the tasks before and behind the crash are not done."""
        script = Script(crashing={3}, unready_after=1)

        seen = play(16, 2, {0: script}, lambda n, workers: FixedChunks(n, workers, 8))

        assert_complete(seen, 16)

    def test_when_all_retire_the_rest_is_left_and_nobody_hangs(self):
        scripts = {k: Script(unready_after=3, step=1) for k in range(3)}

        seen = play(100, 3, scripts)

        assert len(seen.done) == 100 - seen.n_left
        assert len(seen.done) <= 9

    def test_a_chunk_on_its_way_to_a_retired_rank_comes_back(self):
        world, runner = SerialWorld(), ScriptedRunner(Script(is_ready=False))
        worker = Worker(world, runner, MemoryStore(world, Layout("", "f"), None, 10))
        worker.step()
        world.send(0, TAG_CHUNK, to_ints(CallChunk(4, 7)))
        worker.step()

        reports = [from_ints(world.poll(TAG_REPORT)[1]) for _ in range(2)]
        assert world.poll(TAG_REPORT) is None
        assert reports == [Retired(), GivenBack(4, 7, 1, 0, 0)]


class TestStorageLost:
    @pytest.mark.parametrize("rank", [0, 1])
    @pytest.mark.parametrize("n_good", [0, 2])
    def test_nothing_new_is_issued_and_nobody_hangs(self, rank, n_good):
        """The others wait until the medium is full, and then finish what they hold."""
        is_full = threading.Event()
        scripts = {
            other: Script(is_held=after_ready(lambda: not is_full.is_set())) for other in range(3)
        }
        scripts[rank] = Script(step=1)

        def make_store(*args: Any) -> MemoryStore:
            return FailingStore(*args, n_good=n_good, is_full=is_full)

        seen = play(1000, 3, scripts, make_stores={rank: make_store})

        assert "No space left" in seen.workers[rank].storage_error
        assert [worker.storage_error for worker in seen.workers].count("") == 2
        assert len(seen.done) + seen.n_left == 1000
        submitted = sum(seen.runners[other].n_submitted for other in range(3) if other != rank)
        assert len(seen.done) == n_good + submitted <= n_good + 2 * CREDIT

    def test_a_place_that_is_refused_is_storage_lost_too(self):
        seen = play(100, 1, {0: Script(placing={0})}, make_stores={0: FailingStore})

        assert "No space left" in seen.workers[0].storage_error
        assert seen.runners[0].answers == []
        assert seen.n_left == 100

    def test_a_failing_medium_in_the_runner_is_storage_lost(self):
        """The runner writes large arrays itself."""
        world, runner = SerialWorld(), ScriptedRunner(Script())
        worker = Worker(world, runner, MemoryStore(world, Layout("", "f"), None, 4))
        worker.step()
        world.send(0, TAG_CHUNK, to_ints(CallChunk(0, 4)))
        fields = {"index": 1, "type": MEDIUM, "message": "cannot write /full/disk"}
        runner._outcome = lambda part: Outcome(0, 3, [fields])  # type: ignore[method-assign]
        worker.step()

        assert worker.storage_error == "cannot write /full/disk"
        assert worker.failures == []

    def test_an_error_at_the_end_is_remembered(self):
        def make_store(*args: Any) -> MemoryStore:
            return FailingStore(*args, n_good=1000, closes=False)

        seen = play(10, 2, make_stores={1: make_store})

        assert seen.workers[1].storage_error == "cannot bring results to the disk"

    def test_a_users_exception_named_like_ours_is_a_failed_task(self):
        """An exception of a user that is called like ours is a failed task."""

        class StoreError(Exception):
            """The shop is closed."""

        def f(x):
            raise StoreError("closed on Sundays")

        packed = pack(None, distribute(f, [[1, 2]], {}))
        world, runner = SerialWorld(), InlineRunner(f)
        runner.prepare(Assignment(cloudpickle.dumps(f), packed, Surroundings.here(), None, True))
        worker = Worker(world, runner, MemoryStore(world, Layout("", "f"), None, 2))
        master = Master(world, FixedChunks(2, 1), Progress(2, bar=False), {0})
        while not (master.is_finished and worker.is_finished):
            assert master.step() or worker.step() or runner.has_work

        assert worker.storage_error == ""
        assert [failure.message for failure in worker.failures] == ["closed on Sundays"] * 2


class TestPlacing:
    def test_a_request_is_answered_with_what_the_store_says(self):
        class PlacingStore(MemoryStore):
            def place(self, index: int, k: int, shape: Any, dtype: str) -> tuple[str, int]:
                return f"/site/{index}/{k}/{shape}/{dtype}", 8

        seen = play(3, 1, {0: Script(placing={1})}, make_stores={0: PlacingStore})

        assert_complete(seen, 3)
        assert seen.runners[0].answers == [("/site/1/0/(3,)/<f8", 8)]

    @pytest.mark.parametrize(
        ("event", "expected"),
        [
            (
                Outcome(
                    0, 1, [{"index": 0, "type": "killed", DIED: True, "is_from_outside": True}]
                ),
                Again,
            ),
            (Outcome(0, 1, [{"index": 0, "type": "ValueError"}]), Again),
            (NotCalled(0, 1), GivenBack),
            (Unready("again and again"), GivenBack),
        ],
        ids=["dies", "raises", "drained", "retires"],
    )
    def test_what_was_placed_is_released_before_a_task_moves(self, event, expected, monkeypatch):
        """What was placed is let go of before another rank may get the task."""
        told: list[object] = []

        class HoldingStore(MemoryStore):
            def let_go(self, tasks: range) -> None:
                told.append(tasks)

        world, runner = SerialWorld(), ScriptedRunner(Script())
        rules = Rules(retries=1, crash_limit=2)
        worker = Worker(world, runner, HoldingStore(world, Layout("", "f"), None, 4), rules)
        worker.step()
        world.send(0, TAG_CHUNK, to_ints(CallChunk(0, 1, 0, 0)))
        events = [PlaceRequest(1, 0, 0, (3,), "<f8"), event]
        monkeypatch.setattr(runner, "poll", lambda: [events.pop(0)] if events else [])
        monkeypatch.setattr(
            world, "send", lambda rank, tag, numbers: told.append(type(from_ints(numbers)))
        )
        while events:
            worker.step()

        assert told[:2] == [range(1), expected]

    def test_in_memory_everything_travels(self):
        seen = play(3, 1, {0: Script(placing={0, 2})})

        assert_complete(seen, 3)
        assert seen.runners[0].answers == [None, None]


class TestSlowStore:
    """What an agent does with results while its runner has more of them."""

    class Store(MemoryStore):
        def write(self, outcome: Outcome) -> None:
            worker_module.time.now_s += 0.25  # type: ignore[attr-defined]
            super().write(outcome)

    class Runner(ScriptedRunner):
        """Says all that it has to say at once."""

        def poll(self) -> list[Any]:
            return list(chain.from_iterable(iter(super().poll, [])))

    @pytest.fixture
    def worker(self, clock) -> Worker:
        world = SerialWorld()
        worker = Worker(world, self.Runner(Script()), self.Store(world, Layout("", "f"), None, 9))
        world.send(0, TAG_CHUNK, to_ints(CallChunk(0, 9, 0, 0)))
        return worker

    def reports(self, worker: Worker) -> list[Report]:
        world, found = worker._world, []
        while (arrived := world.poll(TAG_REPORT)) is not None:
            found.append(from_ints(arrived[1]))
        return found

    def test_each_step_handles_one_event(self, worker):
        """Each step handles one event so that rank 0 answers in between."""
        reported = []
        for _ in range(5):
            worker.step()
            reported.append(list(map(type, self.reports(worker))))

        assert reported == [[Joined], *[[Ended]] * 3, []]

    def test_a_task_is_told_to_take_as_long_as_it_takes_to_write_it(self, worker):
        for _ in range(5):
            worker.step()

        ended = [report for report in self.reports(worker) if isinstance(report, Ended)]
        assert [each.busy_ns for each in ended] == [250_000_000] * 3  # called in 3 ms


@settings(deadline=None, max_examples=25)
@given(data=st.data())
def test_every_task_is_accounted_for_whatever_happens(data):
    """Random sizes, schedules, failures, crashes, late and leaving ranks."""
    n_tasks, size = data.draw(st.integers(0, 40)), data.draw(st.integers(1, 4))
    indices = st.sets(st.integers(0, 40), max_size=4)
    failing, crashing = data.draw(indices), data.draw(indices)
    scripts = {
        rank: Script(
            is_ready=data.draw(st.booleans()) or data.draw(st.booleans()),
            failing=failing,
            crashing=set(crashing),
            unready_after=data.draw(st.none() | st.integers(0, 10)),
            placing=data.draw(indices),
            step=data.draw(st.integers(1, 5)),
        )
        for rank in range(size)
    }
    make_schedule = data.draw(st.sampled_from(list(SCHEDULES.values())))

    seen = play(n_tasks, size, scripts, make_schedule)

    accounted = seen.done + [failure.index for failure in seen.failed]
    assert len(accounted) == len(set(accounted))
    assert len(accounted) + seen.n_left == n_tasks
    if any(script.is_ready and script.unready_after is None for script in scripts.values()):
        assert_complete(seen, n_tasks)


def test_the_messages_of_the_protocol_fit_into_64_bits():
    """Indices of a million million tasks travel unchanged."""
    world = SerialWorld()
    big = np.int64(10**12)
    world.send(0, TAG_CHUNK, to_ints(CallChunk(big, big + 1)))

    assert from_ints(world.poll(TAG_CHUNK)[1]) == CallChunk(10**12, 10**12 + 1)
