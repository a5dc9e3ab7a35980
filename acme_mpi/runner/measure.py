"""Measure one call where it runs: time, memory, and the bytes that would be stored."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from acme_mpi.linux.memory import forget_peak, peak_bytes, status_bytes
from acme_mpi.results.encoder import Ways, encoder_of
from acme_mpi.results.parts import is_pickle, parts_of
from acme_mpi.results.spec import RowSpec
from acme_mpi.tasks.pickling import pickle_result

# What `Measured` returns: elapsed seconds, peak memory of this process and memory of its agent in
# bytes, bytes of the result.
N_FIGURES = 4


@dataclass(frozen=True)
class Measured:
    """A function that calls another one and returns figures instead of its result.

    Attributes
    ----------
    func : callable
        The user's function.
    spec : RowSpec or None
        The form of the run's results.
    as_pickles : bool
        Results are pickled, as they are on their way to memory, too.
    may_pickle : bool
        What the store cannot hold is pickled.
    has_agent : bool
        The parent of this process is its agent; otherwise this process is.
    """

    func: Callable[..., Any]
    spec: RowSpec | None
    as_pickles: bool
    may_pickle: bool
    has_agent: bool = True

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """Return (N_FIGURES,) ndarray of float64."""
        forget_peak()
        start_s = time.perf_counter()
        value = self.func(*args, **kwargs)
        elapsed_s = time.perf_counter() - start_s
        peak = peak_bytes()
        agent = status_bytes(os.getppid(), "VmRSS") if self.has_agent else 0
        return np.array([elapsed_s, peak, agent, self._n_bytes(value)], float)

    def _n_bytes(self, value: Any) -> int:
        """Return the size of the result as the run's own encoder would pass it on."""
        encoder = encoder_of(
            self.spec,
            False,
            Ways(to_pickle=pickle_result, may_pickle=self.may_pickle),
            as_pickles=self.as_pickles,
        )
        encoder.add(0, value)
        content = encoder.take()
        n_bytes = sum(np.asarray(rows).nbytes for rows in content.columns)
        for parts in content.parts or []:
            n_bytes += len(parts) if is_pickle(parts) else sum(map(_size, parts_of(parts)))
        return n_bytes


def _size(part: Any) -> int:
    if part is None:
        return 0
    if part.dtype.kind == "O":
        return sum(len(text.encode()) + 16 for text in part.flat)
    return int(part.nbytes)
