"""A wait is never so long that a signal is not heard."""

from __future__ import annotations

import math

import pytest

from acme_mpi.pools.waiting import TURN_S, wait_in_turns

pytestmark = pytest.mark.once


def test_a_wait_without_end_has_turns():
    waits = []

    def wait(seconds):
        waits.append(seconds)
        return len(waits) == 4

    assert wait_in_turns(wait)
    assert waits == [TURN_S] * 4


def test_a_wait_ends_with_its_time():
    waits = []

    assert not wait_in_turns(waits.append, timeout=0.0)
    assert waits == [0.0]


def test_no_turn_is_longer_than_the_time():
    waits = []

    def wait(seconds):
        waits.append(seconds)
        return True

    assert wait_in_turns(wait, timeout=TURN_S / 2)
    assert waits[0] <= TURN_S / 2
    assert wait_in_turns(wait, timeout=math.inf)
    assert waits[1] == TURN_S
