"""Values that may hold one item per task: which they are, how their items come, and their words."""

from __future__ import annotations

import io
import itertools
import math
import reprlib
from collections.abc import Collection, Iterator, Mapping
from typing import Any

import numpy as np

from acme_mpi.errors import InputError
from acme_mpi.tasks.grid import GridColumn

PIECE_BYTES = 16 * 1024**2


def is_sequence(value: Any) -> bool:
    """Tell whether a value has one item per task, if it has as many items as there are tasks."""
    kinds = (list, tuple, range, np.ndarray, GridColumn)
    return isinstance(value, kinds) or is_read_by_pieces(value)


def is_read_by_pieces(value: Any) -> bool:
    """Tell whether a value is an array on a medium, such as an `h5py.Dataset`: never read whole."""
    if isinstance(value, (np.ndarray, np.generic)):
        return False
    try:
        return bool(value.shape) and hasattr(value, "dtype") and hasattr(value, "chunks")
    except Exception:  # no array, or one in a closed file
        return False


def read_rows(value: Any, start: int, stop: int) -> Iterator[Any]:
    """Yield the rows [start, stop) of an array on a medium, a few MB at a time."""
    row_bytes = max(1, math.prod(value.shape[1:]) * value.dtype.itemsize)
    n_rows = max(1, PIECE_BYTES // row_bytes)
    for first in range(start, stop, n_rows):
        piece = range(first, min(first + n_rows, stop))
        try:
            rows = value[piece.start : piece.stop]
        except Exception:
            # One row of it cannot be read: only the task of that row shall fail.
            yield from (value[index] for index in piece)
        else:
            yield from rows


def items_as_given(value: Any) -> Any:
    """Return a sequence with the very items of `value`; None if it is an array, or no sequence.

    By way of an array an ``int`` would become an ``np.int64``.
    """
    if isinstance(value, (np.ndarray, str, bytes)):
        return None
    if is_sequence(value):
        return value
    is_numbered = _has_numbered_items(value) and not hasattr(value, "__array__")
    return list(value) if (is_pandas(value) or is_numbered) and _is_flat(value) else None


def _is_flat(value: Any) -> bool:
    """Tell whether a collection has one axis; a memoryview, or pandas' Series, may say so."""
    try:
        return bool(getattr(value, "ndim", 1) == 1)
    except Exception:  # in a file that is closed
        return False


def _has_numbered_items(value: Any) -> bool:
    is_mapping = isinstance(value, Mapping) or hasattr(value, "keys")
    return hasattr(value, "__getitem__") and hasattr(value, "__len__") and not is_mapping


def is_pandas(value: Any, kind: str = "") -> bool:
    """Tell whether a value is of a class, or any class, of pandas, which is not imported."""
    cls = type(value)  # since pandas 3 its modules are called "pandas"
    return cls.__module__.partition(".")[0] == "pandas" and kind in ("", cls.__name__)


def can_be_listed(value: Any) -> bool:
    """Tell whether `value` holds items, is not split as it is, and would be as a list."""
    if isinstance(value, (str, bytes, bytearray)) or is_sequence(value):
        return False
    if isinstance(value, Mapping):  # files are, too
        return isinstance(value, dict)
    return isinstance(value, Collection) and _is_flat(value)


def how_to_list(value: Any) -> str:
    """Return what a value that `can_be_listed` is, and how to have it split."""
    kind = type(value).__name__
    return f"a {kind} of {len(value)}; PerTask(list(x)) gives each task one item of it"


def listed_if_iterator(value: Any) -> Any:
    """Return an iterator's items as a list, anything else as it is.

    Raises
    ------
    InputError
        They have no end.
    """
    if _is_endless(value):
        raise InputError(f"an argument is an endless iterator, {value!r}; give a list or a range")
    # An open file is an iterator, too, but nobody means its lines.
    is_list = isinstance(value, Iterator) and not isinstance(value, io.IOBase)
    return list(value) if is_list else value


def _is_endless(value: Any) -> bool:
    if isinstance(value, itertools.repeat):
        try:
            value.__length_hint__()
        except TypeError:
            return True
    return isinstance(value, (itertools.count, itertools.cycle))


class _ShortRepr(reprlib.Repr):
    def repr1(self, x: Any, level: int) -> str:
        # Of times, item() makes others, or integers.
        is_plain = isinstance(x, np.generic) and x.dtype.kind not in "mM"
        return super().repr1(x.item() if is_plain else x, level)

    def repr_ndarray(self, value: np.ndarray[Any, Any], level: int) -> str:
        if value.size <= 4:
            return repr(value)
        return f"<array {value.shape} {value.dtype}>"


_SHORT = _ShortRepr()
_SHORT.maxstring = _SHORT.maxother = 60


def short_text(value: Any) -> str:
    """Return a value as Python writes it, shortened."""
    return _SHORT.repr(value)


def shape_text(value: Any) -> str:
    """Return what a value is, in a few words."""
    if isinstance(value, np.ndarray):
        return f"array {value.shape} {value.dtype}"
    if isinstance(value, (list, tuple, range)):
        return f"{type(value).__name__} of {len(value)}"
    if isinstance(value, GridColumn):
        return f"grid of {len(value)}"
    return f"{type(value).__name__} {_SHORT.repr(value)}"
