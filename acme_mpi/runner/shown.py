"""Return values as `print` would show them, whatever their own methods do."""

from __future__ import annotations

from _thread import allocate_lock, start_new_thread
from collections.abc import Collection, Sequence
from itertools import islice
from typing import Any

from acme_mpi.runner.forked import children_leave

PATIENCE_S = 10.0  # with one value


def texts_of(values: Sequence[Any], patience_s: float = PATIENCE_S) -> list[str]:
    """Return the text of every value.

    ``<unprintable ...>`` stands for one whose methods raise or return no text; for one that takes
    longer than `patience_s`, in seconds; and for others of its type.
    """
    done: list[str] = []
    blocking: set[type] = set()
    while len(done) < len(values):
        done += _texts_until_one_blocks(values, len(done), blocking, patience_s)
        if len(done) < len(values):
            blocking.add(type(values[len(done)]))
    return done


def texts_without_calls(values: Sequence[Any]) -> list[str]:
    """Return the text of every value that calls no method of the user's: one ends its process."""
    why = "or that of another value ends the process"
    return [_text(each) if _is_plain(each) else _unprintable(each, why) for each in values]


def _is_plain(value: Any) -> bool:
    if type(value) in (list, tuple, set, frozenset):
        return all(map(_is_plain, value))
    if type(value) is dict:
        return all(map(_is_plain, value.items()))
    is_known = type(value).__module__ in ("builtins", "numpy")
    return is_known and not getattr(getattr(value, "dtype", None), "hasobject", False)


def _texts_until_one_blocks(
    values: Sequence[Any], start: int, blocking: Collection[type], patience_s: float
) -> list[str]:
    texts: list[str] = []
    ended = allocate_lock()
    ended.acquire()

    def write() -> None:
        with children_leave():
            for value in islice(values, start, None):
                is_slow = type(value) in known
                texts.append(_unprintable(value, "takes too long") if is_slow else _text(value))
        ended.release()

    known, n_before = frozenset(blocking), -1
    start_new_thread(write, ())
    while len(texts) > n_before:
        n_before = len(texts)
        if ended.acquire(timeout=patience_s):
            break
    return texts[:]  # a thread that goes on later adds to a list that nobody looks at


def _text(value: Any) -> str:
    try:
        return "".join(str(value))
    except BaseException as error:
        return _unprintable(value, f"raises {type(error).__name__}")


def _unprintable(value: Any, why: str) -> str:
    return f"<unprintable {type(value).__qualname__}: its text {why}>"
