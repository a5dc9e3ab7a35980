"""What one return value becomes: parts that HDF5 can hold, or a row of one common array.

Without a result shape a return value becomes *parts*, ``result_0, result_1, ...``: a tuple has one
part per entry, as has a list that holds anything but scalars, and a value whose entries have names,
which go along; all else is a single part. With a `RowSpec` the first part is checked against one
shape and dtype and becomes a row; if it has further columns, so do the parts behind it.
"""

from __future__ import annotations

import math
import numbers
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, NamedTuple

import numpy as np

from acme_mpi.errors import InputError, InputTypeError
from acme_mpi.results.checksum import checksum
from acme_mpi.results.convert import (
    MAX_NDIM,
    Array,
    Part,
    ResultError,
    fits_64_bits,
    has_shape,
    misfit,
    to_array,
)
from acme_mpi.results.foreign import take_apart
from acme_mpi.results.named import checked_names, named

# What a task has: a list of parts, or a `NamedParts`, or a plain number that stands for
# [array([number])], or bytes: a pickle of all that it returned.
Parts = Any

# From this size on a result does not travel through the channel: the runner writes it in place.
PLACED_BYTES = 64 * 1024

AUTO = "auto"  # in the place of a shape


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
    grid : tuple of int
        Number of values of each parameter of a `Grid`: in the container these axes stand in the
        place of the tasks' axis. Empty without a grid.
    name : str
        What the user calls it; empty if that is not known.
    number : int
        Which part of the results it is.
    further : tuple of RowSpec
        Of the first: the forms of the parts behind it that become rows of arrays of their own.
    has_coordinates : bool
        Whether the container shows beside its arrays what their axes are, see `storage.scales`.
    is_auto : bool
        The first result that ends decides on the form; `dtype` is empty as long as that is open.
    """

    shape: tuple[float, ...]
    axis: int
    dtype: str
    grid: tuple[int, ...] = ()
    name: str = ""
    number: int = 0
    further: tuple[RowSpec, ...] = ()
    has_coordinates: bool = field(default=True, compare=False)
    is_auto: bool = False

    @property
    def is_open(self) -> bool:
        """Whether the form is still to be decided."""
        return not self.dtype

    def settled(self, form: RowSpec) -> RowSpec:
        """Return the form that the first result has, as that of this run."""
        on_axes = on_grid(form, self.grid)
        assert on_axes is not None
        return replace(on_axes, has_coordinates=self.has_coordinates, is_auto=True)

    def listed(self) -> list[Any]:
        """Return it as plain values, for JSON; what is rare is said only where it is."""
        said = {
            "grid": self.grid,
            "name": self.name,
            "further": [column.listed() for column in self.further],
            "is_bare": not self.has_coordinates,
            "is_auto": self.is_auto,
        }
        rare = {name: value for name, value in said.items() if value}
        return [self.shape, self.axis, self.dtype, *([rare] if rare else [])]

    @classmethod
    def from_listed(cls, listed: Sequence[Any], number: int = 0) -> RowSpec:
        """Return what was `listed`, as it is: whoever does not trust it checks it before."""
        shape, axis, dtype, *rare = listed
        said = rare[0] if rare else {}
        return cls(
            tuple(shape),
            axis,
            dtype,
            grid=tuple(said.get("grid", ())),
            name=said.get("name", ""),
            number=number,
            further=tuple(cls.from_listed(*each) for each in _numbered(said.get("further", ()))),
            has_coordinates=not said.get("is_bare", False),
            is_auto=said.get("is_auto", False),
        )

    @property
    def columns(self) -> tuple[RowSpec, ...]:
        """All forms: this one, and those of the parts behind it."""
        return (self, *self.further)

    @property
    def names(self) -> tuple[str, ...]:
        """The names of all columns; empty if they have none."""
        return tuple(column.name for column in self.columns if column.name)

    @property
    def dataset(self) -> str:
        """Name of the array, in payload files and in the container."""
        return f"result_{self.number}"

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

    def rows(self, first: int, count: int) -> tuple[slice, ...]:
        """Return the index of the rows of some tasks in the array that stacks those of all."""
        return (*[slice(None)] * self.axis, slice(first, first + count))

    def stacked_shape(self, n_tasks: Any, row_shape: tuple[Any, ...] | None = None) -> Any:
        """Return the shape of all rows stacked, `row_shape` replacing unlimited axes."""
        row = self.row_shape if row_shape is None else row_shape
        return (*row[: self.axis], n_tasks, *row[self.axis :])

    def whole_shape(self, n_tasks: int, row_shape: tuple[int, ...] | None = None) -> Any:
        """Return the shape of the container's array, as `stacked_shape` but with a grid's axes."""
        row = self.row_shape if row_shape is None else row_shape
        return (*row[: self.axis], *(self.grid or (n_tasks,)), *row[self.axis :])


def _numbered(further: Sequence[Any]) -> Iterable[tuple[Any, int]]:
    return ((each, number) for number, each in enumerate(further, 1))


def first_form(value: Any, names: tuple[str, ...] = ()) -> RowSpec:
    """Return the form that all results have if the first one is this.

    Parameters
    ----------
    value : object
        What a function has returned.
    names : tuple of str
        What the user calls the results of a task; empty: as the value says.

    Raises
    ------
    ResultError
        It has no number, or array of numbers, that could be stacked.
    """
    found = named(value)
    values = found.values if found else list(value) if _is_several(value) else [value]
    names = names or (found.names if found else ())
    columns: list[RowSpec] = []
    for number, each in enumerate(values):
        array = to_array(each)
        if array is None or array.dtype.kind not in "biufc":
            if columns and not names:
                break  # it and all behind it go into groups
            what = f"{names[number]}: " if names else ""
            raise MisfitError(f"{what}expected numbers, to be stacked, got {_what(each)}")
        name = names[number] if names else ""
        columns.append(RowSpec(array.shape, 0, array.dtype.str, name=name, number=number))
    if not columns or (names and len(names) != len(columns)):
        raise MisfitError(f"expected {len(names) or 'some'} result(s) to stack, got {_what(value)}")
    return replace(columns[0], further=tuple(columns[1:]))


def on_grid(spec: RowSpec | None, grid: tuple[int, ...]) -> RowSpec | None:
    """Return the form of the results of a grid's tasks.

    Raises
    ------
    InputError
        The stacked array would have more dimensions than HDF5 holds.
    """
    if spec is None or not grid:
        return spec
    if spec.is_open:
        return replace(spec, grid=grid)
    if len(spec.shape) + len(grid) > MAX_NDIM:
        raise InputError(
            f"results of {len(spec.shape)} dimensions on a grid of {len(grid)}; HDF5 holds arrays "
            f"of {MAX_NDIM} dimensions at most"
        )
    further = (on_grid(column, grid) for column in spec.further)
    return replace(spec, grid=grid, further=tuple(filter(None, further)))


def called(spec: RowSpec | None, names: tuple[str, ...]) -> RowSpec | None:
    """Return the form of one stacked array with the name that the user gives it."""
    if spec is None or spec.is_auto or spec.names or not names:
        return spec
    return replace(spec, name=names[0])


def make_row_spec(result_shape: Any, result_dtype: Any) -> RowSpec | None:
    """Check `result_shape` and `result_dtype` and return them as a RowSpec, None without a shape.

    Parameters
    ----------
    result_shape : tuple, dict of str to tuple, "auto", or None
        Several shapes by name: as many arrays. ``"auto"``: the first result that ends decides, on
        the dtype as well.
    result_dtype : dtype, or dict of str to dtype
        By name only where the shapes are; float64 where it says nothing.

    Raises
    ------
    InputError
        Not a tuple or list; not exactly one None; more than one ``numpy.inf``; a negative or
        fractional entry; an unknown dtype, or one that HDF5 cannot hold; among several an unlimited
        one, or a name that no dataset can have.
    """
    if isinstance(result_shape, Mapping):
        return _make_columns(result_shape, result_dtype)
    if isinstance(result_shape, str) and result_shape == AUTO:
        return RowSpec((), 0, "", is_auto=True)
    return None if result_shape is None else _make_column(result_shape, result_dtype)


def _make_columns(shapes: Mapping[Any, Any], dtypes: Any) -> RowSpec:
    try:
        names = checked_names(tuple(shapes))
    except ResultError as error:
        raise InputError(f"`result_shape`: {error}") from None
    if isinstance(dtypes, Mapping) and (unknown := [name for name in dtypes if name not in names]):
        raise InputError(
            f"`result_dtype` names {unknown[0]!r}, and `result_shape` has {', '.join(names)}"
        )
    columns: list[RowSpec] = []
    for number, (name, shape) in enumerate(zip(names, shapes.values(), strict=True)):
        dtype = dtypes.get(name, "float") if isinstance(dtypes, Mapping) else dtypes
        try:
            column = _make_column(shape, dtype)
        except InputError as error:
            raise type(error)(f"{name}: {error}") from None
        if column.is_ragged and len(names) > 1:
            raise InputError(
                f"{name}: an axis `np.inf` is possible in a single `result_shape` only, not beside "
                "others"
            )
        columns.append(replace(column, name=name, number=number))
    return replace(columns[0], further=tuple(columns[1:]))


def _make_column(result_shape: Any, result_dtype: Any) -> RowSpec:
    if not isinstance(result_shape, (tuple, list)):
        raise InputTypeError(
            f"`result_shape` has to be either `None` or tuple, not {type(result_shape)}"
        )
    if sum(entry is None for entry in result_shape) != 1:
        raise InputError(
            f"`result_shape` must contain exactly one `None` entry, not {tuple(result_shape)}"
        )
    if len(result_shape) > MAX_NDIM:
        raise InputError(
            f"`result_shape` has {len(result_shape)} entries; HDF5 holds arrays of {MAX_NDIM} "
            "dimensions at most"
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
        return [to_array(entry) for entry in value]
    part = to_array(value)
    if part is not None and part.ndim == 0 and not isinstance(value, np.ndarray):
        return [part.reshape(1)]
    return [part]


def _is_several(value: Any) -> bool:
    if isinstance(value, tuple):
        return True
    return isinstance(value, list) and any(
        entry is None or isinstance(entry, (list, tuple, np.ndarray)) for entry in value
    )


class MisfitError(ResultError):
    """A return value can be stored, but not in the form of the run."""


def to_row(value: Any, spec: RowSpec) -> Array:
    """Return the first part of a return value as a row of the stacked array.

    Raises
    ------
    MisfitError
        Shape or dtype do not fit; the text gives both sides.
    ResultError
        HDF5 cannot hold it, whatever the form of rows.
    """
    dtype = np.dtype(spec.dtype)
    if value is None or isinstance(value, str):
        raise MisfitError(f"expected {_form(spec)}, got {value!r}")
    array: Array = to_array(value)
    if not has_shape(array.shape, spec.shape):
        raise MisfitError(f"expected {_form(spec)}, got shape {array.shape} {array.dtype}")
    if array.dtype == dtype:
        return array
    if (got := misfit(array, dtype)) is not None:
        raise MisfitError(f"expected {_form(spec)}, got {got}")
    with np.errstate(over="ignore"):
        return array.astype(dtype)


def _to_column(value: Any, column: RowSpec) -> Array:
    """Return `to_row` of one of the named values of a result."""
    try:
        return to_row(value, column)
    except ResultError as error:
        raise type(error)(f"{column.name}: {error}" if column.name else str(error)) from None


def _listed(names: Iterable[str]) -> str:
    return ", ".join(names)


def _what(value: Any) -> str:
    n = f" of {len(value)}" if isinstance(value, tuple) else ""
    return f"a {type(value).__name__}{n}"


def _form(spec: RowSpec) -> str:
    return f"shape {spec.shape} {np.dtype(spec.dtype)}"


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


@dataclass
class Content:
    """The results of the tasks of one outcome, in index order, failed ones left out.

    Exactly what the run's mode needs is filled.

    Attributes
    ----------
    rows : (n_results, *row_shape) ndarray, or list of ndarray and tuple of (int, int), or None
        With a RowSpec. It is a list if the runner has written some of the rows itself: in their
        places are size in bytes and checksum.
    further_rows : list
        Like `rows`, for each further column.
    parts : list of Parts, or None
        Without a RowSpec all parts, with one those behind its columns, or a pickle: then there
        is no row, whatever stands in its place. A tuple of size in bytes and checksum stands for a
        part that the runner has written itself.
    values : bytes, or None
        In memory mode: the pickled list of return values; with a RowSpec of sequences of those
        from ``result_1`` on, None if there are none.
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
    further_rows: list[Any] = field(default_factory=list)

    @property
    def columns(self) -> list[Any]:
        """The rows of all columns; empty without rows."""
        return [] if self.rows is None else [self.rows, *self.further_rows]


