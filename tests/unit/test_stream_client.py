"""The client of a stream: what it sends to ranks, which the test plays, and what it hands back."""

from __future__ import annotations

import atexit
import contextlib
import os
import pickle
import select
import signal
import socket
import threading
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import pytest
from running import LIMIT_S, wait_until

from acme_mpi.errors import LaunchError
from acme_mpi.runner.calling import describe_error, dump
from acme_mpi.runner.calls import Answers, Begin, Forget, Given, Got, Kill, Teach, Window
from acme_mpi.runner.channel import Channel, Kind
from acme_mpi.session.stream import Chunk, Form, Setup
from acme_mpi.session.stream_client import FRAME_CHUNKS, ClientStream
from acme_mpi.session.taught import N_KEPT, N_UNKNOWN

pytestmark = pytest.mark.once


class Calls(Chunk):
    """A chunk that keeps what it gets."""

    def __init__(
        self, setup: int, function: Any, arguments: Sequence[Any], form: Form = Form.EACH
    ) -> None:
        super().__init__(setup, function, form, arguments)
        self.values: list[Any] = [None] * len(arguments)
        self._n_left = len(arguments)
        self._is_done = threading.Event()

    def begin(self) -> bool:
        return True

    def receive(self, first: int, values: list[Any]) -> None:
        self.values[first : first + len(values)] = values
        self._n_left -= len(values)
        if not self._n_left:
            self._is_done.set()

    def result(self) -> list[Any]:
        assert self._is_done.wait(LIMIT_S), "the chunk has not ended"
        return self.values


class Played:
    """A client and the ranks' end of its channel."""

    def __init__(self) -> None:
        own, self.channel = Channel.pair()
        self.stream = ClientStream(own, ["here", "there"])
        self.setup = self.stream.begin(Setup())
        self.seen: list[Any] = []  # all messages
        self._n_read = 0

    def next(self, kind: type) -> Any:
        """Return the next message of a kind; those before it count as read."""
        while True:
            while self._n_read < len(self.seen):
                self._n_read += 1
                if isinstance(self.seen[self._n_read - 1], kind):
                    return self.seen[self._n_read - 1]
            self._receive()

    def _receive(self) -> None:
        self.channel._socket.settimeout(LIMIT_S)
        received = self.channel.receive()
        assert received is not None
        self.seen += received[1]

    def add(self, function: Any, *arguments: Any, form: Form = Form.EACH) -> Calls:
        chunk = Calls(self.setup, function, arguments, form)
        self.stream.add(iter([chunk]))
        return chunk

    def tell(self, *messages: Any) -> None:
        self.channel.send(Kind.GOT, [*messages])

    def answer(self, given: Given, values: list[Any], first: int = 0) -> None:
        body: bytes | list[bytes]
        body, buffers = dump(values)
        if given.may_part:
            body = [dump([value])[0] for value in values]
        self.tell(Answers(1, [Got(given.chunk, first, len(values), body, buffers, 0)]))

    def call(self, function: Any, argument: Any = 0) -> None:
        """Play a whole call."""
        chunk = self.add(function, argument)
        self.answer(self.next(Given), [argument])
        chunk.result()


@pytest.fixture
def played() -> Iterator[Played]:
    played = Played()
    yield played
    played.channel.close()


def plain(x: Any) -> Any:
    return x


class Quits:
    def __reduce__(self) -> Any:
        raise SystemExit(3)


class QuitsWhereItIsLoaded:
    def __reduce__(self) -> Any:
        return quit_, ()


def quit_() -> None:
    raise SystemExit("not here")


@dataclass(frozen=True)
class FrozenError(Exception):
    number: int

    def __reduce__(self) -> Any:
        return FrozenError, (self.number,)


def test_values_come_back_to_their_chunk(played):
    chunk = played.add(played.stream.function(plain), 1, 2)

    played.answer(played.next(Given), [10, 20])

    assert chunk.result() == [10, 20]


def test_an_iterator_of_arguments_arrives_whole(played):
    named = {"c": 3}
    played.add(played.stream.function(plain), (iter([1, 2]), named), form=Form.ONCE)

    ((args, kwargs),) = pickle.loads(played.next(Given).body)
    assert ([*args], kwargs) == ([1, 2], named)


def test_an_argument_that_quits_ends_its_chunk_alone(played):
    function = played.stream.function(plain)

    (raised,) = played.add(function, Quits()).result()

    assert isinstance(raised.error, pickle.PicklingError)
    assert "SystemExit(3)" in str(raised.error)
    played.call(function)


def test_a_value_that_quits_ends_its_calls_alone(played):
    function = played.stream.function(plain)
    chunk = played.add(function, 1)
    body = pickle.dumps([QuitsWhereItIsLoaded()])
    played.tell(Answers(1, [Got(played.next(Given).chunk, 0, 1, body, [], 0)]))

    (raised,) = chunk.result()

    assert "SystemExit: not here" in str(raised.error)
    played.call(function)


