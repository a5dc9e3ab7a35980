"""The few HDF5 calls that every store shares, on h5py's low-level interface.

Creating a group and a dataset this way takes a third of the time of the high-level interface, and
early allocation, which offset writes and parallel access need, is only to be had here.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
from collections.abc import Iterator
from functools import lru_cache
from typing import Any, NamedTuple

import h5py
import numpy as np

from acme_mpi.history.parsing import Damaged, open_file
from acme_mpi.linux.offsets import read_all
from acme_mpi.results.convert import Part
from acme_mpi.results.foreign import NOTE
from acme_mpi.results.parts import PLACED_BYTES, with_note
from acme_mpi.storage import ballast
from acme_mpi.storage.deferring import DeferringFile

# Newer formats leave a file that a killed process had open unopenable; older ones take three
# times the metadata.
LIBVER = ("v108", "latest")
STRING = h5py.string_dtype()

M_TRIM_THRESHOLD, M_MMAP_THRESHOLD = -1, -3  # of glibc's malloc.h
KEPT_BYTES = 4 * 1024**2


class Outside(NamedTuple):
    """Where the bytes of a dataset lie in another file."""

    name: bytes  # of the file, in a folder that the reader knows
    offset: int
    n_bytes: int


class Changing:
    """A file whose metadata is changed, or that is made with members kept in order.

    Parameters
    ----------
    path : str
        Where it is, or will be.
    page_bytes : int
        What is made and is as large as `PLACED_BYTES` begins at a multiple of this.

    Attributes
    ----------
    file : h5py.File
        What its methods raise is never the medium's; `settle` is.
    """

    def __init__(self, path: str, page_bytes: int = 1) -> None:
        self._bytes = DeferringFile(path)
        is_new = self._bytes.seek(0, os.SEEK_END) == 0
        self.file = h5py.File(
            self._bytes,
            "w" if is_new else "r+",
            libver=LIBVER,
            track_order=is_new,
            alignment_threshold=PLACED_BYTES,
            alignment_interval=page_bytes,
        )

    def settle(self) -> None:
        """Raise what the medium has refused so far.

        Raises
        ------
        OSError
            The medium is full, or has another fault.
        """
        self._bytes.settle()

    def detach(self) -> int:
        """Close the file; return a descriptor of it that is still open.

        Raises
        ------
        OSError
            The medium has refused something; nothing is open any more.
        """
        try:
            self.file.close()
            self._bytes.settle()
        except BaseException:
            ballast.drop()
            self._bytes.close()
            raise
        return self._bytes.fileno()

    def close(self) -> None:
        """Close the file and bring it to the disk.

        Raises
        ------
        OSError
            The medium has refused something.
        """
        descriptor = self.detach()
        try:
            os.fdatasync(descriptor)
        finally:
            os.close(descriptor)


@contextlib.contextmanager
def changing(path: str, page_bytes: int = 1) -> Iterator[h5py.File]:
    """Context with a file that is changed or made, as by `Changing`, and is on the disk then."""
    changed = Changing(path, page_bytes)
    try:
        yield changed.file
    finally:
        changed.close()


def open_to_read(path: str) -> h5py.File:
    """Return a file open for reading, whoever else has it open, and however, in this process too.

    Raises
    ------
    Damaged
        What is there is no HDF5 file.
    OSError
        It is not there, or the system refuses to open it, which says nothing of its content.
    """
    descriptor = open_file(path)
    with open(descriptor, "rb") as raw:
        try:
            return h5py.File(path, "r", locking=False)
        except OSError:
            # HDF5 refuses, too, what this process has open in another way (for writing, or with
            # other flags). Of a descriptor it knows nothing but the bytes.
            return _open_bytes(path, os.dup(raw.fileno()))


def _open_bytes(path: str, descriptor: int) -> h5py.File:
    raw = open(descriptor, "rb")  # noqa: SIM115 (closed with the last reference to it)
    try:
        return h5py.File(raw, "r")
    except OSError as error:
        raw.close()
        raise Damaged(path, " ".join(str(error).split())) from None


def is_open_here(path: str) -> bool:
    """Tell whether this process has a file open through HDF5."""
    found = h5py.h5f.get_obj_ids(h5py.h5f.OBJ_ALL, h5py.h5f.OBJ_FILE)
    return any(os.path.exists(each.name) and os.path.samefile(each.name, path) for each in found)


def remove(path: str) -> None:
    """Remove a file if there is one."""
    with contextlib.suppress(FileNotFoundError):
        os.unlink(path)


@lru_cache(maxsize=256)
def _type(dtype: np.dtype[Any]) -> Any:
    return h5py.h5t.py_create(STRING if dtype.kind == "O" else dtype, logical=True)


@lru_cache(maxsize=256)
def _memory_type(dtype: np.dtype[Any]) -> Any:
    # Without `logical`, h5py knows that strings are Python objects in memory.
    return h5py.h5t.py_create(STRING if dtype.kind == "O" else dtype)


@lru_cache(maxsize=256)
def simple_space(shape: tuple[int, ...]) -> Any:
    """Return the dataspace of a shape, scalar for ()."""
    return h5py.h5s.create_simple(shape) if shape else h5py.h5s.create(h5py.h5s.SCALAR)


def creation(kind: Any) -> Any:
    """Return a new list of the properties with which objects are created: no times in the file.

    HDF5 notes them by default, and two equal runs would differ.

    Parameters
    ----------
    kind : h5py.h5p.PropClassID
        ``h5py.h5p.DATASET_CREATE`` or ``GROUP_CREATE``.
    """
    plist = h5py.h5p.create(kind)
    plist.set_obj_track_times(False)
    return plist


@lru_cache(maxsize=1)
def _group() -> Any:
    return creation(h5py.h5p.GROUP_CREATE)


@lru_cache(maxsize=1)
def _ordered_group() -> Any:
    """Group creation: members are met in the order in which they came."""
    plist = creation(h5py.h5p.GROUP_CREATE)
    plist.set_link_creation_order(h5py.h5p.CRT_ORDER_TRACKED | h5py.h5p.CRT_ORDER_INDEXED)
    return plist


@lru_cache(maxsize=1)
def _unicode() -> Any:
    plist = h5py.h5p.create(h5py.h5p.LINK_CREATE)
    plist.set_char_encoding(h5py.h5t.CSET_UTF8)
    return plist


@lru_cache(maxsize=1)
def _any_layout() -> Any:
    return creation(h5py.h5p.DATASET_CREATE)


@lru_cache(maxsize=1)
def _early() -> Any:
    """Dataset creation: contiguous, space allocated at once, nothing written into it."""
    plist = creation(h5py.h5p.DATASET_CREATE)
    plist.set_layout(h5py.h5d.CONTIGUOUS)
    plist.set_alloc_time(h5py.h5d.ALLOC_TIME_EARLY)
    plist.set_fill_time(h5py.h5d.FILL_TIME_NEVER)
    return plist


def create_group(parent: Any, name: bytes | None, is_ordered: bool = False) -> Any:
    """Create a group and return it; without a name it lasts if it gets one by `give_name`.

    Parameters
    ----------
    parent : h5py.h5g.GroupID or h5py.h5f.FileID
        Where it lies.
    name : bytes or None
        What it is called.
    is_ordered : bool
        Who goes through it meets its members in the order in which they came.
    """
    return h5py.h5g.create(parent, name, None, _ordered_group() if is_ordered else _group())


def give_name(item: Any, parent: Any, name: str, k: int | None = None) -> None:
    """Give a dataset or group a name, and ``result_<k>`` as another one that leads to it.

    Parameters
    ----------
    item : h5py.h5d.DatasetID or h5py.h5g.GroupID
        Of the same file. It may be ``result_<k>`` so far.
    parent : h5py.h5g.GroupID or h5py.h5f.FileID
        Where the names belong.
    name : str
        The first one, without /.
    k : int or None
        None: no other name.
    """
    own, link = name.encode(), b"" if k is None else b"result_%d" % k
    is_placed = bool(link) and parent.links.exists(link)
    if own != link or not is_placed:
        h5py.h5o.link(item, parent, own, _unicode())
    if link and own != link:
        if is_placed:
            parent.unlink(link)
        parent.links.create_soft(link, own, _unicode())


def write_note(group: Any, note: str) -> None:
    """Say in an attribute what the datasets of a group were together, if that was something."""
    if note:
        h5py.AttributeManager(h5py.Group(group)).create(NOTE, note)


def read_note(group: Any) -> str:
    """Return what `write_note` has said, empty if it has said nothing."""
    if not h5py.h5a.exists(group, NOTE.encode()):
        return ""
    return str(h5py.AttributeManager(h5py.Group(group))[NOTE])


def name_of(parent: Any, k: int) -> str:
    """Return the name of the dataset to which ``result_<k>`` leads; empty if it has no other."""
    link = b"result_%d" % k
    is_other = parent.links.get_info(link).type == h5py.h5l.TYPE_SOFT
    return parent.links.get_val(link).decode() if is_other else ""


def group(parent: Any, name: bytes) -> Any:
    """Return a group, which is created if there is none."""
    is_there = parent.links.exists(name)
    return h5py.h5g.open(parent, name) if is_there else create_group(parent, name)


def create_array(
    parent: Any, name: bytes | None, shape: tuple[int, ...], dtype: np.dtype[Any]
) -> Any:
    """Create a contiguous dataset with its space allocated; return the low-level dataset.

    Parameters
    ----------
    parent : h5py.h5g.GroupID or h5py.h5f.FileID
        Where `name`, which may be a path, starts.
    name : bytes or None
        None: it lasts if it gets one by `give_name`.
    shape, dtype : tuple of int, numpy.dtype
        Of its elements.
    """
    # Strings keep their fill: a pointer into nowhere would crash a reader.
    plist = _any_layout() if dtype.kind == "O" else _early()
    return h5py.h5d.create(parent, name, _type(dtype), simple_space(shape), plist)


def create_outside(
    parent: Any, name: bytes, shape: tuple[int, ...], dtype: np.dtype[Any], outside: Outside
) -> Any:
    """Create a dataset whose bytes lie in another file; return the low-level dataset.

    Parameters
    ----------
    parent, name, shape, dtype
        As for `create_array`.
    outside : Outside
        Where.
    """
    plist = creation(h5py.h5p.DATASET_CREATE)
    plist.set_layout(h5py.h5d.CONTIGUOUS)
    plist.set_fill_time(h5py.h5d.FILL_TIME_NEVER)
    plist.set_external(*outside)
    return h5py.h5d.create(parent, name, _type(dtype), simple_space(shape), plist)


def outside_of(dataset: Any) -> Outside | None:
    """Return where the bytes of a low-level dataset lie, None if they lie in its own file."""
    plist = dataset.get_create_plist()
    return Outside(*plist.get_external(0)) if plist.get_external_count() else None


def read_array(dataset: h5py.Dataset, path: str = "") -> Any:
    """Return the numbers of a dataset, in the dtype that was stored.

    Parameters
    ----------
    dataset : h5py.Dataset
        Neither empty nor of strings of variable length.
    path : str
        The file in which its bytes lie, if that is not its own one.

    Raises
    ------
    OSError, RuntimeError, ValueError
        They cannot be read.
    """
    outside = outside_of(dataset.id) if path else None
    if outside is not None:
        return _read_outside(dataset, path, outside.offset)
    _refuse_nonsense(dataset, dataset.file.id.get_filesize())
    array = np.empty(dataset.shape, dataset.dtype)
    if array.size:
        dataset.read_direct(array)  # into the dtype that was stored, also of a lone string
    return array


def _read_outside(dataset: h5py.Dataset, path: str, offset: int) -> Any:
    # Where HDF5 itself would look for the file depends on the working directory.
    descriptor = open_file(path)
    try:
        _refuse_nonsense(dataset, os.fstat(descriptor).st_size)
        array = np.empty(dataset.shape, dataset.dtype)
        read_all(descriptor, array.reshape(-1).view(np.uint8).data, offset)
        return array
    finally:
        os.close(descriptor)


def write_part(parent: Any, name: bytes | None, part: Part) -> Any:
    """Create a dataset, as `create_array`, write one part into it, and return it."""
    if part is None:
        null = h5py.h5s.create(h5py.h5s.NULL)
        return h5py.h5d.create(parent, name, _type(np.dtype("f8")), null, _any_layout())
    dataset = create_array(parent, name, part.shape, part.dtype)
    if part.dtype.kind == "O":
        _keep_memory()
    if part.size:
        data = np.require(part, requirements="C")
        dataset.write(h5py.h5s.ALL, h5py.h5s.ALL, data, _memory_type(part.dtype))
    return dataset


@lru_cache(maxsize=1)
def _keep_memory() -> None:
    """Have the C library keep up to `KEPT_BYTES` of free memory instead of giving it back at once.

    HDF5 takes, and frees, two buffers of 1 MiB at each write of strings. To get their pages from
    the system anew each time costs ten times as much as all else.
    """
    with contextlib.suppress(AttributeError):  # not glibc
        libc = ctypes.CDLL(None)
        libc.mallopt(M_MMAP_THRESHOLD, KEPT_BYTES // 2)
        libc.mallopt(M_TRIM_THRESHOLD, KEPT_BYTES)


def _refuse_nonsense(dataset: h5py.Dataset, n_most: int) -> None:
    """Raise ValueError if a contiguous dataset cannot lie in its file, before memory is taken."""
    n_bytes = dataset.nbytes
    if n_bytes > n_most:
        raise ValueError(f"{dataset.name} would have {n_bytes} bytes in a file of {n_most}")


def read_parts(group: h5py.Group, first: int = 0, path: str = "") -> Iterator[Part]:
    """Yield the parts of one task, from ``result_<first>`` on, as they were before storage.

    Behind them comes what they were together, see `results.parts.with_note`. `path` is that of
    `read_array`.
    """
    k = first
    while f"result_{k}" in group:
        dataset = group[f"result_{k}"]
        if dataset.shape is None:
            yield None
        elif h5py.check_string_dtype(dataset.dtype) and dataset.dtype.kind == "O":
            _refuse_nonsense(dataset, dataset.file.id.get_filesize())
            yield np.array(dataset.asstr()[()], dtype=object)
        else:
            yield read_array(dataset, path)
        k += 1
    yield from with_note([], read_note(group.id))
