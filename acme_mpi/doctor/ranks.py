"""All ranks look, and rank 0 hears what they see; who does not answer in time is named.

No collective is made: one rank that hangs would have all others hang.
"""

from __future__ import annotations

import contextlib
import os
import select
import shutil
import tempfile
import time
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

from acme_mpi.comm.post import Post
from acme_mpi.doctor.rank_facts import RankFacts

LOOK, PING, LEAVE = "look", "ping", "leave"
N_PINGS = 20
MAX_PINGED = 64  # ranks
MARK = "seen by all"


class Seen(NamedTuple):
    """What one rank has told.

    Attributes
    ----------
    facts : RankFacts
        What it sees of itself.
    missed : str
        Why it does not find the file that rank 0 has written, empty if it does.
    """

    facts: RankFacts
    missed: str


class Way(NamedTuple):
    """How letters travel between rank 0 and another one.

    Attributes
    ----------
    rank : int
        The other one.
    both_ways_s : float
        Shortest time there and back.
    clock_s : float
        How far the other one's clock is before rank 0's, within half of that time.
    """

    rank: int
    both_ways_s: float
    clock_s: float


@contextlib.contextmanager
def marked(directory: str) -> Iterator[str]:
    """Context with a folder in which ranks find a file; empty where none can be made."""
    try:
        folder = tempfile.mkdtemp(prefix=".acme_mpi-doctor-", dir=directory)
        with open(os.path.join(folder, MARK), "w"):
            pass
    except OSError:
        folder = ""
    try:
        yield folder
    finally:
        if folder:
            shutil.rmtree(folder, ignore_errors=True)


def look_for(folder: str) -> str:
    """Return why the file of `marked` is not found, empty if it is."""
    try:
        # A look at one name may be answered from memory.
        return "" if not folder or MARK in os.listdir(folder) else "it is not there"
    except OSError as error:
        return error.strerror or str(error)


def follow(post: Post, facts: RankFacts) -> None:
    """Answer rank 0 until it sends this rank away. Independent."""
    while True:
        for _, (kind, *words) in post.letters():
            post.has_woken()
            if kind == LEAVE:
                return
            if kind == PING:
                post.send(0, (PING, time.time()))
            else:
                post.send(0, (LOOK, tuple(facts), look_for(words[0])))
        _sleep(post, [0], 1.0)


def hear_all(post: Post, others: Sequence[int], folder: str, limit_s: float) -> dict[int, Seen]:
    """Return what other ranks see, by their numbers, of those that answer in time. On rank 0.

    Parameters
    ----------
    post : Post
        Letters to and from them.
    others : sequence of int
        Who is asked.
    folder : str
        Of `marked`.
    limit_s : float
        How long to wait for all of them.
    """
    for rank in others:
        post.send(rank, (LOOK, folder))
    seen: dict[int, Seen] = {}
    give_up_s = time.monotonic() + limit_s
    while len(seen) < len(others) and (left_s := give_up_s - time.monotonic()) > 0:
        for source, (_, facts, missed) in post.letters():
            post.has_woken()
            seen[source] = Seen(RankFacts(*facts), missed)
        _sleep(post, [rank for rank in others if rank not in seen], left_s)
    return seen


def measure(post: Post, rank: int, limit_s: float) -> Way | None:
    """Return how letters travel to a rank and back; None if they do not within `limit_s`."""
    best: Way | None = None
    for _ in range(N_PINGS):
        sent_s, begun_s = time.time(), time.monotonic()
        post.send(rank, (PING,))
        answer = _answer(post, rank, begun_s + limit_s)
        if answer is None:
            return None
        took_s = time.monotonic() - begun_s
        if best is None or took_s < best.both_ways_s:
            best = Way(rank, took_s, answer[1] - sent_s - took_s / 2)
    return best


def _answer(post: Post, rank: int, give_up_s: float) -> Any:
    while (left_s := give_up_s - time.monotonic()) > 0:
        for source, letter in post.letters():
            post.has_woken()
            if source == rank and letter[0] == PING:
                return letter
        _sleep(post, [rank], left_s)
    return None


def dismiss(post: Post, others: Sequence[int]) -> None:
    """Send ranks away."""
    for rank in others:
        post.send(rank, (LEAVE,))


def _sleep(post: Post, waits_for: list[int], most_s: float) -> None:
    if waits_for and not post.is_due():
        select.select(post.descriptors(), [], [], min(post.pause_s(waits_for), most_s))
    elif waits_for:
        time.sleep(min(post.pause_s(waits_for), 1e-4))
