"""Rank 0 of a script that all ranks run, while it has pools: the other ranks serve it.

They are in the constructors of their own pools, one after the other. Rank 0's part is a thread; a
`map` or `ParallelMap` that rank 0 calls meanwhile has the thread give way.
"""

from __future__ import annotations

import atexit
import os
import threading
import traceback
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Any

from acme_mpi.comm import SerialWorld, World
from acme_mpi.comm.background import start_thread
from acme_mpi.engine.call import Call, Result
from acme_mpi.engine.run import run
from acme_mpi.errors import EXIT_INTERNAL, AcmeMpiError
from acme_mpi.linux.terminal import ask
from acme_mpi.runner.channel import Channel
from acme_mpi.session.base import Session, tell
from acme_mpi.session.following import follow, serve_request
from acme_mpi.session.stream import Setup, Stream
from acme_mpi.session.stream_client import ClientStream
from acme_mpi.session.values import deliver
from acme_mpi.streams.ranks import Follower, Leader


class Followed:
    """The other ranks as rank 0 has them: who talks to them, a thread or a call, and till when.

    Parameters
    ----------
    world : World
        The ranks.
    client : Channel
        The stream's end of its channel.
    """

    def __init__(self, world: World, client: Channel) -> None:
        self._world, self._client = world, client
        self._pid = os.getpid()
        self._leader: Leader | None = None
        self._changed = threading.Condition()
        self._ears, self._mouth = os.pipe2(os.O_CLOEXEC | os.O_NONBLOCK)
        self._n_begun = self._n_served = 0  # pools
        self._ended: set[int] = set()  # their numbers, from 1
        self._n_calls = 0  # that want to talk, or do
        self._is_ready = False  # the ranks listen, and the thread does not talk to them
        start_thread("ranks", self._serve)

    @property
    def is_open(self) -> bool:
        """Whether the other ranks serve a pool, or will."""
        return len(self._ended) < self._n_begun

    def begin_pool(self) -> int:
        """Return the number of a pool that all ranks make. Independent."""
        with self._changed:
            self._n_begun += 1
            self._changed.notify_all()
            return self._n_begun

    def end_pool(self, number: int) -> None:
        """Let the other ranks go on; if no other pool is open, wait until they do. Independent."""
        if self._pid != os.getpid():
            return  # a forked child has neither the ranks nor the thread
        with self._changed:
            self._ended.add(number)
            self._have_thread_look()
            if not self.is_open:
                n_begun = self._n_begun  # this thread may be what has to end those to come
                self._changed.wait_for(lambda: self._n_served >= n_begun)

    @contextmanager
    def talking(self) -> Iterator[World]:
        """Context in which the caller asks the ranks for something, and not the thread."""
        with self._changed:
            self._n_calls += 1
            self._have_thread_look()
            self._changed.wait_for(lambda: self._is_ready)
        try:
            yield self._world
        finally:
            with self._changed:
                self._n_calls -= 1
                self._changed.notify_all()

    def _have_thread_look(self) -> None:
        with suppress(BlockingIOError):  # it has not looked for long
            os.write(self._mouth, b"!")
        self._changed.notify_all()

    def _serve(self) -> None:
        try:
            self._serve_pools()
        except BaseException:
            traceback.print_exc()
            self._world.abort(EXIT_INTERNAL)  # the other ranks would wait for ever

    def _serve_pools(self) -> None:
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._n_served < self._n_begun)
            self._world.barrier(tell)  # the other ranks are in the constructor of theirs
            number = self._n_served + 1
            while self._may_talk(number):
                self._lead()
            self._world.bcast("end")
            with self._changed:
                self._n_served = number
                self._changed.notify_all()

    def _may_talk(self, number: int) -> bool:
        """Give way to calls; return whether a pool is still open."""
        with self._changed:
            self._is_ready = True
            self._changed.notify_all()
            self._changed.wait_for(lambda: not self._n_calls)
            self._is_ready = False
            return number not in self._ended

    def _lead(self) -> None:
        """Serve the stream until somebody wants something else."""
        self._world.bcast("stream")
        if self._leader is None:
            self._leader = Leader(self._world, self._client)
            self._leader.give_way()
            return
        self._leader.serve([self._ears])
        with suppress(BlockingIOError):
            os.read(self._ears, 4096)

    def end(self) -> None:
        """End all pools and this rank's runner, at the end of the script."""
        for number in range(1, self._n_begun + 1):
            self.end_pool(number)
        if self._leader is not None and self._pid == os.getpid():
            self._leader.end()


