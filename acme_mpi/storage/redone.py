"""A file as whoever only reads sees it; nothing is written, and nobody notices.

A payload changes in several places at once, and whoever reads it meanwhile would see some of them.
So it is read as it is once all changes are made that stand in its log. This is right as long as
nothing else stands there: the log is written before a change is made, and no other change is made
before it. A run that was killed has left it so, perhaps in a folder that cannot be written.

HDF5 gives all who open one file in one process one view of it. A run that this process makes would
get that of a reader who has opened the file before it was complete. So HDF5 gets the bytes from
here and knows of no file.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import Any

import h5py

from acme_mpi.history.parsing import REDO_BYTES, Piece, Section, open_file, read_file
from acme_mpi.storage.driven import DrivenFile
from acme_mpi.storage.redo import read_log


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
        self._descriptor = -1  # for `close`, if there is no such file
        self._descriptor = open_file(path)
        self.path = path
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


def log_text(log_path: str) -> bytes:
    """Return what stands in a log; nothing if there is none, as after the last change.

    Raises
    ------
    Damaged, OSError
        As `read_file`.
    """
    try:
        return read_file(log_path, REDO_BYTES) if log_path else b""
    except FileNotFoundError:
        return b""


def open_apart(path: str, log: bytes = b"", log_path: str = "") -> h5py.File:
    """Return a file open for reading, which HDF5 does not know as one that others have open.

    Parameters
    ----------
    path : str
        The file.
    log : bytes
        Of changes that are seen as made. If it is torn, those before it are made.
    log_path : str
        Where that stood.

    Raises
    ------
    Damaged
        The log says what cannot be.
    OSError
        The file is not there, or cannot be read, or is none of HDF5's.
    """
    sections = _sections(path, log, log_path) if log else []
    pieces = [piece for each in sections for piece in each.pieces]
    raw = RedoneFile(path, max((each.n_bytes for each in sections), default=0), pieces)
    try:
        return h5py.File(raw, "r")
    except BaseException:
        raw.close()
        raise


def _sections(path: str, log: bytes, log_path: str) -> list[Section]:
    descriptor = open_file(path)
    try:
        return read_log(log, log_path, descriptor).sections
    finally:
        os.close(descriptor)
