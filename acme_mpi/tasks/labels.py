"""What tasks are known by: the values of their arguments, as arrays that anybody can read.

Whoever has the arguments themselves makes the labels. They travel as plain values and arrays, so
that rank 0, which unpickles nothing of a user's, can write them beside the results.
"""

from __future__ import annotations

import datetime
import itertools
import operator
import shlex
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np

from acme_mpi.tasks.commit import commit_of
from acme_mpi.tasks.grid import GridColumn
from acme_mpi.tasks.items import is_read_by_pieces
from acme_mpi.tasks.taskset import TaskSet

Array = np.ndarray[Any, np.dtype[Any]]

MOST_BYTES = 256 * 1024**2  # of one argument; of what is larger there are no labels
PIECE = 128 * 1024  # values
SMALL_BYTES = 1024  # of a shared argument that is kept; of others it is said what they are
_SINCE = " since 1970-01-01"
_TIME_UNITS = {
    "D": "days",
    "h": "hours",
    "m": "minutes",
    "s": "seconds",
    "ms": "milliseconds",
    "us": "microseconds",
    "ns": "nanoseconds",
}


def _listed(values: range) -> Array:
    # To make an array of the numbers themselves takes thirty times as long.
    return np.arange(values.start, values.stop, values.step)


class Column(NamedTuple):
    """The values of one argument, of all tasks or of an axis of the grid.

    Attributes
    ----------
    values : (n,) ndarray, or range
        Of booleans, numbers, or objects that are all str. Times are int64. A range stays one, as
        it may be that of very many tasks.
    units : str
        Of times, in the words of the CF conventions: ``"nanoseconds since 1970-01-01"`` or, of
        durations, ``"nanoseconds"``; else empty.
    """

    values: Array | range
    units: str = ""

    @property
    def dtype(self) -> np.dtype[Any]:
        """Of the values in a file."""
        return np.dtype(np.int64) if isinstance(self.values, range) else self.values.dtype

    def pieces(self) -> Iterator[tuple[int, Array]]:
        """Yield where pieces of the values begin, and these: `PIECE` of them at most."""
        for first in range(0, len(self.values), PIECE):
            piece = self.values[first : first + PIECE]
            yield first, _listed(piece) if isinstance(piece, range) else piece

    @property
    def attributes(self) -> dict[str, str]:
        """What stands beside the values in a file, so that others know times, and xarray durations.

        Units alone could be those of any number of seconds.
        """
        if not self.units:
            return {}
        is_date = self.units.endswith(_SINCE)
        return {"units": self.units, **({} if is_date else {"dtype": self.decoded().dtype.name})}

    def decoded(self) -> Array:
        """Return the values, times as datetime64 or timedelta64.

        Raises
        ------
        ValueError
            The units are not among those that are written here.
        """
        if isinstance(self.values, range):
            return _listed(self.values)
        if not self.units:
            return self.values
        word, is_date = self.units.removesuffix(_SINCE), self.units.endswith(_SINCE)
        codes = [code for code, each in _TIME_UNITS.items() if each == word]
        if not codes or self.values.dtype != np.int64:
            raise ValueError(f"times in {self.units!r}, {self.values.dtype}")
        return self.values.view(f"{'M' if is_date else 'm'}8[{codes[0]}]")


@dataclass(frozen=True)
class Labels:
    """What is known of the tasks of a run, and of where they come from.

    Attributes
    ----------
    arguments : mapping of str to Column
        Of split arguments whose items are numbers, booleans, strings or times; of an axis of the
        grid its values, of others one per task.
    axes : tuple of str
        Arguments that are axes of the grid, of the last one the values change fastest; empty if
        there is none.
    shape : tuple of int
        Number of values of each axis.
    shared : mapping of str to object
        Of the arguments that all tasks share: a bool, number, str or small array; of what is
        something else, a str that says what it is.
    facts : mapping of str to str
        How the results were made: ``command``, ``git_commit`` and others.
    """

    arguments: Mapping[str, Column] = field(default_factory=dict)
    axes: tuple[str, ...] = ()
    shape: tuple[int, ...] = ()
    shared: Mapping[str, Any] = field(default_factory=dict)
    facts: Mapping[str, str] = field(default_factory=dict)


def labels_of(func: Callable[..., Any], tasks: TaskSet, command: Sequence[str] = ()) -> Labels:
    """Return the labels of some tasks; what has none is left out.

    Parameters
    ----------
    func : callable
        The user's function.
    tasks : TaskSet
        Its arguments.
    command : sequence of str
        How this was started; default ``sys.argv``.
    """
    split = [each for each in tasks.arguments if each.per_task]
    axes = [each for each in split if isinstance(each.value, GridColumn)]
    axes.sort(key=lambda axis: axis.value.order)
    columns = {each.label: _column(each.value) for each in split}
    facts = {"command": shlex.join(command or sys.argv), "git_commit": commit_of(func)}
    return Labels(
        {name: column for name, column in columns.items() if column is not None},
        tuple(each.label for each in axes),
        tuple(len(each.value.values) for each in axes),
        {each.label: _shared(each.value) for each in tasks.arguments if not each.per_task},
        {name: fact for name, fact in facts.items() if fact},
    )


