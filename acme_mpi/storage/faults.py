"""All that is wrong with what runs have left: every result, and the container.

The container is compared with what would be made now from the journals, link by link. Its links are
not followed: what they lead to is measured by itself.
"""

from __future__ import annotations

import io
import os
import re
from collections.abc import Iterator
from typing import Any, Protocol

import h5py
import numpy as np

from acme_mpi.errors import StoreError
from acme_mpi.history.layout import Layout
from acme_mpi.history.parsing import Damaged
from acme_mpi.history.records import Record, Records, indices_of, missing_tasks, without_pickles
from acme_mpi.results.convert import Array
from acme_mpi.results.spec import RowSpec
from acme_mpi.storage import hdf5
from acme_mpi.storage.gridded import read_rows
from acme_mpi.storage.ragged import padded
from acme_mpi.storage.recorded import RecordedStore
from acme_mpi.storage.settled import PAUSES_S
from acme_mpi.storage.verify import Damage, damaged_bytes, reason_text


def faults(store: RecordedStore, done: Records, is_running: bool = False) -> Iterator[str]:
    """Yield all that is wrong with what runs have left, as sentences. Independent.

    Parameters
    ----------
    store : RecordedStore
        Over the files; need not be open.
    done : ndarray
        Records of results.
    is_running : bool
        The container is still to come.
    """
    try:
        for each in damaged_bytes(store, done, PAUSES_S if is_running else ()):
            yield _damage_text(each)
        if not is_running:
            yield from store.container_faults(done)
    except StoreError as error:
        yield str(error)


def _damage_text(damage: Damage) -> str:
    tasks = damage.tasks
    return f"tasks {tasks.start} to {tasks.stop - 1}: {damage.path}: {damage.why}"


class Comparable(Protocol):
    """What a store tells of a container that is compared, see `ContainedStore`."""

    layout: Layout
    spec: RowSpec | None
    n_tasks: int

    def source(self, record: Record) -> str:
        """Return the path of the file with the results that a record speaks of."""

    def link(self, file: h5py.File, done: Records) -> None:
        """Make in a file what the container has of its own, besides copies."""

    def copied_rows(
        self, done: Records, is_virtual: bool, k: int = 0
    ) -> Iterator[tuple[int, Array]]:
        """Yield (first task, rows) of what a column has a copy of."""

    def over_container(self) -> RecordedStore | None:
        """Return the store that measures the container's own copies; None if there are none."""


def container_faults(store: Comparable, done: Records) -> Iterator[str]:
    """Yield what is wrong with the container alone, as `faults`. Independent."""
    container = store.layout.container
    try:
        with hdf5.open_to_read(container) as file:
            yield from _wrong_links(store, file, done)
            for column in store.spec.columns if store.spec else ():
                yield from _wrong_rows(store, column, file, done)
    except Damaged as damage:
        yield f"{damage.path}: {damage.what}"
        return
    except (OSError, KeyError, RuntimeError, ValueError) as error:
        # Whoever opens a payload by its links is told which it was.
        path = getattr(error, "filename", None) or container
        yield f"{path}: {reason_text(error)}"
        return
    copies = store.over_container()
    if copies is not None and any(store.source(each) != container for each in done):
        for each in damaged_bytes(copies, done):
            yield _damage_text(each)


def _wrong_links(store: Comparable, file: h5py.File, done: Records) -> Iterator[str]:
    """Yield what the container has otherwise than it would be made now."""
    path = store.layout.container
    # What HDF5 has read from a file looks otherwise than what it is about to write.
    image = io.BytesIO()
    with h5py.File(image, "w", libver=hdf5.LIBVER) as anew:
        store.link(anew, done)
    with h5py.File(image, "r") as anew:
        expected = dict(_described(anew))
    found = dict(_described(file))
    for name, what in expected.items():
        if name not in found:
            yield f"{path}: there is no {name}"
        elif found[name] != what and not _is_copy(store.spec, found[name], what):
            yield f"{path}: {name} is not what journals say"
    own = {name.split("/")[0] for name in expected} or set(map(_group_name, indices_of(done)))
    for name in found:
        if re.fullmatch(r"comp_\d+", name) and name not in own:
            yield f"{path}: journals do not speak of {name}"


