"""Bring the values of a run in memory to whoever wants them, and its end to its caller."""

from __future__ import annotations

from typing import Any

import numpy as np

from acme_mpi.comm import World
from acme_mpi.engine.call import Options, Result
from acme_mpi.engine.summary import error_of
from acme_mpi.results.convert import Array
from acme_mpi.results.spec import RowSpec
from acme_mpi.runner.loading import join_values
from acme_mpi.standing import loading
from acme_mpi.storage.base import Stored, missing_value


def deliver(world: World, result: Result, wants_values: bool = True) -> dict[int, str]:
    """Load the values of a run in memory where they are wanted. Collective.

    Returns
    -------
    dict of int to str
        Tasks whose value does not load on this rank, and why.
    """
    reasons: dict[int, str] = {}
    if wants_values:
        with loading():
            result.values, reasons = values_of(result.stored, result.options)
    # It may be one rank alone that has the values, or cannot load them: all raise alike.
    for rank, (host, each) in enumerate(world.allgather((world.host, reasons))):
        result.fail_unloadable(each, host, rank)
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
    pieces_of_rows = [(runs, content.columns) for runs, content in stored.pieces]
    stacks = [_stack(column, n_tasks, pieces_of_rows) for column in spec.columns]
    whole = dict(zip(spec.names, stacks, strict=True)) if spec.names else stacks[0]
    rest = [value for more in values if more for value in more]
    return [whole, *rest] if rest else whole, unloadable


def _stack(
    column: RowSpec, n_tasks: int, pieces: list[tuple[list[tuple[int, int]], list[Any]]]
) -> Array:
    """Return the array of one column."""
    rows = np.full((n_tasks, *column.row_shape), missing_value(column.dtype), column.dtype)
    for runs, columns in pieces:
        done = 0
        for start, stop in runs:
            rows[start:stop] = columns[column.number][done : done + stop - start]
            done += stop - start
    stacked = np.ascontiguousarray(np.moveaxis(rows, 0, column.axis))
    return stacked.reshape(column.whole_shape(n_tasks))
