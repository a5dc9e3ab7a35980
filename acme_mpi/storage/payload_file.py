"""One payload file of one rank.

Results of any form become groups ``comp_i``; with a common form (`RowSpec`) the first value of all
tasks is packed into rows of one dataset, as are those of further columns: a task has the same row
in all of them. A file is full after 4096 groups or 2 GiB.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import h5py
import numpy as np

from acme_mpi.history.journal import FileKey
from acme_mpi.results.convert import Array, Part
from acme_mpi.results.parts import PLACED_BYTES, Parts, is_placed, names_of, note_of, parts_of
from acme_mpi.results.spec import RowSpec
from acme_mpi.storage import hdf5
from acme_mpi.storage.packed_rows import PackedRows
from acme_mpi.storage.redo import AtomicFile, Change

MAX_GROUPS = 4096
MAX_BYTES = 2 * 1024**3
OUTSIDE = "outside"  # attribute of a file: bytes of some of its datasets lie in another one


class PayloadFile:
    """One payload file of one rank.

    Parameters
    ----------
    path : str
        A new file.
    log_path : str
        For the log of an `AtomicFile`.
    key : FileKey
        Which file it is.
    spec : RowSpec or None
        Form of the packed rows.
    """

    def __init__(self, path: str, log_path: str, key: FileKey, spec: RowSpec | None) -> None:
        self.path = path
        self._specs = spec.columns if spec else ()
        self._has_large_rows = any(each.row_bytes >= PLACED_BYTES for each in self._specs)
        self._bytes = AtomicFile(path, log_path, key)
        self._file = h5py.File(self._bytes, "w", libver=hdf5.LIBVER)
        self._columns: list[PackedRows] = []
        self._is_partly_outside = False
        self._n_rows = 0
        self.n_groups = 0
        self.n_bytes = 0
        self._groups: dict[int, Any] = {}  # of the latest task
        self._placed: dict[int, set[int]] = {}  # arrays placed for tasks that are not done

    @property
    def is_full(self) -> bool:
        """Whether the next results belong into a new file."""
        # The place of a row is found by a walk over all chunks: keep that walk short.
        n_placed = self._n_rows if self._has_large_rows else 0
        return max(self.n_groups, n_placed) >= MAX_GROUPS or self.n_bytes >= MAX_BYTES

    def _group(self, index: int) -> Any:
        """Return the group of a task, that of the latest one without a look."""
        if index not in self._groups:
            self._groups = {index: hdf5.group(self._file.id, b"comp_%d" % index)}
        return self._groups[index]

    def write_task(self, index: int, parts: Parts, first: int = 0) -> None:
        """Write what a task has; of what was placed only what its last attempt says is kept.

        The bytes of numbers follow at the next `flush`.

        Parameters
        ----------
        index : int
            The task.
        parts : Parts
            No pickle.
        first : int
            Number of the first part.
        """
        self.n_groups += 1
        placed = self._placed.pop(index, set())
        if names := names_of(parts):
            self._write_named(index, names, parts_of(parts), note_of(parts))
            return
        numbered = list(enumerate(parts_of(parts), first))
        for k in placed.difference(k for k, part in numbered if is_placed(part)):
            self._file.id.unlink(b"comp_%d/result_%d" % (index, k))
        for k, part in numbered:
            if not is_placed(part):
                self._write_part(self._group(index), b"result_%d" % k, part)

    def _write_named(
        self, index: int, names: Sequence[str], parts: Sequence[Part], note: str
    ) -> None:
        """Write the parts in their order into a new group, which takes the place of the old one."""
        file, path = self._file.id, b"comp_%d" % index
        group = hdf5.create_group(file, None, is_ordered=True)
        for k, (name, part) in enumerate(zip(names, parts, strict=True)):
            if is_placed(part):
                dataset = h5py.h5d.open(file, path + b"/result_%d" % k)
            else:
                dataset = self._write_part(group, None, part)
            hdf5.give_name(dataset, group, name, k)
        if file.links.exists(path):
            file.unlink(path)
        hdf5.write_note(group, note)
        hdf5.give_name(group, file, path.decode())
        self._groups.clear()

    def _write_part(self, group: Any, name: bytes | None, part: Part) -> Any:
        if part is None or part.dtype.kind == "O":
            return hdf5.write_part(group, name, part)
        dataset = hdf5.create_array(group, name, part.shape, part.dtype)
        if part.size:
            # A write through HDF5 costs as much as all else that is done for a small dataset.
            self._bytes.put(dataset.get_offset(), part.tobytes())
        self.n_bytes += part.nbytes
        return dataset

    def place_part(self, index: int, k: int, shape: tuple[int, ...], dtype: str) -> int | None:
        """Create an empty dataset and return the offset of its bytes.

        None if they may not be written by others than HDF5; `write_task` removes the dataset again.
        """
        self._make_room(index, k)
        name = b"result_%d" % k
        dataset = hdf5.create_array(self._group(index), name, shape, np.dtype(dtype))
        self.n_bytes += dataset.get_storage_size()
        offset = int(dataset.get_offset())
        return offset if self._bytes.is_free(offset) else None

    def place_outside(
        self, index: int, k: int, shape: tuple[int, ...], dtype: str, where: hdf5.Outside
    ) -> None:
        """Create a dataset whose bytes lie in another file."""
        self._make_room(index, k)
        if not self._is_partly_outside:
            self._file.attrs[OUTSIDE] = self._is_partly_outside = True
        hdf5.create_outside(self._group(index), b"result_%d" % k, shape, np.dtype(dtype), where)

    def _make_room(self, index: int, k: int) -> None:
        """Have no dataset in the place of one that is about to be made."""
        placed = self._placed.setdefault(index, set())
        if k in placed:  # by an attempt that died
            self._file.id.unlink(b"comp_%d" % index)
            self._groups.clear()
            placed.clear()
        placed.add(k)

    def new_rows(self, n: int = 1) -> int:
        """Return the number of the first of some rows that nobody has yet."""
        first = self._n_rows
        self._n_rows += n
        return first

    def place_row(self, k: int, row: int) -> int | None:
        """Make an empty row of column `k`; return the offset of its bytes, as `place_part`."""
        self.n_bytes += self._specs[k].row_bytes
        return self._column(k).place(row)

    def write_rows(self, k: int, first: int, rows: Array) -> None:
        """Write rows of column `k`, (n, *row_shape), from the number `first` on."""
        self.n_bytes += rows.nbytes
        self._column(k).write(first, rows)

    def _column(self, k: int) -> PackedRows:
        """Return the rows of a column; the datasets are made with the first of any."""
        if not self._columns:
            self._columns = [PackedRows(self._file, self._bytes, each) for each in self._specs]
        return self._columns[k]

    def flush(self) -> Change:
        """Hand new bytes over to the operating system; return what is still to be done."""
        self._file.flush()
        return self._bytes.take_change()

    def close(self) -> Change:
        """Close the file; return what is still to be done."""
        self._file.close()
        return self._bytes.take_change()._replace(is_last=True)

    def abandon(self) -> Change:
        """Close the file without writing anything more; what is recorded stays whole."""
        self._bytes.abandon()
        self._file.close()
        return self._bytes.last_change()
