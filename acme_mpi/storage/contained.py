"""What stores share whose container is an HDF5 file: copies of rows in it, and a look at it."""

from __future__ import annotations

import logging
from abc import abstractmethod
from collections.abc import Callable, Iterator

import h5py
import numpy as np

from acme_mpi.history.parsing import Damaged
from acme_mpi.history.records import Records, is_missing
from acme_mpi.results.convert import Array
from acme_mpi.results.spec import RowSpec
from acme_mpi.storage import hdf5
from acme_mpi.storage.base import on_master, refusals, together
from acme_mpi.storage.faults import container_faults
from acme_mpi.storage.labels import read_labels
from acme_mpi.storage.ragged import longest_row, padded
from acme_mpi.storage.recorded import RecordedStore
from acme_mpi.storage.scales import give_labels
from acme_mpi.storage.shared_rows import SharedRows
from acme_mpi.storage.slabs import SLAB_BYTES

logger = logging.getLogger("acme_mpi")
WITHOUT_LABELS = (
    "%s has all results, but not all names and coordinates of them, which could not be written: "
    "%s: %s"
)


class ContainedStore(RecordedStore):
    """A store that makes an HDF5 container.

    Parameters are those of `Store`.
    """

    def link(self, file: h5py.File, done: Records) -> None:
        """Make in an HDF5 file what the container has of its own, besides copies. Independent."""

    def label(self, file: h5py.File) -> None:
        """Give the container names and coordinates. Independent; rank 0 only.

        What is wrong with them is told, and costs nothing else.

        Parameters
        ----------
        file : h5py.File
            The container, with all else that belongs into it.
        """
        labels = read_labels(self.layout.dot_folder, self.n_tasks, _warn)
        try:
            give_labels(file, self.spec, labels, self.n_tasks)
        except Exception as error:  # never the medium's: `hdf5.Changing` keeps those
            container, what = self.layout.container, " ".join(str(error).split())
            logger.warning(WITHOUT_LABELS, container, type(error).__name__, what)

    def copied_rows(
        self, done: Records, is_virtual: bool, k: int = 0
    ) -> Iterator[tuple[int, Array]]:
        """Yield (first task, rows) of what a column has a copy of. Independent.

        Parameters
        ----------
        done : ndarray
            Records of results.
        is_virtual : bool
            The common dataset that was found in the container is virtual.
        k : int
            Which column.
        """
        return iter(())

    def over_container(self) -> RecordedStore | None:
        """Return the store that measures the container's own copies; None if there are none."""
        return None

    @abstractmethod
    def own_rows(self, records: Records, k: int = 0) -> Iterator[tuple[int, Array]]:
        """Yield (first task, rows) of what this rank has of a column. Independent."""

    @abstractmethod
    def own_shapes(self, records: Records) -> Iterator[tuple[int, ...]]:
        """Yield the shapes of those rows if they differ, without reading them. Independent."""

    def fill_rows(self, records: Records) -> None:
        """Make the partial container with an ordinary dataset that all ranks fill. Collective.

        Where a virtual dataset would join too many files, or too many rows of differing length.

        Raises
        ------
        StoreError
            On every rank alike.
        """
        spec = self.spec
        assert spec is not None
        row_shape = self._longest(records, spec) if spec.is_ragged else None

        def write(shared: SharedRows) -> None:
            for k in range(len(spec.columns)):
                alike = (
                    (first, rows if row_shape is None else padded(rows, row_shape, spec.dtype))
                    for first, rows in self.own_rows(records, k)
                )
                for first, rows in joined(alike, SLAB_BYTES):
                    shared.write(first, rows, k)

        self.make_partial(records, write, row_shape)

    def make_partial(
        self,
        records: Records,
        write: Callable[[SharedRows], None],
        row_shape: tuple[int, ...] | None = None,
        in_slabs: bool = False,
    ) -> None:
        """Make the partial container with the common datasets. Collective.

        Parameters
        ----------
        records : ndarray
            Of all rows that there are.
        write : callable
            Writes this rank's part.
        row_shape : tuple of int, optional
            Of the rows, if an axis is unlimited.
        in_slabs : bool
            It writes slabs, those of missing tasks, too.

        Raises
        ------
        StoreError
            On every rank alike.
        """
        world, path, spec = self.world, self.layout.partial, self.spec
        assert spec is not None
        on_master(world, lambda: hdf5.remove(path))
        shared = SharedRows(world, path, spec, self.n_tasks, row_shape)
        shared.open(in_slabs)

        def fill() -> None:
            with refusals(path):
                write(shared)
                shared.sync()

        together(world, fill)
        shared.close()

        def complete() -> None:
            with refusals(path):
                shared.fill_missing(is_missing(records, self.n_tasks), is_blank=in_slabs)

        on_master(world, complete)

    def _longest(self, records: Records, spec: RowSpec) -> tuple[int, ...]:
        """Return the row shape with the greatest length of any rank in the unlimited axis."""
        longest: list[tuple[int, ...]] = []

        def measure() -> None:
            with refusals("the payload files"):
                longest.append(longest_row(spec, self.own_shapes(records)))

        together(self.world, measure)
        return longest_row(spec, self.world.allgather(longest[0]))

    def container_faults(self, done: Records) -> Iterator[str]:
        """Compare it with what would be made now, link by link, and its copies bit by bit."""
        return container_faults(self, done)


def _warn(damage: Damaged) -> None:
    logger.warning("%s; the results have no such labels", damage)


def joined(rows: Iterator[tuple[int, Array]], most: int) -> Iterator[tuple[int, Array]]:
    """Yield (first task, rows) with consecutive tasks joined, up to `most` bytes of them.

    Where the tasks are not the first axis, what is written at once lies in as many places as there
    are elements before that axis, whether it has one task or many.
    """
    held, first, stop, n_bytes = list[Array](), 0, 0, 0
    for start, some in rows:
        if held and (start != stop or n_bytes + some.nbytes > most):
            yield first, np.concatenate(held)
            held, n_bytes = [], 0
        first = first if held else start
        held.append(some)
        stop, n_bytes = start + len(some), n_bytes + some.nbytes
    if held:
        yield first, np.concatenate(held)
