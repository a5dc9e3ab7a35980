"""Rings and messages in every order in which they can arrive."""

from itertools import combinations

import pytest

from acme_mpi.comm import doorbell
from acme_mpi.comm.doorbell import Doorbell

N_SENT = 2  # messages, each with a ring


@pytest.fixture
def bells():
    mine, theirs = Doorbell(), Doorbell()
    names = [mine.name, theirs.name]
    for bell in (mine, theirs):
        bell.meet(names, ["here", "here"], "here")
    yield mine, theirs
    mine.close()
    theirs.close()


def orders():
    """Yield all orders of messages, of their rings, and of looks of the receiver in between.

    Messages and rings keep their own order; a ring may come before its message or after it.
    """
    n_events = 2 * N_SENT
    for places in combinations(range(n_events), N_SENT):
        sent = "".join("m" if k in places else "r" for k in range(n_events))
        for looks in range(2**n_events):
            gaps = ["?" if looks >> k & 1 else "" for k in range(n_events)]
            yield "".join(event + gap for event, gap in zip(sent, gaps, strict=True))


def look(bell, n_waiting, is_rung):
    """Do what a rank does that is awake: take the rings, then all messages that have come."""
    if is_rung:
        bell.hush()
    for _ in range(n_waiting):
        bell.found()


def leaves_unseen(bells, order):
    """Tell whether a rank sleeps for good though a message is there for it."""
    mine, theirs = bells
    n_waiting, is_rung = 0, False
    for event in order:
        if event == "m":
            n_waiting += 1
        elif event == "r":
            theirs.ring(0)
            is_rung = True
        elif is_rung or mine.is_owed:
            look(mine, n_waiting, is_rung)
            n_waiting, is_rung = 0, False
    return bool(n_waiting) and not (is_rung or mine.is_owed)


def test_no_message_is_missed_in_any_order(bells, monkeypatch):
    monkeypatch.setattr(doorbell, "LATE_S", 3600.0)
    for order in orders():
        bells[0].hush()
        bells[0]._n_owed = 0
        assert not leaves_unseen(bells, order), order


def test_a_ring_without_a_message_is_forgotten(bells, monkeypatch):
    mine, theirs = bells
    theirs.ring(0)
    mine.hush()
    assert mine.is_owed

    monkeypatch.setattr(doorbell, "LATE_S", -1.0)
    assert not mine.is_owed
    monkeypatch.setattr(doorbell, "LATE_S", 3600.0)
    assert not mine.is_owed


def test_messages_without_a_ring_hide_no_later_one(bells):
    mine, theirs = bells
    for _ in range(5):
        mine.found()
    for _ in range(6):
        theirs.ring(0)
    mine.hush()

    assert mine.is_owed


def test_what_is_found_before_its_ring_is_not_awaited(bells):
    mine, theirs = bells
    mine.found()
    theirs.ring(0)
    mine.hush()

    assert not mine.is_owed
