"""Script mode: a user's script runs in a child of rank 0, and all ranks serve its calls.

The script is a client. Its calls of `map` travel to rank 0's agent as one message each, and so do
their answers; the script's end is the end of the channel.
"""

from __future__ import annotations

import contextlib
import os
import select
from collections.abc import Sequence
from dataclasses import astuple, replace
from typing import Any

from acme_mpi.call import Call, Options, Result
from acme_mpi.comm import World
from acme_mpi.errors import AcmeMpiError, Failure
from acme_mpi.results import Content
from acme_mpi.run import run
from acme_mpi.runner.channel import Channel, ChannelError, Kind
from acme_mpi.runner.process import Child
from acme_mpi.storage import Stored

_CHANNEL: list[Channel] = []


def serve_script(world: World, path: str, arguments: Sequence[str], defaults: Options) -> int:
    """Run a script on rank 0 and serve its calls on all ranks. Collective.

    Parameters
    ----------
    world : World
        The ranks that serve.
    path, arguments : str, sequence of str
        The script and its own arguments.
    defaults : Options
        The command line's settings for every call (`bar` is taken).

    Returns
    -------
    int
        On rank 0 the script's exit status, 128 + n for signal n; elsewhere 0.
    """
    if not world.is_master:
        while world.bcast(None):
            _serve_call(world, Call())
        return 0
    child = Child("acme_mpi.script_main", [path, *arguments], has_terminal=True)
    try:
        while (content := _next_call(child)) is not None:
            world.bcast(True)
            answer = _serve_call(world, _to_call(content, defaults))
            _reply(child, answer)
        world.bcast(False)
    finally:
        status = _wait(child)
    return status if status >= 0 else 128 - status


def _wait(child: Child) -> int:
    # The script has closed its channel or ended; it may still clean up.
    select.select([child.pidfd], [], [])
    return child.kill()


def _next_call(child: Child) -> Any:
    """Wait for the script's next call; None when the script ends."""
    while True:
        ended = child.has_ended()
        try:
            message = child.channel.receive(wait=False)
        except (EOFError, ChannelError):
            return None
        if message is not None:
            return message[1]
        if ended:
            return None
        select.select([child.channel.fileno(), child.pidfd], [], [])


def _to_call(content: Any, defaults: Options) -> Call:
    options, func, tasks, buffers, place, error = content
    if options is None:
        return Call(error=error)
    fields = Options(*options)
    # Values go to the script alone, not to all ranks.
    root = 0 if fields.kind == "memory" else None
    merged = replace(fields, root=root, bar=defaults.bar)
    return Call(merged, func, tasks, buffers, place=tuple(place))


def _serve_call(world: World, call: Call) -> tuple[Any, ...]:
    """Run one call; return the answer for the script as plain values. Collective."""
    try:
        result = run(world, call)
    except AcmeMpiError as error:
        return "error", type(error).__name__, str(error)
    stored = result.stored
    pieces = [(runs, c.rows, c.placed, c.parts, c.values, c.buffers) for runs, c in stored.pieces]
    return (
        "result",
        astuple(result.options),
        (stored.container, stored.paths, pieces),
        [astuple(failure) for failure in result.failures],
        (result.n_unfinished, result.storage_error, result.unready, result.n_ready),
    )


def _reply(child: Child, answer: tuple[Any, ...]) -> None:
    # The script may have gone meanwhile; the next look sees that.
    with contextlib.suppress(BrokenPipeError, ConnectionError):
        child.channel.send(Kind.ANSWER, answer)


def connect(channel: Channel) -> None:
    """Let this process's calls go to an agent. For the process that runs a script."""
    _CHANNEL[:] = [channel]
    # A process that the script forks has no part in the conversation.
    os.register_at_fork(after_in_child=_CHANNEL.clear)


def is_connected() -> bool:
    """Tell whether this process is a script whose calls are served by ranks."""
    return bool(_CHANNEL)


def request(call: Call) -> Result:
    """Have the ranks run a call and return its result. For the process that runs a script.

    Raises
    ------
    InputError, LaunchError, StoreError
        As `run`.
    """
    from acme_mpi import errors

    channel = _CHANNEL[0]
    options = None if call.options is None else astuple(call.options)
    channel.send(Kind.CALL, (options, call.func, call.tasks, call.buffers, call.place, call.error))
    message = channel.receive()
    assert message is not None
    kind, *content = message[1]
    if kind == "error":
        name, text = content
        raise getattr(errors, name)(text)
    fields, (container, paths, pieces), failures, rest = content
    stored = Stored(container, paths, [(runs, Content(*piece)) for runs, *piece in pieces])
    return Result(Options(*fields), stored, [Failure(*each) for each in failures], *rest)


__all__ = ["connect", "is_connected", "request", "serve_script"]
