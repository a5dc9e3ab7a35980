"""The table of a run: a row for each task, with arguments, scalar results, and what it took."""

from __future__ import annotations

from collections.abc import Collection, Iterator
from typing import Any, NamedTuple

import numpy as np

from acme_mpi.errors import InputError
from acme_mpi.history.journal import AS_GROUPS, AS_RAGGED
from acme_mpi.reading.arguments import native
from acme_mpi.reading.recorded import Array
from acme_mpi.reading.values import Values
from acme_mpi.storage.reading import LARGE

RECORDED = ("seconds", "host", "rank", "peak_memory", "error")


class Cells(NamedTuple):
    """A column of the table.

    Attributes
    ----------
    values : (n,) ndarray
        Of numbers, times, or objects.
    is_missing : (n,) ndarray of bool
        Where there is none, whatever stands in its place.
    """

    values: Array
    is_missing: Array


def table(results: Values, tasks: range) -> dict[str, Cells]:
    """Return the columns of the table for some tasks.

    An argument with the name of a result is called ``argument_<name>``.
    """
    indices = np.arange(tasks.start, tasks.stop)
    found = dict(_results(results, indices))
    columns: dict[str, Cells] = {}
    for name in results.arguments:
        values = results.arguments.of_tasks(name, indices)
        columns[distinct(name, found, "argument_")] = Cells(values, np.zeros(len(tasks), bool))
    columns |= found
    for name, cells in zip(RECORDED, _recorded(results, tasks), strict=True):
        columns[distinct(name, columns, "task_")] = cells
    return columns


def distinct(name: str, taken: Collection[str], prefix: str) -> str:
    """Return a name that is not taken."""
    while name in taken:
        name = prefix + name
    return name


def _recorded(results: Values, tasks: range) -> Iterator[Cells]:
    recorded, where = results.recorded, slice(tasks.start, tasks.stop)
    is_unknown = recorded.ranks[where] < 0
    yield Cells(recorded.durations[where], np.isnan(recorded.durations[where]))
    yield Cells(recorded.hosts[where], is_unknown)
    yield Cells(recorded.ranks[where], is_unknown)
    peaks = recorded.peak_bytes[where]
    yield Cells(peaks, peaks == 0)
    errors = np.full(len(tasks), None, object)
    for each in results.failed_in(tasks):
        errors[each.task - tasks.start] = each.error
    yield Cells(errors, errors == None)  # noqa: E711 (element by element)


def _results(results: Values, tasks: Array) -> Iterator[tuple[str, Cells]]:
    """Yield the scalar results of some tasks, by name."""
    is_missing = ~results.recorded.is_done[tasks]
    columns = results.reader.columns
    for k, column in enumerate(columns):
        if column.shape == ():
            name = column.name or column.dataset
            yield name, Cells(results.reader.rows(k, tasks), is_missing)
    done = results.recorded.history.done
    if not columns or (done["form"] & (AS_GROUPS | AS_RAGGED)).any():
        yield from _in_groups(results, tasks[~is_missing], tasks, len(columns))


def _in_groups(
    results: Values, done: Array, tasks: Array, n_rows: int
) -> Iterator[tuple[str, Cells]]:
    found: dict[str, dict[int, Any]] = {}
    large: set[str] = set()
    for index in done.tolist():
        task = results.reader.scalars(index)
        for name, value in list(zip(task.names, task.parts, strict=True))[n_rows:]:
            if value is LARGE:
                large.add(name)
            elif value is not None and not getattr(value, "dtype", np.dtype(bool)).names:
                found.setdefault(name, {})[index] = value
    for name, values in found.items():
        if name not in large:
            yield name, _cells(values, tasks)


def _cells(values: dict[int, Any], tasks: Array) -> Cells:
    """Return a column of what some of the tasks have."""
    is_missing = np.array([index not in values for index in tasks.tolist()])
    known = list(values.values())
    are_texts = any(isinstance(value, (str, bytes)) for value in known)
    array = np.array(known, object if are_texts else None)
    cells = np.full(len(tasks), None if array.dtype.kind == "O" else 0, array.dtype)
    cells[~is_missing] = array
    return Cells(cells, is_missing)


def to_pandas(results: Values) -> Any:
    """Return the table as a DataFrame; see `Results.to_pandas`."""
    try:
        import pandas
    except ImportError:
        raise InputError(
            "a table needs pandas, which is not installed: pip install 'acme-mpi[tables]'"
        ) from None
    columns = table(results, range(len(results)))
    index = pandas.RangeIndex(len(results), name="task")
    data = {name: _series(pandas, cells, index) for name, cells in columns.items()}
    return pandas.DataFrame(data, index=index)


def _series(pandas: Any, cells: Cells, index: Any) -> Any:
    """Return a column; whole numbers and booleans that are missing somewhere stay what they are."""
    values, is_missing = native(cells.values), cells.is_missing
    if not is_missing.any():
        return pandas.Series(values, index)
    kind = values.dtype.kind
    if kind in "iu":
        return pandas.Series(pandas.arrays.IntegerArray(values, is_missing), index)
    if kind == "b":
        return pandas.Series(pandas.arrays.BooleanArray(values, is_missing), index)
    if kind in "fcO":
        blank: Any = {"O": None, "c": complex(np.nan, np.nan)}.get(kind, np.nan)
        return pandas.Series(np.where(is_missing, blank, values), index)
    return pandas.Series(values, index).where(~is_missing)