def is_placed(part: Part) -> bool:
    """Tell whether the runner has written this part, or row, itself."""
    return isinstance(part, tuple)


# place(index, k, shape, dtype) -> write(array), or None if the result shall travel
Place = Callable[[int, int, tuple[int, ...], str], Callable[[Array], None] | None]

# agree(names) -> the names that the results of the run have
Agree = Callable[[tuple[str, ...]], tuple[str, ...]]


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
    names : tuple of str
        What the user calls the results of a task; empty: the first one with names decides.
    agree : callable, optional
        ``agree(names)``: asked once for the names of the run's results; default these.
    agree_on_form : callable, optional
        ``agree_on_form(form)``: asked once for the form of the run's results if the first one
        decides; default this.
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
        names: tuple[str, ...] = (),
        agree: Agree | None = None,
        agree_on_form: Callable[[RowSpec], RowSpec] | None = None,
    ) -> None:
        self._wanted, self._agree, self._agree_on_form = names, agree, agree_on_form
        self._agreed: tuple[str, ...] = ()
        self._spec, self._in_memory, self._place = spec, in_memory, place
        self._dumps, self._freeze, self._to_pickle = dumps, freeze, to_pickle
        self._as_pickles, self._may_pickle = as_pickles, may_pickle
        self._as_rows = spec is not None and not spec.is_ragged and not spec.is_open
        self.add = self._choose_add()
        self._clear()

    @property
    def spec(self) -> RowSpec | None:
        """The form of the rows, decided by the first value if it was open."""
        return self._spec

    def _choose_add(self) -> Callable[[int, Any], None]:
        """Return ``add(index, value)``, which takes the return value of a task.

        Indices come in increasing order. It raises `ResultError` if the value cannot be stored;
        then nothing of it was taken.
        """
        if self._spec is not None and self._spec.is_open:
            return self._add_first
        if self._spec is not None:
            is_float = self._spec.shape == () and self._spec.dtype == "<f8"
            is_one = not self._spec.further
            return self._add_float if is_float and is_one else self._add_row
        if self._as_pickles:
            return self._add_pickle
        if self._in_memory:
            return self._add_value
        return self._add_any if self._wanted else self._add_parts

    def _clear(self) -> None:
        self._columns: list[list[Any]] = [[] for _ in self._spec.columns] if self._spec else [[]]
        self._rows = self._columns[0]
        self._parts: list[Parts] = []
        self._values: list[Any] = []
        self._are_some_placed = False
        self._has_more = False
        self._unstorable: tuple[int, str] | None = None
        self.n_bytes = 0

    def _add_parts(self, index: int, value: Any) -> None:
        if type(value) in _PLAIN_NUMBERS and fits_64_bits(value):
            self._parts.append(value)
        else:
            self._add_any(index, value)

    def _add_any(self, index: int, value: Any) -> None:
        try:
            names, parts, note = self._named_parts(value)
        except MisfitError:
            raise
        except ResultError as error:
            self._parts.append(self._pickle_instead(index, value, error))
            return
        parts = self._place_large(index, 0, parts)
        self._parts.append(NamedParts(names, parts, note) if names else parts)

    def _named_parts(self, value: Any) -> tuple[tuple[str, ...], list[Part], str]:
        """Return names, if there are any, parts, and a note, if there is one, of a return value."""
        if type(value) in _NAMELESS and not self._wanted:
            return (), to_parts(value), ""
        apart = None if self._wanted else take_apart(value)
        if apart is not None:
            return tuple(apart.arrays), list(apart.arrays.values()), apart.text()
        found = named(value)
        names = self._wanted if found is None else found.names
        parts = to_parts(value if found is None else tuple(found.values))
        if not names:
            return (), parts, ""
        if found is None:
            n_values = len(value) if _is_several(value) else 1
            if n_values != len(names):
                called = ", ".join(names)
                raise MisfitError(f"expected {len(names)} result(s), {called}; got {n_values}")
        if names != self._agreed:
            names, parts = self._in_order(names, parts)
        return names, parts, ""

    def _in_order(
        self, names: tuple[str, ...], parts: list[Part]
    ) -> tuple[tuple[str, ...], list[Part]]:
        if not self._agreed:
            proposed = self._wanted or names
            self._agreed = proposed if self._agree is None else self._agree(proposed)
        if set(names) == set(self._agreed):
            return self._agreed, [parts[names.index(name)] for name in self._agreed]
        error = MisfitError if self._wanted else ResultError
        raise error(_other_names(names, self._agreed, bool(self._wanted)))

    def _pickle_instead(self, index: int, value: Any, error: ResultError) -> bytes:
        """Return a pickle of what HDF5 cannot hold, where that is allowed."""
        if not self._may_pickle:
            raise error
        data = self._pickled(list(value) if _is_several(value) else [value])
        self._unstorable = self._unstorable or (index, str(error))
        return data

    def _pickled(self, value: Any) -> bytes:
        assert self._to_pickle is not None
        data = self._to_pickle(value)
        self.n_bytes += len(data)
        return data

    def _add_pickle(self, index: int, value: Any) -> None:
        self._parts.append(self._pickled(value))

    def _add_value(self, index: int, value: Any) -> None:
        if type(value) in _PLAIN_VALUES:  # first, as these are returned the quickest
            self._values.append(value)
        else:
            self._values.append(self._frozen(value))

    def _frozen(self, value: Any) -> Any:
        """Return what stands for a value that stays in memory as it is now."""
        if type(value) is np.ndarray and not value.dtype.hasobject:
            self.n_bytes += value.nbytes
            return value.copy()
        assert self._freeze is not None
        value = self._freeze(value)
        self.n_bytes += value.n_bytes
        return value

    def _add_float(self, index: int, value: Any) -> None:
        if type(value) is not float:
            return self._add_row(index, value)
        self._rows.append(value)
        if self._has_more:
            self._parts.append([])

    def _add_first(self, index: int, value: Any) -> None:
        """Add a value of a run whose form the first one decides."""
        assert self._spec is not None
        if self._spec.is_open:
            form = first_form(value, self._wanted)
            if self._agree_on_form is not None:
                form = self._agree_on_form(form)
            self._spec = self._spec.settled(form)
            self._as_rows, self._columns = True, [[] for _ in form.columns]
            self._rows = self._columns[0]
            self.add = self._choose_add()
        self.add(index, value)  # others may hold on to this method

    def _add_row(self, index: int, value: Any) -> None:
        assert self._spec is not None
        try:
            values, rest = self._split(value)
            rows = [_to_column(*each) for each in zip(values, self._spec.columns, strict=True)]
            if not self._in_memory:
                rest = [to_array(entry) for entry in rest]
        except MisfitError as error:
            is_unclear = isinstance(value, tuple) and not self._spec.further
            hint = "; a tuple is several return values, one row is one array" if is_unclear else ""
            raise MisfitError(f"{error}{hint}") from None
        except ResultError as error:
            self._add_no_row(self._pickle_instead(index, value, error))
            return
        if not self._as_rows:
            self._parts.append(self._place_large(index, 0, [*rows, *rest]))
            return
        rows = self._place_large(index, 0, rows)
        if self._in_memory:
            self._append_rows(rows, rest and self._frozen(rest))
        else:
            self._append_rows(rows, self._place_large(index, len(rows), rest))

    def _split(self, value: Any) -> tuple[list[Any], list[Any]]:
        """Return the values that become rows, one for each column, and all others."""
        assert self._spec is not None
        names = self._spec.names
        found = named(value) if names else None
        if found is not None:
            if {*found.names} != {*names}:
                raise MisfitError(
                    f"expected results called {_listed(names)}, got {_listed(found.names)}"
                )
            by_name = dict(zip(found.names, found.values, strict=True))
            return [by_name[name] for name in names], []
        if not self._spec.further:
            first, *rest = value if self._is_row_and_more(value) else (value,)
            return [first], rest
        if not names:
            return self._split_unnamed(value)
        if not isinstance(value, tuple) or len(value) != len(names):
            raise MisfitError(
                f"expected a dict, or a tuple, of {_listed(names)}, got {_what(value)}"
            )
        return list(value), []

    def _split_unnamed(self, value: Any) -> tuple[list[Any], list[Any]]:
        assert self._spec is not None
        entries, n = list(value) if _is_several(value) else [value], len(self._spec.columns)
        if len(entries) < n:
            raise MisfitError(f"expected {n} results or more, got {_what(value)}")
        return entries[:n], entries[n:]

    def _is_row_and_more(self, value: Any) -> bool:
        """Tell whether a return value is several, of which the first is the row.

        Where rows have axes a tuple of numbers alone is one row.
        """
        assert self._spec is not None
        if not isinstance(value, tuple) or not value:
            return False
        return not self._spec.shape or not all(isinstance(e, _SCALARS) for e in value)

    def _add_no_row(self, data: bytes) -> None:
        """Add a pickle in the place of a row."""
        if self._as_rows:
            assert self._spec is not None
            blank = [np.zeros(column.row_shape, column.dtype) for column in self._spec.columns]
            self._append_rows(blank, data)
        else:
            self._parts.append(data)

    def _append_rows(self, rows: list[Any], more: Any) -> None:
        # Almost no function returns more than the row: only then is that kept, for each task.
        if more and not self._has_more:
            self._has_more = True
            self._parts = [[] for _ in self._rows]
        if self._has_more:
            self._parts.append(more)
        for column, row in zip(self._columns, rows, strict=True):
            column.append(row)
            self._are_some_placed = self._are_some_placed or is_placed(row)

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
            content.rows, *content.further_rows = self._taken_rows()
            if self._has_more and not self._in_memory:
                content.parts = self._parts
        if self._in_memory and (self._spec is None or self._has_more):
            assert self._dumps is not None
            values = self._values if self._spec is None else self._parts
            content.values, content.buffers = self._dumps(values)
        elif not self._as_rows:
            content.parts = self._parts
        self._clear()
        return content

    def _taken_rows(self) -> list[Any]:
        """Return the rows of all columns, packed unless the runner has written some itself."""
        assert self._spec is not None
        if self._are_some_placed:
            return list(self._columns)
        return [_packed(*each) for each in zip(self._columns, self._spec.columns, strict=True)]