def test_an_error_that_quits_when_it_is_loaded_is_told(played):
    function = played.stream.function(plain)
    chunk = played.add(function, 1)
    value = describe_error(ValueError("bad"))._replace(error=pickle.dumps(QuitsWhereItIsLoaded()))
    played.answer(played.next(Given), [value])

    (raised,) = chunk.result()

    assert "bad" in str(raised.error)
    played.call(function)


def test_an_error_may_be_a_frozen_dataclass(played):
    chunk = played.add(played.stream.function(plain), 1)
    played.answer(played.next(Given), [describe_error(FrozenError(7))])

    (raised,) = chunk.result()

    assert raised.error == FrozenError(7)
    assert raised.where == "rank 1 (there)"


def test_a_function_is_sent_before_its_first_chunk(played):
    """It may come while the stream's thread looks for chunks, after it has looked for functions."""

    def source() -> Iterator[Chunk]:
        setup = played.stream.begin(Setup())
        yield Calls(setup, played.stream.function(plain), [1])

    played.stream.add(source())
    given = played.next(Given)

    before = played.seen[: played.seen.index(given)]
    assert [each.function for each in before if isinstance(each, Teach)] == [given.function]
    assert given.setup in [each.setup for each in before if isinstance(each, Begin)]


def make_constant(n: int) -> Callable[[Any], int]:
    return lambda x: n


def make_sum(array: Any) -> Callable[[Any], Any]:
    return lambda x: array.sum()


def test_the_ranks_begin_while_more_is_drawn(played):
    quick = played.stream.function(plain)
    played.call(quick)
    played.tell(Window(quick.number, 5 * FRAME_CHUNKS, 1.0))
    played.stream.add(Calls(played.setup, quick, [k]) for k in range(2 * FRAME_CHUNKS))
    n_before = len(played.seen)

    played.next(Given)

    assert len(played.seen) - n_before <= FRAME_CHUNKS


class TestTogether:
    """Single calls that travel as one chunk."""

    def quick(self, played: Played) -> Any:
        """Return a function of which is known that its calls are short."""
        function = played.stream.function(plain)
        played.call(function)
        played.tell(Window(function.number, 1000, 1e-6))
        while function.call_s > 1:
            played.call(function)
        return function

    def add(self, played: Played, chunks: list[Calls]) -> list[Given]:
        """Give them all at once; return what is sent."""
        played.stream.add(iter(chunks))
        given = [played.next(Given)]
        while sum(each.n for each in given) < sum(len(chunk.values) for chunk in chunks):
            given.append(played.next(Given))
        return given

    def test_short_ones_do(self, played):
        function = self.quick(played)
        chunks = [Calls(played.setup, function, [k]) for k in range(80)]

        given = self.add(played, chunks)

        assert [each.n for each in given] == [20] * 4  # two for each rank
        for each in given:
            played.answer(each, each.arguments(0, each.n))
        assert [chunk.result() for chunk in chunks] == [[k] for k in range(80)]

    def test_few_go_one_by_one(self, played):
        function = self.quick(played)

        given = self.add(played, [Calls(played.setup, function, [k]) for k in range(4)])

        assert [(each.n, each.may_part) for each in given] == [(1, False)] * 4

    @pytest.mark.parametrize("argument", [b"x" * 10_000, np.zeros(100_000)], ids=["long", "array"])
    def test_large_ones_do_not(self, played, argument):
        function = self.quick(played)

        given = self.add(played, [Calls(played.setup, function, [argument]) for _ in range(20)])

        assert {each.n for each in given} == {1}

    def test_those_of_a_pool_that_counts_chunks_do_not(self, played):
        setup = played.stream.begin(Setup(max_chunks=7))
        function = self.quick(played)

        given = self.add(played, [Calls(setup, function, [k]) for k in range(20)])

        assert {each.n for each in given} == {1}

    def test_those_of_two_pools_do_not_mix(self, played):
        setups = [played.setup, played.stream.begin(Setup())]
        function = self.quick(played)

        given = self.add(played, [Calls(setups[k % 2], function, [k]) for k in range(80)])

        assert {(each.setup, each.n) for each in given} == {(setup, 20) for setup in setups}
        assert all(
            k % 2 == setups.index(each.setup) for each in given for k in each.arguments(0, 99)
        )

    def test_their_values_may_come_in_parts(self, played):
        function = self.quick(played)
        chunks = [Calls(played.setup, function, [k]) for k in range(20)]
        first, *_ = self.add(played, chunks)
        values = first.arguments(0, first.n)

        played.answer(first, values[3:], first=3)
        assert [chunk.result() for chunk in chunks[3 : first.n]] == [[k] for k in values[3:]]

        played.answer(first, values[:3])
        assert [chunk.result() for chunk in chunks[: first.n]] == [[k] for k in values]

    def test_one_that_takes_long_keeps_no_others_from_being_drawn(self, played):
        function = self.quick(played)
        chunks = [Calls(played.setup, function, [k]) for k in range(80)]
        for each in self.add(played, chunks):
            played.answer(each, each.arguments(1, each.n), first=1)
        for k, chunk in enumerate(chunks):
            if k % 20:
                chunk.result()
        played.tell(Window(function.number, 6, 1.0))  # calls take long now
        wait_until(lambda: function.window == 6)
        late = [Calls(played.setup, function, [k]) for k in (7, 8)]
        played.stream.add(iter(late))

        for each in (played.next(Given), played.next(Given)):
            played.answer(each, each.arguments(0, 1))

        assert [chunk.result() for chunk in late] == [[7], [8]]

    def test_each_can_be_killed(self, played):
        function = self.quick(played)
        chunks = [Calls(played.setup, function, [k]) for k in range(80)]
        given = self.add(played, chunks)

        played.stream.kill([chunks[23]])

        assert played.next(Kill).calls == [(given[1].chunk, 3, 4)]

    def test_each_has_its_error_if_the_ranks_go(self, played):
        function = self.quick(played)
        chunks = [Calls(played.setup, function, [k]) for k in range(80)]
        first, *_ = self.add(played, chunks)
        played.answer(first, first.arguments(0, first.n))
        assert [chunk.result() for chunk in chunks[: first.n]] == [[k] for k in range(first.n)]

        played.channel.close()

        for chunk in chunks[first.n :]:
            (raised,) = chunk.result()
            assert isinstance(raised.error, LaunchError)

    def test_a_value_that_does_not_load_is_told_for_its_call(self, played):
        function = self.quick(played)
        chunks = [Calls(played.setup, function, [k]) for k in range(80)]
        first, *_ = self.add(played, chunks)
        bodies = [pickle.dumps([k]) for k in range(first.n)]
        bodies[5] = pickle.dumps([QuitsWhereItIsLoaded()])

        played.tell(Answers(1, [Got(first.chunk, 0, first.n, bodies, [], 0)]))

        assert chunks[4].result() == [4]
        assert chunks[6].result() == [6]
        (raised,) = chunks[5].result()
        assert "SystemExit: not here" in str(raised.error)


