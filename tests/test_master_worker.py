"""The protocol between master and workers, on threads, with runners that follow a script.

Whatever happens to single ranks, every task is done exactly once and nobody waits for ever.
"""

from __future__ import annotations

import logging
import math
import sys
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from itertools import chain
from typing import Any

import cloudpickle
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from acme_mpi import master as master_module
from acme_mpi import worker as worker_module
from acme_mpi.comm import TAG_CHUNK, TAG_REPORT, SerialWorld, ThreadWorld
from acme_mpi.errors import Failure, StoreError
from acme_mpi.loop import Loop
from acme_mpi.master import CREDIT, Master
from acme_mpi.progress import Progress
from acme_mpi.protocol import (
    Again,
    Alive,
    CallChunk,
    Drain,
    Ended,
    GivenBack,
    Joined,
    Left,
    Limit,
    Order,
    Report,
    Retired,
    Stop,
    from_ints,
    to_ints,
)
from acme_mpi.results import Content
from acme_mpi.rules import Rules
from acme_mpi.runner.base import (
    DIED,
    MEDIUM,
    Assignment,
    NotCalled,
    Outcome,
    PlaceRequest,
    Ready,
    Runner,
    Unready,
)
from acme_mpi.runner.inline import InlineRunner
from acme_mpi.runner.packing import pack
from acme_mpi.runner.surroundings import Surroundings
from acme_mpi.schedule import Factoring, FixedChunks
from acme_mpi.storage import Layout, MemoryStore
from acme_mpi.tasks import distribute
from acme_mpi.worker import Worker

pytestmark = pytest.mark.once

LIMIT_S = 20.0
LONGEST_PAUSE_S = 0.001

SCHEDULES = {
    "one at a time": FixedChunks,
    "chunks of 4": lambda n_tasks, n_workers: FixedChunks(n_tasks, n_workers, 4),
    "factoring": Factoring,
}


@dataclass
class Script:
    """What the runner of one rank does; by default all goes well.

    Attributes
    ----------
    is_ready : bool
        False: its function cannot be loaded.
    is_held : callable
        As long as this is true the runner says nothing.
    failing : set of int
        Tasks that raise.
    failures_left : dict of int to int
        Tasks that raise so many times, and then no more.
    crashing : set of int
        Tasks that kill the process: reported before those in front of them in their chunk.
    deaths_left : dict of int to int
        Tasks that do so as many times, and then no more.
    unready_after : int or None
        Number of tasks after which the runner gives up.
    placing : set of int
        Tasks whose result asks for a place first.
    step : int
        Tasks per outcome.
    running : callable
        Returns the task that is running, and for how many seconds.
    """

    is_ready: bool = True
    is_held: Callable[[], bool] = lambda: False
    failing: set[int] = field(default_factory=set)
    failures_left: dict[int, int] = field(default_factory=dict)
    deaths_left: dict[int, int] = field(default_factory=dict)
    crashing: set[int] = field(default_factory=set)
    unready_after: int | None = None
    placing: set[int] = field(default_factory=set)
    step: int = 3
    running: Callable[[], tuple[int, float] | None] = lambda: None


