"""A whole stream in this process, whose letters take as long as chance will have it.

The client, the parts of the ranks and their runners are the real ones; the threads that stand for
ranks sleep until something wakes them, for ever if nothing does.
"""

from __future__ import annotations

import pickle
import select
import socket
import threading
import time
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from queue import PriorityQueue
from random import Random
from typing import Any

import pytest
from running import LIMIT_S

from acme_mpi.comm.post import Post
from acme_mpi.runner.apart import StreamRunners
from acme_mpi.runner.channel import Channel
from acme_mpi.session.stream_client import ClientStream
from acme_mpi.streams import ranks

NEVER_S = 1e6


class Mail:
    """Brings letters from rank to rank; those of one rank to another stay in their order.

    Parameters
    ----------
    size : int
        Number of ranks.
    delay_s : float
        A letter takes up to so many seconds.
    random : Random
        How many of them.
    """

    def __init__(self, size: int, delay_s: float, random: Random) -> None:
        self._delay_s, self._random = delay_s, random
        self.bells = [socket.socketpair() for _ in range(size)]
        for pair in self.bells:
            for end in pair:
                end.setblocking(False)
        self.boxes: list[deque[tuple[int, bytes]]] = [deque() for _ in range(size)]
        self._last_s: dict[tuple[int, int], float] = {}
        self._lock, self._n = threading.Lock(), 0
        self._under_way: PriorityQueue[tuple[float, int, int, int, bytes]] = PriorityQueue()
        self._thread = threading.Thread(target=self._bring, daemon=True)
        self._thread.start()

    def send(self, source: int, dest: int, content: Any) -> None:
        with self._lock:
            way = source, dest
            due_s = time.monotonic() + self._delay_s * self._random.random()
            due_s = self._last_s[way] = max(due_s, self._last_s.get(way, 0.0))
            self._n += 1
            self._under_way.put((due_s, self._n, source, dest, pickle.dumps(content)))

    def _bring(self) -> None:
        while (letter := self._under_way.get())[2] >= 0:
            due_s, _, source, dest, body = letter
            select.select([], [], [], max(0.0, due_s - time.monotonic()))
            self.boxes[dest].append((source, body))
            with suppress(BlockingIOError):  # it has rung often enough
                self.bells[dest][1].send(b"!")

    def close(self) -> None:
        self._under_way.put((0.0, 0, -1, -1, b""))
        self._thread.join(LIMIT_S)
        for pair in self.bells:
            for end in pair:
                end.close()


class LateWorld:
    """What a rank's part asks of its world."""

    def __init__(self, mail: Mail, rank: int, size: int) -> None:
        self.mail, self.rank, self.size, self.hosts = mail, rank, size, ["here"] * size

    def deaths(self) -> list[int]:
        return []

    def abort_if_neighbour_is_gone(self) -> None:
        pass


class LatePost(Post):
    """The letters of one rank; nothing but its bell wakes it for them."""

    def __init__(self, world: LateWorld) -> None:
        self._mail, self._rank = world.mail, world.rank
        self._bell = world.mail.bells[world.rank][0]

    def send(self, dest: int, content: Any) -> None:
        self._mail.send(self._rank, dest, content)

    def letters(self) -> Iterator[tuple[int, Any]]:
        with suppress(BlockingIOError):
            self._bell.recv(4096)
        box = self._mail.boxes[self._rank]
        while box:
            source, body = box.popleft()
            yield source, pickle.loads(body)

    def is_due(self) -> bool:
        return False

    def descriptors(self) -> list[int]:
        return [self._bell.fileno()]

    def pause_s(self, waits_for: list[int]) -> float:
        return NEVER_S

    def has_woken(self) -> None:
        pass


@contextmanager
def late_stream(
    size: int, delay_s: float, random: Random, monkeypatch: pytest.MonkeyPatch
) -> Iterator[ClientStream]:
    """Yield the client of `size` ranks, whose letters take up to `delay_s` seconds."""
    monkeypatch.setattr(ranks, "take_stream_runners", lambda world: StreamRunners(1))
    monkeypatch.setattr(ranks, "MpiWorld", LateWorld)
    monkeypatch.setattr(ranks, "MpiPost", LatePost)
    mail, (ours, theirs) = Mail(size, delay_s, random), Channel.pair()
    worlds: list[Any] = [LateWorld(mail, rank, size) for rank in range(size)]
    leader, followers = ranks.Leader(worlds[0], theirs), [*map(ranks.Follower, worlds[1:])]
    until, end = socket.socketpair()
    serving = [lambda: leader.serve([until.fileno()]), *(each.serve for each in followers)]
    threads = [threading.Thread(target=serve, daemon=True) for serve in serving]
    for thread in threads:
        thread.start()
    try:
        yield ClientStream(ours, ["here"] * size)
    finally:
        end.close()  # wakes rank 0, which lets the others leave
        for thread in threads:
            thread.join(LIMIT_S)
        for part in (*followers, leader):
            part.end()
        until.close()
        mail.close()
