"""The role of rank 0 that hands out chunks: every report is the request for the next chunk."""

from __future__ import annotations

import logging
import math
import sys
import time
from collections import OrderedDict, deque
from collections.abc import Callable

from acme_mpi.comm import LOST_S, SILENT_S, TAG_CHUNK, TAG_REPORT, World
from acme_mpi.engine.durations import Durations
from acme_mpi.engine.progress import Progress
from acme_mpi.engine.protocol import (
    Again,
    Alive,
    CallChunk,
    Drain,
    DrainAsked,
    Ended,
    GivenBack,
    Joined,
    Left,
    Limit,
    Order,
    Report,
    Retired,
    Stop,
    StorageLost,
    from_ints,
    to_ints,
)
from acme_mpi.engine.schedule import Schedule
from acme_mpi.errors import EXIT_RANK_LOST
from acme_mpi.linux.interrupts import signal_name
from acme_mpi.rules import Rules

logger = logging.getLogger("acme_mpi")

PAUSE_S = 0.001
LONG_PAUSE_S = 0.01
TAIL_PAUSE_S = 0.05  # nothing is left to hand out
LOOK_EVERY_S = 1.0
CREDIT = 2  # chunks a worker may hold: one running, one in reserve, so no round trip is waited for
MOST_AT_ONCE = 100  # reports, so that with many ranks the first is not answered after the last
LONG_S = 0.02  # a chunk beside which a round trip is short
PROBABLE = 0.95  # a task is taken to last as long as this share of all tasks does at most
N_MEDIAN = 3  # tasks that have to end before their median limits others, as in GNU parallel
NEWS = 1.1  # a limit that changes by less is not told


