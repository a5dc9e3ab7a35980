"""What calls of a stream have come to: their values, or the errors for whoever waits for them."""

from __future__ import annotations

import pickle
from itertools import chain
from multiprocessing.pool import (  # type: ignore[attr-defined]
    MaybeEncodingError,
    RemoteTraceback,
)
from typing import Any

from acme_mpi.errors import WorkerDied
from acme_mpi.runner.calls import Got, Lost, NoValue
from acme_mpi.session.stream import Raised
from acme_mpi.standing import loading
from acme_mpi.tasks.pickling import Unloadable, text_of

_MARK = b"acme_mpi"  # in a pickle that has more than the user's values


def values_of(answer: Got | Lost, where: str) -> list[Any]:
    """Return the values of some calls, `Raised` in the place of what has none; while `loading`.

    Parameters
    ----------
    answer : Got or Lost
        What a rank says of them.
    where : str
        The rank in words; empty: none had got them.
    """
    if isinstance(answer, Lost):
        text = f"{answer.message}; on {where}" if where else answer.message
        return [Raised(WorkerDied(text), where) for _ in range(answer.n)]
    if not isinstance(answer.body, list):
        return _loaded(answer.body, answer.buffers, answer.n, where)
    loaded = [_loaded(body, [], 1, where) for body in answer.body]
    return [*chain.from_iterable(loaded)]


def _loaded(body: bytes, buffers: list[Any], n: int, where: str) -> list[Any]:
    try:
        values = pickle.loads(body, buffers=buffers)
    except BaseException as error:  # by code of the user's: it ends these calls, not the stream
        return [Raised(_unloadable(f"{type(error).__name__}: {error}"), where)] * n
    if _MARK not in body:
        plain: list[Any] = values
        return plain
    for k, value in enumerate(values):
        if type(value) is NoValue:
            values[k] = Raised(error_of(value, where), where)
        elif type(value) is Unloadable:
            values[k] = Raised(_unloadable(value.reason), where)
    loaded: list[Any] = values
    return loaded


class _Words(str):
    """Words as `MaybeEncodingError` is to quote them."""

    def __repr__(self) -> str:
        return str(self)


def _not_sent(what: str, reason: str) -> BaseException:
    error: BaseException = MaybeEncodingError(_Words(reason), _Words(what))
    return error


def _unloadable(reason: str) -> BaseException:
    return _not_sent("the result", f"its pickle cannot be loaded: {reason}")


def error_of(value: NoValue, where: str) -> BaseException:
    """Return the exception that a `NoValue` stands for, with the remote traceback as its cause."""
    cause = RemoteTraceback(f'\n"""\n{value.traceback}"""') if value.traceback else None
    if value.kind == "exit":
        error: BaseException = WorkerDied(f"{value.message}; on {where}")
    elif value.error:
        error = _loaded_error(value)
    else:
        error = _not_sent(value.value, value.message)
    # Not by assignment, which a frozen dataclass refuses.
    BaseException.__setattr__(error, "__cause__", cause)
    return error


def _loaded_error(value: NoValue) -> BaseException:
    """Return an exception, or one that says why it does not load here."""
    try:
        with loading():
            loaded = pickle.loads(value.error)
    except BaseException as why:
        return _not_sent(value.value, f"its pickle cannot be loaded: {text_of(why, repr)}")
    if isinstance(loaded, BaseException):
        return loaded
    return _not_sent(value.value, f"its pickle loads as {type(loaded).__name__}")
