"""Merge the groups of all payload files into one file, with all ranks copying bytes.

Rank 0 creates groups and datasets, space allocated, and writes strings; each rank copies the
numbers of its own payload files to the offsets it is told. Plain copies at offsets cost a tenth of
one parallel HDF5 write per small dataset, and need no parallel build. What lies in slots is there
already, if the file has been made with them.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import h5py
import numpy as np

from acme_mpi.comm import World
from acme_mpi.errors import StoreError
from acme_mpi.history.journal import AS_GROUPS
from acme_mpi.history.records import Records, share_of, tasks_with_groups
from acme_mpi.linux.offsets import copy_bytes
from acme_mpi.results.convert import Array
from acme_mpi.results.form import NAMES, form_of
from acme_mpi.storage import hdf5
from acme_mpi.storage.base import on_master, refusals, together
from acme_mpi.storage.slots import array_at, is_like


class Described(NamedTuple):
    """A dataset of a payload file: where its bytes lie, or its value if they are strings."""

    task: int
    k: int
    dtype: np.dtype[Any] | None = None
    shape: tuple[int, ...] | None = None  # None of an empty one
    offset: int = 0
    n_bytes: int = 0
    strings: Array | None = None
    name: str = ""  # besides ``result_<k>``
    note: str = ""  # of the group
    is_outside: bool = False  # the bytes do not lie in the payload file but in the slots


class Merge:
    """Merging payload files into one file. Collective.

    Parameters
    ----------
    world : World
        The ranks; each copies from the payload files that it has written, or takes care of.
    path : str
        The file, which exists.
    records : ndarray or None
        On rank 0 the records of all ranks, in task order.
    payload_path : callable
        ``payload_path(rank, payload)``.
    folder : str
        The dot folder of the run, which knows whether results have names.
    n_skipped : int
        Leave out so many parts of each task, which went elsewhere.
    slots_path : str
        The file with the slots, by a name that it keeps: the file into which all is merged may be
        the same. Empty: nothing lies in slots.
    """

    def __init__(
        self,
        world: World,
        path: str,
        records: Records | None,
        payload_path: Callable[[int, int], str],
        folder: str,
        n_skipped: int = 0,
        slots_path: str = "",
    ) -> None:
        self._world, self._path = world, path
        self._records: Records = world.bcast(records)
        self._payload_path, self._folder, self._n_skipped = payload_path, folder, n_skipped
        self._slots_path = slots_path
        self._target: hdf5.Changing | None = None  # on rank 0

    def run(self) -> None:
        """Merge everything.

        Raises
        ------
        StoreError
            On every rank alike.
        """
        groups = self._records[self._records["form"] & AS_GROUPS != 0]
        self._mine = share_of(groups, self._world)
        payloads = sorted({(int(each["rank"]), int(each["payload"])) for each in self._mine})
        n_rounds = max(self._world.allgather(len(payloads)))
        try:
            on_master(self._world, lambda: self._create_groups(groups))
            # One payload of each rank at a time bounds the memory of rank 0.
            for k in range(n_rounds):
                self._merge_round(payloads[k] if k < len(payloads) else None)
            together(self._world, self._finish)
        except StoreError:
            with contextlib.suppress(StoreError):
                self._finish()
            raise

    def _create_groups(self, groups: Records) -> None:
        with refusals(self._path):
            self._target = hdf5.Changing(self._path)
            are_named = bool((form_of(self._folder) or {}).get(NAMES))
            file = self._target.file
            tasks = [index for _, index in tasks_with_groups(groups)]
            made = list(file) if self._slots_path else []
            self._has_slots = bool(made)
            wanted = dict.fromkeys(f"comp_{index}" for index in tasks)
            for name in made:
                if name in wanted:
                    del wanted[name]
                else:
                    del file[name]
            # In task order, because that is the order in which users iterate.
            for name in wanted:
                hdf5.create_group(file.id, name.encode(), are_named)
            self._target.settle()

    def _merge_round(self, payload: tuple[int, int] | None) -> None:
        described: list[Described] = []

        def describe() -> None:
            if payload is not None:
                with refusals(self._payload_path(*payload)):
                    described.extend(self._describe(payload))

        together(self._world, describe)
        gathered = self._world.gather(described)
        offsets: list[list[int]] | None = None

        def create() -> None:
            nonlocal offsets
            if gathered is not None and self._target is not None:
                with refusals(self._path):
                    offsets = [
                        [_create(self._target.file.id, entry, self._has_slots) for entry in each]
                        for each in gathered
                    ]
                    self._target.settle()

        together(self._world, create)
        mine = self._world.scatter(offsets)

        def copy() -> None:
            if payload is not None:
                with refusals(self._path):
                    self._copy(payload, described, mine)

        together(self._world, copy)

    def _describe(self, payload: tuple[int, int]) -> Iterator[Described]:
        """Yield what a payload file holds, without the numbers."""
        with hdf5.open_to_read(self._payload_path(*payload)) as file:
            rank, k = payload
            mine = self._mine[(self._mine["rank"] == rank) & (self._mine["payload"] == k)]
            for _, index in tasks_with_groups(mine):
                group = h5py.h5g.open(file.id, b"comp_%d" % index)
                yield from _describe_group(group, index, self._n_skipped)

    def _copy(
        self, payload: tuple[int, int], described: list[Described], offsets: list[int]
    ) -> None:
        to_copy = [pair for pair in zip(described, offsets, strict=True) if pair[1] >= 0]
        paths = [self._payload_path(*payload), self._slots_path]
        target = os.open(self._path, os.O_WRONLY | os.O_CLOEXEC)
        try:
            for is_outside, path in enumerate(paths):
                entries = [pair for pair in to_copy if pair[0].is_outside == is_outside]
                if entries:
                    _copy_entries(path, entries, target)
            os.fdatasync(target)
        finally:
            os.close(target)

    def _finish(self) -> None:
        if self._target is not None:
            target, self._target = self._target, None
            with refusals(self._path):
                target.close()


def _copy_entries(path: str, entries: list[tuple[Described, int]], target: int) -> None:
    """Copy the bytes of datasets to offsets of an open file."""
    source = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        for entry, offset in entries:
            copy_bytes(source, entry.offset, target, offset, entry.n_bytes)
    finally:
        os.close(source)


def _create(file: h5py.h5f.FileID, entry: Described, has_slots: bool) -> int:
    """Create one dataset; return the offset of its bytes, -1 if there are none to copy."""
    link = b"comp_%d/result_%d" % (entry.task, entry.k)
    name = None if entry.name else link
    offset = -1
    slot = _slot(file, link, entry) if has_slots else None
    if slot is not None:
        dataset = slot
        offset = -1 if entry.is_outside else int(dataset.get_offset())
    elif entry.shape is None or entry.dtype is None:
        dataset = hdf5.write_part(file, name, entry.strings)
    elif not entry.n_bytes:
        dataset = hdf5.write_part(file, name, np.empty(entry.shape, entry.dtype))
    else:
        dataset = hdf5.create_array(file, name, entry.shape, entry.dtype)
        offset = int(dataset.get_offset())
    if entry.name or entry.note:
        group = h5py.h5g.open(file, b"comp_%d" % entry.task)
        if entry.name:
            hdf5.give_name(dataset, group, entry.name, entry.k)
        hdf5.write_note(group, entry.note)
    return offset


def _slot(file: h5py.h5f.FileID, link: bytes, entry: Described) -> Any:
    """Return the dataset that was made ahead; None, and remove it, if it is of another form."""
    dataset = array_at(file, entry.task, entry.k)
    is_fitting = (
        dataset is not None
        and entry.dtype is not None
        and entry.shape is not None
        and is_like(dataset, entry.shape, entry.dtype)
    )
    if entry.is_outside and not (is_fitting and dataset.get_offset() == entry.offset):
        raise ValueError(f"task {entry.task} has no slot at {entry.offset}")
    if dataset is not None and not is_fitting:
        file.unlink(link)
    return dataset if is_fitting else None


def _describe_group(group: h5py.h5g.GroupID, index: int, n_skipped: int) -> Iterator[Described]:
    """Yield what a task has in a payload file, but for its first parts."""
    # Rows of differing length lie in the groups until they are merged, packed ones never.
    has_rows = group.links.exists(b"result_0")
    stop = group.get_num_objs() + (0 if has_rows else n_skipped)
    is_named = stop > n_skipped and not group.links.exists(b"result_%d" % (stop - 1))
    note = hdf5.read_note(group)
    for k in range(n_skipped, stop):
        # With names there are more members than results: datasets, and links to them.
        if not is_named or group.links.exists(b"result_%d" % k):
            name = hdf5.name_of(group, k) if is_named else ""
            yield _describe_dataset(group, index, k)._replace(name=name, note=note)
            note = ""


def _describe_dataset(group: h5py.h5g.GroupID, index: int, k: int) -> Described:
    dataset = h5py.h5d.open(group, b"result_%d" % k)
    space, kind = dataset.get_space(), dataset.get_type()
    if space.get_simple_extent_type() == h5py.h5s.NULL:
        return Described(index, k)
    if isinstance(kind, h5py.h5t.TypeStringID) and kind.is_variable_str():
        strings = np.array(h5py.Dataset(dataset).asstr()[()], dtype=object)
        return Described(index, k, strings=strings)
    if (outside := hdf5.outside_of(dataset)) is not None:
        _, offset, n_bytes = outside
        return Described(index, k, kind.dtype, space.shape, offset, n_bytes, is_outside=True)
    offset, n_bytes = dataset.get_offset() or 0, dataset.get_storage_size()
    return Described(index, k, kind.dtype, space.shape, offset, n_bytes)
