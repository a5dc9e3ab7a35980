"""What the command line prints: errors on stderr, and data on standard output's descriptor.

User code may have replaced `sys.stdout`.
"""

from __future__ import annotations

import contextlib
import errno
import os
import select
import sys
from collections.abc import Iterable, Iterator

from acme_mpi.errors import AcmeMpiError, StoreError
from acme_mpi.visible import say

_STDOUT = 1
_NOBODY_READS = (errno.EPIPE, errno.EBADF, errno.EIO)


def say_error(error: AcmeMpiError) -> int:
    """Print what an error says on stderr, and return the exit status that it calls for."""
    say(f"acme_mpi: {error}", sys.stderr)
    sys.stderr.flush()
    return error.exit_code


@contextlib.contextmanager
def standard_output() -> Iterator[None]:
    """Context in which `sys.stdout` is printed to, of which the reader may see enough: ``| head``.

    Raises
    ------
    StoreError
        It cannot take more, as its disk is full.
    """
    try:
        yield
        sys.stdout.flush()
    except OSError as error:
        if error.errno not in (errno.EPIPE, errno.ENOSPC, errno.EDQUOT):
            raise
        # What is left in its buffer goes nowhere at the end of the process.
        os.dup2(os.open(os.devnull, os.O_WRONLY), _STDOUT)
        if error.errno != errno.EPIPE:
            raise StoreError(f"cannot write to standard output: {error.strerror}") from None


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
