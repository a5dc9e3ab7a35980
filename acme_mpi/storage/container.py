"""The results container over payload files: external links and one virtual dataset.

Everything here is done by rank 0 alone, from the journals, and repeatable at any time.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator
from typing import Any, NamedTuple

import h5py
import numpy as np

from acme_mpi.history.journal import AS_ROWS
from acme_mpi.history.layout import Layout
from acme_mpi.history.records import (
    Place,
    Records,
    by_payload,
    indices_of,
    missing_tasks,
    tasks_with_groups,
)
from acme_mpi.results.convert import Array
from acme_mpi.results.spec import RowSpec
from acme_mpi.storage import hdf5
from acme_mpi.storage.base import missing_value
from acme_mpi.storage.gridded import Box, boxes
from acme_mpi.storage.ragged import longest_row

# A virtual dataset keeps all its sources open, and reads fill values, without an error, when
# descriptors run out (limit often 1024).
MAX_SOURCES = 256
# The cost to open a union of hyperslabs grows with its square.
MAX_RUNS = 256
# Rows of differing length are mapped one by one. Who reads them all pays 0.1 ms for each mapping,
# and more for each beyond some 2000 (HDF5 1.10 to 2.0).
MAX_MAPPINGS = 1024

_Run = tuple[int, int, int]  # first task, first row, count


def link_groups(
    file: h5py.File, records: Records, target: Callable[[Place, int], tuple[str, str]]
) -> None:
    """Link every ``comp_i`` to ``target(place, i) -> (file, object)``, in task order."""
    links = file.id.links
    for place, index in tasks_with_groups(records):
        path, name = target(place, index)
        links.create_external(b"comp_%d" % index, path.encode(), name.encode())


def link_rows(
    file: h5py.File,
    records: Records,
    spec: RowSpec,
    n_tasks: int,
    source: Callable[[int, int], str],
) -> None:
    """Make the virtual dataset of one column over the packed rows of all payload files.

    Parameters
    ----------
    file : h5py.File
        The container.
    records : ndarray
        In task order.
    spec : RowSpec
        Form of the rows.
    n_tasks : int
        Rows of the dataset.
    source : callable
        ``source(rank, payload)`` gives the payload's path relative to the container.
    """
    shape = spec.whole_shape(n_tasks)
    plist = _padding(spec)
    for at in by_payload(records, "offset"):
        at = at[records["form"][at] & AS_ROWS != 0]
        runs = _joined(*(records[name][at] for name in ("first", "offset", "count")))
        if not runs:
            continue
        path = os.fsencode(source(int(records["rank"][at[0]]), int(records["payload"][at[0]])))
        n_rows = max(row + count for _, row, count in runs)
        for segment in _segments(runs):
            _map_runs(plist, spec, shape, path, n_rows, segment)
    _create_virtual(file, spec, shape, plist)
    note_missing(file, spec, records, n_tasks)


def _joined(firsts: Array, rows: Array, counts: Array) -> list[_Run]:
    """Return runs, with those that go on where the last one ends put together."""
    is_new = np.ones(len(firsts), bool)
    is_new[1:] = np.diff(firsts) != counts[:-1]
    is_new[1:] |= np.diff(rows) != counts[:-1]
    starts = np.flatnonzero(is_new)
    sums = np.add.reduceat(counts, starts) if len(starts) else counts
    return list(zip(firsts[starts].tolist(), rows[starts].tolist(), sums.tolist(), strict=True))


def _segments(runs: list[_Run]) -> Iterator[list[_Run]]:
    """Yield runs in lists, increasing in both tasks and rows, at most MAX_RUNS long."""
    segment: list[_Run] = []
    for run in runs:
        # A union is mapped in the order of the tasks: a task out of order starts a new one.
        if segment and (run[0] < segment[-1][0] or len(segment) == MAX_RUNS):
            yield segment
            segment = []
        segment.append(run)
    if segment:
        yield segment


def _map_runs(
    plist: Any,
    spec: RowSpec,
    shape: tuple[int, ...],
    path: bytes,
    n_rows: int,
    runs: list[_Run],
) -> None:
    target = h5py.h5s.create_simple(shape)
    source = h5py.h5s.create_simple(spec.stacked_shape(n_rows))
    target.select_none()
    source.select_none()
    for first, row, count in runs:
        source.select_hyperslab(
            _corner(spec, row), spec.stacked_shape(count), op=h5py.h5s.SELECT_OR
        )
        _select(target, spec, first, count, shape)
    plist.set_virtual(target, path, spec.dataset.encode(), source)


def _select(target: Any, spec: RowSpec, first: int, count: int, shape: tuple[int, ...]) -> None:
    """Add the rows of some tasks to what is selected of an array of `shape`."""
    for box in boxes(spec, first, count):
        corner, size = zip(*(_extent(box, shape)), strict=True)
        target.select_hyperslab(corner, size, op=h5py.h5s.SELECT_OR)


def _extent(box: Box, shape: tuple[int, ...]) -> Iterator[tuple[int, int]]:
    """Yield start and length along each axis of an array."""
    for k, n in enumerate(shape):
        start, stop, _ = (box[k] if k < len(box) else slice(None)).indices(n)
        yield start, stop - start


def _padding(spec: RowSpec) -> Any:
    """Return properties of a dataset that has missing values wherever nothing is mapped."""
    plist = hdf5.creation(h5py.h5p.DATASET_CREATE)
    plist.set_fill_value(np.array(missing_value(spec.dtype), spec.dtype))
    return plist


def _corner(spec: RowSpec, first: int) -> tuple[int, ...]:
    """Return where the rows from a task on begin."""
    return tuple(first if k == spec.axis else 0 for k in range(len(spec.shape) + 1))


def _create_virtual(
    file: h5py.File,
    spec: RowSpec,
    shape: tuple[int, ...],
    plist: Any,
    limits: tuple[int | None, ...] | None = None,
) -> None:
    """Create a common dataset; `limits` has None where it may grow, as h5py's ``maxshape``."""
    if 0 in shape or plist.get_layout() != h5py.h5d.VIRTUAL:  # nothing was mapped
        data = np.full(shape, missing_value(spec.dtype), spec.dtype)
        file.create_dataset(spec.dataset, data=data, maxshape=limits)
        return
    kind = h5py.h5t.py_create(np.dtype(spec.dtype), logical=True)
    h5py.h5d.create(file.id, spec.dataset.encode(), kind, _space(shape, limits), plist)


