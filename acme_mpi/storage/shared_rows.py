"""Contiguous datasets that all ranks fill row by row, in one shared file.

With a parallel build of h5py the ranks open the file together (driver ``mpio``) and write
independently; with a serial build they write the same bytes at the same offsets.
"""

from __future__ import annotations

import glob
import math
import os
import re
from collections.abc import Sequence
from itertools import product, zip_longest

import h5py
import numpy as np

from acme_mpi.comm import World
from acme_mpi.errors import StoreError
from acme_mpi.history.journal import rename
from acme_mpi.history.records import ranges_of
from acme_mpi.linux.offsets import copy_bytes, write_all
from acme_mpi.results.convert import Array
from acme_mpi.results.spec import RowSpec
from acme_mpi.storage import hdf5
from acme_mpi.storage.base import missing_value, on_master, refusals, together
from acme_mpi.storage.gridded import boxes

BLANK_BYTES = 1024**2  # of rows of missing tasks that are written at once


class Column:
    """One of the datasets.

    Parameters
    ----------
    spec : RowSpec
        Form of its rows.
    n_tasks : int
        Number of rows.
    row_shape : tuple of int, optional
        Of its rows, if an axis is unlimited.

    Attributes
    ----------
    shape : tuple of int
        Of all rows stacked. The dataset has a grid's axes in the place of the tasks' axis, which
        makes no difference to where its bytes lie.
    offset : int
        Of its bytes in the file; 0: there are none.
    rows : h5py.Dataset or None
        If it is written through MPI.
    """

    def __init__(
        self, spec: RowSpec, n_tasks: int, row_shape: tuple[int, ...] | None = None
    ) -> None:
        self.spec, self.dtype = spec, np.dtype(spec.dtype)
        self.shape = spec.stacked_shape(n_tasks, row_shape)
        self.whole_shape = spec.whole_shape(n_tasks, row_shape)
        self.n_bytes = math.prod(self.shape) * self.dtype.itemsize
        self.offset = 0
        self.rows: h5py.Dataset | None = None

    def is_like(self, dataset: h5py.Dataset) -> bool:
        """Tell whether a dataset has its form."""
        return bool(dataset.shape == self.whole_shape and dataset.dtype == self.dtype)


