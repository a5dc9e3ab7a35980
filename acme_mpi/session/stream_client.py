"""A stream whose ranks are reached through a channel: its thread sends chunks and takes answers.

The thread does all that calls code of the user's for a chunk: it draws sources, pickles arguments,
and loads values.
"""

from __future__ import annotations

import atexit
import io
import os
import pickle
import socket
import threading
import traceback
import weakref
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from select import select
from typing import Any

from acme_mpi.comm.background import start_thread
from acme_mpi.errors import LaunchError
from acme_mpi.runner.calls import (
    Answers,
    Begin,
    Broken,
    Calls,
    End,
    Given,
    Kill,
    Teach,
    Window,
)
from acme_mpi.runner.channel import Channel, ChannelError, Kind
from acme_mpi.runner.surroundings import Surroundings
from acme_mpi.session.stream import Chunk, Form, Raised, Setup, Stream
from acme_mpi.session.stream_values import error_of, values_of
from acme_mpi.session.taught import Function, TaughtFunctions
from acme_mpi.session.together import Drawn, together
from acme_mpi.standing import loading
from acme_mpi.tasks.pickling import (
    FEW,
    GivenPickler,
    are_native,
    are_plain,
    dump_plain,
    large_into,
    pickle_given,
)

# Of chunks in one message. The ranks begin with them while the next ones are drawn.
FRAME_BYTES, FRAME_CHUNKS = 1024 * 1024, 200


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
    """A chunk that the ranks have, or single calls that have travelled together."""

    __slots__ = ("chunks", "done", "function", "n_calls", "n_left")

    def __init__(self, chunks: list[Chunk], function: Function, n_calls: int) -> None:
        self.chunks, self.function = chunks, function
        self.n_calls, self.n_left = n_calls, n_calls
        self.done: list[range] = []

    def end_calls(self, first: int, n: int) -> list[Chunk]:
        """Note that some calls have an end; return the chunks that have, with these."""
        self.n_left -= n
        self.done.append(range(first, first + n))
        if len(self.chunks) > 1:
            return self.chunks[first : first + n]
        return [] if self.n_left else self.chunks

    def receive(self, first: int, values: list[Any]) -> None:
        """Hand values on to whoever waits for them."""
        if len(self.chunks) == 1:
            self.chunks[0].receive(first, values)
            return
        for chunk, value in zip(self.chunks[first : first + len(values)], values, strict=True):
            chunk.receive(0, [value])

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
    last_words : callable
        Returns what is known of the ranks when they have gone, as the end of a sentence.
    """

    def __init__(
        self,
        channel: Channel,
        hosts: Sequence[str],
        start: dict[str, str] | None = None,
        last_words: Callable[[], str] = str,
    ) -> None:
        self.size, self._hosts = len(hosts), hosts
        self._start = dict(os.environ) if start is None else start
        self._channel, self._last_words = channel, last_words
        self._lock = threading.Lock()
        self._ears, self._mouth = socket.socketpair()
        for end in (self._ears, self._mouth):
            end.setblocking(False)
        self._is_woken = False
        self._setups: dict[int, Setup] = {}
        self._broken: dict[int, BaseException] = {}
        self._n_setups = self._n_chunks = 0
        self._orders: deque[Any] = deque()  # for the ranks; those of chunks come from the thread
        self._functions = TaughtFunctions(self.size, self._orders.append)
        self._added: deque[_Source] = deque()
        self._killed: deque[Chunk] = deque()
        # What follows is the thread's alone.
        self._sources: deque[_Source] = deque()
        self._dry: deque[_Source] = deque()
        self._out: dict[int, _Out] = {}  # by number
        self._calls: dict[Chunk, Calls] = {}  # which of them are a chunk's
        self._lost: BaseException | None = None
        self._is_over = False  # nobody takes sources any more
        _STREAMS.add(self)
        start_thread("stream", self._serve)

    # What anybody calls.

    @property
    def is_lost(self) -> bool:
        """Whether nothing comes through it any more."""
        return self._lost is not None

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
        function = self._functions.known(func)
        if self._orders:  # it is new
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

    def wake(self, source: Iterator[Chunk | None] | None = None) -> None:
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
            text = f"the ranks that served this process's pools have gone{self._last_words()}"
            self._lose(LaunchError(text))
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
            messages.append(Kill(self._calls_of_killed()))
        messages += self._functions.forgotten()
        if messages:
            self._send(messages)
        return bool(self._orders) or any(map(self._is_wanted, self._sources))

    def _is_wanted(self, source: _Source) -> bool:
        """Tell whether one more chunk may be drawn, if it is of the same function as the last."""
        function = source.function
        return self._lost is not None or function is None or self._functions.is_wanted(function)

    def _calls_of_killed(self) -> list[Calls]:
        found = []
        while self._killed:
            calls = self._calls.get(self._killed.popleft())
            if calls is not None:
                found.append(calls)
        return found

    def _take_sources(self) -> None:
        self._sources.extend(self._dry)
        self._dry.clear()
        while self._added:
            self._sources.append(self._added.popleft())

    def _send(self, messages: list[Any]) -> None:
        self._channel.send(Kind.GIVE, messages)

    def _drawn(self) -> list[Given]:
        """Return new chunks, as many as the ranks want."""
        ready: list[Drawn] = []
        n_bytes = 0
        n_unwanted = 0  # of the last sources
        while n_unwanted < len(self._sources):
            if n_bytes >= FRAME_BYTES or len(ready) >= FRAME_CHUNKS:
                break
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
            drawn = self._pickled(chunk)
            if drawn is not None:
                self._functions.note_sent(drawn.function)
                ready.append(drawn)
                n_bytes += len(drawn.body) + sum(each.nbytes for each in drawn.buffers)
        return [self._given(each) for each in together(ready, self.size)]

    def _given(self, drawn: list[Drawn]) -> Given:
        """Give chunks that travel as one their number."""
        self._n_chunks += 1
        number, first = self._n_chunks, drawn[0]
        n_calls = first.n_calls
        body: bytes | list[bytes] = first.body
        chunks = [each.chunk for each in drawn]
        if len(drawn) == 1:
            self._calls[first.chunk] = Calls(number, 0, n_calls)
        else:
            n_calls, body = len(drawn), [each.body for each in drawn]
            self._calls.update((each, Calls(number, k, k + 1)) for k, each in enumerate(chunks))
        self._out[number] = _Out(chunks, first.function, n_calls)
        setup, form, function = first.chunk.setup, int(first.chunk.form), first.function.number
        return Given(number, setup, function, form, n_calls, body, first.buffers)

    def _pickled(self, chunk: Chunk) -> Drawn | None:
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
                body, buffers = _pickle(chunk.form, arguments)
            except Exception as raised:
                error = raised
            except BaseException as raised:  # it is meant for no thread of ours
                error = pickle.PicklingError(f"an argument cannot be pickled: {raised!r}")
        if error is not None:
            chunk.receive(0, [Raised(error)] * n_calls)
            return None
        function: Function = chunk.function
        if (teach := self._functions.taught_again(function)) is not None:
            self._orders.append(teach)
        setup = self._setups.get(chunk.setup)
        are_counted = setup is not None and bool(setup.max_chunks)
        return Drawn(chunk, function, n_calls, body, buffers, are_counted)

    def _take_answers(self) -> None:
        while (message := self._channel.receive(wait=False)) is not None:
            for each in message[1]:
                if isinstance(each, Window):
                    self._functions.open_window(each)
                else:
                    self._take(each)

    def _take(self, answers: Answers) -> None:
        where = self._where(answers.rank)
        with loading():  # once for all of them, and not while they are handed back
            loaded = [
                (answer, [] if isinstance(answer, Broken) else values_of(answer, where))
                for answer in answers.answers
                if isinstance(answer, Broken) or answer.chunk in self._out
            ]
        for answer, values in loaded:
            if isinstance(answer, Broken):
                self._break(answer, answers.rank)
            elif answer.chunk in self._out:
                self._give_back(answer.chunk, answer.first, answer.n, values)

    def _where(self, rank: int) -> str:
        return f"rank {rank} ({self._hosts[rank]})" if rank >= 0 else ""

    def _give_back(self, number: int, first: int, n: int, values: list[Any]) -> None:
        out = self._out[number]
        ended = out.end_calls(first, n)
        for chunk in ended:
            del self._calls[chunk]
        self._functions.note_back(out.function, len(ended))
        if not out.n_left:
            del self._out[number]
        out.receive(first, values)

    def _break(self, broken: Broken, rank: int) -> None:
        """End a pool whose initializer has raised."""
        setup = self._setups.get(broken.setup)
        if setup is None or broken.setup in self._broken:
            return
        error = error_of(pickle.loads(broken.body), self._where(rank))
        self._broken[broken.setup] = error
        setup.on_broken(error)

    def _lose(self, error: BaseException) -> None:
        """End all chunks: the ranks have gone. What is added from now on ends at once."""
        self._lost = error
        out, self._out = self._out, {}
        self._calls.clear()
        for each in out.values():
            for k in each.missing():
                each.receive(k, [Raised(error)])
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


def _pickle(form: Form, arguments: Sequence[Any]) -> tuple[bytes, list[Any]]:
    values = _values_in(form, arguments)
    if are_native(values):
        return pickle.dumps(arguments, protocol=5), []
    buffers: list[Any] = []
    take = large_into(buffers)
    if are_plain(values):
        return dump_plain(arguments, take), buffers
    file = io.BytesIO()
    GivenPickler(file, protocol=5, buffer_callback=take).dump(arguments)
    return file.getvalue(), buffers


def _values_in(form: Form, arguments: Sequence[Any]) -> Sequence[Any]:
    """Return what the arguments of some calls consist of; those of many are not taken apart."""
    if form is Form.ONCE and len(arguments) == 1:
        return _parts(*arguments[0])
    if form is Form.EACH or len(arguments) > FEW:
        return arguments
    if form is Form.ONCE:
        return [each for args, named in arguments for each in _parts(args, named)]
    return [each for args in arguments for each in (args if type(args) is tuple else (args,))]


def _parts(args: Any, named: Any) -> tuple[Any, ...]:
    """Return what the arguments of a call consist of; an iterator is not drawn here."""
    if type(args) is tuple and type(named) is dict:
        return (*args, *named, *named.values()) if named else args
    return args, named


# Of this process. What is registered with the fork of each would stay for ever, and they with it.
_STREAMS: weakref.WeakSet[ClientStream] = weakref.WeakSet()


def _leave_to_parent() -> None:
    for stream in [*_STREAMS]:
        stream.leave_to_parent()


os.register_at_fork(after_in_child=_leave_to_parent)
