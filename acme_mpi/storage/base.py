"""What a store is, and the store in memory, which is its definition in runnable form."""

from __future__ import annotations

import os
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, TypeVar

import numpy as np

from acme_mpi.comm import World
from acme_mpi.errors import StoreError
from acme_mpi.history.layout import Layout
from acme_mpi.linux.offsets import reason
from acme_mpi.results.content import Content
from acme_mpi.results.spec import RowSpec
from acme_mpi.runner.base import Outcome

T = TypeVar("T")

Piece = tuple[list[tuple[int, int]], Content]  # tasks as [start, stop), and their results


@dataclass
class Stored:
    """What a finished run leaves behind.

    Attributes
    ----------
    container : str or None
        Path of the results container.
    paths : list of str or None
        What the call returns in file modes; None in place of a missing computation.
    pickle_paths : list of str
        Files of the results that HDF5 could not hold, in task order.
    pieces : list of (Outcome fields)
        In memory mode the outcomes of all ranks, on the ranks that want them.
    """

    container: str | None = None
    paths: list[str | None] | None = None
    pieces: list[Piece] = field(default_factory=list)
    pickle_paths: list[str] = field(default_factory=list)

    @property
    def where(self) -> str:
        """What to open: the container, else the directory of pickles; empty without files."""
        first = next((path for path in self.paths or [] if path), "")
        return self.container or os.path.dirname(first)


class Store(ABC):
    """Where the results of one run go; one object per rank.

    `open`, `meet` and `commit` are Collective, all else is Independent.

    Parameters
    ----------
    world : World
        The ranks of the run.
    layout : Layout
        Paths; directories exist already.
    spec : RowSpec or None
        Common form of the results.
    n_tasks : int
        Size of the run.
    """

    can_place = False

    def __init__(self, world: World, layout: Layout, spec: RowSpec | None, n_tasks: int) -> None:
        self.world, self.layout, self.spec, self.n_tasks = world, layout, spec, n_tasks

    def sync_every(self, seconds: float) -> None:  # noqa: B027 (memory is on no disk)
        """Bring what is recorded to the disk so often, 0: each time. Before the first `write`."""

    def open(self) -> None:  # noqa: B027 (not every store has something to open)
        """Make ready to write. Collective.

        Raises
        ------
        StoreError
            On every rank alike, if the medium refused on any of them.
        """

    @abstractmethod
    def write(self, outcome: Outcome) -> None:
        """Store the results of one outcome. Independent.

        They are on their way into the journal when this returns, and to the disk; `close` waits
        for that.

        Raises
        ------
        StoreError
            The medium refused the data.
        """

    def note(self, outcome: Outcome) -> None:  # noqa: B027 (memory forgets what has failed)
        """Record which tasks of an outcome have failed, and which took long. Independent.

        Raises
        ------
        StoreError
            The medium refused the records.
        """

    def note_written(self, seconds: float) -> None:  # noqa: B027 (in memory nothing is written)
        """Take note that this rank was busy with results for so long. Independent."""

    def note_long(self, index: int, start_s: float) -> None:  # noqa: B027
        """Record that a task has been running since `start_s`, a Unix time. Independent."""

    def note_death(self, rank: int, host: str) -> None:  # noqa: B027
        """Record at once that a rank is lost, as all will be ended. Independent; never raises."""

    def place(
        self, index: int, k: int, shape: tuple[int, ...], dtype: str
    ) -> tuple[str, int] | None:
        """Return (path, offset) where the runner shall write an array, or None. Independent.

        The place counts only once an outcome says that the array is written.
        """
        return None

    def let_go(self, tasks: range) -> None:  # noqa: B027
        """Remove what was placed for tasks that are not done: another rank may get them now.

        Independent.
        """

    def close(self) -> None:  # noqa: B027
        """End writing, and wait until everything is durable and recorded. Independent.

        Raises
        ------
        StoreError
            Something could not be brought to the disk; what is recorded stays so.
        """

    def meet(self, end: T) -> list[T]:
        """Return what all ranks bring, when all have closed their stores. Collective.

        Parameters
        ----------
        end : object
            This rank's; plain values.
        """
        return self.world.allgather(end)

    @abstractmethod
    def commit(self, root: int | None = None) -> Stored:
        """Make the container from all that is durable on any rank. Collective.

        Parameters
        ----------
        root : int, optional
            In memory mode the only rank that gets the results; default all.

        Raises
        ------
        StoreError
            On every rank alike.
        """


class MemoryStore(Store):
    """Results stay in memory and come to every rank, or to one, at the end."""

    def __init__(self, world: World, layout: Layout, spec: RowSpec | None, n_tasks: int) -> None:
        super().__init__(world, layout, spec, n_tasks)
        self._pieces: list[Piece] = []
        self._gathered: list[list[Piece]] | None = None  # on rank 0 those of all ranks
        self._has_met = False

    def write(self, outcome: Outcome) -> None:
        """Keep the outcome."""
        runs = [(run.start, run.stop) for run in outcome.succeeded()]
        if runs:
            self._pieces.append((runs, outcome.content))

    def meet(self, end: T) -> list[T]:
        """Have the results come along to rank 0: so the ranks meet once."""
        gathered: list[list[Piece]] = []

        def decide(brought: list[tuple[T, list[Piece]]]) -> list[T]:
            gathered.extend(pieces for _, pieces in brought)
            return [each for each, _ in brought]

        ends = self.world.consult((end, self._pieces), decide)
        self._gathered = gathered if self.world.is_master else None
        self._has_met = True
        return ends

    def commit(self, root: int | None = None) -> Stored:
        """Bring the results together."""
        if not self._has_met:
            self.meet(None)
        gathered, self._gathered = self._gathered, None
        if root is None:
            gathered = self.world.bcast(gathered)
        elif root != 0:
            # One extra hop, for the rare root that is not the master.
            everywhere = self.world.bcast(gathered)
            gathered = everywhere if self.world.rank == root else None
        pieces = [piece for rank_pieces in gathered or [] for piece in rank_pieces]
        return Stored(pieces=pieces)


@contextmanager
def refusals(path: str) -> Iterator[None]:
    """Turn what the medium says into a StoreError that names the file."""
    try:
        yield
    except StoreError:
        raise
    except (OSError, RuntimeError, ValueError, KeyError) as error:
        # As any of these h5py reports what HDF5 says of a full disk, with the errno in its text;
        # as a KeyError that something is not there, or cannot be read.
        raise StoreError(f"cannot write {path}: {reason(error, path)}") from error


def agree(world: World, error: StoreError | None) -> None:
    """Raise on every rank if any rank has an error. Collective."""
    errors = [text for text in world.allgather(None if error is None else str(error)) if text]
    if errors:
        others = f" (and {len(errors) - 1} more rank(s) alike)" if len(errors) > 1 else ""
        raise StoreError(f"{errors[0]}{others}")


def on_master(world: World, action: Callable[[], object]) -> None:
    """Do something on rank 0, then raise on every rank if it failed there. Collective."""
    together(world, action if world.is_master else lambda: None)


def together(world: World, action: Callable[[], object]) -> None:
    """Do something on this rank, then raise on every rank if it failed on any. Collective."""
    error: StoreError | None = None
    try:
        action()
    except StoreError as caught:
        error = caught
    agree(world, error)


def missing_value(dtype: Any) -> Any:
    """Return what stands in the rows of missing tasks: NaN, for integers and booleans zero."""
    dtype = np.dtype(dtype)
    return dtype.type(np.nan) if dtype.kind in "fc" else dtype.type(0)
