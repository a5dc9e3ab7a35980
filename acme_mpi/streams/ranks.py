"""The ranks of a stream: rank 0 takes chunks from a client and hands them out, all ranks call them.

Nobody waits in MPI: ranks look when a bell, a runner or the client wakes them.
"""

from __future__ import annotations

import contextlib
import os
import select
import sys
import time
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from typing import Any, NamedTuple

from acme_mpi.comm import World, leave_if_orphaned, share
from acme_mpi.comm.mpi import MpiWorld
from acme_mpi.comm.post import MpiPost, NoPost, Post
from acme_mpi.linux.segment import Segment
from acme_mpi.runner.calls import (
    Answer,
    Answers,
    Back,
    Begin,
    Calls,
    End,
    Forget,
    Given,
    Kill,
    Lost,
    Reply,
    Teach,
    Window,
)
from acme_mpi.runner.channel import Channel, ChannelError, Kind
from acme_mpi.runner.kept import take_stream_runners
from acme_mpi.runner.streaming import KILLED
from acme_mpi.streams.schedule import Schedule

LOOK_EVERY_S = 1.0


class Share(NamedTuple):
    """All ranks fetch the segment of a function, whose `Teach` has none. Collective."""

    teach: Teach


class Leave(NamedTuple):
    """The stream gives way: no rank loses anything."""


class _Ready:
    """Which descriptors are ready; without any, or at first, everything is to be looked at.

    Parameters
    ----------
    descriptors : set of int
        Those that are.
    """

    def __init__(self, descriptors: set[int] | None = None) -> None:
        self._descriptors = descriptors

    def has_any(self, descriptors: Iterable[int]) -> bool:
        """Tell whether one of some descriptors may be ready."""
        return not self._descriptors or not self._descriptors.isdisjoint(descriptors)

    def has(self, descriptor: int) -> bool:
        """Tell whether a descriptor is ready for sure."""
        return self._descriptors is not None and descriptor in self._descriptors


class Part:
    """What every rank does in a stream. Collective.

    Parameters
    ----------
    world : World
        The ranks.
    """

    def __init__(self, world: World) -> None:
        self._world = world
        with_mpi = isinstance(world, MpiWorld) and world.size > 1
        self._post: Post = MpiPost(world) if with_mpi else NoPost()
        self._runners = take_stream_runners(world)
        self._parent, self._looked_s = os.getppid(), time.monotonic()
        self._deaths = world.deaths()

    def end(self) -> None:
        """End the runners. Independent."""
        self._runners.leave()

    def _do(self, message: Any) -> None:
        """Have the runners know what a message says."""
        match message:
            case Begin():
                self._runners.begin(message)
            case End():
                self._runners.end(message.setup)
            case Teach():
                self._runners.teach(message)
            case Forget():
                self._runners.forget(message.function)
            case Kill():
                self._runners.kill(message.calls)
            case Share():
                self._fetch(message.teach, None)

    def _do_all(self, messages: list[Any]) -> None:
        """Do what messages say, in order; chunks that stand together are given together."""
        given: list[Given] = []
        for message in messages:
            if isinstance(message, Given):
                given.append(message)
                continue
            if given:
                self._runners.give(given)
                given = []
            self._do(message)
        if given:
            self._runners.give(given)

    def _fetch(self, teach: Teach, segment: Segment | None) -> None:
        """Have the segment of a function on this node. Collective."""
        shared = share(self._world, segment)
        self._runners.teach(teach._replace(segment=shared))

    def _news(self, ready: _Ready) -> Iterator[tuple[int, Any]]:
        """Yield source and content of the letters that have come, where there may be any."""
        if ready.has_any(self._post.descriptors()) or self._post.is_due():
            yield from self._post.letters()

    def _answers(self, ready: _Ready) -> list[Reply]:
        """Return what the runners say, where that may be anything."""
        if self._runners.look_s is not None:
            self._runners.look()
        if ready.has_any(self._runners.descriptors()) or self._runners.has_answers:
            return self._runners.poll()
        return []

    def _sleep(
        self, waits_for: list[int], reading: Sequence[int] = (), writing: Sequence[int] = ()
    ) -> _Ready:
        """Sleep until something is ready; return what is."""
        pauses = [self._post.pause_s(waits_for), self._runners.look_s]
        pause_s = min(pause for pause in pauses if pause is not None)
        to_read = [*reading, *self._post.descriptors(), *self._runners.descriptors(), *self._deaths]
        to_write = [*writing, *self._runners.waiting_for_room()]
        readable, writable, _ = select.select(to_read, to_write, [], pause_s)
        if readable or writable:
            self._post.has_woken()
        self._look(at_once=not {*readable}.isdisjoint(self._deaths))
        return _Ready({*readable, *writable})

    def _look(self, at_once: bool) -> None:
        """See once a second whether the launcher and the other ranks are still there.

        A rank that has nothing to do looks less often: the death of its neighbour wakes it.
        """
        now_s = time.monotonic()
        if at_once or now_s - self._looked_s > LOOK_EVERY_S:
            self._looked_s = now_s
            leave_if_orphaned(self._parent)
            self._world.abort_if_neighbour_is_gone()