@pytest.mark.parametrize("is_known", [False, True])
def test_each_function_has_its_window(played, is_known):
    quick, slow = (played.stream.function(func) for func in (plain, [].append))
    played.call(quick)
    played.tell(Window(quick.number, 100, 1.0))
    if is_known:
        played.call(slow)
        played.tell(Window(slow.number, 6, 1.0))
    n_first = 6 if is_known else N_UNKNOWN * played.stream.size
    played.stream.add(Calls(played.setup, slow, [k]) for k in range(100))
    played.stream.add(Calls(played.setup, quick, [k]) for k in range(50))

    given = [played.next(Given) for _ in range(n_first + 50)]

    assert [each.function for each in given].count(slow.number) == n_first
    assert given[-1].function == quick.number  # what waits holds up no other source
    played.tell(Window(slow.number, 101, 1.0))
    assert {played.next(Given).function for _ in range(100 - n_first)} == {slow.number}


def test_the_same_function_has_the_same_number(played):
    stream, array = played.stream, np.arange(100_000.0)

    assert stream.function(plain) is stream.function(plain)
    assert stream.function(make_constant(1)) is stream.function(make_constant(1))
    assert stream.function(make_sum(array)) is stream.function(make_sum(array.copy()))


def test_a_known_function_wakes_nobody(played, monkeypatch):
    """Each wake takes a core from a task, for small maps again and again."""
    played.call(played.stream.function(plain))
    monkeypatch.setattr(played.stream, "wake", lambda: pytest.fail("woken"))

    played.stream.function(plain)


def test_a_changed_function_has_another_number(played):
    stream, array = played.stream, np.arange(100_000.0)
    before = stream.function(make_sum(array))
    array[77_777] = -1.0

    assert stream.function(make_sum(array)) is not before
    assert stream.function(make_constant(1)) is not stream.function(make_constant(2))
    assert stream.function(make_sum(array[:-1])) is not stream.function(make_sum(array))


def test_a_change_goes_to_the_ranks(played):
    array = np.arange(100_000.0)
    played.stream.function(make_sum(array))
    array[0] = 5.0
    played.call(played.stream.function(make_sum(array)))

    first, second = (each for each in played.seen if isinstance(each, Teach))

    pieces = [bytes(second.segment.view()[a : a + n]) for a, n in second.places]
    loaded = pickle.loads(pieces[0], buffers=pieces[1:])
    assert loaded(0) == array.sum()
    assert first.function != second.function


