"""What a world of ranks offers, and the constants of the protocol."""

from __future__ import annotations

import socket
import time
import uuid
from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Callable, Sequence
from typing import Any, TypeVar

T = TypeVar("T")
V = TypeVar("V")

MESSAGE_INTS = 8  # every short message: this many 64-bit integers
TAG_REPORT, TAG_CHUNK, TAG_PRESENT, TAG_DATA, TAG_LEFT = 1, 2, 3, 4, 5
TAG_MEETING = 8  # 6 and 7 are the post's
SLICE_BYTES = 512 * 1024 * 1024  # one MPI call moves at most this, far below 2 GiB
ROLL_CALL_S = 10.0
SILENT_S = 60.0  # after this a rank is named from which nothing is heard
LOST_S = 900.0  # after this the job ends
FIRST_PAUSE_S, SHORT_PAUSE_S = 1e-4, 0.01


class Backoff:
    """Sleep with growing pauses between two looks.

    They double up to 10 ms. Longer ones are a small share of what was waited, so that whoever
    waits for long needs hardly any time for it, and what comes is not noticed much later.

    Parameters
    ----------
    longest_s : float
        Upper bound of a pause in seconds.
    share : float
        Longest pause above 10 ms as a part of the time since the last reset. The default is for
        what comes by a chain of ranks, each of which may be asleep.
    """

    def __init__(self, longest_s: float = 0.1, share: float = 1 / 256) -> None:
        self.longest_s, self._share = longest_s, share
        self._pause_s, self._waited_s = FIRST_PAUSE_S, 0.0

    def pause(self) -> float:
        """Return the next pause in seconds; the one after it may be twice as long."""
        pause_s = min(self._pause_s, self.longest_s)
        self._waited_s += pause_s
        self._pause_s = min(2 * pause_s, max(SHORT_PAUSE_S, self._share * self._waited_s))
        return pause_s

    def sleep(self) -> None:
        """Sleep for the next pause."""
        time.sleep(self.pause())

    def reset(self) -> None:
        """Start again with the shortest pause."""
        self._pause_s, self._waited_s = FIRST_PAUSE_S, 0.0


