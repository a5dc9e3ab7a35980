"""Payload per rank: each rank writes files of its own, which are linked or merged afterwards.

Results of any form become groups ``comp_i``; with a common form (`RowSpec`) the first value of all
tasks is packed into rows of one dataset. A file is closed after 4096 groups or 2 GiB and never
opened for writing again.
"""

from __future__ import annotations

import contextlib
import glob
import logging
import math
import os
import re
from collections.abc import Iterator
from itertools import pairwise, product
from typing import Any, NamedTuple

import h5py
import numpy as np

from acme_mpi.checksum import Digest, new_digest
from acme_mpi.convert import Part
from acme_mpi.errors import StoreError
from acme_mpi.journal import AS_GROUPS, AS_PICKLES, AS_RAGGED, AS_ROWS, FileKey, sync_folder
from acme_mpi.parsing import Damaged, read_file
from acme_mpi.results import PLACED_BYTES, Content, RowSpec, is_placed, parts_of
from acme_mpi.runner.base import Outcome
from acme_mpi.storage import hdf5
from acme_mpi.storage.base import refusals
from acme_mpi.storage.forms import pieces_of
from acme_mpi.storage.pickles import write_file
from acme_mpi.storage.recorded import RecordedStore, digest_like
from acme_mpi.storage.records import Records, share_of, tasks_of
from acme_mpi.storage.redo import AtomicFile, Change, redo

logger = logging.getLogger("acme_mpi")

