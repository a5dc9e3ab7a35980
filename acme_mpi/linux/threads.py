"""How many threads the numerical libraries of a rank may have: they ask once, when they load.

Nothing that loads one is imported here.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator, Mapping

THREAD_VARIABLES = (
    "OMP_NUM_THREADS",
    "OPENBLAS_NUM_THREADS",
    "MKL_NUM_THREADS",
    "NUMEXPR_NUM_THREADS",
    "BLIS_NUM_THREADS",
    "VECLIB_MAXIMUM_THREADS",
    "NUMBA_NUM_THREADS",
    "RAYON_NUM_THREADS",
    "POLARS_MAX_THREADS",
)
# What launchers tell every rank of its node; srun has a list, see `n_local_ranks`.
_LOCAL_SIZES = ("OMPI_COMM_WORLD_LOCAL_SIZE", "MPI_LOCALNRANKS")


def n_local_ranks(environ: Mapping[str, str] = os.environ) -> int:
    """Return how many ranks the launcher has started on this node; 1 if it does not tell."""
    try:
        return max(1, _told(environ))
    except ValueError:
        return 1


def _told(environ: Mapping[str, str]) -> int:
    for name in _LOCAL_SIZES:
        if name in environ:
            return int(environ[name])
    node = int(environ.get("SLURM_NODEID", 0))
    for group in environ.get("SLURM_STEP_TASKS_PER_NODE", "1").split(","):  # such as 4(x2),3
        n_ranks, _, n_nodes = group.rstrip(")").partition("(x")
        node -= int(n_nodes or 1)
        if node < 0:
            return int(n_ranks)
    return 1


def share_of_cores(n_ranks: int) -> int:
    """Return how many threads each of `n_ranks` ranks gets that may use this process's cores."""
    return max(1, len(os.sched_getaffinity(0)) // n_ranks)


def is_share_known() -> bool:
    """Tell whether this process's cores tell alone how many each rank of the node gets of them.

    Some cores of several may be its own, or those of all ranks of a job: then masks have to be
    compared.
    """
    n_cores = len(os.sched_getaffinity(0))
    return n_cores in (1, os.cpu_count()) or n_local_ranks() == 1


@contextlib.contextmanager
def limited_threads() -> Iterator[None]:
    """Context in which libraries are loaded for a share of the cores, unless the user says more.

    All ranks of the node are taken to use the same cores.
    """
    n_threads = str(share_of_cores(n_local_ranks()))
    unset = [name for name in THREAD_VARIABLES if name not in os.environ]
    os.environ.update(dict.fromkeys(unset, n_threads))
    try:
        yield
    finally:
        for name in unset:
            del os.environ[name]
