"""What rank 0 says to a process that has the ranks as its own, and what the ranks do for it.

Each call travels from that process's `ScriptSession` to rank 0's agent as one message, and so does
its answer; the end of the process is the end of the channel.
"""

from __future__ import annotations

import contextlib
import os
import select
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Protocol

from acme_mpi.comm import World, sleep_until, unpack_error
from acme_mpi.engine.call import Call, Display, Result
from acme_mpi.runner.channel import Channel, ChannelError, Kind
from acme_mpi.session.following import answered, serve_request

if TYPE_CHECKING:
    from acme_mpi.streams.ranks import Leader


class Client(Protocol):
    """The process that has calls, as rank 0 sees it."""

    @property
    def channel(self) -> Channel:
        """To it."""

    @property
    def pidfd(self) -> int:
        """Readable as soon as it has ended, whoever keeps the channel open."""

    def has_ended(self) -> bool:
        """Tell whether it is gone."""


def converse(
    world: World,
    client: Client,
    defaults: Display,
    attending: Callable[[], contextlib.AbstractContextManager[object]] = contextlib.nullcontext,
) -> int:
    """Answer a client's requests until it ends; return their number. Collective with `follow`.

    Parameters
    ----------
    world : World
        The ranks that serve.
    client : Client
        Whom they serve.
    defaults : Display
        `bar` and `level` of every call that has none of its own.
    attending : callable
        Returns the context in which one call is served: the client waits for its answer.
    """
    n_requests, unread = 0, list[tuple[Kind, Any]]()
    pools = _Pools(world, client)
    while (message := unread.pop() if unread else next_message(client, pools)) is not None:
        kind, content = message
        if kind == Kind.CANCEL:
            continue  # what it means has ended by itself
        number, wanted = content
        if kind in (Kind.STREAM, Kind.TAKEN):
            if kind == Kind.STREAM:
                pools.open(wanted)
            n_requests += 1
            tell(client, Kind.ANSWER, (number, None))
            continue
        call, request = Call(surroundings=None), "release"
        turn = _Turn(client, number, unread)
        if kind == Kind.CALL:
            call, request = _to_call(wanted, defaults), "call"
            call.client = [client.pidfd, client.channel.fileno()]
            call.deliver = turn.deliver
            if call.options is not None and call.options.display.is_told:
                call.tell = turn.tell_progress
        world.bcast(request)
        n_requests += 1
        with attending():
            turn.answer(serve_request(world, request, call))
    pools.end()
    return n_requests


class _Pools:
    """The stream of the client, which the ranks serve while it asks for nothing else.

    Parameters
    ----------
    world : World
        The ranks.
    client : Client
        Whom they serve; what it wants else comes first.
    """

    def __init__(self, world: World, client: Client) -> None:
        self._world, self._client = world, client
        self._leader: Leader | None = None

    def open(self, channel: Channel) -> None:
        """Begin to serve what comes through a channel. Collective with `Follower`."""
        if self._leader is not None:
            self.end()  # of a client that has gone, whose place another one has taken
        from acme_mpi.streams.ranks import Leader  # what pools need, others do not load

        self._world.bcast("stream")
        self._leader = Leader(self._world, channel)
        self._leader.give_way()

    def descriptors(self) -> list[int]:
        """Return what is readable when there is something to do."""
        return [] if self._leader is None else [self._leader.fileno()]

    def serve(self) -> None:
        """Serve the stream if it has something to do, until something else comes first."""
        leader = self._leader
        if leader is None or not (leader.has_work or select.select([leader], [], [], 0)[0]):
            return
        self._world.bcast("stream")
        if not leader.serve([self._client.channel.fileno(), self._client.pidfd]):
            self.end()

    def end(self) -> None:
        """End what is out, and the runners of the stream. Collective with `follow`."""
        if self._leader is not None:
            self._world.bcast("stream")
            self._leader.drain([self._client.pidfd])
            self._world.bcast("streamed")
            self._leader.end()
            self._leader = None


class _Turn:
    """One request of the client, and what it says to the values that it gets.

    Parameters
    ----------
    client : Client
        Who has asked.
    number : int
        Of the request that waits for an answer.
    unread : list
        Gets the next request, if that comes where something else was expected.
    """

    def __init__(self, client: Client, number: int, unread: list[tuple[Kind, Any]]) -> None:
        self._client, self._number, self._unread = client, number, unread
        self._is_awaited, self._is_taken = True, False

    def answer(self, content: Any) -> None:
        """Send what the client waits for, if it does."""
        if self._is_awaited:
            tell(self._client, Kind.ANSWER, (self._number, None if self._is_taken else content))

    def tell_progress(self, n_ended: int, n_failed: int) -> None:
        """Send what the client shows, if it has taken what was sent before."""
        if self._client.channel.has_room():
            tell(self._client, Kind.PROGRESS, (n_ended, n_failed))

    def deliver(self, world: World, result: Result) -> None:
        """Send the result, and wait until its values are loaded. Rank 0 only."""
        self.answer(answered(result))
        result.stored.pieces.clear()
        message = next_message(self._client)
        self._is_awaited = message is not None and message[0] == Kind.TAKEN
        reasons = None
        if message is not None and message[0] == Kind.TAKEN:
            self._number, reasons = message[1]
            self._is_taken = True
        elif message is not None and message[0] != Kind.CANCEL:
            # An exception, of a signal handler for example, came between answer and values.
            self._unread.append(message)
        if reasons is None:
            result.storage_error = "the script has not taken the values"
        else:
            result.fail_late(reasons, world.host, world.rank)


def next_message(client: Client, pools: _Pools | None = None) -> tuple[Kind, Any] | None:
    """Wait for what the client says next; None when it ends."""
    while True:
        ended = client.has_ended()
        try:
            message = client.channel.receive(wait=False)
        except (EOFError, ChannelError):
            return None
        if message is not None:
            return message
        if ended:
            return None
        woken_by = [client.channel.fileno(), client.pidfd]
        if pools is not None:
            pools.serve()
            woken_by += pools.descriptors()
        sleep_until(woken_by)


def _to_call(content: Any, defaults: Display) -> Call:
    options, packed, surroundings, fingerprint, labels, error = content
    if error is not None:
        return Call(surroundings=None, error=unpack_error(error))
    # Values go to the client alone, not to all ranks.
    root = None if options.output.store.writes_files else 0
    level = defaults.level if options.display.level is None else options.display.level
    bar = defaults.bar if options.display.bar is None else options.display.bar
    merged = options._replace(
        output=options.output._replace(root=root),
        display=options.display._replace(bar=bar, level=level),
    )
    os.umask(surroundings.umask)  # of the files that this run makes
    return Call(
        merged,
        packed=packed,
        surroundings=surroundings,
        fingerprint=fingerprint,
        labels=labels,
    )


def tell(client: Client, kind: Kind, content: Any) -> None:
    """Send a message, unless the client has gone meanwhile: the next look sees that."""
    with contextlib.suppress(BrokenPipeError, ConnectionError):
        client.channel.send(kind, content)