class ScriptedRunner(Runner):
    """Follows its script; the "value" of a task is its index."""

    def __init__(self, script: Script) -> None:
        self.script = script
        self.chunks: deque[range] = deque()
        self.called: list[int] = []
        self.n_submitted = 0
        self.answers: list[Any] = []
        self.limits: list[tuple[float, int]] = []
        self.is_draining = False
        self.is_stopped = False
        self._has_started = False
        self._placing: int | None = None

    def prepare(self, assignment: Any) -> None:
        raise AssertionError("prepared by the test")

    def submit(self, chunk: range) -> None:
        assert not self.is_stopped, "a chunk for a runner that was stopped"
        assert chunk, "an empty chunk"
        self.n_submitted += len(chunk)
        self.chunks.append(chunk)

    def forget(self) -> None:
        """Nothing was prepared."""

    look_s = None

    def limit(self, seconds: float, n_bytes: int) -> None:
        self.limits.append((seconds, n_bytes))

    def look(self) -> None:
        """Nothing hangs."""

    def running(self) -> tuple[int, float] | None:
        return self.script.running()

    def drain(self) -> None:
        self.is_draining = True

    def poll(self) -> list[Any]:
        assert not self.is_stopped
        script = self.script
        if script.is_held():
            return []
        if not self._has_started:
            self._has_started = True
            return [Ready() if script.is_ready else Unready("no module named mymod")]
        if not self.chunks or self._placing is not None:
            return []
        if script.unready_after is not None and len(self.called) >= script.unready_after:
            return [Unready("again and again")]
        chunk = self.chunks.popleft()
        if self.is_draining:
            return [NotCalled(chunk.start, chunk.stop)]
        crashed = [index for index in chunk if index in script.crashing or self._dies(index)]
        if crashed:
            return [self._crash(chunk, crashed[0])]
        if chunk[0] in script.placing:
            script.placing.discard(chunk[0])
            self.chunks.appendleft(chunk)
            self._placing = chunk[0]
            return [PlaceRequest(1, chunk[0], 0, (3,), "<f8")]
        part, rest = chunk[: script.step], chunk[script.step :]
        if rest:
            self.chunks.appendleft(rest)
        return [self._outcome(part)]

    def _crash(self, chunk: range, index: int) -> Outcome:
        before, after = range(chunk.start, index), range(index + 1, chunk.stop)
        self.chunks.extendleft(each for each in (after, before) if each)
        self.called.append(index)
        fields = {"index": index, "type": "killed", "message": "9", DIED: True}
        fields["is_from_outside"] = False
        return Outcome(index, index + 1, [fields])

    def _dies(self, index: int) -> bool:
        left = self.script.deaths_left
        left[index] = left.get(index, 0) - 1
        return left[index] >= 0

    def _fails(self, index: int) -> bool:
        left = self.script.failures_left
        left[index] = left.get(index, 0) - 1
        return index in self.script.failing or left[index] >= 0

    def _outcome(self, part: range) -> Outcome:
        self.called += part
        failing = [index for index in part if self._fails(index)]
        failures: list[Any] = [
            {"index": index, "type": "ValueError", "message": f"bad {index}"} for index in failing
        ]
        values = [index for index in part if index not in failing]
        content = Content(values=values, buffers=[])  # type: ignore[arg-type]
        return Outcome(part.start, part.stop, failures, content, 1_000_000 * len(part))

    def descriptors(self) -> list[int]:
        return []

    def answer(self, request: PlaceRequest, site: tuple[str, int] | None) -> None:
        self.answers.append(site)
        self._placing = None

    def stop(self) -> None:
        self.is_stopped = True


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


def after_ready(is_held: Callable[[], bool]) -> Callable[[], bool]:
    """Return an `is_held` that lets the runner say that it is ready, and holds it from then on."""
    n_looks = iter(range(sys.maxsize))
    return lambda: next(n_looks) > 0 and is_held()


@dataclass
class Seen:
    """What a run has led to, as rank 0 knows it, and what single ranks know."""

    done: list[int]
    failed: list[Failure]
    n_left: int
    n_ready: int
    n_reported: int
    n_reported_failed: int
    runners: list[ScriptedRunner]
    workers: list[Worker | None]
    stopped_because: str

    @property
    def called(self) -> list[list[int]]:
        return [runner.called for runner in self.runners]