def _space(shape: tuple[int, ...], limits: tuple[int | None, ...] | None) -> Any:
    if limits is None:
        return h5py.h5s.create_simple(shape)
    most = tuple(h5py.h5s.UNLIMITED if limit is None else limit for limit in limits)
    return h5py.h5s.create_simple(shape, most)


class Row(NamedTuple):
    """Where the row of a task lies, as a dataset of its own.

    Attributes
    ----------
    task : int
        Whose it is.
    path, name : str
        File, relative to the container, and dataset.
    shape : tuple of int
        Of the row.
    """

    task: int
    path: str
    name: str
    shape: tuple[int, ...]


def link_unequal_rows(
    file: h5py.File, records: Records, spec: RowSpec, n_tasks: int, rows: Iterable[Row]
) -> None:
    """Make the virtual dataset ``result_0`` over rows that differ in their unlimited axis.

    It has no limit there, and is as long as the longest row; what is mapped does not grow.
    """
    known = list(rows)
    shape = spec.whole_shape(n_tasks, longest_row(spec, (row.shape for row in known)))
    at = spec.axis
    open_axes = [None if n == np.inf else int(n) for n in spec.shape]
    limits = (*open_axes[:at], *(spec.grid or (n_tasks,)), *open_axes[at:])
    plist = _padding(spec)
    for row in known:
        if 0 not in row.shape:
            target = _space(shape, limits)
            target.select_none()
            _select(target, spec, row.task, 1, spec.whole_shape(n_tasks, row.shape))
            source = hdf5.simple_space(row.shape)
            plist.set_virtual(target, os.fsencode(row.path), row.name.encode(), source)
    _create_virtual(file, spec, shape, plist, limits)
    note_missing(file, spec, records, n_tasks)


def link_computations(
    file: h5py.File, records: Records, spec: RowSpec, layout: Layout, n_tasks: int
) -> None:
    """Make the virtual dataset of one column over one payload file per task."""
    shape = spec.whole_shape(n_tasks)
    plist = _padding(spec)
    row_shape = spec.row_shape
    for index in indices_of(records):
        target = h5py.h5s.create_simple(shape)
        target.select_none()
        _select(target, spec, index, 1, shape)
        source = hdf5.simple_space(row_shape)
        path = f"{layout.payload_folder}/{layout.name}_{index}.h5"
        plist.set_virtual(target, os.fsencode(path), spec.dataset.encode(), source)
    _create_virtual(file, spec, shape, plist)
    note_missing(file, spec, records, n_tasks)


def note_missing(file: h5py.File, spec: RowSpec, records: Records, n_tasks: int) -> None:
    """List the tasks without a result in the attribute ``missing`` of a common dataset."""
    missing = missing_tasks(records, n_tasks)
    if len(missing):
        file[spec.dataset].attrs.create("missing", missing)
