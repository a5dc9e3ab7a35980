"""Arguments of a command line's function, read from a file.

This runs where user code may run, as a pickle in such a file could be any code. The file may be
damaged, or not be what its name says: whatever the library that reads it raises is one error with
the file's name, and what it holds is compared with the memory that there is before it is read.
"""

from __future__ import annotations

import json
import os
import re
import shlex
import zipfile
from collections import Counter
from collections.abc import Mapping
from typing import Any

import numpy as np

from acme_mpi.errors import InputError
from acme_mpi.spelling import file_did_you_mean
from acme_mpi.tasks.hdf5_arguments import SUFFIXES, load_hdf5
from acme_mpi.tasks.markers import PerTask
from acme_mpi.tasks.unreadable import reason, refuse_if_too_large

Arguments = tuple[list[Any], dict[str, Any]]

STANDARD_INPUT = "-"
TABLES = (".csv", ".tsv", ".parquet")
_NUMBERED = re.compile("arr_(0|[1-9][0-9]{0,5})")
# Others NumPy does not write, and one of them takes what memory its header says.
_COMPRESSIONS = (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED, zipfile.ZIP_BZIP2)


def load_arguments(path: str, allow_pickle: bool, dtypes: Mapping[str, str] = {}) -> Arguments:
    """Return (args, kwargs) of an argument file; 0-d arrays become scalars.

    Parameters
    ----------
    path : str
        ``.npz``, ``.npy``, ``.json``, ``.h5``, ``.mat`` (7.3) or ``.nc`` with an optional
        ``:group``, or a table: ``.csv``, ``.tsv``, ``.parquet``.
    allow_pickle : bool
        Read object arrays of NumPy files.
    dtypes : mapping of str to str
        What columns of a table hold, where that is to be said.

    Raises
    ------
    InputError
        No such file, or nothing in it that can be used, or more than there is memory for.
    """
    path, group = _split_group(path)
    if not os.path.isfile(path):
        raise InputError(
            f"there is no argument file {path!r} (working directory {os.getcwd()})"
            + (_setting_meant(path) or file_did_you_mean(path))
        )
    if dtypes and not path.endswith(TABLES):
        raise InputError(f"--dtype is for tables ({', '.join(TABLES)}), not for {path}")
    if path.endswith(TABLES):
        from acme_mpi.tasks.tables import load_table  # few arguments are tables

        return _split(load_table(path, dtypes))
    if path.endswith(SUFFIXES):
        return _by_name(load_hdf5(path, group), path)
    return _load_json(path) if path.endswith(".json") else _load_numpy(path, allow_pickle)


def load_from_standard_input(data: bytes, dtypes: Mapping[str, str]) -> Arguments:
    """Return (args, kwargs) of a table in the form of a ``.csv`` file; see `load_arguments`."""
    from acme_mpi.tasks.tables import parse_table

    return _split(parse_table(data, "standard input", ",", dtypes))


def _split(columns: Mapping[str, Any]) -> Arguments:
    return [], {name: PerTask(values) for name, values in columns.items()}


def _setting_meant(text: str) -> str:
    name, equals, _ = text.partition("=")
    is_setting = equals and name.isidentifier()
    return f"; a value is given by --set {shlex.quote(text)}" if is_setting else ""


def _split_group(path: str) -> tuple[str, str]:
    """Return (file, group) of ``file.h5:group``; the group is the root by default."""
    file, colon, group = path.rpartition(":")
    return (file, group or "/") if colon and file.endswith(SUFFIXES) else (path, "/")


def _by_name(values: Mapping[str, Any], path: str) -> Arguments:
    """Return (args, kwargs): ``arr_0, arr_1, ...`` are positional."""
    args: dict[int, Any] = {}
    kwargs: dict[str, Any] = {}
    for name, given in values.items():
        value = _as_scalar(given) if isinstance(given, (np.ndarray, np.generic)) else given
        if numbered := _NUMBERED.fullmatch(name):
            args[int(numbered[1])] = value
        else:
            kwargs[name] = value
    if missing := [k for k in range(len(args)) if k not in args]:
        raise InputError(
            f"{path} holds arr_{max(args)} but no arr_{missing[0]}: they are the positional "
            "arguments, from arr_0 on without a gap; give the others the names of their parameters"
        )
    return [args[k] for k in sorted(args)], kwargs


