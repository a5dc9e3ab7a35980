"""HDF5 files as arguments: open ones travel as their names, and a file can name all arguments.

h5py is imported where a file is opened, so that runners without such arguments start without it.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from typing import Any

from acme_mpi.errors import InputError
from acme_mpi.tasks.foreign_hdf5 import MATLAB, NETCDF, hint_of_format, is_no_value, reader_of
from acme_mpi.tasks.unreadable import reason, refuse_if_too_large

SUFFIXES = (".h5", ".hdf5", *MATLAB, *NETCDF)


def reduce_hdf5(value: Any) -> tuple[Callable[..., Any], tuple[Any, ...]] | None:
    """Return how an open h5py file, group or dataset is pickled: reopened, read-only, by its name.

    Returns
    -------
    tuple or None
        As ``__reduce__``; None if `value` is nothing of h5py's.

    Raises
    ------
    InputError
        It is closed, or nothing that another process can open.
    """
    h5py = sys.modules.get("h5py")
    if h5py is None:
        return None
    if isinstance(
        value, (h5py.AttributeManager, h5py.h5f.FileID, h5py.h5g.GroupID, h5py.h5d.DatasetID)
    ):
        raise InputError(
            f"an argument is an {type(value).__module__}.{type(value).__name__}, which other "
            "processes cannot open; give the h5py.File, Group or Dataset that it belongs to"
        )
    if not isinstance(value, (h5py.File, h5py.Group, h5py.Dataset)):
        return None
    path = _path_for_others(value, f"an argument is an h5py.{type(value).__name__}")
    # Not `value.name`: behind links that is a name in another file.
    is_file = isinstance(value, h5py.File)
    name = None if is_file else h5py.h5r.get_name(value.ref, value.id).decode()
    return open_hdf5, (path, name, bool(value.file.swmr_mode))


def _path_for_others(value: Any, what: str) -> str:
    """Return the path by which another process can open the file that `value` is in."""
    if not value:
        raise InputError(f"{what} of a closed file; open it for the run")
    file = value.file
    path: str = os.path.abspath(file.filename)
    if file.driver == "core" or not os.path.isfile(path):
        raise InputError(
            f"{what} in {file.filename!r}, which other processes cannot open; give its values "
            "([()]), or save the file and open it by its full path"
        )
    if value.name is None:
        raise InputError(f"{what} without a name, which nobody else finds; give its values ([()])")
    if file.mode != "r":
        file.flush()
        # Superblock 3 keeps a mark of the one who writes, and all others out.
        if file.id.get_create_plist().get_version()[0] >= 3 and not file.swmr_mode:
            raise InputError(
                f"{what} in {path}, which is open for writing in the newest format (libver), so "
                "that no other process can read it; close it, or open it with mode 'r', for the run"
            )
    return path


def open_hdf5(path: str, name: str | None, swmr: bool) -> Any:
    """Open a file read-only and return it, or the object `name` in it."""
    import h5py

    _OPENED.append(path)
    try:
        file = h5py.File(path, "r", swmr=swmr)
    except OSError:
        # The caller has it open for writing, and keeps others out by a lock.
        file = h5py.File(path, "r", swmr=swmr, locking=False)
    return file if name is None else file[name]


_OPENED: list[str] = []


def has_opened() -> bool:
    """Tell whether this process has opened files since the last time it was asked."""
    is_any = bool(_OPENED)
    _OPENED.clear()
    return is_any


def load_hdf5(path: str, group: str) -> dict[str, Any]:
    """Return the datasets of a group as arrays, strings as str, by their names.

    Those of MATLAB (``.mat`` of version 7.3) and netCDF-4 come out as these programs mean them.

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
            read = {key: _read_member(found, key, path) for key in found}
    except InputError:
        raise
    except Exception as error:
        why = f"{reason(error)}{hint_of_format(path)}"
        raise InputError(f"{path} cannot be read as an HDF5 file: {why}") from None
    values = {key: value for key, value in read.items() if not isinstance(value, type)}
    inner = [key for key, value in read.items() if value is h5py.Group and key[0] != "#"]
    if not values and inner:
        shown = ", ".join(f"{path}:{group.rstrip('/')}/{key}" for key in inner[:5])
        raise InputError(f"{path}:{group} holds groups and no datasets; name one: {shown}")
    return values


def _read_member(group: Any, key: str, path: str) -> Any:
    """Return the value of a dataset; of anything else its type."""
    import h5py

    what = f"{key!r} in {path}"
    try:
        member = group.get(key)
        if member is None:
            link = group.get(key, getlink=True)
            if isinstance(link, h5py.HardLink):
                raise InputError(f"{what} cannot be read: it is damaged")
            where = f"{getattr(link, 'filename', path)}:{link.path}"
            raise InputError(f"{what} is a link to {where}, which is not there")
        if not isinstance(member, h5py.Dataset) or is_no_value(key, member):
            return type(member)
        return _read(member, what)
    except InputError:
        raise
    except Exception as error:
        raise InputError(f"{what} cannot be read: {reason(error)}") from None


def _read(dataset: Any, what: str) -> Any:
    import h5py

    if dataset.shape is None:
        return None
    refuse_if_too_large(dataset.nbytes, what)
    if (read := reader_of(dataset)) is not None:
        return read(dataset, what)
    if h5py.check_ref_dtype(dataset.dtype) is not None:
        raise InputError(
            f"{what} holds references to other objects, as fields of an array of structs do in "
            "MATLAB; store what they refer to"
        )
    if h5py.check_string_dtype(dataset.dtype) is not None:
        return dataset.asstr()[()]
    return dataset[()]
