"""HDF5 files as arguments: open ones travel as their names, and a file can name all arguments.

h5py is imported where a file is opened, so that runners without such arguments start without it.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from typing import Any

from acme_mpi.errors import InputError

SUFFIXES = (".h5", ".hdf5")


def reduce_hdf5(value: Any) -> tuple[Callable[..., Any], tuple[str, str | None]] | None:
    """Return how an open h5py file, group or dataset is pickled: reopened, read-only, by its name.

    Returns
    -------
    tuple or None
        As ``__reduce__``; None if `value` is nothing of h5py's.

    Raises
    ------
    InputError
        It is closed, or not in a file that another process can open.
    """
    h5py = sys.modules.get("h5py")
    if h5py is None or not isinstance(value, (h5py.File, h5py.Group, h5py.Dataset)):
        return None
    kind = type(value).__name__
    if not value:
        raise InputError(f"an argument is an h5py.{kind} of a closed file; open it for the run")
    file = value.file
    path = os.path.abspath(file.filename)
    if file.driver == "core" or not os.path.isfile(path):
        raise InputError(
            f"an argument is an h5py.{kind} in {file.filename!r}, which other processes cannot "
            "open; give its values ([()]), or save the file and open it by its full path"
        )
    if file.mode != "r":
        file.flush()
    return open_hdf5, (path, None if isinstance(value, h5py.File) else value.name)


def open_hdf5(path: str, name: str | None) -> Any:
    """Open a file read-only and return it, or the object `name` in it."""
    import h5py

    # The caller may have it open for writing, and keep others out by a lock.
    file = h5py.File(path, "r", locking=False)
    return file if name is None else file[name]


def load_hdf5(path: str, group: str) -> dict[str, Any]:
    """Return the datasets of a group as arrays, strings as str, by their names.

    Parameters
    ----------
    path, group : str
        The file, and the group in it.

    Raises
    ------
    InputError
        There is no such group, it holds no datasets, or the file is not an HDF5 file.
    """
    import h5py

    try:
        with h5py.File(path, "r", locking=False) as file:
            found = file.get(group)
            if not isinstance(found, h5py.Group):
                names = ", ".join(file) or "nothing"
                raise InputError(f"{path} has no group {group!r}; in its root are: {names}")
            values = {key: _read(each) for key, each in found.items() if _is_dataset(each)}
            inner = [key for key, each in found.items() if isinstance(each, h5py.Group)]
    except OSError as error:
        raise InputError(f"{path} cannot be read as an HDF5 file: {error}") from None
    if not values and inner:
        shown = ", ".join(f"{path}:{group.rstrip('/')}/{key}" for key in inner[:5])
        raise InputError(f"{path}:{group} holds groups and no datasets; name one: {shown}")
    return values


def _is_dataset(value: Any) -> bool:
    import h5py

    return isinstance(value, h5py.Dataset)


def _read(dataset: Any) -> Any:
    import h5py

    if isinstance(dataset.shape, type(None)):
        return None
    if h5py.check_string_dtype(dataset.dtype) is not None:
        return dataset.asstr()[()]
    return dataset[()]
