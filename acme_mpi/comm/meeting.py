"""How the ranks of one node meet: each sends rank 0 a letter, and gets its answer.

A collective of MPI's keeps a core busy until all have come, and a barrier that is looked at now
and then takes as many looks as it has rounds. Here every rank sleeps until it is woken.
"""

from __future__ import annotations

import pickle
from collections.abc import Callable, Sequence
from typing import Any, Protocol, TypeVar

from acme_mpi.comm.base import TAG_MEETING
from acme_mpi.comm.doorbell import Doorbell
from acme_mpi.comm.roll_call import RollCall

T = TypeVar("T")
V = TypeVar("V")

# MPI takes so much at once, whoever is there; of what is larger the letter says only that it is,
SMALL_BYTES = 3 * 1024
_IS_LARGE = b""
# and rank 0 has all ranks gather. Neither is a pickle.
_GATHER = b"gather"


class Wait(Protocol):
    """Sleeps until a request is done."""

    def __call__(
        self, request: Any, notify: Callable[[str], None] | None, roll_call: RollCall
    ) -> None:
        """Do that; see `wait_for_all`."""


class Meeting:
    """All ranks of a world on one node, of which each can be woken.

    Parameters
    ----------
    comm : mpi4py.MPI.Intracomm
        The ranks.
    bell : Doorbell
        This rank's, which has met the others'.
    isend : callable
        ``isend(buffer, rank, tag)`` sends without waiting, and keeps the buffer meanwhile.
    wait : callable
        ``wait(request, notify, roll_call)`` sleeps until ``request.Test()``, or the bell rings.
    gather : callable
        Gathers on rank 0 what may be large, when all ranks are there.
    """

    def __init__(
        self,
        comm: Any,
        bell: Doorbell,
        isend: Callable[[bytes, int, int], None],
        wait: Wait,
        gather: Callable[[Any], list[Any] | None],
    ) -> None:
        self._comm, self._bell, self._isend = comm, bell, isend
        self._wait, self._gather = wait, gather
        self._others = range(1, comm.size) if comm.rank == 0 else range(1)

    def meet(
        self,
        value: V,
        decide: Callable[[list[V]], T],
        notify: Callable[[str], None] | None = None,
    ) -> T:
        """Return what rank 0 makes of all ranks' values. Collective; as `World.consult`."""
        if self._comm.rank == 0:
            return self._lead(value, decide, notify)
        blob = pickle.dumps(value, protocol=5)
        self._send(blob if len(blob) <= SMALL_BYTES else _IS_LARGE)
        del blob  # what is large is pickled again, when all are there
        answer = self._receive(None)[0]
        if answer == _GATHER:
            self._gather(value)
            answer = self._receive(None)[0]
        shared: T = self._comm.bcast(None) if answer == _IS_LARGE else pickle.loads(answer)
        return shared

    def _lead(
        self, value: V, decide: Callable[[list[V]], T], notify: Callable[[str], None] | None
    ) -> T:
        blobs = self._receive(notify)
        if _IS_LARGE in blobs:
            self._send(_GATHER)
            brought = self._gather(value)
            assert brought is not None
        else:
            brought = [value, *map(pickle.loads, blobs)]
        answer = decide(brought)
        blob = pickle.dumps(answer, protocol=5)
        if len(blob) <= SMALL_BYTES:
            self._send(blob)
            shared: T = pickle.loads(blob)
            return shared
        self._send(_IS_LARGE)
        shared = self._comm.bcast(answer)
        return shared

    def _send(self, blob: bytes) -> None:
        """Send all others of this rank's the same letter, and wake them."""
        for rank in self._others:
            self._isend(blob, rank, TAG_MEETING)
            self._bell.ring(rank)

    def _receive(self, notify: Callable[[str], None] | None) -> list[bytes]:
        """Wait for a letter of each of the others; return them in the order of ranks."""
        letters = _Letters(self._comm, self._others)
        self._wait(letters, notify, letters)
        return letters.blobs()


class _Letters(RollCall):
    """The letters that a rank waits for."""

    def __init__(self, comm: Any, sources: Sequence[int]) -> None:
        super().__init__(comm, 1)
        from mpi4py import MPI

        self._mpi, self._status = MPI, MPI.Status()
        self._sources, self._come = sources, dict[int, bytes]()

    def Test(self) -> bool:
        """Take in what has come; tell whether that is all, as a request of MPI does."""
        any_source, status = self._mpi.ANY_SOURCE, self._status
        # Open MPI looks first and progresses afterwards: the second look sees what has come in.
        while len(self._come) < len(self._sources) and (
            self._comm.Iprobe(any_source, TAG_MEETING, status)
            or self._comm.Iprobe(any_source, TAG_MEETING, status)
        ):
            blob = bytearray(status.Get_count(self._mpi.BYTE))
            self._comm.Recv([blob, self._mpi.BYTE], status.Get_source(), TAG_MEETING)
            self._come[status.Get_source()] = bytes(blob)
        return len(self._come) == len(self._sources)

    def blobs(self) -> list[bytes]:
        """Return them, in the order of ranks."""
        return [self._come[rank] for rank in self._sources]

    def present(self) -> set[int]:
        """Return the ranks that have come, on rank 0; elsewhere none."""
        return {0, *self._come} if self._comm.rank == 0 else set()

    def close(self) -> None:
        """Do nothing: no other message was sent."""
