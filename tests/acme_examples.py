"""The program of `test_acme_examples`: every code example of ACME's README and user guide.

    python acme_examples.py                  also: python -m acme_mpi, IPython, pytest
    mpiexec -n N python acme_examples.py spmd

Each example stands as ACME prints it, but for the import and for paths, and returns what it saw by
name. That has to be the same on every rank, apart from the entry ``rank_0``; rank 0 writes
``seen.pickle`` into the working directory.
"""

# The examples are ACME's, not ours to improve.
# ruff: noqa: B008, PT011, SIM118

from __future__ import annotations

import os
import pickle
import sys
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

import h5py
import numpy
import numpy as np
import pytest
from map_modes import canonical

from acme_mpi import ParallelMap, cluster_cleanup, esi_cluster_setup

Seen = dict[str, Any]
EXAMPLES: dict[str, Callable[[], Seen]] = {}


def example(func: Callable[[], Seen]) -> Callable[[], Seen]:
    """Add an example to those that `main` runs."""
    EXAMPLES[func.__name__] = func
    return func


def f(x, y, z=3):
    return (x + y) * z


def this_func(a, b, c):
    r0 = a + b
    r1 = np.array([a, b, c])
    r2 = b * c / 2
    return r0, r1, r2


def randout(x, y=3):
    if x > 0:
        return x / y
    else:
        return x * y


def matconstruct(a, k):
    rng = np.random.default_rng(seed=k)
    i = rng.integers(low=0, high=a.shape[0], size=1)[0]
    arr = np.delete(np.corrcoef(a), i, axis=1)
    return arr


def matconstruct_multi(a, k):
    rng = np.random.default_rng(seed=k)
    i = rng.integers(low=0, high=a.shape[0], size=1)[0]
    arr = np.delete(np.corrcoef(a), i, axis=1)
    return arr, i


def randfunc(x, taskID=None):
    rng = np.random.default_rng(taskID)
    return x * rng.random()


@example
def walkthrough() -> Seen:
    with ParallelMap(f, [2, 4, 6, 8], 4) as pmap:
        results = pmap.compute()

    with h5py.File(pmap.results_container, "r") as h5f:
        comp0 = h5f["comp_0"]["result_0"][()]
        comp1 = h5f["comp_1"]["result_0"][()]
        comp2 = h5f["comp_2"]["result_0"][()]
        comp3 = h5f["comp_3"]["result_0"][()]

    printed = f"{comp0} {comp1} {comp2} {comp3}"
    return {"results": results, "container": pmap.results_container, "printed": printed}


@example
def results_loaded_from_files() -> Seen:
    with ParallelMap(f, [2, 4, 6, 8], 4) as pmap:
        pmap.compute()

    out = np.zeros((4,))

    with h5py.File(pmap.results_container, "r") as h5f:
        for k, key in enumerate(h5f.keys()):
            out[k] = np.squeeze(h5f[key]["result_0"][()])
    return {"out": out}


@example
def output_directory() -> Seen:
    folder = os.path.abspath("path/to/folder")
    with ParallelMap(f, [2, 4, 6, 8], 4, output_dir=folder) as pmap:
        results = pmap.compute()
    return {"results": results, "container": pmap.results_container}


@example
def results_in_memory() -> Seen:
    with ParallelMap(f, [2, 4, 6, 8], 4, write_worker_results=False) as pmap:
        results = pmap.compute()
    return {"results": results}


@example
def ambiguous_distribution() -> Seen:
    y = np.ones((3,)) * 4
    with pytest.raises(ValueError) as caught, ParallelMap(f, [2, 4, 6, 8], y) as pmap:
        pmap.compute()
    return {"text": str(caught.value)}


@example
def distribution_by_n_inputs() -> Seen:
    y = np.ones((3,)) * 4
    with ParallelMap(f, [2, 4, 6, 8], y, n_inputs=4, write_worker_results=False) as pmap:
        results = pmap.compute()
    return {"results": results}


@example
def equal_calls() -> Seen:
    with ParallelMap(f, 2, 3, n_inputs=4, write_worker_results=False) as pmap:
        results = pmap.compute()
    return {"results": results}


