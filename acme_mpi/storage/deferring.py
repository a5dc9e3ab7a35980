"""A file that HDF5 changes and that never refuses anything: its owner is told instead.

HDF5 cannot live with a medium that is full: what it could not write it tries to write again with
every object that is closed, prints why, and crashes the process in the end. So the bytes go through
here; once the medium has refused some, they and all later ones stay in memory, where HDF5 finds
them, until the owner asks.
"""

from __future__ import annotations

import os
from typing import Any

from acme_mpi.offsets import write_all

JOINED_BYTES = 1024**2  # of writes that go on where the last one ended


class DeferringFile:
    """A file in the form that h5py's driver for Python objects wants.

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
        self._descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o666)
        self._end = os.fstat(self._descriptor).st_size
        self._position = self._start = 0
        self._joined = bytearray()  # what belongs at `_start`
        self._kept: list[tuple[int, bytes]] = []  # what the medium has not taken, in order
        self._error: OSError | None = None

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        """Move to an offset."""
        self._position = offset + (self._end if whence == os.SEEK_END else 0)
        return self._position

    def tell(self) -> int:
        """Return the position."""
        return self._position

    def write(self, data: Any) -> int:
        """Take bytes."""
        goes_on = self._position == self._start + len(self._joined)
        if not goes_on or len(self._joined) > JOINED_BYTES:
            self.flush()
            self._start = self._position
        self._joined += data
        self._position += len(data)
        self._end = max(self._end, self._position)
        return len(data)

    def readinto(self, buffer: Any) -> int:
        """Read what was written, wherever it is."""
        self.flush()
        view, start = memoryview(buffer).cast("B"), self._position
        n_read = os.preadv(self._descriptor, [view], start)
        view[n_read:] = bytes(len(view) - n_read)
        stop = start + len(view)
        for offset, data in self._kept:
            first, last = max(offset, start), min(offset + len(data), stop)
            if first < last:
                view[first - start : last - start] = data[first - offset : last - offset]
        self._position = stop
        return len(view)

    def read(self, n_bytes: int) -> bytes:
        """Read what was written, wherever it is."""
        buffer = bytearray(n_bytes)
        self.readinto(buffer)
        return bytes(buffer)

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
        data, self._joined = bytes(self._joined), bytearray()
        if not data:
            return
        if self._error is None:
            try:
                return write_all(self._descriptor, data, self._start)
            except OSError as error:
                self._error = error
        self._kept.append((self._start, data))

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

    def fileno(self) -> int:
        """Return the descriptor."""
        return self._descriptor

    def close(self) -> None:
        """Close the descriptor."""
        os.close(self._descriptor)