def play(
    n_tasks: int = 20,
    size: int = 3,
    scripts: dict[int, Script] | None = None,
    make_schedule: Any = FixedChunks,
    make_stores: dict[int, Callable[..., MemoryStore]] | None = None,
    first_worker: int = 0,
    runners: list[ScriptedRunner] | None = None,
    rules: Rules = Rules(),  # noqa: B008 (immutable)
    deadline_s: float = math.inf,
    is_stop_asked: Callable[[], str] = str,
) -> Seen:
    """Play a whole run on threads; a run that does not end is an error."""
    scripts = scripts or {}
    if runners is None:
        runners = [ScriptedRunner(scripts.get(rank, Script())) for rank in range(size)]
    workers: list[Worker | None] = [None] * size
    deadline = time.monotonic() + LIMIT_S

    def be_rank(world: ThreadWorld) -> Any:
        master, schedule, progress = None, None, Progress(n_tasks, bar=False)
        make_store = (make_stores or {}).get(world.rank, MemoryStore)
        store = make_store(world, Layout("", "f"), None, n_tasks)
        if world.rank >= first_worker:
            workers[world.rank] = Worker(world, runners[world.rank], store, rules)
        worker = workers[world.rank]
        if world.is_master:
            members = set(range(first_worker, size))
            schedule = make_schedule(n_tasks, len(members))
            master = Master(world, schedule, progress, members, rules, deadline_s, is_stop_asked)

        def sleep(descriptors: Sequence[int], longest_s: float) -> list[int]:
            assert time.monotonic() < deadline, f"rank {world.rank} waits for ever"
            time.sleep(min(longest_s, LONGEST_PAUSE_S))
            return []

        Loop(world, worker, master, runners[world.rank] if worker else None, sleep=sleep).play()
        if worker:
            worker.close()
        failures = world.gather(worker.failures if worker else [])
        pieces = store.commit().pieces
        if master is None or schedule is None:
            return None
        done = [i for runs, _ in pieces for start, stop in runs for i in range(start, stop)]
        values = [value for _, content in pieces for value in content.values]
        assert values == done, "values and their indices have come apart"
        return Seen(
            sorted(done),
            sorted(chain.from_iterable(failures), key=lambda failure: failure.index),
            master.n_not_done,
            master.n_ready,
            progress.n_done,
            progress.n_failed,
            runners,
            workers,
            master.stopped_because,
        )

    seen: Seen = ThreadWorld.run(size, be_rank, timeout_s=2 * LIMIT_S)[0]
    return seen


def assert_complete(seen: Seen, n_tasks: int) -> None:
    """Check that every task was done or has failed, exactly once."""
    assert sorted(seen.done + [f.index for f in seen.failed]) == list(range(n_tasks))
    assert seen.n_left == 0
    assert seen.n_reported == n_tasks
    assert seen.n_reported_failed == len(seen.failed)


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
    def test_a_rank_that_retires_in_the_middle_gives_everything_back(
        self, make_schedule, rank, after
    ):
        script = Script(unready_after=after, step=1)

        seen = play(40, 3, {rank: script}, make_schedule)

        assert_complete(seen, 40)
        assert sorted(chain.from_iterable(seen.called)) == list(range(40))
        assert len(seen.called[rank]) <= after

    def test_a_rank_that_retires_after_a_crash_gives_back_both_sides(self):
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

    def test_a_failure_of_the_medium_inside_the_runner_is_storage_lost(self):
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

    def test_an_exception_of_a_user_that_is_called_like_ours_is_a_failed_task(self):
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
    def test_what_was_placed_is_let_go_of_before_another_rank_may_get_the_task(
        self, event, expected, monkeypatch
    ):
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