def test_a_function_that_is_used_is_not_forgotten(played):
    used = played.stream.function(make_constant(0))
    chunk = played.add(used, 1)
    given = played.next(Given)
    for n in range(3 * N_KEPT):
        played.call(played.stream.function(make_constant(n + 1)))

    forgotten = [each.function for each in played.seen if isinstance(each, Forget)]
    assert forgotten
    assert used.number not in forgotten
    played.answer(given, [1])
    chunk.result()


def test_only_the_last_functions_are_kept(played):
    numbers = []
    for n in range(3 * N_KEPT):
        function = played.stream.function(make_constant(n))
        numbers.append(function.number)
        played.call(function)
    played.call(function)

    forgotten = [each.function for each in played.seen if isinstance(each, Forget)]
    assert forgotten == numbers[:-N_KEPT]


@pytest.mark.parametrize("make", [make_constant, lambda n: make_sum(np.full(10_000, float(n)))])
def test_a_forgotten_function_is_taught_again(played, make):
    """Whoever has asked for it may keep it for as long as he likes."""
    first = played.stream.function(make(0))
    for n in range(2 * N_KEPT):
        played.call(played.stream.function(make(n + 1)))
    assert first.number in [each.function for each in played.seen if isinstance(each, Forget)]

    played.call(first)

    known = set()
    for message in played.seen:
        if isinstance(message, Teach):
            known.add(message.function)
        elif isinstance(message, Forget):
            known.remove(message.function)
        elif isinstance(message, Given):
            assert message.function in known
    assert played.stream.function(make(0)) is first


def test_a_pool_has_the_environment_of_its_beginning(played, monkeypatch):
    """Also where the script is a rank itself, whose runner may have been started before."""
    monkeypatch.setenv("ACME_TEST_SAID", "late")

    setup = played.stream.begin(Setup())

    begin = played.next(Begin)
    while begin.setup != setup:
        begin = played.next(Begin)
    assert begin.surroundings.variables["ACME_TEST_SAID"] == "late"


def test_the_end_of_a_forked_child_is_not_the_streams(played):
    atexit.register(played.stream.close)
    pid = os.fork()
    if not pid:
        try:
            atexit._run_exitfuncs()
        finally:
            os._exit(0)
    os.waitpid(pid, 0)
    atexit.unregister(played.stream.close)

    played.call(played.stream.function(plain))


def test_a_stream_whose_ranks_have_gone_ends_with_its_pools():
    before = {*threading.enumerate()}
    played = Played()
    (thread,) = {*threading.enumerate()} - before
    chunk = played.add(played.stream.function(plain), 1)
    played.channel.close()
    assert "have gone" in str(chunk.result()[0].error)
    assert thread.is_alive()  # as long as there is a pool, it ends what that adds

    played.stream.end(played.setup)

    thread.join(LIMIT_S)
    assert not thread.is_alive()
    with pytest.raises(LaunchError, match="have gone"):
        played.stream.begin(Setup())


def test_an_interrupt_at_any_moment_does_not_keep_the_thread_asleep():
    """Else nobody would wake it any more: it would be taken for awake."""
    stream = ClientStream.__new__(ClientStream)
    stream._ears, stream._mouth = socket.socketpair()
    stream._is_woken = False
    n_lost = 0

    def interrupt(number, frame):
        raise KeyboardInterrupt

    before = signal.signal(signal.SIGALRM, interrupt)
    try:
        for k in range(3000):
            with contextlib.suppress(KeyboardInterrupt):
                signal.setitimer(signal.ITIMER_REAL, 1e-6 * (1 + k % 30))
                while True:
                    stream.wake()
                    stream._is_woken = False
                    stream._ears.recv(1)
            has_byte = bool(select.select([stream._ears], [], [], 0)[0])
            n_lost += stream._is_woken and not has_byte
            stream._is_woken = False
            if has_byte:
                stream._ears.recv(1)
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
        stream._ears.close()
        stream._mouth.close()

    assert n_lost == 0


def test_what_was_drawn_has_an_end_if_the_ranks_go_just_then(played, monkeypatch):
    """Also where a function has to be taught again for it."""
    functions = [played.stream.function(partial(plain, k)) for k in range(2 * N_KEPT)]
    for function in functions:
        played.call(function)

    def fail(messages: Any) -> None:
        raise BrokenPipeError

    monkeypatch.setattr(played.stream, "_send", fail)
    chunks = [played.add(function, 1) for function in functions]

    for chunk in chunks:
        (raised,) = chunk.result()
        assert isinstance(raised.error, LaunchError)
