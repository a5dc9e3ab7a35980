"""What the tasks of one outcome have returned, in the form that the store of a run wants."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from acme_mpi.results.convert import Array
from acme_mpi.results.parts import Parts


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
