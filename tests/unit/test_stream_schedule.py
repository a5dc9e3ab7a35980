"""Which rank gets which chunks of a stream."""

from __future__ import annotations

from itertools import chain, count
from typing import Any

import pytest

from acme_mpi.rules import Rules
from acme_mpi.runner.calls import Begin, Calls, Given, Got, Lost
from acme_mpi.runner.surroundings import Surroundings
from acme_mpi.streams.schedule import LAST_S, LONG_S, MAX_AHEAD, RESERVE_S, Schedule

pytestmark = pytest.mark.once

HERE = Surroundings([], "/")


class Played:
    """A schedule, whose ranks the test plays."""

    def __init__(self, size: int) -> None:
        self.schedule, self._numbers = Schedule(size), count(1)
        self.given: dict[int, Given] = {}

    def begin(self, setup: int, n_ranks: int = 0) -> None:
        self.schedule.begin(Begin(setup, b"", Rules(), 0, n_ranks, HERE))

    def add(
        self, n: int, setup: int = 1, function: int = 1, n_calls: int = 1, may_part: bool = False
    ) -> list[int]:
        body: bytes | list[bytes] = [b""] * n_calls if may_part else b""
        numbers = [next(self._numbers) for _ in range(n)]
        for number in numbers:
            self.given[number] = Given(number, setup, function, 0, n_calls, body, [])
            self.schedule.add(self.given[number])
        return numbers

    def assigned(self) -> dict[int, list[int]]:
        return {rank: [each.chunk for each in given] for rank, given in self.schedule.assigned()}

    def end(self, rank: int, chunk: int, seconds: float = 0.0, n: int = 1) -> None:
        self.schedule.take(rank, [Got(chunk, 0, n, b"", [], int(seconds * 1e9))])

    def windows(self) -> dict[int, int]:
        return {window.function: window.n_chunks for window in self.schedule.windows()}

    def learn(self, seconds: float, function: int = 1) -> None:
        """Have a chunk of a function take so long."""
        self.add(1, function=function)
        ((rank, (chunk,)),) = self.assigned().items()
        self.end(rank, chunk, seconds)


@pytest.fixture
def played() -> Played:
    played = Played(3)
    played.begin(1)
    return played


def test_of_an_unknown_function_each_rank_gets_one(played):
    first, second, third, *_ = played.add(10)

    assert played.assigned() == {0: [first], 1: [second], 2: [third]}
    assert played.assigned() == {}
    assert played.schedule.n_queued == 7


def test_a_rank_that_is_done_gets_the_next(played):
    chunks = played.add(4)
    played.assigned()
    played.end(1, chunks[1], 2 * LONG_S)

    assert played.assigned() == {1: [chunks[3]]}


def test_short_chunks_are_sent_ahead(played):
    played.learn(RESERVE_S / 10)
    chunks = played.add(300)

    given = played.assigned()

    assert [len(each) for each in given.values()] == [11, 11, 11]
    assert [*chain(*given.values())] == chunks[:33]


def test_a_rank_gets_more_when_half_is_done(played):
    played.learn(RESERVE_S / 10)
    played.add(300)
    (first, *_), *_ = played.assigned().values()

    for chunk in range(first, first + 5):
        played.end(0, chunk, RESERVE_S / 10)
    assert played.assigned() == {}
    played.end(0, first + 5, RESERVE_S / 10)

    assert [len(each) for each in played.assigned().values()] == [6]


def test_what_is_given_back_goes_to_others_first(played):
    played.learn(RESERVE_S / 1000)
    chunks = played.add(9)
    mine = played.assigned()[0]
    back = [played.given[chunk] for chunk in mine[1:]]
    played.schedule.take_back(0, back)
    played.add(9)

    given = played.assigned()

    assert [*given] == [1, 2]
    assert [*chain(*given.values())][:2] == mine[1:]
    played.end(0, chunks[0])
    assert 0 in played.assigned()


def test_a_rank_that_has_nothing_left_is_not_delayed(played):
    """What it was busy with was killed: that is told before the rest comes back."""
    first, second, third, *_ = played.add(3)
    played.assigned()
    played.schedule.take(0, [Lost(first, 0, 1, "killed", "")])
    for rank, chunk in enumerate([second, third], 1):
        played.schedule.take_back(rank, [played.given[chunk]])

    assert {*chain(*played.assigned().values())} == {second, third}


def test_the_last_quarter_goes_to_whoever_is_ready(played):
    played.learn(2 * LAST_S)
    played.add(12)
    given = played.assigned()
    assert [len(each) for each in given.values()] == [3, 3, 3]

    for chunk in given[2]:
        played.end(2, chunk, 2 * LAST_S)

    assert {rank: len(each) for rank, each in played.assigned().items()} == {2: 2}


def test_each_function_has_its_limit(played):
    played.learn(2 * LONG_S, function=1)
    played.learn(RESERVE_S / 10, function=2)
    quick = played.add(90, function=2)
    played.add(90, function=1)

    given = played.assigned()

    assert [len(each) for each in given.values()] == [11, 11, 11]
    for rank, chunks in given.items():
        for chunk in chunks:
            played.end(rank, chunk, RESERVE_S / 10)
    for chunk in quick[33:]:
        played.schedule.remove([Calls(chunk, 0, 1)])
    assert [len(each) for each in played.assigned().values()] == [1, 1, 1]


def test_long_chunks_are_not_sent_ahead(played):
    played.learn(2 * LONG_S)
    played.add(300)

    assert [len(each) for each in played.assigned().values()] == [1, 1, 1]


