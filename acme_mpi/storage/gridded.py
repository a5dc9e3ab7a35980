"""The rows of consecutive tasks in an array that has the axes of a grid in the tasks' place."""

from __future__ import annotations

import math
from collections.abc import Iterator

import h5py
import numpy as np

from acme_mpi.results.convert import Array
from acme_mpi.results.spec import RowSpec

Box = tuple[slice, ...]


def boxes(spec: RowSpec, first: int, count: int) -> Iterator[Box]:
    """Yield the indices, up to the tasks' axes, of blocks of the container's array.

    Together they are the rows of `count` tasks from `first` on, in their order: one block without
    a grid, else at most two for each of its axes.
    """
    before = (slice(None),) * spec.axis
    found = (
        _boxes(spec.grid, first, first + count) if spec.grid else [(slice(first, first + count),)]
    )
    for box in found:
        yield (*before, *box)


def _boxes(grid: tuple[int, ...], start: int, stop: int) -> Iterator[Box]:
    """Yield the blocks of a grid that hold its elements [start, stop) in C order."""
    if start >= stop:
        return
    if len(grid) == 1:
        yield (slice(start, stop),)
        return
    n_inner = math.prod(grid[1:])
    first, last = start // n_inner, (stop - 1) // n_inner
    if first == last:
        yield from _in_plane(first, grid, start, stop)
        return
    if start % n_inner:
        yield from _in_plane(first, grid, start, (first + 1) * n_inner)
        first += 1
    is_cut = stop % n_inner != 0
    if first < last + (not is_cut):
        yield (slice(first, last + (not is_cut)), *(slice(0, n) for n in grid[1:]))
    if is_cut:
        yield from _in_plane(last, grid, last * n_inner, stop)


def _in_plane(at: int, grid: tuple[int, ...], start: int, stop: int) -> Iterator[Box]:
    """Yield the blocks of what lies in one step of the first axis."""
    before = at * math.prod(grid[1:])
    for box in _boxes(grid[1:], start - before, stop - before):
        yield (slice(at, at + 1), *box)


def read_rows(dataset: h5py.Dataset, spec: RowSpec, first: int, count: int) -> Array:
    """Return the rows of consecutive tasks, (count, *row_shape).

    Parameters
    ----------
    dataset : h5py.Dataset
        Rows one after the other, as in a payload file, or the container's array.
    spec : RowSpec
        Form of the rows.
    first, count : int
        Which rows.
    """
    if dataset.ndim == len(spec.shape) + 1:
        return np.moveaxis(dataset[spec.rows(first, count)], spec.axis, 0)
    axis, n_axes = spec.axis, len(spec.grid)
    blocks = [dataset[box] for box in boxes(spec, first, count)]
    rows = [
        block.reshape((*block.shape[:axis], -1, *block.shape[axis + n_axes :])) for block in blocks
    ]
    return np.moveaxis(np.concatenate(rows, axis), axis, 0)
