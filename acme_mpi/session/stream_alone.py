"""The stream of a process that is a rank itself: a thread of it is rank 0's part.

A process that is alone has one runner. The ranks of a script that all run serve the pools of rank 0
while they are in the constructors of their own, one pool after the other.
"""

from __future__ import annotations

import atexit
import threading

from acme_mpi.comm import World
from acme_mpi.comm.background import start_thread
from acme_mpi.runner.channel import Channel
from acme_mpi.session.stream_client import ClientStream
from acme_mpi.streams.ranks import Leader

ENDING_S = 3.0  # for the runner to leave as Python does


class AloneStream(ClientStream):
    """The stream of a world of one rank.

    Parameters
    ----------
    world : World
        The only rank.
    """

    def __init__(self, world: World) -> None:
        own, theirs = Channel.pair()
        self._leader = Leader(world, theirs)
        self._has_ended = threading.Event()
        start_thread("ranks", self._lead)
        super().__init__(own, world.hosts)
        atexit.register(self.close)

    def _lead(self) -> None:
        try:
            self._leader.serve([])
        finally:
            self._leader.end()
            self._has_ended.set()

    def close(self) -> None:
        """Hang up, and wait until the runner has left."""
        super().close()
        self._has_ended.wait(ENDING_S)
