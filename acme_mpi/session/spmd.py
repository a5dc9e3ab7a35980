"""Ranks that all make the same calls; a process without a launcher is the only one of its job."""

from __future__ import annotations

import threading
from functools import partial
from typing import Any

from acme_mpi.comm import World, is_launched, launched_rank_and_size, make_world
from acme_mpi.engine.call import Call, Result
from acme_mpi.engine.run import run
from acme_mpi.linux.descriptors import occupy_standard_descriptors
from acme_mpi.linux.terminal import ask
from acme_mpi.runner.kept import stop_runner
from acme_mpi.session.base import Session, tell
from acme_mpi.session.values import deliver


class SpmdSession(Session):
    """The ranks of a job, each of which makes the call."""

    def __init__(self) -> None:
        super().__init__()
        # There is one runner, and one conversation with the other ranks. A function that is called
        # in this process may have calls of its own.
        self._lock = threading.RLock()

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
        call.deliver = partial(deliver, wants_values=wants_values)
        with self._lock:
            return run(world, call)

    def release(self) -> None:
        """End this rank's runner. Independent."""
        stop_runner()
