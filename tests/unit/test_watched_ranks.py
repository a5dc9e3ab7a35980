"""What the master sees of ranks: credit, silence, reports, many of them."""

from __future__ import annotations

import logging
import math
import sys
import time
from collections import deque
from typing import Any

import pytest
from playing import Script, ScriptedRunner

from acme_mpi.comm import TAG_CHUNK, TAG_REPORT, SerialWorld
from acme_mpi.engine import master as master_module
from acme_mpi.engine.loop import Loop
from acme_mpi.engine.master import Master
from acme_mpi.engine.progress import Progress
from acme_mpi.engine.protocol import (
    Again,
    Alive,
    CallChunk,
    Ended,
    Joined,
    Left,
    Order,
    Report,
    Retired,
    Stop,
    from_ints,
    to_ints,
)
from acme_mpi.engine.schedule import Factoring, FixedChunks
from acme_mpi.engine.worker import Worker
from acme_mpi.rules import Rules
from acme_mpi.storage import Layout, MemoryStore

pytestmark = pytest.mark.once


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
        self.woken = woken = list[int]()

        class Wire(SerialWorld):
            def __init__(self) -> None:
                super().__init__()
                self.arrived = deque(reports)

            def send(self, dest, tag, message):
                sent.append((dest, from_ints(message)))

            def wake(self, rank):
                woken.append(rank)

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
        assert self.woken == [0, 1, 2, 0, 1, 2]

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
        assert self.woken == [0, 1, 2]

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


class TestSilence:
    @pytest.fixture
    def aborted(self) -> list[int]:
        return []

    @pytest.fixture
    def master(self, clock, aborted) -> Master:
        class Lonely(SerialWorld):
            def __init__(self):
                super().__init__()
                self.hosts = ["node0", "node1", "node2"]

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
        lost = set()
        master._world.on_death = lambda *who: lost.add(who)
        for _ in range(int(master_module.LOST_S) + 10):
            clock.now_s += 1
            for worker in (0, 1):
                self.report(master, worker, Alive())

        assert aborted
        assert set(aborted) == {69}
        assert lost == {(2, "node2")}

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


def test_a_rank_that_is_woken_hushes_its_bell_and_looks_often_again():
    pauses, n_hushed = list[float](), []

    class Rung(SerialWorld):
        is_woken = False

        def bells(self):
            return [99]

        def hush(self):
            n_hushed.append(len(pauses))

    def sleep(descriptors, longest_s):
        assert 99 in descriptors
        pauses.append(longest_s)
        if len(pauses) == 5:
            raise InterruptedError
        return [99] if len(pauses) == 3 else []

    master = Master(Rung(), FixedChunks(9, 1), Progress(9, bar=False), {0})
    with pytest.raises(InterruptedError):
        Loop(master._world, None, master, None, sleep=sleep).play()

    assert pauses == [1e-4, 2e-4, 4e-4, 1e-4, 2e-4]
    assert n_hushed == [3]


class TestPausesOfWoken:
    """How long a rank sleeps where ranks ring each other's bells."""

    def pauses(
        self, n_tasks: int, n_expected: int = 0, deadline_s: float = math.inf
    ) -> list[float]:
        pauses = list[float]()

        class Near(SerialWorld):
            def bells(self):
                return [99]

            @property
            def expects_message(self):
                return len(pauses) < n_expected

        def sleep(descriptors, longest_s):
            pauses.append(longest_s)
            if len(pauses) == 4:
                raise InterruptedError
            return []

        schedule, progress = FixedChunks(n_tasks, 1), Progress(n_tasks, bar=False)
        master = Master(Near(), schedule, progress, {0}, deadline_s=deadline_s)
        with pytest.raises(InterruptedError):
            Loop(master._world, None, master, None, sleep=sleep).play()
        return pauses

    def test_nothing_is_looked_for_between_rings(self):
        assert self.pauses(9) == [0.1] * 4

    def test_a_message_that_was_announced_is_looked_for(self):
        assert self.pauses(9, n_expected=3) == [1e-4, 2e-4, 4e-4, 0.1]

    def test_a_deadline_is_not_slept_through(self):
        assert max(self.pauses(9, deadline_s=time.monotonic() + 0.05)) <= 0.05


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

            def wake(self, rank):
                self.woken.append(rank)

            def _poll(self, tag):
                return None

        world = Wire()
        world.woken = []
        runner = ScriptedRunner(Script(step=2, failing={15}))
        worker = Worker(
            world, runner, MemoryStore(world, Layout("", "f"), None, 100), Rules(retries=1)
        )
        worker.step()
        del told[:], world.woken[:]
        return worker

    def call(self, worker: Worker, start: int, stop: int) -> None:
        worker._world.send(0, TAG_CHUNK, to_ints(CallChunk(start, stop)))

    def test_what_has_ended_is_told_when_the_chunk_has(self, worker, told):
        self.call(worker, 0, 5)
        for _ in range(2):
            worker.step()
        assert told == worker._world.woken == []
        worker.step()

        assert told == [Ended(0, 5, 1, 0, 5_000_000, 0)]
        assert worker._world.woken == [0]  # this rank has nothing to do

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
