"""What the machine can do: bare loops, raw writes, bare starts."""

import os
import time
from array import array

from benchmarks import functions, ranks, rates
from benchmarks.together import self_scheduled, together


def loop(func, tasks):
    for x in tasks:
        func(x)


def rate(func, n_tasks, target_s):
    """Return the rate of one process per worker, each looping over its share.

    What that takes is the function's own, of whatever CPU time a side uses.
    """
    if n_tasks is None:
        n_tasks = rates.calibrated(lambda n: together(loop, func, n)["seconds"], target_s)
    figures = rates.per_task(together(loop, func, n_tasks), n_tasks)
    return {"n_tasks": n_tasks, **figures, "own_us": figures["cpu_us"]}


def raw(func, n_tasks):
    """Return the rate of as many ranks writing the bytes of their results, with fsync.

    Ranks, and with a warm-up as ours: memory that was free for the time of a start is slower to get
    on a virtual machine than that which the last measurement has just given back.
    """
    from mpi4py import MPI

    world = MPI.COMM_WORLD
    own_s = 0.0

    def called(x):
        nonlocal own_s
        before_s = time.thread_time()
        result = func(x)
        own_s += time.thread_time() - before_s
        return result

    def write(tasks):
        with open(f"raw_{tasks[0]}", "wb") as file:
            for x in tasks:
                file.write(called(x).data)
            file.flush()
            os.fsync(file.fileno())
        world.Barrier()

    share = range(world.rank * n_tasks // world.size, (world.rank + 1) * n_tasks // world.size)
    write(range(-5 * world.rank - 5, -5 * world.rank))
    own_s = 0.0
    figures = ranks.used(write, share)
    own_us = 1e6 * own_s / len(share)
    return {**rates.per_task(figures, n_tasks), "own_us": own_us}


def raw_scalars(func, n_tasks):
    """Return the same of numbers that are gathered in memory, and written at once."""

    def write(func, tasks):
        numbers = array("d", map(func, tasks))
        with open(f"raw_{tasks[0]}", "wb") as file:
            numbers.tofile(file)
            file.flush()
            os.fsync(file.fileno())

    figures = rates.per_task(together(write, func, n_tasks), n_tasks)
    own_us = 1e6 * together(loop, func, n_tasks)["cpu_s"] / n_tasks
    return {**figures, "own_us": own_us}


def bare_ranks(started_s):
    """Return when all ranks have imported what every rank of ours imports."""
    import h5py  # noqa: F401
    from mpi4py import MPI

    MPI.COMM_WORLD.Barrier()
    return ranks.started(started_s)


def copy(n_bytes):
    """Return how fast one core copies an array into memory that it already has."""
    import numpy as np

    source = np.ones(n_bytes // 8)
    target = np.zeros(n_bytes // 8) + 1
    elapsed_s = rates.seconds(np.copyto, target, source)
    return {"seconds": elapsed_s, "rate": n_bytes / elapsed_s / 1e9}


def heavy_tail(n_tasks):
    """Return what two processes with a common counter take, beyond ideal list scheduling."""
    return rates.beyond_ideal(self_scheduled, functions.burn, rates.heavy_tail(n_tasks))
