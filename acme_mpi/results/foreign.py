"""Values of other libraries, stored as arrays with names, from which equal ones are made again.

Masked arrays of NumPy, Series and DataFrames of pandas, DataArrays and Datasets of xarray: of just
these classes. pandas and xarray are not imported before a value, or a note, speaks of them.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Mapping
from functools import lru_cache
from typing import Any

import numpy as np

from acme_mpi.results import of_pandas, of_xarray
from acme_mpi.results.apart import VERSION, Apart, Note, array_of
from acme_mpi.results.convert import Array, ResultError

NOTE = "acme_mpi"  # attribute of the group with the arrays


def take_apart(value: Any) -> Apart | None:
    """Return the arrays of a value, and a note of what they were; None if it is of no such class.

    Raises
    ------
    ResultError
        Not all of it can be kept.
    """
    kind: Any = type(value)
    take = _taker(kind)
    return None if take is None else take(value)


def restore(text: str, arrays: Mapping[str, Array]) -> Any:
    """Return a value that is equal to the one that was taken apart.

    Parameters
    ----------
    text : str
        The note, from `Apart.text`: the attribute `NOTE` of the group.
    arrays : mapping of str to ndarray
        What lies in the group, by name; strings as objects.

    Raises
    ------
    ValueError
        It was written by a later version, or is no such note.
    ImportError
        The library is not there.
    """
    note = json.loads(text)
    if not isinstance(note, dict):
        raise ValueError("its note is none")
    kind = note.get("class")
    if note.get("version") != VERSION or kind not in _MADE:
        raise ValueError(f"a {kind} as a later version of acme_mpi stores it")
    return _MADE[kind](note, arrays)


@lru_cache(maxsize=256)
def _taker(kind: type) -> Callable[[Any], Apart] | None:
    if kind is np.ma.MaskedArray:
        return _masked_apart
    for library, name, take in _TAKEN:
        if kind is getattr(sys.modules.get(library), name, None):
            return take
    return None


def _masked_apart(value: Any) -> Apart:
    if value.dtype.names or value.dtype.kind == "O":
        raise ResultError(f"a masked array of dtype {value.dtype}; return its .data and .mask")
    apart = Apart("numpy.ma.MaskedArray")
    apart.note["values"] = apart.add("values", value.data)
    if value.mask is not np.ma.nomask:
        apart.note["mask"] = apart.add("mask", value.mask)
    apart.note["fill_value"] = apart.add("fill_value", np.asarray(value.fill_value))
    apart.note["is_hard"] = bool(value.hardmask)
    return apart


def _masked_of(note: Note, arrays: Mapping[str, Array]) -> Any:
    values = array_of(note["values"], arrays)
    mask = array_of(note["mask"], arrays) if "mask" in note else np.ma.nomask
    fill_value = array_of(note["fill_value"], arrays)[()]
    again: Any = np.ma.MaskedArray  # its annotations know no mask that is none
    return again(values, mask, fill_value=fill_value, hard_mask=note["is_hard"])


_TAKEN: tuple[tuple[str, str, Callable[[Any], Apart]], ...] = (
    ("pandas", "Series", of_pandas.series_apart),
    ("pandas", "DataFrame", of_pandas.frame_apart),
    ("xarray", "DataArray", of_xarray.array_apart),
    ("xarray", "Dataset", of_xarray.dataset_apart),
)
_MADE: dict[Any, Callable[[Note, Mapping[str, Array]], Any]] = {
    "numpy.ma.MaskedArray": _masked_of,
    "pandas.Series": of_pandas.series_of,
    "pandas.DataFrame": of_pandas.frame_of,
    "xarray.DataArray": of_xarray.array_of_note,
    "xarray.Dataset": of_xarray.dataset_of_note,
}
