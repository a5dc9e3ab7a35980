"""In which pieces a large array over tasks is read and written."""

from __future__ import annotations

from collections.abc import Sequence

BLOCK_BYTES = 16 * 1024**2  # read at once
CHUNK_BYTES = 1024**2  # compressed together in a file


def block_shape(shape: Sequence[int], n_axes: int, itemsize: int) -> tuple[int, ...]:
    """Return the shape of the blocks in which an array is read: whole chunks along each axis.

    Parameters
    ----------
    shape : sequence of int
        Of the array.
    n_axes : int
        So many of its axes, the first ones, count tasks; a task's result is never divided.
    itemsize : int
        Bytes of an element.
    """
    chunk = chunk_shape(shape, n_axes, itemsize)
    block = _fitting(shape, n_axes, itemsize, BLOCK_BYTES)
    return tuple(
        b if b == n else max(c, b // c * c) for b, c, n in zip(block, chunk, shape, strict=True)
    )


def chunk_shape(shape: Sequence[int], n_axes: int, itemsize: int) -> tuple[int, ...]:
    """Return the shape of the chunks in which an array is compressed; see `block_shape`."""
    return _fitting(shape, n_axes, itemsize, CHUNK_BYTES)


def _fitting(shape: Sequence[int], n_axes: int, itemsize: int, n_most: int) -> tuple[int, ...]:
    sizes = [max(1, n) for n in shape]
    n_bytes = max(1, itemsize)
    for n in sizes[n_axes:]:
        n_bytes *= n
    for axis in reversed(range(n_axes)):
        sizes[axis] = max(1, min(sizes[axis], n_most // n_bytes))
        n_bytes *= sizes[axis]
    return tuple(sizes)
