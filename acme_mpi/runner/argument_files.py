"""Arguments of a command line's function, read from a file.

This runs where user code may run, as a pickle in such a file could be any code.
"""

from __future__ import annotations

import json
import os
import pickle
import zipfile
from collections.abc import Mapping
from typing import Any

import numpy as np

from acme_mpi.errors import InputError
from acme_mpi.runner.hdf5_arguments import SUFFIXES, load_hdf5

Arguments = tuple[list[Any], dict[str, Any]]


def load_arguments(path: str, allow_pickle: bool) -> Arguments:
    """Return (args, kwargs) of an argument file; 0-d arrays become scalars.

    Parameters
    ----------
    path : str
        ``.npz``, ``.npy``, ``.json``, or ``.h5`` with an optional ``:group``.
    allow_pickle : bool
        Read object arrays of NumPy files.

    Raises
    ------
    InputError
        No such file, or nothing in it that can be used.
    """
    path, group = _split_group(path)
    if not os.path.isfile(path):
        raise InputError(f"there is no argument file {path!r} (working directory {os.getcwd()})")
    if path.endswith(SUFFIXES):
        return _by_name(load_hdf5(path, group))
    return _load_json(path) if path.endswith(".json") else _load_numpy(path, allow_pickle)


def _split_group(path: str) -> tuple[str, str]:
    """Return (file, group) of ``file.h5:group``; the group is the root by default."""
    file, colon, group = path.rpartition(":")
    return (file, group or "/") if colon and file.endswith(SUFFIXES) else (path, "/")


def _by_name(values: Mapping[str, Any]) -> Arguments:
    """Return (args, kwargs): ``arr_0, arr_1, ...`` are positional."""
    args: dict[int, Any] = {}
    kwargs: dict[str, Any] = {}
    for name, given in values.items():
        value = _as_scalar(given) if isinstance(given, (np.ndarray, np.generic)) else given
        number = name.removeprefix("arr_")
        if name.startswith("arr_") and number.isdigit():
            args[int(number)] = value
        else:
            kwargs[name] = value
    return [args[k] for k in sorted(args)], kwargs


def _load_json(path: str) -> Arguments:
    """Return the entries of an object by name, or those of an array by position."""
    try:
        with open(path, encoding="utf-8") as file:
            loaded = json.load(file)
    except (ValueError, OSError) as error:
        raise InputError(f"{path} cannot be read as a JSON file: {error}") from None
    if isinstance(loaded, dict):
        return _by_name(loaded)
    if isinstance(loaded, list):
        return loaded, {}
    raise InputError(
        f"{path} has to hold an object, whose names are parameter names, or an array of positional "
        f"arguments, not {type(loaded).__name__}"
    )


def _load_numpy(path: str, allow_pickle: bool) -> Arguments:
    try:
        loaded = np.load(path, allow_pickle=allow_pickle)
    except (ValueError, OSError, EOFError, zipfile.BadZipFile, pickle.UnpicklingError) as error:
        raise _unreadable(path, path, error) from None
    if isinstance(loaded, np.ndarray):
        return [_as_scalar(loaded)], {}
    values = {}
    with loaded:
        for name in loaded.files:
            try:
                values[name] = loaded[name]
            except (ValueError, OSError, zipfile.BadZipFile, pickle.UnpicklingError) as error:
                raise _unreadable(f"{name!r} in {path}", path, error) from None
    return _by_name(values)


def _unreadable(what: str, path: str, error: Exception) -> InputError:
    if "allow_pickle" in str(error):
        if not path.endswith((".npz", ".npy")):
            return InputError(f"{path} is not a file of arguments (.npz, .npy, .h5 or .json)")
        return InputError(
            f"{what} holds pickled objects, and a pickle can run any code when it is read; "
            "if you trust the file, say --allow-pickle"
        )
    return InputError(f"{what} cannot be read as a NumPy file (.npz or .npy): {error}")


def _as_scalar(value: Any) -> Any:
    if value.ndim:
        return value
    if value.dtype in (np.bool_, np.int64, np.float64, np.complex128) or value.dtype.kind in "UO":
        return value.item()
    return value[()]
