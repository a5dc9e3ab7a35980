"""Payload files whose metadata changes as a whole or not at all, whenever process or node dies.

HDF5 changes the index of a file in place, with several writes. A process that is killed between two
of them leaves a file in which nothing is found any more, also nothing of what was recorded long
before. So what HDF5 writes stays in memory (h5py's driver for Python objects) until it is complete.
Then new bytes go behind the end of the file, where nothing points to them yet; what replaces bytes
goes into a small file of its own, the log. Its place is changed only at the next sync point, once
log and new bytes are on the disk. Whoever finds a log repeats what it says.

Nothing of this waits for the disk, so a node that loses power may leave a log whose new bytes are
gone. A section of the log therefore knows its new bytes by checksums, and counts only if they are
there. Once changes have begun these may be overwritten; that is why the log is sealed before.

References
----------
Mohan et al. (1992), ARIES, ACM Trans. Database Syst. 17(1), 94-162: redo from a write-ahead log.
"""

from __future__ import annotations

import contextlib
import os
import threading
from bisect import bisect_right
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

from acme_mpi.history.journal import FileKey, sync_folder
from acme_mpi.history.parsing import (
    REDO_BYTES,
    New,
    Piece,
    RedoLog,
    Section,
    pack_seal,
    pack_section,
    parse_redo,
    read_file,
)
from acme_mpi.linux.offsets import write_all
from acme_mpi.results.checksum import checksum
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
    new : list of New
        What was written at once, and may be pointed to by the pieces.
    is_last : bool
        Nothing follows.
    """

    file: AtomicFile
    pieces: list[Piece]
    n_bytes: int
    new: Sequence[New] = ()
    is_last: bool = False


class AtomicFile(DrivenFile):
    """A new file that HDF5 reads and writes, and that changes only by `make_changes`.

    HDF5 and `take_change` belong to one thread; the log and `make_changes` to any other one.

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
        self.log_bytes = 0  # 0: nothing is in it that has still to be done
        self._known: list[New] = []  # bytes that no section of the log knows yet
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
        if data and not self._is_abandoned:
            self._new.append((offset, data))
            self._end = max(self._end, offset + len(data))

    def is_free(self, offset: int) -> bool:
        """Tell whether new space at an offset may be written at once, by whomever.

        HDF5 may give space away again that what is recorded still needs.
        """
        return offset >= self._settled_end

    def free(self, offset: int, n_bytes: int) -> None:
        """Have what is written into new space, now or later, go there at once.

        It has to be space for values, to which no bytes of HDF5's own belong.
        """
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
        free: list[Piece] = []
        new: list[Piece] = []
        rest: list[Piece] = []
        # Told apart before they are joined: what is written at once must not lie in the log, too,
        # which is carried out later.
        for piece in self._new:
            offset, data = piece
            if self._is_in_free_space(offset, len(data)):
                free.append(piece)
            else:
                (new if self.is_free(offset) else rest).append(piece)
        self._new = []
        new = merged(new)
        for offset, data in (*merged(free), *new):
            write_all(self._descriptor, data, offset)
        # HDF5 says how far it has given space away, so nothing is cut off.
        if os.fstat(self._descriptor).st_size < self._end:
            os.ftruncate(self._descriptor, self._end)
        rest = merged(rest)
        self._settled_end = max(self._settled_end, self._end)
        with self._lock:
            self._under_way += rest
        # Values in free space may be overwritten at any time; records know them by checksums.
        known = [New(offset, len(data), checksum(data)) for offset, data in new]
        return Change(self, rest, self._end, known)

    def last_change(self) -> Change:
        """Return that nothing more comes."""
        return Change(self, [], self._settled_end, is_last=True)

    def _is_in_free_space(self, offset: int, n_bytes: int) -> bool:
        at = bisect_right(self._starts, offset) - 1
        return at >= 0 and offset + n_bytes <= self._stops[at]

    def abandon(self) -> None:
        """Take no more: the medium refused something. What is recorded stays whole."""
        self._is_abandoned = True
        self._new.clear()

    def write_log(self, changes: Sequence[Change]) -> None:
        """Have changes survive the death of this process.

        Raises
        ------
        OSError
            The medium refused the data.
        """
        pieces = [piece for change in changes for piece in change.pieces]
        self._known += [each for change in changes for each in change.new]
        if pieces:
            with self._opened_log() as log:
                self._append(log, pack_section(changes[-1].n_bytes, pieces, self._known))
            self._known = []

    @contextlib.contextmanager
    def _opened_log(self) -> Iterator[int]:
        new = 0
        if not self.log_bytes:
            # A new file for each time between two sync points: after a loss of power pages of an
            # older log would pass for some of this one.
            self._remove_log()
            new = os.O_CREAT | os.O_EXCL
        # Not kept open: many files may wait for a sync point together.
        log = os.open(self._log_path, os.O_WRONLY | os.O_CLOEXEC | new, 0o666)
        try:
            yield log
        finally:
            os.close(log)

    def _append(self, log: int, text: bytes) -> None:
        write_all(log, text, self.log_bytes)
        self.log_bytes += len(text)

    def seal_log(self) -> None:
        """Bring the log to the disk, except for its name, once the file is there.

        Raises
        ------
        OSError
            The medium refused the data.
        """
        if self.log_bytes:
            with self._opened_log() as log:
                self._append(log, pack_seal(self.log_bytes))
                os.fdatasync(log)

    def make_changes(self, changes: Sequence[Change]) -> None:
        """Make changes that stand in the log, all of them in order.

        Raises
        ------
        OSError
            The medium refused the data.
        """
        pieces = [piece for change in changes for piece in change.pieces]
        for offset, data in merged(pieces):
            write_all(self._descriptor, data, offset)
        with self._lock:
            del self._under_way[: len(pieces)]

    def settle(self) -> None:
        """Bring the changes to the disk. The log stays: it tells readers in which state this is.

        Raises
        ------
        OSError
            The medium refused the data.
        """
        self._known = []
        if self.log_bytes:
            os.fdatasync(self._descriptor)
            self.log_bytes = 0

    def finish(self) -> None:
        """Bring the last changes to the disk, and remove the log.

        Raises
        ------
        OSError
            The medium refused the data.
        """
        self.settle()
        self._remove_log()

    def _remove_log(self) -> None:
        with contextlib.suppress(FileNotFoundError):
            os.unlink(self._log_path)