@example
def single_dataset() -> Seen:
    y = np.ones((3,)) * 4
    with ParallelMap(f, [2, 4, 6, 8], y, n_inputs=4, result_shape=(None, 3)) as pmap:
        pmap.compute()

    with h5py.File(pmap.results_container, "r") as h5f:
        keys, dataset = h5f.keys(), h5f["result_0"]
        return {"keys": repr(keys), "dataset": repr(dataset), "array": dataset[()]}


@example
def single_dataset_of_scalars() -> Seen:
    with ParallelMap(f, [2, 4, 6, 8], 4, result_shape=(None,)) as pmap:
        pmap.compute()

    with h5py.File(pmap.results_container, "r") as h5f:
        out = h5f["result_0"][()]
    return {"out": out}


@example
def array_in_memory() -> Seen:
    y = np.ones((3,)) * 4
    with ParallelMap(
        f, [2, 4, 6, 8], y, n_inputs=4, result_shape=(None, 3), write_worker_results=False
    ) as pmap:
        results = pmap.compute()
    return {"results": results}


@example
def array_of_scalars_in_memory() -> Seen:
    with ParallelMap(f, [2, 4, 6, 8], 4, write_worker_results=False, result_shape=(None,)) as pmap:
        result = pmap.compute()
    return {"result": result}


@example
def reused_client() -> Seen:
    x = 2
    y = 4
    rng = np.random.default_rng()
    z = rng.integers(low=1, high=10, size=500, endpoint=True)
    with ParallelMap(f, x, y, z=z, n_workers=50, partition="8GBXS", stop_client=False) as pmap:
        results = pmap.compute()

    n_first, first_client = len(results), pmap.client

    z = rng.integers(low=1, high=10, size=1000, endpoint=True)
    with ParallelMap(f, x, y, z=z) as pmap:
        results = pmap.compute()

    is_same = pmap.client is first_client
    cluster_cleanup()  # the next example has no client to attach to
    return {
        "lengths": (n_first, len(results)),
        "is same client": is_same,
        "container": pmap.results_container,
        "rank_0": {"z": z},
    }


@example
def failing_calls() -> Seen:
    with pytest.raises(RuntimeError) as caught, ParallelMap(f, [2, 4, 6, 8], 4, z=None) as pmap:
        pmap.compute()
    return {"text": str(caught.value)}


@example
def debugged_calls() -> Seen:
    with pytest.raises(TypeError) as caught, ParallelMap(f, [2, 4, 6, 8], 4, z=None) as pmap:
        pmap.compute(debug=True)
    return {
        "type": caught.type.__name__,
        "text": str(caught.value),
        "rank_0": {"innermost frame": caught.traceback[-1].name},
    }


@example
def dry_run() -> Seen:
    with ParallelMap(f, [2, 4, 6, 8], 4, dryrun=True) as pmap:
        results = pmap.compute()
    return {"results": results}


@example
def number_of_calls() -> Seen:
    def f(x, y, z=3, w=np.zeros((3, 1)), **kwargs):
        return (sum(x) + y) * z * w.max()

    pmap = ParallelMap(f, [2, 4, 6, 8], [2, 2], z=np.array([1, 2]), w=np.ones((8, 1)), n_inputs=2)

    with pmap as p:
        p.compute()
    return {"container": pmap.results_container}


@example
def recycled_client() -> Seen:
    def f(x, y, z=3, w=np.zeros((3, 1)), **kwargs):
        return (sum(x) + y) * z * w.max()

    def g(x, y, z=3, w=np.zeros((3, 1)), **kwargs):
        return (max(x) + y) * z * w.sum()

    n_workers = 200
    client = esi_cluster_setup(partition="8GBXS", n_workers=n_workers)

    x = [2, 4, 6, 8]
    z = range(n_workers)
    w = np.ones((8, 1))
    y = np.random.rand(n_workers)
    other_y = np.random.rand(n_workers)

    pmap = ParallelMap(f, x, y, z=z, w=w, n_inputs=n_workers)
    with pmap as p:
        p.compute()
    containers = [pmap.results_container]
    is_attached = p.client is client

    pmap = ParallelMap(g, x, other_y, z=z, w=w, n_inputs=n_workers)
    with pmap as p:
        p.compute()
    containers.append(pmap.results_container)

    is_attached = is_attached and p.client is client
    cluster_cleanup()  # the next example has no client to attach to
    return {
        "containers": containers,
        "is attached": is_attached,
        "rank_0": {"y": y, "other_y": other_y},
    }


