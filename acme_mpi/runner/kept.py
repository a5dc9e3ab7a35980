"""The child runner of this process: the first run needs one, and later ones find it there."""

from __future__ import annotations

import atexit
import os
from typing import TYPE_CHECKING

from acme_mpi.comm import World
from acme_mpi.linux.threads import is_share_known, n_local_ranks, share_of_cores
from acme_mpi.runner.child import ChildRunner

if TYPE_CHECKING:
    from acme_mpi.runner.apart import StreamRunners


class _Kept:
    """What this process keeps.

    Attributes
    ----------
    runner : ChildRunner or None
        Its own.
    n_threads : int
        With which that was started.
    n_threads_of : dict
        This rank's share of the cores, by the name of the world.
    of_parents : list of ChildRunner
        Those of the processes that this one was forked from: whoever drops them waits for processes
        that are not his own.
    """

    def __init__(self) -> None:
        self.runner: ChildRunner | None = None
        self.n_threads = 0
        self.n_threads_of: dict[str, int] = {}
        self.of_parents: list[ChildRunner] = []

    def keep(self, runner: ChildRunner, n_threads: int) -> None:
        self.runner, self.n_threads = runner, n_threads
        atexit.register(stop_runner)

    def begin_anew(self) -> None:
        if self.runner is not None:
            self.of_parents.append(self.runner)
        self.runner = None


_kept = _Kept()
os.register_at_fork(after_in_child=_kept.begin_anew)


def fork_child_runner() -> None:
    """Start this process's child runner as a copy of it, before MPI starts. Independent.

    That takes a tenth of the time of a new Python that imports NumPy, and half of the memory is
    shared. Neither MPI nor a thread may have been started.
    """
    n_threads = share_of_cores(n_local_ranks())
    _kept.keep(ChildRunner(n_threads, is_forked=True), n_threads)


def start_child_runner() -> None:
    """Start this process's child runner, if it has none, while MPI starts. Independent.

    MPI's own start is mostly waiting, and a new Python with its imports needs as long.
    """
    if _kept.runner is None and is_share_known():
        n_threads = share_of_cores(n_local_ranks())
        _kept.keep(ChildRunner(n_threads), n_threads)


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
    if _kept.n_threads != n_threads:
        stop_runner()  # it was started before the ranks could tell each other their cores
    if _kept.runner is None:
        _kept.keep(ChildRunner(n_threads), n_threads)
    return _kept.runner


def take_stream_runners(world: World) -> StreamRunners:
    """Return runners for streams, which take over a child that has not been used. Collective."""
    from acme_mpi.runner.apart import StreamRunners  # what pools need, others do not load

    n_threads = _threads_per_rank(world)
    child = None
    if _kept.runner is not None and _kept.n_threads == n_threads:
        child = _kept.runner.lend()
    return StreamRunners(n_threads, child)


def stop_runner() -> None:
    """End this process's child runner, in good order if it is idle. Independent."""
    runner, _kept.runner = _kept.runner, None
    if runner is not None:
        runner.leave()


def _threads_per_rank(world: World) -> int:
    """Return this rank's share of the cores that it may run on.

    All ranks count, also those that have nothing to do now: the runner is kept for later runs.
    """
    if world.name not in _kept.n_threads_of:
        mask = sorted(os.sched_getaffinity(0))
        ranks = world.allgather((world.host, mask))
        _kept.n_threads_of[world.name] = share_of_cores(ranks.count((world.host, mask)))
    return _kept.n_threads_of[world.name]
