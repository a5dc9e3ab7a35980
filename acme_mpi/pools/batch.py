"""Many calls of one function by one method of a pool: `map`, and what `imap` has of it."""

from __future__ import annotations

import contextlib
from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from queue import SimpleQueue
from typing import Any

from acme_mpi.errors import WorkerDied
from acme_mpi.pools.feeds import Feed, Listed
from acme_mpi.pools.lane import Lane
from acme_mpi.pools.results import AsyncResult
from acme_mpi.session.stream import Chunk, Form, Raised


class Batch(ABC):
    """Calls of one function with the arguments of a feed.

    Parameters
    ----------
    lane : Lane
        Of the pool.
    feed : Feed
        The arguments.
    form : Form
        How the function is called with each.
    on_error : {"raise", "none", "return"}
        What becomes of a call that raises.

    Attributes
    ----------
    failures : list of tuple of int and BaseException
        Index and error of the calls that have raised, in the order of their arrival.
    is_over : bool
        Nobody waits for more values.
    """

    def __init__(self, lane: Lane, feed: Feed, form: Form, on_error: str) -> None:
        self.lane = lane
        self.feed = feed
        self.form = form
        self.failures: list[tuple[int, BaseException]] = []
        self.is_over = False
        self._on_error = on_error
        self._function: Any = None
        self._source: Iterator[Chunk | None] | None = None
        self._n_drawn = 0

    def start(self, function: Any) -> None:
        """Send the calls of a function that `Stream.function` has returned."""
        self._function = function
        try:
            self._source = self.lane.start(self._next, self)
        except BaseException as error:  # in a task its calls are made here
            self.end(error)
            self.kill()  # an interrupt may come when some are out already
            raise

    def kill(self) -> None:
        """End those of its calls that are out."""
        self.lane.kill(lambda chunk: getattr(chunk, "batch", None) is self)

    def cut(self, error: BaseException) -> None:
        """Send nothing more, and let the error stand behind what was sent."""
        nothing = Listed((), 1)
        nothing.error = error
        before, self.feed = self.feed, nothing
        before.close()
        self.lane.stream.wake(self._source)

    @abstractmethod
    def receive(self, start: int, values: list[Any]) -> None:
        """Take the values of the calls number `start` and following."""

    @abstractmethod
    def end(self, error: BaseException) -> None:
        """Let whoever waits get this error at once."""

    def _next(self) -> list[Chunk | None]:
        if not self.is_over:
            arguments = self._draw()
            if arguments is None:
                return [None]
            if arguments:
                start, self._n_drawn = self._n_drawn, self._n_drawn + len(arguments)
                return [BatchChunk(self, self._function, start, arguments)]
            self._end_input()
        self.feed.close()
        return []

    def _draw(self) -> Sequence[Any] | None:
        return self.feed.draw()

    def _end_input(self) -> None:
        """Hear that all arguments were handed out."""
        self._function = None

    def _judge(self, start: int, values: list[Any]) -> list[Any]:
        """Return the values with what stands for calls that have raised, which are noted."""
        judged = list(values)
        for index, value in enumerate(values, start):
            if type(value) is Raised:
                note(value, index)
                self.failures.append((index, value.error))
                judged[index - start] = self._stand_in(value)
        return judged

    def _stand_in(self, raised: Raised) -> Any:
        return raised.error if self._on_error == "return" else None


class BatchChunk(Chunk):
    """Some consecutive calls of a batch."""

    __slots__ = ("_n_left", "_start", "batch")

    def __init__(self, batch: Batch, function: Any, start: int, arguments: Sequence[Any]) -> None:
        super().__init__(batch.lane.number, function, batch.form, arguments)
        self.batch = batch
        self._start = start
        self._n_left = len(arguments)

    def begin(self) -> bool:
        """Hear that it goes to the ranks now."""
        if self.batch.is_over:
            self.batch.lane.finish(self)
            return False
        return True

    def receive(self, first: int, values: list[Any]) -> None:
        """Take what its calls have returned."""
        self._n_left -= len(values)
        if not self.batch.is_over:
            self.batch.receive(self._start + first, values)
        if not self._n_left:
            self.batch.lane.finish(self)


class MapBatch(Batch):
    """The calls of `map`: the result has all values, in order.

    Nothing fails fast: all calls are made, and then the first error that has come is raised.

    Attributes
    ----------
    result : AsyncResult
        Gets the list of the values.
    """

    def __init__(
        self, lane: Lane, feed: Listed, form: Form, on_error: str, result: AsyncResult
    ) -> None:
        super().__init__(lane, feed, form, on_error)
        self.result = result
        self._n_left = len(feed)
        self._values: list[Any] = [None] * self._n_left

    def start(self, function: Any) -> None:
        """Send the calls, if there are any."""
        if self._n_left:
            super().start(function)
        else:
            self._finish()

    def receive(self, start: int, values: list[Any]) -> None:
        """Put the values into their slots."""
        if Raised in map(type, values):
            values = self._judge(start, values)
        self._values[start : start + len(values)] = values
        self._n_left -= len(values)
        if not self._n_left:
            self._finish()

    def end(self, error: BaseException) -> None:
        """Let whoever waits get this error at once."""
        self._leave()
        self.result.end(error)

    def _finish(self) -> None:
        values = self._values
        self._leave()
        if self.failures and self._on_error == "raise":
            self.result.end(self.failures[0][1], at_once=False)
            self.failures = []
            return
        self.failures.sort(key=lambda failure: failure[0])
        self.result.set_value(values)

    def _leave(self) -> None:
        self.is_over = True
        self._values = []
        self.lane.forget(self)


class ToldBatch(MapBatch):
    """The calls of a `map` whose caller is told each value as it comes, but no error.

    Attributes
    ----------
    arrived : SimpleQueue
        Lists of values; None at the end.
    """

    def __init__(self, *args: Any) -> None:
        super().__init__(*args)
        self.arrived: SimpleQueue[list[Any] | None] = SimpleQueue()

    def receive(self, start: int, values: list[Any]) -> None:
        """Hand the values on, and put them into their slots."""
        self.arrived.put([value for value in values if type(value) is not Raised])
        super().receive(start, values)

    def _leave(self) -> None:
        super()._leave()
        self.arrived.put(None)


def note(raised: Raised, index: int) -> None:
    """Say in a note (PEP 678) which call has raised, and where, unless that is said.

    That a process has died is said in the message itself: there is no traceback beside it.
    """
    error = raised.error
    task = f"task {index} of the call of a pool"
    if isinstance(error, WorkerDied):
        error.args = (f"{task}: {error.args[0]}", *error.args[1:])
    else:
        with contextlib.suppress(Exception):  # a frozen one takes none; others may be no texts
            if not any(text.startswith("task ") for text in getattr(error, "__notes__", ())):
                error.add_note(f"{task}, on {raised.where}" if raised.where else task)
