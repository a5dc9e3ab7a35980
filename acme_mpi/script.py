"""Script mode: a user's script runs in a child of rank 0, and all ranks serve its calls.

The script is a client. Its calls of `map` travel to rank 0's agent as one message each, and so do
their answers; the script's end is the end of the channel.
"""

from __future__ import annotations

import contextlib
import os
import select
from collections.abc import Sequence
from dataclasses import astuple, dataclass, replace
from typing import Any

from acme_mpi.call import Call, Options, Result
from acme_mpi.comm import World, pack_error, unpack_error
from acme_mpi.errors import AcmeMpiError, Failure
from acme_mpi.results import Content
from acme_mpi.run import run, stop_runner
from acme_mpi.runner.channel import Channel, ChannelError, Kind
from acme_mpi.runner.process import Child
from acme_mpi.storage import Stored


def serve_script(world: World, command: Sequence[str], defaults: Options, level: int | None) -> int:
    """Run a script on rank 0 and serve its calls on all ranks. Collective.

    Parameters
    ----------
    world : World
        The ranks that serve.
    command : sequence of str
        The script's path, or ``-m`` and a module's name, then its own arguments.
    defaults : Options
        The command line's settings for every call (`bar` and `level` are taken, if given).
    level : int or None
        Least level of the messages that the command line asks for.

    Returns
    -------
    int
        On rank 0 the script's exit status, 128 + n for signal n; elsewhere 0.
    """
    ranks = world.allgather((world.host, os.getpid()))
    if not world.is_master:
        while (request := world.bcast("")) != "end":
            _serve(world, request, Call())
        return 0
    child = Child("acme_mpi.script_main", command, has_terminal=True)
    _tell(child, Kind.HELLO, (ranks, level))
    try:
        while (message := _next_message(child)) is not None:
            kind, content = message
            is_call = kind == Kind.CALL
            call = _to_call(content, replace(defaults, level=level)) if is_call else Call()
            world.bcast("call" if is_call else "release")
            _tell(child, Kind.ANSWER, _serve(world, "call" if is_call else "release", call))
        world.bcast("end")
    finally:
        status = _wait(child)
    return status if status >= 0 else 128 - status


def _serve(world: World, request: str, call: Call) -> Any:
    """Do on all ranks what the script asks for; return the answer. Collective."""
    if request == "call":
        return _serve_call(world, call)
    stop_runner()
    world.barrier()  # the script may rely on it that all have ended
    return None


def _wait(child: Child) -> int:
    # The script has closed its channel or ended; it may still clean up.
    select.select([child.pidfd], [], [])
    return child.kill()


def _next_message(child: Child) -> tuple[Kind, Any] | None:
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
        select.select([child.channel.fileno(), child.pidfd], [], [])


def _to_call(content: Any, defaults: Options) -> Call:
    options, func, tasks, buffers, place, error = content
    if error is not None:
        return Call(error=unpack_error(error))
    fields = Options(*options)
    # Values go to the script alone, not to all ranks.
    root = 0 if fields.kind == "memory" else None
    level = fields.level if defaults.level is None else defaults.level
    merged = replace(fields, root=root, bar=defaults.bar, level=level)
    return Call(merged, func, tasks, buffers, place=tuple(place))


def _serve_call(world: World, call: Call) -> tuple[Any, ...]:
    """Run one call; return the answer for the script as plain values. Collective."""
    try:
        result = run(world, call)
    except AcmeMpiError as error:
        return "error", pack_error(error)
    stored = result.stored
    pieces = [(runs, c.rows, c.placed, c.parts, c.values, c.buffers) for runs, c in stored.pieces]
    return (
        "result",
        astuple(result.options),
        (stored.container, stored.paths, pieces, stored.pickles),
        [astuple(failure) for failure in result.failures],
        (
            *(result.n_unfinished, result.storage_error, result.unready, result.n_ready),
            result.pickled_because,
        ),
    )


def _tell(child: Child, kind: Kind, content: Any) -> None:
    # The script may have gone meanwhile; the next look sees that.
    with contextlib.suppress(BrokenPipeError, ConnectionError):
        child.channel.send(kind, content)


@dataclass(frozen=True)
class Connection:
    """What a script knows of the ranks that serve it.

    Attributes
    ----------
    channel : Channel
        To rank 0's agent.
    ranks : list of (str, int)
        Host and process id of every rank.
    level : int or None
        Least level of the messages that the command line asks for.
    """

    channel: Channel
    ranks: list[tuple[str, int]]
    level: int | None


_CONNECTION: list[Connection] = []


def connect(channel: Channel) -> None:
    """Let this process's calls go to an agent. For the process that runs a script."""
    message = channel.receive()
    assert message is not None
    ranks, level = message[1]
    _CONNECTION[:] = [Connection(channel, ranks, level)]
    # A process that the script forks has no part in the conversation.
    os.register_at_fork(after_in_child=_CONNECTION.clear)


def connection() -> Connection | None:
    """Return the connection of a script whose calls are served by ranks, else None."""
    return _CONNECTION[0] if _CONNECTION else None


def is_connected() -> bool:
    """Tell whether this process is a script whose calls are served by ranks."""
    return bool(_CONNECTION)


def release() -> None:
    """Have the ranks end their runners. For the process that runs a script."""
    channel = _CONNECTION[0].channel
    channel.send(Kind.RELEASE)
    channel.receive()


def request(call: Call) -> Result:
    """Have the ranks run a call and return its result. For the process that runs a script.

    Raises
    ------
    InputError, LaunchError, StoreError
        As `run`.
    """
    channel = _CONNECTION[0].channel
    options = None if call.options is None else astuple(call.options)
    error = pack_error(call.error)
    channel.send(Kind.CALL, (options, call.func, call.tasks, call.buffers, call.place, error))
    message = channel.receive()
    assert message is not None
    kind, *content = message[1]
    if kind == "error":
        raise unpack_error(content[0])
    fields, (container, paths, pieces, pickles), failures, rest = content
    contents = [(runs, Content(*piece)) for runs, *piece in pieces]
    stored = Stored(container, paths, contents, pickles)
    return Result(Options(*fields), stored, [Failure(*each) for each in failures], *rest)


__all__ = [
    "Connection",
    "connect",
    "connection",
    "is_connected",
    "release",
    "request",
    "serve_script",
]
