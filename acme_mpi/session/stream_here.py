"""The stream of a pool that is made inside of a task: calls are made there and then."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Iterable, Iterator
from functools import cache
from typing import Any

from acme_mpi.errors import WorkerDied
from acme_mpi.rules import Rules
from acme_mpi.session.stream import Chunk, Form, Raised, Setup, Stream

logger = logging.getLogger("acme_mpi")


class HereStream(Stream):
    """Calls each chunk in the thread that adds or wakes its source; no process, no thread.

    What a task raises is a `Raised` if it is an `Exception`. A `SystemExit` or `KeyboardInterrupt`
    is not: it is meant for the process, which is the outer task's, and so it ends that task, as it
    does when the function is called in a plain loop. The calls of its chunk that are left get it,
    too, so that nobody waits for them.
    """

    size = 1

    def __init__(self) -> None:
        self._lock = threading.RLock()  # the garbage collector may end a pool at any moment
        self._setups: dict[int, _Begun] = {}
        self._n_begun = 0
        self._sources: list[_Source] = []
        self._killed: set[int] = set()  # identities of chunks that are out

    def begin(self, setup: Setup) -> int:
        """Return the number of a new pool's setup. Independent."""
        warn_of_limits(setup.rules)
        with self._lock:
            self._n_begun += 1
            self._setups[self._n_begun] = _Begun(setup)
            return self._n_begun

    def end(self, number: int) -> None:
        """Forget a setup. Independent."""
        self._setups.pop(number, None)

    def function(self, func: Callable[..., Any]) -> Any:
        """Return the function itself: it stays here. Independent."""
        return func

    def add(self, source: Iterator[Chunk | None]) -> None:
        """Call all that the source has by now. Independent."""
        added = _Source(source)
        self._sources.append(added)
        self._draw(added)

    def wake(self, source: Iterator[Chunk | None] | None = None) -> None:
        """Call all that a source, or any, has by now. Independent.

        Another one may take its input from what this thread is drawing: it would wait for itself.
        """
        for each in self._sources.copy():
            if source is None or each.chunks is source:
                self._draw(each)

    def kill(self, chunks: Iterable[Chunk]) -> None:
        """Make no further call of these chunks; what runs goes on, it is this process."""
        self._killed.update(map(id, chunks))

    def _draw(self, source: _Source) -> None:
        while (chunk := self._next(source)) is not None:
            if chunk.begin():
                self._call(chunk)

    def _next(self, source: _Source) -> Chunk | None:
        """Return the source's next chunk; None: it has none, or is being drawn at the moment.

        A source of the user's items may itself make calls, and so may another thread.
        """
        while True:
            with self._lock:
                source.is_asked_again = source.is_drawn
                if source.is_drawn:
                    return None
                source.is_drawn = True
            try:
                chunk = next(source.chunks)
            except StopIteration:
                with self._lock:
                    if source in self._sources:
                        self._sources.remove(source)
                return None
            finally:
                source.is_drawn = False
            if chunk is not None or not source.is_asked_again:
                return chunk

    def _call(self, chunk: Chunk) -> None:
        begun, (arguments, chunk.arguments) = self._setups[chunk.setup], (chunk.arguments, None)
        assert arguments is not None
        error = begun.initialize()
        first = 0
        try:
            for first, argument in enumerate(arguments):
                if error is None and id(chunk) in self._killed:
                    error = WorkerDied("the pool's task was ended before it was called")
                value = begun.call(chunk, argument) if error is None else Raised(error)
                chunk.receive(first, [value])
        except BaseException as fatal:
            chunk.receive(first, [Raised(fatal)] * (len(arguments) - first))
            raise
        finally:
            self._killed.discard(id(chunk))


class _Source:
    """An iterator of chunks, and whether some thread is in it."""

    def __init__(self, chunks: Iterator[Chunk | None]) -> None:
        self.chunks = chunks
        self.is_drawn = False
        self.is_asked_again = False


class _Begun:
    """A setup, and whether its initializer was called."""

    def __init__(self, setup: Setup) -> None:
        self._setup = setup
        self._is_initialized = setup.initializer is None
        self._error: Exception | None = None

    def initialize(self) -> Exception | None:
        """Call the initializer, once; return what it has raised."""
        if not self._is_initialized:
            self._is_initialized = True
            assert self._setup.initializer is not None
            try:
                self._setup.initializer(*self._setup.initargs)
            except Exception as error:
                self._error = error
                self._setup.on_broken(error)
        return self._error

    def call(self, chunk: Chunk, argument: Any) -> Any:
        """Return the value of a call, or a `Raised` after all retries."""
        for attempt in range(self._setup.rules.retries, -1, -1):
            try:
                return call(chunk.function, chunk.form, argument)
            except Exception as error:
                if not attempt:
                    return Raised(error)
        raise AssertionError("there is always a last attempt")


def call(function: Callable[..., Any], form: Form, argument: Any) -> Any:
    """Call a function with one of a chunk's arguments."""
    if form is Form.EACH:
        return function(argument)
    if form is Form.STAR:
        return function(*argument)
    args, kwargs = argument
    return function(*args, **kwargs)


def warn_of_limits(rules: Rules) -> None:
    """Warn, once, if a call inside of a task has limits."""
    if rules.timeout is not None or rules.memory is not None:
        _warn_of_limits()


@cache
def _warn_of_limits() -> None:
    logger.warning(
        "`timeout` and `memory` of a call inside of a task are not kept: it runs in the task's own "
        "process, which is ended by the limits of the task alone"
    )
