"""What all ranks of a program do together, and rank 0 measures for them."""

import time

from benchmarks import processes, rates

PAUSE_S = 0.0002  # times the number of ranks, so that all together take a tenth of a core at most


def is_rank_0():
    from mpi4py import MPI

    return MPI.COMM_WORLD.rank == 0


def of_rank_0(value):
    from mpi4py import MPI

    return MPI.COMM_WORLD.bcast(value)


def meet():
    """Wait for all ranks, nearly without CPU time: an MPI barrier takes a core of each."""
    from mpi4py import MPI

    world = MPI.COMM_WORLD
    request = world.Ibarrier()
    while not request.Test():
        time.sleep(PAUSE_S * world.size)


def started(started_s):
    """Return how long the program runs, and what CPU time it took until all ranks have met."""
    figures = {"startup_s": time.monotonic() - started_s}
    meet()
    if is_rank_0():
        figures["startup_cpu_us"] = 1e6 * processes.spent_so_far_s()
    meet()
    return figures


def used(call, *args):
    """Return `processes.used` of a call that all ranks make; rank 0 counts for all processes."""
    if is_rank_0():
        figures = processes.used(call, *args, meet=meet)
    else:
        meet()
        figures = {"seconds": rates.seconds(call, *args), "cpu_s": 0.0}
        meet()
    meet()  # what comes next is no part of it
    return figures