def _packed(rows: list[Any], column: RowSpec) -> Array:
    packed = np.empty((len(rows), *column.row_shape), column.dtype)
    if rows:
        packed[:] = rows
    return packed


_PLAIN_NUMBERS: frozenset[type] = frozenset({int, float, bool, complex})
_SCALARS = (bool, int, float, complex, np.number, np.bool_)
_PLAIN_VALUES: frozenset[type] = _PLAIN_NUMBERS | {type(None), str}
# What is returned the most often, without names.
_NAMELESS: frozenset[type] = frozenset(
    {*_PLAIN_VALUES, tuple, list, bytes, np.ndarray, np.float64, np.float32, np.int64, np.bool_}
)
# Types whose values are no more than what they look like.
PLAIN: frozenset[type] = frozenset({*_PLAIN_VALUES, bytes})


def _other_names(names: tuple[str, ...], agreed: tuple[str, ...], are_wanted: bool) -> str:
    """Return what is wrong with the names of a task's results."""
    missing = [name for name in agreed if name not in names]
    unknown = [name for name in names if name not in agreed]
    told = [("missing: ", missing), ("not expected: ", unknown)]
    differences = "; ".join(words + ", ".join(each) for words, each in told if each)
    origin = "" if are_wanted else ", as the first that ended: all tasks of a run have the same"
    return f"expected results called {', '.join(agreed)}{origin}; {differences}"


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