class SharedRows:
    """Rows of common datasets in a file that rank 0 has created.

    Parameters
    ----------
    world : World
        The ranks that write.
    path : str
        The file; it exists after `create`.
    spec : RowSpec
        Form of the rows.
    n_tasks : int
        Number of rows.
    row_shape : tuple of int, optional
        Of the rows, if an axis is unlimited.
    """

    def __init__(
        self,
        world: World,
        path: str,
        spec: RowSpec,
        n_tasks: int,
        row_shape: tuple[int, ...] | None = None,
    ) -> None:
        self._world, self.path, self._spec = world, path, spec
        self.columns = [Column(each, n_tasks, row_shape) for each in spec.columns]
        self._file: h5py.File | None = None
        self._descriptor = -1

    def open(self, in_slabs: bool = False) -> None:
        """Create the file on rank 0, then open it on all ranks. Collective.

        Parameters
        ----------
        in_slabs : bool
            It is filled by `write_slab`, and not by `write`.

        Raises
        ------
        StoreError
            On every rank alike.
        """
        on_master(self._world, self._create)
        # An open that fails on one rank alone would leave the others waiting inside MPI-IO.
        together(self._world, self._see)
        offsets = self._world.bcast([column.offset for column in self.columns])
        for column, offset in zip(self.columns, offsets, strict=True):
            column.offset = offset
        is_parallel = self._world.mpi_comm is not None and h5py.get_config().mpi
        # Some tasks of a grid are several blocks for HDF5, but one piece of the file.
        if is_parallel and any(offsets) and not in_slabs and not self._spec.grid:
            self._open_through_mpi()
            assert self._file is not None
            for column in self.columns:
                column.rows = self._file[column.spec.dataset]

    def _open_through_mpi(self) -> None:
        """Open the file on all ranks by a name that no other job of any node has. Collective.

        For each file that is open Open MPI 4 and 5 have a semaphore of the whole node, named by the
        last part of the path alone. One of another job that has a file of that name at the same
        time, or that was killed while it opened it, lets this one wait for ever (open-mpi/ompi
        #11934).
        """
        name = self._world.bcast(self._another_name() if self._world.is_master else None)
        self._file = h5py.File(name, "r+", driver="mpio", comm=self._world.mpi_comm)
        if name != self.path:
            self._world.barrier()  # all have opened it
            if self._world.is_master:
                hdf5.remove(name)

    def _another_name(self) -> str:
        """Return a second name of the file, which is gone soon; its own one if it can have none."""
        name = f"{self.path}.{os.urandom(8).hex()}"
        try:
            os.symlink(os.path.basename(self.path), name)
        except OSError:
            return self.path
        return name

    def _create(self) -> None:
        with refusals(self.path):
            self._remove_other_names()
            if os.path.exists(self.path):  # by an earlier run: see `restore`
                with hdf5.open_to_read(self.path) as file:
                    for column in self.columns:
                        column.offset = file[column.spec.dataset].id.get_offset() or 0
            else:
                self._create_at(self.path)

    def _remove_other_names(self) -> None:
        """Remove what a run has left that was killed while it opened the file.

        Besides the name itself that is a file by which Open MPI tries locks.
        """
        for left in glob.glob(f"{glob.escape(self.path)}.*"):
            if os.path.islink(left) or re.search(r"\.[0-9a-f]{16}\.locktest\.\d+$", left):
                hdf5.remove(left)

    def _create_at(self, path: str) -> None:
        """Create the file, with its space reserved, and note the offsets of the rows."""
        with hdf5.changing(path) as file:
            for column in self.columns:
                name = column.spec.dataset.encode()
                dataset = hdf5.create_array(file.id, name, column.whole_shape, column.dtype)
                column.offset = int(dataset.get_offset() or 0)
        for column in self.columns:
            if column.n_bytes:
                reserve(path, column.offset, column.n_bytes)

    def restore(self) -> None:
        """Make a file that an earlier run has left fit to be resumed. Rank 0 only, before `open`.

        The rows lie where they lay. All else in the file may be half done, as the run may have
        been killed while it completed the file; so if it cannot be read, it is made anew around
        the rows.

        Raises
        ------
        OSError, RuntimeError, ValueError
            The medium refused it.
        """
        names = {column.spec.dataset for column in self.columns}
        try:
            with hdf5.open_to_read(self.path) as file:
                found = [file[column.spec.dataset] for column in self.columns]
                offsets = [int(rows.id.get_offset() or 0) for rows in found]
                is_fine = all(map(Column.is_like, self.columns, found))
                is_apart = not is_fine and self._spec.axis != 0
                is_plain = names == set(file) and not any(rows.attrs for rows in found)
        except (OSError, KeyError, RuntimeError, ValueError):
            is_fine = is_plain = is_apart = False
            offsets = []
        if is_apart:
            self._create_with_rows()
        elif not is_fine:
            self._create_around_rows(offsets)
        elif not is_plain:
            self._take_out_what_is_not_rows(names)

    def _take_out_what_is_not_rows(self, names: set[str]) -> None:
        with hdf5.changing(self.path) as file:
            for name in [name for name in file if name not in names]:
                del file[name]
            for rows in map(file.get, names):
                for name in list(rows.attrs):
                    del rows.attrs[name]

    def _create_with_rows(self) -> None:
        """Make a file with the rows of one that is for another number of tasks.

        If they are not the first axis, each lies in many places, and those depend on the number.
        """
        anew = f"{self.path}.anew"
        hdf5.remove(anew)
        self._create_at(anew)
        with (
            hdf5.open_to_read(self.path) as old,
            hdf5.changing(anew) as new,
        ):
            name, axis = self._spec.dataset, self._spec.axis
            source, target = old[name], new[name]
            count = min(source.shape[axis], target.shape[axis])
            where = (slice(None),) * (axis - 1) + (slice(count),)
            for index in range(target.shape[0]):
                target[(index, *where)] = source[(index, *where)]
        rename(anew, self.path)

    def _create_around_rows(self, offsets: Sequence[int]) -> None:
        """Make a file like the one that is there, and copy the bytes of the rows into it.

        Parameters
        ----------
        offsets : sequence of int
            Where the rows of each column lie; if that is not known, they lie as in a new file.
        """
        anew = f"{self.path}.anew"
        hdf5.remove(anew)
        self._create_at(anew)
        with open(self.path, "rb") as old, open(anew, "r+b") as new:
            size = os.fstat(old.fileno()).st_size
            for column, start in zip_longest(self.columns, offsets):
                start = column.offset if start is None else start
                n_bytes = max(0, min(column.n_bytes, size - start))
                copy_bytes(old.fileno(), start, new.fileno(), column.offset, n_bytes)
            os.fsync(new.fileno())
        rename(anew, self.path)

    def _see(self) -> None:
        try:
            self._descriptor = os.open(self.path, os.O_RDWR | os.O_CLOEXEC)
        except OSError as error:
            raise StoreError(
                f"rank {self._world.rank} on {self._world.host} cannot open {self.path}: "
                f"{error.strerror}; the output directory has to be on a file system that all "
                "nodes share"
            ) from None

    def offset_of(self, index: int, k: int = 0) -> int | None:
        """Return where a task's row of a column lies; None if it is not in one piece."""
        column = self.columns[k]
        if column.spec.axis != 0 or not column.offset:
            return None
        return column.offset + index * column.spec.row_bytes

    def write(self, first: int, rows: Array, k: int = 0) -> None:
        """Write rows of a column, (n, *row_shape), of the tasks from `first` on. Independent.

        Raises
        ------
        OSError, RuntimeError
            The medium refused the data.
        """
        if not rows.size:
            return
        column = self.columns[k]
        axis = column.spec.axis
        block = np.moveaxis(rows, 0, axis)
        where = tuple(
            slice(first, first + len(rows)) if at == axis else slice(0, n)
            for at, n in enumerate(block.shape)
        )
        if column.rows is not None:
            column.rows[where] = block
        else:
            self._write_at_offsets(column, first, block)

    def _write_at_offsets(self, column: Column, first: int, block: Array) -> None:
        """Write the pieces of a block that lie together in the file, one by one."""
        axis, shape = column.spec.axis, column.shape
        # All axes behind the last one that the block does not cover lie together.
        covered = [have == whole for have, whole in zip(block.shape, shape, strict=True)]
        split = max((k for k, whole in enumerate(covered) if not whole), default=0)
        strides = np.cumprod([1, *shape[:0:-1]])[::-1] * block.itemsize
        data = np.ascontiguousarray(block)
        for corner in product(*(range(n) for n in data.shape[:split])):
            place = [*corner, *[0] * (len(shape) - split)]
            place[axis] += first
            offset = column.offset + int(np.dot(place, strides))
            write_all(self._descriptor, data[corner], offset)

    def write_slab(self, where: tuple[slice, ...], slab: Array, k: int = 0) -> None:
        """Write a part of a column that lies in one piece in the file. Independent.

        Raises
        ------
        OSError
            The medium refused the data.
        """
        column = self.columns[k]
        corner = tuple(part.start for part in where)
        n_before = int(np.ravel_multi_index(corner, column.shape))
        write_all(self._descriptor, slab, column.offset + n_before * slab.itemsize)

    def fileno(self) -> int:
        """Return this rank's descriptor of the file."""
        return self._descriptor

    def sync(self) -> None:
        """Bring what this rank has written to the disk. Independent."""
        os.fdatasync(self._descriptor)

    def close(self) -> None:
        """Close on all ranks. Collective."""
        if self._descriptor >= 0:
            os.close(self._descriptor)
            self._descriptor = -1
        self._world.barrier()
        if self._file is not None:
            self._file.close()
            self._file = None

    def fill_missing(self, is_missing: Array, is_blank: bool = False) -> None:
        """Write NaN into the rows of missing tasks and list them. Rank 0, after `close`.

        Parameters
        ----------
        is_missing : (n_tasks,) ndarray of bool
            By task.
        is_blank : bool
            They have been written; only list them.
        """
        # In the place of a file that is gone there would be an empty one.
        os.stat(self.path)
        if not is_missing.any():
            return
        with hdf5.changing(self.path) as file:
            for spec in self._spec.columns:
                _fill(file[spec.dataset], spec, is_missing, is_blank)


def _fill(rows: h5py.Dataset, spec: RowSpec, is_missing: Array, is_blank: bool) -> None:
    """Do what `SharedRows.fill_missing` does with one column."""
    blank = missing_value(spec.dtype)
    n_most = max(1, BLANK_BYTES // max(1, rows.nbytes // len(is_missing)))
    for start, stop in [] if is_blank else ranges_of(is_missing).tolist():
        for first in range(start, stop, n_most):
            for box in boxes(spec, first, min(n_most, stop - first)):
                rows[box] = blank
    rows.attrs.create("missing", np.flatnonzero(is_missing))


def reserve(path: str, offset: int, n_bytes: int) -> None:
    """Reserve disk space, so that a full disk is found before the work and not after it."""
    descriptor = os.open(path, os.O_RDWR | os.O_CLOEXEC)
    try:
        os.posix_fallocate(descriptor, offset, n_bytes)
    finally:
        os.close(descriptor)
