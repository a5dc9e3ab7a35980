"""What a script does with our pools: a process of its own, which the ranks serve."""

import time

from benchmarks import functions, ours, processes, rates, sampling
from benchmarks.methods import run_of


def rate(func, n_tasks, target_s, method="map"):
    import acme_mpi

    make = acme_mpi.Executor if method == "submit" else acme_mpi.Pool
    with make() as workers:
        run = run_of(workers, method)
        return rates.measured(run, func, n_tasks, target_s)


def small_maps(func, n_tasks, n_maps):
    import acme_mpi

    with acme_mpi.Pool() as workers:
        return rates.maps(workers.map, func, n_tasks, n_maps)


def small_runs(func, n_tasks, n_maps):
    """Return the same of `acme_mpi.map`, whose ranks the script keeps from call to call."""
    return rates.maps(ours.run, func, n_tasks, n_maps)


def closure(n_steps):
    import acme_mpi

    data = sampling.make_data()
    with acme_mpi.Pool(initializer=sampling.keep, initargs=(data,)) as workers:
        return sampling.closure(workers.map, data, n_steps)


def idle(seconds):
    """Return what all processes of the job take of a core while nothing is to be done.

    Ranks look around less often after a while: the halves of the time are told as well.
    """
    import acme_mpi

    with acme_mpi.Pool() as workers:
        workers.map(functions.empty, range(workers.size), chunksize=1)
        halves = [100 * processes.used(time.sleep, seconds / 2)["cores"] for _ in range(2)]
    return {"idle": sum(halves) / 2, "idle_at_first": halves[0], "idle_later": halves[1]}
