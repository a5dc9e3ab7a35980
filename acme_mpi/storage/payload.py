"""Payload per rank: each rank writes files of its own, which are linked or merged afterwards.

A file that is full is closed and never opened for writing again.
"""

from __future__ import annotations

import contextlib
import glob
import logging
import os
import re
from collections.abc import Iterator
from typing import Any, NamedTuple

import h5py
import numpy as np

from acme_mpi.comm import World
from acme_mpi.errors import StoreError
from acme_mpi.history.journal import AS_GROUPS, AS_PICKLES, AS_RAGGED, AS_ROWS, FileKey
from acme_mpi.history.layout import Layout
from acme_mpi.history.parsing import Damaged, read_file
from acme_mpi.history.records import Record, Records, share_of, tasks_of
from acme_mpi.results.checksum import Digest, new_digest
from acme_mpi.results.content import Content
from acme_mpi.results.convert import Array
from acme_mpi.results.parts import is_placed, note_of, parts_of, with_note
from acme_mpi.results.spec import RowSpec
from acme_mpi.runner.base import Outcome
from acme_mpi.storage import hdf5
from acme_mpi.storage.base import refusals
from acme_mpi.storage.forms import pieces_of
from acme_mpi.storage.gridded import read_rows
from acme_mpi.storage.payload_file import PayloadFile
from acme_mpi.storage.pickles import write_file
from acme_mpi.storage.recorded import RecordedStore, digest_like
from acme_mpi.storage.redo import Change, redo
from acme_mpi.storage.redone import log_text, open_apart

