"""Take a return value to its parts, which all tasks of a run call by the same names."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from acme_mpi.results.convert import Part, ResultError, to_array
from acme_mpi.results.named import named
from acme_mpi.results.parts import PLAIN_VALUES, is_several, to_parts
from acme_mpi.results.spec import MisfitError

# agree(names) -> the names that the results of the run have
Agree = Callable[[tuple[str, ...]], tuple[str, ...]]

# What is returned the most often, without names.
_NAMELESS: frozenset[type] = frozenset(
    {*PLAIN_VALUES, tuple, list, bytes, np.ndarray, np.float64, np.float32, np.int64, np.bool_}
)


class _NamesDiffer(ResultError):
    """The names are not those of the other tasks; whoever may pickle it does."""

    @property
    def told(self) -> str:
        return str(self)


class Naming:
    """The names of the results of a run.

    Parameters
    ----------
    wanted : tuple of str
        What the user calls the results of a task; empty: the first one with names decides.
    agree : callable, optional
        ``agree(names)``: asked once for the names of the run's results; default these.
    """

    def __init__(self, wanted: tuple[str, ...] = (), agree: Agree | None = None) -> None:
        self._wanted, self._agree = wanted, agree
        self._agreed: tuple[str, ...] = ()

    def parts_of(self, value: Any) -> tuple[tuple[str, ...], list[Part], str]:
        """Return names, if there are any, parts, and a note, if there is one, of a return value.

        Raises
        ------
        MisfitError, ResultError
            HDF5 cannot hold the value, or its names are others.
        """
        if type(value) in _NAMELESS and not self._wanted:
            try:
                return (), to_parts(value), ""
            except ResultError:
                if not _are_some_foreign(_entries(value)):
                    raise
        from acme_mpi.results.apart import Apart  # most results are numbers and arrays
        from acme_mpi.results.foreign import take_apart, taken_together

        apart = None if self._wanted else take_apart(value)
        if apart is None:
            names, parts = self._names_and_parts(value)
            if not any(isinstance(each, Apart) for each in parts):
                return names, parts, ""
            apart = taken_together(names, parts)
        return tuple(apart.arrays), list(apart.arrays.values()), apart.text()

    def _names_and_parts(self, value: Any) -> tuple[tuple[str, ...], list[Part]]:
        """Return names, if there are any, and parts; some of them may be taken apart."""
        found = named(value)
        names, values = (self._wanted, value) if found is None else (found.names, found.values)
        entries = _entries(value) if found is None else list(values)
        if _are_some_foreign(entries):
            from acme_mpi.results.foreign import take_apart

            parts = [take_apart(each) or to_array(each) for each in entries]
        elif found is None:
            parts = to_parts(value)
        else:
            parts = [_named_array(name, each) for name, each in zip(names, entries, strict=True)]
        if names and len(entries) != len(names):
            called = ", ".join(names)
            raise MisfitError(f"expected {len(names)} result(s), {called}; got {len(entries)}")
        return self._in_order(names, parts) if names and names != self._agreed else (names, parts)

    def _in_order(
        self, names: tuple[str, ...], parts: list[Part]
    ) -> tuple[tuple[str, ...], list[Part]]:
        if not self._agreed:
            proposed = self._wanted or names
            self._agreed = proposed if self._agree is None else self._agree(proposed)
        if set(names) == set(self._agreed):
            return self._agreed, [parts[names.index(name)] for name in self._agreed]
        error = MisfitError if self._wanted else _NamesDiffer
        raise error(_other_names(names, self._agreed, bool(self._wanted)))


def _entries(value: Any) -> list[Any]:
    """Return the values that a return value without names is."""
    return list(value) if is_several(value) else [value]


def _are_some_foreign(entries: list[Any]) -> bool:
    from acme_mpi.results.foreign import is_foreign  # most results are numbers and arrays

    return any(map(is_foreign, entries))


def _named_array(name: str, value: Any) -> Part:
    try:
        return to_array(value)
    except ResultError as error:
        raise ResultError(f"{error} (result {name!r})") from None


def _other_names(names: tuple[str, ...], agreed: tuple[str, ...], are_wanted: bool) -> str:
    """Return what is wrong with the names of a task's results."""
    missing = [name for name in agreed if name not in names]
    unknown = [name for name in names if name not in agreed]
    told = [("missing: ", missing), ("not expected: ", unknown)]
    differences = "; ".join(words + ", ".join(each) for words, each in told if each)
    origin = "" if are_wanted else ", as the first that ended: all tasks of a run have the same"
    return f"expected results called {', '.join(agreed)}{origin}; {differences}"
