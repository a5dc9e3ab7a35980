"""Whether a return value brings names for its parts: a dict, a named tuple, a dataclass do.

A named tuple is several values in any case. A dict and a dataclass are, too, if HDF5 can give their
entries these names.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Sequence
from dataclasses import fields, is_dataclass
from functools import lru_cache
from typing import Any, NamedTuple

from acme_mpi.results.convert import ResultError, is_unicode

MAX_NAME_BYTES = 1000  # HDF5 would take more, and nobody could read it

_LINK = re.compile(r"result_(0|[1-9][0-9]*)")


class Named(NamedTuple):
    """Values with names, in their order.

    Attributes
    ----------
    names : tuple of str
        Each is there once.
    values : sequence
        As many.
    """

    names: tuple[str, ...]
    values: Sequence[Any]


def named(value: Any) -> Named | None:
    """Return the entries of a return value with their names; None if it brings no names.

    Raises
    ------
    ResultError
        They cannot be names of datasets, or there are none.
    """
    kind: Any = type(value)
    take = _taker(kind)
    if take is None:
        return None
    names, values = take(value)
    return Named(checked_names(tuple(names)), values)


@lru_cache(maxsize=256)
def _taker(kind: type) -> Callable[[Any], tuple[Collection[Any], Sequence[Any]]] | None:
    """Return what takes the names and the values of an object of a class."""
    if issubclass(kind, dict):
        return lambda value: (value.keys(), list(value.values()))
    names = getattr(kind, "_fields", ())
    if issubclass(kind, tuple) and names and isinstance(names, tuple):
        return lambda value: (names, value)
    if is_dataclass(kind):
        listed = [each.name for each in fields(kind)]
        return lambda value: (listed, [getattr(value, name) for name in listed])
    return None


@lru_cache(maxsize=256)
def checked_names(names: tuple[Any, ...]) -> tuple[str, ...]:
    """Return the names of the results of one task as plain text.

    Raises
    ------
    ResultError
        There are none, or one of them cannot be that of a dataset beside ``result_<k>``, which the
        k-th has besides its own.
    """
    if not names:
        raise ResultError("a dict, or a dataclass, without entries: there is nothing to store")
    for k, name in enumerate(names):
        if fault := _fault_of_name(k, name):
            raise ResultError(f"a result called {name!r:.80}, {fault}; give it another name")
    return tuple(map(str.__str__, names))


def _fault_of_name(k: int, name: Any) -> str:
    """Return why the k-th result cannot be called so, empty if it can."""
    if not isinstance(name, str):
        return f"of type {type(name).__name__}: names of results are strings"
    if not name or name == ".":
        return "which HDF5 does not take for a name"
    if "/" in name or "\0" in name:
        return "and names in HDF5 have neither / nor NUL"
    if not is_unicode(name) or len(name.encode()) > MAX_NAME_BYTES:
        return f"and a name is valid Unicode of at most {MAX_NAME_BYTES} bytes"
    match = _LINK.fullmatch(name)
    if match is not None and match[1] != str(k):
        return f"as which number {match[1]} is known, and this is number {k}"
    return ""
