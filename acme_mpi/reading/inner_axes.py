"""The axes that results of xarray bring along: names, and coordinates that all tasks share."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

import numpy as np

from acme_mpi.reading.recorded import Array
from acme_mpi.results.apart import Note, array_of

Shapes = Mapping[str, tuple[int, ...]]


class Said(NamedTuple):
    """What xarray knew of one array.

    Attributes
    ----------
    dims : tuple of str
        The names of its axes.
    name : str
        What a coordinate is called where it belongs; empty for data.
    dtype : str
        Of a coordinate, before it was stored.
    """

    dims: tuple[str, ...]
    name: str = ""
    dtype: str = ""


class Inner(NamedTuple):
    """The inner axes of the arrays of a run.

    Attributes
    ----------
    dims : dict of str to tuple of str
        Of each array of xarray; an axis whose name cannot be kept is ``<array>_axis_<k>``.
    coordinates : dict of str to (tuple of str, ndarray)
        Those that all tasks share: axes and values.
    parts : set of str
        The arrays that are these coordinates.
    """

    dims: dict[str, tuple[str, ...]]
    coordinates: dict[str, tuple[tuple[str, ...], Array]]
    parts: set[str]


class Agreed:
    """What the notes of all tasks say alike of their arrays."""

    def __init__(self) -> None:
        self._last: str | None = None
        self.said: dict[str, Said] = {}

    def meet(self, note: str) -> None:
        """Take the note of one more task; empty if it has none."""
        if note == self._last:
            return
        found = _said(note) if note else {}
        if self._last is not None:
            found = {part: each for part, each in self.said.items() if found.get(part) == each}
        self._last, self.said = note, found


def _said(note: str) -> dict[str, Said]:
    """Return what a note says of arrays, by their names; nothing if it is damaged."""
    try:
        return dict(_of_value(json.loads(note)))
    except (AttributeError, KeyError, TypeError, ValueError):
        return {}


def _of_value(note: Note) -> Iterator[tuple[str, Said]]:
    for each in note["values"] if note["class"] == "several" else [note]:
        if not each.get("class", "").startswith("xarray."):
            continue
        parts = each.get("parts", {})
        for said in (*each["data"], *each["coords"]):
            part = parts.get(said["part"], said["part"])
            is_own = said in each["coords"]
            if all(isinstance(dim, str) for dim in said["dims"]):
                name, dtype = (str(said["name"]), said["dtype"]) if is_own else ("", "")
                yield part, Said(tuple(said["dims"]), name, dtype)


def inner_axes(said: Mapping[str, Said], shapes: Shapes, values: Mapping[str, Array]) -> Inner:
    """Return the names of inner axes, and coordinates of them.

    Parameters
    ----------
    said : mapping of str to Said
        Of arrays, what all tasks say alike.
    shapes : mapping of str to tuple of int
        Of all arrays, the shape of one task's.
    values : mapping of str to ndarray
        Of coordinates, where they are the same in all tasks.
    """
    fitting = {part: each for part, each in said.items() if _fits(each, shapes.get(part))}
    shared = dict(_shared(fitting, values))
    while True:
        parts = {part for part, each in fitting.items() if each.name in shared}
        others = set(shapes) - parts
        names = _names(fitting, shapes) - others
        kept = {
            name: each
            for name, each in shared.items()
            if name not in others and names.issuperset(each[0])
        }
        if len(kept) == len(shared):
            break
        shared = kept
    dims = {
        part: tuple(dim if dim in names else f"{part}_axis_{k}" for k, dim in enumerate(each.dims))
        for part, each in fitting.items()
    }
    return Inner(dims, shared, parts)


def _fits(said: Said, shape: tuple[int, ...] | None) -> bool:
    return shape is not None and len(shape) == len(said.dims)


def _names(said: Mapping[str, Said], shapes: Shapes) -> set[str]:
    """Return the names of axes that have one length everywhere."""
    lengths: dict[str, set[int]] = {}
    for part, each in said.items():
        for dim, length in zip(each.dims, shapes[part], strict=True):
            lengths.setdefault(dim, set()).add(length)
    return {dim for dim, found in lengths.items() if len(found) == 1}


def _shared(
    said: Mapping[str, Said], values: Mapping[str, Array]
) -> Iterator[tuple[str, tuple[tuple[str, ...], Array]]]:
    """Yield coordinates of which there is one in all tasks, and in all values of a task."""
    by_name: dict[str, list[str]] = {}
    for part, each in said.items():
        if each.name:
            by_name.setdefault(each.name, []).append(part)
    for name, (first, *others) in by_name.items():
        if all(part in values for part in (first, *others)) and all(
            said[part] == said[first] and are_equal(values[part], values[first]) for part in others
        ):
            array = array_of({"part": first, "dtype": said[first].dtype}, values)
            yield name, (said[first].dims, array)


def are_equal(one: Array | None, other: Array | None) -> bool:
    """Tell whether two arrays as files hold them are the same; NaN is equal to NaN."""
    if one is None or other is None:
        return one is other
    return one.dtype == other.dtype and np.array_equal(one, other, equal_nan=one.dtype.kind in "fc")


def only_shared(tasks: Iterator[Mapping[str, Any]]) -> dict[str, Array]:
    """Return the arrays that are the same in all tasks.

    Parameters
    ----------
    tasks : iterator of mapping of str to ndarray
        The same names of each task.
    """
    shared = dict(next(tasks, {}))
    for found in tasks:
        shared = {part: each for part, each in shared.items() if are_equal(each, found[part])}
        if not shared:
            break
    return shared