class World(ABC):
    """The ranks of one job, seen from one of them.

    Attributes
    ----------
    rank, size : int
        This rank, and the number of ranks.
    host : str
        Name of this rank's node.
    hosts : list of str
        The same of every rank.
    name : str
        Tells these ranks from all others, also of other jobs; the same on every rank.
    is_relaying : bool
        Whether ranks may pass on what others send, to be set on all ranks alike between two runs.
        Where the agents themselves call tasks they must not: they look too seldom.
    on_death : callable or None
        Gets the number and host of a rank that is lost, before all others are ended for it.
    """

    rank: int
    size: int
    hosts: list[str]
    is_relaying = True

    def __init__(self) -> None:
        self.host, self.name = socket.gethostname(), uuid.uuid4().hex
        self.on_death: Callable[[int, str], None] | None = None
        self._own: dict[int, deque[list[int]]] = {TAG_REPORT: deque(), TAG_CHUNK: deque()}

    def send(self, dest: int, tag: int, message: Sequence[int]) -> None:
        """Send at most `MESSAGE_INTS` integers; never waits. Independent."""
        padded = [*message, *[0] * (MESSAGE_INTS - len(message))]
        if dest == self.rank:
            self._own[tag].append(padded)
        else:
            self._send(dest, tag, padded)

    def poll(self, tag: int) -> tuple[int, list[int]] | None:
        """Return (source, message) of one message that has arrived, else None. Independent."""
        if self._own[tag]:
            return self.rank, self._own[tag].popleft()
        return self._poll(tag) if self.size > 1 else None

    def end_together(self) -> None:  # noqa: B027 (threads share their process's end)
        """From now on let no rank wait for one whose script has ended. Collective."""

    def wake(self, rank: int) -> None:  # noqa: B027 (threads sleep for moments only)
        """Have a rank of this node look at once for what it was sent. Independent."""

    @property
    def is_woken(self) -> bool:
        """Whether all who send to this rank can wake it, so that it need not look."""
        return False

    @property
    def expects_message(self) -> bool:
        """Whether this rank was woken, and what for is still on its way."""
        return False

    def bells(self) -> list[int]:
        """Return what is readable once another rank has woken this one. Independent."""
        return []

    def hush(self) -> None:  # noqa: B027 (where nobody is woken)
        """Forget that this rank was woken, before it looks. Independent."""

    @abstractmethod
    def _send(self, dest: int, tag: int, message: list[int]) -> None:
        """Send `MESSAGE_INTS` integers to another rank."""

    @abstractmethod
    def _poll(self, tag: int) -> tuple[int, list[int]] | None: ...

    @abstractmethod
    def barrier(self, notify: Callable[[str], None] | None = None) -> None:
        """Wait until every rank is here, asleep. Collective.

        Parameters
        ----------
        notify : callable, optional
            On rank 0 called with a sentence that names the missing ranks, after 10 s.
        """

    @abstractmethod
    def bcast(self, value: T | None, root: int = 0) -> T:
        """Return `root`'s value on every rank. Collective; plain Python values, no user's types."""

    @abstractmethod
    def bcast_bytes(self, view: memoryview | None) -> None:
        """Copy rank 0's bytes into those that some other ranks give. Collective.

        Parameters
        ----------
        view : memoryview or None
            Of uint8, of any length, the same on all ranks that give one.
        """

    @abstractmethod
    def gather(self, value: T, notify: Callable[[str], None] | None = None) -> list[T] | None:
        """Return the list of all values on rank 0, None elsewhere. Collective.

        It waits as `barrier` does, which may `notify`.
        """

    def forward(self) -> None:  # noqa: B027 (only some worlds have ways of several steps)
        """Pass on what other ranks have sent through this one; never waits. Independent."""

    def abort_if_neighbour_is_gone(self) -> None:  # noqa: B027 (threads are never gone)
        """End all ranks if one that this rank watches has died. Independent.

        What a launcher does about a rank that dies differs, and some do nothing.
        """

    def deaths(self) -> list[int]:
        """Return what is readable once a rank that this one watches has died. Independent."""
        return []

    def tell_death(self, rank: int, host: str) -> None:
        """Tell who wants to know that a rank is lost. Independent."""
        if self.on_death is not None:
            self.on_death(rank, host)

    @abstractmethod
    def abort(self, exit_code: int) -> None:
        """End all ranks at once: for broken invariants only. Independent."""

    def consult(
        self,
        value: V,
        decide: Callable[[list[V]], T],
        notify: Callable[[str], None] | None = None,
    ) -> T:
        """Return on every rank what rank 0 makes of the values of all. Collective.

        Parameters
        ----------
        value : object
            This rank's; plain Python values.
        decide : callable
            ``decide(values)`` is called on rank 0; returns plain values, never raises.
        notify : callable, optional
            As of `barrier`.
        """
        values = self.gather(value, notify)
        return self.bcast(None if values is None else decide(values))

    def allgather(self, value: T) -> list[T]:
        """Return the list of all values on every rank. Collective."""
        return self.bcast(self.gather(value))

    def scatter(self, values: Sequence[T] | None) -> T:
        """Return this rank's entry of rank 0's list. Collective."""
        return self.bcast(values)[self.rank]

    @property
    def forward_every_s(self) -> float | None:
        """How often in seconds others need this rank to `forward` or `poll`; None: never."""
        return None

    @property
    def mpi_comm(self) -> Any:
        """The mpi4py communicator for parallel HDF5, or None where there is none."""
        return None

    @property
    def is_master(self) -> bool:
        """Whether this is rank 0."""
        return self.rank == 0
