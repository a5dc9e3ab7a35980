"""What others do: each peer is a context that gives ``run(func, inputs)``, a list of results.

Every peer has `N_WORKERS` workers, and chunks of its own choice unless it is told to. `run` is
None on ranks that only serve.
"""

import contextlib
import functools
import multiprocessing
import os
from typing import Any

from benchmarks import argument, functions, rates, sampling
from benchmarks.methods import run_of
from benchmarks.rates import N_WORKERS
from benchmarks.together import together

# --- The peers ----------------------------------------------------------------------------------


@contextlib.contextmanager
def pool(n_workers=N_WORKERS, method=None):
    with multiprocessing.get_context("fork").Pool(n_workers) as workers:
        yield run_of(workers, method) if method else workers.map


@contextlib.contextmanager
def executor(method=None):
    from concurrent.futures import ProcessPoolExecutor

    context = multiprocessing.get_context("fork")
    with ProcessPoolExecutor(N_WORKERS, mp_context=context) as workers:
        yield run_of(workers, method) if method else in_chunks(workers)


def in_chunks(executor):
    """Return the `run` of an executor, with chunks as those of multiprocessing.Pool."""

    def run(func, inputs):
        chunk = -(-len(inputs) // (4 * N_WORKERS))
        return list(executor.map(func, inputs, chunksize=chunk))

    return run


@contextlib.contextmanager
def joblib(n_workers=N_WORKERS):
    from joblib import Parallel, delayed

    with Parallel(n_jobs=n_workers) as parallel:
        yield lambda func, inputs: parallel(delayed(func)(x) for x in inputs)


@contextlib.contextmanager
def mpi4py_futures(with_chunks=False, method="map"):
    from mpi4py import MPI
    from mpi4py.futures import MPICommExecutor

    with MPICommExecutor(MPI.COMM_WORLD, root=0) as workers:
        if workers is None:
            yield None
        elif with_chunks:
            yield in_chunks(workers)
        else:
            yield run_of(workers, method)


@contextlib.contextmanager
def mpi4py_pool():
    from mpi4py import MPI
    from mpi4py.futures import MPICommExecutor
    from mpi4py.util.pool import Pool

    with MPICommExecutor(MPI.COMM_WORLD, root=0) as workers:
        if workers is None:
            yield None
        else:
            # Its own executor would spawn ranks; these are there.
            own = {"Executor": staticmethod(lambda *args, **options: workers)}
            yield type("PoolOfRanks", (Pool,), own)().map


@contextlib.contextmanager
def schwimmbad():
    from schwimmbad import MPIPool

    with MPIPool() as workers:  # other ranks do not get beyond this line
        yield lambda func, inputs: list(workers.map(func, inputs))


@contextlib.contextmanager
def acme(n_workers=N_WORKERS, **options):
    from acme import local_cluster_setup

    client = local_cluster_setup(n_workers=n_workers, interactive=False)
    try:
        yield functools.partial(acme_run, write_worker_results=False)
    finally:
        client.close()


def acme_run(func, inputs, *shared, **options):
    from acme import ParallelMap

    options = {"logfile": False, "verbose": False, "setup_interactive": False, **options}
    inputs = list(inputs)
    with ParallelMap(func, inputs, *shared, n_inputs=len(inputs), **options) as pmap:
        return pmap.compute()


PEERS = {
    each.__name__: each
    for each in (pool, executor, joblib, mpi4py_futures, mpi4py_pool, schwimmbad, acme)
}

# --- What is measured ---------------------------------------------------------------------------


def rate(peer, func, n_tasks, target_s, **options):
    with PEERS[peer](**options) as run:
        return run and rates.measured(run, func, n_tasks, target_s)


def heavy_tail(peer, n_tasks):
    with PEERS[peer]() as run:
        return run and rates.beyond_ideal(run, functions.burn, rates.heavy_tail(n_tasks))


def small_maps(peer, func, n_tasks, n_maps):
    with PEERS[peer]() as run:
        return run and rates.maps(run, func, n_tasks, n_maps)


def closure(n_steps):
    data = sampling.make_data()
    context = multiprocessing.get_context("fork")
    with context.Pool(N_WORKERS, sampling.keep, (data,)) as workers:
        return sampling.closure(workers.map, data, n_steps)


def first_map(peer, n_tasks):
    """Return nothing: the time of the whole program counts."""
    with PEERS[peer]() as run:
        if run:
            run(functions.empty, range(n_tasks))


# --- Files --------------------------------------------------------------------------------------


def acme_files(func, n_tasks, target_s, **options):
    n_calls = 0

    def run(func, inputs):
        nonlocal n_calls
        n_calls += 1
        acme_run(func, inputs, output_dir=os.path.abspath(str(n_calls)), **options)

    with acme():
        return rates.measured(run, func, n_tasks, target_s)


def file_per_task(func, n_tasks, target_s):
    def run(func, inputs):
        workers_map(functools.partial(write_one, func), inputs)

    with pool() as workers_map:
        return rates.measured(run, func, n_tasks, target_s)


def write_one(func, x):
    import h5py

    with h5py.File(f"f_{x}.h5", "w") as file:
        file["result_0"] = func(x)


def rows_of_caller(func, n_tasks, target_s):
    """Gather rows in the caller, which writes them into one dataset and waits for the disk."""
    import h5py
    import numpy as np

    def run(func, inputs):
        rows = np.array(workers_map(func, inputs))
        with h5py.File("rows.h5", "w") as file:
            file["result_0"] = rows
            synced(file)

    with pool() as workers_map:
        return rates.measured(run, func, n_tasks, target_s)


def file_per_process(func, n_tasks):
    """Have each process write its share of results into one HDF5 file, and wait for the disk."""
    import h5py

    def write(func, tasks):
        with h5py.File(f"f_{tasks[0]}.h5", "w") as file:
            for x in tasks:
                file[f"comp_{x}/result_0"] = func(x)
            synced(file)

    return rates.per_task(together(write, func, n_tasks), n_tasks)


def synced(file):
    file.flush()
    os.fsync(file.id.get_vfd_handle())


# --- One large argument -------------------------------------------------------------------------


def pool_deliver(array):
    """Give the argument to the processes when they are started, by fork."""
    context = multiprocessing.get_context("fork")
    with context.Pool(argument.N_RANKS, keep, (array,)) as workers:
        return workers.map(arrive_with_kept, range(argument.N_RANKS), chunksize=1)


kept: Any = None  # the argument, in a pool's processes


def keep(array):
    global kept
    kept = array


def arrive_with_kept(x):
    return functions.arrive(x, kept, argument.N_RANKS)


def joblib_deliver(array):
    from joblib import Parallel, delayed

    n = argument.N_RANKS
    return Parallel(n_jobs=n)(delayed(functions.arrive)(x, array, n) for x in range(n))


def acme_deliver(array):
    n = argument.N_RANKS
    return acme_run(functions.arrive, range(n), array, n, write_worker_results=False)


def delivery(how, figure, n_bytes):
    """Return `argument.delivered` or `argument.memory` of a peer."""
    measure = {"delivered": argument.delivered, "memory": argument.memory}[figure]
    if how == "acme":
        with acme(argument.N_RANKS):
            return measure(acme_deliver, n_bytes)
    return measure({"pool": pool_deliver, "joblib": joblib_deliver}[how], n_bytes)
