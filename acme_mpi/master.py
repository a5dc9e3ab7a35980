"""The role of rank 0 that hands out chunks: every report is the request for the next chunk.

Messages are `MESSAGE_INTS` integers. A worker sends reports, ``(Report, start, stop, n_closed,
n_failed, busy_ns)``, where `n_closed` is 1 if the report ends a chunk; the master sends chunks,
``(start, stop)``, and an empty one to say stop.
"""

from __future__ import annotations

import logging
import time
from enum import IntEnum

from acme_mpi.comm import TAG_CHUNK, TAG_REPORT, World
from acme_mpi.errors import EXIT_STOPPED
from acme_mpi.progress import Progress
from acme_mpi.schedule import Schedule

logger = logging.getLogger("acme_mpi")

PAUSE_S = 0.001
LONG_PAUSE_S = 0.01
TAIL_PAUSE_S = 0.05  # nothing is left to hand out
ALIVE_EVERY_S = 10.0
SILENT_S = 60.0  # after this rank 0 says who is silent
LOST_S = 900.0  # after this the job ends
CREDIT = 2  # chunks a worker may hold: one running, one in reserve, so no round trip is waited for


class Report(IntEnum):
    """What a worker tells."""

    READY = 1  # can call tasks
    DONE = 2  # [start, stop) is done and durable
    RETURNED = 3  # [start, stop) has no result from here and shall go to another worker
    RETIRED = 4  # takes no more chunks; those on their way to it will be returned
    STORAGE = 5  # its results cannot be written: nobody shall start anything new
    BYE = 6  # has seen the stop; nothing follows
    ALIVE = 7  # has nothing else to say for a while


class Master:
    """Hands out chunks until all tasks are done or nobody is left to do them.

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
    """

    def __init__(
        self, world: World, schedule: Schedule, progress: Progress, workers: set[int]
    ) -> None:
        self._world, self._schedule, self._progress = world, schedule, progress
        self._starting = set(workers)  # have not said whether they can work
        self._held: dict[int, int] = {}  # chunks held by each worker that was ever ready
        self._retired: set[int] = set()
        self._leaving = set(workers)  # have not said BYE
        self._is_stopping = False
        self._heard_s = dict.fromkeys(workers, time.monotonic())
        self._looked_s = time.monotonic()
        self._is_told: set[int] = set()
        self.n_ready = 0
        self._is_ending = False  # nothing new is handed out
        self.is_cut_short = False

    @property
    def is_finished(self) -> bool:
        """Whether every worker has left."""
        return not self._leaving

    @property
    def n_not_done(self) -> int:
        """Tasks that no worker has reported as done."""
        return self._progress.n_tasks - self._progress.n_done

    @property
    def longest_pause_s(self) -> float:
        """How long a report may wait for an answer, in seconds.

        A worker has a chunk in reserve while it waits, so a fraction of that chunk's time.
        """
        if self._schedule.n_left == 0:
            return TAIL_PAUSE_S
        return min(max(PAUSE_S, self._schedule.chunk_s / 8), LONG_PAUSE_S)

    def cut_short(self) -> None:
        """Have all workers leave at once, with what they are calling unfinished."""
        self.is_cut_short = self._is_ending = True
        self._stop()

    def step(self) -> bool:
        """Handle every report that has arrived; return whether there was one."""
        progressed = False
        while (arrived := self._world.poll(TAG_REPORT)) is not None:
            progressed = True
            worker, message = arrived
            self._heard_s[worker] = time.monotonic()
            self._is_told.discard(worker)
            self._handle(worker, Report(message[0]), message)
        if progressed or not self._is_stopping:
            self._hand_out()
            self._stop_if_done()
        self._look_for_silent_ranks()
        return progressed

    def _look_for_silent_ranks(self) -> None:
        now_s = time.monotonic()
        if now_s - self._looked_s < 1.0:
            return
        self._looked_s = now_s
        silent = {w for w in self._leaving if now_s - self._heard_s[w] > SILENT_S}
        if new := sorted(silent - self._is_told):
            self._is_told |= silent
            logger.warning("nothing heard from rank(s) %s for %.0f s", new, SILENT_S)
        if lost := [w for w in silent if now_s - self._heard_s[w] > LOST_S]:
            logger.error("rank(s) %s are lost, silent for %.0f s; the job ends", lost, LOST_S)
            self._world.abort(EXIT_STOPPED)

    def _handle(self, worker: int, report: Report, message: list[int]) -> None:
        _, start, stop, n_closed, n_failed, busy_ns = message[:6]
        if report is Report.READY:
            self._starting.discard(worker)
            self._held[worker] = 0
            self.n_ready += 1
        elif report is Report.DONE:
            self._held[worker] -= n_closed
            self._schedule.record(stop - start, busy_ns / 1e9)
            self._progress.add(stop - start, n_failed)
        elif report is Report.RETURNED:
            self._held[worker] -= n_closed
            self._schedule.give_back(range(start, stop))
        elif report is Report.RETIRED:
            self._starting.discard(worker)
            self._retired.add(worker)
        elif report is Report.STORAGE:
            self._is_ending = True
        elif report is Report.BYE:
            self._leaving.discard(worker)

    def _hand_out(self) -> None:
        # Workers without a chunk come first; a reserve is given only while it cannot leave
        # another worker idle, that is, not for the last tasks.
        active = [worker for worker in self._held if worker not in self._retired]
        for credit in range(CREDIT):
            n_spare = len(active) if credit else 0
            for worker in active:
                if self._is_ending or self._schedule.n_left <= n_spare:
                    break
                if self._held[worker] == credit:
                    chunk = self._schedule.next_chunk(worker)
                    self._held[worker] += 1
                    self._world.send(worker, TAG_CHUNK, (chunk.start, chunk.stop))

    def _stop_if_done(self) -> None:
        if self._is_stopping or any(self._held.values()):
            return
        nobody_left = not self._starting and self._retired >= self._held.keys()
        if self._schedule.n_left == 0 or nobody_left or self._is_ending:
            self._stop()

    def _stop(self) -> None:
        self._is_stopping = True
        for worker in self._leaving:
            self._world.send(worker, TAG_CHUNK, (0, 0))
