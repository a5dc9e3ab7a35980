"""What tasks have returned, read from wherever it lies, of runs in any state.

The journals say where: so neither a container nor a regular end of the run is needed, and nothing
is written.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

import h5py
import numpy as np

from acme_mpi.comm import SerialWorld
from acme_mpi.history.description import Description
from acme_mpi.history.journal import AS_PICKLES, AS_ROWS, FileKey
from acme_mpi.history.layout import Layout
from acme_mpi.history.parsing import read_file
from acme_mpi.history.records import Record, Records
from acme_mpi.results.convert import Array, Part
from acme_mpi.results.spec import RowSpec
from acme_mpi.storage import hdf5, make_store
from acme_mpi.storage.base import missing_value
from acme_mpi.storage.gridded import read_rows
from acme_mpi.storage.payload import PayloadStore
from acme_mpi.storage.recorded import RecordedStore
from acme_mpi.storage.settled import SettledFiles

LARGE = object()  # stands for an array


class Found(NamedTuple):
    """What a task has returned, or its form.

    Attributes
    ----------
    names : list of str
        Of its parts; ``result_<k>`` if it has no other.
    parts : list
        Arrays, None for nothing; or of arrays `Form` alone.
    pickled : bytes or None
        In their place a pickle.
    note : str
        What the parts were together, see `results.foreign`; empty if they were nothing else.
    """

    names: list[str]
    parts: list[Any]
    pickled: bytes | None = None
    note: str = ""


class Form(NamedTuple):
    """Shape and dtype of a part; both None of nothing."""

    shape: tuple[int, ...] | None
    dtype: np.dtype[Any] | None


class Reader:
    """Reads the results of runs of one function. Methods may be called in any thread.

    Parameters
    ----------
    layout : Layout
        Where they lie.
    description : Description
        Of the last run.
    done : Records
        The records of durable results, in task order.
    is_changing : callable
        Tells whether a run may be writing.
    """

    def __init__(
        self,
        layout: Layout,
        description: Description,
        done: Records,
        is_changing: Callable[[], bool],
    ) -> None:
        n_tasks, spec = description.n_tasks, description.spec
        store = make_store(description.kind, SerialWorld(), layout, spec, n_tasks)
        assert isinstance(store, RecordedStore)
        is_open = store.spec is not None and store.spec.is_open
        self._spec = None if is_open else store.spec  # nothing has ended yet
        self._store, self._done = store, done
        self._files = SettledFiles(is_changing)

    @property
    def columns(self) -> tuple[RowSpec, ...]:
        """The forms of the arrays in which rows of all tasks are stacked; empty without any."""
        return () if self._spec is None else _columns(self._spec)

    @property
    def ragged(self) -> RowSpec | None:
        """The form of rows that differ in length, which lie in groups; None without any."""
        return self._spec if self._spec is not None and self._spec.is_ragged else None

    def close(self) -> None:
        """Close the files that were read; another read opens them again."""
        self._files.close()

    def record_of(self, index: int) -> Record | None:
        """Return the record that speaks of a task's result, None if there is none."""
        at = int(np.searchsorted(self._done["first"], index, side="right")) - 1
        if at < 0 or index >= self._done["first"][at] + self._done["count"][at]:
            return None
        return self._done[at]  # type: ignore[no-any-return]

    def read(self, index: int) -> Found:
        """Return what a task with a record has returned.

        Raises
        ------
        StoreError
            It cannot be read.
        """
        return self._files.attempt(lambda: self._read(index, _part))

    def form(self, index: int) -> Found:
        """Return its form, for which nothing large is read.

        Raises
        ------
        StoreError
            It cannot be read.
        """
        return self._files.attempt(lambda: self._read(index, _form))

    def scalars(self, index: int) -> Found:
        """Return what it has returned, with `LARGE` in the place of what is no scalar.

        Of what lies in rows only the form, see `rows`.

        Raises
        ------
        StoreError
            It cannot be read.
        """
        return self._files.attempt(lambda: self._read(index, _scalar))

    def named(self, index: int, names: Sequence[str]) -> dict[str, Part]:
        """Return some arrays of a task that do not lie in rows, by the names that they have there.

        Raises
        ------
        StoreError
            They cannot be read.
        """
        return self._files.attempt(lambda: self._named(index, names))

    def _named(self, index: int, names: Sequence[str]) -> dict[str, Part]:
        record = self.record_of(index)
        assert record is not None
        group = self._group(record, index)
        found = {name: h5py.Dataset(h5py.h5d.open(group, name.encode())) for name in names}
        return {name: _part(dataset, self._outside_path) for name, dataset in found.items()}

    @property
    def _outside_path(self) -> str:
        """The file in which bytes of datasets lie while they are not merged; empty: none."""
        return str(getattr(self._store, "outside_path", ""))

    def rows(self, k: int, tasks: Array) -> Array:
        """Return rows of the stacked array `k`, missing ones with its missing value.

        Parameters
        ----------
        k : int
            Of `columns`.
        tasks : (n,) ndarray of int64
            Which rows.

        Returns
        -------
        (n, *row_shape) ndarray

        Raises
        ------
        StoreError
            They cannot be read.
        """
        column = self.columns[k]
        rows = np.full((len(tasks), *column.row_shape), missing_value(column.dtype), column.dtype)
        for first, at, count in _runs(tasks):
            for record in self._records_of(first, count):
                start = max(first, int(record["first"]))
                stop = min(first + count, int(record["first"] + record["count"]))
                place = slice(at + start - first, at + stop - first)
                rows[place] = self._files.attempt(self._rows_reader(k, record, start, stop))
        return rows

    def _rows_reader(self, k: int, record: Record, start: int, stop: int) -> Callable[[], Array]:
        return lambda: self._rows_of(k, record, start, stop)

    def _records_of(self, first: int, count: int) -> Iterator[Record]:
        begin = int(np.searchsorted(self._done["first"], first, side="right")) - 1
        for record in self._done[max(0, begin) :]:
            if record["first"] >= first + count:
                return
            if record["first"] + record["count"] > first and record["form"] & AS_ROWS:
                yield record

    def _rows_of(self, k: int, record: Record, start: int, stop: int) -> Array:
        """Return rows that one record speaks of."""
        column = self.columns[k]
        if not isinstance(self._store, PayloadStore):  # each task has a file of its own
            file = self._file(self._store.source(record))
            return np.asarray(file[column.dataset][()])[np.newaxis]
        path, row = self._store.place_of_rows(record)
        dataset = self._file(path, record)[column.dataset]
        rows = read_rows(dataset, column, row + start - int(record["first"]), stop - start)
        if len(rows) < stop - start:
            raise ValueError(f"{path}: there are too few rows")
        return rows

    def _read(self, index: int, take: Callable[[h5py.Dataset, str], Any]) -> Found:
        record = self.record_of(index)
        assert record is not None
        if record["form"] & AS_PICKLES:
            path = self._store.path_of(FileKey(AS_PICKLES, first=index))
            return Found([], [], read_file(path, os.path.getsize(path)))
        names, parts = list[str](), list[Any]()
        is_apart = not self._store.has_own_files and record["form"] & AS_ROWS
        for k, column in enumerate(self.columns if is_apart else ()):
            names.append(column.name or column.dataset)
            if take is _part:
                parts.append(self._rows_of(k, record, index, index + 1)[0])
            else:
                parts.append(Form(column.row_shape, np.dtype(column.dtype)))
        group = self._group(record, index)
        if self._spec is not None and self._spec.is_ragged and not _has_row(group):
            # Merged into one array, as long as the longest.
            merged = self._file(self._store.source(record), record)["result_0"]
            row = read_rows(merged, self._spec, index, 1)[0]
            names.append(self._spec.name or self._spec.dataset)
            parts.append(_OF_ROWS[take](row))
        while group is not None and group.links.exists(link := b"result_%d" % len(parts)):
            called = self.columns[len(parts)].name if len(parts) < len(self.columns) else ""
            names.append(called or hdf5.name_of(group, len(parts)) or link.decode())
            parts.append(take(h5py.Dataset(h5py.h5d.open(group, link)), self._outside_path))
        note = "" if group is None else hdf5.read_note(group)
        return Found(names, parts, note=note)

    def _group(self, record: Record, index: int) -> Any:
        """Return the low-level group with the datasets of a task, None if all it has are rows."""
        file = self._file(self._store.source(record), record).id
        if self._store.has_own_files:
            return h5py.h5g.open(file, b"/")
        # The high-level interface takes twice the time.
        name = b"comp_%d" % index
        return h5py.h5g.open(file, name) if file.links.exists(name) else None

    def _file(self, path: str, record: Record | None = None) -> h5py.File:
        # What stands in the log says in which state a payload is; others are complete, or replaced.
        return self._files.open(path, self._log_path(path, record))

    def _log_path(self, path: str, record: Record | None) -> str:
        """Return the path of the log of a payload, empty for other files."""
        if record is None or not isinstance(self._store, PayloadStore):
            return ""
        place = int(record["rank"]), int(record["payload"])
        is_payload = path == self._store.payload_path(*place)
        return self._store.log_path(*place) if is_payload else ""