def _column(values: Any) -> Column | None:
    """Return the items of an argument; None if they are no labels."""
    if isinstance(values, GridColumn):
        values = values.values
    if isinstance(values, range):
        ends = values[:1], values[-1:]
        fits = all(-(2**63) <= end < 2**63 for each in ends for end in each)
        return Column(values) if fits and _is_small(values, 8) else None
    # Items may be of any class, and their methods do anything: without a label nothing is lost.
    try:
        array = _array_of(values)
        return None if array is None else _encoded(array)
    except Exception:
        return None


def _array_of(values: Any) -> Array | None:
    # Who has a masked array has loaded numpy.ma, and nobody else shall.
    if "numpy.ma" in sys.modules and np.ma.is_masked(values):
        return None  # what is behind a mask is no value
    if is_read_by_pieces(values):
        is_fit = len(values.shape) == 1 and values.dtype.kind in "biufc"
        return values[:] if is_fit and _is_small(values, values.dtype.itemsize) else None
    if isinstance(values, np.ndarray) and not values.dtype.hasobject:
        return np.asarray(values) if values.ndim == 1 and values.nbytes <= MOST_BYTES else None
    if isinstance(values, np.ndarray):
        values = list(values)
    return _array_of_items(values) if _is_small(values, 8) else None


def _is_small(values: Any, itemsize: int) -> bool:
    return len(values) * itemsize <= MOST_BYTES


def _array_of_items(items: Sequence[Any]) -> Array | None:
    """Return Python objects of one type as an array; whole numbers may stand beside others."""
    kinds = set(map(type, items))
    if kinds <= {str}:
        return np.array(items, object)
    if kinds in ({bool}, {complex}) or kinds <= {int, float}:
        array = np.array(items)
        is_rounded = array.dtype.kind == "f" and int in kinds
        return None if is_rounded and _loses_digits(items) else array
    kind = kinds.pop()
    if kinds:
        return None
    if issubclass(kind, np.generic):
        return np.array(items)
    if hasattr(kind, "to_datetime64"):  # pandas' Timestamp is a datetime of more digits
        return np.array([each.to_datetime64() for each in items])
    if hasattr(kind, "to_timedelta64"):
        return np.array([each.to_timedelta64() for each in items])
    if kind is datetime.datetime:
        return _times(items).view("M8[us]")
    if kind is datetime.timedelta:
        return _microseconds(items).view("m8[us]")
    return np.array(items, "M8[D]") if kind is datetime.date else None


def _loses_digits(items: Sequence[float]) -> bool:
    """Tell whether integers among numbers differ from what they are as floats."""
    return any(type(item) is int and float(item) != item for item in items)


def _times(items: Sequence[datetime.datetime]) -> Array:
    are_naive = {each.tzinfo for each in items} == {None}
    naive = items if are_naive else map(_in_utc, items)
    return _microseconds(map(operator.sub, naive, itertools.repeat(datetime.datetime(1970, 1, 1))))


def _microseconds(spans: Iterable[datetime.timedelta]) -> Array:
    # NumPy itself takes six times as long.
    units = itertools.repeat(datetime.timedelta(microseconds=1))
    return np.fromiter(map(operator.floordiv, spans, units), np.int64)


def _in_utc(time: datetime.datetime) -> datetime.datetime:
    if time.tzinfo is None:
        return time
    return time.astimezone(datetime.UTC).replace(tzinfo=None)


def _encoded(array: Array) -> Column | None:
    """Return an array in one of the forms of a `Column`; None if it has none."""
    kind = array.dtype.kind
    if kind in "Mm":
        unit = np.datetime_data(array.dtype)[0]
        code = unit if unit in _TIME_UNITS else "D" if unit in "YMW" else "ns"
        units = _TIME_UNITS[code] + (_SINCE if kind == "M" else "")
        times = np.ascontiguousarray(array.astype(f"{kind}8[{code}]"))
        is_kept = np.isnat(array) | (times.astype(array.dtype) == array)
        return Column(times.view(np.int64), units) if is_kept.all() else None
    if kind == "U":
        array = array.astype(object)
    if array.dtype.kind == "O":
        return Column(array) if _is_writable(array.tolist()) else None
    return Column(np.ascontiguousarray(array)) if kind in "biufc" else None


def _is_writable(texts: Sequence[str]) -> bool:
    """Tell whether HDF5 holds all strings."""
    text = "".join(texts)
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return "\0" not in text


def _shared(value: Any) -> Any:
    """Return a shared argument, or what it is."""
    try:
        return _plain(value)
    except Exception:  # as above, of methods of the value
        return type(value).__qualname__


def _plain(value: Any) -> Any:
    kind = type(value)
    if value is None:
        return "None"
    if kind is str:
        return value if len(value) <= SMALL_BYTES and _is_writable([value]) else _what_it_is(value)
    if kind in (list, tuple) and 0 < len(value) <= SMALL_BYTES:
        array = _array_of_items(value)
    elif kind in (bool, int, float, complex) or issubclass(kind, np.generic) or kind is np.ndarray:
        array = np.asarray(value)
    else:
        array = None
    if array is None or array.dtype.kind not in "biufc" or array.nbytes > SMALL_BYTES:
        return _what_it_is(value)
    return np.array(array) if array.ndim else array[()]


def _what_it_is(value: Any) -> str:
    if isinstance(value, np.ndarray):
        return f"array {value.shape} {value.dtype}"
    kind = type(value)
    module = "" if kind.__module__ == "builtins" else f"{kind.__module__}."
    size = f" of {len(value)}" if isinstance(value, (str, bytes, list, tuple, dict, range)) else ""
    return f"{module}{kind.__qualname__}{size}"
