"""One file that holds everything: rows go into it at once, all else is merged at the end."""

from __future__ import annotations

import os
import shutil
from typing import Any

from acme_mpi.comm import World
from acme_mpi.journal import AS_GROUPS
from acme_mpi.results import Content
from acme_mpi.storage import hdf5
from acme_mpi.storage.base import Layout, Stored, refusals, together
from acme_mpi.storage.linked import fill_rows, payload_rows
from acme_mpi.storage.merge import Merge
from acme_mpi.storage.payload import PayloadStore
from acme_mpi.storage.records import Records, missing_tasks, share_records
from acme_mpi.storage.shared_rows import SharedRows


class SingleFileStore(PayloadStore):
    """Groups are spooled per rank and merged; rows of one form go straight into the file."""

    def __init__(self, world: World, layout: Layout, spec: Any, n_tasks: int) -> None:
        super().__init__(world, layout, spec, n_tasks, layout.spool_folder)
        self._shared: SharedRows | None = None
        if spec is not None and not spec.is_ragged:
            shape = spec.stacked_shape(n_tasks)
            self._shared = SharedRows(world, layout.partial, spec, shape)

    def open(self) -> None:
        """Create and open the shared file. Collective."""
        if self._shared is not None:
            self._shared.open()

    def place(
        self, index: int, k: int, shape: tuple[int, ...], dtype: str
    ) -> tuple[str, int] | None:
        """Return the row's place in the shared file, or a place in the spool."""
        if self._shared is None or k > 0:
            return super().place(index, k, shape, dtype)
        offset = self._shared.offset_of(index)
        return None if offset is None else (self._shared.path, offset)

    def _row_placed_for(self, index: int) -> int:
        return index

    def _write_rows(self, tasks: range, rows: Any) -> int:
        assert self._shared is not None
        self._shared.write(tasks.start, rows)
        return tasks.start

    def _written_descriptors(self) -> list[int]:
        shared = [] if self._shared is None else [self._shared.fileno()]
        return shared + super()._written_descriptors()

    def _write_content(self, runs: list[range], content: Content) -> list[tuple[range, int, int]]:
        path = self.layout.partial if self._shared is not None else self.layout.spool_folder
        with refusals(path):
            return super()._write_content(runs, content)

    def commit(self, root: int | None = None) -> Stored:
        """Close the shared file, merge the spool into it, and give it its name. Collective."""
        if self._shared is not None:
            self._shared.close()
        records = share_records(self.world, self.layout)
        if self.spec is not None and self._shared is None:
            fill_rows(
                *(self.world, self.layout, self.spec, self.n_tasks, records),
                lambda: payload_rows(self, records),
            )
        together(self.world, lambda: self._begin(records))
        if self.spec is None or (records["form"] & AS_GROUPS).any():
            skip_first = self.spec is not None
            Merge(self.world, self.layout.partial, records, self.payload_path, skip_first).run()
        together(self.world, self._finish)
        return Stored(self.layout.container, [self.layout.container])

    def _begin(self, records: Records) -> None:
        if not self.world.is_master:
            return
        with refusals(self.layout.partial):
            if self.spec is None:
                hdf5.open_or_create(self.layout.partial).close()
            elif self._shared is not None:
                self._shared.fill_missing(missing_tasks(records, self.n_tasks))

    def _finish(self) -> None:
        if not self.world.is_master:
            return
        with refusals(self.layout.container):
            os.replace(self.layout.partial, self.layout.container)
        spool = os.path.join(self.layout.directory, self.layout.spool_folder)
        shutil.rmtree(spool, ignore_errors=True)
