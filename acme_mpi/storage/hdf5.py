"""The few HDF5 calls that every store shares, on h5py's low-level interface.

Creating a group and a dataset this way takes a third of the time of the high-level interface, and
early allocation, which offset writes and parallel access need, is only to be had here.
"""

from __future__ import annotations

import os
from functools import lru_cache
from typing import Any

import h5py
import numpy as np

from acme_mpi.results import Part

# Newer formats leave a file that a killed process had open unopenable; older ones take three
# times the metadata.
LIBVER = ("v108", "latest")
STRING = h5py.string_dtype()


def create_file(path: str, track_order: bool = False) -> h5py.File:
    """Create a new file at `path`, which must not exist."""
    return h5py.File(path, "x", libver=LIBVER, locking=False, track_order=track_order)


def sync(file: h5py.File) -> None:
    """Bring all that was written to the disk."""
    file.flush()
    os.fdatasync(file.id.get_vfd_handle())


@lru_cache(maxsize=256)
def _type(dtype: np.dtype[Any]) -> Any:
    return h5py.h5t.py_create(STRING if dtype.kind == "O" else dtype, logical=True)


@lru_cache(maxsize=256)
def simple_space(shape: tuple[int, ...]) -> Any:
    """Return the dataspace of a shape, scalar for ()."""
    return h5py.h5s.create_simple(shape) if shape else h5py.h5s.create(h5py.h5s.SCALAR)


@lru_cache(maxsize=1)
def _early() -> Any:
    """Dataset creation: contiguous, space allocated at once, nothing written into it."""
    plist = h5py.h5p.create(h5py.h5p.DATASET_CREATE)
    plist.set_layout(h5py.h5d.CONTIGUOUS)
    plist.set_alloc_time(h5py.h5d.ALLOC_TIME_EARLY)
    plist.set_fill_time(h5py.h5d.FILL_TIME_NEVER)
    return plist


def create_array(group: Any, name: bytes, shape: tuple[int, ...], dtype: np.dtype[Any]) -> Any:
    """Create a contiguous dataset with its space allocated; return the low-level dataset."""
    # Strings keep their fill: a pointer into nowhere would crash a reader.
    plist = None if dtype.kind == "O" else _early()
    return h5py.h5d.create(group, name, _type(dtype), simple_space(shape), plist)


def write_part(group: Any, k: int, part: Part) -> None:
    """Create ``result_<k>`` in a low-level group and write one part into it."""
    name = b"result_%d" % k
    if part is None:
        null = h5py.h5s.create(h5py.h5s.NULL)
        h5py.h5d.create(group, name, _type(np.dtype("f8")), null)
        return
    dataset = create_array(group, name, part.shape, part.dtype)
    if part.size:
        data = np.require(part, requirements="C")
        dataset.write(h5py.h5s.ALL, h5py.h5s.ALL, data, _type(part.dtype))
