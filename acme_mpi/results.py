"""What one return value becomes: parts that HDF5 can hold, or a row of one common array.

Without a result shape a return value becomes *parts*, ``result_0, result_1, ...``: a tuple has one
part per entry, as has a list that holds anything but scalars; all else is a single part. With a
`RowSpec` the first part is checked against one shape and dtype and becomes a row.
"""

from __future__ import annotations

import math
import numbers
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from acme_mpi.checksum import checksum
from acme_mpi.errors import InputError, InputTypeError

Array = np.ndarray[Any, Any]
# None, or an ndarray whose dtype HDF5 can hold; object dtype means strings
Part = Any
# What a task has: a list of parts, or a plain number that stands for [array([number])], or bytes:
# a pickle of all that it returned.
Parts = Any

# From this size on a result does not travel through the channel: the runner writes it in place.
PLACED_BYTES = 64 * 1024


class ResultError(Exception):
    """A return value cannot be stored; the text says what was expected and what came."""


@dataclass(frozen=True)
class RowSpec:
    """The common form of all results of a run.

    Attributes
    ----------
    shape : tuple
        `result_shape` as the user gave it, with the axis of the tasks left out; ``math.inf`` marks
        an axis whose length differs from task to task.
    axis : int
        Where the axis of the tasks stands in the stacked array.
    dtype : str
        NumPy dtype of the stacked array, as `numpy.dtype.str`.
    """

    shape: tuple[float, ...]
    axis: int
    dtype: str

    @property
    def is_ragged(self) -> bool:
        """Whether an axis is unlimited."""
        return math.inf in self.shape

    @property
    def row_shape(self) -> tuple[int, ...]:
        """The shape of one row, () for scalars; only where no axis is unlimited."""
        return tuple(int(n) for n in self.shape)

    @property
    def row_bytes(self) -> int:
        """The size of one row in bytes."""
        return math.prod(self.row_shape) * np.dtype(self.dtype).itemsize

    def stacked_shape(self, n_tasks: int, row_shape: tuple[int, ...] | None = None) -> Any:
        """Return the shape of all rows stacked, `row_shape` replacing unlimited axes."""
        row = self.row_shape if row_shape is None else row_shape
        return (*row[: self.axis], n_tasks, *row[self.axis :])


def make_row_spec(result_shape: Any, result_dtype: Any) -> RowSpec | None:
    """Check `result_shape` and `result_dtype` and return them as a RowSpec, None without a shape.

    Raises
    ------
    InputError
        Not a tuple or list; not exactly one None; more than one ``numpy.inf``; a negative or
        fractional entry; an unknown dtype, or one that HDF5 cannot hold.
    """
    if result_shape is None:
        return None
    if not isinstance(result_shape, (tuple, list)):
        raise InputTypeError(
            f"`result_shape` has to be either `None` or tuple, not {type(result_shape)}"
        )
    if sum(entry is None for entry in result_shape) != 1:
        raise InputError(
            f"`result_shape` must contain exactly one `None` entry, not {tuple(result_shape)}"
        )
    axis = [entry is None for entry in result_shape].index(True)
    shape = tuple(entry for entry in result_shape if entry is not None)
    for entry in shape:
        if isinstance(entry, bool) or not isinstance(entry, numbers.Real):
            raise InputError(f"`result_shape` must only contain numerical values, not {entry!r}")
        if entry != math.inf and (not 0 <= float(entry) < 2**63 or entry % 1 != 0):
            raise InputError(f"`result_shape` must only contain non-negative integers, not {entry}")
    if sum(entry == math.inf for entry in shape) > 1:
        raise InputError("cannot use more than one `np.inf` in `result_shape`")
    try:
        dtype = np.dtype(result_dtype)
    except (TypeError, ValueError, SyntaxError) as error:
        raise InputTypeError(
            f"`result_dtype` has to be a valid NumPy datatype specification: {error}"
        ) from None
    if dtype.kind not in "biufc":
        raise InputError(
            f"`result_dtype` has to be a boolean or numeric dtype, not {result_dtype!r}"
        )
    return RowSpec(
        tuple(math.inf if entry == math.inf else int(entry) for entry in shape), axis, dtype.str
    )


def to_parts(value: Any) -> list[Part]:
    """Return the storable parts of one return value, ``result_0`` first.

    A lone scalar or string has shape (1,), a scalar among several values shape ().

    Raises
    ------
    ResultError
        HDF5 cannot hold the value.
    """
    if _is_several(value):
        if len(value) == 0:
            return [np.empty(0)]
        return [_to_array(entry) for entry in value]
    part = _to_array(value)
    if part is not None and part.ndim == 0 and not isinstance(value, np.ndarray):
        return [part.reshape(1)]
    return [part]


