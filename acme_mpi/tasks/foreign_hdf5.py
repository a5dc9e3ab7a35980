"""What datasets of MATLAB's and netCDF's files mean: both are HDF5 with conventions of their own.

MATLAB (`save -v7.3`) stores arrays with their axes in the opposite order, text as numbers, and what
is empty as its size; it says so in attributes ``MATLAB_*``. netCDF-4 has dimensions that are no
variables, packed numbers, and numbers that stand for missing ones (NUG, Attribute Conventions).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from acme_mpi.errors import InputError

MATLAB, NETCDF = (".mat",), (".nc", ".nc4")

# Why a file with such an ending may be no HDF5 file.
OLDER_FORMATS = {
    MATLAB: "MAT-files before version 7.3 are none; in MATLAB: save('args.mat', ..., '-v7.3')",
    NETCDF: "netCDF-3 files are none; convert it: nccopy -k nc4 old.nc new.nc",
}

# MATLAB's name of what a dataset holds, where that is not the numbers that lie in it.
_CLASS, _EMPTY = "MATLAB_class", "MATLAB_empty"
_NETCDF_ATTRIBUTES = frozenset(
    {"_FillValue", "missing_value", "scale_factor", "add_offset", "_Unsigned", "dtype"}
)
_NO_VARIABLE = b"This is a netCDF dimension but not a netCDF variable."


def hint_of_format(path: str) -> str:
    """Return why a file may be no HDF5 file though it is called as one."""
    return next((f"; {why}" for ends, why in OLDER_FORMATS.items() if path.endswith(ends)), "")


def is_no_value(name: str, dataset: Any) -> bool:
    """Tell whether something in a file is there for the format alone."""
    mark = dataset.attrs.get("NAME", b"")
    is_bare = isinstance(mark, bytes) and mark.startswith(_NO_VARIABLE)
    return name.startswith("#") or is_bare


def reader_of(dataset: Any) -> Callable[[Any, str], Any] | None:
    """Return ``read(dataset, what)`` for a dataset with conventions; None for any other.

    It raises InputError, which begins with `what`, for what cannot be told.
    """
    if _CLASS in dataset.attrs:
        return _read_matlab
    # Strings of any length have no conventions.
    is_netcdf = dataset.dtype.kind != "O" and not _NETCDF_ATTRIBUTES.isdisjoint(dataset.attrs)
    is_text = dataset.dtype == np.dtype("S1") and dataset.ndim > 0
    return _read_netcdf if is_netcdf or is_text else None


def _read_matlab(dataset: Any, what: str) -> Any:
    kind = _text(dataset.attrs[_CLASS])
    if kind == "cell":
        return _cell(dataset, what)
    if kind == "char":
        return _chars(dataset)
    if kind not in _NUMBERS:
        raise InputError(
            f"{what} is of MATLAB's class {kind}, which is none of numbers, char, or cell; in "
            "MATLAB: cellstr(x) of strings, the fields of an object one by one"
        )
    if dataset.attrs.get(_EMPTY, 0):
        return np.zeros(tuple(int(n) for n in dataset[()]), _NUMBERS[kind])
    values = np.asarray(dataset[()])
    if values.dtype.names == ("real", "imag"):
        values = values["real"] + 1j * values["imag"]
    values = values.astype(_NUMBERS[kind]) if kind == "logical" else values
    return _without_thin_axes(values.T)


_NUMBERS = {
    "double": "f8",
    "single": "f4",
    "logical": "?",
    **{f"{sign}int{n}": f"{sign or 'i'}{n // 8}" for sign in ("", "u") for n in (8, 16, 32, 64)},
}


def _without_thin_axes(values: Any) -> Any:
    """Return a vector with one axis, which in MATLAB has two, and one number without any."""
    if values.ndim == 2 and 1 in values.shape:
        values = values.reshape(-1)
    return values.reshape(()) if values.size == 1 else np.ascontiguousarray(values)


def _chars(dataset: Any) -> Any:
    """Return text: one str, of a matrix of characters a list of its rows."""
    if dataset.attrs.get(_EMPTY, 0):
        return ""
    rows = [row.astype("<u2").tobytes().decode("utf-16-le") for row in np.atleast_2d(dataset[()].T)]
    return rows[0] if len(rows) == 1 else [row.rstrip(" ") for row in rows]


def _cell(dataset: Any, what: str) -> Any:
    """Return the entries of a cell, column after column, as MATLAB numbers them."""
    if dataset.attrs.get(_EMPTY, 0):
        return []
    file = dataset.file
    entries = [file[reference] for reference in np.ravel(dataset[()])]
    if not all(hasattr(entry, "dtype") for entry in entries):
        raise InputError(f"{what} is a cell that holds structs; store their fields one by one")
    values = [_read_matlab(entry, f"an entry of {what}") for entry in entries]
    return [value[()] if isinstance(value, np.ndarray) else value for value in values]


def _read_netcdf(dataset: Any, what: str) -> Any:
    values, attrs = np.asarray(dataset[()]), dataset.attrs
    if values.dtype == np.dtype("S1") and values.ndim:
        texts = np.ascontiguousarray(values).view(f"S{values.shape[-1]}")[..., 0]
        return np.char.decode(texts, "utf-8").astype(object)[()]
    missing = np.zeros(values.shape, bool)
    for name in ("_FillValue", "missing_value"):
        if name in attrs:
            missing |= np.isin(values, attrs[name])
    if _is_said(attrs, "_Unsigned", "true") and values.dtype.kind == "i":
        values = values.view(f"u{values.dtype.itemsize}")
    if _is_said(attrs, "dtype", "bool") and values.dtype.kind == "i":  # xarray's own convention
        values = values.astype(bool)
    scale, offset = (
        np.ravel(attrs.get(name, neutral))[0]
        for name, neutral in (("scale_factor", 1), ("add_offset", 0))
    )
    if scale != 1 or offset != 0:
        values = values * float(scale) + float(offset)
    if missing.any() and values.dtype.kind not in "fc":
        first = tuple(map(int, np.argwhere(missing)[0]))
        raise InputError(
            f"{what} has missing values, first at {first}, and integers have none; store it as "
            "float, which has NaN"
        )
    return np.where(missing, np.nan, values).astype(values.dtype) if missing.any() else values


def _is_said(attrs: Any, name: str, word: str) -> bool:
    return name in attrs and _text(attrs[name]).lower() == word


def _text(value: Any) -> str:
    return value.decode() if isinstance(value, bytes) else str(value)
