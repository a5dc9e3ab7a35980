"""Shared memory without a name: any process of the node can map it that is given the way to it.

A segment is a memory file (memfd): it never appears in ``/dev/shm``, is not bound by the size of
that, and the kernel frees it when the last process has gone that holds it, however they go.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import mmap
import os
import socket
from collections.abc import Iterable
from typing import Any, NamedTuple

from acme_mpi.errors import StoreError
from acme_mpi.linux.cgroup import bytes_left
from acme_mpi.linux.offsets import write_all

LITTLE_BYTES = 64 * 1024  # there is always room for it: a look at all limits takes longer
_NO_ROOM = (errno.ENOSPC, errno.ENOMEM, errno.EFBIG, errno.EDQUOT)
_SEALS = fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW | fcntl.F_SEAL_WRITE


class Address(NamedTuple):
    """Where another process of this node finds a segment; plain values."""

    pid: int
    descriptor: int
    device: int
    inode: int


class Segment:
    """One piece of shared memory, or of a file that has been removed where memory is short.

    Parameters
    ----------
    descriptor : int
        Of the file; the segment closes it.
    """

    def __init__(self, descriptor: int) -> None:
        self.descriptor = descriptor

    @classmethod
    def reserve(cls, n_bytes: int) -> Segment:
        """Return a new segment whose space is reserved: no access to it can fail later.

        Parameters
        ----------
        n_bytes : int
            Its size, >= 0.

        Raises
        ------
        StoreError
            There is room neither in memory nor in the directory for temporary files.
        """
        if n_bytes <= LITTLE_BYTES or n_bytes <= available_bytes():
            try:
                return cls._reserved(_memory_file(), n_bytes)
            except OSError as error:
                if error.errno not in _NO_ROOM:
                    raise
        import tempfile  # takes longer than all else here, and is hardly ever wanted

        try:
            # It has no name.
            with tempfile.TemporaryFile(prefix="acme_mpi-") as file:
                return cls._reserved(os.dup(file.fileno()), n_bytes)
        except OSError as error:
            raise StoreError(
                f"the arguments take {n_bytes} bytes, and {socket.gethostname()} has room for them "
                f"neither in memory nor in the directory for temporary files ({error}); set TMPDIR "
                "to a directory that has, or let the function read what it needs from a file"
            ) from None

    @classmethod
    def _reserved(cls, descriptor: int, n_bytes: int) -> Segment:
        segment = cls(descriptor)
        if n_bytes:
            os.posix_fallocate(descriptor, 0, n_bytes)
        return segment

    @classmethod
    def of(cls, pieces: Iterable[Any]) -> Segment:
        """Return a new segment that holds some pieces of bytes, one after the other, sealed.

        Raises
        ------
        StoreError
            As `reserve`.
        """
        views = [memoryview(piece) for piece in pieces]
        segment = cls.reserve(sum(view.nbytes for view in views))
        offset = 0
        for view in views:
            write_all(segment.descriptor, view, offset)
            offset += view.nbytes
        segment.seal()
        return segment

    @classmethod
    def at(cls, address: Address) -> Segment:
        """Return the segment of another process of this node.

        Raises
        ------
        OSError
            There is none, or that process is none of this user's, or it is not what is meant: the
            process lives in another container, perhaps.
        """
        path = f"/proc/{address.pid}/fd/{address.descriptor}"
        segment = cls(os.open(path, os.O_RDONLY | os.O_CLOEXEC))
        status = os.fstat(segment.descriptor)
        if (status.st_dev, status.st_ino) != (address.device, address.inode):
            raise FileNotFoundError(errno.ENOENT, "another file stands in its place", path)
        return segment

    @property
    def address(self) -> Address:
        """Where other processes find it, as long as this object lives."""
        status = os.fstat(self.descriptor)
        return Address(os.getpid(), self.descriptor, status.st_dev, status.st_ino)

    @property
    def n_bytes(self) -> int:
        """Its size."""
        return os.fstat(self.descriptor).st_size

    def view(self, writable: bool = False, private: bool = False) -> memoryview:
        """Return its bytes, mapped and not copied; they stay when the segment is closed.

        Parameters
        ----------
        writable : bool
            What is written is there for all processes.
        private : bool
            What is written is there for this view alone; pages are copied that are written to.
        """
        if not self.n_bytes:
            return memoryview(b"")
        access = mmap.ACCESS_WRITE if writable else mmap.ACCESS_READ
        access = mmap.ACCESS_COPY if private else access
        return memoryview(mmap.mmap(self.descriptor, self.n_bytes, access=access))

    def seal(self) -> None:
        """Let nobody change what it holds; no writable view may be left."""
        with contextlib.suppress(OSError):  # a file cannot be sealed
            fcntl.fcntl(self.descriptor, fcntl.F_ADD_SEALS, _SEALS)
        # Linux before 6.7 maps what is sealed only through a descriptor that cannot write.
        writable, path = self.descriptor, f"/proc/self/fd/{self.descriptor}"
        self.descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        os.close(writable)

    def __del__(self) -> None:
        with contextlib.suppress(OSError):  # a task has closed what is not its own
            os.close(self.descriptor)


def _memory_file() -> int:
    return os.memfd_create("acme_mpi", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)


def memory_bytes() -> int:
    """Return how much memory this node has."""
    return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")


def available_bytes(path: str = "/proc/meminfo") -> float:
    """Return how much memory this node, and this process's control groups, can still give.

    Parameters
    ----------
    path : str
        Where the kernel tells of the node.
    """
    with open(path) as file:
        for line in file:
            if line.startswith("MemAvailable:"):
                return min(int(line.split()[1]) * 1024, bytes_left())
    return bytes_left()