def _is_several(value: Any) -> bool:
    if isinstance(value, tuple):
        return True
    return isinstance(value, list) and any(
        entry is None or isinstance(entry, (list, tuple, np.ndarray)) for entry in value
    )


def _to_array(value: Any) -> Part:
    """Return one part as an array, strings as objects, None for None."""
    if value is None:
        return None
    if isinstance(value, np.ma.MaskedArray):
        raise ResultError("a masked array; return its .data and .mask, or .filled(...)")
    is_list = isinstance(value, (list, tuple))
    if is_list and _holds_masked(value):
        raise ResultError("a list with a masked array; return .data and .mask, or .filled(...)")
    # As an array of NumPy's strings it would lose NUL characters.
    if isinstance(value, str) or (is_list and value and all(isinstance(e, str) for e in value)):
        array = np.array(value, dtype=object)
    elif isinstance(value, (bool, int, float, complex, bytes, np.ndarray, np.generic, list, tuple)):
        try:
            array = np.asarray(value)
        except ValueError:
            raise ResultError(
                f"a {type(value).__name__} that is not rectangular; return a tuple of arrays"
            ) from None
        if is_list:
            _check_entries(value, array)
    else:
        raise ResultError(
            f"a value of type {type(value).__module__}.{type(value).__qualname__}; HDF5 holds "
            "numbers, strings, None, arrays of these and tuples of such arrays"
        )
    return _storable(array)


def _holds_masked(value: Any) -> bool:
    return any(
        isinstance(entry, np.ma.MaskedArray)
        or (isinstance(entry, (list, tuple)) and _holds_masked(entry))
        for entry in value
    )


def _check_entries(value: Any, array: Array) -> None:
    # NumPy turns [1, "a"] into two strings: refuse what it would change silently.
    if array.dtype.kind in "US" and not all(isinstance(entry, (str, bytes)) for entry in value):
        raise ResultError("a list that mixes strings and numbers; return a tuple instead")


def _storable(array: Array) -> Array:
    dtype = array.dtype
    if dtype.names:
        # Field access by attribute (numpy.record) is a class of its own, and not stored.
        array = array.view(np.dtype((np.void, dtype)))
        if _overlaps(dtype):
            raise ResultError(f"dtype {dtype}, whose fields overlap; return the fields one by one")
    elif dtype.kind in "UO":
        return _strings(array)
    if not _is_native(array.dtype):
        hint = "; return .astype('int64') and the unit" if dtype.kind in "mM" else ""
        raise ResultError(f"dtype {dtype}, which HDF5 does not know{hint}")
    return array


def _overlaps(dtype: np.dtype[Any]) -> bool:
    """Tell whether fields of a record share bytes, or those of one inside: no HDF5 type does."""
    if dtype.subdtype:
        return _overlaps(dtype.base)
    end = 0
    fields = [dtype.fields[name][:2] for name in dtype.names or ()] if dtype.fields else []
    for field, offset in sorted(fields, key=lambda each: each[1]):
        if offset < end or _overlaps(field):
            return True
        end = offset + field.itemsize
    return False


def _is_native(dtype: np.dtype[Any]) -> bool:
    """Tell whether HDF5 holds numbers of this kind, or records of such numbers."""
    if dtype.names:
        return all(_is_native(dtype[name]) for name in dtype.names)
    return _is_native(dtype.base) if dtype.subdtype else dtype.kind in "biufcS"


def _strings(array: Array) -> Array:
    """Return a copy with plain Python strings that HDF5 can hold."""
    strings = np.empty(array.shape, object)
    for position, entry in np.ndenumerate(array):
        if not isinstance(entry, str):
            raise ResultError(
                f"an object array that holds {type(entry).__name__}; HDF5 holds numbers and "
                "strings (an integer beyond 64 bits is an object, too)"
            )
        if "\0" in entry:
            raise ResultError(f"a string with a NUL character, which HDF5 cannot hold: {entry!r}")
        try:
            entry.encode()
        except UnicodeEncodeError as error:
            raise ResultError(f"a string that is not valid Unicode: {error.reason}") from None
        strings[position] = str.__str__(entry)
    return strings


def to_row(value: Any, spec: RowSpec) -> Array:
    """Return the first part of a return value as a row of the stacked array.

    Raises
    ------
    ResultError
        Shape or dtype do not fit; the text gives both sides.
    """
    dtype = np.dtype(spec.dtype)
    if value is None or isinstance(value, str):
        raise ResultError(f"expected {_form(spec)}, got {value!r}")
    array: Array = _to_array(value)
    if not _same_shape(array.shape, spec.shape):
        raise ResultError(f"expected {_form(spec)}, got shape {array.shape} {array.dtype}")
    if array.dtype == dtype:
        return array
    if (got := _misfit(array, dtype)) is not None:
        raise ResultError(f"expected {_form(spec)}, got {got}")
    with np.errstate(over="ignore"):
        return array.astype(dtype)


