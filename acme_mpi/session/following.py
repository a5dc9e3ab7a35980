"""What ranks do for the calls of a script that rank 0 serves, or of rank 0 itself."""

from __future__ import annotations

import sys
import traceback
from collections.abc import Callable
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from acme_mpi.comm import World, pack_error
from acme_mpi.engine.call import Call, Result
from acme_mpi.engine.run import run
from acme_mpi.errors import EXIT_INTERNAL, AcmeMpiError
from acme_mpi.linux.interrupts import INTERRUPTS
from acme_mpi.linux.printing import say_error
from acme_mpi.runner.kept import stop_runner

if TYPE_CHECKING:
    from acme_mpi.streams.ranks import Follower


def take_part(world: World, lead: Callable[[], object]) -> None:
    """Lead as rank 0, or follow, until the end. Collective.

    Parameters
    ----------
    world : World
        The ranks.
    lead : callable
        What rank 0 does; at its end all leave.
    """
    INTERRUPTS.catch()
    try:
        if world.is_master:
            lead()
            world.bcast("end")
        else:
            follow_to_the_end(world)
    # Leaving alone would make the other ranks wait for ever.
    except AcmeMpiError as error:  # such as no disk
        world.abort(say_error(error))
    except BaseException:  # a mistake of ours
        traceback.print_exc()
        sys.stderr.flush()
        world.abort(EXIT_INTERNAL)


def follow_to_the_end(world: World) -> None:
    """Do what rank 0 asks for, and leave nothing running. Collective; not on rank 0."""
    follower = follow(world)
    if follower is not None:
        follower.end()


def follow(world: World, follower: Follower | None = None) -> Follower | None:
    """Do what rank 0 asks for until it has asked for the end. Collective; not on rank 0.

    Parameters
    ----------
    world : World
        The ranks.
    follower : Follower, optional
        This rank's part in streams, if it had one before.

    Returns
    -------
    Follower or None
        The same, or the one that was made meanwhile.
    """
    while (request := world.bcast("")) != "end":
        if request == "stream":
            from acme_mpi.streams.ranks import Follower  # what pools need, others do not load

            follower = follower or Follower(world)
            follower.serve()
        elif request == "streamed":
            assert follower is not None
            follower.end()
            follower = None
        else:
            serve_request(world, request, Call(surroundings=None))
    return follower


def serve_request(world: World, request: str, call: Call) -> Any:
    """Do on all ranks what is asked for; return the answer. Collective.

    Parameters
    ----------
    world : World
        The ranks.
    request : {"call", "release"}
        Run a call, or end the runners.
    call : Call
        Rank 0's counts.
    """
    if request == "call":
        return _serve_call(world, call)
    stop_runner()
    world.barrier()  # the script may rely on it that all have ended
    return None


def _serve_call(world: World, call: Call) -> tuple[Any, ...]:
    """Run one call; return the answer for the script: what it is, and the thing. Collective."""
    try:
        result = run(world, call)
    except AcmeMpiError as error:
        return "error", pack_error(error)
    return answered(result)


def answered(result: Result) -> tuple[str, Result]:
    """Return the answer for a result without its values: the script has its own."""
    return "result", replace(result, values=None)