class TestCredit:
    def hand_out(
        self,
        n_tasks: int,
        size: int,
        *reports: tuple[int, Report] | None,
        make_schedule: Any = FixedChunks,
    ):
        """Return the orders that a master gives after some reports; None: a step ends."""
        sent: list[tuple[int, Order]] = []

        class Wire(SerialWorld):
            def __init__(self) -> None:
                super().__init__()
                self.arrived = deque(reports)

            def send(self, dest, tag, message):
                sent.append((dest, from_ints(message)))

            def poll(self, tag):
                if not self.arrived:
                    return None
                if (arrived := self.arrived.popleft()) is None:
                    return None
                source, report = arrived
                return source, to_ints(report)

        master = Master(
            Wire(), make_schedule(n_tasks, size), Progress(n_tasks, bar=False), set(range(size))
        )
        for _ in range(1 + reports.count(None)):
            master.step()
        return sent

    def ready(self, *workers):
        return [(worker, Joined()) for worker in workers]

    def test_a_worker_holds_one_chunk_and_one_in_reserve(self):
        assert self.hand_out(100, 1, *self.ready(0)) == [
            (0, CallChunk(0, 1, 0, 0)),
            (0, CallChunk(1, 2, 0, 0)),
        ]

    def test_every_worker_gets_a_chunk_before_any_gets_a_reserve(self):
        sent = self.hand_out(100, 3, *self.ready(0, 1, 2))

        assert [dest for dest, _ in sent] == [0, 1, 2, 0, 1, 2]

    @pytest.mark.parametrize(("n_tasks", "n_sent"), [(3, 3), (4, 3), (6, 3), (7, 4)])
    def test_the_last_tasks_are_nobodys_reserve(self, n_tasks, n_sent):
        """One worker's reserve would be what another one waits for."""
        assert len(self.hand_out(n_tasks, 3, *self.ready(0, 1, 2))) == n_sent

    @pytest.mark.parametrize(("longest_s", "n_sent"), [(1, 5), (3, 4)])
    def test_long_tasks_are_no_reserve_behind_the_longest(self, longest_s, n_sent):
        """Both workers hold one of two chunks still; 3 tasks are left, or two workers' last."""
        done = [
            (0, Ended(0, 1, 1, 0, 10**9, 0)),
            (1, Ended(1, 2, 1, 0, longest_s * 10**9, 0)),
        ]
        sent = self.hand_out(7, 2, *self.ready(0, 1), None, *done, make_schedule=Factoring)

        assert len(sent) == n_sent

    def test_who_is_still_starting_finds_a_task_left(self):
        assert len(self.hand_out(3, 3, *self.ready(1))) == 1
        assert len(self.hand_out(5, 3, *self.ready(1))) == 2

    def test_the_first_is_answered_before_all_are_heard(self):
        n_workers = 3 * master_module.MOST_AT_ONCE
        sent = self.hand_out(10 * n_workers, n_workers, *self.ready(*range(n_workers)))

        assert {dest for dest, _ in sent} == set(range(master_module.MOST_AT_ONCE))

    def test_before_it_is_ready_a_worker_gets_nothing(self):
        assert {dest for dest, _ in self.hand_out(100, 3, *self.ready(1))} == {1}

    def test_a_retired_worker_gets_nothing(self):
        sent = self.hand_out(100, 2, *self.ready(0, 1), (0, Retired()))

        assert {dest for dest, _ in sent} == {1}

    def test_without_tasks_the_stop_is_sent_at_once(self):
        assert self.hand_out(0, 3) == [(worker, Stop()) for worker in range(3)]

    def test_after_the_stop_nothing_is_sent(self, monkeypatch):
        """The workers have left the run: their next one would get it."""
        sent = []

        class Wire(SerialWorld):
            def send(self, dest, tag, message):
                sent.append(from_ints(message))

            def poll(self, tag):
                return None

        monkeypatch.setattr(master_module, "LOOK_EVERY_S", -1.0)
        reasons = [""]
        master = Master(
            Wire(),
            FixedChunks(0, 2),
            Progress(0, bar=False),
            {0, 1},
            Rules(timeout="200%"),
            is_stop_asked=lambda: reasons[0],
        )
        master.step()
        reasons[0] = "somebody asks for it"
        for _ in range(master_module.N_MEDIAN):
            master._durations.add(1, 1.0)
        master.step()
        master.drain("somebody wishes it")
        master.cut_short("somebody is in a hurry")

        assert sent == [Stop()] * 2


def lines_of_a_report(n_workers: int) -> int:
    """Return how many lines of Python rank 0 runs for one report, loops counted by turns."""
    reports: deque[Any] = deque((worker, Joined()) for worker in range(n_workers))

    class Wire(SerialWorld):
        def send(self, dest, tag, message):
            """Nobody listens."""

        def poll(self, tag):
            if not reports:
                return None
            source, report = reports.popleft()
            return source, to_ints(report)

    n_tasks, n_lines = 10 * n_workers, 0
    schedule, progress = FixedChunks(n_tasks, n_workers), Progress(n_tasks, bar=False)
    master = Master(Wire(), schedule, progress, set(range(n_workers)))
    while reports:
        master.step()
    reports.append((0, Ended(0, 1, 1, 0, 10**9, 0)))

    def count(frame: Any, event: str, arg: Any) -> Any:
        nonlocal n_lines
        n_lines += event == "line"
        return count

    before = sys.gettrace()
    sys.settrace(count)
    try:
        master.step()
    finally:
        sys.settrace(before)
    return n_lines


