"""Many ranks on many nodes: what they tell rank 0 travels through the first rank of their node.

Over TCP every pair of ranks that talk holds a connection: rank 0 would need a descriptor for every
rank, and a system call for every message. So a rank sends what is for rank 0 to the first rank of
its node, which passes all that has come to it on in one message, and orders go back the same way.
`gather` takes two steps likewise. All other collectives are MPI's own, which open few connections
per rank; only ranks that have waited for others for 10 s tell rank 0 so directly.

A message is any number of rows, each with its source and destination: `ROW_INTS` integers.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Sequence
from typing import Any, TypeVar

import numpy as np

from acme_mpi.comm.base import MESSAGE_INTS, TAG_CHUNK, TAG_REPORT
from acme_mpi.comm.mpi import MpiWorld

T = TypeVar("T")

RELAYED_FROM = 513  # ranks
ROW_INTS = 2 + MESSAGE_INTS
FORWARD_EVERY_S = 0.005  # a chunk of so many ranks lasts longer, and another one is in reserve


class RelayedWorld(MpiWorld):
    """A world in which rank 0 exchanges messages with the first rank of each node alone.

    First ranks forward whenever they poll or wait in a collective; the ranks of their node send
    nothing after they have come to one.

    Parameters
    ----------
    comm : mpi4py.MPI.Intracomm
        Used for nothing else.
    host : str, optional
        Name of this rank's node, for tests.
    """

    def __init__(self, comm: Any, host: str | None = None) -> None:
        self._arrived: dict[int, deque[tuple[int, list[int]]]] = {
            TAG_REPORT: deque(),
            TAG_CHUNK: deque(),
        }
        self._waiting: dict[tuple[int, int], list[int]] = {}  # rows by next rank and tag
        super().__init__(comm, host)
        self._first_of = [self.hosts.index(each) for each in self.hosts]
        first = self._first_of[self.rank]
        self._is_first = self.rank == first
        self._has_followers = self.rank > 0 and self._first_of.count(self.rank) > 1
        undefined = self._mpi.UNDEFINED
        self._node_comm = comm.Split(first, self.rank)
        self._first_comm = comm.Split(0 if self._is_first else undefined, self.rank)

    @property
    def forward_every_s(self) -> float | None:
        """How often in seconds the other ranks of its node need a first rank."""
        return FORWARD_EVERY_S if self.is_relaying and self._has_followers else None

    def forward(self) -> None:
        """Take in all that has come, and send what is not for this rank to the next one."""
        for tag in self._arrived:
            self._take_in(tag)
        self._send_waiting()

    def _take_in(self, tag: int) -> None:
        while self._has_come(self._mpi.ANY_SOURCE, tag):
            for source, dest, *message in self._receive(tag):
                if dest == self.rank:
                    self._arrived[tag].append((source, message))
                else:
                    self._put(source, dest, tag, message)

    def _send(self, dest: int, tag: int, message: list[int]) -> None:
        self._put(self.rank, dest, tag, message)
        if self.rank:
            self._send_waiting()
        # Rank 0 polls again soon, and till then has more to say.

    def _poll(self, tag: int) -> tuple[int, list[int]] | None:
        self._send_waiting()
        if self.forward_every_s is not None:
            self.forward()
        elif not self._arrived[tag]:
            self._take_in(tag)
        return self._arrived[tag].popleft() if self._arrived[tag] else None

    def _put(self, source: int, dest: int, tag: int, message: Sequence[int]) -> None:
        rows = self._waiting.setdefault((self._next_rank(dest), tag), [])
        rows += (source, dest, *message)

    def _next_rank(self, dest: int) -> int:
        """Return the next rank on the way to `dest`: on the node of rank 0 it is `dest` itself."""
        if not self.is_relaying:
            return dest
        if self.rank == 0:
            return self._first_of[dest] or dest
        return dest if dest or self._is_first else self._first_of[self.rank]

    def _send_waiting(self) -> None:
        for (rank, tag), rows in self._waiting.items():
            self._isend(np.array(rows, np.int64), rank, tag)
        self._waiting.clear()

    def _receive(self, tag: int) -> list[list[int]]:
        n_ints = self._status.Get_count(self._mpi.INT64_T)
        rows = np.empty((n_ints // ROW_INTS, ROW_INTS), np.int64)
        self._comm.Recv(rows, self._status.Get_source(), tag)
        listed: list[list[int]] = rows.tolist()
        return listed

    def gather(self, value: T, notify: Callable[[str], None] | None = None) -> list[T] | None:
        """Return the list of all values on rank 0, brought together on every node first."""
        self.barrier(notify)
        of_node = self._gather_over(self._node_comm, (self.rank, value))
        of_nodes = None if of_node is None else self._gather_over(self._first_comm, of_node)
        if of_nodes is None:
            return None
        by_rank = dict(pair for pairs in of_nodes for pair in pairs)
        return [by_rank[rank] for rank in range(self.size)]
