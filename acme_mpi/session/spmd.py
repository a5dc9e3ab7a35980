"""Ranks that all make the same calls; a process without a launcher is the only one of its job."""

from __future__ import annotations

import os
import threading
from functools import partial
from typing import TYPE_CHECKING, Any

from acme_mpi.comm import World, is_launched, launched_rank_and_size, make_world
from acme_mpi.engine.call import Call, Result
from acme_mpi.linux.descriptors import occupy_standard_descriptors
from acme_mpi.linux.terminal import ask
from acme_mpi.session.base import Session, tell
from acme_mpi.session.values import deliver

if TYPE_CHECKING:
    from acme_mpi.session.leading import Following, LeadingSession
    from acme_mpi.session.stream import Stream
    from acme_mpi.session.stream_alone import AloneStream


class SpmdSession(Session):
    """The ranks of a job, each of which makes the call."""

    def __init__(self) -> None:
        super().__init__()
        # There is one runner, and one conversation with the other ranks. A function that is called
        # in this process may have calls of its own.
        self._lock = threading.RLock()
        self._stream: AloneStream | None = None
        self._leading: LeadingSession | None = None
        self._following: Following | None = None
        self._pid = 0  # of the process that has made it: a fork has no part in it

    def get_ready(self) -> None:
        """Start this rank's runner. Independent."""
        if is_launched():
            from acme_mpi.runner.kept import start_child_runner

            occupy_standard_descriptors()
            start_child_runner()

    def callers(self, comm: Any = None) -> World:
        """Return the world of `comm`, made at the first call. Collective."""
        occupy_standard_descriptors()
        world = make_world(comm, tell)
        world.end_together()
        return world

    @property
    def is_speaker(self) -> bool:
        """Whether this is rank 0."""
        return launched_rank_and_size()[0] == 0

    def ask(self, question: str) -> bool | None:
        """Ask on the launcher's terminal, or this process's own. Independent."""
        return ask(question, int(is_launched()))

    def needs_pickles(self, isolate: bool) -> bool:
        """Tell whether the function goes to a runner."""
        return isolate

    def run(self, world: World, call: Call, wants_values: bool = True) -> Result:
        """Run the call with all ranks. Collective."""
        from acme_mpi.engine.run import run  # a process whose ranks are others does not load it

        call.deliver = partial(deliver, wants_values=wants_values)
        with self._lock:
            return run(world, call)

    def stream(self) -> Stream | None:
        """Return the stream of this process, made at the first call. Collective.

        The other ranks than 0 return when rank 0 has closed the pool that it makes now.
        """
        # What pools need is not loaded by those who have none.
        from acme_mpi.session.leading import Following, LeadingSession

        world = self.callers()
        if world.size == 1:
            return self._alone(world)
        if world.is_master:
            self._leading = self._leading or LeadingSession(world)
            return self._leading.stream()
        self._following = self._following or Following(world)
        self._following.serve()
        return None

    def _alone(self, world: World) -> AloneStream:
        from acme_mpi.session.stream_alone import AloneStream

        with self._lock:
            if self._stream is None or self._pid != os.getpid():
                self._stream, self._pid = AloneStream(world), os.getpid()
            return self._stream

    def of_call(self) -> Session:
        """Return what serves a call that is made now: rank 0 leads while it has pools."""
        leading = self._leading
        return self if leading is None or not leading.followed.is_open else leading

    def release(self) -> None:
        """End this rank's runner. Independent."""
        from acme_mpi.runner.kept import stop_runner

        stop_runner()