def merged(pieces: Sequence[Piece]) -> list[Piece]:
    """Return the same bytes in as few pieces as possible; what was written later counts."""
    latest = {(offset, len(data)): (k, data) for k, (offset, data) in enumerate(pieces)}
    runs: list[list[tuple[int, int, bytes]]] = []
    end = -1
    for (offset, n_bytes), (k, data) in sorted(latest.items()):
        if offset > end:
            runs.append([])
        runs[-1].append((k, offset, data))
        end = max(end, offset + n_bytes)
    return [_joined(run) for run in runs]


def _joined(run: Sequence[tuple[int, int, bytes]]) -> Piece:
    """Return pieces (number, offset, bytes) that lie together as one; greater numbers count."""
    start = run[0][1]
    n_bytes = max(offset + len(data) for _, offset, data in run) - start
    if n_bytes == sum(len(data) for _, _, data in run):
        return start, b"".join(data for _, _, data in run)
    whole = bytearray(n_bytes)
    for _, offset, data in sorted(run):
        whole[offset - start : offset - start + len(data)] = data
    return start, bytes(whole)


def redo(log_path: str, path: str) -> None:
    """Make the changes that stand in a log, and remove it. Nobody may have the file open.

    Parameters
    ----------
    log_path : str
        What of it is torn, or points to what is not there, is not done.
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
        descriptor = os.open(path, os.O_RDWR | os.O_CLOEXEC)
        try:
            _carry_out(text, log_path, descriptor)
        finally:
            os.close(descriptor)
    with contextlib.suppress(FileNotFoundError):
        os.unlink(log_path)


def read_log(text: bytes, log_path: str, descriptor: int) -> RedoLog:
    """Return what of a log counts.

    Parameters
    ----------
    text : bytes
        The log.
    log_path : str
        Where it was read.
    descriptor : int
        Of its file, open for reading.

    Raises
    ------
    Damaged
        It says what cannot be.
    """
    # What is new was in the file before the log was written.
    n_most = os.fstat(descriptor).st_size + len(text)
    log = parse_redo(text, log_path, n_most)
    return log if log.is_sealed else RedoLog(_founded(log.sections, descriptor), False)


def _carry_out(text: bytes, log_path: str, descriptor: int) -> None:
    sections, is_sealed = read_log(text, log_path, descriptor)
    if not sections:
        return
    os.fdatasync(descriptor)
    if not is_sealed:
        _seal(log_path, sections[-1].stop)
    for offset, data in merged([piece for each in sections for piece in each.pieces]):
        write_all(descriptor, data, offset)
    n_bytes = max(each.n_bytes for each in sections)
    if os.fstat(descriptor).st_size < n_bytes:
        os.ftruncate(descriptor, n_bytes)
    os.fdatasync(descriptor)


def _founded(sections: Sequence[Section], descriptor: int) -> list[Section]:
    """Return the sections before the first whose new bytes are not all in the file."""
    found: list[Section] = []
    n_bytes = os.fstat(descriptor).st_size
    for section in sections:
        if section.n_bytes > n_bytes:
            return found
        for offset, length, number in section.new:
            if checksum(os.pread(descriptor, length, offset)) != number:
                return found
        found.append(section)
    return found


def _seal(log_path: str, n_bytes: int) -> None:
    """Seal a log behind its first bytes, on the disk: what is done next may be half done."""
    log = os.open(log_path, os.O_WRONLY | os.O_CLOEXEC)
    try:
        write_all(log, pack_seal(n_bytes), n_bytes)
        os.fdatasync(log)
    finally:
        os.close(log)
    sync_folder(os.path.dirname(log_path))
