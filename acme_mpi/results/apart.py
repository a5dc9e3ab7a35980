"""A value of another library taken apart: named arrays, and a note of what they were together.

The note is what JSON holds. It says version, class, and of each array what HDF5 does not keep: its
dtype, where that was another one, and a mask beside it.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

import numpy as np

from acme_mpi.results.convert import Array, Part, ResultError, to_array
from acme_mpi.results.named import checked_names

VERSION = 1
MAX_NOTE_BYTES = 60_000  # of an attribute, which HDF5 holds up to 64 KiB

Note = dict[str, Any]


class Apart:
    """Collects the arrays of one value.

    Parameters
    ----------
    kind : str
        The class of the value, with its library.

    Attributes
    ----------
    kind : str
        As given.
    arrays : dict of str to Part
        In the order in which they were added.
    note : dict
        What is to be said of the value besides its class.
    """

    def __init__(self, kind: str) -> None:
        self.kind, self.arrays = kind, dict[str, Part]()
        self.note: Note = {}

    def add(self, name: Any, array: Any) -> Note:
        """Add an array; return where it is and what it was.

        Parameters
        ----------
        name : object
            It is called so, or similarly if that is taken already.
        array : ndarray
            Numbers, booleans, strings or times.

        Raises
        ------
        ResultError
            HDF5 cannot hold it, or it cannot be called so.
        """
        if isinstance(name, str) and name.startswith("result_"):
            name = f"_{name}"  # numbers are what arrays are known by besides their names
        (name,) = checked_names((name,))
        while name in self.arrays:
            name = f"{name}_"
        dtype = array.dtype.str
        # Times are counted; that of which they are numbers is in the dtype.
        self.arrays[name] = to_array(array.view("i8") if array.dtype.kind in "mM" else array)
        return {"part": name, "dtype": dtype}

    def text(self) -> str:
        """Return the note as text.

        Raises
        ------
        ResultError
            It is too long.
        """
        text = json.dumps({"version": VERSION, "class": self.kind, **self.note})
        if len(text) > MAX_NOTE_BYTES:
            raise ResultError(
                f"a {self.kind} of which there is too much to say: {len(text)} characters of "
                f"{MAX_NOTE_BYTES}; return the arrays in it"
            )
        return text


def array_of(note: Note, arrays: Mapping[str, Array]) -> Array:
    """Return an array as it was when `Apart.add` has returned the note."""
    array, dtype = np.asarray(arrays[note["part"]]), np.dtype(note["dtype"])
    if dtype.kind in "mM":
        return array.view(dtype)
    return array if array.dtype == dtype else array.astype(dtype)


def plain(value: Any) -> Any:
    """Return what stands in a note for a label or an attribute; `from_plain` gives it back.

    Raises
    ------
    ResultError
        It is none of: None, bool, int, float, str, NumPy's numbers, arrays of numbers, and lists
        and dicts of these.
    """
    kind = type(value)
    if value is None or kind in (bool, int, float, str):
        return value
    if kind is list:
        return [plain(each) for each in value]
    if kind is dict and all(type(key) is str for key in value):
        return {"dict": {key: plain(each) for key, each in value.items()}}
    if isinstance(value, np.generic) and value.dtype.kind in "biuf":
        return {"number": value.item(), "dtype": value.dtype.str}
    if kind is np.ndarray and value.dtype.kind in "biuf":
        return {"array": value.tolist(), "dtype": value.dtype.str}
    raise ResultError(
        f"a label or attribute of type {kind.__name__}, which is not kept: {value!r:.80}"
    )


def from_plain(said: Any) -> Any:
    """Return the value for which something stands in a note."""
    if isinstance(said, list):
        return [from_plain(each) for each in said]
    if not isinstance(said, dict):
        return said
    if "dict" in said:
        return {key: from_plain(each) for key, each in said["dict"].items()}
    if "array" in said:
        return np.array(said["array"], said["dtype"])
    return np.dtype(said["dtype"]).type(said["number"])