class Follower(Part):
    """The part of the other ranks than rank 0."""

    def serve(self) -> None:
        """Call what rank 0 hands out until the stream gives way. Collective with `Leader.serve`."""
        ready = _Ready()
        while True:
            for _, messages in self._news(ready):
                self._do_all(messages)
                if isinstance(messages[-1], Leave):
                    return
            if answers := self._answers(ready):
                self._post.send(0, answers)
            ready = self._sleep([0])


class Leader(Part):
    """The part of rank 0: the client's messages come here, and chunks are handed out. Collective.

    Parameters
    ----------
    world : World
        The ranks.
    client : Channel
        To the process that has the pools.
    """

    def __init__(self, world: World, client: Channel) -> None:
        super().__init__(world)
        self._client = client
        self._is_open = True
        self._schedule = Schedule(world.size)
        self._setups: dict[int, Begin] = {}
        self._functions: dict[int, Teach] = {}
        self._killed: list[Calls] = []  # that ranks were told to kill
        self._known: list[set[tuple[type, int]]] = [set() for _ in range(world.size)]
        self._letters: dict[int, list[Any]] = {}
        self._to_client: deque[Any] = deque()
        self._windows: dict[int, Window] = {}  # by function, as the client knows them

    def end(self) -> None:
        """End the runners, and tell the client that nobody serves it any more. Independent."""
        self._is_open = False
        self._client.close()
        super().end()

    def fileno(self) -> int:
        """Return the descriptor that is readable when the client wants something."""
        return self._client.fileno()

    @property
    def has_work(self) -> bool:
        """Whether chunks are queued or out, or answers are not taken yet."""
        return bool(self._schedule.n_queued or self._schedule.n_out or self._to_client)

    def serve(self, until: Sequence[int]) -> bool:
        """Hand out what the client gives, until another descriptor is readable. Collective.

        Parameters
        ----------
        until : sequence of int
            Descriptors.

        Returns
        -------
        bool
            Whether the client is still there.
        """
        ready = _Ready()
        while self._is_open and not any(map(ready.has, until)):
            if ready.has_any([self._client.fileno()]):
                self._take_clients()
            for letter in self._news(ready):
                self._pass_on(*letter)
            if answers := self._answers(ready):
                self._pass_on(0, answers)
            self._hand_out()
            self._tell_client()
            if self._is_open:
                writing = [self._client.fileno()] if self._to_client else []
                ready = self._sleep(self._others_out(), [self._client.fileno(), *until], writing)
        self.give_way()
        return self._is_open

    def drain(self, until: Sequence[int]) -> None:
        """Kill what is out, and wait until it is home: nothing of it is left. Collective.

        Parameters
        ----------
        until : sequence of int
            Descriptors; when one is readable, nobody waits.
        """
        self._is_open = False
        self._drop_all()
        self._send_letters()
        ready = _Ready()
        while self._schedule.n_out and not any(map(ready.has, until)):
            for letter in self._news(ready):
                self._pass_on(*letter)
            if answers := self._answers(ready):
                self._pass_on(0, answers)
            ready = self._sleep(self._others_out(), until)
        self.give_way()

    def give_way(self) -> None:
        """Let the other ranks leave the stream until the next `serve`. Collective."""
        for rank in range(1, self._world.size):
            self._put(rank, Leave())
        self._send_letters()

    def _others_out(self) -> list[int]:
        return [rank for rank in self._schedule.ranks_out() if rank]

    def _take_clients(self) -> None:
        """Take in what the client has sent."""
        while self._is_open:
            try:
                message = self._client.receive(wait=False)
            except (EOFError, ChannelError, OSError):
                self._is_open = False
                self._drop_all()
                return
            if message is None:
                return
            for each in message[1]:
                self._take(each)

    def _take(self, message: Any) -> None:
        match message:
            case Given():
                self._schedule.add(message)
            case Begin():
                self._setups[message.setup] = message
                self._schedule.begin(message)
            case End():
                self._setups.pop(message.setup, None)
                self._schedule.end(message.setup)
                self._tell_who_knows(message, (Begin, message.setup))
            case Teach():
                self._teach(message)
            case Forget():
                self._functions.pop(message.function, None)
                self._windows.pop(message.function, None)
                self._schedule.forget(message.function)
                self._tell_who_knows(message, (Teach, message.function))
            case Kill():
                self._kill(message.calls)

    def _teach(self, teach: Teach) -> None:
        self._functions[teach.function] = teach
        if teach.segment is None or self._world.size == 1:
            return
        # It goes to each node once, and all ranks take part in that.
        for rank in range(1, self._world.size):
            self._put(rank, Share(teach._replace(segment=None)))
        self._send_letters()
        self._fetch(teach, teach.segment)
        for known in self._known:
            known.add((Teach, teach.function))

    def _tell_who_knows(self, message: Any, what: tuple[type, int]) -> None:
        for rank, known in enumerate(self._known):
            if what in known:
                known.discard(what)
                self._put(rank, message)

    def _kill(self, calls: list[Calls]) -> None:
        self._lose(self._schedule.remove(calls))
        for rank in range(self._world.size):
            theirs = [each for each in calls if self._schedule.has(rank, each.chunk)]
            if theirs:
                self._killed += theirs
                self._put(rank, Kill(theirs))

    def _lose(self, killed: list[Calls]) -> None:
        if killed:
            lost: list[Answer] = [
                Lost(chunk, first, stop - first, KILLED.type, KILLED.message)
                for chunk, first, stop in killed
            ]
            self._to_client.append(Answers(-1, lost))

    def _drop_all(self) -> None:
        """Nobody waits for anything any more."""
        self._kill([Calls(chunk, 0, sys.maxsize) for chunk in self._schedule.chunks()])
        self._to_client.clear()

    def _pass_on(self, rank: int, answers: list[Reply]) -> None:
        self._schedule.take(rank, answers)
        theirs = list[Answer]()
        for answer in answers:
            if isinstance(answer, Back):
                self._schedule.take_back(rank, answer.given)
                # What was to be killed was on its way here.
                self._lose(self._schedule.remove(self._killed))
            else:
                theirs.append(answer)
        if theirs:
            self._to_client.append(Answers(rank, theirs))
        if not self._schedule.n_out:
            self._killed.clear()

    def _hand_out(self) -> None:
        for rank, chunks in self._schedule.assigned():
            for given in chunks:
                self._introduce(rank, given)
                self._put(rank, given)
        self._send_letters()

    def _introduce(self, rank: int, given: Given) -> None:
        """Tell a rank what it has to know for a chunk."""
        known = self._known[rank]
        if (Begin, given.setup) not in known:
            known.add((Begin, given.setup))
            self._put(rank, self._setups[given.setup])
        if (Teach, given.function) not in known:
            known.add((Teach, given.function))
            self._put(rank, self._functions[given.function])

    def _put(self, rank: int, message: Any) -> None:
        self._letters.setdefault(rank, []).append(message)

    def _send_letters(self) -> None:
        letters, self._letters = self._letters, {}
        for rank, messages in letters.items():
            if rank:
                self._post.send(rank, messages)
            else:
                self._do_all(messages)

    def _tell_client(self) -> None:
        for window in self._schedule.windows():
            if not _is_about(window, self._windows.get(window.function)):
                self._windows[window.function] = window
                self._to_client.append(window)
        while self._to_client and self._is_open and self._client.has_room():
            messages = [*self._to_client]
            self._to_client.clear()
            with contextlib.suppress(BrokenPipeError, ConnectionError):  # seen when it is read
                self._client.send(Kind.GOT, messages)


def _is_about(window: Window, known: Window | None) -> bool:
    """Tell whether the client need not be told of a window, for what it knows."""
    if known is None or not 0.8 * window.n_chunks <= known.n_chunks <= window.n_chunks:
        return False
    return known.call_s / 2 <= window.call_s <= 2 * known.call_s