def _misfit(array: Array, dtype: np.dtype[Any]) -> str | None:
    """Return what keeps numbers from becoming `dtype`; they may lose digits, but nothing else."""
    if array.dtype.kind in "biu" and dtype.kind in "iu":
        limits = np.iinfo(dtype)
        is_outside = (array < limits.min) | (array > limits.max)
    elif not np.can_cast(array.dtype, dtype, "same_kind"):
        return f"dtype {array.dtype}"
    else:
        with np.errstate(over="ignore"):
            is_outside = np.isfinite(array) & ~np.isfinite(array.astype(dtype))
    return f"{array[is_outside].flat[0]}, beyond its range" if is_outside.any() else None


def _same_shape(shape: tuple[int, ...], expected: tuple[float, ...]) -> bool:
    return len(shape) == len(expected) and all(
        want in (math.inf, have) for have, want in zip(shape, expected, strict=True)
    )


def _form(spec: RowSpec) -> str:
    return f"shape {spec.shape} {np.dtype(spec.dtype)}"


@dataclass
class Content:
    """The results of the tasks of one outcome, in index order, failed ones left out.

    Exactly what the run's mode needs is filled.

    Attributes
    ----------
    rows : (n_results, *row_shape) ndarray, or list of ndarray and tuple of (int, int), or None
        With a RowSpec. It is a list if the runner has written some of the rows itself: in their
        places are size in bytes and checksum.
    parts : list of Parts, or None
        Without a RowSpec all parts, with one those from ``result_1`` on. A tuple of size in bytes
        and checksum stands for a part that the runner has written itself.
    values : bytes, or None
        In memory mode: the pickled list of return values.
    buffers : list of ndarray of uint8
        Out-of-band buffers of `values`.
    unstorable : tuple of (int, str), or None
        The first task whose result was pickled, though HDF5 was asked for, and why.
    """

    rows: Array | list[Array | tuple[int, int]] | None = None
    parts: list[Parts] | None = None
    values: bytes | None = None
    buffers: list[Any] | None = None
    unstorable: tuple[int, str] | None = None


def is_placed(part: Part) -> bool:
    """Tell whether the runner has written this part, or row, itself."""
    return isinstance(part, tuple)


# place(index, k, shape, dtype) -> write(array), or None if the result shall travel
Place = Callable[[int, int, tuple[int, ...], str], Callable[[Array], None] | None]


