"""The world over an MPI communicator, each rank talking to each other one directly."""

from __future__ import annotations

import contextlib
import logging
import os
import pickle
import time
from collections import deque
from collections.abc import Callable, Sequence
from typing import Any, TypeVar

import numpy as np

from acme_mpi.comm.base import (
    LOST_S,
    MESSAGE_INTS,
    ROLL_CALL_S,
    SILENT_S,
    SLICE_BYTES,
    TAG_DATA,
    Backoff,
    World,
)
from acme_mpi.comm.doorbell import Doorbell
from acme_mpi.comm.launcher import is_launched_by_srun, leave_if_orphaned
from acme_mpi.comm.meeting import Meeting
from acme_mpi.comm.neighbours import LocalNeighbour, Neighbour, RemoteNeighbour, open_door
from acme_mpi.comm.roll_call import ByMessages, RollCall
from acme_mpi.comm.together import End, Left, left_rank
from acme_mpi.errors import EXIT_RANK_LOST

T = TypeVar("T")
V = TypeVar("V")

logger = logging.getLogger("acme_mpi")

LOOK_EVERY_S = 1.0
UNHEARD_S = 0.01  # what a lost ring costs
N_TELLERS = 8  # the first of these that waits says who is missing


class MpiWorld(World):
    """A world over an MPI communicator, which must be this project's own duplicate.

    Parameters
    ----------
    comm : mpi4py.MPI.Intracomm
        Used for nothing else.
    host : str, optional
        Name of this rank's node, for tests.
    """

    def __init__(self, comm: Any, host: str | None = None) -> None:
        super().__init__()
        self.host = host or self.host
        from mpi4py import MPI

        self._mpi, self._comm = MPI, comm
        self.rank, self.size = comm.Get_rank(), comm.Get_size()
        self._buffer = np.zeros(MESSAGE_INTS, np.int64)
        self._status = MPI.Status()
        self._sending: deque[tuple[Any, Any]] = deque()  # requests and their buffers
        self._neighbours: list[Neighbour] = []
        self._has_told = False
        self._parent = os.getppid()
        self._end: End | None = None
        self._left: Left | None = None  # a rank whose script has ended
        self._bell, self._is_one_node = Doorbell(), False
        self.barrier()
        met = comm.allgather(((self.host, os.getpid()), self._bell.name))
        places = [place for place, _ in met]
        self.hosts = [host for host, _ in places]
        self._bell.meet([name for _, name in met], self.hosts, self.host)
        self._is_one_node = self.size > 1 and len(set(self.hosts)) == 1
        self.name = comm.bcast(self.name)
        self._neighbours = self._meet_neighbours(places)

    def _meet_neighbours(self, places: list[tuple[str, int]]) -> list[Neighbour]:
        """Return the ranks that this one watches. Collective."""
        hosts = self.hosts
        found: list[Neighbour] = []
        here = [rank for rank, host in enumerate(hosts) if host == self.host]
        if len(here) > 1:
            rank = _next(here, self.rank)
            # What cannot be watched is not: it is in another container, perhaps.
            with contextlib.suppress(OSError):
                found.append(LocalNeighbour(rank, *places[rank]))
        firsts = [hosts.index(host) for host in dict.fromkeys(hosts)]
        # An mpiexec ends the job itself; srun does so only with --kill-on-bad-exit=1.
        if len(firsts) > 1 and is_launched_by_srun():
            doors = self._comm.allgather(open_door() if self.rank in firsts else None)
            if self.rank in firsts:
                rank = _next(firsts, self.rank)
                if (door := doors[rank]) is not None:
                    found.append(RemoteNeighbour(rank, *places[rank], door))
        return found

    def abort_if_neighbour_is_gone(self) -> None:
        """Call MPI_Abort if a rank that this one watches has died."""
        for neighbour in self._neighbours:
            if neighbour.is_gone():
                logger.error("%s has died; the job ends", neighbour)
                self.tell_death(neighbour.rank, neighbour.host)
                self.abort(EXIT_RANK_LOST)
            # All others are watched by rank 0, which hears from them.
            if neighbour.rank == 0:
                self._watch_rank_0(neighbour)

    def deaths(self) -> list[int]:
        """Return the descriptor of the process that this rank watches; none of other nodes."""
        local = (each for each in self._neighbours if isinstance(each, LocalNeighbour))
        return [each.descriptor for each in local]

    def _watch_rank_0(self, neighbour: Neighbour) -> None:
        stopped_s = neighbour.stopped_s()
        if stopped_s > LOST_S:
            logger.error("%s is stopped for %.0f s; the job ends", neighbour, stopped_s)
            self.tell_death(neighbour.rank, neighbour.host)
            self.abort(EXIT_RANK_LOST)
        elif stopped_s > SILENT_S and not self._has_told:
            self._has_told = True
            logger.warning(
                "%s is stopped for %.0f s, by a signal or a debugger; `kill -CONT %d` wakes it",
                neighbour,
                stopped_s,
                neighbour.pid,
            )

    @property
    def mpi_comm(self) -> Any:
        """The duplicated communicator."""
        return self._comm

    def _send(self, dest: int, tag: int, message: list[int]) -> None:
        self._isend(np.array(message, np.int64), dest, tag)

    def _isend(self, buffer: Any, dest: int, tag: int) -> None:
        # The oldest first: to look at all of them each time would take the longer, the more wait.
        while self._sending and self._sending[0][0].Test():
            self._sending.popleft()
        # Isend, because a standard-mode send may wait for its receiver (MPI 4.1, 3.4).
        self._sending.append((self._comm.Isend(buffer, dest, tag), buffer))

    def _poll(self, tag: int) -> tuple[int, list[int]] | None:
        if not self._has_come(self._mpi.ANY_SOURCE, tag):
            return None
        sender = self._status.Get_source()
        self._comm.Recv(self._buffer, sender, tag)
        self._bell.found()
        return sender, self._buffer.tolist()

    def _has_come(self, source: int, tag: int) -> bool:
        comm, status = self._comm, self._status
        # Open MPI looks first and progresses afterwards: the second look sees what has come in.
        return bool(comm.Iprobe(source, tag, status) or comm.Iprobe(source, tag, status))

    @property
    def _meeting(self) -> Meeting | None:
        """How the ranks come together, if all are of one node."""
        if not self._is_one_node:
            return None
        # Made anew, so that it does not keep this object, which has the bell.
        bell, isend = self._bell, self._isend
        return Meeting(self._comm, bell, isend, self._wait_woken, self._gather_here)

    def wake(self, rank: int) -> None:
        """Ring the rank's bell; MPI has its messages by then, or soon."""
        if rank != self.rank:
            self._bell.ring(rank)

    @property
    def is_woken(self) -> bool:
        """Whether all who send to this rank during a run are of its node: rank 0, or all ranks."""
        return self._is_one_node or (self.rank > 0 and self._bell.reaches(0))

    @property
    def expects_message(self) -> bool:
        """Whether this rank was woken, and what for is still on its way."""
        return self._bell.is_owed

    def bells(self) -> list[int]:
        """Return this rank's bell."""
        return [self._bell.fileno()]

    def hush(self) -> None:
        """Silence it."""
        self._bell.hush()

    def barrier(self, notify: Callable[[str], None] | None = None) -> None:
        """Wait for all ranks, asleep (a blocking MPI barrier keeps a core busy)."""
        meeting = self._meeting
        if meeting is not None and not self._may_rank_0_be_missing(notify):
            meeting.meet(None, lambda _: None, notify)
        elif self.size > 1:
            n_tellers = 1 if self._end is None else N_TELLERS
            roll_call = None if notify is None else ByMessages(self._comm, n_tellers)
            wait_for_all(
                self._comm, self._comm.Ibarrier(), notify, self._look, self.forward, roll_call
            )

    def _may_rank_0_be_missing(self, notify: Callable[[str], None] | None) -> bool:
        """Tell whether another rank is to say who is missing: all run the script."""
        return notify is not None and self._end is not None

    def _wait_woken(
        self, request: Any, notify: Callable[[str], None] | None, roll_call: RollCall
    ) -> None:
        """Wait for what other ranks wake this one for."""

        def sleep(pause_s: float) -> bool:
            return self._bell.wait(max(pause_s, UNHEARD_S))

        wait_for_all(self._comm, request, notify, self._look, self.forward, roll_call, sleep)

    def consult(
        self,
        value: V,
        decide: Callable[[list[V]], T],
        notify: Callable[[str], None] | None = None,
    ) -> T:
        """Return what rank 0 makes of all values; on one node that is one message each way."""
        meeting = self._meeting
        if meeting is None:
            return super().consult(value, decide, notify)
        if self._may_rank_0_be_missing(notify):
            self.barrier(notify)
            notify = None
        return meeting.meet(value, decide, notify)

    def _look(self) -> None:
        """Leave, or end the job, if whoever is waited for will never come."""
        leave_if_orphaned(self._parent)
        self.abort_if_neighbour_is_gone()
        if self._end is None:
            return
        if self._left is not None:
            logger.error(
                "the script has ended on rank %d, which rank %d still waits for in a call that "
                "every rank has to make; the job ends",
                self._left.rank,
                self.rank,
            )
            self.abort(self._left.status or 1)
        # The last message that makes a barrier complete may be on its way: once more.
        self._left = left_rank(self._comm)

    def end_together(self) -> None:
        """Have an uncaught exception end the job, and whoever waits hear of ended scripts."""
        if self._end is None and self.size > 1:
            self._end = End(self._comm)

    def bcast(self, value: T | None, root: int = 0) -> T:
        """Return the root's value, pickled on the way."""
        if self.size == 1:
            return value  # type: ignore[return-value]
        if (meeting := self._meeting) is not None:
            own = value if self.rank == root else None
            return meeting.meet(own, lambda values: values[root])  # type: ignore[return-value]
        self.barrier()
        shared: T = self._comm.bcast(value, root)
        return shared

    def bcast_bytes(self, view: memoryview | None) -> None:
        """Copy rank 0's bytes, moved in slices between the ranks that give any."""
        self.barrier()
        color = self._mpi.UNDEFINED if view is None else 0
        part = self._comm.Split(color, self.rank)
        if view is not None:
            for start in range(0, len(view), SLICE_BYTES):
                part.Bcast([view[start : start + SLICE_BYTES], self._mpi.BYTE], 0)
            part.Free()

    def gather(self, value: T, notify: Callable[[str], None] | None = None) -> list[T] | None:
        """Return the list of all values on rank 0; each may be larger than 2 GiB."""
        if self._is_one_node:
            gathered: list[T] = []
            self.consult(value, gathered.extend, notify)
            return gathered if self.is_master else None
        self.barrier(notify)
        return self._gather_here(value)

    def allgather(self, value: T) -> list[T]:
        """Return the list of all values on every rank, which waits for the others once."""
        if (meeting := self._meeting) is not None:
            return meeting.meet(value, list)
        gathered = self.gather(value)
        shared: list[T] = self._comm.bcast(gathered)
        return shared

    def _gather_here(self, value: T) -> list[T] | None:
        """Gather over all ranks, all of which are here."""
        return self._gather_over(self._comm, value)

    def _gather_over(self, comm: Any, value: T) -> list[T] | None:
        """Gather over the ranks of a communicator, all of which are here."""
        blob = pickle.dumps(value, protocol=5)
        sizes = np.zeros(comm.Get_size(), np.int64)
        comm.Allgather(np.array([len(blob)], np.int64), sizes)
        if comm.Get_rank():
            for start in range(0, len(blob), SLICE_BYTES):
                comm.Send([blob[start : start + SLICE_BYTES], self._mpi.BYTE], 0, TAG_DATA)
            return None
        values = [value]
        for source in range(1, len(sizes)):
            received = bytearray(int(sizes[source]))
            for start in range(0, len(received), SLICE_BYTES):
                piece = memoryview(received)[start : start + SLICE_BYTES]
                comm.Recv([piece, self._mpi.BYTE], source, TAG_DATA)
            values.append(pickle.loads(received))
        return values

    def abort(self, exit_code: int) -> None:
        """Call MPI_Abort."""
        self._comm.Abort(exit_code)