logger = logging.getLogger("acme_mpi")


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

    def __init__(
        self, world: World, layout: Layout, spec: RowSpec | None, n_tasks: int, folder: str
    ) -> None:
        super().__init__(world, layout, spec, n_tasks)
        self.folder = folder
        self._current: PayloadFile | None = None
        self._n_files = 0
        self._opened: tuple[str, h5py.File] | None = None
        # By task: its row, and the columns in which the runner was told where that lies.
        self._placed_rows: dict[int, tuple[int, set[int]]] = {}
        self._pickles: list[int] = []  # descriptors, of the outcome that is being written

    @property
    def _row_spec(self) -> RowSpec | None:
        """Form of rows that are packed."""
        return None if self.spec is None or self.spec.is_ragged else self.spec

    @property
    def _n_columns(self) -> int:
        return len(self._row_spec.columns) if self._row_spec else 0

    @property
    def outside_path(self) -> str:
        """The file with bytes of datasets that do not lie in the payload; empty without."""
        return ""

    def payload_name(self, rank: int, k: int) -> str:
        """Return the file name of payload `k` of a rank, inside `folder`."""
        return f"{self.layout.name}_rank{rank}_{k}.h5"

    def payload_path(self, rank: int, k: int) -> str:
        """Return the path of payload `k` of a rank."""
        name = self.payload_name(rank, k)
        return os.path.join(self.layout.directory, self.folder, name)

    def log_path(self, rank: int, k: int) -> str:
        """Return the path of the log of changes that payload `k` of a rank may still need."""
        return os.path.join(self.layout.dot_folder, f"rank{rank}_{k}.redo")

    def restore(self) -> None:
        """Make the changes to payload files that a run which was killed has left undone."""
        self._repeat_logs("rank*.redo")

    def _repeat_logs(self, names: str) -> None:
        for log in glob.glob(os.path.join(glob.escape(self.layout.dot_folder), names)):
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
            log = self.log_path(self.world.rank, self._n_files)
            # Those of earlier runs are never opened for writing again.
            while os.path.lexists(path) or os.path.lexists(log):
                self._n_files += 1
                path = self.payload_path(self.world.rank, self._n_files)
                log = self.log_path(self.world.rank, self._n_files)
            with refusals(path):
                key = FileKey(rank=self.world.rank, payload=self._n_files)
                self._current = PayloadFile(path, log, key, self._row_spec)
            self._n_files += 1
        return self._current

    def place(
        self, index: int, k: int, shape: tuple[int, ...], dtype: str
    ) -> tuple[str, int] | None:
        """Create the space for a large array in the current payload."""
        self.settle()
        payload = self._payload()
        try:
            with refusals(payload.path):
                if k < self._n_columns:
                    offset = payload.place_row(k, self._row_to_place(payload, index, k))
                else:
                    offset = payload.place_part(index, k, shape, dtype)
        except StoreError:
            self._abandon_payload()
            raise
        return None if offset is None else (payload.path, offset)

    def _row_to_place(self, payload: PayloadFile, index: int, k: int) -> int:
        """Return the row of a task, a new one if its last attempt has died."""
        row, columns = self._placed_rows.get(index, (0, {k}))
        if k in columns:
            row, columns = payload.new_rows(), set()
        self._placed_rows[index] = row, {*columns, k}
        return row

    def write(self, outcome: Outcome) -> None:
        """Write the results of one outcome and have them recorded."""
        runs = outcome.succeeded()
        if not runs:
            return
        self.settle()
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
        self._commit(records, changes)
        # Only here, so that all parts of a task, placed ones too, lie in one file.
        if self._current is not None and self._current.is_full:
            self._close_payload()

    def _commit(self, records: list[bytes], changes: list[Change]) -> None:
        pickles, self._pickles = self._pickles, []
        try:
            self._committer.commit([*self._written_descriptors(), *pickles], records, changes)
        finally:
            for descriptor in pickles:
                os.close(descriptor)

    def _written_descriptors(self) -> list[int]:
        """Return the files into which an outcome may have gone besides the payload."""
        return []

    def _write_content(self, runs: list[range], content: Content) -> list[Written]:
        """Write rows and parts; return what the journal has to know."""
        written: list[Written] = []
        for tasks, form, position in pieces_of(runs, content, self.spec):
            row, digest = 0, new_digest()
            if form & AS_ROWS:
                columns = [rows[position : position + len(tasks)] for rows in content.columns]
                row = self._write_columns(tasks, columns)
                for k, rows in enumerate(columns):
                    known = rows[0] if is_placed(rows[0]) else np.asarray(rows)
                    digest.add_rows(tasks.start, k, known)
            self._write_rest(tasks, form, position, content, digest)
            written.append(Written(tasks, form, row, digest))
        return written

    def _write_rest(
        self, tasks: range, form: int, position: int, content: Content, digest: Digest
    ) -> None:
        """Write what does not lie in rows, and add it to the digest."""
        for index, parts in zip(tasks, (content.parts or [])[position:], strict=False):
            if form & AS_PICKLES:
                self._write_pickle(index, parts)
                digest.add(index, parts)
            elif form & (AS_GROUPS | AS_RAGGED):
                self._payload().write_task(index, parts, self._n_columns)
                known = with_note(parts_of(parts), note_of(parts))
                digest.add_parts(index, known, self._n_columns)

    def _write_columns(self, tasks: range, columns: list[Any]) -> int:
        """Write the rows of consecutive tasks; return the number of the first.

        Parameters
        ----------
        tasks : range
            A single task if the runner has written any of its rows itself.
        columns : list of sequence
            Rows of each column, or of a single task size and checksum of what is written already.
        """
        row = self._row_of(tasks)
        for k, rows in enumerate(columns):
            if not is_placed(rows[0]):
                self._payload().write_rows(k, row, np.asarray(rows))
        return row

    def _row_of(self, tasks: range) -> int:
        """Return where the rows of consecutive tasks begin: that of a single one may be placed."""
        if self._placed_rows:
            placed = [self._placed_rows.pop(index, None) for index in tasks]
            if len(placed) == 1 and placed[0] is not None:
                return placed[0][0]
        return self._payload().new_rows(len(tasks))

    def _write_pickle(self, index: int, data: bytes) -> None:
        self._pickles.append(write_file(self.layout.emergency_pickle(index), data))

    def path_of(self, key: FileKey) -> str:
        """Return the path of a payload, or of a pickle."""
        if key.form & AS_PICKLES:
            return self.layout.emergency_pickle(key.first)
        return self.payload_path(key.rank, key.payload)

    def key(self, record: Record) -> FileKey:
        """Return which payload or pickle holds the results that a record speaks of."""
        if record["form"] & AS_PICKLES:
            return super().key(record)
        return FileKey(rank=int(record["rank"]), payload=int(record["payload"]))

    def measure(self, record: Record) -> Digest | None:
        """Return the digest of what lies in the payload."""
        tasks, digest = tasks_of(record), digest_like(record)
        if record["form"] & AS_PICKLES:
            for index in tasks:
                path = self.layout.emergency_pickle(index)
                digest.add(index, read_file(path, int(record["n_bytes"])))
        if record["form"] & AS_ROWS:
            for k in range(self._n_columns):
                digest.add_rows(tasks.start, k, self.read_rows(record, k))
        if record["form"] & (AS_GROUPS | AS_RAGGED):
            file = self._reader(self.source(record))
            for index in tasks:
                group = file[f"comp_{index}"]
                parts = hdf5.read_parts(group, self._n_columns, self.outside_path)
                digest.add_parts(index, parts, self._n_columns)
        return digest

    def read_rows(self, record: Record, k: int = 0) -> Array:
        """Return the rows of a column that a record speaks of, (count, *row_shape) ndarray."""
        file = self._reader(self.payload_path(int(record["rank"]), int(record["payload"])))
        return self._rows_of(file, int(record["offset"]), int(record["count"]), k)

    def place_of_rows(self, record: Record) -> tuple[str, int]:
        """Return the path of the file with packed rows, and the number of the first."""
        return self.source(record), int(record["offset"])

    def read_part(self, record: Record, index: int, k: int = 0) -> Array:
        """Return one part of one of the tasks that a record speaks of."""
        return np.asarray(self._reader(self.source(record))[f"comp_{index}/result_{k}"][()])

    def row_shape(self, record: Record, index: int) -> tuple[int, ...]:
        """Return the shape of the row of a task, if it has one of its own."""
        shape: tuple[int, ...] = self._reader(self.source(record))[f"comp_{index}/result_0"].shape
        return shape

    def own_rows(self, records: Records, k: int = 0) -> Iterator[tuple[int, Array]]:
        """Yield (first task, rows) of what this rank has of a column, or takes care of."""
        for record in self._own_records(records):
            if self._row_spec is not None:
                yield int(record["first"]), self.read_rows(record, k)
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

    def _rows_of(self, file: h5py.File, start: int, count: int, k: int = 0) -> Array:
        assert self.spec is not None
        column = self.spec.columns[k]
        return read_rows(file[column.dataset], column, start, count)

    def _reader(self, path: str) -> h5py.File:
        """Return a file open for reading, the last one of all."""
        if self._opened is None or self._opened[0] != path:
            self.release()
            log_path = self._log_path_of(path)
            log = log_text(log_path)
            # What stands in its log is recorded, and may not have been done yet.
            file = open_apart(path, log, log_path) if log else hdf5.open_to_read(path)
            self._opened = path, file
        return self._opened[1]

    def _log_path_of(self, path: str) -> str:
        """Return the path of the log of a payload, empty for another file."""
        match = re.search(r"(\d+)_(\d+)\.[^.]*$", path)
        place = (int(match[1]), int(match[2])) if match else (0, 0)
        return self.log_path(*place) if self.payload_path(*place) == path else ""

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
        """Close the payload and wait until all is recorded and on the disk."""
        try:
            self._close_payload()
        finally:
            try:
                super().close()
            finally:
                # Of what is recorded some may stand there alone, if the disk refused what followed.
                self._repeat_logs(f"rank{self.world.rank}_*.redo")
