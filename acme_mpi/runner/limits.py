"""How long a task may run and how much memory it may use."""

from __future__ import annotations

from typing import NamedTuple

from acme_mpi.linux.footprint import Footprint
from acme_mpi.linux.memory import size_text

LONGEST_LOOK_S, SHORTEST_LOOK_S = 0.25, 0.01
MEMORY_LOOK_S = 0.05


class Limits(NamedTuple):
    """What one task may take; 0 stands for no limit.

    Attributes
    ----------
    seconds : float
        Wall time.
    n_bytes : int
        Memory, see `Footprint`.
    """

    seconds: float = 0.0
    n_bytes: int = 0

    @property
    def look_s(self) -> float | None:
        """Longest time in seconds between two looks at what runs; None: nothing to look at."""
        pauses_s = []
        if self.seconds > 0:
            pauses_s.append(max(SHORTEST_LOOK_S, min(LONGEST_LOOK_S, self.seconds / 10)))
        if self.n_bytes > 0:
            pauses_s.append(MEMORY_LOOK_S)
        return min(pauses_s, default=None)

    def breach(self, seconds: float, footprint: Footprint) -> tuple[str, str] | None:
        """Return type and message of the failure of a task that is over a limit, else None."""
        if 0 < self.seconds < seconds:
            limit = seconds_text(self.seconds)
            return "timeout", f"still running after {seconds_text(seconds)} (limit {limit})"
        if self.n_bytes > 0 and (used := footprint.above(self.n_bytes)):
            return "memory", f"used {size_text(used)} of memory (limit {size_text(self.n_bytes)})"
        return None


def seconds_text(seconds: float) -> str:
    """Return a duration in seconds with at least three digits."""
    return f"{seconds:.3g} s" if seconds < 100 else f"{seconds:.0f} s"
