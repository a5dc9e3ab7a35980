"""One contiguous dataset that all ranks fill row by row, in one shared file.

With a parallel build of h5py the ranks open the file together (driver ``mpio``) and write
independently; with a serial build they write the same bytes at the same offsets.
"""

from __future__ import annotations

import os
from itertools import product
from typing import Any

import h5py
import numpy as np

from acme_mpi.comm import World
from acme_mpi.errors import StoreError
from acme_mpi.offsets import write_all
from acme_mpi.results import RowSpec
from acme_mpi.storage import hdf5
from acme_mpi.storage.base import missing_value, refusals, together


class SharedRows:
    """Rows of ``result_0`` in a file that rank 0 has created.

    Parameters
    ----------
    world : World
        The ranks that write.
    path : str
        The file; it exists after `create`.
    spec : RowSpec
        Form of the rows.
    shape : tuple of int
        Of the whole dataset.
    """

    def __init__(self, world: World, path: str, spec: RowSpec, shape: tuple[int, ...]) -> None:
        self._world, self.path, self._spec, self._shape = world, path, spec, shape
        self._file: h5py.File | None = None
        self._rows: h5py.Dataset | None = None
        self._descriptor = -1
        self.offset = 0

    def open(self) -> None:
        """Create the file on rank 0, then open it on all ranks. Collective.

        Raises
        ------
        StoreError
            On every rank alike.
        """
        together(self._world, self._create)
        # An open that fails on one rank alone would leave the others waiting inside MPI-IO.
        together(self._world, self._see)
        self.offset = self._world.bcast(self.offset)
        if self._world.mpi_comm is not None and h5py.get_config().mpi and self.offset:
            self._file = h5py.File(self.path, "r+", driver="mpio", comm=self._world.mpi_comm)
            self._rows = self._file["result_0"]

    def _create(self) -> None:
        if not self._world.is_master:
            return
        with refusals(self.path):
            with hdf5.closing(hdf5.open_or_create(self.path)) as file:
                kind = np.dtype(self._spec.dtype)
                dataset = hdf5.create_array(file.id, b"result_0", self._shape, kind)
                self.offset = dataset.get_offset() or 0
                n_bytes = dataset.get_storage_size()
            if n_bytes:
                reserve(self.path, self.offset, n_bytes)

    def _see(self) -> None:
        try:
            self._descriptor = os.open(self.path, os.O_RDWR | os.O_CLOEXEC)
        except OSError as error:
            raise StoreError(
                f"rank {self._world.rank} on {self._world.host} cannot open {self.path}: "
                f"{error.strerror}; the output directory has to be on a file system that all "
                "nodes share"
            ) from None

    def offset_of(self, index: int) -> int | None:
        """Return where the row of a task lies in the file; None if it is not in one piece."""
        if self._spec.axis != 0 or not self.offset:
            return None
        return self.offset + index * self._spec.row_bytes

    def write(self, first: int, rows: Any) -> None:
        """Write rows, (n, *row_shape), of the tasks from `first` on. Independent.

        Raises
        ------
        OSError, RuntimeError
            The medium refused the data.
        """
        if not rows.size:
            return
        axis = self._spec.axis
        block = np.moveaxis(rows, 0, axis)
        where = tuple(
            slice(first, first + len(rows)) if k == axis else slice(0, n)
            for k, n in enumerate(block.shape)
        )
        if self._rows is not None:
            self._rows[where] = block
        else:
            self._write_at_offsets(first, block)

    def _write_at_offsets(self, first: int, block: Any) -> None:
        """Write the pieces of a block that lie together in the file, one by one."""
        axis, shape = self._spec.axis, self._shape
        # All axes behind the last one that the block does not cover lie together.
        covered = [have == whole for have, whole in zip(block.shape, shape, strict=True)]
        split = max((k for k, whole in enumerate(covered) if not whole), default=0)
        strides = np.cumprod([1, *shape[:0:-1]])[::-1] * block.itemsize
        data = np.ascontiguousarray(block)
        for corner in product(*(range(n) for n in data.shape[:split])):
            place = [*corner, *[0] * (len(shape) - split)]
            place[axis] += first
            offset = self.offset + int(np.dot(place, strides))
            write_all(self._descriptor, data[corner], offset)

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

    def fill_missing(self, missing: Any) -> None:
        """Write NaN into the rows of missing tasks and list them. Rank 0, after `close`."""
        if not len(missing):
            return
        with hdf5.closing(hdf5.open_or_create(self.path)) as file:
            rows, blank = file["result_0"], missing_value(self._spec.dtype)
            for index in missing:
                rows[(slice(None),) * self._spec.axis + (int(index),)] = blank
            rows.attrs.create("missing", missing)


def reserve(path: str, offset: int, n_bytes: int) -> None:
    """Reserve disk space, so that a full disk is found before the work and not after it."""
    descriptor = os.open(path, os.O_RDWR | os.O_CLOEXEC)
    try:
        os.posix_fallocate(descriptor, offset, n_bytes)
    finally:
        os.close(descriptor)
