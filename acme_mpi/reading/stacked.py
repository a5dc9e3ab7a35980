"""One result of all tasks as one array, of which only what is asked for is read."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, NamedTuple

import numpy as np

from acme_mpi.errors import InputError
from acme_mpi.history.journal import AS_GROUPS, AS_RAGGED
from acme_mpi.reading.inner_axes import Agreed
from acme_mpi.reading.recorded import Array
from acme_mpi.reading.values import Values
from acme_mpi.storage.ragged import padded
from acme_mpi.storage.reading import Form

_BLANK = {"O": "", "S": b"", "U": "", "c": complex(np.nan, np.nan)}


class Stacked:
    """An array over tasks, or the axes of a grid, and the axes of one result.

    What is missing is NaN in numbers, which are float then, and an empty string in text.

    Parameters
    ----------
    results : Values
        Of which run.
    name : str
        Of the result.
    axes : tuple of int
        Number of tasks, or of values of each axis of the grid.
    form : Form
        Of one task's result.
    column : int or None
        Number of the array of rows that the files have; None: each task has an array of its own.
    has_gaps : bool
        Whether there are tasks with results that have returned None in its place, or less.

    Attributes
    ----------
    shape, dtype, ndim
        As of an array.
    """

    def __init__(
        self,
        results: Values,
        name: str,
        axes: tuple[int, ...],
        form: Form,
        column: int | None = None,
        has_gaps: bool = False,
    ) -> None:
        assert form.shape is not None
        assert form.dtype is not None
        self._results, self._column, self.name, self.n_axes = results, column, name, len(axes)
        self._axes, self._row_shape, self._row_dtype = axes, form.shape, form.dtype
        self.shape = (*axes, *form.shape)
        self.ndim = len(self.shape)
        self._has_gaps = has_gaps
        self._is_whole = not has_gaps and bool(results.recorded.is_done.all())
        is_kept = self._is_whole or form.dtype.kind in "fcOSUV"
        self.dtype = form.dtype if is_kept else np.dtype(float)

    @property
    def inner_shape(self) -> tuple[int, ...]:
        """The shape of one task's result."""
        return self.shape[self.n_axes :]

    @property
    def nbytes(self) -> int:
        """Its size in memory."""
        return int(np.prod(self.shape, dtype=object)) * self.dtype.itemsize

    def __getitem__(self, key: Any) -> Array:
        """Return a part, read from the files; `key` holds slices, integers and an ellipsis."""
        keys = _complete(key, self.ndim)
        places = [_places(key, n) for n, key in zip(self._axes, keys, strict=False)]
        shape = tuple(n for place in places for n in place.shape)
        grid = np.ix_(*map(np.atleast_1d, places))
        tasks = np.ravel_multi_index(grid, self._axes).ravel() if places else np.zeros(1, int)
        rows = self._rows(tasks).reshape(*shape, *self._row_shape)
        return rows[(*(slice(None) for _ in shape), *keys[self.n_axes :])]

    def _rows(self, tasks: Array) -> Array:
        is_done = self._results.recorded.is_done[tasks]
        if self._column is not None:
            rows = self._results.reader.rows(self._column, tasks).astype(self.dtype, copy=False)
            if self.dtype != self._row_dtype:
                rows[~is_done] = np.nan
            return rows
        blank: Any = 0 if self.dtype.names else _BLANK.get(self.dtype.kind, np.nan)
        rows = np.full((len(tasks), *self._row_shape), 0 if self._is_whole else blank, self.dtype)
        for at in np.flatnonzero(is_done).tolist():
            part = self._part(int(tasks[at]))
            if part is not None:
                rows[at] = part
        return rows

    def _part(self, task: int) -> Any:
        found = self._results.reader.read(task)
        part = dict(zip(found.names, found.parts, strict=True)).get(self.name)
        if part is None:
            return None
        if part.size < np.prod(self._row_shape, dtype=object):
            return padded(part[np.newaxis], self._row_shape, part.dtype.str)[0]
        # Of an array without dimensions the element: it would be an element itself in text.
        return part.reshape(self._row_shape)[()]

    def __reduce__(self) -> Any:
        form = Form(self._row_shape, self._row_dtype)
        own = (self._axes, form, self._column, self._has_gaps)
        return type(self), (self._results, self.name, *own)


