"""A file as whoever only reads sees it; nothing is written, and nobody notices.

A run that was killed may have left a payload in the midst of a change. Who resumes it makes the
change; who only reads, perhaps in a folder that cannot be written, sees it as made.

HDF5 gives all who open one file in one process one view of it. A run that this process makes would
get that of a reader who has opened the file before it was complete. So HDF5 gets the bytes from
here and knows of no file.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import Any

import h5py

from acme_mpi.history.parsing import REDO_BYTES, Piece, open_file, parse_redo, read_file
from acme_mpi.storage.driven import DrivenFile


class RedoneFile(DrivenFile):
    """A file, open for reading, with other bytes in some places.

    Parameters
    ----------
    path : str
        The file.
    n_bytes : int
        Its size with them.
    pieces : sequence of (int, bytes)
        Offsets, and what belongs there.
    """

    def __init__(self, path: str, n_bytes: int, pieces: Sequence[Piece]) -> None:
        self.path = path
        self._descriptor = open_file(path)
        self._end = max(n_bytes, os.fstat(self._descriptor).st_size)
        self._offset = 0
        self._pieces = pieces

    def _in_memory(self) -> Sequence[Piece]:
        return self._pieces

    def write(self, data: Any) -> int:
        """Refuse: it is for reading."""
        raise OSError(f"{self.path} is open for reading")

    def __del__(self) -> None:
        self.close()


def open_apart(path: str, log_path: str = "") -> h5py.File:
    """Return a file open for reading, which HDF5 does not know as one that others have open.

    Parameters
    ----------
    path : str
        The file.
    log_path : str
        Log of changes that are seen as made, if it is there; no run may be writing the file then.

    Raises
    ------
    Damaged
        The log is none, or says what cannot be.
    OSError
        A file is not there, or cannot be read, or is none of HDF5's.
    """
    raw = RedoneFile(path, *_undone(path, log_path))
    try:
        return h5py.File(raw, "r")
    except BaseException:
        raw.close()
        raise


def _undone(path: str, log_path: str) -> tuple[int, Sequence[Piece]]:
    """Return the size of a file, and what its log says that belongs into it."""
    nothing: tuple[int, Sequence[Piece]] = (0, [])
    if not os.path.lexists(log_path):
        return nothing
    text = read_file(log_path, REDO_BYTES)
    return parse_redo(text, log_path, os.path.getsize(path) + len(text)) or nothing
