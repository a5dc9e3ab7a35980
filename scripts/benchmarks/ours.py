"""What our ranks do, each in its own process of ``mpiexec -n N``."""

import functools
from typing import Any

from benchmarks import argument, functions, processes, ranks, rates
from benchmarks.ranks import is_rank_0

IN_MEMORY: dict[str, Any] = {"write_worker_results": False}


def run(func, inputs, **options):
    import acme_mpi

    return acme_mpi.map(func, inputs, **IN_MEMORY, **options)


def rate(func, n_tasks, target_s):
    # The caller alone gets the results, as from the peers.
    run_for_one = functools.partial(run, root=0)
    return rates.measured(run_for_one, func, n_tasks, target_s, ranks.of_rank_0, ranks.used)


def heavy_tail(n_tasks):
    return rates.beyond_ideal(run, functions.burn, rates.heavy_tail(n_tasks), ranks.used)


def files(func, n_tasks, **options):
    import acme_mpi

    acme_mpi.map(func, range(min(rates.WARM_UP, n_tasks // 10)), output_dir="warm_up", **options)
    call = functools.partial(acme_mpi.map, output_dir="measured", **options)
    figures = ranks.used(call, func, range(n_tasks))
    peak_mb = processes.own_peak_bytes() / 1e6
    return {**rates.per_task(figures, n_tasks), "peak_mb": peak_mb}


def first_map(n_tasks, **options):
    """Return nothing: the time of the whole job counts."""
    import acme_mpi

    acme_mpi.map(functions.empty, range(n_tasks), **options)


def deliver(array):
    from mpi4py import MPI

    import acme_mpi

    # The caller alone has the argument, as in a script that one process runs.
    mine = array if MPI.COMM_WORLD.rank == 0 else array[:0]
    n = argument.N_RANKS
    return acme_mpi.map(
        functions.arrive, range(n), array=acme_mpi.Shared(mine), n_expected=n, **IN_MEMORY
    )


def delivered(n_bytes):
    return argument.delivered(deliver, n_bytes if is_rank_0() else 64, ranks.used)


def memory(n_bytes):
    if is_rank_0():
        return argument.memory(deliver, n_bytes)
    for _ in range(2):
        deliver(argument.ones(64))
    return None


def crowd(n_tasks, started_s):
    """Return what many ranks cost on few cores: at the start, at work, and waiting."""
    from mpi4py import MPI

    world = MPI.COMM_WORLD
    run(functions.empty, range(world.size))
    startup = ranks.started(started_s)
    spans = []
    worked = ranks.used(lambda: spans.extend(run(functions.burn_5ms, range(n_tasks))))
    work_s = max(end for _, end in spans) - min(begin for begin, _ in spans)
    shares = world.gather(growth(lambda s: wait_for_one(s, world.size), 1.0, 3.0))
    n_workers = world.size - 1
    master = growth(lambda k: serve(int(k) * n_workers, n_workers / 1000), 10, 30) / n_workers
    if shares is None:
        return None
    return {
        **startup,
        **rates.per_task(worked, n_tasks),
        "rate": n_tasks / work_s,
        "idle": 100 * sum(shares[1:]) / n_workers,
        "idle_most": 100 * max(shares[1:]),
        "master": 100 * 1000 * master,
    }


def growth(call, less, more):
    """Return by how much the CPU time of this rank grows per unit of a call's argument.

    Begin and end of a run are in both calls and so in neither.
    """
    spent_s = []
    for amount in (less, more):
        before_s = processes.cpu_s()
        call(amount)
        spent_s.append(processes.cpu_s() - before_s)
    return (spent_s[1] - spent_s[0]) / (more - less)


def wait_for_one(seconds, n_ranks):
    run(functions.nap, [seconds] + [0.0] * (n_ranks - 1))


def serve(n_tasks, task_s):
    """Have every task requested on its own, by ranks that use no CPU time to do it."""
    import acme_mpi

    acme_mpi.map(functions.nap, [task_s] * n_tasks, isolate=False, **IN_MEMORY)