def test_a_report_costs_as_much_with_many_workers_as_with_few():
    assert lines_of_a_report(1000) == lines_of_a_report(10)


class FakeClock:
    """A `time` whose clock the test moves."""

    def __init__(self) -> None:
        self.now_s = 1000.0

    def monotonic(self) -> float:
        return self.now_s


@pytest.fixture
def clock(monkeypatch) -> FakeClock:
    """Let master and workers see a clock that the test moves."""
    clock = FakeClock()
    monkeypatch.setattr(master_module, "time", clock)
    monkeypatch.setattr(worker_module, "time", clock)
    return clock


class TestSilence:
    @pytest.fixture
    def aborted(self) -> list[int]:
        return []

    @pytest.fixture
    def master(self, clock, aborted) -> Master:
        class Lonely(SerialWorld):
            def abort(self, exit_code):
                aborted.append(exit_code)

            def send(self, dest, tag, message):
                if dest == 0:
                    super().send(dest, tag, message)

        return Master(Lonely(), FixedChunks(9, 3), Progress(9, bar=False), {0, 1, 2})

    def report(self, master: Master, worker: int, report: Report) -> None:
        """Let a worker report, although this world has one rank."""
        original = master._world.poll
        messages = [(worker, to_ints(report))]
        master._world.poll = lambda tag: messages.pop() if messages else None  # type: ignore
        master.step()
        master._world.poll = original  # type: ignore[method-assign]

    def test_ranks_that_say_nothing_are_named_once(self, master, clock, caplog):
        for _ in range(200):
            clock.now_s += 1
            self.report(master, 1, Alive())

        warnings = [r.getMessage() for r in caplog.records if r.levelno == logging.WARNING]
        assert len(warnings) == 1
        assert "[0, 2]" in warnings[0]

    def test_a_rank_lost_for_good_ends_the_job(self, master, clock, aborted):
        for _ in range(int(master_module.LOST_S) + 10):
            clock.now_s += 1
            for worker in (0, 1):
                self.report(master, worker, Alive())

        assert aborted
        assert set(aborted) == {69}

    def test_ranks_that_report_are_never_named(self, master, clock, caplog, aborted):
        for _ in range(2000):
            clock.now_s += 1
            for worker in range(3):
                self.report(master, worker, Alive())

        assert caplog.records == []
        assert aborted == []

    def test_a_worker_that_has_nothing_to_say_says_so(self, clock):
        world = SerialWorld()
        runner = ScriptedRunner(Script(is_held=lambda: True))
        worker = Worker(world, runner, MemoryStore(world, Layout("", "f"), None, 1))
        for _ in range(61):
            worker.step()
            clock.now_s += 1

        reports = []
        while (arrived := world.poll(TAG_REPORT)) is not None:
            reports.append(from_ints(arrived[1]))
        assert set(reports) == {Alive()}
        assert 4 <= len(reports) <= 6


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

    def test_each_step_handles_one_event_so_that_rank_0_answers_in_between(self, worker):
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
def test_whatever_happens_to_single_ranks_every_task_is_accounted_for(data):
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