def test_a_large_chunk_of_short_calls_has_one_behind_it(played):
    played.add(1, n_calls=1000)
    ((rank, (chunk,)),) = played.assigned().items()
    played.end(rank, chunk, 4 * LONG_S, n=1000)
    played.add(300, n_calls=1000)

    assert [len(each) for each in played.assigned().values()] == [2, 2, 2]


def test_no_rank_gets_more_than_its_share(played):
    played.learn(1e-6)
    played.add(9)

    assert [len(each) for each in played.assigned().values()] == [3, 3, 3]


def test_there_is_a_most_that_a_rank_has(played):
    played.learn(0.0)
    played.add(6 * MAX_AHEAD)

    assert {len(each) for each in played.assigned().values()} == {MAX_AHEAD}


def test_a_small_pool_has_few_ranks(played):
    played.begin(2, n_ranks=1)
    chunks = played.add(5, setup=2)

    assert played.assigned() == {0: [chunks[0]]}


def test_pools_take_turns(played):
    played.begin(2)
    one, two = played.add(6, setup=1), played.add(6, setup=2)

    first = [*chain(*played.assigned().values())]

    assert first == [one[0], two[0], one[1]]


def test_what_is_removed_is_not_assigned(played):
    chunks = played.add(6)
    wanted = [Calls(chunk, 0, 1) for chunk in (chunks[1], chunks[5])]
    removed = played.schedule.remove([*wanted, Calls(99, 0, 1)])

    assert removed == wanted
    assert [*chain(*played.assigned().values())] == [chunks[0], chunks[2], chunks[3]]
    assert played.schedule.n_queued == 1


def test_a_chunk_has_ended_with_its_last_call(played):
    (chunk,) = played.add(1, n_calls=3)
    played.assigned()
    played.end(0, chunk, n=2)
    assert played.schedule.ranks_out() == [0]

    played.schedule.take(0, [Lost(chunk, 2, 1, "killed", "")])

    assert played.schedule.ranks_out() == []
    assert played.schedule.n_out == 0


def test_a_late_answer_of_what_has_ended_counts_nothing(played):
    (chunk,) = played.add(1)
    played.assigned()
    played.end(0, chunk)

    played.end(0, chunk)

    assert played.schedule.n_out == 0


def test_a_pool_that_ends_leaves_nothing_queued(played):
    played.add(9)
    played.assigned()

    played.schedule.end(1)

    assert (played.schedule.n_queued, played.schedule.n_out) == (0, 3)


def test_the_window_of_a_function_follows_from_its_chunks(played):
    played.learn(RESERVE_S / 50, function=1)
    played.learn(2 * LONG_S, function=2)

    windows = played.windows()

    assert windows[1] > 3 * 50
    assert windows[2] == 6
    assert played.windows() == {}  # there is nothing new


def test_nothing_is_learned_of_calls_that_were_lost(played):
    first, *_ = played.add(1)
    played.assigned()
    played.schedule.take(0, [Lost(first, 0, 1, "killed", "")])

    assert played.windows() == {}


def test_all_chunks_are_known(played):
    chunks: Any = played.add(7)
    played.assigned()

    assert played.schedule.chunks() == {*chunks}


class TestCallsOfTheirOwn:
    """Chunks that may part."""

    def test_a_rank_has_no_more_calls_because_they_come_together(self, played):
        played.add(1, n_calls=50, may_part=True)
        ((rank, (chunk,)),) = played.assigned().items()
        played.end(rank, chunk, n=50)
        played.add(6 * MAX_AHEAD, n_calls=50, may_part=True)

        assert {50 * len(each) for each in played.assigned().values()} == {MAX_AHEAD}

    def test_the_window_counts_calls(self, played):
        played.add(1, n_calls=50, may_part=True)
        ((rank, (chunk,)),) = played.assigned().items()
        played.end(rank, chunk, n=50)

        (window,) = played.schedule.windows()

        assert window.n_chunks == 3 * 1.5 * MAX_AHEAD
        assert window.call_s == 0.0

    def test_some_are_removed(self, played):
        (chunk,) = played.add(1, n_calls=10, may_part=True)

        removed = played.schedule.remove([Calls(chunk, 2, 3), Calls(chunk, 5, 7)])

        assert sorted(removed) == [(chunk, 2, 3), (chunk, 5, 7)]
        assert played.schedule.n_queued == 3
        given = [each.calls for _, parts in played.schedule.assigned() for each in parts]
        assert given == [(chunk, 0, 2), (chunk, 3, 5), (chunk, 7, 10)]

    def test_a_part_that_comes_back_goes_to_another_rank(self, played):
        (chunk,) = played.add(1, n_calls=10, may_part=True)
        played.assigned()

        played.schedule.take_back(0, [played.given[chunk].part(4, 10)])

        assert played.schedule.n_queued == 1
        ((rank, (part,)),) = played.schedule.assigned()
        assert (rank, part.calls) == (1, (chunk, 4, 10))
        assert played.schedule.ranks_out() == [0, 1]
        played.end(1, chunk, n=6)
        assert played.schedule.ranks_out() == [0]
        played.end(0, chunk, n=4)
        assert played.schedule.n_out == 0

    def test_parts_go_back_in_order(self, played):
        (chunk,) = played.add(1, n_calls=10, may_part=True)
        played.assigned()
        played.schedule.take_back(0, [played.given[chunk].part(k, k + 1) for k in (8, 9)])
        played.end(0, chunk, n=8)

        parts = [(rank, each.calls) for rank, given in played.schedule.assigned() for each in given]

        assert sorted(parts) == [(0, (chunk, 8, 9)), (1, (chunk, 9, 10))]

    def test_a_function_that_is_forgotten_has_no_window(self, played):
        (chunk,) = played.add(1)
        played.assigned()
        played.end(0, chunk)

        played.schedule.forget(1)

        assert played.windows() == {}
