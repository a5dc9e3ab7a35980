"""Payload files whose metadata changes as a whole or not at all, whenever the process is killed.

HDF5 changes the index of a file in place, with several writes. A process that is killed between two
of them leaves a file in which nothing is found any more, also nothing of what was recorded long
before. So what HDF5 writes stays in memory (h5py's driver for Python objects) until it is complete.
Then new bytes go behind the end of the file, where nothing points to them yet; what replaces bytes
goes first into a small file of its own, the log, and only then to its place. Whoever finds a whole
log repeats what it says.

References
----------
Mohan et al. (1992), ARIES, ACM Trans. Database Syst. 17(1), 94-162: redo from a write-ahead log.
"""

from __future__ import annotations

import contextlib
import os
import threading
import zlib
from bisect import bisect_right
from collections.abc import Sequence
from typing import Any, NamedTuple

from acme_mpi.history.journal import FileKey
from acme_mpi.history.parsing import (
    REDO_BYTES,
    REDO_CRC,
    REDO_HEADER,
    REDO_MAGIC,
    REDO_PIECE,
    Piece,
    parse_redo,
    read_file,
)
from acme_mpi.linux.offsets import write_all
from acme_mpi.storage.driven import DrivenFile


class Change(NamedTuple):
    """What has still to be done to a file so that it shows all that was written.

    Attributes
    ----------
    file : AtomicFile
        The file.
    pieces : list of (int, bytes)
        Offsets, and what belongs there.
    n_bytes : int
        Size that the file has with them.
    is_last : bool
        Nothing follows.
    """

    file: AtomicFile
    pieces: list[Piece]
    n_bytes: int
    is_last: bool = False


class AtomicFile(DrivenFile):
    """A new file that HDF5 reads and writes, and that changes only by `make_changes`.

    HDF5 and `take_change` belong to one thread; `make_changes` may be called in another.

    Parameters
    ----------
    path : str
        Must not exist.
    log_path : str
        For the log, while there is one.
    key : FileKey
        Which file it is.
    """

    def __init__(self, path: str, log_path: str, key: FileKey) -> None:
        super().__init__(path, os.O_EXCL)
        self._log_path, self.key = log_path, key
        self._settled_end = 0  # what is recorded lies before it
        self._new: list[Piece] = []
        self._under_way: list[Piece] = []
        self._lock = threading.Lock()
        # Bytes that nothing recorded lies in, though they are before the end: start, stop.
        self._starts: list[int] = []
        self._stops: list[int] = []
        self._is_abandoned = False

    # The methods that h5py's driver calls, besides those of every `DrivenFile`.

    def _in_memory(self) -> list[Piece]:
        with self._lock:
            return [*self._under_way, *self._new]

    def write(self, data: Any) -> int:
        """Keep what HDF5 writes."""
        self.put(self._offset, bytes(data))
        self._offset += len(data)
        return len(data)

    def truncate(self, n_bytes: int) -> int:
        """Note how long the file has to be."""
        self._end = n_bytes
        return n_bytes

    def flush(self) -> None:
        """Do nothing: HDF5 may call this when it is not yet finished."""

    # What the owner calls.

    def put(self, offset: int, data: bytes) -> None:
        """Write bytes that HDF5 has left to others."""
        if not self._is_abandoned:
            self._new.append((offset, data))
            self._end = max(self._end, offset + len(data))

    def is_free(self, offset: int) -> bool:
        """Tell whether new space at an offset may be written at once, by whomever.

        HDF5 may give space away again that what is recorded still needs.
        """
        return offset >= self._settled_end

    def free(self, offset: int, n_bytes: int) -> None:
        """Have what is written into new space, now or later, go there at once."""
        if self.is_free(offset) and (not self._stops or offset >= self._stops[-1]):
            self._starts.append(offset)
            self._stops.append(offset + n_bytes)

    def take_change(self) -> Change:
        """Write what replaces nothing, and return the rest, to be handed to `make_changes`.

        Raises
        ------
        OSError
            The medium refused the data.
        """
        new: list[Piece] = []
        rest: list[Piece] = []
        # Told apart before they are joined: what is written at once must not lie in the log, too,
        # which is carried out later.
        for piece in self._new:
            (new if self._replaces_nothing(*piece) else rest).append(piece)
        self._new = []
        for offset, data in merged(new):
            write_all(self._descriptor, data, offset)
        # HDF5 says how far it has given space away, so nothing is cut off.
        if os.fstat(self._descriptor).st_size < self._end:
            os.ftruncate(self._descriptor, self._end)
        rest = merged(rest)
        self._settled_end = max(self._settled_end, self._end)
        with self._lock:
            self._under_way += rest
        return Change(self, rest, self._end)

    def last_change(self) -> Change:
        """Return that nothing more comes."""
        return Change(self, [], self._settled_end, is_last=True)

    def _replaces_nothing(self, offset: int, data: bytes) -> bool:
        if offset >= self._settled_end:
            return True
        at = bisect_right(self._starts, offset) - 1
        return at >= 0 and offset + len(data) <= self._stops[at]

    def abandon(self) -> None:
        """Take no more: the medium refused something. What is recorded stays whole."""
        self._is_abandoned = True
        self._new.clear()

    def write_log(self, changes: Sequence[Change]) -> None:
        """Make sure that the changes will be made, whatever happens. Any one thread.

        Raises
        ------
        OSError
            The medium refused the data.
        """
        pieces = [piece for change in changes for piece in change.pieces]
        if not pieces:
            return
        text = REDO_HEADER.pack(REDO_MAGIC, changes[-1].n_bytes, len(pieces))
        text += b"".join(REDO_PIECE.pack(offset, len(data)) + data for offset, data in pieces)
        # Not kept open: many files may wait for the disk together.
        log = os.open(self._log_path, os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC, 0o666)
        try:
            write_all(log, text + REDO_CRC.pack(zlib.crc32(text)), 0)
            os.fdatasync(log)
        finally:
            os.close(log)

    def make_changes(self, changes: Sequence[Change]) -> None:
        """Make changes that stand in the log, in order. The thread of `write_log`.

        Raises
        ------
        OSError
            The medium refused the data.
        """
        for change in changes:
            for offset, data in change.pieces:
                write_all(self._descriptor, data, offset)
            with self._lock:
                del self._under_way[: len(change.pieces)]

    def finish(self) -> None:
        """Bring the last changes to the disk and close the file. The thread of `write_log`.

        Raises
        ------
        OSError
            The medium refused the data.
        """
        os.fdatasync(self._descriptor)
        with contextlib.suppress(FileNotFoundError):
            os.unlink(self._log_path)


