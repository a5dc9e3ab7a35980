"""Which rank gets which chunks of a stream, and how many the client shall send ahead."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any, NamedTuple

from acme_mpi.runner.calls import Begin, Calls, Given, Got, Lost, Meant, Window

# Of work that a rank has ahead, so that the way to rank 0 and back costs no time, also between
# nodes, where ranks poll. It gets more when half of that is done: few large messages, as each wakes
# two processes.
RESERVE_S = 0.05
LAST_S = 0.005  # of work may wait at one rank for no gain, when others have nothing left
LONG_S = 0.05  # a call that takes longer is worth the way: nothing waits behind it
MAX_AHEAD = 500  # chunks of one rank, or calls of their own: they cannot be cancelled any more
WEIGHT = 0.25  # of the newest duration in the mean


class _Means(NamedTuple):
    """What is known of a function's chunks.

    Attributes
    ----------
    chunk_s, call_s : float
        What they take, and what single calls take, in seconds.
    n_apart : float
        Calls of their own in one of them; 1 where the calls belong together.
    """

    chunk_s: float
    call_s: float
    n_apart: float

    def moved(self, other: _Means) -> _Means:
        """Return what is known when another chunk has ended."""
        return _Means(*(old + WEIGHT * (new - old) for old, new in zip(self, other, strict=True)))


@dataclass(slots=True)
class _Out:
    """Calls of a chunk that a rank has.

    Attributes
    ----------
    function, may_part : int, bool
        As of its `Given`.
    n_left : int
        How many have no end yet.
    n_ended, took_ns : int
        How many have returned, and what these took.
    """

    function: int
    may_part: bool
    n_left: int = 0
    n_ended: int = 0
    took_ns: int = 0


class Schedule:
    """The chunks of all pools, and who has them.

    Parameters
    ----------
    size : int
        Number of ranks.
    """

    def __init__(self, size: int) -> None:
        self._queues: dict[int, deque[Given]] = {}  # by setup
        self._limits: dict[int, int] = {}  # how many ranks work for a setup
        self._out: list[dict[int, _Out]] = [{} for _ in range(size)]  # by rank and chunk
        self._means: dict[int, _Means] = {}  # by function
        self._learned: set[int] = set()  # functions with news since the last look
        self._delayed: set[int] = set()  # ranks that have given chunks back, and not ended a call
        self.n_queued = 0

    @property
    def n_out(self) -> int:
        """Number of chunks that ranks have."""
        return sum(map(len, self._out))

    def ranks_out(self) -> list[int]:
        """Return the ranks that have chunks."""
        return [rank for rank, out in enumerate(self._out) if out]

    def begin(self, setup: Begin) -> None:
        """Learn a setup."""
        self._queues[setup.setup] = deque()
        size = len(self._out)
        self._limits[setup.setup] = min(setup.n_ranks or size, size)

    def end(self, setup: int) -> None:
        """Forget one; what is queued for it, too."""
        self.n_queued -= len(self._queues.pop(setup, ()))
        self._limits.pop(setup, None)

    def forget(self, function: int) -> None:
        """Forget what is known of a function."""
        self._means.pop(function, None)
        self._learned.discard(function)

    def add(self, given: Given) -> None:
        """Queue a chunk."""
        self._queues[given.setup].append(given)
        self.n_queued += 1

    def take_back(self, rank: int, chunks: Iterable[Given]) -> None:
        """Queue chunks that a rank has, and gives back as a call before them takes long."""
        self._delayed.add(rank)
        for given in sorted(chunks, key=lambda given: given.calls, reverse=True):
            self._end_calls(rank, given.chunk, given.n)
            self._queues[given.setup].appendleft(given)
            self.n_queued += 1

    def remove(self, calls: Iterable[Calls]) -> list[Calls]:
        """Take calls out of the queue; return those that were there."""
        meant = Meant(calls)
        found: list[Calls] = []
        for setup, queue in self._queues.items():
            if not any(meant.has_some_of(given.calls) for given in queue):
                continue
            left = deque[Given]()
            for given in queue:
                for part in given.calls.parted(meant.bounds(given.chunk)):
                    if meant.has_some_of(part):
                        found.append(part)
                    else:
                        left.append(given.part(part.first, part.stop))
            self.n_queued += len(left) - len(queue)
            self._queues[setup] = left
        return found

    def has(self, rank: int, chunk: int) -> bool:
        """Tell whether a rank has a chunk, or a part of it."""
        return chunk in self._out[rank]

    def chunks(self) -> set[int]:
        """Return all chunks that are queued or out."""
        queued = {given.chunk for queue in self._queues.values() for given in queue}
        return queued.union(*self._out)

    def assigned(self) -> Iterator[tuple[int, list[Given]]]:
        """Yield ranks and the chunks that they get now."""
        if not self.n_queued:
            return
        ranks = sorted(
            (rank for rank, out in enumerate(self._out) if not (out and rank in self._delayed)),
            key=lambda rank: len(self._out[rank]),
        )
        share = -(-(self.n_queued + self.n_out) // len(self._out))
        for rank in ranks:
            if chunks := [*self._for(rank, share)]:
                yield rank, chunks

    def _for(self, rank: int, share: int) -> Iterator[Given]:
        out = self._out[rank]
        # Pools take turns: the one that was served comes last.
        for setup, queue in [*self._queues.items()]:
            limit = self._limits[setup]
            if not queue or rank >= limit:
                continue
            most = share if limit == len(self._out) else len(queue) + len(out)
            function = queue[0].function
            n_most = self._limit(function, most)
            if len(out) > n_most // 2:
                continue
            self._queues[setup] = self._queues.pop(setup)
            while queue:
                if queue[0].function != function:
                    function = queue[0].function
                    n_most = self._limit(function, most)
                if len(out) >= n_most:
                    break
                given = queue.popleft()
                self.n_queued -= 1
                if given.chunk not in out:
                    out[given.chunk] = _Out(given.function, given.may_part)
                out[given.chunk].n_left += given.n
                yield given

    def _limit(self, function: int, share: int) -> int:
        """Return how many chunks a rank may have, if a share of what is left may be so large."""
        # The last quarter goes to whoever is ready first.
        at_last = max(1, 3 * share // 4, self._ahead(function, LAST_S) - 1)
        return min(share, self._ahead(function), at_last)

    def _ahead(self, function: int, reserve_s: float = RESERVE_S) -> int:
        """Return how many chunks a rank may have, with the one that runs."""
        means = self._means.get(function)
        if means is None or means.call_s > LONG_S:
            return 1
        most = max(1, int(MAX_AHEAD / means.n_apart))
        return min(most, 2 + int(reserve_s / (means.chunk_s + 1e-6)))

    def take(self, rank: int, answers: Iterable[Any]) -> None:
        """Learn what has ended."""
        out = self._out[rank]
        for answer in answers:
            if isinstance(answer, (Got, Lost)):
                self._delayed.discard(rank)
                if answer.chunk in out:
                    # How long those that are lost would have taken is not known.
                    took_ns = answer.busy_ns if isinstance(answer, Got) else None
                    self._end_calls(rank, answer.chunk, answer.n, took_ns)

    def _end_calls(self, rank: int, chunk: int, n: int, took_ns: int | None = None) -> None:
        """Count calls as no longer out; what they took, if they have returned."""
        out = self._out[rank][chunk]
        out.n_left -= n
        if took_ns is not None:
            out.n_ended += n
            out.took_ns += took_ns
        if out.n_left <= 0:
            del self._out[rank][chunk]
            if out.n_ended:
                self._learn(out)

    def _learn(self, out: _Out) -> None:
        took_s = out.took_ns / 1e9
        new = _Means(took_s, took_s / out.n_ended, out.n_ended if out.may_part else 1)
        self._means[out.function] = self._means.get(out.function, new).moved(new)
        self._learned.add(out.function)

    def windows(self) -> Iterator[Window]:
        """Yield how many chunks of the functions whose calls have ended since shall be here.

        That is: shall have been sent by the client, and not have ended.
        """
        # What the ranks get next lies ready at rank 0.
        learned, self._learned = self._learned, set()
        for function in learned:
            ahead = self._ahead(function)
            means = self._means[function]
            n_chunks = int(len(self._out) * (ahead + max(1, ahead // 2)) * means.n_apart)
            yield Window(function, n_chunks, means.call_s)
