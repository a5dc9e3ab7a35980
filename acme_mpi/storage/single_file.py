"""One file that holds everything: rows go into it at once, all else is merged at the end.

Large arrays that are no rows go into a file that is made ahead and becomes it: see `Slots`.
Rows go there at the end, too, if the tasks are not their first axis: see `Slabs`.
"""

from __future__ import annotations

import copy
import os
import shutil
from typing import Any

import numpy as np

from acme_mpi.comm import World
from acme_mpi.errors import StoreError
from acme_mpi.history.folders import note_linked
from acme_mpi.history.journal import AS_GROUPS, AS_RAGGED, AS_ROWS, rename
from acme_mpi.history.layout import Layout
from acme_mpi.history.records import (
    Record,
    Records,
    is_missing,
    places,
    read_history,
    share_records,
)
from acme_mpi.linux.syncing import sync_files
from acme_mpi.results.checksum import Digest
from acme_mpi.results.content import Content
from acme_mpi.results.convert import Array
from acme_mpi.results.form import NAMES, form_of
from acme_mpi.results.parts import is_placed
from acme_mpi.results.spec import RowSpec
from acme_mpi.runner.base import Outcome
from acme_mpi.storage import hdf5
from acme_mpi.storage.base import Stored, on_master, refusals
from acme_mpi.storage.contained import ContainedStore
from acme_mpi.storage.merge import Merge
from acme_mpi.storage.payload import PayloadStore, Written
from acme_mpi.storage.payload_file import OUTSIDE
from acme_mpi.storage.ragged import unpadded
from acme_mpi.storage.recorded import digest_like
from acme_mpi.storage.shared_rows import SharedRows
from acme_mpi.storage.slabs import Slabs
from acme_mpi.storage.slots import Forms, Slots