class FollowedStream(ClientStream):
    """The stream of rank 0, each of whose pools the other ranks serve in one of their own."""

    is_followed = True

    def __init__(self, followed: Followed, channel: Channel, hosts: list[str]) -> None:
        self._followed = followed
        self._pool_of: dict[int, int] = {}
        super().__init__(channel, hosts)

    def begin(self, setup: Setup) -> int:
        """Return the number of a new pool's setup."""
        number = super().begin(setup)
        self._pool_of[number] = self._followed.begin_pool()
        return number

    def end(self, number: int) -> None:
        """Forget a setup, and let the other ranks go on."""
        super().end(number)
        pool = self._pool_of.pop(number, None)
        if pool is not None:
            self._followed.end_pool(pool)


class LeadingSession(Session):
    """Rank 0 while the other ranks serve its pools: they serve its calls as well.

    Parameters
    ----------
    world : World
        All ranks.
    """

    def __init__(self, world: World) -> None:
        super().__init__()
        own, theirs = Channel.pair()
        self._ranks = _meet(world)
        self.followed = Followed(world, theirs)
        self._stream = FollowedStream(self.followed, own, world.hosts)
        self._lock = threading.RLock()
        atexit.register(self.followed.end)

    def callers(self, comm: Any = None) -> World:
        """Return this rank alone: the others call nothing."""
        return SerialWorld()

    def job_ranks(self, world: World, error: AcmeMpiError | None = None) -> list[tuple[str, int]]:
        """Return host and process id of every rank. Independent."""
        super().job_ranks(world, error)
        return self._ranks

    @property
    def is_speaker(self) -> bool:
        """Whether this process speaks for the job: rank 0 does."""
        return True

    def ask(self, question: str) -> bool | None:
        """Ask on the launcher's terminal. Independent."""
        return ask(question, 1)

    def needs_pickles(self, isolate: bool) -> bool:
        """Tell that the function is called in other processes whatever happens."""
        return True

    def run(self, world: World, call: Call, wants_values: bool = True) -> Result:
        """Run the call with all ranks, which serve it. Independent."""
        if call.options is not None and not call.options.output.store.writes_files:
            output = call.options.output._replace(root=0)
            call.options = call.options._replace(output=output)
        # The others want no values, and do not help to bring them here.
        call.deliver = lambda _, result: deliver(world, result, wants_values)
        with self._lock, self.followed.talking() as ranks:
            ranks.bcast("call")
            return run(ranks, call)

    def stream(self) -> Stream:
        """Return the stream, for one more pool."""
        return self._stream

    def release(self) -> None:
        """End the runners of all ranks. Independent."""
        with self._lock, self.followed.talking() as ranks:
            ranks.bcast("release")
            serve_request(ranks, "release", Call(surroundings=None))


def _meet(world: World) -> list[tuple[str, int]]:
    """Return host and process id of every rank. Collective."""
    world.barrier(tell)
    return world.allgather((world.host, os.getpid()))


class Following:
    """What another rank than 0 does in the constructors of its pools.

    Parameters
    ----------
    world : World
        All ranks.
    """

    def __init__(self, world: World) -> None:
        self._world = world
        self._follower: Follower | None = None
        _meet(world)

    def serve(self) -> None:
        """Serve one pool of rank 0 till its end. Collective with `Followed`."""
        self._world.barrier(tell)
        self._follower = follow(self._world, self._follower)
