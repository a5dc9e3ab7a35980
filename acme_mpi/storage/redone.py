"""A payload file as it is once the changes are made that its log still holds; nothing is written.

A run that was killed may have left a payload in the midst of a change. Who resumes it makes the
change; who only reads, perhaps in a folder that cannot be written, sees it as made.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import Any

import h5py

from acme_mpi.history.parsing import REDO_BYTES, Piece, open_file, parse_redo, read_file
from acme_mpi.storage import hdf5
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


def open_redone(path: str, log_path: str) -> h5py.File:
    """Return a payload file open for reading, with the changes in its log, if there is one.

    No run may be writing it.

    Raises
    ------
    Damaged
        The file or the log is none, or says what cannot be.
    OSError
        It is not there, or cannot be read.
    """
    try:
        text = read_file(log_path, REDO_BYTES)
    except FileNotFoundError:
        return hdf5.open_to_read(path)
    found = parse_redo(text, log_path, os.path.getsize(path) + len(text))
    return hdf5.open_to_read(path) if found is None else h5py.File(RedoneFile(path, *found), "r")