class TestRetries:
    @pytest.mark.parametrize("size", [1, 3])
    @pytest.mark.parametrize("index", [0, 7, 19])
    def test_a_task_that_raises_is_called_again_so_many_times(self, size, index):
        scripts = dict.fromkeys(range(size), Script(failures_left={index: 2}))

        seen = play(20, size, scripts, SCHEDULES["chunks of 4"], rules=Rules(retries=2))

        assert_complete(seen, 20)
        assert seen.failed == []
        assert sum(called.count(index) for called in seen.called) == 3

    def test_then_it_has_failed_at_its_last_attempt(self):
        seen = play(20, 2, dict.fromkeys(range(2), Script(failing={4})), rules=Rules(retries=3))

        assert_complete(seen, 20)
        assert [(each.index, each.attempt) for each in seen.failed] == [(4, 4)]
        assert sum(called.count(4) for called in seen.called) == 4

    @pytest.mark.parametrize("n_deaths", [2, 3])
    def test_deaths_have_a_limit_of_their_own(self, n_deaths):
        scripts = dict.fromkeys(range(2), Script(deaths_left={4: n_deaths}))

        seen = play(20, 2, scripts, rules=Rules(retries=7, crash_limit=3))

        assert_complete(seen, 20)
        assert [each.index for each in seen.failed] == ([4] if n_deaths == 3 else [])

    def test_deaths_and_exceptions_are_counted_apart(self):
        script = Script(deaths_left={4: 1}, failures_left={4: 1})

        seen = play(20, 1, {0: script}, rules=Rules(retries=1, crash_limit=2))

        assert_complete(seen, 20)
        assert seen.failed == []

    def test_a_task_that_fails_comes_after_all_others(self):
        """A task that kills its runners keeps nobody waiting."""
        seen = play(20, 1, {0: Script(deaths_left={0: 2}, step=1)}, rules=Rules(crash_limit=3))

        assert seen.called[0] == [0, *range(1, 20), 0, 0]

    def test_a_retry_that_is_on_its_way_to_a_rank_that_retires_goes_elsewhere(self):
        scripts = {
            0: Script(unready_after=4, step=1, failing={1, 2, 3, 4}),
            1: Script(is_held=after_ready(lambda: not seen_retired.is_set())),
        }
        seen_retired = threading.Event()
        worker_retires(scripts[0], seen_retired)

        seen = play(12, 2, scripts, rules=Rules(retries=1))

        assert_complete(seen, 12)


def worker_retires(script: Script, retired: threading.Event) -> None:
    """Set an event when the runner of a script has given up."""
    is_held = script.is_held

    def look() -> bool:
        script.is_held = is_held
        retired.set()
        return is_held()

    script.is_held = look


class TestStopping:
    def test_what_has_begun_is_ended_and_nothing_else_is_begun(self):
        """All ranks hold their first chunk until the run is asked to stop."""
        asked = threading.Event()
        scripts = {
            rank: Script(is_held=after_ready(lambda: not asked.is_set())) for rank in range(3)
        }

        def ask() -> str:
            asked.set()
            return "asked to"

        seen = play(1000, 3, scripts, is_stop_asked=ask)

        assert seen.stopped_because == "asked to"
        assert len(seen.done) + seen.n_left == 1000
        assert all(runner.is_draining for runner in seen.runners)
        # What a runner had not begun when it was told is returned.
        assert sum(map(len, seen.called)) <= 3 * CREDIT

    @pytest.mark.parametrize("rank", [0, 1, 2])
    def test_any_rank_may_be_asked(self, rank):
        world_size = 3
        asked = threading.Event()
        scripts = {
            each: Script(is_held=after_ready(lambda: not asked.is_set()))
            for each in range(world_size)
        }
        runners = [ScriptedRunner(scripts[each]) for each in range(world_size)]

        class Asked(Worker):
            def step(self) -> bool:
                if self._world.rank == rank and self._is_ready:
                    self.ask_to_drain(12)
                    asked.set()
                return super().step()

        with pytest.MonkeyPatch.context() as patch:
            patch.setitem(globals(), "Worker", Asked)
            seen = play(1000, world_size, runners=runners)

        assert seen.stopped_because == f"rank {rank} was asked to by SIGUSR2"
        assert len(seen.done) + seen.n_left == 1000
        assert seen.n_left > 900

    def test_soon_ends_what_is_running(self):
        script = Script(failing=set(range(1000)), step=1)

        seen = play(1000, 1, {0: script}, rules=Rules(halt="soon,fail=3"))

        assert "3 tasks have failed" in seen.stopped_because
        assert 3 <= len(seen.failed) <= 3 + CREDIT
        assert len(seen.failed) + seen.n_left == 1000

    def test_now_kills_what_is_running(self):
        hung = ScriptedRunner(Script(is_held=after_ready(lambda: True)))
        script = Script(failing=set(range(4)), step=1, is_held=after_ready(lambda: not hung.chunks))

        seen = play(1000, 2, runners=[ScriptedRunner(script), hung], rules=Rules(halt="now,fail=1"))

        assert seen.runners[1].is_stopped
        assert seen.runners[1].called == []
        assert seen.n_left >= 999 - 2 * CREDIT

    def test_a_share_of_all_tasks_halts(self):
        script = Script(failing=set(range(0, 100, 2)), step=1)

        seen = play(100, 1, {0: script}, rules=Rules(halt="soon,fail=10%"))

        assert 10 <= len(seen.failed) <= 10 + CREDIT

    def test_a_failure_that_is_tried_again_does_not_halt(self):
        script = Script(failures_left={3: 1})

        seen = play(20, 1, {0: script}, rules=Rules(retries=1, halt="now,fail=1"))

        assert_complete(seen, 20)
        assert not seen.stopped_because


