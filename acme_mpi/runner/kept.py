"""The child runner of this process: the first run needs one, and later ones find it there."""

from __future__ import annotations

import atexit
import os

from acme_mpi.comm import World
from acme_mpi.runner.child import ChildRunner
from acme_mpi.runner.threads import n_local_ranks, share_of_cores

_RUNNER: list[tuple[ChildRunner, int]] = []  # with its number of threads
_OF_PARENT: list[tuple[ChildRunner, int]] = []  # whoever drops them waits for a process not his own


def _begin_anew() -> None:
    """Leave its runner to the process that has forked this one."""
    _OF_PARENT.extend(_RUNNER)
    _RUNNER.clear()


os.register_at_fork(after_in_child=_begin_anew)


def fork_child_runner() -> None:
    """Start this process's child runner as a copy of it, before MPI starts. Independent.

    That takes a tenth of the time of a new Python that imports NumPy, and half of the memory is
    shared. Neither MPI nor a thread may have been started.
    """
    n_threads = share_of_cores(n_local_ranks())
    _keep(ChildRunner(n_threads, is_forked=True), n_threads)


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
    if _RUNNER and _RUNNER[0][1] != n_threads:
        stop_runner()  # it was started before the ranks could tell each other their cores
    if not _RUNNER:
        _keep(ChildRunner(n_threads), n_threads)
    return _RUNNER[0][0]


def stop_runner() -> None:
    """End this process's child runner, in good order if it is idle. Independent."""
    while _RUNNER:
        _RUNNER.pop()[0].leave()


def _keep(runner: ChildRunner, n_threads: int) -> None:
    _RUNNER.append((runner, n_threads))
    atexit.register(stop_runner)


def _threads_per_rank(world: World) -> int:
    """Return this rank's share of the cores that it may run on.

    All ranks count, also those that have nothing to do now: the runner is kept for later runs.
    """
    mask = sorted(os.sched_getaffinity(0))
    ranks = world.allgather((world.host, mask))
    return share_of_cores(ranks.count((world.host, mask)))
