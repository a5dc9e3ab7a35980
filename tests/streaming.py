"""A stream of threads, which behaves as `acme_mpi.session.stream` says."""

from __future__ import annotations

import threading
import traceback
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from multiprocessing.pool import RemoteTraceback  # type: ignore[attr-defined]
from pickle import PicklingError
from queue import SimpleQueue
from typing import Any

from acme_mpi.errors import WorkerDied
from acme_mpi.session.stream import Chunk, Raised, Setup, Stream
from acme_mpi.session.stream_here import call

LIMIT_S = 20.0


class Unpicklable:
    """A function, an argument, or a value that cannot be sent."""

    def __call__(self, *args: Any) -> Unpicklable:
        return self


class StreamSession:
    """A session of which pools want the stream alone; None: of a rank that has served."""

    def __init__(self, stream: Stream | None) -> None:
        self._stream = stream

    def with_ranks(self, n_wanted: int | None = None) -> StreamSession:
        return self

    def stream(self) -> Stream | None:
        return self._stream


class ThreadStream(Stream):
    """Calls chunks in `size` threads; a thread of its own draws sources and hands out values.

    What is killed is only left alone: its thread is replaced, and goes on until it ends by itself.

    Attributes
    ----------
    setups : dict
        What has begun and not ended.
    functions : list
        What `function` was given, in that order.
    """

    def __init__(self, size: int) -> None:
        self.size = size
        self.setups: dict[int, Setup] = {}
        self.functions: list[str] = []
        self._n_begun = 0
        self._inbox: SimpleQueue[Callable[[], None]] = SimpleQueue()
        self._sources: deque[Iterator[Chunk | None]] = deque()
        self._asleep: list[Iterator[Chunk | None]] = []
        self._idle: list[_Caller] = []
        self._callers: list[_Caller] = []
        self._out: dict[Chunk, _Caller] = {}
        self._left: dict[Chunk, set[int]] = {}
        self._is_over = False
        for _ in range(size):
            self._hire()
        self._thread = threading.Thread(target=self._loop, daemon=True)
        self._thread.start()

    def begin(self, setup: Setup) -> int:
        self._n_begun += 1
        self.setups[self._n_begun] = setup
        return self._n_begun

    def end(self, number: int) -> None:
        assert not any(chunk.setup == number for chunk in self._out)
        self.setups.pop(number, None)

    def function(self, func: Callable[..., Any]) -> Any:
        refuse(func)
        self.functions.append(getattr(func, "__name__", "?"))
        return func

    def add(self, source: Iterator[Chunk | None]) -> None:
        self._inbox.put(lambda: self._sources.append(source))

    def wake(self, source: Iterator[Chunk | None] | None = None) -> None:
        self._inbox.put(self._wake)

    def kill(self, chunks: Iterable[Chunk]) -> None:
        meant = list(chunks)
        self._inbox.put(lambda: self._kill(meant))

    def close(self) -> None:
        """End all threads that are not in a call."""
        self._inbox.put(self._finish)
        self._thread.join(LIMIT_S)
        assert not self._thread.is_alive()

    def _finish(self) -> None:
        self._is_over = True
        for caller in self._callers:
            caller.chunks.put(None)

    def _hire(self) -> None:
        caller = _Caller(self._inbox.put, self._take)
        self._callers.append(caller)
        self._idle.append(caller)

    def _loop(self) -> None:
        while not self._is_over:
            self._inbox.get()()
            while self._inbox.empty() and self._idle and self._sources:
                self._draw()

    def _draw(self) -> None:
        source = self._sources.popleft()
        try:
            chunk = next(source)
        except StopIteration:
            return
        if chunk is None:
            self._asleep.append(source)
            return
        self._sources.append(source)
        if chunk.begin():
            self._send(chunk)

    def _send(self, chunk: Chunk) -> None:
        arguments, chunk.arguments = chunk.arguments, None
        assert arguments is not None
        try:
            refuse(*arguments)
        except PicklingError as error:
            chunk.receive(0, [Raised(error)] * len(arguments))
            return
        self._left[chunk] = set(range(len(arguments)))
        self._out[chunk] = caller = self._idle.pop()
        caller.chunks.put((self.setups[chunk.setup], chunk, arguments))

    def _wake(self) -> None:
        self._sources.extend(self._asleep)
        self._asleep.clear()

    def _take(self, caller: _Caller, chunk: Chunk, index: int, value: Any) -> None:
        """Hand a value on, if its chunk was not killed, and free the caller after the last one."""
        if index not in self._left.get(chunk, ()):
            return
        self._left[chunk].discard(index)
        if self._left[chunk]:
            chunk.receive(index, [value])
            return
        del self._left[chunk], self._out[chunk]
        self._idle.append(caller)
        chunk.receive(index, [value])

    def _kill(self, chunks: list[Chunk]) -> None:
        for chunk in chunks:
            if chunk not in self._out:
                continue
            caller = self._out.pop(chunk)
            caller.chunks.put(None)
            self._callers.remove(caller)
            self._hire()
            for index in sorted(self._left.pop(chunk)):
                chunk.receive(index, [Raised(WorkerDied("ended by kill"))])


class _Caller:
    """A thread that makes calls, with the initializers that it has called."""

    def __init__(self, post: Callable[[Callable[[], None]], None], take: Callable[..., None]):
        self.chunks: SimpleQueue[tuple[Setup, Chunk, Any] | None] = SimpleQueue()
        self._post, self._take = post, take
        self._begun: list[Setup] = []
        threading.Thread(target=self._loop, daemon=True).start()

    def _loop(self) -> None:
        while (given := self.chunks.get()) is not None:
            self._run(*given)
            del given

    def _run(self, setup: Setup, chunk: Chunk, arguments: Any) -> None:
        broken = self._initialize(setup)
        for index, argument in enumerate(arguments):
            value = Raised(broken) if broken else self._value(setup, chunk, argument)
            self._post(_Taking(self._take, self, chunk, index, value))
            del value, argument

    def _initialize(self, setup: Setup) -> BaseException | None:
        if setup.initializer is None or any(setup is each for each in self._begun):
            return None
        try:
            setup.initializer(*setup.initargs)
        except Exception as error:
            self._post(_Taking(setup.on_broken, error))
            return error
        self._begun.append(setup)
        return None

    def _value(self, setup: Setup, chunk: Chunk, argument: Any) -> Any:
        try:
            value = call(chunk.function, chunk.form, argument)
            refuse(value)
            return value
        except BaseException as error:
            text = "".join(traceback.format_exception(error))
            error.__cause__ = RemoteTraceback(f'\n"""\n{text}"""')
            return Raised(error.with_traceback(None))


class _Taking:
    """A call that drops its arguments once it is made."""

    def __init__(self, call: Callable[..., None], *args: Any) -> None:
        self._call, self._args = call, args

    def __call__(self) -> None:
        self._call(*self._args)


def refuse(*objects: Any) -> None:
    """Refuse what cannot be pickled, also in tuples and lists."""
    for each in objects:
        if isinstance(each, (tuple, list)):
            refuse(*each)
        if isinstance(each, Unpicklable):
            raise PicklingError(f"cannot pickle {each!r}")
