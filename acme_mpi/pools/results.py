"""What the asynchronous methods of a pool return, and the chunk of a single call."""

from __future__ import annotations

import multiprocessing
import threading
from collections.abc import Callable
from functools import partial
from typing import Any

from acme_mpi.pools.lane import Lane
from acme_mpi.pools.waiting import wait_in_turns
from acme_mpi.session.stream import Chunk, Form, Raised

ON_ERROR = ("raise", "none", "return")


class ResultTimeoutError(multiprocessing.TimeoutError, TimeoutError):
    """A result was not there in time; both `multiprocessing`'s error and the builtin one."""


class AsyncResult:
    """A result that may not be there yet, as `multiprocessing.pool.AsyncResult`.

    Parameters
    ----------
    lane : Lane
        Of the pool.
    pool : object
        Kept as long as there is no result.
    callback, error_callback : callable or None
        Told the value, or the error, in the pool's thread for callbacks.
    """

    def __init__(
        self,
        lane: Lane,
        pool: object = None,
        callback: Callable[[Any], object] | None = None,
        error_callback: Callable[[BaseException], object] | None = None,
    ) -> None:
        self._lane, self._pool = lane, pool
        self._callback, self._error_callback = callback, error_callback
        self._event = threading.Event()
        self._is_over = False
        self._value: Any = None
        self._error: BaseException | None = None

    def ready(self) -> bool:
        """Tell whether the call is done."""
        return self._event.is_set()

    def successful(self) -> bool:
        """Tell whether it has returned a value.

        Raises
        ------
        ValueError
            It is not done.
        """
        if not self.ready():
            raise ValueError(f"{self!r} not ready")
        return self._error is None

    def wait(self, timeout: float | None = None) -> None:
        """Wait until it is done, or for `timeout` seconds."""
        wait_in_turns(self._event.wait, timeout)

    def get(self, timeout: float | None = None) -> Any:
        """Return the value, or raise the error, as soon as it is done.

        Raises
        ------
        TimeoutError
            It was not done after `timeout` seconds; it is `multiprocessing.TimeoutError`, too.
        """
        if not wait_in_turns(self._event.wait, timeout):
            raise ResultTimeoutError(f"the call of a pool was not done within {timeout} s")
        if self._error is not None:
            try:
                raise self._error
            finally:
                del self  # it would be held by the traceback of its own error
        return self._value

    def set_value(self, value: Any) -> None:
        """Have it done with a value."""
        self._finish(value, None)

    def end(self, error: BaseException, at_once: bool = True) -> None:
        """Have it done with an error, unless it is done.

        Parameters
        ----------
        error : BaseException
            What `get` raises.
        at_once : bool
            Do not wait until `error_callback` has returned.
        """
        self._finish(None, error, at_once)

    def _finish(self, value: Any, error: BaseException | None, at_once: bool = False) -> None:
        with self._lane.lock:
            if self._is_over:
                return
            self._is_over = True
        self._value, self._error = value, error
        told: Callable[[Any], object] | None
        told = self._callback if error is None else self._error_callback
        self._pool = self._callback = self._error_callback = None
        if told is None or at_once:
            self._event.set()
        if told is not None:
            self._lane.callbacks.post(partial(self._tell, told))

    def _tell(self, told: Callable[[Any], object]) -> None:
        try:
            told(self._value if self._error is None else self._error)
        finally:
            self._event.set()


class SingleChunk(Chunk):
    """A call of its own.

    Attributes
    ----------
    failures : list of tuple of int and BaseException
        Of this call.
    """

    __slots__ = ("_lane", "_on_error", "_result", "failures")

    def __init__(self, lane: Lane, call: Any, result: AsyncResult, on_error: str) -> None:
        super().__init__(lane.number, None, Form.ONCE, (call,))
        self._lane, self._result, self._on_error = lane, result, on_error
        self.failures: list[tuple[int, BaseException]] = []

    def begin(self) -> bool:
        """Hear that it goes to the ranks now."""
        if self._result._is_over:
            self._lane.finish(self)
            return False
        return True

    def receive(self, first: int, values: list[Any]) -> None:
        """Take the value."""
        (value,) = values
        self._lane.forget(self)
        if type(value) is not Raised:
            self._result.set_value(value)
        elif self._on_error == "raise":
            self._result.end(value.error, at_once=False)
        else:
            self.failures.append((0, value.error))
            self._result.set_value(value.error if self._on_error == "return" else None)
        self._lane.finish(self)

    def kill(self) -> None:
        """End the call, if it is out."""
        self._lane.kill(lambda chunk: chunk is self)

    def cut(self, error: BaseException) -> None:
        """Have it end with an error if it was not sent."""
        self.end(error)

    def end(self, error: BaseException) -> None:
        """Let whoever waits get this error at once."""
        self._lane.forget(self)
        self._result.end(error)
