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
MOST_OPEN = 16  # tasks that follow each other lie in the files of several ranks
_FAULTS = (OSError, KeyError, RuntimeError, ValueError)

T = TypeVar("T")


class SettledFiles:
    """HDF5 files, of which some stay open as long as they do not change.

    Methods may be called in any thread.

    Parameters
    ----------
    is_changing : callable
        Tells whether a run may be writing.
    """

    def __init__(self, is_changing: Callable[[], bool]) -> None:
        self._is_changing = is_changing
        self._lock = threading.RLock()
        self._opened: dict[str, _Opened] = {}  # by path, that used last is the last
        self._used: set[str] = set()  # by this attempt

    def close(self) -> None:
        """Close all files; another read opens them again."""
        with self._lock:
            for path in [*self._opened]:
                self._opened.pop(path).file.close()

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
        found = self._opened.pop(path, None)
        if found is not None and found[:3] != (stamp, log_path, log):
            found.file.close()
            found = None
        if found is None:
            found = _Opened(stamp, log_path, log, open_apart(path, log, log_path))
        self._opened[path] = found
        self._used.add(path)
        self._close_oldest()
        return found.file

    def _close_oldest(self) -> None:
        oldest = next(iter(self._opened))
        if len(self._opened) > MOST_OPEN and oldest not in self._used:
            self._opened.pop(oldest).file.close()

    def attempt(self, read: Callable[[], T]) -> T:
        """Return what is read; of a file that a run is changing after another look.

        Raises
        ------
        StoreError
            It cannot be read.
        """
        with self._lock:
            for pause_s in PAUSES_S:
                self._used.clear()
                try:
                    value = read()
                    if self._is_settled():
                        return value
                except _FAULTS:
                    if not self._is_changing():
                        break
                self.close()
                time.sleep(pause_s)
            self._used.clear()
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
        """Tell whether no change has begun since the files were opened that were read."""
        used = [self._opened[path] for path in self._used]
        return all(log_text(each.log_path) == each.log for each in used)


class _Opened(NamedTuple):
    """A file that is open, and in which state."""

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
