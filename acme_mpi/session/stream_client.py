"""A stream whose ranks are reached through a channel: its thread sends chunks and takes answers.

The thread does all that calls code of the user's for a chunk: it draws sources, pickles arguments,
and loads values. A function is pickled where it is given, and compared with the last few: one that
has not changed is not sent again.
"""

from __future__ import annotations

import atexit
import ctypes
import io
import os
import pickle
import socket
import threading
import traceback
import weakref
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from multiprocessing.pool import (  # type: ignore[attr-defined]
    MaybeEncodingError,
    RemoteTraceback,
)
from select import select
from typing import Any

import numpy as np

from acme_mpi.comm.background import start_thread
from acme_mpi.errors import LaunchError, WorkerDied
from acme_mpi.linux.segment import Segment
from acme_mpi.runner.calls import (
    Answers,
    Begin,
    Broken,
    End,
    Forget,
    Given,
    Got,
    Kill,
    Lost,
    NoValue,
    Teach,
    Window,
)
from acme_mpi.runner.channel import Channel, ChannelError, Kind
from acme_mpi.runner.reloaded import RELOADS
from acme_mpi.runner.surroundings import Surroundings
from acme_mpi.session.stream import Chunk, Raised, Setup, Stream
from acme_mpi.standing import loading
from acme_mpi.tasks.pickling import (
    OUT_OF_BAND_BYTES,
    GivenPickler,
    Unloadable,
    are_plain,
    dump_plain,
    pickle_given,
    text_of,
)

N_KEPT = 8  # functions
N_UNKNOWN = 4  # chunks for each rank, as `map` makes them
ALIGNMENT = 64  # of buffers in a segment
FRAME_BYTES = 1024 * 1024  # of chunks in one message

_MARK = b"acme_mpi"  # in a pickle that has more than the user's values

_memcmp = ctypes.CDLL(None).memcmp
_memcmp.argtypes = [ctypes.c_void_p, ctypes.c_void_p, ctypes.c_size_t]


class Function:
    """A function that the ranks know by its number.

    Attributes
    ----------
    number : int
        Its own.
    n_out : int
        Chunks of it that are drawn and have not ended.
    window : int
        How many of them the ranks want to have; 0: none has ended yet.
    """

    def __init__(self, number: int, body: bytes, buffers: Sequence[Any]) -> None:
        self.number, self.n_out, self.window = number, 0, 0
        self._body, self._views = body, list[memoryview]()
        self._modules = RELOADS.state()
        self._segment: Segment | None = None
        self._places: list[tuple[int, int]] = []
        if buffers:
            self._segment, self._places = _in_segment([body, *buffers])
            view = self._segment.view()
            self._views = [view[start : start + size] for start, size in self._places[1:]]

    @property
    def message(self) -> Teach:
        """What teaches it to the ranks."""
        body = b"" if self._segment is not None else self._body
        return Teach(self.number, body, self._places, self._segment, self._modules)

    def is_same(self, body: bytes, buffers: Sequence[Any]) -> bool:
        """Tell whether pickle and buffers are those that the ranks have."""
        return (
            body == self._body
            and self._modules == RELOADS.state()
            and len(buffers) == len(self._views)
            and all(map(_are_equal, buffers, self._views))
        )


def _in_segment(pieces: list[Any]) -> tuple[Segment, list[tuple[int, int]]]:
    """Return a segment that holds some pieces, and where they lie in it."""
    padded, places, offset = [], [], 0
    for piece in pieces:
        size = memoryview(piece).nbytes
        places.append((offset, size))
        gap = -size % ALIGNMENT
        padded += [piece, bytes(gap)]
        offset += size + gap
    return Segment.of(padded), places


def _are_equal(left: Any, right: memoryview) -> bool:
    if left.nbytes != right.nbytes:
        return False
    a, b = (np.frombuffer(each, np.uint8).ctypes.data for each in (left, right))
    return not _memcmp(a, b, right.nbytes)


class _Source:
    """Where chunks come from.

    Attributes
    ----------
    chunks : iterator of (Chunk or None)
        What is drawn.
    function : Function or None
        Of the last one.
    """

    __slots__ = ("chunks", "function")

    def __init__(self, chunks: Iterator[Chunk | None]) -> None:
        self.chunks = chunks
        self.function: Function | None = None