class SingleFileStore(PayloadStore, ContainedStore):
    """Groups are spooled per rank and merged; rows of one form go straight into the file."""

    def __init__(self, world: World, layout: Layout, spec: RowSpec | None, n_tasks: int) -> None:
        super().__init__(world, layout, spec, n_tasks, layout.spool_folder)
        self._shared: SharedRows | None = None
        self._is_over_container = False
        self._slots = Slots(layout.dot_folder)
        # By task what of it was placed in the spool so far: the form of its parts by number.
        self._forms: dict[int, Forms] = {}
        stacked = None if spec is None or spec.is_ragged else spec
        columns = stacked.columns if stacked else ()
        self._are_rows_spooled = any(column.axis > 0 or column.is_auto for column in columns)
        if stacked is not None and not self._are_rows_spooled:
            self._shared = SharedRows(world, layout.partial, stacked, n_tasks)

    def open(self) -> None:
        """Create and open the shared file, or that of an earlier run. Collective."""
        if self.layout.run:
            # Files that were merged are gone, but what is recorded knows them by their numbers.
            used = self.world.bcast(self._numbers_used() if self.world.is_master else None)
            self._n_files = used.get(self.world.rank, -1) + 1
        if self._shared is not None:
            on_master(self.world, self._take_back)
            self._shared.open()

    def _numbers_used(self) -> dict[int, int]:
        """Return the last payload of each rank that is spoken of."""
        return dict(places(read_history(self.layout.dot_folder).done))

    def _take_back(self) -> None:
        """Let the container of an earlier run become the shared file again."""
        if os.path.exists(self.layout.container):
            with refusals(self.layout.partial):
                self._keep_groups()
                self._move_back()
            self.restore()

    def _move_back(self) -> None:
        container, partial = self.layout.container, self.layout.partial
        if hdf5.is_open_here(container):
            # A notebook that reads it shall not see it change, and HDF5 would not open it to write.
            _copy(container, f"{partial}.copy")
            rename(f"{partial}.copy", partial)
        else:
            rename(container, partial)

    def _keep_groups(self) -> None:
        """Keep a copy of what lies in the container besides the rows, if it lies nowhere else."""
        done = read_history(self.layout.dot_folder).done
        groups = done[done["form"] & AS_GROUPS != 0]
        if any(self.merge_source(*place) == self.layout.container for place in places(groups)):
            os.makedirs(os.path.dirname(self._merged), exist_ok=True)
            partial = f"{self._merged}.partial"
            _copy(self.layout.container, partial)
            rename(partial, self._merged)

    @property
    def _merged(self) -> str:
        """Container of an earlier run, from which groups have to be merged again."""
        return os.path.join(self.layout.directory, self.layout.spool_folder, "merged.h5")

    def merge_source(self, rank: int, k: int) -> str:
        """Return the path of payload `k` of a rank, or of what it has been merged into before."""
        path = self.payload_path(rank, k)
        candidates = (path for path in (path, self._merged) if os.path.exists(path))
        return next(candidates, self.layout.container)

    def place(
        self, index: int, k: int, shape: tuple[int, ...], dtype: str
    ) -> tuple[str, int] | None:
        """Return a place in the shared file, in the slots, or in the spool."""
        if self.spec is None:
            return self._place_part(index, k, shape, dtype)
        if self._shared is None or k >= self._n_columns:
            return super().place(index, k, shape, dtype)
        offset = self._shared.offset_of(index, k)
        return None if offset is None else (self._shared.path, offset)

    def _place_part(
        self, index: int, k: int, shape: tuple[int, ...], dtype: str
    ) -> tuple[str, int] | None:
        slot = self._slots.slot_of(index, k, shape, dtype)
        if slot is None:
            self._forms.setdefault(index, {})[k] = shape, dtype
            return super().place(index, k, shape, dtype)
        payload = self._payload()
        try:
            with refusals(payload.path):
                payload.place_outside(index, k, shape, dtype, slot)
        except StoreError:
            self._abandon_payload()
            raise
        return self._slots.path, slot.offset

    def write(self, outcome: Outcome) -> None:
        """Write the results of one outcome; the first large ones show how large the others are."""
        super().write(outcome)
        forms, self._forms = self._forms, {}
        # One rank alone, and not rank 0, which serves the others.
        if forms and self.world.rank == self.world.size - 1:
            done = [index for run in outcome.succeeded() for index in run if index in forms]
            if done:
                self._slots.create(self.n_tasks, forms[done[0]], self._are_named)

    @property
    def _are_named(self) -> bool:
        with refusals(self.layout.dot_folder):
            return bool((form_of(self.layout.dot_folder) or {}).get(NAMES))

    def close(self) -> None:
        """Close the payload and wait until all is recorded and on the disk."""
        self._slots.close()
        super().close()

    def _write_columns(self, tasks: range, columns: list[Any]) -> int:
        if self._shared is None:
            return super()._write_columns(tasks, columns)
        for k, rows in enumerate(columns):
            if not is_placed(rows[0]):
                self._shared.write(tasks.start, np.asarray(rows), k)
        return tasks.start

    def _written_descriptors(self) -> list[int]:
        return self._slots.descriptors() if self._shared is None else [self._shared.fileno()]

    def _write_content(self, runs: list[range], content: Content) -> list[Written]:
        path = self.layout.partial if self._shared is not None else self.layout.spool_folder
        with refusals(path):
            return super()._write_content(runs, content)

    def commit(self, root: int | None = None) -> Stored:
        """Close the shared file, merge the spool into it, and give it its name. Collective."""
        if self._shared is not None:
            self._shared.close()
        self.settle_together()
        records = share_records(self.world, self.layout)
        if self._are_rows_spooled and self.spec is not None:
            self._fill_slabs(records)
        elif self.spec is not None and self._shared is None:
            self.fill_rows(records)
        missing = is_missing(records, self.n_tasks)
        on_master(self.world, lambda: self._begin(records, missing))
        if self.spec is None or (records["form"] & AS_GROUPS).any():
            layout, source = self.layout, self.merge_source
            n_skipped = 0 if self.spec is None else len(self.spec.columns)
            merge = Merge(
                self.world,
                layout.partial,
                records,
                source,
                layout.dot_folder,
                n_skipped,
                self.outside_path,
            )
            merge.run()
        on_master(self.world, lambda: self._finish(is_complete=not missing.any()))
        return self.stored(records)

    def _fill_slabs(self, records: Records) -> None:
        """Make the partial container with the rows of all ranks. Collective."""
        assert self.spec is not None
        world, n_tasks = self.world, self.n_tasks
        columns = self.spec.columns

        def write(shared: SharedRows) -> None:
            for spec in columns:
                shape = spec.stacked_shape(n_tasks)
                Slabs(world, spec, shape, records, self.place_of_rows).write(shared)
            self.release()

        self.make_partial(records, write, in_slabs=True)

    def stored(self, done: Records) -> Stored:
        """Return the one file."""
        return Stored(self.layout.container, [self.layout.container])

    def _begin(self, records: Records, missing: Array) -> None:
        with refusals(self.layout.partial):
            if self.spec is None:
                hdf5.remove(self.layout.partial)  # left by a run that was killed
                n_bytes = int(records["n_bytes"].clip(0).sum())
                if not self._slots.take(self.layout.partial, self._are_named, n_bytes):
                    hdf5.Changing(self.layout.partial).close()
            elif self._shared is not None:
                self._shared.fill_missing(missing)

    def _finish(self, is_complete: bool) -> None:
        with refusals(self.layout.container):
            with hdf5.changing(self.layout.partial) as file:
                self.label(file)
            rename(self.layout.partial, self.layout.container)
        note_linked(self.layout)
        # A run that resumes this one merges the groups again.
        if is_complete:
            self.tidy()

    def tidy(self) -> None:
        """Remove the spool."""
        spool = os.path.join(self.layout.directory, self.layout.spool_folder)
        shutil.rmtree(spool, ignore_errors=True)
        self._slots.remove()

    def restore(self) -> None:
        """Make payload files, and the shared file, fit to be read, and to be written again."""
        super().restore()
        if self._are_rows_spooled:
            self._keep_rows()
        if self._shared is not None and os.path.exists(self.layout.partial):
            with refusals(self.layout.partial):
                self._shared.restore()

    def _keep_rows(self) -> None:
        """Keep rows that an earlier version has written into the shared file at once."""
        partial, container = self.layout.partial, self.layout.container
        if os.path.exists(partial) and not os.path.exists(container):
            done = read_history(self.layout.dot_folder).done
            rows = done[done["form"] & AS_ROWS != 0]
            if any(self._spooled_rows(*place) is None for place in places(rows)):
                with refusals(container):
                    rename(partial, container)
            self.release()

    def over_container(self) -> SingleFileStore:
        """Return a store that looks for everything in the one file."""
        other = copy.copy(self)
        other._is_over_container = True
        return other

    def source(self, record: Record) -> str:
        """Return the path of the spool file, or of the one file."""
        if self._is_over_container:
            return self.layout.container
        spooled = super().source(record)
        if os.path.exists(spooled):
            return spooled
        if record["form"] & AS_GROUPS and os.path.exists(self._merged):
            return self._merged
        return self._rows_path

    def files(self, record: Record) -> list[str]:
        """Return the paths of the spool file, the one file, or both."""
        rows = [self.place_of_rows(record)[0]] if record["form"] & AS_ROWS else []
        source = self.source(record)
        return [source, *rows, *([self.outside_path] if self._is_partly_outside(source) else [])]

    def _is_partly_outside(self, path: str) -> bool:
        if self.spec is not None or path == self.layout.container or not os.path.exists(path):
            return False
        try:
            return OUTSIDE in self._reader(path).attrs
        except (OSError, RuntimeError, ValueError):
            return False  # damaged: whoever reads it finds out

    @property
    def outside_path(self) -> str:
        """The file with the slots."""
        return self._slots.where if self.spec is None else ""

    @property
    def _rows_path(self) -> str:
        partial, container = self.layout.partial, self.layout.container
        if self._is_over_container or not os.path.exists(partial):
            return container
        # Unless rows go into it at once, it is a copy that a killed run has not completed.
        return container if self._shared is None and os.path.exists(container) else partial

    def place_of_rows(self, record: Record) -> tuple[str, int]:
        """Return the path of the file with packed rows, and the number of the first."""
        if self._are_rows_spooled and not self._is_over_container:
            spooled = self._spooled_rows(int(record["rank"]), int(record["payload"]))
            if spooled is not None:
                return spooled, int(record["offset"])
        return self._rows_path, int(record["first"])

    def _spooled_rows(self, rank: int, k: int) -> str | None:
        """Return the path of a spool file with rows; an earlier version spooled only groups."""
        path = self.payload_path(rank, k)
        if not os.path.exists(path):
            return None
        try:
            return path if "result_0" in self._reader(path) else None
        except (OSError, RuntimeError, ValueError):
            return path  # damaged: whoever reads it finds out

    def measure(self, record: Record) -> Digest | None:
        """Return the digest of what lies in the spool, or in the one file."""
        if record["form"] & AS_RAGGED and self.source(record) == self.layout.container:
            return self._measure_padded(record)
        return super().measure(record)

    def _measure_padded(self, record: Record) -> Digest | None:
        """Return the digest of rows that were padded when they were merged.

        None if it cannot be told how long they were: they seem to end with what they were padded
        with.
        """
        assert self.spec is not None
        file, digest = self._reader(self.layout.container), digest_like(record)
        first, count = int(record["first"]), int(record["count"])
        for index, row in enumerate(self._rows_of(file, first, count), first):
            digest.add_parts(index, [unpadded(row, self.spec)])
            if record["form"] & AS_GROUPS:
                digest.add_parts(index, hdf5.read_parts(file[f"comp_{index}"], 1), 1)
        return None if digest.n_bytes < record["n_bytes"] else digest

    def read_part(self, record: Record, index: int, k: int = 0) -> Array:
        """Return one part of a task; a row that was merged is as long as it was padded."""
        if k == 0 and self.source(record) == self.layout.container:
            row: Array = self._rows_of(self._reader(self.layout.container), index, 1)[0]
            return row
        return super().read_part(record, index, k)

    def row_shape(self, record: Record, index: int) -> tuple[int, ...]:
        """Return the shape of the row of a task; one that was merged is as long as the longest."""
        if self.source(record) == self.layout.container:
            assert self.spec is not None
            shape = self._reader(self.layout.container)["result_0"].shape
            n_axes = len(self.spec.grid) or 1
            return (*shape[: self.spec.axis], *shape[self.spec.axis + n_axes :])
        return super().row_shape(record, index)

    def read_rows(self, record: Record, k: int = 0) -> Array:
        """Return rows of the spool, or of the shared file."""
        path, first = self.place_of_rows(record)
        return self._rows_of(self._reader(path), first, int(record["count"]), k)


def _copy(path: str, name: str) -> None:
    """Copy a file, and wait until the copy is on the disk: what it is a copy of will change."""
    shutil.copyfile(path, name)
    sync_files([name])
