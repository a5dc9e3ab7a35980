"""Write bytes at an offset of an open file, all of them, or say why the medium refuses them."""

from __future__ import annotations

import ctypes
import errno
import os
from typing import Any

import numpy as np

LIBC = ctypes.CDLL(None, use_errno=True)
SYNC_FILE_RANGE_WRITE = 2
SLICE_BYTES = 1 << 30  # one call writes at most 2 GiB
COPY_BYTES = 1024**2  # stays in the cache of a core


def write_all(descriptor: int, data: Any, offset: int) -> None:
    """Write the bytes of `data` at `offset`; a single system call may write fewer.

    Parameters
    ----------
    descriptor : int
        Of a file open for writing.
    data : bytes-like or ndarray
        An array is written in C order.
    offset : int
        In bytes, >= 0.

    Raises
    ------
    OSError
        The medium refused the data.
    """
    if isinstance(data, np.ndarray):
        # A view of bytes, because not every dtype has a buffer (datetime64, float16 in some).
        data = np.ascontiguousarray(data).reshape(-1).view(np.uint8)
    view = memoryview(data)
    done = 0
    while done < view.nbytes:
        done += os.pwrite(descriptor, view[done : done + SLICE_BYTES], offset + done)


def read_all(descriptor: int, view: memoryview, offset: int) -> None:
    """Fill a view of bytes with those at an offset of an open file.

    Raises
    ------
    OSError
        The medium refused it.
    ValueError
        The file is too short.
    """
    done = 0
    while done < view.nbytes:
        n_read = os.preadv(descriptor, [view[done : done + SLICE_BYTES]], offset + done)
        if not n_read:
            raise ValueError(f"the file ends {view.nbytes - done} bytes too early")
        done += n_read


def begin_sync(descriptor: int, offset: int, n_bytes: int) -> None:
    """Have the system begin to bring bytes to the disk; do not wait for it.

    Whoever syncs the file later waits less. Nothing is promised, so nothing can fail.
    """
    first, count = ctypes.c_int64(offset), ctypes.c_int64(n_bytes)
    LIBC.sync_file_range(descriptor, first, count, SYNC_FILE_RANGE_WRITE)


def copy_bytes(source: int, source_offset: int, target: int, offset: int, n_bytes: int) -> None:
    """Copy bytes between two files at given offsets.

    Raises
    ------
    OSError
        The source is too short, or the medium refused the data.
    """
    # One buffer for all: the pages of a new one cost more than the copy.
    buffer = memoryview(bytearray(min(COPY_BYTES, n_bytes)))
    done = 0
    while done < n_bytes:
        n_read = os.preadv(source, [buffer[: n_bytes - done]], source_offset + done)
        if not n_read:
            raise OSError(f"the file ends {n_bytes - done} bytes too early")
        write_all(target, buffer[:n_read], offset + done)
        if n_read == COPY_BYTES:
            begin_sync(target, offset + done, n_read)
        done += n_read


def reason(error: Exception, path: str) -> str:
    """Return what is wrong with the medium, and the free space where that may be the cause."""
    text = str(error.args[0]) if isinstance(error, KeyError) and error.args else str(error)
    number = error.errno if isinstance(error, OSError) else None
    if number is None and "errno = " in text:
        digits = text.split("errno = ")[1].split(",")[0]
        number = int(digits) if digits.isdigit() else None
    if number in (errno.ENOSPC, errno.EDQUOT):
        return f"{os.strerror(number)}; {_free_bytes(path)} bytes are free there"
    if number == errno.EISDIR:  # the same command would find it there again
        return f"{os.strerror(number)}; move it away"
    return os.strerror(number) if number else text


def _free_bytes(path: str) -> int:
    while not os.path.exists(path) and path != os.path.dirname(path):
        path = os.path.dirname(path)
    status = os.statvfs(path)
    return status.f_bavail * status.f_frsize
