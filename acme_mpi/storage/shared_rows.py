"""One contiguous dataset that all ranks fill row by row, in one shared file.

With a parallel build of h5py the ranks open the file together (driver ``mpio``) and write
independently; with a serial build they write the same bytes at the same offsets.
"""

from __future__ import annotations

import glob
import math
import os
import secrets
from itertools import product

import h5py
import numpy as np

from acme_mpi.comm import World
from acme_mpi.errors import StoreError
from acme_mpi.history.records import ranges_of
from acme_mpi.linux.offsets import copy_bytes, write_all
from acme_mpi.results.convert import Array
from acme_mpi.results.spec import RowSpec
from acme_mpi.storage import hdf5
from acme_mpi.storage.base import missing_value, on_master, refusals, together
from acme_mpi.storage.gridded import boxes

BLANK_BYTES = 1024**2  # of rows of missing tasks that are written at once


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
        Of all rows stacked. The dataset itself has a grid's axes in the place of the tasks' axis,
        which makes no difference to where its bytes lie.
    """

    def __init__(self, world: World, path: str, spec: RowSpec, shape: tuple[int, ...]) -> None:
        self._world, self.path, self._spec, self._shape = world, path, spec, shape
        row_shape = (*shape[: spec.axis], *shape[spec.axis + 1 :])
        self._whole_shape = spec.whole_shape(shape[spec.axis], row_shape)
        self._file: h5py.File | None = None
        self._rows: h5py.Dataset | None = None
        self._descriptor = -1
        self.offset = 0

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
        self.offset = self._world.bcast(self.offset)
        is_parallel = self._world.mpi_comm is not None and h5py.get_config().mpi
        # Some tasks of a grid are several blocks for HDF5, but one piece of the file.
        if is_parallel and not self._spec.grid and self.offset and not in_slabs:
            self._open_through_mpi()
            assert self._file is not None
            self._rows = self._file["result_0"]

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
        for left in glob.glob(f"{glob.escape(self.path)}.*"):
            if os.path.islink(left):  # by a run that was killed just then
                hdf5.remove(left)
        name = f"{self.path}.{secrets.token_hex(8)}"
        try:
            os.symlink(os.path.basename(self.path), name)
        except OSError:
            return self.path
        return name

    def _create(self) -> None:
        with refusals(self.path):
            if os.path.exists(self.path):  # by an earlier run: see `restore`
                with hdf5.open_to_read(self.path) as file:
                    self.offset = file["result_0"].id.get_offset() or 0
            else:
                self.offset = self._create_at(self.path)

    def _create_at(self, path: str) -> int:
        """Create the file, with its space reserved; return the offset of the rows."""
        with hdf5.changing(path) as file:
            kind = np.dtype(self._spec.dtype)
            dataset = hdf5.create_array(file.id, b"result_0", self._whole_shape, kind)
            offset, n_bytes = int(dataset.get_offset() or 0), dataset.get_storage_size()
        if n_bytes:
            reserve(path, offset, n_bytes)
        return offset

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
        try:
            with hdf5.open_to_read(self.path) as file:
                rows = file["result_0"]
                is_alike = rows.dtype == np.dtype(self._spec.dtype)
                is_fine = is_alike and rows.shape == self._whole_shape
                is_apart = not is_fine and self._spec.axis != 0
                is_plain = len(file) == 1 and not rows.attrs
        except (OSError, KeyError, RuntimeError, ValueError):
            is_fine = is_plain = is_apart = False
        if is_apart:
            self._create_with_rows()
        elif not is_fine:
            self._create_around_rows()
        elif not is_plain:
            self._take_out_what_is_not_rows()

    def _take_out_what_is_not_rows(self) -> None:
        with hdf5.changing(self.path) as file:
            for name in [name for name in file if name != "result_0"]:
                del file[name]
            for name in list(file["result_0"].attrs):
                del file["result_0"].attrs[name]

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
            source, target, axis = old["result_0"], new["result_0"], self._spec.axis
            count = min(source.shape[axis], target.shape[axis])
            where = (slice(None),) * (axis - 1) + (slice(count),)
            for index in range(self._shape[0]):
                target[(index, *where)] = source[(index, *where)]
        os.replace(anew, self.path)

    def _create_around_rows(self) -> None:
        """Make a file like the one that is there, and copy the bytes of the rows into it."""
        anew = f"{self.path}.anew"
        hdf5.remove(anew)
        offset = self._create_at(anew)
        with open(self.path, "rb") as old, open(anew, "r+b") as new:
            n_bytes = math.prod(self._shape) * np.dtype(self._spec.dtype).itemsize
            n_there = os.fstat(old.fileno()).st_size - offset
            copy_bytes(old.fileno(), offset, new.fileno(), offset, max(0, min(n_bytes, n_there)))
            os.fsync(new.fileno())
        os.replace(anew, self.path)

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

    def write(self, first: int, rows: Array) -> None:
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

    def _write_at_offsets(self, first: int, block: Array) -> None:
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

    def write_slab(self, where: tuple[slice, ...], slab: Array) -> None:
        """Write a part of the dataset that lies in one piece in the file. Independent.

        Raises
        ------
        OSError
            The medium refused the data.
        """
        corner = tuple(part.start for part in where)
        n_before = int(np.ravel_multi_index(corner, self._shape))
        write_all(self._descriptor, slab, self.offset + n_before * slab.itemsize)

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
        with hdf5.changing(self.path) as file:
            if not is_missing.any():
                return
            rows, blank = file["result_0"], missing_value(self._spec.dtype)
            row_bytes = rows.nbytes // len(is_missing)
            n_most = max(1, BLANK_BYTES // max(1, row_bytes))
            for start, stop in [] if is_blank else ranges_of(is_missing).tolist():
                for first in range(start, stop, n_most):
                    for box in boxes(self._spec, first, min(n_most, stop - first)):
                        rows[box] = blank
            rows.attrs.create("missing", np.flatnonzero(is_missing))


def reserve(path: str, offset: int, n_bytes: int) -> None:
    """Reserve disk space, so that a full disk is found before the work and not after it."""
    descriptor = os.open(path, os.O_RDWR | os.O_CLOEXEC)
    try:
        os.posix_fallocate(descriptor, offset, n_bytes)
    finally:
        os.close(descriptor)
