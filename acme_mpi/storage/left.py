"""What a run has left to do: all, if there was none before it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np

from acme_mpi.errors import Failure
from acme_mpi.storage.base import Stored

Which = Literal["open", "failed", "none"]  # the tasks that a run calls
Only = Sequence[tuple[int, int]] | None  # of these


@dataclass(frozen=True)
class Remaining:
    """What is left to do.

    Attributes
    ----------
    ranges : (n, 2) ndarray of int64
        Half-open ranges of the tasks to call; on rank 0, elsewhere empty.
    n_kept : int
        Tasks that have ended before and are not called again.
    n_open : int
        Tasks that have not ended and are not called either; where some are chosen, also those that
        have failed and are not among them.
    failures : list of Failure
        Of the tasks that are kept.
    stored : Stored or None
        Where the results are, if nothing is left to do.
    """

    ranges: np.ndarray[Any, np.dtype[np.int64]]
    n_kept: int = 0
    n_open: int = 0
    failures: list[Failure] = field(default_factory=list)
    stored: Stored | None = None


def all_remaining(n_tasks: int, only: Only = None) -> Remaining:
    """Return that everything is left to do, or the tasks in `only`."""
    if only is None:
        return Remaining(np.array([[0, n_tasks]]))
    from acme_mpi.history.records import ranges_of  # runs of all tasks in memory load no journal

    is_called = is_among(n_tasks, only)
    return Remaining(ranges_of(is_called), n_open=n_tasks - int(is_called.sum()))


def is_among(n_tasks: int, only: Only) -> np.ndarray[Any, np.dtype[np.bool_]]:
    """Return for each task whether it is in `only`, or there are no such ranges."""
    is_among = np.zeros(n_tasks, bool)
    for start, stop in only or [(0, n_tasks)]:
        is_among[start:stop] = True
    return is_among
