"""How many tasks a worker gets at a time: pure policies, driven by counts and durations."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections import deque


class Schedule(ABC):
    """Hand out the indices [0, n_tasks) as chunks, each index once unless it is given back.

    Parameters
    ----------
    n_tasks : int
        Number of tasks, >= 0.
    n_workers : int
        Ranks that call tasks, >= 1.
    """

    def __init__(self, n_tasks: int, n_workers: int) -> None:
        self.n_workers = n_workers
        self._ranges: deque[tuple[int, int]] = deque([(0, n_tasks)] if n_tasks else [])
        self.n_left = n_tasks

    @abstractmethod
    def chunk_size(self) -> int:
        """Return the size of the next chunk, >= 1; `n_left` is at least 1."""

    @property
    def chunk_s(self) -> float:
        """How long a chunk is expected to take, in seconds; 0 if unknown."""
        return 0.0

    def record(self, n_tasks: int, busy_s: float) -> None:  # noqa: B027 (optional hook)
        """Take note that `n_tasks` tasks kept one worker busy for `busy_s` seconds."""

    def next_chunk(self, worker: int) -> range:
        """Return the next indices for `worker`, consecutive; empty if nothing is left."""
        if not self._ranges:
            return range(0)
        start, stop = self._ranges.popleft()
        cut = min(stop, start + self.chunk_size())
        if cut < stop:
            self._ranges.appendleft((cut, stop))
        self.n_left -= cut - start
        return range(start, cut)

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

    def __init__(self, n_tasks: int, n_workers: int, size: int = 1) -> None:
        super().__init__(n_tasks, n_workers)
        self.size = size

    def chunk_size(self) -> int:
        """Return the fixed size."""
        return self.size


class Factoring(Schedule):
    """Factoring, with chunks bounded by measured time.

    Every batch hands out half of what is left, in one equal chunk per worker, so that the last
    chunks balance the load. Until a duration is known chunks hold one task; then none lasts longer
    than `longest_s` (a report in that time keeps results safe and the bar moving) and, unless
    too few tasks are left, none is shorter than `shortest_s` (a chunk must outweigh its messages).

    Parameters
    ----------
    longest_s, shortest_s : float
        Bounds of a chunk's duration in seconds.

    References
    ----------
    Hummel, Schonberg and Flynn (1992), Commun. ACM 35(8), 90-101.
    """

    def __init__(
        self, n_tasks: int, n_workers: int, longest_s: float = 0.08, shortest_s: float = 0.002
    ) -> None:
        super().__init__(n_tasks, n_workers)
        self.longest_s, self.shortest_s = longest_s, shortest_s
        self._batch_left = 0
        self._batch_size = 1
        self._chunk_size = 1
        self._task_s = 0.0

    @property
    def chunk_s(self) -> float:
        """How long the last chunk is expected to take."""
        return self._chunk_size * self._task_s

    def record(self, n_tasks: int, busy_s: float) -> None:
        """Update the mean duration of a task; recent chunks weigh more."""
        if n_tasks:
            mean_s = max(busy_s / n_tasks, 1e-9)
            self._task_s = mean_s if self._task_s == 0.0 else (self._task_s + mean_s) / 2

    def chunk_size(self) -> int:
        """Return this batch's size, bounded by the measured durations."""
        if self._task_s == 0.0:
            return 1
        if self._batch_left <= 0:
            self._batch_left = self.n_workers
            self._batch_size = -(-self.n_left // (2 * self.n_workers))
        self._batch_left -= 1
        n_longest = int(self.longest_s / self._task_s)
        n_shortest = int(self.shortest_s / self._task_s)
        self._chunk_size = max(1, min(max(self._batch_size, n_shortest), n_longest))
        return self._chunk_size
