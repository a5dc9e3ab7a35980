"""A rank that stays: rank 0 lets in who has the key, and all ranks serve that process's calls."""

from __future__ import annotations

import contextlib
import logging
import os
import sys
from typing import NamedTuple

from acme_mpi.linux.threads import limited_threads

with limited_threads():
    import numpy  # noqa: F401

from acme_mpi.comm import World, finalize, make_world
from acme_mpi.engine.call import Display
from acme_mpi.engine.messages import ConsoleFormatter
from acme_mpi.errors import AcmeMpiError
from acme_mpi.links.door import Door
from acme_mpi.links.key import read_key
from acme_mpi.linux.descriptors import occupy_standard_descriptors
from acme_mpi.linux.gpus import take_gpus
from acme_mpi.linux.interrupts import INTERRUPTS
from acme_mpi.linux.printing import say_error
from acme_mpi.runner.channel import Channel
from acme_mpi.runner.kept import fork_child_runner, stop_runner
from acme_mpi.runner.streams import flush_standard_streams
from acme_mpi.session.conversation import converse
from acme_mpi.session.following import take_part
from acme_mpi.session.rank_main import MessagesHandler
from acme_mpi.session.starting import RanksFolder

logger = logging.getLogger("acme_mpi")


class _Client(NamedTuple):
    """Whoever is the client, as rank 0 sees it."""

    channel: Channel
    pidfd: int

    def has_ended(self) -> bool:
        """Return False: the end of the last client is the end of the channel."""
        return False


def main() -> None:
    """Serve clients, one after the other, until nobody comes any more."""
    occupy_standard_descriptors()
    logger.setLevel(logging.INFO)
    logger.propagate = False
    handler = logging.StreamHandler()
    handler.setFormatter(ConsoleFormatter())
    logger.addHandler(handler)
    try:
        take_gpus()
        fork_child_runner()
        found = RanksFolder.read(sys.argv[1])
        world = make_world(notify=lambda text: logger.warning("%s", text))
        ranks = world.allgather((world.host, os.getpid()))
        if world.is_master:
            logger.removeHandler(handler)
        take_part(world, lambda: _lead(world, found, ranks))
    except AcmeMpiError as error:
        sys.exit(say_error(error))
    stop_runner()
    finalize()
    flush_standard_streams()


def _lead(world: World, found: RanksFolder, ranks: list[tuple[str, int]]) -> None:
    door = Door(found.folder, read_key(found.folder), found.idle_s, INTERRUPTS, found.ports)
    handler = _ClientsHandler(door)
    handler.setFormatter(ConsoleFormatter())
    logger.addHandler(handler)
    door.open({"ranks": ranks})
    converse(world, _Client(door.seat.channel, door.gone), Display(), handler.heard)
    with contextlib.suppress(OSError):
        os.unlink(found.path("key"))


class _ClientsHandler(MessagesHandler):
    """Sends messages to the client, and prints them where there is none."""

    def __init__(self, door: Door) -> None:
        super().__init__(door.seat.channel)
        self._door = door

    def emit(self, record: logging.LogRecord) -> None:
        """Send or print one message."""
        if self._door.has_client:
            super().emit(record)
        else:
            print(self.format(record), file=sys.stderr, flush=True)


if __name__ == "__main__":
    main()
