"""The child runner of this process: the first run needs one, and later ones find it there."""

from __future__ import annotations

import atexit
import os

from acme_mpi.comm import World
from acme_mpi.runner.child import ChildRunner

_RUNNER: list[ChildRunner] = []


def take_child_runner(world: World, is_worker: bool = True) -> ChildRunner | None:
    """Return this process's child runner, started at its first use. Collective.

    Parameters
    ----------
    world : World
        The ranks.
    is_worker : bool
        Whether this rank calls tasks; None is returned if not.
    """
    n_threads = _threads_per_rank(world)
    if not is_worker:
        return None
    if not _RUNNER:
        _RUNNER.append(ChildRunner(n_threads))
        atexit.register(stop_runner)
    return _RUNNER[0]


def stop_runner() -> None:
    """Stop this process's child runner. Independent."""
    while _RUNNER:
        _RUNNER.pop().stop()


def _threads_per_rank(world: World) -> int:
    """Return this rank's share of the cores that it may run on.

    All ranks count, also those that have nothing to do now: the runner is kept for later runs.
    """
    mask = sorted(os.sched_getaffinity(0))
    ranks = world.allgather((world.host, mask))
    return max(1, len(mask) // ranks.count((world.host, mask)))
