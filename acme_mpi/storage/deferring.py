"""A file that HDF5 changes and that never refuses anything: its owner is told instead.

HDF5 cannot live with a medium that is full: what it could not write it tries to write again with
every object that is closed, prints why, and crashes the process in the end. So the bytes go through
here; once the medium has refused some, they and all later ones stay in memory, where HDF5 finds
them, until the owner asks.
"""

from __future__ import annotations

import os
from typing import Any

from acme_mpi.history.parsing import Piece
from acme_mpi.linux.offsets import write_all
from acme_mpi.storage.driven import DrivenFile

JOINED_BYTES = 1024**2  # of writes that each begin where the last one ended


class DeferringFile(DrivenFile):
    """A file that HDF5 changes at once, as far as the medium takes it.

    Parameters
    ----------
    path : str
        Made if it is not there.

    Raises
    ------
    OSError
        It cannot be opened.
    """

    def __init__(self, path: str) -> None:
        super().__init__(path)
        self._start = 0
        self._joined = bytearray()  # what belongs at `_start`
        self._kept: list[Piece] = []  # what the medium has not taken, in order
        self._error: OSError | None = None

    def _in_memory(self) -> list[Piece]:
        self.flush()
        return self._kept

    def write(self, data: Any) -> int:
        """Take bytes."""
        is_adjacent = self._offset == self._start + len(self._joined)
        if not is_adjacent or max(len(data), len(self._joined)) >= JOINED_BYTES:
            self.flush()
            self._start = self._offset
        if len(data) >= JOINED_BYTES:  # two copies of it would take longer than to write it
            self._hand_over(data, self._offset)
        else:
            self._joined += data
        self._offset += len(data)
        self._end = max(self._end, self._offset)
        return len(data)

    def truncate(self, n_bytes: int) -> int:
        """Give the file a length."""
        self.flush()
        self._end = n_bytes
        if self._error is None:
            try:
                os.ftruncate(self._descriptor, n_bytes)
            except OSError as error:
                self._error = error
        return n_bytes

    def flush(self) -> None:
        """Hand over to the medium what is joined."""
        data, self._joined = self._joined, bytearray()
        if data:
            self._hand_over(data, self._start)

    def _hand_over(self, data: Any, start: int) -> None:
        if self._error is None:
            try:
                return write_all(self._descriptor, data, start)
            except OSError as error:
                self._error = error
        self._kept.append((start, bytes(data)))

    def settle(self) -> None:
        """Raise what the medium has refused; nothing more goes there then.

        Raises
        ------
        OSError
            The first error.
        """
        self.flush()
        if self._error is not None:
            raise self._error
