"""The results container over payload files: external links and one virtual dataset.

Everything here is done by rank 0 alone, from the journals, and repeatable at any time.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from typing import Any

import h5py
import numpy as np

from acme_mpi.journal import AS_ROWS
from acme_mpi.results import RowSpec
from acme_mpi.storage import hdf5
from acme_mpi.storage.base import Layout, missing_value
from acme_mpi.storage.records import (
    Place,
    Records,
    by_payload,
    indices_of,
    missing_tasks,
    tasks_with_groups,
)

# A virtual dataset keeps all its sources open, and reads fill values, without an error, when
# descriptors run out (limit often 1024).
MAX_SOURCES = 256
# The cost to open a union of hyperslabs grows with its square.
MAX_RUNS = 256

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
    """Make the virtual dataset ``result_0`` over the packed rows of all payload files.

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
    shape = spec.stacked_shape(n_tasks)
    plist = hdf5.creation(h5py.h5p.DATASET_CREATE)
    plist.set_fill_value(np.array(missing_value(spec.dtype), spec.dtype))
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
    note_missing(file, records, n_tasks)


def _joined(firsts: Any, rows: Any, counts: Any) -> list[_Run]:
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
        slab = spec.stacked_shape(count)
        for space, start in ((target, first), (source, row)):
            corner = tuple(start if k == spec.axis else 0 for k in range(len(shape)))
            space.select_hyperslab(corner, slab, op=h5py.h5s.SELECT_OR)
    plist.set_virtual(target, path, b"result_0", source)


def _create_virtual(file: h5py.File, spec: RowSpec, shape: tuple[int, ...], plist: Any) -> None:
    if 0 in shape or plist.get_layout() != h5py.h5d.VIRTUAL:  # nothing was mapped
        data = np.full(shape, missing_value(spec.dtype), spec.dtype)
        file.create_dataset("result_0", data=data)
        return
    kind = h5py.h5t.py_create(np.dtype(spec.dtype), logical=True)
    h5py.h5d.create(file.id, b"result_0", kind, h5py.h5s.create_simple(shape), plist)


def link_computations(file: h5py.File, records: Records, spec: RowSpec, layout: Layout,
                      n_tasks: int) -> None:  # fmt: skip
    """Make the virtual dataset ``result_0`` over one payload file per task."""
    shape = spec.stacked_shape(n_tasks)
    plist = hdf5.creation(h5py.h5p.DATASET_CREATE)
    plist.set_fill_value(np.array(missing_value(spec.dtype), spec.dtype))
    row_shape = spec.row_shape
    for index in indices_of(records):
        target = h5py.h5s.create_simple(shape)
        corner = tuple(index if k == spec.axis else 0 for k in range(len(shape)))
        target.select_hyperslab(corner, spec.stacked_shape(1))
        source = hdf5.simple_space(row_shape)
        path = f"{layout.payload_folder}/{layout.name}_{index}.h5"
        plist.set_virtual(target, os.fsencode(path), b"result_0", source)
    _create_virtual(file, spec, shape, plist)
    note_missing(file, records, n_tasks)


def note_missing(file: h5py.File, records: Records, n_tasks: int) -> None:
    """List the tasks without a result in the attribute ``missing`` of ``result_0``."""
    missing = missing_tasks(records, n_tasks)
    if len(missing):
        file["result_0"].attrs.create("missing", missing)
