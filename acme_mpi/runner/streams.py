"""Bring out what tasks have printed, whatever they have put in the place of a standard stream."""

from __future__ import annotations

import sys
from _thread import allocate_lock, start_new_thread
from contextlib import suppress
from io import BufferedWriter, FileIO, TextIOWrapper
from typing import Any

PATIENCE_S = 0.5  # with a file object of the user's
_OWN = {1: sys.stdout, 2: sys.stderr}  # as they were before any code of the user's
_NAMES = {1: "stdout", 2: "stderr"}


def flush_standard_streams() -> None:
    """Flush stdout and stderr; never raises, and waits for an object of the user's only so long.

    One that does not come back is taken out of use: Python's own stream is there again.
    """
    for number, own in _OWN.items():
        present = getattr(sys, _NAMES[number], None)
        streams = [own] if present is own else [present, own]  # that may write into this
        if not all([_has_flushed(stream) for stream in streams]):
            setattr(sys, _NAMES[number], _opened(number))


def _has_flushed(stream: Any) -> bool:
    """Flush a stream; return whether that has come back."""
    if _is_plain(stream):
        _flush(stream)
        return True
    done = allocate_lock()

    def flush() -> None:
        _flush(stream)
        done.release()

    done.acquire()
    try:
        start_new_thread(flush, ())
    except RuntimeError:  # this user may have no more threads
        flush()
    return done.acquire(timeout=PATIENCE_S)


def _flush(stream: Any) -> None:
    # It may be closed, or never there, and an object of the user's may raise anything.
    with suppress(BaseException):
        stream.flush()


def _is_plain(stream: Any) -> bool:
    """Tell whether a stream is Python's own, with none of its methods replaced."""
    if stream is None:
        return True
    if type(stream) is not TextIOWrapper or not vars(stream).keys() <= {"mode"}:
        return False
    try:
        below = stream.buffer  # with `python -u` it is the file itself
        return type(below) in (BufferedWriter, FileIO) and vars(below).keys() <= {"name"}
    except ValueError:  # it was detached
        return True


def _opened(number: int) -> Any:
    try:
        stream = open(number, "w", errors="backslashreplace", closefd=False)  # noqa: SIM115
    except OSError:
        return None
    _OWN[number] = stream
    return stream
