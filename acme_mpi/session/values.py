"""Bring the values of a run in memory to whoever wants them, and its end to its caller."""

from __future__ import annotations

from typing import Any

import numpy as np

from acme_mpi.comm import World
from acme_mpi.engine.call import Options, Result
from acme_mpi.engine.summary import error_of
from acme_mpi.results.convert import Array, ResultError
from acme_mpi.results.encoder import encoder_of
from acme_mpi.results.spec import RowSpec
from acme_mpi.standing import loading
from acme_mpi.storage.base import Stored, missing_value
from acme_mpi.tasks.pickling import join_values


def deliver(world: World, result: Result, wants_values: bool = True) -> dict[int, str]:
    """Load the values of a run in memory where they are wanted. Collective.

    Returns
    -------
    dict of int to str
        Tasks whose value is of no use on this rank, and why.
    """
    reasons: dict[int, str] = {}
    if wants_values:
        with loading():
            result.values, reasons = values_of(result.stored, result.options)
    # It may be one rank alone that has the values, or cannot load them: all raise alike.
    for rank, (host, each) in enumerate(world.allgather((world.host, reasons))):
        result.fail_late(each, host, rank)
    return reasons


def finish(result: Result) -> Any:
    """Return what the caller gets for a result, or raise what it calls for. Independent."""
    results = result.stored.paths if result.options.output.store.writes_files else result.values
    error = error_of(result, results)
    if error is not None:
        try:
            raise error
        finally:
            # Its traceback holds this frame: what the callers have would live on in that circle.
            del error
    return results


def values_of(stored: Stored, options: Options) -> tuple[Any, dict[int, str]]:
    """Return the values of a run in memory, in task order, and those that do not load; why."""
    n_tasks, spec = options.work.n_tasks, options.work.spec
    pieces = [(runs, c.values, c.buffers) for runs, c in stored.pieces if c.values is not None]
    values, unloadable = join_values(pieces, n_tasks)
    if spec is None:
        return values, unloadable
    if spec.is_open:
        done = [k for runs, _ in stored.pieces for run in runs for k in range(*run)]
        return _stacked_values(values, sorted({*done} - {*unloadable}), spec, unloadable)
    pieces_of_rows = [(runs, content.columns) for runs, content in stored.pieces]
    return _whole(spec, n_tasks, pieces_of_rows, values), unloadable


def _stacked_values(
    values: list[Any], done: list[int], spec: RowSpec, unloadable: dict[int, str]
) -> tuple[Any, dict[int, str]]:
    """Return values in the form of the first one, and those that do not have it; why."""
    encoder = encoder_of(spec, in_memory=False)
    fitting, misfits = list[int](), dict(unloadable)
    for index in done:
        try:
            encoder.add(index, values[index])
            fitting.append(index)
        except ResultError as error:
            misfits[index] = error.told
    content, form = encoder.take(), encoder.spec
    if form is None or form.is_open:
        return None, misfits
    runs = [(index, index + 1) for index in fitting]
    further: list[Any] = [None] * len(values)
    for index, parts in zip(fitting, content.parts or (), strict=False):
        further[index] = parts
    return _whole(form, len(values), [(runs, content.columns)], further), misfits


Pieces = list[tuple[list[tuple[int, int]], list[Any]]]


def _whole(spec: RowSpec, n_tasks: int, pieces: Pieces, further: list[Any]) -> Any:
    """Return the stacked arrays, with the values that were not stacked behind them."""
    stacks = [_stack(column, n_tasks, pieces) for column in spec.columns]
    rest = [value for more in further if more for value in more]
    if spec.names:
        return dict(zip(spec.names, stacks, strict=True))
    return stacks[0] if len(stacks) == 1 and not rest else [*stacks, *rest]


def _stack(column: RowSpec, n_tasks: int, pieces: Pieces) -> Array:
    """Return the array of one column."""
    rows = np.full((n_tasks, *column.row_shape), missing_value(column.dtype), column.dtype)
    for runs, columns in pieces:
        done = 0
        for start, stop in runs:
            rows[start:stop] = columns[column.number][done : done + stop - start]
            done += stop - start
    stacked = np.ascontiguousarray(np.moveaxis(rows, 0, column.axis))
    return stacked.reshape(column.whole_shape(n_tasks))
