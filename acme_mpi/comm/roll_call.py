"""Which ranks wait in a call that others have not made yet."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Any

import numpy as np

from acme_mpi.comm.base import TAG_PRESENT


class RollCall(ABC):
    """Which ranks wait in a call.

    Parameters
    ----------
    comm : mpi4py.MPI.Comm
        The ranks.
    n_tellers : int
        The first so many of them get to know.
    """

    def __init__(self, comm: Any, n_tellers: int) -> None:
        self._comm, self._tellers = comm, range(min(n_tellers, comm.size))

    @abstractmethod
    def present(self) -> set[int]:
        """Return the ranks that are known to wait, on a teller; elsewhere none. Independent."""

    @abstractmethod
    def close(self) -> None:
        """Leave no message behind. Collective."""


class ByMessages(RollCall):
    """On a communicator of our own: ranks that wait for long tell it.

    How many did so is settled at the end, so that none of these messages outlives the call.
    """

    def __init__(self, comm: Any, n_tellers: int) -> None:
        super().__init__(comm, n_tellers)
        self._present = {comm.rank}
        self._sent: dict[int, Any] = {}

    def present(self) -> set[int]:
        """Return the ranks that have said so; say it for this one."""
        comm = self._comm
        if not self._sent:
            here = np.zeros(1, np.int64)
            others = (k for k in self._tellers if k != comm.rank)
            self._sent = {k: comm.Isend(here, k, TAG_PRESENT) for k in others}
        if comm.rank not in self._tellers:
            return set()
        self._receive()
        return self._present

    def _receive(self) -> None:
        from mpi4py import MPI

        status = MPI.Status()
        while self._comm.Iprobe(MPI.ANY_SOURCE, TAG_PRESENT, status):
            self._comm.Recv(np.zeros(1, np.int64), status.Get_source(), TAG_PRESENT)
            self._present.add(status.Get_source())

    def close(self) -> None:
        """Receive what is still on its way."""
        is_teller, has_sent = self._comm.rank in self._tellers, bool(self._sent)
        n_sent = self._comm.allreduce(int(has_sent)) - int(has_sent and is_teller)
        while is_teller and len(self._present) - 1 < n_sent:
            self._receive()
        for each in self._sent.values():
            each.Wait()


class ByGathering(RollCall):
    """On a communicator of the user's, whose receives would take any message of ours.

    Each rank begins to send a byte to every teller by a collective of its own, and a teller looks
    at what has come before that ends. That it comes piece by piece no standard says: where it does
    not, more ranks are said to be missing than are.
    """

    def __init__(self, comm: Any, n_tellers: int) -> None:
        super().__init__(comm, n_tellers)
        from mpi4py import MPI

        self._here, self._come = np.ones(1, np.uint8), np.zeros(comm.size, np.uint8)
        places = [1] * comm.size, list(range(comm.size))
        self._gathers = [
            comm.Igatherv(
                [self._here, MPI.BYTE],
                [self._come, places, MPI.BYTE] if teller == comm.rank else None,
                teller,
            )
            for teller in self._tellers
        ]

    def present(self) -> set[int]:
        """Return the ranks whose bytes have come."""
        for each in self._gathers:
            each.Test()
        come = set(np.flatnonzero(self._come).tolist())
        return come | {self._comm.rank} if self._comm.rank in self._tellers else set()

    def close(self) -> None:
        """Let all collectives end."""
        for each in self._gathers:
            each.Wait()  # all ranks are here: this takes no time