def _next(ranks: list[int], rank: int) -> int:
    return ranks[(ranks.index(rank) + 1) % len(ranks)]


def wait_for_all(
    comm: Any,
    request: Any,
    notify: Callable[[str], None] | None,
    look: Callable[[], None] = lambda: None,
    forward: Callable[[], None] = lambda: None,
    roll_call: RollCall | None = None,
    sleep: Callable[[float], object] = time.sleep,
) -> None:
    """Wait for a non-blocking collective, asleep; after 10 s one rank names who is missing.

    That is the first teller of `roll_call` that is here.

    Once a second `look` is called: it may find that somebody will never come. Between any two
    pauses `forward` is: those that have not come may need this rank. After a `sleep` that tells
    that it was ended by another rank the pauses are short again.
    """
    backoff, start_s = Backoff(), time.monotonic()
    told, looked_s = False, 0.0
    while not request.Test():
        if sleep(backoff.pause()):
            backoff.reset()
        forward()
        waited_s = time.monotonic() - start_s
        if waited_s > looked_s + LOOK_EVERY_S:
            looked_s = waited_s
            look()
        if notify is None or roll_call is None or waited_s < ROLL_CALL_S:
            continue
        present = roll_call.present()
        if not told and waited_s > ROLL_CALL_S + 1.0 and comm.rank == min(present, default=-1):
            told = True
            missing = [rank for rank in range(comm.size) if rank not in present]
            notify(
                f"still waiting: rank(s) {_rank_list(missing)} of {comm.size} have not made "
                "this call after 10 s; every rank has to make it"
            )
    if roll_call is not None:
        roll_call.close()


def _rank_list(ranks: Sequence[int]) -> str:
    shown = ", ".join(str(rank) for rank in ranks[:8])
    return f"{shown}, ... ({len(ranks)} ranks)" if len(ranks) > 8 else shown