MAX_GROUPS = 4096
MAX_BYTES = 2 * 1024**3
CHUNK_BYTES = 1024**2
MAX_CHUNK_BYTES = 2**32 - 1  # HDF5 stores no larger ones (H5Pset_chunk)


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

    def __init__(self, path: str, log_path: str, key: FileKey, spec: Any) -> None:
        self.path = path
        self._spec = spec
        self._bytes = AtomicFile(path, log_path, key)
        self._file = h5py.File(self._bytes, "w", libver=hdf5.LIBVER)
        self._rows: h5py.Dataset | None = None
        self.n_rows = 0
        self.n_groups = 0
        self.n_bytes = 0
        self._groups: dict[int, Any] = {}  # of the latest task
        self._placed: dict[int, set[int]] = {}  # arrays placed for tasks that are not done

    @property
    def is_full(self) -> bool:
        """Whether the next results belong into a new file."""
        # The place of a row is found by a walk over all chunks: keep that walk short.
        n_placed = self.n_rows if self._spec and self._spec.row_bytes >= PLACED_BYTES else 0
        return max(self.n_groups, n_placed) >= MAX_GROUPS or self.n_bytes >= MAX_BYTES

    def _group(self, index: int) -> Any:
        """Return the group of a task, that of the latest one without a look."""
        if index not in self._groups:
            self._groups = {index: hdf5.group(self._file.id, b"comp_%d" % index)}
        return self._groups[index]

    def begin(self, index: int, placed: set[int]) -> None:
        """Keep only the arrays of a task that its last attempt has placed, by their numbers."""
        self.n_groups += 1
        for k in self._placed.pop(index, set()) - placed:
            self._file.id.unlink(b"comp_%d/result_%d" % (index, k))

    def write_part(self, index: int, k: int, part: Part) -> None:
        """Write one part of a task; the bytes of numbers follow at the next `flush`."""
        group, name = self._group(index), b"result_%d" % k
        if part is None or part.dtype.kind == "O":
            hdf5.write_part(group, name, part)
            return
        dataset = hdf5.create_array(group, name, part.shape, part.dtype)
        if part.size:
            # A write through HDF5 costs as much as all else that is done for a small dataset.
            self._bytes.put(dataset.get_offset(), part.tobytes())
        self.n_bytes += part.nbytes

    def place_part(self, index: int, k: int, shape: tuple[int, ...], dtype: str) -> int | None:
        """Create an empty dataset and return the offset of its bytes.

        None if they may not be written by others than HDF5; `begin` removes the dataset again.
        """
        placed = self._placed.setdefault(index, set())
        if k in placed:  # by an attempt that died
            self._file.id.unlink(b"comp_%d" % index)
            self._groups.clear()
            placed.clear()
        placed.add(k)
        name = b"result_%d" % k
        dataset = hdf5.create_array(self._group(index), name, shape, np.dtype(dtype))
        self.n_bytes += dataset.get_storage_size()
        offset = int(dataset.get_offset())
        return offset if self._bytes.is_free(offset) else None

    def place_row(self) -> tuple[int, int | None]:
        """Add an empty row; return its number and the offset of its bytes, as `place_part`."""
        row = self._grow(1)
        self.n_bytes += self._spec.row_bytes
        chunks = list(self._chunks_of(row))
        is_free = all(self._bytes.is_free(offset) for offset, _ in chunks)
        are_adjacent = all(a + n == b for (a, n), (b, _) in pairwise(chunks))
        in_one_piece = are_adjacent and self._is_filled_to_the_last_chunk()
        return row, chunks[0][0] if is_free and in_one_piece else None

    def _is_filled_to_the_last_chunk(self) -> bool:
        """Whether only the last chunk of a large row reaches beyond its end."""
        assert self._rows is not None
        others = [k for k in range(self._rows.ndim) if k != self._spec.axis]
        shape, chunk = self._rows.shape, self._rows.chunks
        first_long = next((k for k in others if shape[k] > 1), None)
        return all(shape[k] % chunk[k] == 0 for k in others if k != first_long)

    def append_rows(self, rows: Any) -> int:
        """Append rows, (n, *row_shape); return the number of the first."""
        first = self._grow(len(rows))
        assert self._rows is not None
        if rows.size:
            self._rows[self._spec.rows(first, len(rows))] = np.moveaxis(rows, 0, self._spec.axis)
        self.n_bytes += rows.nbytes
        return first

    def _grow(self, n: int) -> int:
        if self._rows is None:
            self._rows = self._create_rows()
        first = self.n_rows
        self.n_rows += n
        self._rows.resize(self.n_rows, axis=self._spec.axis)
        self._note_chunks(first)
        return first

    def _note_chunks(self, first: int) -> None:
        """Have rows go at once into the chunks that were made for the rows from `first` on."""
        dataset, axis = self._rows, self._spec.axis
        assert dataset is not None
        if 0 in dataset.shape:
            return
        n_in_chunk = dataset.chunks[axis]
        for row in range(-(-first // n_in_chunk) * n_in_chunk, self.n_rows, n_in_chunk):
            for offset, n_bytes in self._chunks_of(row):
                self._bytes.free(offset, n_bytes)

    def _chunks_of(self, row: int) -> Iterator[tuple[int, int]]:
        """Yield offset and size of the chunks that begin with a row, in the order of its bytes."""
        dataset, axis = self._rows, self._spec.axis
        assert dataset is not None
        n_bytes = math.prod(dataset.chunks) * dataset.dtype.itemsize
        starts = [
            [row] if k == axis else range(0, n, step)
            for k, (n, step) in enumerate(zip(dataset.shape, dataset.chunks, strict=True))
        ]
        for corner in product(*starts):
            found = dataset.id.get_chunk_info_by_coord(corner)
            if found.byte_offset is not None:
                yield int(found.byte_offset), n_bytes

    def _create_rows(self) -> h5py.Dataset:
        """Create ``result_0``; the bytes of a large row lie together in the file."""
        spec = self._spec
        chunk = chunk_shape(spec)
        limits = tuple(None if k == spec.axis else n for k, n in enumerate(spec.stacked_shape(0)))
        plist = hdf5.creation(h5py.h5p.DATASET_CREATE)
        plist.set_chunk(chunk)
        plist.set_alloc_time(h5py.h5d.ALLOC_TIME_EARLY)
        plist.set_fill_time(h5py.h5d.FILL_TIME_NEVER)
        unlimited = tuple(h5py.h5s.UNLIMITED if n is None else n for n in limits)
        space = h5py.h5s.create_simple(spec.stacked_shape(0), unlimited)
        kind = h5py.h5t.py_create(np.dtype(spec.dtype), logical=True)
        return h5py.Dataset(h5py.h5d.create(self._file.id, b"result_0", kind, space, plist))

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


def chunk_shape(spec: RowSpec) -> tuple[int, ...]:
    """Return the shape of the chunks of packed rows.

    A chunk has some small rows, or a large one, or, of a row that HDF5 would not take as one
    chunk, an even share along one axis, so that all shares in their order are the row.
    """
    per_chunk = max(1, CHUNK_BYTES // max(1, spec.row_bytes))
    if spec.row_bytes >= PLACED_BYTES:
        per_chunk = 1
    chunk = [max(1, n) for n in spec.stacked_shape(per_chunk)]
    for k, n in enumerate(chunk):
        n_bytes = math.prod(chunk) // n * np.dtype(spec.dtype).itemsize
        n_shares = -(-n // max(1, MAX_CHUNK_BYTES // n_bytes))
        chunk[k] = -(-n // n_shares)
    return tuple(chunk)


class Written(NamedTuple):
    """Where the results of some tasks went, and what they are known by again."""

    tasks: range
    form: int
    row: int  # the first
    digest: Digest


class PayloadStore(RecordedStore):
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
        self._current: PayloadFile | None = None
        self._n_files = 0
        self._opened: tuple[str, h5py.File] | None = None
        self._placed_rows: dict[int, int] = {}

    def payload_name(self, rank: int, k: int) -> str:
        """Return the file name of payload `k` of a rank, inside `folder`."""
        return f"{self.layout.name}_rank{rank}_{k}.h5"

    def payload_path(self, rank: int, k: int) -> str:
        """Return the path of payload `k` of a rank."""
        name = self.payload_name(rank, k)
        return os.path.join(self.layout.directory, self.folder, name)

    def _log_path(self, rank: int, k: int) -> str:
        return os.path.join(self.layout.dot_folder, f"rank{rank}_{k}.redo")

    def restore(self) -> None:
        """Make the changes to payload files that a run which was killed has left undone."""
        for log in glob.glob(os.path.join(glob.escape(self.layout.dot_folder), "rank*.redo")):
            match = re.fullmatch(r"rank(\d+)_(\d+)\.redo", os.path.basename(log))
            if match is not None:
                path = self.payload_path(int(match[1]), int(match[2]))
                with refusals(path):
                    try:
                        redo(log, path)
                    except Damaged as damage:
                        logger.warning("%s; nothing of it is done", damage)

    def _payload(self) -> PayloadFile:
        if self._current is None:
            path = self.payload_path(self.world.rank, self._n_files)
            log = self._log_path(self.world.rank, self._n_files)
            # Those of earlier runs are never opened for writing again.
            while os.path.lexists(path) or os.path.lexists(log):
                self._n_files += 1
                path = self.payload_path(self.world.rank, self._n_files)
                log = self._log_path(self.world.rank, self._n_files)
            with refusals(path):
                key = FileKey(rank=self.world.rank, payload=self._n_files)
                self._current = PayloadFile(path, log, key, self._row_spec)
                sync_folder(os.path.dirname(path))
            self._n_files += 1
        return self._current

    def place(
        self, index: int, k: int, shape: tuple[int, ...], dtype: str
    ) -> tuple[str, int] | None:
        """Create the space for a large array in the current payload."""
        payload = self._payload()
        try:
            with refusals(payload.path):
                offset: int | None
                if self._row_spec is not None and k == 0:
                    row, offset = payload.place_row()
                    if offset is not None:
                        self._placed_rows[index] = row
                else:
                    offset = payload.place_part(index, k, shape, dtype)
        except StoreError:
            self._abandon_payload()
            raise
        return None if offset is None else (payload.path, offset)

    def write(self, outcome: Outcome) -> None:
        """Write the results of one outcome and have them recorded."""
        runs = outcome.succeeded()
        if not runs:
            return
        changes: list[Change] = []
        try:
            with refusals(self.payload_path(self.world.rank, max(0, self._n_files - 1))):
                written = self._write_content(runs, outcome.content)
                if self._current is not None:
                    changes.append(self._current.flush())
        except StoreError:
            self._abandon_payload()
            raise
        records = [
            self.record(
                outcome,
                each.tasks,
                each.digest,
                form=each.form,
                payload=self._n_files - 1,
                offset=each.row,
            )
            for each in written
        ]
        self._committer.commit(self._written_descriptors(), records, changes)
        # Only here, so that all parts of a task, placed ones too, lie in one file.
        if self._current is not None and self._current.is_full:
            self._close_payload()

    def _written_descriptors(self) -> list[int]:
        """Return the files into which an outcome may have gone besides the payload."""
        return []

    def _write_content(self, runs: list[range], content: Content) -> list[Written]:
        """Write rows and parts; return what the journal has to know."""
        written: list[Written] = []
        for tasks, form, position in pieces_of(runs, content, self.spec):
            row, digest = 0, new_digest()
            if content.rows is not None and form & AS_ROWS:
                rows = content.rows[position : position + len(tasks)]
                if is_placed(rows[0]):
                    row = self._row_placed_for(tasks.start)
                    digest.add(tasks.start, rows[0])
                else:
                    row = self._write_rows(tasks, np.asarray(rows))
                    digest.add(tasks.start, np.asarray(rows))
            self._write_rest(tasks, form, position, content, digest)
            written.append(Written(tasks, form, row, digest))
        return written

    def _write_rest(
        self, tasks: range, form: int, position: int, content: Content, digest: Digest
    ) -> None:
        """Write what does not lie in rows, and add it to the digest."""
        first = 0 if self._row_spec is None else 1
        for index, parts in zip(tasks, (content.parts or [])[position:], strict=False):
            if form & AS_PICKLES:
                self._write_pickle(index, parts)
                digest.add(index, parts)
            elif form & (AS_GROUPS | AS_RAGGED):
                listed = parts_of(parts)
                self._write_parts(index, listed)
                digest.add_parts(index, listed, first)

    def _row_placed_for(self, index: int) -> int:
        """Return the number of the row that the runner has written for a task."""
        return self._placed_rows.pop(index)

    def _write_rows(self, tasks: range, rows: Any) -> int:
        """Write the rows of consecutive tasks; return the number of the first."""
        return self._payload().append_rows(rows)

    def _write_parts(self, index: int, parts: list[Part]) -> None:
        payload = self._payload()
        numbered = list(enumerate(parts, 0 if self._row_spec is None else 1))
        payload.begin(index, {k for k, part in numbered if is_placed(part)})
        for k, part in numbered:
            if not is_placed(part):
                payload.write_part(index, k, part)

    def _write_pickle(self, index: int, data: bytes) -> None:
        descriptor = write_file(self.layout.emergency_pickle(index), data)
        try:
            os.fdatasync(descriptor)  # rare, so here and not by the committer
        finally:
            os.close(descriptor)

    def path_of(self, key: FileKey) -> str:
        """Return the path of a payload, or of a pickle."""
        if key.form & AS_PICKLES:
            return self.layout.emergency_pickle(key.first)
        return self.payload_path(key.rank, key.payload)

    def key(self, record: Any) -> FileKey:
        """Return which payload or pickle holds the results that a record speaks of."""
        if record["form"] & AS_PICKLES:
            return super().key(record)
        return FileKey(rank=int(record["rank"]), payload=int(record["payload"]))

    def measure(self, record: Any) -> Digest | None:
        """Return the digest of what lies in the payload."""
        tasks, digest = tasks_of(record), digest_like(record)
        if record["form"] & AS_PICKLES:
            for index in tasks:
                path = self.layout.emergency_pickle(index)
                digest.add(index, read_file(path, int(record["n_bytes"])))
        if record["form"] & AS_ROWS:
            digest.add(tasks.start, self.read_rows(record))
        if record["form"] & (AS_GROUPS | AS_RAGGED):
            first_part = 0 if self._row_spec is None else 1
            file = self._reader(self.source(record))
            for index in tasks:
                parts = hdf5.read_parts(file[f"comp_{index}"], first_part)
                digest.add_parts(index, parts, first_part)
        return digest

    def read_rows(self, record: Any) -> Any:
        """Return the packed rows that a record speaks of, (count, *row_shape) ndarray."""
        file = self._reader(self.payload_path(int(record["rank"]), int(record["payload"])))
        return self._rows_of(file, int(record["offset"]), int(record["count"]))

    def read_part(self, record: Any, index: int, k: int = 0) -> Any:
        """Return one part of one of the tasks that a record speaks of."""
        return np.asarray(self._reader(self.source(record))[f"comp_{index}/result_{k}"][()])

    def row_shape(self, record: Any, index: int) -> tuple[int, ...]:
        """Return the shape of the row of a task, if it has one of its own."""
        shape: tuple[int, ...] = self._reader(self.source(record))[f"comp_{index}/result_0"].shape
        return shape

    def own_rows(self, records: Records) -> Iterator[tuple[int, Any]]:
        """Yield (first task, rows) of what this rank has, or takes care of."""
        for record in self._own_records(records):
            if self._row_spec is not None:
                yield int(record["first"]), self.read_rows(record)
            else:
                for index in tasks_of(record):
                    yield index, self.read_part(record, index)[np.newaxis]
        self.release()

    def own_shapes(self, records: Records) -> Iterator[tuple[int, ...]]:
        """Yield the shapes of those rows if they differ, without reading them."""
        for record in self._own_records(records):
            for index in tasks_of(record):
                yield self.row_shape(record, index)
        self.release()

    def _own_records(self, records: Records) -> Records:
        mine = share_of(records, self.world)
        ordered: Records = mine[np.lexsort([mine["payload"], mine["rank"]])]
        return ordered

    def _rows_of(self, file: h5py.File, start: int, count: int) -> Any:
        assert self.spec is not None
        return np.moveaxis(file["result_0"][self.spec.rows(start, count)], self.spec.axis, 0)

    def _reader(self, path: str) -> h5py.File:
        """Return a file open for reading, the last one of all."""
        if self._opened is None or self._opened[0] != path:
            self.release()
            self._opened = path, hdf5.open_to_read(path)
        return self._opened[1]

    def release(self) -> None:
        """Close the file that was read last."""
        if self._opened is not None:
            self._opened[1].close()
            self._opened = None

    def _abandon_payload(self) -> None:
        if self._current is not None:
            payload, self._current = self._current, None
            # What was written before may still be on its way: the file is closed behind it.
            with contextlib.suppress(StoreError):
                self._committer.commit([], [], [payload.abandon()])

    def _close_payload(self) -> None:
        if self._current is None:
            return
        try:
            with refusals(self._current.path):
                change = self._current.close()
        except StoreError:
            self._abandon_payload()
            raise
        self._current = None
        self._committer.commit([], [], [change])

    def close(self) -> None:
        """Close the payload and wait until all is recorded."""
        try:
            self._close_payload()
        finally:
            super().close()
