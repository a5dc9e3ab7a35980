"""How runs end early: by rules, by signals, at their time limit."""

from __future__ import annotations

import threading
from collections import deque
from typing import Any

import playing
import pytest
from playing import SCHEDULES, FakeClock, Script, ScriptedRunner, after_ready, assert_complete, play

from acme_mpi.comm import TAG_CHUNK, SerialWorld
from acme_mpi.engine.master import CREDIT, Master
from acme_mpi.engine.progress import Progress
from acme_mpi.engine.protocol import (
    CallChunk,
    Drain,
    Ended,
    Joined,
    Limit,
    Stop,
    from_ints,
    to_ints,
)
from acme_mpi.engine.schedule import FixedChunks
from acme_mpi.engine.worker import Worker
from acme_mpi.rules import Rules
from acme_mpi.storage import Layout, MemoryStore

pytestmark = pytest.mark.once


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

    def test_a_retry_sent_to_a_rank_that_retires_goes_elsewhere(self):
        """A retry that is on its way to a rank that retires goes elsewhere."""
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
            patch.setattr(playing, "Worker", Asked)
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