class Master:
    """Hands out chunks until all tasks are done, nobody is left to do them, or it has to stop.

    Parameters
    ----------
    world : World
        Rank 0's.
    schedule : Schedule
        Sizes of the chunks.
    progress : Progress
        Told of every finished chunk.
    workers : set of int
        Ranks that call tasks.
    rules : Rules
        How to deal with tasks that fail.
    deadline_s : float
        Time of `time.monotonic` when all has to be over.
    is_stop_asked : callable
        ``is_stop_asked() -> str``: why the run has to end, empty if it need not; asked once a
        second.
    """

    def __init__(
        self,
        world: World,
        schedule: Schedule,
        progress: Progress,
        workers: set[int],
        rules: Rules = Rules(),  # noqa: B008 (immutable)
        deadline_s: float = math.inf,
        is_stop_asked: Callable[[], str] = str,
    ) -> None:
        self._world, self._schedule, self._progress = world, schedule, progress
        self._rules, self._deadline_s, self._is_stop_asked = rules, deadline_s, is_stop_asked
        self._starting = set(workers)  # have not said whether they can work
        self._held: dict[int, int] = {}  # chunks held by each worker that was ever ready
        self._n_held = 0  # by all of them
        # Those that have not retired by the chunks that they hold, so that no report makes rank 0
        # look through all workers; who has held as many for the longest time is the first.
        self._holding: list[OrderedDict[int, None]] = [OrderedDict() for _ in range(CREDIT + 1)]
        self._n_out: dict[int, int] = {}  # tasks in these chunks that have not ended
        self._leaving = set(workers)  # have not `Left`
        self._again: deque[Again] = deque()
        self._durations = Durations()
        self._limit_s = 0.0
        self._n_failed = 0
        self._is_stopping = False
        self._heard_s = dict.fromkeys(workers, time.monotonic())
        self._began_s = self._looked_s = time.monotonic()
        self._is_told: set[int] = set()
        self.n_ready = 0
        self._is_ending = False  # nothing new is handed out
        self.stopped_because = ""

    @property
    def is_finished(self) -> bool:
        """Whether every worker has left."""
        return not self._leaving

    def close(self) -> None:
        """Leave the last state on the screen."""
        self._progress.close()

    @property
    def n_not_done(self) -> int:
        """Tasks that have not ended."""
        return self._progress.n_tasks - self._progress.n_done

    @property
    def _n_left(self) -> int:
        return self._schedule.n_left + len(self._again)

    @property
    def _n_active(self) -> int:
        return sum(map(len, self._holding))

    @property
    def longest_pause_s(self) -> float:
        """How long a report may wait for an answer, in seconds.

        A worker has a chunk in reserve while it waits, so a fraction of that chunk's time.
        """
        if self._n_left == 0:
            return TAIL_PAUSE_S
        return min(max(PAUSE_S, self._schedule.chunk_s / 8), LONG_PAUSE_S)

    @property
    def time_left_s(self) -> float:
        """How long until all has to be over, in seconds; `math.inf` without a deadline."""
        return max(0.0, self._deadline_s - time.monotonic())

    @property
    def has_fed_all(self) -> bool:
        """Whether every worker has a chunk."""
        return not self._starting and not self._holding[0]

    def cut_short(self, reason: str) -> None:
        """Have all workers leave at once, with what they are calling unfinished."""
        if not self._is_stopping:
            self._say_stop(reason)
            self._stop()

    def drain(self, reason: str) -> None:
        """Have every worker end the task that it is calling, and begin no other."""
        # Who has been told to leave listens no more: the next run would hear this.
        if not (self._is_ending or self._is_stopping):
            self._say_stop(reason, "; what is running is ended, a second signal leaves at once")
            for worker in self._leaving:
                self._order(worker, Drain())

    def _say_stop(self, reason: str, how: str = "") -> None:
        if not self.stopped_because:
            self.stopped_because = reason
            logger.warning("the run stops: %s%s", reason, how)
        self._is_ending = True

    def step(self) -> bool:
        """Handle reports that have arrived, and answer them; return whether there was one."""
        progressed = False
        for _ in range(MOST_AT_ONCE):
            arrived = self._world.poll(TAG_REPORT)
            if arrived is None:
                break
            progressed = True
            worker, message = arrived
            self._heard_s[worker] = time.monotonic()
            self._is_told.discard(worker)
            self._handle(worker, from_ints(message))
        now_s = time.monotonic()
        if now_s > self._deadline_s:
            self.cut_short("the time is up")
        if now_s - self._looked_s > LOOK_EVERY_S:
            self._looked_s = now_s
            self._look(now_s)
        if progressed or not self._is_stopping:
            self._hand_out()
            self._stop_if_done()
        return progressed

    def _look(self, now_s: float) -> None:
        """Do what is due about once a second."""
        self._progress.look()
        self._look_for_silent_ranks(now_s)
        if self._is_stopping:
            return
        self._tell_limit()
        if not self.n_ready and now_s - self._began_s > self._rules.loading_s:
            self.cut_short("no rank has loaded the function in the time that is allowed")
        if reason := self._is_stop_asked():
            self.drain(reason)

    def _look_for_silent_ranks(self, now_s: float) -> None:
        silent = {w for w in self._leaving if now_s - self._heard_s[w] > SILENT_S}
        if new := sorted(silent - self._is_told):
            self._is_told |= silent
            logger.warning("nothing heard from rank(s) %s for %.0f s", new, SILENT_S)
        if lost := [w for w in silent if now_s - self._heard_s[w] > LOST_S]:
            logger.error("rank(s) %s are lost, silent for %.0f s; the job ends", lost, LOST_S)
            for rank in lost:
                self._world.tell_death(rank, self._world.hosts[rank])
            self._world.abort(EXIT_RANK_LOST)

    def _tell_limit(self) -> None:
        """Tell all workers how long a task may take, where that depends on all tasks."""
        if not self._rules.timeout_ratio or self._durations.n < N_MEDIAN:
            return
        limit_s = self._rules.timeout_ratio * self._durations.median_s
        if not self._limit_s / NEWS < limit_s < self._limit_s * NEWS:
            self._limit_s = limit_s
            for worker in self._leaving:
                self._order(worker, Limit(int(limit_s * 1e9)))

    def _order(self, worker: int, order: Order) -> None:
        self._world.send(worker, TAG_CHUNK, to_ints(order))
        self._world.wake(worker)

    def _handle(self, worker: int, report: Report) -> None:
        match report:
            case Ended():
                self._take_ended(worker, report)
            case Joined():
                self._starting.discard(worker)
                self._held[worker] = self._n_out[worker] = 0
                self._holding[0][worker] = None
                self.n_ready += 1
            case Again():
                # Last of all, so that a task that kills its runners keeps nobody waiting.
                self._again.append(report)
            case GivenBack():
                self._take_back(worker, report)
            case Retired():
                self._starting.discard(worker)
                self._holding[self._held.get(worker, 0)].pop(worker, None)
            case StorageLost():
                self._is_ending = True
            case Left():
                self._leaving.discard(worker)
            case DrainAsked():
                self.drain(f"rank {worker} was asked to by {signal_name(report.signal)}")
            case Alive():
                pass

    def _take_ended(self, worker: int, ended: Ended) -> None:
        n_tasks, busy_s = ended.stop - ended.start, ended.busy_ns / 1e9
        self._hold(worker, -ended.n_closed, -n_tasks)
        self._schedule.record(n_tasks, busy_s)
        if ended.n_failed + ended.n_again < n_tasks:
            self._durations.add(n_tasks, busy_s)
        self._progress.add(n_tasks - ended.n_again, ended.n_failed)
        self._n_failed += ended.n_failed
        if ended.n_failed and self._rules.must_halt(self._n_failed, self._progress.n_tasks):
            halt = self.drain if self._rules.halt_when == "soon" else self.cut_short
            halt(f"{self._n_failed} tasks have failed (--halt {self._rules.halt})")

    def _take_back(self, worker: int, given: GivenBack) -> None:
        self._hold(worker, -given.n_closed, given.start - given.stop)
        if given.n_raised or given.n_crashed:
            self._again.append(Again(given.start, given.n_raised, given.n_crashed))
        else:
            self._schedule.give_back(range(given.start, given.stop))

    def _hold(self, worker: int, n_chunks: int, n_tasks: int) -> None:
        """Note that a worker holds more chunks, or fewer, and more tasks in them, or fewer."""
        held = self._held[worker]
        self._held[worker] += n_chunks
        self._n_held += n_chunks
        self._n_out[worker] += n_tasks
        if n_chunks and worker in self._holding[held]:
            del self._holding[held][worker]
            self._holding[held + n_chunks][worker] = None

    def _hand_out(self) -> None:
        # Workers without a chunk come first; a reserve is given only while it cannot leave
        # another worker idle, that is, not for the last tasks.
        n_in_time = self._n_in_time() if self._n_left else 0
        for credit, workers in enumerate(self._holding[:CREDIT]):
            n_spare = self._n_last if credit else 0
            while workers and not self._is_ending and self._n_left > n_spare:
                worker = next(iter(workers))
                if n_most := max(0, n_in_time - self._n_out[worker]):
                    self._give(worker, n_most)
                elif credit:
                    workers.move_to_end(worker)  # the next one is asked at the next step
                    break
                else:
                    self.drain("no further task can end in time")

    @property
    def _n_last(self) -> float:
        """How many tasks are the last, which are nobody's reserve.

        One for every worker, also for those that are still starting. Where tasks are long, what
        all of them do in the time of the longest, behind which a reserve would wait; with short
        ones the round trips would cost more than such bad luck.
        """
        n_workers = self._n_active + len(self._starting)
        if self._schedule.chunk_s < LONG_S or not self._durations.n:
            return n_workers
        return n_workers * self._durations.longest_s / self._durations.mean_s

    def _give(self, worker: int, n_most: int) -> None:
        if self._schedule.n_left:
            chunk = self._schedule.next_chunk(worker, n_most)
            call = CallChunk(chunk.start, chunk.stop)
        else:
            task, n_raised, n_crashed = self._again.popleft()
            call = CallChunk(task, task + 1, n_raised, n_crashed)
        self._hold(worker, 1, call.stop - call.start)
        self._order(worker, call)

    def _n_in_time(self) -> int:
        """Return how many tasks a worker can end before the deadline, if they last as usual."""
        if self._deadline_s == math.inf:
            return sys.maxsize
        task_s = self._durations.quantile(PROBABLE)
        return int((self._deadline_s - time.monotonic()) / max(task_s, 1e-9))

    def _stop_if_done(self) -> None:
        if self._is_stopping or self._n_held:
            return
        nobody_left = not self._starting and not self._n_active
        if self._n_left == 0 or nobody_left or self._is_ending:
            self._stop()

    def _stop(self) -> None:
        self._is_stopping = True
        for worker in self._leaving:
            self._order(worker, Stop())
