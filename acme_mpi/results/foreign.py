"""Values of other libraries, stored as arrays with names, from which equal ones are made again.

Masked arrays of NumPy, Series and DataFrames of pandas, DataArrays and Datasets of xarray: of just
these classes, alone or among several values. pandas and xarray are not imported before a value, or
a note, speaks of them.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Mapping, Sequence
from functools import lru_cache
from typing import Any

import numpy as np

from acme_mpi.results import of_pandas, of_xarray
from acme_mpi.results.apart import VERSION, Apart, Note, array_of
from acme_mpi.results.convert import Array, Part, ResultError
from acme_mpi.results.named import checked_names

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
    if take is None:
        return None
    apart = take(value)
    if not apart.arrays:  # of what is empty the note tells all
        apart.arrays["values"] = None
    return apart


def is_foreign(value: Any) -> bool:
    """Tell whether a value is of a class that is taken apart."""
    kind: Any = type(value)
    return _taker(kind) is not None


def taken_together(names: Sequence[str], values: Sequence[Apart | Part]) -> Apart:
    """Return the arrays of several values, of which some were taken apart.

    The k-th array belongs to the k-th value, and is its data; further ones come behind all of them.

    Parameters
    ----------
    names : sequence of str
        Of the values; empty if they have none.
    values : sequence of Apart or Part
        As many.

    Raises
    ------
    ResultError
        The arrays cannot be called as they should be.
    """
    called = names or [f"result_{k}" for k in range(len(values))]
    together, further = Apart("several"), dict[str, Part]()
    notes: list[Note] = []
    for name, value in zip(called, values, strict=True):
        if not isinstance(value, Apart):
            together.arrays[name] = value
            notes.append({"part": name})
            continue
        taken = {*called, *together.arrays, *further}
        parts = _called(value, name, taken)
        first, *others = parts
        together.arrays[parts[first]] = value.arrays[first]
        further.update({parts[own]: value.arrays[own] for own in others})
        notes.append({"class": value.kind, **value.note, "parts": parts})
    together.arrays.update(further)
    checked_names(tuple(together.arrays))
    together.note.update(names=list(names) or None, values=notes)
    return together


def _called(value: Apart, name: str, taken: set[str]) -> dict[str, str]:
    """Return what the arrays of one of several values are called, by their own names."""
    parts: dict[str, str] = {}
    for own in value.arrays:
        is_value = not parts and value.kind not in _OF_COLUMNS
        # With a dot it is none of the names by which others are known.
        full = name if is_value else f"{name}.{own}"
        while not is_value and full in taken:
            full += "_"
        parts[own] = full
        taken.add(full)
    return parts


def plain_value(part: Part) -> Any:
    """Return what a part is to its reader: of an array without axes the scalar in it."""
    return part[()] if isinstance(part, np.ndarray) and part.ndim == 0 else part


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
    fill_value: Any = array_of(note["fill_value"], arrays)[()]
    if fill_value == np.ma.default_fill_value(values.dtype):
        fill_value = None  # the default for short strings is longer than these
    again: Any = np.ma.MaskedArray  # its annotations know no mask that is none
    return again(values, mask, fill_value=fill_value, hard_mask=note["is_hard"])


def _several_of(note: Note, arrays: Mapping[str, Array]) -> Any:
    values = [_one_of_several(each, arrays) for each in note["values"]]
    names = note["names"]
    return tuple(values) if names is None else dict(zip(names, values, strict=True))


def _one_of_several(note: Note, arrays: Mapping[str, Array]) -> Any:
    if "class" not in note:
        return plain_value(arrays[note["part"]])
    own = {name: arrays[full] for name, full in note["parts"].items()}
    return _MADE[note["class"]](note, own)


_OF_COLUMNS = ("pandas.DataFrame", "xarray.Dataset")  # whose arrays all have names of their own
_TAKEN: tuple[tuple[str, str, Callable[[Any], Apart]], ...] = (
    ("numpy.ma", "MaskedArray", _masked_apart),
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
    "several": _several_of,
}
