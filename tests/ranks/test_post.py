"""Letters between ranks, and the bells that wake them.

This file is also the script that two real ranks run: each prints what it has seen.
"""

from __future__ import annotations

import json
import select
import sys
import time
from collections import deque
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest

from acme_mpi.comm.doorbell import Doorbell
from acme_mpi.comm.post import (
    EAGER_BYTES,
    IDLE_PAUSE_S,
    LONGEST_PAUSE_S,
    RING_AGAIN_S,
    SMALL_BYTES,
    MpiPost,
    NoPost,
)

LIMIT_S = 30.0
N_LETTERS = 500


@pytest.fixture
def bells() -> Iterator[tuple[Doorbell, Doorbell]]:
    """Two bells of one node, that know each other."""
    bells = Doorbell(), Doorbell()
    for bell in bells:
        bell.meet([each.name for each in bells], ["here", "here"], "here")
    yield bells
    for bell in bells:
        bell.close()


def is_heard(bell: Doorbell) -> bool:
    return bool(select.select([bell], [], [], 0)[0])


@pytest.mark.once
def test_a_ring_is_heard_until_it_is_hushed(bells):
    one, two = bells
    one.ring(1)
    assert is_heard(two)
    assert not is_heard(one)

    two.hush()

    assert not is_heard(two)


@pytest.mark.once
def test_any_number_of_rings_never_waits(bells):
    one, two = bells
    for _ in range(5000):
        one.ring(1)

    assert is_heard(two)
    two.hush()
    assert not is_heard(two)


@pytest.mark.once
def test_a_bell_that_is_gone_is_rung_in_vain(bells):
    one, two = bells
    two.close()

    one.ring(1)


@pytest.mark.once
def test_bells_of_other_nodes_are_not_rung(bells):
    one, two = bells
    one.meet([one.name, two.name], ["here", "there"], "here")

    one.ring(1)

    assert [one.reaches(rank) for rank in (0, 1)] == [True, False]
    assert not is_heard(two)


@pytest.mark.once
def test_a_rank_alone_has_no_post():
    post = NoPost()

    assert next(post.letters(), None) is None
    assert post.descriptors() == []
    with pytest.raises(AssertionError):
        post.send(1, "anything")


def next_letter(post: MpiPost) -> Any:
    """Return the next letter as a rank waits for it: woken by the bell, or after a pause."""
    give_up_s = time.monotonic() + LIMIT_S
    while (letter := next(post.letters(), None)) is None:
        assert time.monotonic() < give_up_s, "no letter"
        if select.select(post.descriptors(), [], [], post.pause_s([0, 1]))[0]:
            post.has_woken()
    return letter


def flush(post: MpiPost) -> None:
    """Go on until all that was sent has left."""
    give_up_s = time.monotonic() + LIMIT_S
    while post._sending:
        assert time.monotonic() < give_up_s, "nobody takes the letters"
        post._flush()


def is_heard_within(post: MpiPost, seconds: float) -> bool:
    return bool(select.select(post.descriptors(), [], [], seconds)[0])


class Counting:
    """A communicator that counts the looks for messages."""

    def __init__(self, comm: Any) -> None:
        self._comm, self.n_probes = comm, 0

    def __getattr__(self, name: str) -> Any:
        self.n_probes += name == "Iprobe"
        return getattr(self._comm, name)