def _is_copy(spec: RowSpec | None, found: Any, expected: Any) -> bool:
    """Tell whether an earlier version has copied rows of differing length, now mapped."""
    is_mapped = spec is not None and spec.is_ragged and expected[0] == "virtual"
    return is_mapped and found == ("dataset", *expected[1:3])


def _group_name(index: int) -> str:
    return f"comp_{index}"


def _described(group: h5py.Group, prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Yield (name, what it is) of all that is in a group, in plain values."""
    for name in group:
        link = group.get(name, getlink=True)
        if isinstance(link, h5py.ExternalLink):
            yield prefix + name, ("link", link.filename, link.path)
        elif isinstance(link, h5py.SoftLink):
            yield prefix + name, ("soft link", link.path)
        elif isinstance(item := group[name], h5py.Group):
            yield prefix + name, ("group",)
            yield from _described(item, f"{prefix}{name}/")
        elif item.is_virtual:
            yield prefix + name, ("virtual", item.dtype, item.shape, _sources(item))
        else:
            yield prefix + name, ("dataset", item.dtype, item.shape)


def _sources(dataset: h5py.Dataset) -> list[Any]:
    return [
        (each.file_name, each.dset_name, _selected(each.vspace), _selected(each.src_space))
        for each in dataset.virtual_sources()
    ]


def _selected(space: Any) -> Any:
    if space.get_select_type() != h5py.h5s.SEL_HYPERSLABS:
        return space.shape, space.get_select_npoints()
    return space.shape, space.get_select_hyper_blocklist().tolist()


def _wrong_rows(store: Comparable, spec: RowSpec, file: h5py.File, done: Records) -> Iterator[str]:
    """Yield what is wrong with a common dataset: form, sources, rows, what is missing."""
    path, folder, n_tasks = store.layout.container, store.layout.directory, store.n_tasks
    name = spec.dataset
    if name not in file:
        yield f"{path}: there is no {name}"
        return
    dataset = file[name]
    expected = spec.whole_shape(n_tasks, _row_shape(spec, dataset))
    if dataset.shape != expected or dataset.dtype != np.dtype(spec.dtype):
        yield f"{path}: {name} is {dataset.dtype} {dataset.shape}, not {spec.dtype} {expected}"
        return
    sources = {each.file_name for each in dataset.virtual_sources()} if dataset.is_virtual else ()
    for source in sorted(sources):
        if not os.path.exists(os.path.join(folder, source)):
            yield f"{path}: {name} needs {source}, which is not there"
    missing = missing_tasks(without_pickles(done), n_tasks)
    if not np.array_equal(dataset.attrs.get("missing", ()), missing):
        yield f"{path}: the attribute `missing` of {name} is not what journals say"
    for first, rows in store.copied_rows(done, dataset.is_virtual, spec.number):
        copy = read_rows(dataset, spec, first, len(rows))
        if spec.is_ragged:
            rows = padded(rows, copy.shape[1:], spec.dtype)
        if copy.tobytes() != np.asarray(rows, dataset.dtype).tobytes():
            yield f"{path}: rows {first} to {first + len(rows) - 1} of {name} differ"


def _row_shape(spec: RowSpec, dataset: h5py.Dataset) -> tuple[int, ...]:
    """Return the shape of a row, with the length that the dataset has in the unlimited axis."""
    shape, n_axes = dataset.shape or (), len(spec.grid) or 1
    found = [*shape[: spec.axis], *shape[spec.axis + n_axes :]]
    if len(found) != len(spec.shape):
        found = [0] * len(spec.shape)
    return tuple(
        int(have if length == np.inf else length)
        for length, have in zip(spec.shape, found, strict=True)
    )
