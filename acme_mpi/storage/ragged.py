"""Rows that differ in one axis: how long they are, and how they are padded to one length."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np

from acme_mpi.results.convert import Array
from acme_mpi.results.spec import RowSpec
from acme_mpi.storage.base import missing_value


def longest_row(spec: RowSpec, shapes: Iterable[tuple[int, ...]]) -> tuple[int, ...]:
    """Return the shape of rows, in an unlimited axis the greatest length, 0 without any."""
    known = list(shapes) or [(0,) * len(spec.shape)]
    return tuple(
        int(max(lengths) if n == np.inf else n)
        for n, lengths in zip(spec.shape, zip(*known, strict=True), strict=True)
    )


def padded(rows: Array, row_shape: tuple[int, ...], dtype: str) -> Array:
    """Return the rows extended to `row_shape` with the missing value of a dtype, in that."""
    full = np.full((len(rows), *row_shape), missing_value(dtype), dtype)
    full[tuple(slice(0, n) for n in rows.shape)] = rows
    return full


def unpadded(row: Array, spec: RowSpec) -> Array:
    """Return a padded row, (*row_shape), without the missing values at its end."""
    axis, missing = spec.shape.index(np.inf), missing_value(spec.dtype)
    is_padding = np.isnan(row) if row.dtype.kind in "fc" else row == missing
    others = tuple(k for k in range(row.ndim) if k != axis)
    kept = np.flatnonzero(~is_padding.all(axis=others))
    n_kept = int(kept[-1]) + 1 if len(kept) else 0
    return row[(slice(None),) * axis + (slice(n_kept),)]