def distinct(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """Return an object of JSON as a dict, if no name is there twice; for `json.loads`.

    RFC 8259, section 4, leaves open what two values of one name mean; Python takes the last one.

    Raises
    ------
    ValueError
        One is.
    """
    found = dict(pairs)
    if len(found) < len(pairs):
        n_times = Counter(name for name, _ in pairs)
        twice = next(name for name, n in n_times.items() if n > 1)
        raise ValueError(f"the name {twice!r} is there twice")
    return found


def _load_json(path: str) -> Arguments:
    """Return the entries of an object by name, or those of an array by position."""
    try:
        with open(path, "rb") as file:
            # In UTF-8, 16 or 32, with a byte-order mark or not.
            loaded = json.loads(file.read(), object_pairs_hook=distinct)
    except RecursionError:
        raise InputError(f"{path} cannot be read as a JSON file: it is nested too deep") from None
    except (ValueError, OSError, MemoryError) as error:
        raise InputError(f"{path} cannot be read as a JSON file: {reason(error)}") from None
    if isinstance(loaded, dict):
        return _by_name(loaded, path)
    if isinstance(loaded, list):
        return loaded, {}
    raise InputError(
        f"{path} has to hold an object, whose names are parameter names, or an array of positional "
        f"arguments, not {type(loaded).__name__}"
    )


def _load_numpy(path: str, allow_pickle: bool) -> Arguments:
    # Whatever is raised by NumPy, zlib, zipfile, tokenize, or what a pickle names.
    try:
        loaded = np.load(path, allow_pickle=allow_pickle)
    except Exception as error:
        raise _unreadable(path, path, error) from None
    if isinstance(loaded, np.ndarray):
        return [_as_scalar(loaded)], {}
    if not isinstance(loaded, np.lib.npyio.NpzFile):
        raise InputError(f"{path} holds a pickled {type(loaded).__name__}, and no arrays")
    values = {}
    with loaded:
        for member in loaded.zip.infolist():  # type: ignore[union-attr]
            name = member.filename.removesuffix(".npy")
            what = f"{name!r} in {path}"
            _check_member(member, what)
            if name in values:
                raise InputError(f"{what} is there twice")
            try:
                values[name] = loaded[member.filename]
            except Exception as error:
                raise _unreadable(what, path, error) from None
            if not isinstance(values[name], np.ndarray):
                raise InputError(f"{what} is no array")
    return _by_name(values, path)


def _check_member(member: zipfile.ZipInfo, what: str) -> None:
    if member.compress_type not in _COMPRESSIONS:
        raise InputError(
            f"{what} cannot be read: its compression ({member.compress_type}) is none of NumPy's"
        )
    refuse_if_too_large(member.file_size, what)


def _unreadable(what: str, path: str, error: Exception) -> InputError:
    is_none = "allow_pickle" in str(error) or isinstance(error, EOFError | zipfile.BadZipFile)
    if is_none and not path.endswith((".npz", ".npy")):
        kinds = ", ".join((".npz", ".npy", *SUFFIXES, ".json", *TABLES))
        return InputError(f"{path} is not a file of arguments ({kinds})")
    if "allow_pickle" in str(error):
        return InputError(
            f"{what} holds pickled objects, and a pickle can run any code when it is read; "
            "if you trust the file, say --allow-pickle"
        )
    return InputError(f"{what} cannot be read as a NumPy file (.npz or .npy): {reason(error)}")


def _as_scalar(value: Any) -> Any:
    if value.ndim:
        return value
    if value.dtype in (np.bool_, np.int64, np.float64, np.complex128) or value.dtype.kind in "UO":
        return value.item()
    return value[()]