def merged(pieces: Sequence[Piece]) -> list[Piece]:
    """Return the same bytes in as few pieces as possible; what was written later counts."""
    ordered = sorted({(offset, len(data)): (offset, data) for offset, data in pieces}.values())
    runs: list[tuple[int, list[bytes]]] = []
    end = -1
    for offset, data in ordered:
        if offset < end:  # of different lengths at overlapping places
            return list(pieces)
        if offset != end:
            runs.append((offset, []))
        runs[-1][1].append(data)
        end = offset + len(data)
    return [(offset, b"".join(run)) for offset, run in runs]


def redo(log_path: str, path: str) -> None:
    """Make the changes that stand in a log, and remove it. Nobody may have the file open.

    Parameters
    ----------
    log_path : str
        If it is torn, nothing of it has been done, and nothing will be.
    path : str
        The file that is changed.

    Raises
    ------
    Damaged
        It is no log, or says what cannot be; nothing of it is done.
    OSError
        The medium refused it.
    """
    text = read_file(log_path, REDO_BYTES)
    if os.path.isfile(path):
        _carry_out(text, log_path, path)
    with contextlib.suppress(FileNotFoundError):
        os.unlink(log_path)


def _carry_out(text: bytes, log_path: str, path: str) -> None:
    # What is new was in the file before the log was written.
    found = parse_redo(text, log_path, os.path.getsize(path) + len(text))
    if found is not None:
        n_bytes, pieces = found
        descriptor = os.open(path, os.O_WRONLY | os.O_CLOEXEC)
        try:
            for offset, data in pieces:
                write_all(descriptor, data, offset)
            if os.fstat(descriptor).st_size < n_bytes:
                os.ftruncate(descriptor, n_bytes)
            os.fdatasync(descriptor)
        finally:
            os.close(descriptor)
