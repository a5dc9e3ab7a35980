"""The common form of the results of a run, and rows of it.

With a `RowSpec` the first part of what a task returns is checked against one shape and dtype and
becomes a row; if it has further columns, so do the parts behind it.
"""

from __future__ import annotations

import math
import numbers
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from acme_mpi.errors import InputError, InputTypeError
from acme_mpi.results.convert import (
    MAX_NDIM,
    Array,
    ResultError,
    has_shape,
    misfit,
    to_array,
)
from acme_mpi.results.named import checked_names, named
from acme_mpi.results.parts import is_several, what_it_is

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


def first_form(value: Any, names: tuple[str, ...] = (), grid: tuple[int, ...] = ()) -> RowSpec:
    """Return the form that all results have if the first one is this.

    Parameters
    ----------
    value : object
        What a function has returned.
    names : tuple of str
        What the user calls the results of a task; empty: as the value says.
    grid : tuple of int
        The axes that stand in the place of the tasks' axis; empty: there is that one.

    Raises
    ------
    ResultError
        It has no number, or array of numbers, that could be stacked, or one of too many dimensions.
    """
    found = named(value)
    values = found.values if found else list(value) if is_several(value) else [value]
    names = names or (found.names if found else ())
    columns: list[RowSpec] = []
    for number, each in enumerate(values):
        array = to_array(each)
        if array is None or array.dtype.kind not in "biufc":
            if columns and not names:
                break  # it and all behind it go into groups
            what = f"{names[number]}: " if names else ""
            raise MisfitError(
                f"{what}expected numbers, to be stacked, got {what_it_is(each)}; without "
                "`result_shape` it is stored as it is"
            )
        if array.ndim + (n_axes := len(grid) or 1) > MAX_NDIM:
            raise MisfitError(
                f"expected arrays of {MAX_NDIM - n_axes} dimensions at most, got {array.ndim}: "
                f"stacked they have {n_axes} more, and HDF5 holds {MAX_NDIM}"
            )
        name = names[number] if names else ""
        columns.append(RowSpec(array.shape, 0, array.dtype.str, name=name, number=number))
    if not columns or (names and len(names) != len(columns)):
        raise MisfitError(
            f"expected {len(names) or 'some'} result(s) to stack, got {what_it_is(value)}"
        )
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
            f"`result_shape` has to be either `None` or tuple, not {type(result_shape)}; or "
            "'auto', or a dict of tuples"
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
    spec = RowSpec(
        tuple(math.inf if entry == math.inf else int(entry) for entry in shape), axis, dtype.str
    )
    if not spec.is_ragged and spec.row_bytes >= 2**63:
        raise InputError(
            f"`result_shape` {tuple(result_shape)} has {spec.row_bytes} bytes for each task, more "
            "than any file holds"
        )
    return spec


class MisfitError(ResultError):
    """A return value can be stored, but not in the form of the run: what was expected, and came."""

    @property
    def told(self) -> str:
        """What the task's failure says."""
        return str(self)


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


def to_column(value: Any, column: RowSpec) -> Array:
    """Return `to_row` of one of the named values of a result."""
    try:
        return to_row(value, column)
    except ResultError as error:
        raise type(error)(f"{column.name}: {error}" if column.name else str(error)) from None


def _form(spec: RowSpec) -> str:
    return f"shape {spec.shape} {np.dtype(spec.dtype)}"
