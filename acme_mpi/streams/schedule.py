"""Which rank gets which chunks of a stream, and how many the client shall send ahead."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Iterator
from typing import Any, NamedTuple

from acme_mpi.runner.calls import Begin, Given, Got, Lost

# Of work that a rank has ahead, so that the way to rank 0 and back costs no time: within a node,
# where bells wake, and between nodes, where ranks poll. It gets more when half of that is done:
# few large messages, as each wakes two processes.
NEAR_S, FAR_S = 0.02, 0.05
LAST_S = 0.005  # of work may wait at one rank for no gain, when others have nothing left
LONG_S = 0.05  # a call that takes longer is worth the way: nothing waits behind it
MAX_AHEAD = 500  # chunks of one rank
WEIGHT = 0.25  # of the newest duration in the mean


class _Means(NamedTuple):
    """What chunks of a function take, and single calls, in seconds."""

    chunk_s: float
    call_s: float


class Schedule:
    """The chunks of all pools, and who has them.

    Parameters
    ----------
    size : int
        Number of ranks.
    reserve_s : float
        For how many seconds a rank shall have work ahead.
    """

    def __init__(self, size: int, reserve_s: float = NEAR_S) -> None:
        self._reserve_s = reserve_s
        self._queues: dict[int, deque[Given]] = {}  # by setup
        self._limits: dict[int, int] = {}  # how many ranks work for a setup
        # By rank and chunk: calls left, and of those that returned nanoseconds and number.
        self._out: list[dict[int, list[int]]] = [{} for _ in range(size)]
        self._function_of: dict[int, int] = {}  # by chunk that is out
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

    def add(self, given: Given) -> None:
        """Queue a chunk."""
        self._queues[given.setup].append(given)
        self.n_queued += 1

    def take_back(self, rank: int, chunks: Iterable[Given]) -> None:
        """Queue chunks that a rank has, and gives back as a call before them takes long."""
        self._delayed.add(rank)
        out = self._out[rank]
        for given in sorted(chunks, key=lambda given: given.chunk, reverse=True):
            del out[given.chunk], self._function_of[given.chunk]
            self._queues[given.setup].appendleft(given)
            self.n_queued += 1

    def remove(self, chunks: set[int]) -> list[Given]:
        """Take chunks out of the queue; return those that were there."""
        found: list[Given] = []
        for setup, queue in self._queues.items():
            there = [given for given in queue if given.chunk in chunks]
            if there:
                found += there
                left = deque(given for given in queue if given.chunk not in chunks)
                self._queues[setup] = left
        self.n_queued -= len(found)
        return found

    def has(self, rank: int, chunk: int) -> bool:
        """Tell whether a rank has a chunk."""
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
                out[given.chunk] = [given.n, 0, given.n]
                self._function_of[given.chunk] = given.function
                yield given

    def _limit(self, function: int, share: int) -> int:
        """Return how many chunks a rank may have, if a share of what is left may be so large."""
        # The last quarter goes to whoever is ready first.
        at_last = max(1, 3 * share // 4, self._ahead(function, LAST_S) - 1)
        return min(share, self._ahead(function), at_last)

    def _ahead(self, function: int, reserve_s: float | None = None) -> int:
        """Return how many chunks a rank may have, with the one that runs."""
        means = self._means.get(function)
        if means is None or means.call_s > LONG_S:
            return 1
        reserve_s = self._reserve_s if reserve_s is None else reserve_s
        return min(MAX_AHEAD, 2 + int(reserve_s / (means.chunk_s + 1e-6)))

    def take(self, rank: int, answers: Iterable[Any]) -> None:
        """Learn what has ended."""
        out = self._out[rank]
        for answer in answers:
            if isinstance(answer, (Got, Lost)):
                self._delayed.discard(rank)
            left = out.get(answer.chunk) if isinstance(answer, (Got, Lost)) else None
            if left is None:
                continue
            left[0] -= answer.n
            if isinstance(answer, Got):
                left[1] += answer.busy_ns
            else:
                left[2] -= answer.n  # how long they would have taken is not known
            if left[0] <= 0:
                del out[answer.chunk]
                function = self._function_of.pop(answer.chunk)
                if left[2] > 0:
                    self._learn(function, left[1] / 1e9, left[2])

    def _learn(self, function: int, took_s: float, n_calls: int) -> None:
        call_s = took_s / n_calls
        chunk_s, mean_s = self._means.get(function, (took_s, call_s))
        self._means[function] = _Means(
            chunk_s + WEIGHT * (took_s - chunk_s), mean_s + WEIGHT * (call_s - mean_s)
        )
        self._learned.add(function)

    def windows(self) -> Iterator[tuple[int, int]]:
        """Yield functions whose calls have ended since, and how many chunks of them shall be here.

        That is: shall have been sent by the client, and not have ended.
        """
        # What the ranks get next lies ready at rank 0.
        learned, self._learned = self._learned, set()
        for function in learned:
            ahead = self._ahead(function)
            yield function, len(self._out) * (ahead + max(1, ahead // 2))
