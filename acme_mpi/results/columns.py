"""Which of the values that a task returns become its rows."""

from __future__ import annotations

from typing import Any

import numpy as np

from acme_mpi.results.convert import ResultError
from acme_mpi.results.named import named
from acme_mpi.results.parts import is_several, what_it_is
from acme_mpi.results.spec import MisfitError, RowSpec

_SCALARS = (bool, int, float, complex, np.number, np.bool_)


def split(spec: RowSpec, value: Any) -> tuple[list[Any], list[Any]]:
    """Return the values that become rows, one for each column, and all others.

    Raises
    ------
    MisfitError
        They are not those that the form has.
    ResultError
        They have names, and the form is of one array without any.
    """
    names = spec.names
    found = named(value)
    if names and found is not None:
        if {*found.names} != {*names}:
            got = ", ".join(found.names)
            raise MisfitError(f"expected results called {', '.join(names)}, got {got}")
        by_name = dict(zip(found.names, found.values, strict=True))
        return [by_name[name] for name in names], []
    if not spec.further:
        if found is not None and not isinstance(value, tuple):
            names_told = ", ".join(found.names)
            raise ResultError(
                f"a {type(value).__name__} of {names_told}, and `result_shape` is that of one "
                f"array; name the shape of each: {{{found.names[0]!r}: (None, ...), ...}}"
            )
        first, *rest = value if _is_row_and_more(spec, value) else (value,)
        return [first], rest
    if not names:
        return _split_unnamed(spec, value)
    if not isinstance(value, tuple) or len(value) != len(names):
        raise MisfitError(
            f"expected a dict, or a tuple, of {', '.join(names)}, got {what_it_is(value)}"
        )
    return list(value), []


def _split_unnamed(spec: RowSpec, value: Any) -> tuple[list[Any], list[Any]]:
    entries, n = list(value) if is_several(value) else [value], len(spec.columns)
    if len(entries) < n:
        raise MisfitError(f"expected {n} results or more, got {what_it_is(value)}")
    return entries[:n], entries[n:]


def _is_row_and_more(spec: RowSpec, value: Any) -> bool:
    """Tell whether a return value is several, of which the first is the row.

    Where rows have axes a tuple of numbers alone is one row.
    """
    if not isinstance(value, tuple) or not value:
        return False
    return not spec.shape or not all(isinstance(e, _SCALARS) for e in value)
