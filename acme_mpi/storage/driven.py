"""What files have in common whose methods HDF5 calls, by h5py's driver for Python objects."""

from __future__ import annotations

import os
from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Any

from acme_mpi.history.parsing import Piece


class DrivenFile(ABC):
    """A file that HDF5 reads as if all were in it that was written, also what is still in memory.

    Subclasses have ``write``, ``truncate`` and ``flush``, too. `flags` are those of `os.open`
    besides the ones to read and write, and to make the file.
    """

    def __init__(self, path: str, flags: int = 0) -> None:
        self.path = path
        self._descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | flags, 0o666)
        self._end = os.fstat(self._descriptor).st_size
        self._offset = 0

    @abstractmethod
    def _in_memory(self) -> Sequence[Piece]:
        """Return what is not in the file, in the order in which it was written."""

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        """Move to an offset; from the end is what h5py asks for at first."""
        self._offset = offset + (self._end if whence == os.SEEK_END else 0)
        return self._offset

    def tell(self) -> int:
        """Return the offset."""
        return self._offset

    def readinto(self, buffer: Any) -> int:
        """Read as if everything were in the file."""
        view, start = memoryview(buffer).cast("B"), self._offset
        # Before the file is read: a piece that leaves the memory meanwhile is in the file.
        pieces, stop = self._in_memory(), start + len(view)
        n_read = os.preadv(self._descriptor, [view], start)
        view[n_read:] = bytes(len(view) - n_read)
        for offset, data in pieces:
            first, last = max(offset, start), min(offset + len(data), stop)
            if first < last:
                view[first - start : last - start] = data[first - offset : last - offset]
        self._offset = stop
        return len(view)

    def read(self, n_bytes: int) -> bytes:
        """Read as if everything were in the file."""
        buffer = bytearray(n_bytes)
        self.readinto(buffer)
        return bytes(buffer)

    def fileno(self) -> int:
        """Return the descriptor."""
        return self._descriptor

    def close(self) -> None:
        """Close the descriptor. Twice is once."""
        if self._descriptor >= 0:
            os.close(self._descriptor)
        self._descriptor = -1
