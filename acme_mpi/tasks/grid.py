"""Every combination of the values of some parameters, of which nothing is stored but the values."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from acme_mpi.errors import InputError


class Grid:
    """Mark parameters of which every combination of values is a task: ``Grid(x=[1, 2], y=[3, 4])``.

    The tasks come in C order: the last parameter changes fastest, and task i is the combination
    ``numpy.unravel_index(i, grid.shape)``. Nothing of the product is stored.

    Parameters
    ----------
    **axes : sequence
        The values of each parameter: a list, a tuple, a range, a one-dimensional array, or an
        iterator that ends.

    Attributes
    ----------
    axes : dict of str to sequence
        The values by the parameters' names.

    Raises
    ------
    InputError
        There is no parameter, or one has no values.

    Examples
    --------
    >>> import acme_mpi
    >>> acme_mpi.Grid(sigma=[1, 2, 4], seed=range(100)).shape
    (3, 100)
    """

    def __init__(self, /, **axes: Any) -> None:
        if not axes:
            raise InputError("a Grid needs the values of one parameter at least: Grid(x=[1, 2])")
        self.axes = {name: listed_values(name, values) for name, values in axes.items()}

    @property
    def shape(self) -> tuple[int, ...]:
        """Number of values of each parameter."""
        return tuple(map(len, self.axes.values()))

    def __len__(self) -> int:
        """Return the number of tasks."""
        return int(np.prod(self.shape, dtype=object))

    def __repr__(self) -> str:
        axes = ", ".join(f"{name}: {len(values)}" for name, values in self.axes.items())
        return f"<Grid of {len(self)} tasks, {axes}>"


class GridAxis:
    """Marks one argument as an axis of the grid.

    Parameters
    ----------
    values : sequence
        From `listed_values`.
    order : int
        Its place among the axes: of the last one the values change fastest.
    """

    def __init__(self, values: Any, order: int) -> None:
        self.values, self.order = values, order


class GridColumn(Sequence[Any]):
    """The values of one parameter for all tasks of a grid.

    Parameters
    ----------
    values : sequence
        Of its axis.
    n_inner : int
        So many tasks, one after the other, have the same value.
    n_tasks : int
        Number of tasks.
    order : int
        Its axis' place among the axes.
    """

    def __init__(self, values: Any, n_inner: int, n_tasks: int, order: int = 0) -> None:
        self.values, self.n_inner, self.n_tasks, self.order = values, n_inner, n_tasks, order

    def __len__(self) -> int:
        return self.n_tasks

    def __getitem__(self, index: Any) -> Any:
        """Return one value, or an iterator over those of the tasks of a slice."""
        if isinstance(index, slice):
            return self._values_of(range(*index.indices(self.n_tasks)))
        return self.values[self._place(range(self.n_tasks)[index])]

    def _values_of(self, tasks: range) -> Iterator[Any]:
        return (self.values[self._place(task)] for task in tasks)

    def _place(self, task: int) -> int:
        return task // self.n_inner % len(self.values)


def listed_values(name: str, values: Any) -> Any:
    """Return the values of an axis as a sequence.

    Raises
    ------
    InputError
        They are none, or there are none.
    """
    if isinstance(values, (str, bytes, Mapping)) or not hasattr(values, "__iter__"):
        raise InputError(
            f"axis `{name}` of the grid has to be a list, range or array of values, not {values!r}"
        )
    if not isinstance(values, (list, tuple, range, np.ndarray)):
        values = list(values)
    if isinstance(values, np.ndarray) and values.ndim != 1:
        raise InputError(
            f"axis `{name}` of the grid has to have one dimension, not the shape {values.shape}"
        )
    if len(values) == 0:
        raise InputError(f"axis `{name}` of the grid has no values, so there would be no task")
    return values


def spread(axes: Sequence[GridAxis]) -> list[GridColumn]:
    """Return the column of each axis."""
    n_tasks = int(np.prod([len(axis.values) for axis in axes], dtype=object))
    columns: dict[int, GridColumn] = {}
    n_inner = n_tasks
    for number in sorted(range(len(axes)), key=lambda number: axes[number].order):
        values = axes[number].values
        n_inner //= len(values)
        columns[number] = GridColumn(values, n_inner, n_tasks, axes[number].order)
    return [columns[number] for number in range(len(axes))]


def with_axes(
    args: Sequence[Any], kwargs: Mapping[str, Any], title: Callable[[], str]
) -> tuple[list[Any], dict[str, Any]]:
    """Return arguments in which the axes of a `Grid` stand beside the others, as `GridAxis`.

    Parameters
    ----------
    args, kwargs : sequence, mapping
        The arguments; a grid is given by position, anywhere.
    title : callable
        Returns the name of the function.

    Raises
    ------
    InputError
        There are several grids, one has a name, or a parameter is given twice.
    """
    grids = [value for value in args if isinstance(value, Grid)]
    named = [name for name, value in kwargs.items() if isinstance(value, Grid)]
    if named:
        raise InputError(
            f"`{named[0]}` cannot be a Grid, which has the names of its parameters itself: "
            f"{title()}, Grid({named[0]}=[...])"
        )
    if not grids:
        return list(args), dict(kwargs)
    if len(grids) > 1:
        raise InputError("give one Grid: Grid(x=..., y=...) has every combination of both")
    axes = {
        name: GridAxis(values, order) for order, (name, values) in enumerate(grids[0].axes.items())
    }
    twice = ", ".join(sorted(axes.keys() & kwargs.keys()))
    if twice:
        raise InputError(f"given twice, by keyword and in the Grid: {twice}")
    return [value for value in args if not isinstance(value, Grid)], {**kwargs, **axes}
