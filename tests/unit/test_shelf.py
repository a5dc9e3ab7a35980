"""What a runner has to say and has not sent."""

from __future__ import annotations

import mmap

import pytest

from acme_mpi.runner.calls import Got
from acme_mpi.runner.recall import LONG_CALL_S, SEEN_S, Recall
from acme_mpi.runner.shelf import Shelf
from acme_mpi.runner.words import SKIP_FROM, SKIP_TO

pytestmark = pytest.mark.once


def page(n_bytes: int = 4096) -> memoryview:
    return memoryview(mmap.mmap(-1, n_bytes)).cast("q")


def got(chunk: int, body: bytes = b"value") -> Got:
    return Got(chunk, 0, 1, body, [], 5)


def test_what_is_put_is_found_in_order():
    words = page()
    shelf = Shelf(words)

    assert shelf.put(got(1))
    assert shelf.put(got(2))

    assert Shelf(words).answers() == [got(1), got(2)]


def test_nothing_is_found_where_it_was_sent():
    shelf = Shelf(page())
    shelf.put(got(1))

    shelf.clear()

    assert shelf.answers() == []


def test_what_has_no_room_is_refused_and_spoils_nothing():
    shelf = Shelf(page())
    shelf.put(got(1))

    assert not shelf.put(got(2, bytes(5000)))
    assert shelf.put(got(3))

    assert shelf.answers() == [got(1), got(3)]


@pytest.mark.parametrize("word", [-1, 2**62, 9, 41])
def test_a_spoilt_page_has_nothing_or_what_is_whole(word):
    words = page()
    shelf = Shelf(words)
    shelf.put(got(1))

    words[8] = word

    assert shelf.answers()[:1] in ([], [got(1)])


class Clock:
    def __init__(self) -> None:
        self.s = 100.0

    def __call__(self) -> float:
        return self.s


@pytest.fixture
def clock() -> Clock:
    return Clock()


def test_a_call_is_long_once_it_was_seen_so_long(clock):
    words = page()
    words[0] = -1
    recall = Recall(words, clock)
    words[0], words[1] = 7, 1

    seen = [recall.long_call()]
    clock.s += 0.9 * LONG_CALL_S
    seen.append(recall.long_call())
    clock.s += 0.2 * LONG_CALL_S
    seen.append(recall.long_call())
    words[0], words[1] = 8, 2
    seen.append(recall.long_call())

    assert seen == [None, None, 7, None]


@pytest.fixture
def recall(clock: Clock) -> Recall:
    """Return orders to a runner that calls number 7."""
    words = page()
    words[0] = 7
    return Recall(words, clock)


def skipped(recall: Recall) -> tuple[int, int]:
    return recall._words[SKIP_FROM], recall._words[SKIP_TO]


def test_what_stands_behind_is_back_when_the_same_call_still_runs(recall, clock):
    assert recall.take(7, 8, 20) == 8
    assert skipped(recall) == (8, 20)
    assert recall.take(7, 8, 20) == 8
    assert not recall.has_taken
    clock.s += 2 * SEEN_S

    assert recall.take(7, 8, 20) == 20
    assert recall.has_taken


def test_it_is_asked_for_anew_when_another_call_runs(recall, clock):
    recall.take(7, 8, 20)
    clock.s += 2 * SEEN_S
    recall._words[0] = 9

    assert recall.take(9, 10, 20) == 10
    assert skipped(recall) == (10, 20)
    clock.s += 2 * SEEN_S
    assert recall.take(9, 10, 20) == 20


def test_what_came_after_the_order_is_not_back_with_the_rest(recall, clock):
    recall.take(7, 8, 20)
    clock.s += 2 * SEEN_S

    assert recall.take(7, 8, 25) == 20
    assert recall.take(7, 20, 25) == 20
    assert skipped(recall) == (8, 25)
    clock.s += 2 * SEEN_S
    assert recall.take(7, 20, 25) == 25


def test_after_an_answer_all_begins_anew(recall, clock):
    recall.take(7, 8, 20)
    clock.s += 2 * SEEN_S
    recall.take(7, 8, 20)
    recall._words[0] = -1

    recall.end()

    assert not recall.has_taken
    assert recall.take(21, 21, 22) == 21


def test_an_answer_of_before_changes_nothing_while_the_same_call_runs(recall, clock):
    recall.take(7, 8, 20)
    clock.s += 2 * SEEN_S
    recall.take(7, 8, 20)

    recall.end()

    assert recall.has_taken
    assert skipped(recall) == (8, 20)
