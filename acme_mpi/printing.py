"""Data on standard output: on the descriptor, as user code may have replaced `sys.stdout`."""

from __future__ import annotations

import errno
import os
import select
import sys
from collections.abc import Iterable

from acme_mpi.errors import StoreError

_STDOUT = 1
_NOBODY_READS = (errno.EPIPE, errno.EBADF, errno.EIO)


def print_lines(texts: Iterable[str]) -> None:
    """Print texts, each and a line's end, in whatever encoding standard output has.

    Nothing happens if that is closed, or is no longer read.

    Raises
    ------
    StoreError
        It cannot take more, as its disk is full.
    """
    own = sys.__stdout__
    if own is None:
        return
    encoding = own.encoding or "utf-8"
    data = "".join(f"{text}\n" for text in texts).encode(encoding, "backslashreplace")
    try:
        own.flush()
        _write(memoryview(data))
    except OSError as error:
        if error.errno not in _NOBODY_READS:
            raise StoreError(f"cannot write to standard output: {error.strerror}") from None
    except ValueError:  # user code has closed it
        return


def _write(data: memoryview) -> None:
    while data:
        try:
            data = data[os.write(_STDOUT, data) :]
        except BlockingIOError:
            select.select([], [_STDOUT], [])