class Encoder:
    """Collect the results of consecutive tasks in the form that the store of this run wants.

    Parameters
    ----------
    spec : RowSpec or None
        Common form of the results.
    in_memory : bool
        Keep the values as they are, pickled.
    place : callable or None
        Asked once for every array of `PLACED_BYTES` and more.
    dumps : callable
        ``dumps(list) -> (bytes, buffers)`` for values that stay in memory.
    freeze : callable, optional
        ``freeze(value)``: what stands for a value that stays in memory until it is dumped, so that
        the function may go on using the object it has returned.
    to_pickle : callable, optional
        ``to_pickle(value) -> bytes``; raises `ResultError`.
    as_pickles : bool
        Every result becomes a pickle.
    may_pickle : bool
        What HDF5 cannot hold becomes a pickle, of the list of return values.
    """

    def __init__(
        self,
        spec: RowSpec | None,
        in_memory: bool,
        place: Place | None = None,
        dumps: Callable[[list[Any]], tuple[bytes, list[Any]]] | None = None,
        freeze: Callable[[Any], Any] | None = None,
        to_pickle: Callable[[Any], bytes] | None = None,
        as_pickles: bool = False,
        may_pickle: bool = False,
    ) -> None:
        self._spec, self._in_memory, self._place = spec, in_memory, place
        self._dumps, self._freeze, self._to_pickle = dumps, freeze, to_pickle
        self._as_pickles, self._may_pickle = as_pickles, may_pickle
        self._as_rows = spec is not None and not spec.is_ragged
        self.add = self._choose_add()
        self._clear()

    def _choose_add(self) -> Callable[[int, Any], None]:
        """Return ``add(index, value)``, which takes the return value of a task.

        Indices come in increasing order. It raises `ResultError` if the value cannot be stored;
        then nothing of it was taken.
        """
        if self._spec is not None:
            is_float = self._spec.shape == () and self._spec.dtype == "<f8"
            return self._add_float if is_float else self._add_row
        if self._as_pickles:
            return self._add_pickle
        return self._add_value if self._in_memory else self._add_parts

    def _clear(self) -> None:
        self._rows: list[Any] = []
        self._parts: list[Parts] = []
        self._values: list[Any] = []
        self._are_some_placed = False
        self._has_more = False
        self._unstorable: tuple[int, str] | None = None
        self.n_bytes = 0

    def _add_parts(self, index: int, value: Any) -> None:
        if type(value) in _PLAIN_NUMBERS and _fits_64_bits(value):
            self._parts.append(value)
            return
        try:
            parts = to_parts(value)
        except ResultError as error:
            if not self._may_pickle:
                raise
            self._add_pickle(index, list(value) if _is_several(value) else [value])
            self._unstorable = self._unstorable or (index, str(error))
            return
        self._parts.append(self._place_large(index, 0, parts))

    def _add_pickle(self, index: int, value: Any) -> None:
        assert self._to_pickle is not None
        self._parts.append(self._to_pickle(value))
        self.n_bytes += len(self._parts[-1])

    def _add_value(self, index: int, value: Any) -> None:
        if type(value) in _PLAIN_VALUES:  # first, as these are returned the quickest
            self._values.append(value)
            return
        if type(value) is np.ndarray and not value.dtype.hasobject:
            self.n_bytes += value.nbytes
            value = value.copy()
        else:
            assert self._freeze is not None
            value = self._freeze(value)
            self.n_bytes += value.n_bytes
        self._values.append(value)

    def _add_float(self, index: int, value: Any) -> None:
        if type(value) is not float:
            return self._add_row(index, value)
        self._rows.append(value)
        if self._has_more:
            self._parts.append([])

    def _add_row(self, index: int, value: Any) -> None:
        assert self._spec is not None
        several = isinstance(value, tuple) and len(value) > 0
        try:
            row = to_row(value[0] if several else value, self._spec)
        except ResultError as error:
            hint = "; a tuple is several return values, one row is one array" if several else ""
            raise ResultError(f"{error}{hint}") from None
        rest = [_to_array(entry) for entry in value[1:]] if several else []
        if not self._as_rows:
            self._parts.append(self._place_large(index, 0, [row, *rest]))
            return
        rest = self._place_large(index, 1, rest)
        kept = self._place_or_keep(index, 0, row)
        # Almost no function returns more than the row: only then one list per task is kept.
        if rest and not self._has_more:
            self._has_more = True
            self._parts = [[] for _ in self._rows]
        if self._has_more:
            self._parts.append(rest)
        self._rows.append(kept)
        self._are_some_placed = self._are_some_placed or is_placed(kept)

    def _place_large(self, index: int, first: int, parts: list[Part]) -> list[Part]:
        return [self._place_or_keep(index, k, part) for k, part in enumerate(parts, first)]

    def _place_or_keep(self, index: int, k: int, part: Part) -> Part:
        """Write a large array where the store wants it, or return what travels in the outcome."""
        if part is None or part.dtype.kind == "O":
            return part
        if self._place is not None and part.nbytes >= PLACED_BYTES and not part.dtype.names:
            write = self._place(index, k, part.shape, part.dtype.str)
            if write is not None:
                write(part)
                return part.nbytes, checksum(part)
        self.n_bytes += part.nbytes
        # A function may return the same buffer each time: keep what it held at this call.
        return np.array(part)

    def take(self) -> Content:
        """Return what was collected since the last call."""
        content = Content(unstorable=self._unstorable)
        if self._as_rows:
            content.rows = self._rows if self._are_some_placed else self._packed_rows()
            if self._has_more:
                content.parts = self._parts
        elif self._in_memory and self._spec is None:
            assert self._dumps is not None
            content.values, content.buffers = self._dumps(self._values)
        else:
            content.parts = self._parts
        self._clear()
        return content

    def _packed_rows(self) -> Array:
        assert self._spec is not None
        rows = np.empty((len(self._rows), *self._spec.row_shape), self._spec.dtype)
        if self._rows:
            rows[:] = self._rows
        return rows


_PLAIN_NUMBERS: frozenset[type] = frozenset({int, float, bool, complex})
_PLAIN_VALUES: frozenset[type] = _PLAIN_NUMBERS | {type(None), str}
# Types whose values are no more than what they look like.
PLAIN: frozenset[type] = frozenset({*_PLAIN_VALUES, bytes})


def _fits_64_bits(value: Any) -> bool:
    return type(value) is not int or -(2**63) <= value < 2**63


def is_pickle(parts: Parts) -> bool:
    """Tell whether a task's result is a pickle."""
    return isinstance(parts, bytes)


def parts_of(parts: Parts) -> list[Part]:
    """Return the parts as a list of arrays; not for a pickle."""
    return parts if isinstance(parts, list) else [np.array([parts])]
