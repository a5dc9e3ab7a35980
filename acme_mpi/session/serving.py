"""Script mode on the ranks: rank 0 runs the script as its child, and all ranks serve its calls."""

from __future__ import annotations

import logging
import os
import signal
import time
from collections.abc import Sequence

from acme_mpi.comm import World, is_launched, sleep_until
from acme_mpi.engine.call import Display
from acme_mpi.errors import EXIT_DONE, EXIT_USAGE, LaunchError
from acme_mpi.linux.interrupts import INTERRUPTS
from acme_mpi.linux.processes import image_of
from acme_mpi.runner.channel import Kind
from acme_mpi.runner.launched import without_launcher
from acme_mpi.runner.process import Child
from acme_mpi.session.conversation import converse, next_message, tell
from acme_mpi.session.following import follow_to_the_end
from acme_mpi.session.meant import function_meant

logger = logging.getLogger("acme_mpi")

ENDING_S = 0.5  # a process on its way out closes its channel first, and is gone soon after
LOOK_S = 0.01
REPLACED = (
    "the script has replaced its own process by another program (os.execv), which the ranks cannot "
    "serve"
)
IN_TIME = (
    ".\n  What the new start was for, such as a variable that Python reads when it starts, has to "
    "be there before: VARIABLE=value mpiexec ..."
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
        follow_to_the_end(world)
        return 0
    INTERRUPTS.catch_passed_on()
    environment = without_launcher(os.environ)
    child = Child("acme_mpi.session.script_main", command, environment, has_terminal=True)
    # The script decides what an interrupt means. A handler, as children would inherit SIG_IGN.
    signal.signal(signal.SIGINT, lambda number, frame: None)
    try:
        tell(child, Kind.HELLO, (ranks, defaults.level, is_launched()))
        greeting = next_message(child)  # of the interpreter: a wrapper has become it by now
        image = b"" if greeting is None else greeting[1]
        n_requests = converse(world, child, defaults)
        world.bcast("end")
        is_replaced = _is_replaced(child, image)
        if is_replaced and not child.has_ended():
            raise LaunchError(f"{REPLACED}; the job ends{IN_TIME}")
    except BaseException:
        child.kill()  # it would wait for an answer for ever, or run on without its ranks
        raise
    status = _wait(child)
    if is_replaced:
        logger.warning("%s", f"{REPLACED}; it has ended without them{IN_TIME}")
    elif status == EXIT_DONE and n_requests == 0 and (meant := function_meant(command)):
        logger.warning("%s", meant.text)
        return EXIT_USAGE if meant.is_certain else EXIT_DONE
    return status if status >= 0 else 128 - status


def _is_replaced(child: Child, image: bytes) -> bool:
    """Wait until the child ends, or does not soon; tell whether it has become another program."""
    is_replaced, until = False, time.monotonic() + ENDING_S
    while not child.has_ended(wait_s=LOOK_S) and time.monotonic() < until:
        is_replaced = is_replaced or image_of(child.pid) not in (b"", image)
    return is_replaced


def _wait(child: Child) -> int:
    # The script has closed its channel or ended; it may still clean up.
    sleep_until([child.pidfd])
    return child.kill()