@example
def flattened_container() -> Seen:
    with ParallelMap(f, [2, 4, 6, 8], 4) as pmap:
        pmap.compute()

    new_file = os.path.abspath(
        f"new_file_{os.getpid()}.h5"
    )  # every rank of an SPMD script: its own
    with h5py.File(new_file, "w") as h5target, h5py.File(pmap.results_container, "r") as h5source:
        for comp in h5source.keys():
            h5source.copy(comp, h5target, expand_external=True, name=comp)

    with h5py.File(new_file) as h5f:
        links = {type(h5f.get(comp, getlink=True)).__name__ for comp in h5f}
        values = [int(h5f[comp]["result_0"][0]) for comp in h5f]
    return {"links": sorted(links), "values": values}


@example
def three_return_values() -> Seen:
    a, b, c = range(50), range(1, 51), range(2, 52)
    with ParallelMap(this_func, a, b, c) as pmap:
        results = pmap.compute()
    return {"results": results, "container": pmap.results_container}


@example
def single_file() -> Seen:
    N = 5000
    rng = np.random.default_rng()
    x = rng.normal(size=N)
    with ParallelMap(randout, x, n_workers=10, single_file=True) as pmap:
        results = pmap.compute()
    return {"results": results, "container": pmap.results_container, "rank_0": {"x": x}}


def stack_matrices(func: Callable[..., Any], **keywords: Any) -> Seen:
    M = 10
    N = M - 1
    K = 200
    a = np.random.default_rng().random((M, 2 * M))
    with ParallelMap(
        func, a, range(K), n_workers=50, result_shape=(None, M, N), **keywords
    ) as pmap:
        results = pmap.compute()

    with h5py.File(pmap.results_container, "r") as h5f:
        keys = list(h5f.keys())
    return {
        "results": results,
        "container": pmap.results_container,
        "keys": keys,
        "rank_0": {"a": a},
    }


@example
def stacked_matrices() -> Seen:
    return stack_matrices(matconstruct)


@example
def stacked_matrices_in_single_file() -> Seen:
    return stack_matrices(matconstruct, single_file=True)


@example
def stacked_matrices_of_lower_precision() -> Seen:
    return stack_matrices(matconstruct, result_dtype="float16")


@example
def stacked_matrices_and_more() -> Seen:
    return stack_matrices(matconstruct_multi)


@example
def randomized_calls() -> Seen:
    x = np.pi
    with ParallelMap(randfunc, x, n_inputs=5000, write_worker_results=False) as pmap:
        results = pmap.compute()
    return {"results": results}


@example
def ragged_jobs() -> Seen:
    jobs = [
        [3, 4, 56, 7],
        [22, 5, 4, 5, 7],
        [11, 2, 545, 235, 6, 3],
        [22, 45, 6, 4],
    ]
    with ParallelMap(numpy.std, jobs) as pmap:
        pmap.compute()
    with h5py.File(pmap.results_container, "r") as h5f:
        stored = [h5f[comp]["result_0"][0] for comp in h5f]

    with ParallelMap(numpy.std, jobs, write_worker_results=False) as pmap:
        results = pmap.compute()

    serial = []
    for job in jobs:
        result = numpy.std(job)
        serial.append(result)
    return {"stored": stored, "results": results, "serial": serial}


def observe(run: Callable[[], Seen]) -> Seen:
    """Return what an example saw, or the traceback of what it raised."""
    try:
        return run()
    except (Exception, pytest.fail.Exception):
        return {"traceback": traceback.format_exc()}


def main(gather: Callable[[Any], list[Any] | None] = lambda mine: [mine]) -> None:
    """Run all examples. Collective over the ranks that `gather` brings together on rank 0."""
    reports = {}
    for name, run in EXAMPLES.items():
        seen = observe(run)
        own = seen.pop("rank_0", {})
        everybody = gather(canonical(list(seen.items())))
        if everybody is not None:
            is_same = [each == everybody[0] for each in everybody]
            reports[name] = {**seen, **own, "is same": is_same}
    if reports:
        Path("seen.pickle").write_bytes(pickle.dumps(reports))


if __name__ == "__main__":
    if sys.argv[1:] == ["spmd"]:
        from mpi4py import MPI

        main(MPI.COMM_WORLD.gather)
    else:
        main()