class TestManyRanks:
    """What a worker tells of a chunk while there are so many that they take turns."""

    @pytest.fixture
    def told(self, clock) -> list[tuple[int, ...]]:
        return []

    @pytest.fixture
    def worker(self, clock, told) -> Worker:
        class Wire(SerialWorld):
            size = 50_000  # a report every 5 s

            def send(self, dest, tag, message):
                if tag == TAG_REPORT:
                    told.append(from_ints(message))
                else:
                    super().send(dest, tag, message)

            def _poll(self, tag):
                return None

        world = Wire()
        runner = ScriptedRunner(Script(step=2, failing={15}))
        worker = Worker(
            world, runner, MemoryStore(world, Layout("", "f"), None, 100), Rules(retries=1)
        )
        worker.step()
        del told[:]
        return worker

    def call(self, worker: Worker, start: int, stop: int) -> None:
        worker._world.send(0, TAG_CHUNK, to_ints(CallChunk(start, stop)))

    def test_what_has_ended_is_told_when_the_chunk_has(self, worker, told):
        self.call(worker, 0, 5)
        for _ in range(2):
            worker.step()
        assert told == []
        worker.step()

        assert told == [Ended(0, 5, 1, 0, 5_000_000, 0)]

    def test_or_after_a_while(self, worker, told, clock):
        self.call(worker, 0, 100)
        worker.step()
        worker.step()
        clock.now_s += 5.1
        worker.step()

        assert told == [Ended(0, 6, 0, 0, 6_000_000, 0)]

    def test_a_failure_is_told_at_once(self, worker, told):
        self.call(worker, 12, 20)
        worker.step()
        worker.step()

        assert told == [
            Ended(12, 14, 0, 0, 2_000_000, 0),
            Again(15, 1, 0),
            Ended(14, 16, 0, 0, 2_000_000, 1),
        ]

    def test_before_it_leaves_it_tells_what_has_ended(self, worker, told):
        self.call(worker, 0, 5)
        worker.step()
        worker._world.send(0, TAG_CHUNK, to_ints(Stop()))
        worker.step()

        assert told == [Ended(0, 2, 0, 0, 2_000_000, 0), Left()]