def _places(key: Any, n: int) -> Array:
    """Return what an entry of an index chooses of an axis, without making all of the axis."""
    return np.arange(*key.indices(n)) if isinstance(key, slice) else np.asarray(range(n)[key])


def _complete(key: Any, ndim: int) -> tuple[Any, ...]:
    """Return an index with an entry for each axis."""
    keys = key if isinstance(key, tuple) else (key,)
    if Ellipsis in keys:
        at = keys.index(Ellipsis)
        keys = (*keys[:at], *[slice(None)] * (ndim - len(keys) + 1), *keys[at + 1 :])
    return (*keys, *[slice(None)] * (ndim - len(keys)))


class _Seen(NamedTuple):
    """The form of a result, the first task that has it, and how many do."""

    form: Form
    task: int
    n: int = 0


def stacked_arrays(results: Values, axes: tuple[int, ...], agreed: Agreed) -> Iterator[Stacked]:
    """Yield an array for each result; see `Stacked`.

    What all tasks say of arrays that do not lie in rows is in `agreed` then.

    Raises
    ------
    InputError
        A result differs in shape from task to task.
    """
    columns = results.reader.columns
    for k, column in enumerate(columns):
        name = column.name or column.dataset
        yield Stacked(results, name, axes, Form(column.row_shape, np.dtype(column.dtype)), k)
    done = results.recorded.history.done
    if columns and not (done["form"] & (AS_GROUPS | AS_RAGGED)).any():
        return
    n_done = int(results.recorded.is_done.sum())
    for name, seen in _forms(results, len(columns), agreed).items():
        yield Stacked(results, name, axes, seen.form, has_gaps=seen.n < n_done)


def _forms(results: Values, n_rows: int, agreed: Agreed) -> dict[str, _Seen]:
    """Return the common form of each result that does not lie in rows."""
    found: dict[str, _Seen] = {}
    is_single = True
    ragged = results.reader.ragged
    padded = ragged and (ragged.name or ragged.dataset)
    for task in np.flatnonzero(results.recorded.is_done).tolist():
        names, parts, pickled, note = results.reader.form(task)
        if pickled is not None:
            raise InputError(
                f"task {task} has returned what HDF5 cannot hold, which was pickled; it can be "
                f"had by acme_mpi.open(..., allow_pickle=True)[{task}] only"
            )
        agreed.meet(note)
        is_single = is_single and len(parts) == 1 and not note
        for name, form in list(zip(names, parts, strict=True))[n_rows:]:
            if form.shape is not None:
                known = found.setdefault(name, _Seen(form, task))
                if name == padded:
                    both = _longest(known.form, form)
                else:
                    both = _common(results, name, known, form, task)
                found[name] = _Seen(both, known.task, known.n + 1)
    # A number that is returned alone is stored with shape (1,).
    if is_single and len(found) == 1:
        return {name: _alone(seen) for name, seen in found.items()}
    return found


def _alone(seen: _Seen) -> _Seen:
    shape, dtype = seen.form
    return seen._replace(form=Form((), dtype)) if shape == (1,) else seen


def _longest(known: Form, form: Form) -> Form:
    """Return the form of rows that are padded to the longest."""
    assert known.shape is not None
    assert form.shape is not None
    return Form(tuple(map(max, known.shape, form.shape)), form.dtype)


def _common(results: Values, name: str, known: _Seen, form: Form, task: int) -> Form:
    """Return a form for two tasks."""
    if known.form.shape != form.shape:
        raise InputError(
            f"{name} of {results.name} differs in shape: {known.form.shape} in task {known.task}, "
            f"{form.shape} in task {task}; so there is no array of all. Take them one by one "
            "(results[i]), or have the run pad them: result_shape=(None, np.inf), "
            "--result-shape None,inf"
        )
    assert known.form.dtype is not None
    assert form.dtype is not None
    return Form(form.shape, _common_dtype(name, known, form.dtype, task))


def _common_dtype(name: str, known: _Seen, dtype: np.dtype[Any], task: int) -> np.dtype[Any]:
    first = known.form.dtype
    assert first is not None
    if first == dtype:
        return first
    if "O" in (first.kind + dtype.kind) and first.kind != dtype.kind:
        raise InputError(
            f"{name} is text in some tasks and numbers in others: {first} in task {known.task}, "
            f"{dtype} in task {task}; take them one by one (results[i])"
        )
    return np.result_type(first, dtype)
