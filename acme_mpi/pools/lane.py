"""A pool's way to the stream: what waits, what is out, and whether more is taken."""

from __future__ import annotations

import atexit
import os
import sys
import threading
import weakref
from collections import deque
from collections.abc import Callable, Generator
from types import FunctionType
from typing import Any, Protocol

from acme_mpi.errors import InputError, LaunchError
from acme_mpi.pools.callbacks import Callbacks
from acme_mpi.pools.waiting import wait_in_turns
from acme_mpi.runner.reloaded import RELOADS
from acme_mpi.session.stream import Chunk, Setup, Stream
from acme_mpi.session.stream_here import HereStream

N_DRAWN = 100  # single tasks at once

Draw = Callable[[], "list[Chunk | None]"]
Source = Generator["Chunk | None", None, None]


class Pending(Protocol):
    """A call of a pool's method that has not got all it waits for."""

    def end(self, error: BaseException) -> None:
        """Let whoever waits get this error at once. A second call does nothing."""

    def cut(self, error: BaseException) -> None:
        """Send nothing more, and let what was not sent be this error."""


class Lane:
    """What a pool, or an executor, has at a stream.

    Parameters
    ----------
    stream : Stream
        Where the chunks go.
    setup : Setup
        How its tasks are called; its `on_broken` is set here.
    size : int
        Ranks that it uses.
    closed : callable
        Returns the error for what is submitted after `close`.
    broken : callable
        Returns the error for everything after the initializer has raised the given one.

    Attributes
    ----------
    number : int
        Of the setup.
    is_here : bool
        Its calls are made in the thread that adds them.
    callbacks : Callbacks
        The thread for them.
    is_own : bool
        This process has made it, and was not forked of the one that has.
    leave : callable
        Called when the interpreter ends.
    is_closed, is_unbounded : bool
        Nothing more is taken; nobody can take results, as all wait for the end.
    """

    def __init__(
        self,
        stream: Stream,
        setup: Setup,
        size: int,
        closed: Callable[[], BaseException],
        broken: Callable[[BaseException], BaseException],
    ) -> None:
        self.stream, self.size = stream, size
        self.lock = threading.RLock()  # the garbage collector may end a pool at any moment
        # In a task the queue is drawn by whoever adds to it, also inside of a call.
        self.is_here = isinstance(stream, HereStream)
        self.callbacks = Callbacks()
        self._pid = os.getpid()
        self.is_own = True  # to ask for the process's id takes longer than a submit may
        self.is_closed = self.is_unbounded = False
        self._closed, self._broken = closed, broken
        self._error: BaseException | None = None
        self._pending: set[Pending] = set()
        self._sources: set[object] = set()  # one mark for each that is not drawn to its end
        self._out: set[Chunk] = set()
        self._waiting: deque[Chunk] = deque()  # single tasks
        self._queue: Source | None = None  # where they are drawn, once there has been one
        self._is_queue_idle = False
        # Of functions that live on in their modules, as these were.
        self._handles: dict[tuple[FunctionType, str], Any] = {}
        self._ended = threading.Event()
        setup.on_broken = self._break
        self.number = stream.begin(setup)
        self.leave: Callable[[], None] = self.close
        _open.add(self)
        # What was registered last is called first: a stream must outlive its pools.
        atexit.unregister(_leave)
        atexit.register(_leave)

    def function(self, func: Callable[..., Any]) -> Any:
        """Return what goes into chunks for a function that may come again and again.

        One that its module has by name keeps it: as with processes of one's own, what the script
        changes in its globals later is not seen.
        """
        if type(func) is not FunctionType:
            return self.stream.function(func)
        key = func, RELOADS.state()
        handle = self._handles.get(key)
        if handle is None:
            handle = self.stream.function(func)
            if _has_name(func):
                self._handles[key] = handle
        return handle

    def submit(self, chunk: Chunk, pending: Pending) -> None:
        """Send a single task.

        Raises
        ------
        BaseException
            Nothing more is taken.
        """
        mark = None
        with self.lock:
            self._take(pending)
            self._waiting.append(chunk)
            if self._queue is None:
                mark = self._mark()
                self._queue = self._source(mark, self._draw_waiting, self)
            is_idle, self._is_queue_idle = self._is_queue_idle, False
        if mark is not None:
            self._add(mark, self._queue, self)
        elif is_idle or self.is_here:
            self.stream.wake(self._queue)

    def start(self, draw: Draw, pending: Pending) -> Source:
        """Send all chunks of a source.

        Parameters
        ----------
        draw : callable
            Returns a list of its next chunks, of None if it has nothing for now, of nothing at its
            end: what is suspended while a chunk is out must not hold its value.
        pending : Pending
            Whoever waits for the values.

        Returns
        -------
        Source
            What `Stream.wake` is told.

        Raises
        ------
        BaseException
            Nothing more is taken.
        """
        with self.lock:
            self._take(pending)
            mark = self._mark()
        source = self._source(mark, draw, pending)
        self._add(mark, source, pending)
        return source

    def check(self) -> None:
        """Raise if nothing more is taken."""
        self._check_process()
        if self._error is not None:
            raise self._error
        if self.is_closed:
            raise self._closed()

    def leave_to_parent(self) -> None:
        """Take nothing in a forked child: the ranks serve the process that was forked."""
        self.is_own = False

    def _check_process(self) -> None:
        if not self.is_own:
            raise InputError(
                f"pools and executors serve the process that has made them: that is {self._pid}, "
                f"of which this one ({os.getpid()}) was forked\n"
                "  Make one here, or leave the calls to that process."
            )

    def _take(self, pending: Pending) -> None:
        self.check()
        self._pending.add(pending)

    def forget(self, pending: Pending) -> None:
        """Hear that nobody waits for it any more."""
        self._pending.discard(pending)

    def finish(self, chunk: Chunk) -> None:
        """Hear that all of a chunk has come back, or that it was not sent."""
        self._out.discard(chunk)
        if self.is_closed:
            self._end_if_done()

    def kill(self, is_meant: Callable[[Chunk], bool]) -> None:
        """End those of the chunks that are out which are meant. Independent."""
        self.stream.kill([chunk for chunk in self._out.copy() if is_meant(chunk)])
        self.stream.wake()  # sources of what has ended come to their end

    def end(self, error: BaseException) -> None:
        """Let everything pending have this error; what is out goes on."""
        with self.lock:
            self._waiting.clear()
        for pending in self.pending():
            pending.end(error)

    def cut(self, error: BaseException) -> None:
        """Send nothing more of what is pending now, which ends with this error."""
        for pending in self.pending():
            pending.cut(error)

    def pending(self) -> list[Pending]:
        """Return what has not got all it waits for."""
        with self.lock:
            return list(self._pending)

    def close(self) -> None:
        """Take nothing more; what was taken is done. A second call does nothing."""
        with self.lock:
            was_closed, self.is_closed = self.is_closed, True
        if not was_closed:
            self.stream.wake()
            self._end_if_done()

    def terminate(self, error: BaseException) -> None:
        """Take nothing more, and end what was taken with this error, at once."""
        self.close()
        self.end(error)
        self.kill(lambda chunk: True)

    def join(self) -> None:
        """Wait until nothing is out, and all callbacks were called."""
        self._check_process()
        self.is_unbounded = True
        self.stream.wake()
        wait_in_turns(self._ended.wait)
        self.callbacks.drain()

    def let_go(self) -> None:
        """Wait for the end if other ranks do, who serve this and go on then.

        What they and this one do next may be Collective. All that is out was ended.
        """
        if self.stream.is_followed and self.is_own:
            wait_in_turns(self._ended.wait)

    def _break(self, error: BaseException) -> None:
        with self.lock:
            self._error = self._broken(error)
        self.end(self._error)

    def _mark(self) -> object:
        mark = object()
        self._sources.add(mark)
        return mark

    def _add(self, mark: object, source: Source, pending: Pending) -> None:
        try:
            self.stream.add(source)
        except Exception as error:  # the stream has not taken it
            pending.end(error)
            self._leave_source(mark)
            raise

    def _source(self, mark: object, draw: Draw, pending: Pending) -> Source:
        try:
            while drawn := draw():
                drawn.reverse()
                while drawn:
                    if drawn[-1] is not None:
                        self._out.add(drawn[-1])
                    yield drawn.pop()
        except GeneratorExit:
            pending.end(LaunchError("the ranks that a pool has sent its tasks to have gone"))
            raise
        finally:
            self._leave_source(mark)

    def _leave_source(self, mark: object) -> None:
        self._sources.discard(mark)
        if self.is_closed:
            self._end_if_done()

    def _draw_waiting(self) -> list[Chunk | None]:
        """Return the next single tasks; there will be more until the pool is closed.

        Several at once: who submits more meanwhile has the lock at most times.
        """
        with self.lock:
            if waiting := self._waiting:
                return [waiting.popleft() for _ in range(min(len(waiting), N_DRAWN))]
            self._is_queue_idle = True
            return [] if self.is_closed else [None]

    def _end_if_done(self) -> None:
        with self.lock:
            is_done = self.is_closed and not (self._sources or self._out or self._waiting)
        if is_done:
            self.stream.end(self.number)
            self.callbacks.stop()
            self._ended.set()
            _open.discard(self)


def _has_name(func: FunctionType) -> bool:
    """Tell whether a function's module has it by its name, so that it lives as long."""
    module = sys.modules.get(func.__module__)
    return func.__closure__ is None and getattr(module, func.__qualname__, None) is func


_open: weakref.WeakSet[Lane] = weakref.WeakSet()


def _leave() -> None:
    for lane in list(_open):
        lane.leave()


def _leave_to_parent() -> None:
    for lane in list(_open):
        lane.leave_to_parent()
    _open.clear()


os.register_at_fork(after_in_child=_leave_to_parent)
