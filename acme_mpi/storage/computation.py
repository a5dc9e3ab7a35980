"""Payload per computation, ACME's layout: one file for each task, ``<name>_<i>.h5``."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator, Sequence

import h5py
import numpy as np

from acme_mpi.comm import World
from acme_mpi.history.journal import AS_PICKLES, FileKey
from acme_mpi.history.layout import Layout
from acme_mpi.history.parsing import read_file
from acme_mpi.history.records import Place, Record, Records, indices_of, share_of
from acme_mpi.results.checksum import Digest, new_digest
from acme_mpi.results.content import Content
from acme_mpi.results.convert import Array, Part
from acme_mpi.results.parts import is_pickle, is_placed, note_of, with_note
from acme_mpi.results.spec import RowSpec
from acme_mpi.runner.base import Outcome
from acme_mpi.storage import hdf5
from acme_mpi.storage.base import refusals
from acme_mpi.storage.container import link_computations
from acme_mpi.storage.forms import names_at, parts_at, pieces_of
from acme_mpi.storage.linked import LinkedStore
from acme_mpi.storage.patterns import Patterns
from acme_mpi.storage.pickles import write_file
from acme_mpi.storage.recorded import digest_like


class ComputationStore(LinkedStore):
    """Each task's results are the datasets in the root of a file of its own."""

    can_place = True
    has_own_files = True

    def __init__(self, world: World, layout: Layout, spec: RowSpec | None, n_tasks: int) -> None:
        super().__init__(world, layout, spec, n_tasks)
        # Files in which arrays have been placed, and which: not yet complete.
        self._open: dict[int, hdf5.Changing] = {}
        self._placed: dict[int, set[int]] = {}
        self._patterns = Patterns()

    def place(
        self, index: int, k: int, shape: tuple[int, ...], dtype: str
    ) -> tuple[str, int] | None:
        """Create the task's file and the space for a large array in it."""
        path = self.layout.computation(index)
        with refusals(path):
            if k in self._placed.get(index, ()):  # by an attempt that died
                self._drop(index)
            changed = self._begun(index)
            self._placed.setdefault(index, set()).add(k)
            name = b"result_%d" % k
            dataset = hdf5.create_array(changed.file.id, name, shape, np.dtype(dtype))
            return path, int(dataset.get_offset())

    def _begun(self, index: int) -> hdf5.Changing:
        """Return the open file of a task, new if there is none."""
        if index not in self._open:
            path = self.layout.computation(index)
            hdf5.remove(path)  # left by a run that was killed, or whose file was damaged
            self._open[index] = hdf5.Changing(path)
        return self._open[index]

    def _drop(self, index: int) -> None:
        """Remove the file of a task that was begun and will not be completed."""
        self._placed.pop(index, None)
        hdf5.remove(self.layout.computation(index))
        with contextlib.suppress(OSError):
            os.close(self._open.pop(index).detach())

    def let_go(self, tasks: range) -> None:
        """Remove the files of tasks that another rank may get."""
        for index in [index for index in self._open if index in tasks]:
            self._drop(index)

    def write(self, outcome: Outcome) -> None:
        """Write the files of one outcome's tasks and have them recorded."""
        self.settle()
        content = outcome.content
        records: list[bytes] = []
        complete: list[tuple[str, FileKey]] = []
        try:
            for tasks, form, position in pieces_of(outcome.succeeded(), content, self.spec):
                for offset, index in enumerate(tasks, position):
                    digest = self._write_task(index, offset, content)
                    records.append(self.record(outcome, range(index, index + 1), digest, form=form))
                    key = FileKey(form & AS_PICKLES, first=index)
                    complete.append((self.path_of(key), key))
        finally:  # those before one that was refused count
            if records:
                self._committer.commit([], records, complete=complete)

    def _write_task(self, index: int, position: int, content: Content) -> Digest:
        """Write a task's file; return its digest."""
        digest = new_digest()
        if content.parts and is_pickle(data := content.parts[position]):
            if index in self._open:
                self._drop(index)  # begun by an attempt that died
            os.close(write_file(self.layout.emergency_pickle(index), data))
            digest.add(index, data)
            return digest
        parts = parts_at(content, position)
        note = note_of(content.parts[position]) if content.parts else ""
        self._write_parts(index, names_at(content, position), parts, note)
        digest.add_parts(index, with_note(parts, note))
        return digest

    def _write_parts(self, index: int, names: Sequence[str], parts: list[Part], note: str) -> None:
        """Write and close a task's file."""
        placed = {k for k, part in enumerate(parts) if is_placed(part)}
        path = self.layout.computation(index)
        with refusals(path):
            if index in self._open and not placed:
                self._drop(index)  # begun by an attempt that died
            if not (placed or note) and self._patterns.write(path, names, parts):
                return
            changed = self._begun(index)
            for k in self._placed.pop(index, set()) - placed:
                del changed.file[f"result_{k}"]
            root, offsets = changed.file.id, list[int | None]()
            for k, (name, part) in enumerate(zip(names, parts, strict=True)):
                link = b"result_%d" % k
                if k not in placed:
                    dataset = hdf5.write_part(root, None if name else link, part)
                elif name:
                    dataset = h5py.h5d.open(root, link)
                if name:
                    hdf5.give_name(dataset, root, name, k)
                offsets.append(dataset.get_offset() if k not in placed else None)
            if note:
                hdf5.write_note(h5py.h5g.open(root, b"/"), note)
            del self._open[index]
            descriptor = changed.detach()
            try:
                if not (placed or note):
                    self._patterns.learn(descriptor, names, parts, offsets)
            finally:
                os.close(descriptor)

    def close(self) -> None:
        """Remove files that no outcome has completed and wait until all others are recorded."""
        for index in list(self._open):
            self._drop(index)
        super().close()

    def path_of(self, key: FileKey) -> str:
        """Return the path of a task's file."""
        if key.form & AS_PICKLES:
            return self.layout.emergency_pickle(key.first)
        return self.layout.computation(key.first)

    def measure(self, record: Record) -> Digest:
        """Return the digest of what is in the task's file."""
        index, digest = int(record["first"]), digest_like(record)
        if record["form"] & AS_PICKLES:
            digest.add(index, read_file(self.source(record), int(record["n_bytes"])))
        else:
            with hdf5.open_to_read(self.source(record)) as file:
                digest.add_parts(index, hdf5.read_parts(file["/"]))
        return digest

    def result_paths(self, records: Records) -> list[str | None]:
        """Return the path of every task's file, None where there is no result."""
        paths: list[str | None] = [None] * self.n_tasks
        is_pickled = records["form"] & AS_PICKLES != 0
        for index in indices_of(records[~is_pickled]):
            paths[index] = self.layout.computation(index)
        for index in indices_of(records[is_pickled]):
            paths[index] = self.layout.emergency_pickle(index)
        return paths

    def sources(self, records: Records) -> Iterator[str]:
        """Yield the paths of all tasks' files."""
        return (path for path in self.result_paths(records) if path is not None)

    def n_sources(self, records: Records) -> int:
        """Return how many files a virtual dataset would join."""
        return int(records["count"].sum())

    def link_rows(self, file: h5py.File, records: Records, column: RowSpec) -> None:
        """Make the dataset of one column over all files."""
        link_computations(file, records, column, self.layout, self.n_tasks)

    def group_target(self, place: Place, index: int) -> tuple[str, str]:
        """Return what ``comp_<index>`` links to: the root of the task's file."""
        return f"{self.layout.payload_folder}/{self.layout.name}_{index}.h5", "/"

    @property
    def rows_lie_in_groups(self) -> bool:
        """Whether the group of a task holds its row, too: a file holds all that a task has."""
        return True

    def own_rows(self, records: Records, k: int = 0) -> Iterator[tuple[int, Array]]:
        """Yield (first task, rows) of one column of this rank's results."""
        for index, row in self._own_datasets(records, k):
            yield index, np.asarray(row[()])[np.newaxis]

    def own_shapes(self, records: Records) -> Iterator[tuple[int, ...]]:
        """Yield the shapes of this rank's rows."""
        return (row.shape for _, row in self._own_datasets(records))

    def _own_datasets(self, records: Records, k: int = 0) -> Iterator[tuple[int, h5py.Dataset]]:
        for index in indices_of(share_of(records, self.world)):
            with hdf5.open_to_read(self.layout.computation(index)) as file:
                yield index, file[f"result_{k}"]
