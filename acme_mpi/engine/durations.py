"""How long tasks take: their quantiles, in constant memory."""

from __future__ import annotations

import math
from bisect import bisect_left

import numpy as np

SHORTEST_S, LONGEST_S = 1e-6, 1e7
BIN_RATIO = 1.05

# Upper edges of the bins; what is longer than the last has the bin behind it.
_EDGES_S = [
    SHORTEST_S * BIN_RATIO**k
    for k in range(math.ceil(math.log(LONGEST_S / SHORTEST_S, BIN_RATIO)) + 1)
]


class Durations:
    """A histogram of the durations of tasks with logarithmic bins, each 5 % wide.

    Every answer but the mean is the upper edge of a bin, at most the longest duration seen: never
    less than the true value, and at most 5 % more between a microsecond and 1e7 seconds.

    Attributes
    ----------
    n : int
        Number of tasks.
    longest_s : float
        The longest duration, in seconds; 0.0 before the first.
    """

    def __init__(self) -> None:
        self.n = 0
        self.longest_s = 0.0
        self._total_s = 0.0
        self._counts = np.zeros(len(_EDGES_S) + 1, np.int64)

    def add(self, n_tasks: int, total_s: float) -> None:
        """Take note of tasks that took `total_s` seconds together, one after the other.

        Each counts with their mean: tasks so short that they are measured together differ by less
        than matters here.

        Parameters
        ----------
        n_tasks : int
            Number of tasks, >= 0.
        total_s : float
            In seconds, >= 0.
        """
        if n_tasks < 1:
            return
        mean_s = total_s / n_tasks
        self._counts[bisect_left(_EDGES_S, mean_s)] += n_tasks
        self._total_s += total_s
        self.n += n_tasks
        self.longest_s = max(self.longest_s, mean_s)

    @property
    def mean_s(self) -> float:
        """The mean duration, in seconds; 0.0 before the first."""
        return self._total_s / self.n if self.n else 0.0

    @property
    def median_s(self) -> float:
        """The median duration, in seconds, of an even number the larger one; 0.0 at first."""
        return self.quantile(0.5)

    def quantile(self, q: float) -> float:
        """Return a duration that at least the share `q` of all tasks does not exceed.

        Parameters
        ----------
        q : float
            In [0, 1]; between two tasks the longer one counts (NumPy's method "higher").

        Returns
        -------
        float
            In seconds; 0.0 before the first task.
        """
        if not self.n:
            return 0.0
        rank = math.ceil((self.n - 1) * q) + 1
        k = int(np.searchsorted(np.cumsum(self._counts), rank))
        return min(_EDGES_S[k], self.longest_s) if k < len(_EDGES_S) else self.longest_s
