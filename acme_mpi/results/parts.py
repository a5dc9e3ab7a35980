"""The parts of one return value: arrays that HDF5 can hold, with their names.

Without a result shape a return value becomes *parts*, ``result_0, result_1, ...``: a tuple has one
part per entry, as has a list that holds anything but scalars, and a value whose entries have names,
which go along; all else is a single part.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

from acme_mpi.results.convert import Part, to_array

# What a task has: a list of parts, or a `NamedParts`, or a plain number that stands for
# [array([number])], or bytes: a pickle of all that it returned.
Parts = Any


# From this size on a result does not travel through the channel: the runner writes it in place.
PLACED_BYTES = 64 * 1024


def to_parts(value: Any) -> list[Part]:
    """Return the storable parts of one return value, ``result_0`` first.

    A lone scalar or string has shape (1,), a scalar among several values shape ().

    Raises
    ------
    ResultError
        HDF5 cannot hold the value.
    """
    if is_several(value):
        if len(value) == 0:
            return [np.empty(0)]
        return [to_array(entry) for entry in value]
    part = to_array(value)
    if part is not None and part.ndim == 0 and not isinstance(value, np.ndarray):
        return [part.reshape(1)]
    return [part]


def is_several(value: Any) -> bool:
    """Tell whether a return value is several results, and not one array."""
    if isinstance(value, tuple):
        return True
    return isinstance(value, list) and any(
        entry is None or isinstance(entry, (list, tuple, np.ndarray)) for entry in value
    )


def what_it_is(value: Any) -> str:
    """Return what a value is, for a message that says what came instead of something else."""
    if value is None:
        return "None"
    if isinstance(value, np.ndarray):
        return f"an array of {value.dtype}"
    n = f" of {len(value)}" if isinstance(value, tuple) else ""
    return f"a {type(value).__name__}{n}"


class NamedParts(NamedTuple):
    """The parts of one task, which have names.

    Attributes
    ----------
    names : tuple of str
        As many as there are parts.
    parts : list of Part
        In the order of the names.
    note : str
        What they were together, if that was a value of another library: see `results.foreign`.
    """

    names: tuple[str, ...]
    parts: list[Part]
    note: str = ""


def is_placed(part: Part) -> bool:
    """Tell whether the runner has written this part, or row, itself."""
    return isinstance(part, tuple)


def is_pickle(parts: Parts) -> bool:
    """Tell whether a task's result is a pickle."""
    return isinstance(parts, bytes)


def parts_of(parts: Parts) -> list[Part]:
    """Return the parts as a list of arrays; not for a pickle."""
    if isinstance(parts, list):
        return parts
    return parts.parts if isinstance(parts, NamedParts) else [np.array([parts])]


def names_of(parts: Parts) -> tuple[str, ...]:
    """Return the names of the parts, empty if they have none."""
    return parts.names if isinstance(parts, NamedParts) else ()


def note_of(parts: Parts) -> str:
    """Return what the parts were together, empty if they were nothing else."""
    return parts.note if isinstance(parts, NamedParts) else ""


def with_note(parts: list[Part], note: str) -> list[Part]:
    """Return what a task is known by again: its parts, and what they were together as another."""
    return [*parts, np.array(note, object)] if note else parts


PLAIN_NUMBERS: frozenset[type] = frozenset({int, float, bool, complex})


PLAIN_VALUES: frozenset[type] = PLAIN_NUMBERS | {type(None), str}


NUMPY_NUMBERS: frozenset[type] = frozenset(
    np.dtype(code).type for code in "?" + np.typecodes["AllInteger"] + np.typecodes["AllFloat"]
)


# Types whose values are no more than what they look like.
PLAIN: frozenset[type] = frozenset({*PLAIN_VALUES, bytes})