class Checks:
    """What two ranks do with each other; each method returns what has to be true of this rank."""

    def __init__(self, world: Any) -> None:
        self.world, self.post, self.other = world, MpiPost(world), 1 - world.rank

    def exchange(self, *contents: Any) -> list[Any]:
        """Send all, and return as much of what the other has sent."""
        for content in contents:
            self.post.send(self.other, content)
        letters = [next_letter(self.post) for _ in contents]
        flush(self.post)
        assert {source for source, _ in letters} == {self.other}
        return [content for _, content in letters]

    def check_plain_letters_arrive(self) -> bool:
        return self.exchange(("text", 1, None, [2.5])) == [("text", 1, None, [2.5])]

    def check_letters_come_in_order(self) -> bool:
        return self.exchange(*range(N_LETTERS)) == [*range(N_LETTERS)]

    def check_small_and_large_ones_come_in_order(self) -> bool:
        border = [EAGER_BYTES - 100, EAGER_BYTES + 1, SMALL_BYTES - 100, SMALL_BYTES + 1]
        sizes = [10, *border, 5, 3_000_000, 1, 20_000_000, 0]
        return [len(each) for each in self.exchange(*(b"x" * size for size in sizes))] == sizes

    def check_what_lies_beside_a_letter_arrives(self) -> bool:
        arrays = [np.arange(n, dtype=np.float64) for n in (10, 2048, 4096, 1_000_000)]
        (got,) = self.exchange([arrays, "words"])
        return got[1] == "words" and all(map(np.array_equal, got[0], arrays))

    def check_more_than_a_slice_arrives(self) -> bool:
        """100 MB in pieces, in both directions at once."""
        array = np.arange(12_500_000, dtype=np.float64)
        (got,) = self.exchange(array)
        return bool(np.array_equal(got, array))

    def check_thousands_of_arrays_arrive(self) -> bool:
        (got,) = self.exchange([np.full(2048, float(k)) for k in range(5000)])
        return [float(each[0]) for each in got] == [float(k) for k in range(5000)]

    def check_a_ring_before_its_letter_loses_nothing(self) -> bool:
        self.post._bell.ring(self.other)
        return self.exchange("late") == ["late"]

    def check_a_look_ends_with_what_was_rung_for(self) -> bool:
        """Where ranks share cores, each call of MPI that finds nothing may give the core away."""
        self.world.barrier()
        deque(self.post.letters())
        self.world.barrier()
        self.post.send(self.other, "one")
        comm = self.post._comm
        counting = self.post._comm = Counting(comm)
        try:
            n_before = letter = None
            while letter is None:
                assert is_heard_within(self.post, LIMIT_S)
                n_before = counting.n_probes
                letter = next(self.post.letters(), None)
        finally:
            self.post._comm = comm
        flush(self.post)
        return letter == (self.other, "one") and counting.n_probes - n_before <= 2

    def check_a_letter_without_a_ring_is_found(self) -> bool:
        ring, self.post._bell.ring = self.post._bell.ring, lambda rank: None  # type: ignore
        try:
            begin_s = time.monotonic()
            got = self.exchange("unheard")
            took_s = time.monotonic() - begin_s
        finally:
            self.post._bell.ring = ring  # type: ignore[method-assign]
        return got == ["unheard"] and took_s < LIMIT_S / 2

    def check_a_rank_that_waits_sleeps(self) -> bool:
        self.post.has_woken()
        return self.post.pause_s([self.other]) == LONGEST_PAUSE_S <= IDLE_PAUSE_S

    def check_ranks_of_other_nodes_are_looked_for_often(self) -> bool:
        """Also while something has not left: no bell tells of their answers."""
        post, reaches = self.post, self.post._bell.reaches
        post.has_woken()
        post._is_near, post._bell.reaches = False, lambda rank: False  # type: ignore[method-assign]
        post._sending.append((post._mpi.REQUEST_NULL, b"", self.other))
        try:
            return post.pause_s([self.other]) < RING_AGAIN_S / 4
        finally:
            post._sending.pop()
            post._is_near, post._bell.reaches = True, reaches  # type: ignore[method-assign]

    def check_nothing_is_left(self) -> bool:
        self.world.barrier()
        return next(self.post.letters(), None) is None and not self.post._sending


CHECKS = [name for name in vars(Checks) if name.startswith("check_")]


@pytest.fixture(scope="module")
def seen(mpiexec) -> list[dict[str, Any]]:
    ran = mpiexec(2, __file__)
    assert ran.returncode == 0, ran.stderr
    lines = [line for line in ran.stdout.splitlines() if line.startswith("{")]
    assert len(lines) == 2, ran.stdout
    return [json.loads(line) for line in lines]


@pytest.mark.slow
@pytest.mark.every
@pytest.mark.parametrize("name", CHECKS)
def test_letters_of_two_ranks(seen, name):
    assert [each[name] for each in seen] == [True, True]


def main() -> None:
    from acme_mpi.comm import finalize, make_world

    world = make_world()
    checks = Checks(world)
    found = {}
    for name in CHECKS:
        world.barrier()
        found[name] = getattr(checks, name)()
    sys.stdout.write(json.dumps(found) + "\n")
    sys.stdout.flush()
    finalize()


if __name__ == "__main__":
    main()
