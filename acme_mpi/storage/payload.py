"""Payload per rank: each rank writes files of its own, which are linked or merged afterwards.

Results of any form become groups ``comp_i``; with a common form (`RowSpec`) the first value of all
tasks is packed into rows of one dataset. A file is closed after 4096 groups or 2 GiB and never
opened for writing again.
"""

from __future__ import annotations

import os
from typing import Any

import h5py
import numpy as np

from acme_mpi.errors import StoreError
from acme_mpi.journal import AS_GROUPS, AS_PICKLES, AS_RAGGED, AS_ROWS, pack_record
from acme_mpi.results import PLACED_BYTES, Content, Part, Parts, is_placed, parts_of
from acme_mpi.runner.base import Outcome
from acme_mpi.storage import hdf5
from acme_mpi.storage.base import Store, refusals
from acme_mpi.storage.committer import Committer
from acme_mpi.storage.forms import pieces_of
from acme_mpi.storage.pickles import write_pickle

MAX_GROUPS = 4096
MAX_BYTES = 2 * 1024**3
CHUNK_BYTES = 1024**2


class PayloadFile:
    """One payload file of one rank.

    Parameters
    ----------
    path : str
        A new file.
    spec : RowSpec or None
        Form of the packed rows.
    """

    def __init__(self, path: str, spec: Any) -> None:
        self.path = path
        self._spec = spec
        self._file = hdf5.create_file(path)
        self._rows: h5py.Dataset | None = None
        self.n_rows = 0
        self.n_groups = 0
        self.n_bytes = 0
        self._placed: dict[int, set[int]] = {}  # arrays placed for tasks that are not done
        self._pending = hdf5.PendingBytes()

    @property
    def is_full(self) -> bool:
        """Whether the next results belong into a new file."""
        # The place of a row is found by a walk over all chunks: keep that walk short.
        n_placed = self.n_rows if self._spec and self._spec.row_bytes >= PLACED_BYTES else 0
        return max(self.n_groups, n_placed) >= MAX_GROUPS or self.n_bytes >= MAX_BYTES

    def begin(self, index: int, placed: set[int]) -> None:
        """Keep only the arrays of a task that its last attempt has placed, by their numbers."""
        self.n_groups += 1
        for k in self._placed.pop(index, set()) - placed:
            self._file.id.unlink(b"comp_%d/result_%d" % (index, k))

    def write_part(self, index: int, k: int, part: Part) -> None:
        """Write one part of a task; the bytes of numbers follow at the next `flush`."""
        name = b"comp_%d/result_%d" % (index, k)
        if part is None or part.dtype.kind == "O":
            hdf5.write_part(self._file.id, name, part)
            return
        dataset = hdf5.create_array(self._file.id, name, part.shape, part.dtype)
        self._pending.add(dataset.get_offset(), part)
        self.n_bytes += part.nbytes

    def place_part(self, index: int, k: int, shape: tuple[int, ...], dtype: str) -> int:
        """Create an empty dataset and return the offset of its bytes."""
        placed = self._placed.setdefault(index, set())
        if k in placed:  # by an attempt that died
            self._file.id.unlink(b"comp_%d" % index)
            placed.clear()
        placed.add(k)
        name = b"comp_%d/result_%d" % (index, k)
        dataset = hdf5.create_array(self._file.id, name, shape, np.dtype(dtype))
        self.n_bytes += dataset.get_storage_size()
        return int(dataset.get_offset())

    def place_row(self) -> tuple[int, int]:
        """Add an empty row; return its number and the offset of its bytes."""
        row = self._grow(1)
        dataset = self._rows
        assert dataset is not None
        corner = tuple(row if k == self._spec.axis else 0 for k in range(dataset.ndim))
        self.n_bytes += self._spec.row_bytes
        return row, int(dataset.id.get_chunk_info_by_coord(corner).byte_offset)

    def append_rows(self, rows: Any) -> int:
        """Append rows, (n, *row_shape); return the number of the first."""
        first = self._grow(len(rows))
        axis = self._spec.axis
        assert self._rows is not None
        if len(rows) and rows.size:
            where = (slice(None),) * axis + (slice(first, first + len(rows)),)
            self._rows[where] = np.moveaxis(rows, 0, axis)
        self.n_bytes += rows.nbytes
        return first

    def _grow(self, n: int) -> int:
        if self._rows is None:
            self._rows = self._create_rows()
        first = self.n_rows
        self.n_rows += n
        self._rows.resize(self.n_rows, axis=self._spec.axis)
        return first

    def _create_rows(self) -> h5py.Dataset:
        """Create ``result_0``; a large row is one chunk, whose bytes lie together in the file."""
        spec = self._spec
        per_chunk = max(1, CHUNK_BYTES // max(1, spec.row_bytes))
        if spec.row_bytes >= PLACED_BYTES:
            per_chunk = 1
        chunk = tuple(max(1, n) for n in spec.stacked_shape(per_chunk))
        limits = tuple(None if k == spec.axis else n for k, n in enumerate(spec.stacked_shape(0)))
        plist = h5py.h5p.create(h5py.h5p.DATASET_CREATE)
        plist.set_chunk(chunk)
        plist.set_alloc_time(h5py.h5d.ALLOC_TIME_EARLY)
        plist.set_fill_time(h5py.h5d.FILL_TIME_NEVER)
        unlimited = tuple(h5py.h5s.UNLIMITED if n is None else n for n in limits)
        space = h5py.h5s.create_simple(spec.stacked_shape(0), unlimited)
        kind = h5py.h5t.py_create(np.dtype(spec.dtype), logical=True)
        return h5py.Dataset(h5py.h5d.create(self._file.id, b"result_0", kind, space, plist))

    def flush(self) -> None:
        """Hand everything over to the operating system."""
        self._pending.write(self._file)
        self._file.flush()

    def fileno(self) -> int:
        """Return the file's descriptor."""
        return int(self._file.id.get_vfd_handle())

    def close(self) -> None:
        """Close the file."""
        with hdf5.closing(self._file):
            pass

    def abandon(self) -> None:
        """Close the file without writing anything more."""
        hdf5.abandon(self._file)


class PayloadStore(Store):
    """Each rank writes ``<folder>/<name>_rank<r>_<k>.h5``; subclasses say what is made of them.

    Parameters are those of `Store`, and:

    Parameters
    ----------
    folder : str
        Where the files lie, relative to the output directory.
    """

    can_place = True

    def __init__(self, world: Any, layout: Any, spec: Any, n_tasks: int, folder: str) -> None:
        super().__init__(world, layout, spec, n_tasks)
        self.folder = folder
        self._row_spec = None if spec is None or spec.is_ragged else spec
        self._committer = Committer(layout.journal(world.rank))
        self._current: PayloadFile | None = None
        self._n_files = 0
        self._placed_rows: dict[int, int] = {}

    def payload_name(self, rank: int, k: int) -> str:
        """Return the file name of payload `k` of a rank, inside `folder`."""
        return f"{self.layout.name}_rank{rank}_{k}.h5"

    def payload_path(self, rank: int, k: int) -> str:
        """Return the path of payload `k` of a rank."""
        name = self.payload_name(rank, k)
        return os.path.join(self.layout.directory, self.folder, name)

    def _payload(self) -> PayloadFile:
        if self._current is None:
            path = self.payload_path(self.world.rank, self._n_files)
            with refusals(path):
                self._current = PayloadFile(path, self._row_spec)
            self._n_files += 1
        return self._current

    def place(
        self, index: int, k: int, shape: tuple[int, ...], dtype: str
    ) -> tuple[str, int] | None:
        """Create the space for a large array in the current payload."""
        payload = self._payload()
        try:
            with refusals(payload.path):
                if self._row_spec is not None and k == 0:
                    self._placed_rows[index], offset = payload.place_row()
                else:
                    offset = payload.place_part(index, k, shape, dtype)
        except StoreError:
            self._abandon_payload()
            raise
        return payload.path, offset

    def write(self, outcome: Outcome) -> None:
        """Write the results of one outcome and have them recorded."""
        runs = outcome.succeeded()
        if not runs:
            return
        try:
            with refusals(self.payload_path(self.world.rank, max(0, self._n_files - 1))):
                written = self._write_content(runs, outcome.content)
                if self._current is not None:
                    self._current.flush()
        except StoreError:
            self._abandon_payload()
            raise
        task_s = outcome.busy_ns / 1e9 / outcome.n_succeeded
        records = [
            pack_record(run, self._n_files - 1, form, row, task_s * len(run))
            for run, form, row in written
        ]
        self._committer.commit(self._written_descriptors(), records)
        # Only here, so that all parts of a task, placed ones too, lie in one file.
        if self._current is not None and self._current.is_full:
            self._close_payload()

    def _written_descriptors(self) -> list[int]:
        """Return the files into which an outcome may have gone."""
        return [] if self._current is None else [self._current.fileno()]

    def _write_content(self, runs: list[range], content: Content) -> list[tuple[range, int, int]]:
        """Write rows and parts; return (tasks, form, first row) for the journal."""
        written = []
        for tasks, form, position in pieces_of(runs, content, self.spec):
            if content.parts is not None and form & (AS_GROUPS | AS_RAGGED):
                for index, parts in zip(tasks, content.parts[position:], strict=False):
                    self._write_parts(index, parts)
            if content.parts is not None and form & AS_PICKLES:
                for index, data in zip(tasks, content.parts[position:], strict=False):
                    self._write_pickle(index, data)
            if not form & AS_ROWS:
                written.append((tasks, form, 0))
            elif content.rows is None:
                written += [(range(i, i + 1), form, self._row_placed_for(i)) for i in tasks]
            else:
                rows = content.rows[position : position + len(tasks)]
                written.append((tasks, form, self._write_rows(tasks, rows)))
        return written

    def _row_placed_for(self, index: int) -> int:
        """Return the number of the row that the runner has written for a task."""
        return self._placed_rows.pop(index)

    def _write_rows(self, tasks: range, rows: Any) -> int:
        """Write the rows of consecutive tasks; return the number of the first."""
        return self._payload().append_rows(rows)

    def _write_parts(self, index: int, parts: Parts) -> None:
        payload, parts = self._payload(), parts_of(parts)
        numbered = list(enumerate(parts, 0 if self._row_spec is None else 1))
        payload.begin(index, {k for k, part in numbered if is_placed(part)})
        for k, part in numbered:
            if not is_placed(part):
                payload.write_part(index, k, part)

    def _write_pickle(self, index: int, data: bytes) -> None:
        descriptor = write_pickle(self.layout.emergency_pickle(index), data)
        try:
            os.fdatasync(descriptor)  # rare, so here and not by the committer
        finally:
            os.close(descriptor)

    def _abandon_payload(self) -> None:
        if self._current is not None:
            self._current.abandon()
            self._current = None

    def _close_payload(self) -> None:
        if self._current is not None:
            with refusals(self._current.path):
                self._current.close()
            self._current = None

    def close(self) -> None:
        """Close the payload and wait until all is recorded."""
        try:
            self._close_payload()
        finally:
            self._committer.close()
