"""The end of a run with payload files: the container that links them."""

from __future__ import annotations

import os
from abc import abstractmethod
from collections.abc import Iterator
from itertools import groupby
from operator import itemgetter

import h5py
import numpy as np

from acme_mpi.comm import World
from acme_mpi.errors import StoreError
from acme_mpi.history.folders import note_linked
from acme_mpi.history.journal import AS_PICKLES, rename
from acme_mpi.history.layout import Layout
from acme_mpi.history.records import (
    Place,
    Records,
    n_sources,
    places,
    share_records,
    tasks_of,
    tasks_with_groups,
    without_pickles,
)
from acme_mpi.results.convert import Array
from acme_mpi.results.spec import RowSpec
from acme_mpi.storage import hdf5
from acme_mpi.storage.base import Stored, on_master, refusals
from acme_mpi.storage.contained import ContainedStore
from acme_mpi.storage.container import (
    MAX_MAPPINGS,
    MAX_SOURCES,
    Row,
    link_groups,
    link_rows,
    link_unequal_rows,
)
from acme_mpi.storage.payload import PayloadStore
from acme_mpi.storage.pickles import emergency_pickles


class LinkedStore(ContainedStore):
    """Stores whose container only points to payload files."""

    @abstractmethod
    def result_paths(self, records: Records) -> list[str | None]:
        """Return the paths that the call returns."""

    @abstractmethod
    def n_sources(self, records: Records) -> int:
        """Return how many files a virtual dataset would join."""

    @abstractmethod
    def link_rows(self, file: h5py.File, records: Records, column: RowSpec) -> None:
        """Make the virtual dataset of one column over rows of one length."""

    @abstractmethod
    def group_target(self, place: Place, index: int) -> tuple[str, str]:
        """Return (file relative to the container, object) that ``comp_<index>`` links to."""

    def commit(self, root: int | None = None) -> Stored:
        """Make the container. Collective."""
        self.settle_together()
        records = share_records(self.world, self.layout)
        rows = without_pickles(records)
        is_filled = self._is_filled(rows)
        if is_filled:
            self.fill_rows(rows)

        def link() -> None:
            self._refuse_deleted(records)
            with refusals(self.layout.container):
                if not is_filled:
                    hdf5.remove(self.layout.partial)  # left by a run that was killed
                with hdf5.changing(self.layout.partial) as file:
                    self.link(file, records)
                    self.label(file)
                rename(self.layout.partial, self.layout.container)
            note_linked(self.layout)

        on_master(self.world, link)
        return self.stored(records)

    def _is_filled(self, rows: Records) -> bool:
        """Whether the common dataset has a copy of all rows."""
        if self.spec is None:
            return False
        n_mappings = int(rows["count"].sum()) if self.spec.is_ragged else 0
        return n_mappings > MAX_MAPPINGS or self.n_sources(rows) > MAX_SOURCES

    def link(self, file: h5py.File, done: Records) -> None:
        """Make all links, and the virtual dataset unless there is a copy."""
        rows = without_pickles(done)
        if self.spec is not None and not self._is_filled(rows):
            if self.spec.is_ragged:
                link_unequal_rows(file, rows, self.spec, self.n_tasks, self._unequal_rows(rows))
            else:
                for column in self.spec.columns:
                    self.link_rows(file, rows, column)
        self._link_groups(file, done)

    def _unequal_rows(self, records: Records) -> Iterator[Row]:
        """Yield where rows of differing length lie, by file."""
        ordered = records[np.lexsort([records[name] for name in ("first", "payload", "rank")])]
        targets = (
            (index, *self.group_target(Place(int(each["rank"]), int(each["payload"])), index))
            for each in ordered
            for index in tasks_of(each)
        )
        for path, members in groupby(targets, key=itemgetter(1)):
            with hdf5.open_to_read(os.path.join(self.layout.directory, path)) as payload:
                for index, _, group in members:
                    name = f"{group.rstrip('/')}/result_0"
                    yield Row(index, path, name, payload[name].shape)

    def copied_rows(
        self, done: Records, is_virtual: bool, k: int = 0
    ) -> Iterator[tuple[int, Array]]:
        """Yield the rows of all payload files, unless the container only maps them."""
        rows = without_pickles(done)
        return self.own_rows(rows, k) if self._is_filled(rows) or not is_virtual else iter(())

    def _refuse_deleted(self, records: Records) -> None:
        """Raise if a file is gone: the common dataset would read as if tasks were missing."""
        gone = [path for path in self.sources(records) if not os.path.exists(path)]
        if gone:
            more = f" (and {len(gone) - 1} more)" if len(gone) > 1 else ""
            cure = "the next run computes again what was in it"
            raise StoreError(f"{gone[0]}{more} was deleted while it was needed; {cure}")

    @abstractmethod
    def sources(self, records: Records) -> Iterator[str]:
        """Yield the paths of all payload files that the container needs."""

    def stored(self, done: Records) -> Stored:
        """Return container, payload files and pickles."""
        pickles = emergency_pickles(self.layout, done)
        return Stored(self.layout.container, self.result_paths(done), pickle_paths=pickles)

    def _link_groups(self, file: h5py.File, records: Records) -> None:
        """Link what does not go into common datasets."""
        if self.spec is None or not self.rows_lie_in_groups:
            link_groups(file, records, self.group_target)
            return
        # The group of a task also holds its rows, so only the other parts are linked.
        common = {column.dataset for column in self.spec.columns}
        for place, index in tasks_with_groups(records):
            path, name = self.group_target(place, index)
            source = os.path.join(self.layout.directory, path)
            group = h5py.Group(hdf5.create_group(file.id, b"comp_%d" % index))
            with hdf5.open_to_read(source) as payload:
                for part in payload[name]:
                    if part not in common:
                        group[part] = h5py.ExternalLink(path, f"{name.rstrip('/')}/{part}")

    @property
    def rows_lie_in_groups(self) -> bool:
        """Whether the group of a task holds its row, too."""
        return self.spec is not None and self.spec.is_ragged


class RankStore(PayloadStore, LinkedStore):
    """Payload per rank, linked: ``<name>_payload/<name>_rank<r>_<k>.h5``."""

    def __init__(self, world: World, layout: Layout, spec: RowSpec | None, n_tasks: int) -> None:
        PayloadStore.__init__(self, world, layout, spec, n_tasks, layout.payload_folder)

    def sources(self, records: Records) -> Iterator[str]:
        """Yield the paths of the payload files."""
        for place in places(records[records["form"] & AS_PICKLES == 0]):
            yield self.payload_path(*place)

    def result_paths(self, records: Records) -> list[str | None]:
        """Return the paths of the container, and of what it cannot hold."""
        return [self.layout.container, *emergency_pickles(self.layout, records)]

    def n_sources(self, records: Records) -> int:
        """Return the number of payload files that hold rows."""
        return n_sources(records)

    def link_rows(self, file: h5py.File, records: Records, column: RowSpec) -> None:
        """Make the dataset of one column over the packed rows."""
        link_rows(file, records, column, self.n_tasks, self._relative)

    def _relative(self, rank: int, k: int) -> str:
        return f"{self.folder}/{self.payload_name(rank, k)}"

    def group_target(self, place: Place, index: int) -> tuple[str, str]:
        """Return the group of the same name in the payload."""
        return self._relative(place.rank, place.payload), f"comp_{index}"
