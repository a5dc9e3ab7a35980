"""Script mode on the ranks: rank 0 runs the script as its child, and all ranks serve its calls.

Each call travels from the script's `ScriptSession` to rank 0's agent as one message, and so does
its answer; the script's end is the end of the channel.
"""

from __future__ import annotations

import contextlib
import logging
import os
import select
import signal
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from acme_mpi.comm import World, is_launched, sleep_until, unpack_error
from acme_mpi.engine.call import Call, Display, Result
from acme_mpi.errors import EXIT_DONE, EXIT_USAGE, LaunchError
from acme_mpi.linux.interrupts import INTERRUPTS
from acme_mpi.linux.processes import command_line
from acme_mpi.runner.channel import Channel, ChannelError, Kind
from acme_mpi.runner.launched import without_launcher
from acme_mpi.runner.process import Child
from acme_mpi.session.following import answered, follow, serve_request
from acme_mpi.session.meant import function_meant
from acme_mpi.streams.ranks import Leader

logger = logging.getLogger("acme_mpi")

ENDING_S = 0.5  # a process on its way out closes its channel first, and is gone soon after
REPLACED = (
    "the script has replaced its own process by another program (os.execv), which the ranks cannot "
    "serve; the job ends.\n  What the new start was for, such as a variable that Python reads when "
    "it starts, has to be there before: VARIABLE=value mpiexec ..."
)


def serve_script(world: World, command: Sequence[str], defaults: Display) -> int:
    """Run a script on rank 0 and serve its calls on all ranks. Collective.

    Parameters
    ----------
    world : World
        The ranks that serve.
    command : sequence of str
        The script's path, or ``-m`` and a module's name, then its own arguments.
    defaults : Display
        The command line's `bar` and `level` for every call that has none of its own.

    Returns
    -------
    int
        On rank 0 the script's exit status, 128 + n for signal n, and `EXIT_USAGE` for one that can
        have done nothing, where the word behind it is a function of it; elsewhere 0.
    """
    ranks = world.allgather((world.host, os.getpid()))
    if not world.is_master:
        follower = follow(world)
        if follower is not None:
            follower.end()
        return 0
    INTERRUPTS.catch_passed_on()
    environment = without_launcher(os.environ)
    child = Child("acme_mpi.session.script_main", command, environment, has_terminal=True)
    # The script decides what an interrupt means. A handler, as children would inherit SIG_IGN.
    signal.signal(signal.SIGINT, lambda number, frame: None)
    try:
        _tell(child, Kind.HELLO, (ranks, defaults.level, is_launched()))
        words = command_line(child.pid)
        n_requests = _converse(world, child, defaults)
        world.bcast("end")
        if not child.has_ended(wait_s=ENDING_S) and command_line(child.pid) not in ([], words):
            raise LaunchError(REPLACED)
    except BaseException:
        child.kill()  # it would wait for an answer for ever, or run on without its ranks
        raise
    status = _wait(child)
    if status == EXIT_DONE and n_requests == 0 and (meant := function_meant(command)):
        logger.warning("%s", meant.text)
        return EXIT_USAGE if meant.is_certain else EXIT_DONE
    return status if status >= 0 else 128 - status


def _converse(world: World, child: Child, defaults: Display) -> int:
    """Answer the script's requests until it ends; return their number. Collective."""
    n_requests, unread = 0, list[tuple[Kind, Any]]()
    pools = _Pools(world, [child.channel.fileno(), child.pidfd])
    while (message := unread.pop() if unread else _next_message(child, pools)) is not None:
        kind, content = message
        if kind == Kind.CANCEL:
            continue  # what it means has ended by itself
        number, wanted = content
        if kind == Kind.STREAM:
            pools.open(wanted)
            n_requests += 1
            _tell(child, Kind.ANSWER, (number, None))
            continue
        call, request = Call(surroundings=None), "release"
        turn = _Turn(child, number, unread)
        if kind == Kind.CALL:
            call, request = _to_call(wanted, defaults), "call"
            call.client = [child.pidfd, child.channel.fileno()]
            call.deliver = turn.deliver
        world.bcast(request)
        n_requests += 1
        turn.answer(serve_request(world, request, call))
    pools.end()
    return n_requests


class _Pools:
    """The stream of the script, which the ranks serve while it asks for nothing else.

    Parameters
    ----------
    world : World
        The ranks.
    others : list of int
        Descriptors of what comes first.
    """

    def __init__(self, world: World, others: list[int]) -> None:
        self._world, self._others = world, others
        self._leader: Leader | None = None

    def open(self, channel: Channel) -> None:
        """Begin to serve what comes through a channel. Collective with `Follower`."""
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
        if not leader.serve(self._others):
            self.end()

    def end(self) -> None:
        """End this rank's runner. Independent."""
        if self._leader is not None:
            self._leader.end()
            self._leader = None


class _Turn:
    """One request of the script, and what it says to the values that it gets.

    Parameters
    ----------
    child : Child
        The script.
    number : int
        Of the request that waits for an answer.
    unread : list
        Gets the next request, if that comes where something else was expected.
    """

    def __init__(self, child: Child, number: int, unread: list[tuple[Kind, Any]]) -> None:
        self._child, self._number, self._unread = child, number, unread

    def answer(self, content: Any) -> None:
        """Send what the script waits for."""
        _tell(self._child, Kind.ANSWER, (self._number, content))

    def deliver(self, world: World, result: Result) -> None:
        """Send the result, and wait until its values are loaded. Rank 0 only."""
        self.answer(answered(result))
        result.stored.pieces.clear()
        message = _next_message(self._child)
        reasons = None
        if message is not None and message[0] == Kind.TAKEN:
            self._number, reasons = message[1]
        elif message is not None and message[0] != Kind.CANCEL:
            # An exception, of a signal handler for example, came between answer and values.
            self._unread.append(message)
        if reasons is None:
            result.storage_error = "the script has not taken the values"
        else:
            result.fail_unloadable(reasons, world.host, world.rank)


def _wait(child: Child) -> int:
    # The script has closed its channel or ended; it may still clean up.
    sleep_until([child.pidfd])
    return child.kill()


def _next_message(child: Child, pools: _Pools | None = None) -> tuple[Kind, Any] | None:
    """Wait for what the script wants next; None when it ends."""
    while True:
        ended = child.has_ended()
        try:
            message = child.channel.receive(wait=False)
        except (EOFError, ChannelError):
            return None
        if message is not None:
            return message
        if ended:
            return None
        woken_by = [child.channel.fileno(), child.pidfd]
        if pools is not None:
            pools.serve()
            woken_by += pools.descriptors()
        sleep_until(woken_by)


def _to_call(content: Any, defaults: Display) -> Call:
    options, packed, surroundings, fingerprint, error = content
    if error is not None:
        return Call(surroundings=None, error=unpack_error(error))
    # Values go to the script alone, not to all ranks.
    root = None if options.output.store.writes_files else 0
    level = defaults.level if options.display.level is None else options.display.level
    bar = defaults.bar if options.display.bar is None else options.display.bar
    merged = replace(
        options,
        output=replace(options.output, root=root),
        display=replace(options.display, bar=bar, level=level),
    )
    os.umask(surroundings.umask)  # of the files that this run makes
    return Call(merged, packed=packed, surroundings=surroundings, fingerprint=fingerprint)


def _tell(child: Child, kind: Kind, content: Any) -> None:
    # The script may have gone meanwhile; the next look sees that.
    with contextlib.suppress(BrokenPipeError, ConnectionError):
        child.channel.send(kind, content)
