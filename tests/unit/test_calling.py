"""When the runner of a stream tells its agent what calls have returned."""

from __future__ import annotations

import mmap
import pickle
from collections.abc import Callable, Iterator
from itertools import chain
from typing import Any
from unittest.mock import ANY

import pytest

from acme_mpi import standing
from acme_mpi.rules import Rules
from acme_mpi.runner import calling
from acme_mpi.runner.calling import Caller
from acme_mpi.runner.calls import Begin, CallNow, Given, Got, Skipped, Teach
from acme_mpi.runner.channel import Channel, Kind
from acme_mpi.runner.child_main import Server
from acme_mpi.runner.lifeline import PAGE_BYTES
from acme_mpi.runner.shelf import Shelf
from acme_mpi.runner.surroundings import Surroundings
from acme_mpi.runner.words import SKIP_FROM, SKIP_TO
from acme_mpi.tasks.pickling import pickle_given

pytestmark = pytest.mark.once


@pytest.fixture(autouse=True)
def elsewhere() -> Iterator[None]:
    yield
    standing.become(standing.Standing.ELSEWHERE)


@pytest.fixture(autouse=True)
def unhurried(monkeypatch: pytest.MonkeyPatch) -> None:
    """No answer leaves because this machine is busy."""
    monkeypatch.setattr(calling, "AHEAD_NS", 10**15)
    monkeypatch.setattr(calling, "REPLY_NS", 10**15)


@pytest.fixture
def words() -> memoryview:
    return memoryview(mmap.mmap(-1, PAGE_BYTES)).cast("q")


def double(x: int) -> int:
    return 2 * x


def known() -> list[Any]:
    """Return what a runner has to know for the calls."""
    setup = Begin(1, b"", Rules(), 0, 0, Surroundings.here())
    return [setup, Teach(1, pickle_given(double), [], None)]


def calls(*numbers: int) -> list[CallNow]:
    return [
        CallNow(k, Given(k, 1, 1, calling.EACH, 1, pickle.dumps([k]), []), 0, 1, False)
        for k in numbers
    ]


def values_in(answers: list[Any]) -> list[int]:
    bodies = [answer.body if isinstance(answer.body, list) else [answer.body] for answer in answers]
    return [value for body in chain(*bodies) for value in pickle.loads(body)]


def test_short_calls_are_told_of_together(words):
    sent = list[Any]()
    caller = Caller(sent.append, words)
    caller.take([*known(), *calls(1, 2)])
    caller.take(calls(3))
    assert caller.has_answers
    assert not sent

    caller.answer()

    assert [values_in(answers) for answers in sent] == [[2, 4, 6]]
    assert not caller.has_answers


def test_others_are_told_of_before_the_last(words, monkeypatch):
    """So that the agent can send more while the last chunk that is here is called."""
    monkeypatch.setattr(calling, "AHEAD_NS", -1)
    sent = list[Any]()
    caller = Caller(sent.append, words)

    caller.take([*known(), *calls(1, 2, 3)])

    assert [values_in(answers) for answers in sent] == [[2, 4]]
    caller.take(calls(4))  # the agent has no more than that
    caller.answer()
    assert [values_in(answers) for answers in sent] == [[2, 4], [6, 8]]


def test_all_is_told_before_the_runner_waits(words):
    agent, own = Channel.pair()
    for messages in ([*known(), *calls(1)], calls(2, 3)):
        agent.send(Kind.GIVE, messages)
    agent.hang_up()

    with pytest.raises(EOFError):
        Server(own, words).serve()

    answered = agent.receive(wait=False)
    for end in (agent, own):
        end.close()
    assert answered is not None
    assert (answered[0], values_in(answered[1])) == (Kind.GOT, [2, 4, 6])


class TestCallsOfTheirOwn:
    """A chunk that may part."""

    def orders(self, func: Callable[[Any], Any], *bodies: bytes) -> list[Any]:
        setup, _ = known()
        given = Given(7, 1, 1, calling.EACH, len(bodies), [*bodies], [], first=2)
        order = CallNow(100, given, 2, 2 + len(bodies), False)
        return [setup, Teach(1, pickle_given(func), [], None), order]

    def told(self, words: memoryview, messages: list[Any]) -> list[Any]:
        sent = list[Any]()
        caller = Caller(sent.extend, words)
        caller.take(messages)
        caller.answer()
        return sent

    def test_they_are_told_of_as_one_answer_each_with_its_value(self, words):
        (got,) = self.told(words, self.orders(double, *(pickle.dumps([k]) for k in range(3))))

        assert (got.chunk, got.first, got.n) == (7, 2, 3)
        assert [pickle.loads(body) for body in got.body] == [[0], [2], [4]]

    def test_an_argument_that_does_not_load_costs_its_call(self, words):
        bodies = [pickle.dumps([1]), b"no pickle", pickle.dumps([3])]

        (got,) = self.told(words, self.orders(double, *bodies))

        first, (error,), last = map(pickle.loads, got.body)
        assert (first, last) == ([2], [6])
        assert error.kind == "raised"

    def test_each_lies_on_the_shelf_when_the_next_begins(self, words):
        """So that nobody waits for one that takes long, and nothing is lost with the process."""
        shelf = Shelf(words)
        found = list[Any]()
        setup, teach, order = self.orders(double, *(pickle.dumps([k]) for k in range(3)))
        caller = Caller(lambda answers: None, words)
        caller.take([setup, teach])
        caller._functions[1]._message = None
        caller._functions[1]._func = lambda x: found.append([got.first for got in shelf.answers()])

        caller.take([order])

        assert found == [[], [2], [2, 3]]

    def test_what_is_taken_back_meanwhile_is_skipped(self, words):
        setup, teach, order = self.orders(double, *(pickle.dumps([k]) for k in range(5)))
        sent = list[Any]()
        caller = Caller(sent.extend, words)
        caller.take([setup, teach])
        caller._functions[1]._message = None

        def take_back(x: int) -> int:
            if x == 1:
                words[SKIP_TO], words[SKIP_FROM] = 107, 104
            return x

        caller._functions[1]._func = take_back
        caller.take([order])
        caller.answer()

        got, skipped = sent
        assert (got.first, got.n) == (2, 2)
        assert skipped == (104, 3)


def test_what_was_skipped_is_told_before_another_call(words):
    """What the agent finds on the shelf comes right behind what it was told."""
    sent = list[Any]()
    caller = Caller(sent.append, words)
    words[SKIP_FROM], words[SKIP_TO] = 2, 4

    caller.take([*known(), *calls(1, 2, 3, 4)])

    assert sent == [[Got(1, 0, 1, pickle.dumps([2], 5), [], ANY), Skipped(2, 1), Skipped(3, 1)]]
    assert values_in(Shelf(words).answers()) == [8]