def _columns(spec: RowSpec) -> tuple[RowSpec, ...]:
    # Rows of differing length lie in groups.
    return () if spec.is_ragged else spec.columns


def _has_row(group: Any) -> bool:
    return group is not None and bool(group.links.exists(b"result_0"))


def _part(dataset: h5py.Dataset, outside_path: str) -> Part:
    if dataset.shape is None:
        return None
    if outside_path and hdf5.outside_of(dataset.id) is not None:
        return hdf5.read_array(dataset, outside_path)
    is_text = h5py.check_string_dtype(dataset.dtype) and dataset.dtype.kind == "O"
    return np.asarray(dataset.asstr()[()] if is_text else dataset[()], object if is_text else None)


def _scalar(dataset: h5py.Dataset, outside_path: str) -> Any:
    """Return the only element of a dataset."""
    if dataset.shape in ((), (1,)):
        part = _part(dataset, outside_path)
        return LARGE if part is None else part.reshape(())[()]
    return None if dataset.shape is None else LARGE


def _scalar_of_row(row: Array) -> Any:
    return row.reshape(())[()] if row.shape == (1,) else LARGE


def _form(dataset: h5py.Dataset, outside_path: str) -> Form:
    return Form(dataset.shape, None if dataset.shape is None else dataset.dtype)


# What stands for a dataset, by what does for a row of one.
_OF_ROWS: dict[Any, Callable[[Array], Any]] = {
    _part: lambda row: row,
    _scalar: _scalar_of_row,
    _form: lambda row: Form(row.shape, row.dtype),
}


def _runs(tasks: Sequence[int] | Array) -> Iterator[tuple[int, int, int]]:
    """Yield (first task, its position, count) of consecutive tasks."""
    edges = np.flatnonzero(np.diff(tasks) != 1) + 1
    for run in np.split(np.arange(len(tasks)), edges) if len(tasks) else []:
        yield int(tasks[run[0]]), int(run[0]), len(run)
