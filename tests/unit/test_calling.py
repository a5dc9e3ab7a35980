"""When the runner of a stream tells its agent what calls have returned."""

from __future__ import annotations

import mmap
import pickle
from collections.abc import Iterator
from typing import Any

import pytest

from acme_mpi import standing
from acme_mpi.rules import Rules
from acme_mpi.runner import calling
from acme_mpi.runner.calling import Caller
from acme_mpi.runner.calls import Begin, CallNow, Given, Teach
from acme_mpi.runner.channel import Channel, Kind
from acme_mpi.runner.child_main import Server
from acme_mpi.runner.lifeline import PAGE_BYTES
from acme_mpi.runner.surroundings import Surroundings
from acme_mpi.tasks.pickling import pickle_given

pytestmark = pytest.mark.once


@pytest.fixture(autouse=True)
def elsewhere() -> Iterator[None]:
    yield
    standing.become(standing.Standing.ELSEWHERE)


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
    return [value for answer in answers for value in pickle.loads(answer.body)]


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
