"""The future of a task that was submitted, and the chunk that it goes in."""

from __future__ import annotations

import contextlib
from concurrent.futures import Future, InvalidStateError
from typing import Any, NoReturn

from acme_mpi.pools.lane import Lane
from acme_mpi.session.stream import Chunk, Form, Raised


class TaskFuture(Future[Any]):
    """A future whose task can be ended while it runs."""

    _chunk: FutureChunk | None = None  # while it is not done

    def kill(self) -> bool:
        """End the task: if it runs, with `WorkerDied`; if not, it is cancelled. It does not wait.

        Returns
        -------
        bool
            False: it was done already.
        """
        chunk = self._chunk
        if self.cancel() or chunk is None:
            return self.cancelled()
        chunk.kill()
        return True

    def __reduce__(self) -> NoReturn:
        raise TypeError("a future cannot be sent to a task: send what its `result()` returns")

    def _invoke_callbacks(self) -> None:
        """Call what `add_done_callback` was given, in a thread where it may wait."""
        chunk, self._chunk = self._chunk, None
        if self._done_callbacks and chunk is not None:  # type: ignore[attr-defined]
            chunk.lane.callbacks.post(super()._invoke_callbacks)  # type: ignore[misc]


class FutureChunk(Chunk):
    """The call of one future."""

    __slots__ = ("_is_cut", "future", "lane")

    def __init__(self, lane: Lane, function: Any, call: Any, future: TaskFuture) -> None:
        super().__init__(lane.number, function, Form.ONCE, (call,))
        self.lane, self.future = lane, future
        self._is_cut = False  # whoever waits has heard of its end

    def begin(self) -> bool:
        """Hear that it goes to the ranks now, from when on it cannot be cancelled."""
        with self.future._condition:
            runs = not self._is_cut and self.future.set_running_or_notify_cancel()
            self._is_cut = not runs
        if not runs:
            self._finish()
        return runs

    def receive(self, first: int, values: list[Any]) -> None:
        """Take the value."""
        (value,) = values
        try:
            if type(value) is Raised:
                self.future.set_exception(value.error)
            else:
                self.future.set_result(value)
        except InvalidStateError:
            pass  # it has ended with the executor
        self._finish()

    def kill(self) -> None:
        """End the call, if it is out."""
        self.lane.kill(lambda chunk: chunk is self)

    def cut(self, error: BaseException) -> None:
        """Cancel it, if it was not sent."""
        with self.future._condition:
            if not self._is_cut and self.future.cancel():
                self._is_cut = True
                self.future.set_running_or_notify_cancel()

    def end(self, error: BaseException) -> None:
        """Let whoever waits get this error at once."""
        self.lane.forget(self)
        with self.future._condition, contextlib.suppress(InvalidStateError):
            self.future.set_exception(error)
            self._is_cut = True

    def _finish(self) -> None:
        self.lane.forget(self)
        self.lane.finish(self)