class TestDeadline:
    def make(self, n_tasks: int, deadline_s: float, clock: FakeClock) -> tuple[Master, list[Any]]:
        sent: list[Any] = []

        class Wire(SerialWorld):
            def send(self, dest, tag, message):
                sent.append(from_ints(message))

            def poll(self, tag):
                if not self.arrived:
                    return None
                return 0, to_ints(self.arrived.popleft())

        world = Wire()
        world.arrived = deque([Joined()])
        master = Master(
            world,
            FixedChunks(n_tasks, 1, 4),
            Progress(n_tasks, bar=False),
            {0},
            Rules(),
            deadline_s,
        )
        master.step()
        return master, sent

    def done(self, master: Master, start: int, stop: int, busy_s: float) -> None:
        report = Ended(start, stop, 1, 0, int(busy_s * 1e9), 0)
        master._world.arrived.append(report)
        master.step()

    def test_no_chunk_is_handed_out_that_cannot_end_in_time(self, clock):
        master, sent = self.make(100, clock.monotonic() + 10.0, clock)
        assert sent == [CallChunk(0, 4), CallChunk(4, 8)]

        clock.now_s += 4.0
        self.done(master, 0, 4, 4.0)  # a second each: six are left, four of them are taken
        assert sent[-1] == CallChunk(8, 10)
        clock.now_s += 4.0
        self.done(master, 4, 8, 4.0)
        assert sent[-1] == CallChunk(8, 10)
        clock.now_s += 1.5
        self.done(master, 8, 10, 1.5)

        assert master.stopped_because == "no further task can end in time"
        assert sent[-2:] == [Drain(), Stop()]
        assert master.n_not_done == 90

    def test_who_has_no_time_for_a_reserve_keeps_it_from_nobody(self, clock):
        """Two workers hold a chunk each; one task more would last too long for the first alone."""
        sent: list[Any] = []
        reports: deque[Any] = deque([(0, Joined()), (1, Joined())])

        class Wire(SerialWorld):
            def send(self, dest, tag, message):
                sent.append((dest, from_ints(message)))

            def poll(self, tag):
                source, report = reports.popleft() if reports else (0, None)
                return None if report is None else (source, to_ints(report))

        schedule = FixedChunks(100, 2, 4)
        deadline_s = clock.monotonic() + 9.0
        master = Master(Wire(), schedule, Progress(100, bar=False), {0, 1}, deadline_s=deadline_s)
        master.step()
        # Both report their first chunk, of a second per task; of the next, 1 has ended a part.
        clock.now_s += 4.0
        reports += [(w, Ended(4 * w, 4 * w + 4, 1, 0, 4 * 10**9, 0)) for w in (0, 1)]
        clock.now_s += 1.5
        reports += [(1, Ended(12, 14, 0, 0, 2 * 10**9, 0))]
        del sent[:]
        for _ in range(2):
            master.step()

        assert sent == [(1, CallChunk(16, 17))]

    def test_when_the_time_is_up_what_runs_is_ended(self, clock):
        master, sent = self.make(100, clock.monotonic() + 10.0, clock)
        clock.now_s += 10.1
        master.step()

        assert master.stopped_because == "the time is up"
        assert sent[-1] == Stop()

    def test_before_the_first_has_ended_nothing_is_known(self, clock):
        master, sent = self.make(100, clock.monotonic() + 0.001, clock)

        assert sent[0] == CallChunk(0, 4)
        assert not master.stopped_because


class TestLimitByMedian:
    def test_it_is_told_once_three_tasks_have_ended(self, clock):
        sent: list[Any] = []
        reports = deque([Joined(), Ended(0, 1, 1, 0, 2 * 10**9, 0)])

        class Wire(SerialWorld):
            def send(self, dest, tag, message):
                sent.append(from_ints(message))

            def poll(self, tag):
                return (0, to_ints(reports.popleft())) if reports else None

        progress = Progress(100, bar=False)
        master = Master(Wire(), FixedChunks(100, 1), progress, {0}, Rules(timeout="300%"))

        def limits() -> list[float]:
            clock.now_s += 1.1
            master.step()
            return [order.ns / 1e9 for order in sent if isinstance(order, Limit)]

        assert limits() == []
        reports.extend(Ended(i, i + 1, 1, 0, 2 * 10**9, 0) for i in (1, 2))
        (limit_s,) = limits()
        assert limit_s == pytest.approx(6.0, rel=0.06)
        reports.append(Ended(3, 4, 1, 0, 2 * 10**9, 0))
        assert limits() == [limit_s]  # no news, no message

    def test_a_worker_hands_it_to_its_runner(self):
        world, runner = SerialWorld(), ScriptedRunner(Script())
        store = MemoryStore(world, Layout("", "f"), None, 4)
        worker = Worker(world, runner, store, Rules(timeout="300%", memory="1G"))
        world.send(0, TAG_CHUNK, to_ints(Limit(1_500_000_000)))
        worker.step()

        assert runner.limits == [(0.0, 2**30), (1.5, 2**30)]


def test_a_task_that_runs_for_long_is_noted_once():
    noted: list[int] = []

    class Noting(MemoryStore):
        def note_long(self, index: int, start_s: float) -> None:
            noted.append(index)

    world = SerialWorld()
    seen = iter([(3, 9.0), (3, 10.5), (3, 11.0), (4, 10.5)])
    script = Script(running=lambda: next(seen))
    worker = Worker(world, ScriptedRunner(script), Noting(world, Layout("", "f"), None, 10))
    for _ in range(4):
        worker.step()

    assert noted == [3, 4]
