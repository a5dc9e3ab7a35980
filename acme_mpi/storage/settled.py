"""Read files that a run may be changing: it counts only if no change has begun meanwhile."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable
from typing import NamedTuple, TypeVar

import h5py

from acme_mpi.errors import StoreError
from acme_mpi.history.journal import stamp_of
from acme_mpi.history.parsing import Damaged
from acme_mpi.storage.redone import log_text, open_apart

PAUSES_S = (0.01, 0.05, 0.25)  # before another look at a file that a run is changing
_FAULTS = (OSError, KeyError, RuntimeError, ValueError)

T = TypeVar("T")


class SettledFiles:
    """HDF5 files, of which the last one stays open as long as it does not change.

    Methods may be called in any thread.

    Parameters
    ----------
    is_changing : callable
        Tells whether a run may be writing.
    """

    def __init__(self, is_changing: Callable[[], bool]) -> None:
        self._is_changing = is_changing
        self._lock = threading.RLock()
        self._opened: _Opened | None = None

    def close(self) -> None:
        """Close the file that was read last; another read opens it again."""
        with self._lock:
            if self._opened is not None:
                self._opened.file.close()
                self._opened = None

    def open(self, path: str, log_path: str = "") -> h5py.File:
        """Return a file open for reading, within `attempt`.

        Parameters
        ----------
        path : str
            The file.
        log_path : str
            What has still to be changed in it; empty: it is complete, or will be replaced.
        """
        status, log = os.stat(path), log_text(log_path)
        stamp = status.st_ino if log_path else stamp_of(status)
        if self._opened is None or self._opened[:4] != (path, stamp, log_path, log):
            self.close()
            self._opened = _Opened(path, stamp, log_path, log, open_apart(path, log, log_path))
        return self._opened.file

    def attempt(self, read: Callable[[], T]) -> T:
        """Return what is read; of a file that a run is changing after another look.

        Raises
        ------
        StoreError
            It cannot be read.
        """
        with self._lock:
            for pause_s in PAUSES_S:
                try:
                    value = read()
                    if self._is_settled():
                        return value
                except _FAULTS:
                    if not self._is_changing():
                        break
                self.close()
                time.sleep(pause_s)
            try:
                value = read()
            except _FAULTS as error:
                raise StoreError(_why(error)) from None
            if not self._is_settled():
                raise StoreError(
                    "a result cannot be read: its file changes all the time; try again"
                )
            return value

    def _is_settled(self) -> bool:
        """Tell whether no change has begun since the file was opened that was read."""
        opened = self._opened
        return opened is None or log_text(opened.log_path) == opened.log


class _Opened(NamedTuple):
    """A file that is open, and in which state."""

    path: str
    stamp: int
    log_path: str
    log: bytes
    file: h5py.File


def _why(error: Exception) -> str:
    if isinstance(error, Damaged):
        return str(error)
    path, reason = getattr(error, "filename", None), getattr(error, "strerror", None)
    text = f"{path}: {reason}" if path and reason else " ".join(str(error).split())
    return f"a result cannot be read: {text}; `python -m acme_mpi check` says what is damaged"
