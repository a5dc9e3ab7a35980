"""A rank that a process has started for itself: it dials that process, and serves its calls."""

from __future__ import annotations

import contextlib
import logging
import os
import select
import sys
from collections.abc import Iterator, Mapping

from acme_mpi.linux.threads import limited_threads

with limited_threads():
    import numpy  # noqa: F401

from acme_mpi.comm import World, finalize, launched_rank_and_size, make_world, pack_error
from acme_mpi.comm.background import start_thread
from acme_mpi.engine.call import Display
from acme_mpi.engine.messages import ConsoleFormatter
from acme_mpi.errors import EXIT_DONE, EXIT_USAGE, AcmeMpiError
from acme_mpi.linux.descriptors import occupy_standard_descriptors
from acme_mpi.linux.gpus import take_gpus
from acme_mpi.runner.channel import Channel, Kind
from acme_mpi.runner.kept import fork_child_runner, stop_runner
from acme_mpi.runner.streams import flush_standard_streams
from acme_mpi.session.conversation import converse, tell
from acme_mpi.session.dialling import VARIABLE, Dialled, dial
from acme_mpi.session.following import take_part

LEAVING_S = 5.0  # after the end of the process for whom it is a rank
# Whoever looks at these finds a launcher that passes on lines: of these ranks it passes on nothing.
_OF_LINES = ("PRTE_LAUNCHED",)

logger = logging.getLogger("acme_mpi")


def main() -> None:
    """Serve the process that has started this rank until it ends, or wants no ranks any more."""
    occupy_standard_descriptors()
    rank, _ = launched_rank_and_size()
    try:
        take_gpus()
        client, outputs = dial(os.environ.pop(VARIABLE, ""), rank)
    except AcmeMpiError as error:
        sys.exit(str(error))
    _print_to(outputs)
    fork_child_runner()
    start_thread("client", _end_soon_after, client.pidfd)
    handler = MessagesHandler(client.channel)
    handler.setFormatter(ConsoleFormatter())
    logger.addHandler(handler)
    logger.setLevel(logging.INFO)
    logger.propagate = False
    _serve(client, handler)
    stop_runner()
    finalize()
    flush_standard_streams()
    os._exit(EXIT_DONE)  # nothing of a user's is in this process; Python's own end takes 30 ms


def _print_to(outputs: list[int]) -> None:
    """Print where the process prints that has started this rank, past the launcher.

    So it comes at once, before the results, and a terminal is one. The launcher's own ends stay
    open: what it makes of their end is its business.
    """
    sys.stdout.flush()
    sys.stderr.flush()
    for number, descriptor in enumerate(outputs, 1):
        os.dup(number)
        os.dup2(descriptor, number)
        os.close(descriptor)


def _end_soon_after(pidfd: int) -> None:
    """End at last when the process has gone, whatever this rank is doing."""
    poll = select.poll()
    poll.register(pidfd, select.POLLIN)
    poll.poll()
    poll.unregister(pidfd)
    poll.poll(1000 * LEAVING_S)
    os._exit(EXIT_USAGE)


def _serve(client: Dialled, handler: MessagesHandler) -> None:
    try:
        world = make_world(notify=lambda text: logger.warning("%s", text))
        ranks = world.allgather((world.host, os.getpid()))
    except AcmeMpiError as error:
        tell(client, Kind.HELLO, ([], pack_error(error)))
        return
    for name in _OF_LINES:
        os.environ.pop(name, None)
    if not world.is_master:
        client.channel.close()
    take_part(world, lambda: _lead(world, client, handler, ranks))


def _lead(
    world: World, client: Dialled, handler: MessagesHandler, ranks: list[tuple[str, int]]
) -> None:
    tell(client, Kind.HELLO, (ranks, None))
    with contextlib.suppress(EOFError):  # it has gone already
        message = client.channel.receive()
        assert message is not None
        _take_on(message[1])
        converse(world, client, Display(), handler.heard)


def _take_on(variables: Mapping[str, str]) -> None:
    """Know the batch job again, of whose ranks the launcher was not to know: it has an end."""
    os.environ.update(variables)


class MessagesHandler(logging.Handler):
    """Sends messages to the process that waits for an answer; else prints them.

    There they are that process's: its loggers, handlers and levels decide what becomes of them.

    Parameters
    ----------
    channel : Channel
        To the process.
    """

    def __init__(self, channel: Channel) -> None:
        super().__init__()
        self._channel, self._is_heard = channel, False

    @contextlib.contextmanager
    def heard(self) -> Iterator[None]:
        """Context in which the process waits for an answer."""
        self._is_heard = True
        try:
            yield
        finally:
            self._is_heard = False

    def emit(self, record: logging.LogRecord) -> None:
        """Send or print one message."""
        if not self._is_heard:
            print(self.format(record), file=sys.stderr, flush=True)
            return
        dialect = getattr(record, "dialect", ConsoleFormatter.running)
        with contextlib.suppress(OSError):  # it has gone
            self._channel.send(Kind.SAID, (record.levelno, record.getMessage(), dialect))


if __name__ == "__main__":
    main()
