"""What goes into a run and what comes out of it."""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from acme_mpi.errors import AcmeMpiError, Failure, InputError, LaunchError, StoreError, TaskError
from acme_mpi.results import RowSpec
from acme_mpi.storage import Stored
from acme_mpi.tasks import TaskSet


@dataclass(frozen=True)
class Options:
    """What every rank has to know of a run; plain values.

    Attributes
    ----------
    name : str
        The function's name.
    n_tasks : int
        Number of calls.
    kind : str
        Kind of store: ``memory``, ``rank``, ``computation``, ``single_file`` or ``pickle``.
    output_dir : str or None
        Where files go; None: a new directory ``ACME_<time>`` in the working directory.
    spec : tuple or None
        Fields of the `RowSpec`.
    isolate : bool
        Call the function in a child process.
    root : int or None
        In memory mode the only rank that gets the results.
    bar : bool or None
        Progress bar; None: if somebody watches.
    reproduce : str
        Command that runs one task, ``{index}`` in the task's place.
    workers : tuple of int or None
        The ranks that call tasks; None: all.
    may_pickle : bool
        Results that HDF5 cannot hold are pickled instead of failing their tasks.
    dialect : str
        Name of the interface that the run belongs to, said in its messages.
    level : int or None
        Least level of the messages; None: as it is.
    log_file : str or None
        Where they go, too; None: into the output directory; empty: nowhere.
    """

    name: str
    n_tasks: int
    kind: str = "rank"
    output_dir: str | None = None
    spec: tuple[Any, ...] | None = None
    isolate: bool = True
    root: int | None = None
    bar: bool | None = None
    reproduce: str = ""
    workers: tuple[int, ...] | None = None
    may_pickle: bool = False
    dialect: str = ""
    level: int | None = None
    log_file: str | None = None

    def worker_ranks(self, size: int) -> set[int]:
        """Return the ranks that call tasks, of a world of `size`."""
        chosen = set(range(size) if self.workers is None else self.workers)
        # In its own process the function would keep rank 0 from handing out chunks.
        return chosen - {0} if not self.isolate and size > 1 else chosen

    @property
    def row_spec(self) -> RowSpec | None:
        """The form of the results."""
        return None if self.spec is None else RowSpec(*self.spec)


def caller_place() -> tuple[list[str], str]:
    """Return this process's module search path and working directory."""
    return list(sys.path), os.getcwd()


@dataclass
class Call:
    """What one rank brings into a run.

    Attributes
    ----------
    options : Options or None
        Rank 0's count.
    func : bytes or None
        This rank's pickled function; None: rank 0's is used.
    tasks, buffers : ndarray of uint8, list of ndarray of uint8
        The pickled `TaskSet`; rank 0's count.
    own_func : callable or None
        The function itself, for ``isolate=False``.
    own_tasks : TaskSet or None
        The tasks themselves, to be called in this very process (``compute(debug=True)``); the
        first exception ends the run.
    place : tuple of (list of str, str)
        The caller's module search path and working directory; rank 0's count.
    digests : dict of str to str
        Fingerprint of each argument, to find ranks that were called differently.
    error : AcmeMpiError or None
        What is wrong with this rank's call.
    client : list of int
        Descriptors that become readable when nobody waits for the result any more.
    """

    options: Options | None = None
    func: bytes | None = None
    tasks: Any = None
    buffers: list[Any] = field(default_factory=list)
    own_func: Any = None
    own_tasks: TaskSet | None = None
    place: tuple[list[str], str] = field(default_factory=caller_place)
    digests: Mapping[str, str] = field(default_factory=dict)
    error: AcmeMpiError | None = None
    client: list[int] = field(default_factory=list)


@dataclass
class Result:
    """What a run has led to; the same on every rank, except for `stored.pieces` with a root.

    Attributes
    ----------
    options : Options
        Of the run.
    stored : Stored
        Where the results are.
    failures : list of Failure
        In index order.
    n_unfinished : int
        Tasks that were not run to their end.
    storage_error : str
        Why results could not be written, empty if they were.
    unready : list of str
        Why ranks could not load the function.
    n_ready : int
        Ranks that could.
    unstorable : tuple of (int, str), or None
        The first task whose result was pickled, though HDF5 was asked for, and why.
    """

    options: Options
    stored: Stored
    failures: list[Failure]
    n_unfinished: int
    storage_error: str
    unready: list[str]
    n_ready: int
    unstorable: tuple[int, str] | None = None

    @property
    def is_complete(self) -> bool:
        """Whether every task was run, and all that came of it is safe."""
        return not self.n_unfinished and not self.storage_error

    def error(self, results: Any = None) -> AcmeMpiError | None:
        """Return the exception that this result calls for, None if all is well."""
        n_tasks, where = self.options.n_tasks, self.stored.where
        safe = f"; the others are in {where}" if where else ""
        if self.storage_error:
            return StoreError(
                f"{self.storage_error}\n  {self.n_unfinished} of {n_tasks} tasks were not run{safe}"
            )
        if self.n_unfinished and not self.n_ready:
            reasons = "\n  ".join(dict.fromkeys(self.unready))
            return InputError(f"no rank could load {self.options.name}:\n  {reasons}")
        if self.n_unfinished:
            why = "every rank has lost its runner" if self.unready else "the run was stopped"
            return LaunchError(
                f"{self.n_unfinished} of {n_tasks} tasks were not run, because {why}{safe}:\n  "
                + "\n  ".join(dict.fromkeys(self.unready))
            )
        if self.failures:
            text = f"{len(self.failures)} of {n_tasks} tasks failed, first: {self.failures[0]}"
            return TaskError(text, self.failures, results)
        return None