class _Out:
    """A chunk that the ranks have."""

    __slots__ = ("chunk", "done", "n_calls", "n_left")

    def __init__(self, chunk: Chunk, n_calls: int) -> None:
        self.chunk, self.n_calls, self.n_left = chunk, n_calls, n_calls
        self.done: list[range] = []

    def missing(self) -> list[int]:
        """Return the calls that have no end yet."""
        done = {k for calls in self.done for k in calls}
        return [k for k in range(self.n_calls) if k not in done]


class ClientStream(Stream):
    """The stream of a process that reaches the ranks through a channel.

    Parameters
    ----------
    channel : Channel
        To rank 0's agent or thread.
    hosts : sequence of str
        The node of each rank.
    start : mapping, optional
        Environment that the ranks have as well; None: that of now, this process is a rank itself.
    """

    def __init__(
        self, channel: Channel, hosts: Sequence[str], start: dict[str, str] | None = None
    ) -> None:
        self.size, self._hosts = len(hosts), hosts
        self._start = dict(os.environ) if start is None else start
        self._channel = channel
        self._lock = threading.Lock()
        self._ears, self._mouth = socket.socketpair()
        for end in (self._ears, self._mouth):
            end.setblocking(False)
        self._is_woken = False
        self._setups: dict[int, Setup] = {}
        self._broken: dict[int, BaseException] = {}
        self._n_setups = self._n_functions = self._n_chunks = 0
        self._kept: deque[Function] = deque()
        self._orders: deque[Any] = deque()  # for the ranks; those of chunks come from the thread
        self._added: deque[_Source] = deque()
        self._killed: deque[Chunk] = deque()
        # What follows is the thread's alone.
        self._sources: deque[_Source] = deque()
        self._dry: deque[_Source] = deque()
        self._out: dict[int, _Out] = {}  # by number
        self._numbers: dict[Chunk, int] = {}
        self._n_unknown = 0  # chunks that are out, of functions without a window
        self._lost: BaseException | None = None
        self._is_over = False  # nobody takes sources any more
        _STREAMS.add(self)
        start_thread("stream", self._serve)

    # What anybody calls.

    @property
    def has_pools(self) -> bool:
        """Whether a pool has begun that has not ended."""
        return bool(self._setups)

    def begin(self, setup: Setup) -> int:
        """Return the number of a new pool's setup.

        Raises
        ------
        LaunchError
            The ranks have gone.
        """
        pair = (setup.initializer, setup.initargs)
        initializer = b"" if setup.initializer is None else pickle_given(pair)
        with self._lock:
            if self._is_over:
                raise LaunchError(str(self._lost))
            self._n_setups += 1
            number = self._n_setups
            self._setups[number] = setup
        self._order(
            Begin(
                number,
                initializer,
                setup.rules,
                setup.max_chunks or 0,
                setup.n_ranks or 0,
                Surroundings.here(self._start),
            )
        )
        return number

    def end(self, number: int) -> None:
        """Forget a setup."""
        if self._setups.pop(number, None) is not None:
            self._broken.pop(number, None)
            self._order(End(number))

    def function(self, func: Callable[..., Any]) -> Function:
        """Pickle a function, and have the ranks know it."""
        buffers: list[Any] = []

        def take(buffer: pickle.PickleBuffer) -> bool:
            raw = buffer.raw()
            if raw.nbytes < OUT_OF_BAND_BYTES:
                return True
            buffers.append(raw)
            return False

        body = pickle_given(func, take)
        with self._lock:
            for known in self._kept:
                if known.is_same(body, buffers):
                    self._kept.remove(known)
                    self._kept.append(known)
                    return known
            self._n_functions += 1
            function = Function(self._n_functions, body, buffers)
            self._kept.append(function)
            self._orders.append(function.message)
        self.wake()
        return function

    def add(self, source: Iterator[Chunk | None]) -> None:
        """Draw chunks from an iterator, in the stream's thread, until it ends."""
        self._added.append(_Source(source))
        self.wake()

    def kill(self, chunks: Iterable[Chunk]) -> None:
        """End chunks that are out."""
        self._killed.extend(chunks)
        self.wake()

    def _order(self, message: Any) -> None:
        self._orders.append(message)
        self.wake()

    def wake(self) -> None:
        """Have the thread look at what is new."""
        if self._is_woken:
            return
        try:
            # Nothing is called between these two: an interrupt there would be the last wake.
            self._is_woken = True
            self._mouth.send(b"!")
        except OSError:  # it has gone
            pass

    def close(self) -> None:
        """Hang up: the ranks drop what is out."""
        self._channel.hang_up()

    def leave_to_parent(self) -> None:
        """Have no part in it in a forked child, whose end would hang up for its parent."""
        atexit.unregister(self.close)
        self._channel.close()

    # What the thread does.

    def _serve(self) -> None:
        try:
            self._converse()
        except (EOFError, OSError, ChannelError):
            self._lose(LaunchError("the ranks that served this process's pools have gone"))
        except BaseException as error:
            traceback.print_exc()
            self._lose(LaunchError(f"the stream has ended by a fault of its own: {error}"))

    def _converse(self) -> None:
        while True:
            has_more = self._send_what_is_new() if self._channel.has_room() else True
            to_write = [self._channel] if has_more else []
            ears, channel = self._ears.fileno(), self._channel.fileno()
            ready, _, _ = select([ears, channel], to_write, [])
            if ears in ready:
                self._hush()
            if channel in ready:
                self._take_answers()

    def _hush(self) -> None:
        self._ears.recv(4096)
        self._is_woken = False  # before it looks: what comes after that wakes it again

    def _send_what_is_new(self) -> bool:
        """Send what has come together, up to a bound; return whether there is more."""
        self._take_sources()
        # First: what a chunk refers to was ordered before a source had it, and goes before it.
        drawn = self._drawn()
        messages: list[Any] = []
        while self._orders:
            message = self._orders.popleft()
            messages.append(message)
            if isinstance(message, Teach) and message.segment is not None:
                self._send(messages)
                messages = []
        messages += drawn
        if self._killed:
            messages.append(Kill(self._numbers_of_killed()))
        messages += self._forgotten()
        if messages:
            self._send(messages)
        return bool(self._orders) or any(map(self._is_wanted, self._sources))

    def _is_wanted(self, source: _Source) -> bool:
        """Tell whether one more chunk may be drawn, if it is of the same function as the last one.

        What was sent cannot be cancelled. So of functions that may take hours, for all that is
        known, only a few chunks are out.
        """
        function = source.function
        if self._lost is not None or function is None:
            return True
        if not function.window:
            return self._n_unknown < N_UNKNOWN * self.size
        return function.n_out < function.window

    def _numbers_of_killed(self) -> list[int]:
        numbers = []
        while self._killed:
            number = self._numbers.get(self._killed.popleft())
            if number is not None:
                numbers.append(number)
        return numbers

    def _take_sources(self) -> None:
        self._sources.extend(self._dry)
        self._dry.clear()
        while self._added:
            self._sources.append(self._added.popleft())

    def _send(self, messages: list[Any]) -> None:
        self._channel.send(Kind.GIVE, messages)

    def _drawn(self) -> list[Given]:
        """Return new chunks, as many as the ranks want."""
        messages: list[Given] = []
        n_bytes = 0
        n_unwanted = 0  # of the last sources
        while n_unwanted < len(self._sources) and n_bytes < FRAME_BYTES:
            source = self._sources[0]
            if not self._is_wanted(source):
                self._sources.rotate(-1)
                n_unwanted += 1
                continue
            n_unwanted = 0
            try:
                chunk = next(source.chunks)
            except StopIteration:
                self._sources.popleft()
                continue
            if chunk is None:
                self._dry.append(self._sources.popleft())
                continue
            self._sources.rotate(-1)
            source.function = chunk.function
            given = self._given(chunk)
            if given is not None:
                messages.append(given)
                n_bytes += len(given.body) + sum(each.nbytes for each in given.buffers)
        return messages

    def _given(self, chunk: Chunk) -> Given | None:
        """Pickle a chunk that is wanted; None if that is its end."""
        if not chunk.begin():
            chunk.arguments = None
            return None
        arguments, chunk.arguments = chunk.arguments, None
        assert arguments is not None
        n_calls = len(arguments)
        error = self._lost or self._broken.get(chunk.setup)
        if error is None:
            try:
                body, buffers = _pickled(arguments)
            except Exception as raised:
                error = raised
            except BaseException as raised:  # it is meant for no thread of ours
                error = pickle.PicklingError(f"an argument cannot be pickled: {raised!r}")
        if error is not None:
            chunk.receive(0, [Raised(error)] * n_calls)
            return None
        function: Function = chunk.function
        self._teach_again(function)
        self._n_chunks += 1
        number = self._n_chunks
        self._out[number] = _Out(chunk, n_calls)
        self._numbers[chunk] = number
        function.n_out += 1
        self._n_unknown += not function.window
        form = int(chunk.form)
        return Given(number, chunk.setup, function.number, form, n_calls, body, buffers)

    def _teach_again(self, function: Function) -> None:
        """Have the ranks know a function that they were to forget before this chunk was drawn."""
        with self._lock:
            if function in self._kept:
                return
            self._kept.append(function)
        self._send([function.message])

    def _forgotten(self) -> list[Forget]:
        """Return what the ranks need not know any more."""
        messages = []
        with self._lock:
            for function in [*self._kept][:-N_KEPT]:
                if not function.n_out:
                    self._kept.remove(function)
                    messages.append(Forget(function.number))
        return messages

    def _take_answers(self) -> None:
        while (message := self._channel.receive(wait=False)) is not None:
            for each in message[1]:
                if isinstance(each, Window):
                    self._open_window(each)
                else:
                    self._take(each)

    def _open_window(self, window: Window) -> None:
        with self._lock:
            function = next((f for f in self._kept if f.number == window.function), None)
        if function is None:
            return  # it was forgotten
        if not function.window:
            self._n_unknown -= function.n_out
        function.window = window.n_chunks

    def _take(self, answers: Answers) -> None:
        for answer in answers.answers:
            if isinstance(answer, Broken):
                self._break(answer, answers.rank)
            elif answer.chunk in self._out:
                values = self._values(answer, answers.rank)
                self._give_back(answer.chunk, answer.first, answer.n, values)

    def _values(self, answer: Got | Lost, rank: int) -> list[Any]:
        where = f"rank {rank} ({self._hosts[rank]})" if rank >= 0 else ""
        if isinstance(answer, Lost):
            text = f"{answer.message}; on {where}" if where else answer.message
            return [Raised(WorkerDied(text), where) for _ in range(answer.n)]
        try:
            with loading():
                values = pickle.loads(answer.body, buffers=answer.buffers)
        except BaseException as error:  # by code of the user's: it ends these calls, not the stream
            return [Raised(_unloadable(f"{type(error).__name__}: {error}"), where)] * answer.n
        if _MARK not in answer.body:
            plain: list[Any] = values
            return plain
        for k, value in enumerate(values):
            if type(value) is NoValue:
                values[k] = Raised(error_of(value, where), where)
            elif type(value) is Unloadable:
                values[k] = Raised(_unloadable(value.reason), where)
        loaded: list[Any] = values
        return loaded

    def _give_back(self, number: int, first: int, n: int, values: list[Any]) -> None:
        out = self._out[number]
        out.n_left -= n
        if out.n_left > 0:
            out.done.append(range(first, first + n))
        else:
            del self._out[number], self._numbers[out.chunk]
            function: Function = out.chunk.function
            function.n_out -= 1
            self._n_unknown -= not function.window
        out.chunk.receive(first, values)

    def _break(self, broken: Broken, rank: int) -> None:
        """End a pool whose initializer has raised."""
        setup = self._setups.get(broken.setup)
        if setup is None or broken.setup in self._broken:
            return
        where = f"rank {rank} ({self._hosts[rank]})"
        error = error_of(pickle.loads(broken.body), where)
        self._broken[broken.setup] = error
        setup.on_broken(error)

    def _lose(self, error: BaseException) -> None:
        """End all chunks: the ranks have gone. What is added from now on ends at once."""
        self._lost = error
        out, self._out = self._out, {}
        self._numbers.clear()
        for each in out.values():
            for k in each.missing():
                each.chunk.receive(k, [Raised(error)])
        while not self._is_left():
            self._take_sources()
            self._drawn()
            select([self._ears], [], [])
            self._hush()
        for end in (self._channel, self._ears, self._mouth):
            end.close()

    def _is_left(self) -> bool:
        """Tell whether all pools are closed; then there are no new ones."""
        with self._lock:
            self._is_over = not (self._setups or self._sources or self._dry or self._added)
            return self._is_over


def _pickled(arguments: Sequence[Any]) -> tuple[bytes, list[Any]]:
    buffers: list[Any] = []

    def take(buffer: pickle.PickleBuffer) -> bool:
        raw = buffer.raw()
        if raw.nbytes < OUT_OF_BAND_BYTES:
            return True
        buffers.append(np.frombuffer(raw, np.uint8))
        return False

    if are_plain(arguments):
        return dump_plain(arguments, take), buffers
    file = io.BytesIO()
    GivenPickler(file, protocol=5, buffer_callback=take).dump(arguments)
    return file.getvalue(), buffers


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


# Of this process. What is registered with the fork of each would stay for ever, and they with it.
_STREAMS: weakref.WeakSet[ClientStream] = weakref.WeakSet()


def _leave_to_parent() -> None:
    for stream in [*_STREAMS]:
        stream.leave_to_parent()


os.register_at_fork(after_in_child=_leave_to_parent)
