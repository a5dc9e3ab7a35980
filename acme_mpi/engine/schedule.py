"""How many tasks a worker gets at a time: pure policies, driven by counts and durations."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Sequence
from typing import Any

import numpy as np

Ranges = Sequence[tuple[int, int]] | np.ndarray[Any, np.dtype[np.int64]]  # half-open

REPORTS_PER_S = 10_000  # of all workers together: some 15 % of what one rank can handle
N_EVEN = 8  # tasks whose durations even out in a chunk


class Schedule(ABC):
    """Hand out indices as chunks, each index once unless it is given back.

    Parameters
    ----------
    tasks : int or (n, 2) ndarray of int
        Number of tasks, >= 0: the indices are [0, tasks). Or their half-open ranges, in order.
    n_workers : int
        Ranks that call tasks, >= 1.
    """

    def __init__(self, tasks: int | Ranges, n_workers: int) -> None:
        self.n_workers = n_workers
        # Of a resumed run there may be a million ranges: they stay in the array.
        self._fresh: Ranges = [(0, tasks)] if isinstance(tasks, int) else tasks
        self._n_taken = 0
        self._ranges: deque[tuple[int, int]] = deque()
        edges = np.asarray(self._fresh, np.int64).reshape(-1, 2)
        self.n_left = int((edges[:, 1] - edges[:, 0]).sum())

    @abstractmethod
    def chunk_size(self) -> int:
        """Return the size of the next chunk, >= 1; `n_left` is at least 1."""

    @property
    def chunk_s(self) -> float:
        """How long a chunk is expected to take, in seconds; 0 if unknown."""
        return 0.0

    def record(self, n_tasks: int, busy_s: float) -> None:  # noqa: B027 (optional hook)
        """Take note that `n_tasks` tasks kept one worker busy for `busy_s` seconds."""

    def next_chunk(self, worker: int, n_most: int | None = None) -> range:
        """Return the next indices for `worker`, consecutive; empty if nothing is left.

        Parameters
        ----------
        worker : int
            Rank.
        n_most : int, optional
            Bound of their number, >= 1.
        """
        if not self.n_left:
            return range(0)
        start, stop = self._next_range()
        size = self.chunk_size()
        cut = min(stop, start + (size if n_most is None else min(size, n_most)))
        if cut < stop:
            self._ranges.appendleft((cut, stop))
        self.n_left -= cut - start
        return range(start, cut)

    def _next_range(self) -> tuple[int, int]:
        while not self._ranges:
            start, stop = self._fresh[self._n_taken]
            self._n_taken += 1
            if start < stop:
                self._ranges.append((int(start), int(stop)))
        return self._ranges.popleft()

    def give_back(self, chunk: range) -> None:
        """Take back indices that a worker could not call; they are handed out again first."""
        if len(chunk):
            self._ranges.appendleft((chunk.start, chunk.stop))
            self.n_left += len(chunk)


class FixedChunks(Schedule):
    """Chunks of one size; size 1 is plain self-scheduling.

    Parameters
    ----------
    size : int
        Tasks per chunk, >= 1.
    """

    def __init__(self, tasks: int | Ranges, n_workers: int, size: int = 1) -> None:
        super().__init__(tasks, n_workers)
        self.size = size

    def chunk_size(self) -> int:
        """Return the fixed size."""
        return self.size


class Factoring(Schedule):
    """Factoring, with chunks bounded by measured time.

    Every batch hands out half of what is left, in one equal chunk per worker, so that the last
    chunks balance the load. Until there were as many reports as there are workers chunks hold one
    task; then none lasts longer than `longest_s` (a report in that time keeps the bar moving), and
    of fewer than `N_EVEN` tasks, which may take far longer, none longer than half of that; and,
    unless too few tasks are left, none is shorter than `shortest_s` (a chunk must outweigh its
    messages). From 800 workers on the bounds grow with their number, so that rank 0 gets
    `REPORTS_PER_S` at most, and at the end, when chunks are short, five times as many.

    Parameters
    ----------
    longest_s, shortest_s : float
        Bounds of a chunk's duration in seconds, for few workers.

    References
    ----------
    Hummel, Schonberg and Flynn (1992), Commun. ACM 35(8), 90-101.
    """

    def __init__(
        self,
        tasks: int | Ranges,
        n_workers: int,
        longest_s: float = 0.16,
        shortest_s: float = 0.002,
    ) -> None:
        super().__init__(tasks, n_workers)
        self.longest_s = max(longest_s, n_workers / REPORTS_PER_S)
        self._longest_of_few_s = max(longest_s / 2, n_workers / REPORTS_PER_S)
        self.shortest_s = max(shortest_s, n_workers / REPORTS_PER_S / 5)
        self._batch_left = 0
        self._batch_size = 1
        self._chunk_size = 1
        self._n_records, self._task_s = 0, 0.0

    @property
    def chunk_s(self) -> float:
        """How long the last chunk is expected to take."""
        return self._chunk_size * self._task_s

    def record(self, n_tasks: int, busy_s: float) -> None:
        """Update the mean duration of a task, over about the last report of every worker.

        Of many workers those report first whose tasks are the shortest, so few are not enough.
        """
        if n_tasks:
            mean_s = max(busy_s / n_tasks, 1e-9)
            self._n_records += 1
            self._task_s += (mean_s - self._task_s) / min(self._n_records, self.n_workers + 1)

    def chunk_size(self) -> int:
        """Return this batch's size, bounded by the measured durations."""
        if self._n_records < self.n_workers:
            return 1
        if self._batch_left <= 0:
            self._batch_left = self.n_workers
            self._batch_size = -(-self.n_left // (2 * self.n_workers))
        self._batch_left -= 1
        n_longest = int(self.longest_s / self._task_s)
        if n_longest < N_EVEN:
            n_longest = int(self._longest_of_few_s / self._task_s)
        n_shortest = int(self.shortest_s / self._task_s)
        self._chunk_size = max(1, min(max(self._batch_size, n_shortest), n_longest))
        return self._chunk_size
