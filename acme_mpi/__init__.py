"""acme_mpi: call a function for many inputs on the ranks of an MPI job, results in HDF5.

`map` is the collective call for scripts, `ParallelMap` the same with ACME's interface, ``python -m
acme_mpi`` the command line; `PerTask` and `Shared` say how one argument is distributed. Importing
the package does not initialise MPI. `submit` has a job make the call, on this machine or a
cluster; `attach` finds the job again. `open` has the results of a run as values and tables.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from acme_mpi.acme.client import get_client
    from acme_mpi.acme.cluster import (
        bic_cluster_setup,
        cluster_cleanup,
        esi_cluster_setup,
        local_cluster_setup,
        slurm_cluster_setup,
    )
    from acme_mpi.acme.parallel_map import ACMEdaemon, ParallelMap
    from acme_mpi.api import map as map
    from acme_mpi.api import submit
    from acme_mpi.errors import (
        AcmeMpiError,
        Failure,
        InputError,
        InputTypeError,
        LaunchError,
        NoResultError,
        PlaceError,
        StoppedError,
        StoreError,
        TaskError,
        WorkerDied,
    )
    from acme_mpi.jobs.job import Job, attach
    from acme_mpi.launchers.local import Local
    from acme_mpi.launchers.named import launcher_of
    from acme_mpi.launchers.sge import SGE
    from acme_mpi.launchers.slurm import Slurm
    from acme_mpi.pools.executor import Executor
    from acme_mpi.pools.joblib import register_joblib
    from acme_mpi.pools.pool import Pool
    from acme_mpi.reading.opening import open as open
    from acme_mpi.rules import Rules
    from acme_mpi.session.launching import connect, launch
    from acme_mpi.tasks.grid import Grid
    from acme_mpi.tasks.markers import PerTask, Shared

__version__ = "0.2.0"

# Where the public names are. They are imported at their first use: agents and runners, of which
# there may be hundreds on a node, import what they need and not the whole package.
_PLACES = {
    "api": ("map", "submit"),
    "acme.client": ("get_client",),
    "acme.cluster": (
        "bic_cluster_setup",
        "cluster_cleanup",
        "esi_cluster_setup",
        "local_cluster_setup",
        "slurm_cluster_setup",
    ),
    "errors": (
        "AcmeMpiError",
        "Failure",
        "InputError",
        "InputTypeError",
        "LaunchError",
        "NoResultError",
        "PlaceError",
        "StoppedError",
        "StoreError",
        "TaskError",
        "WorkerDied",
    ),
    "acme.parallel_map": ("ACMEdaemon", "ParallelMap"),
    "jobs.job": ("Job", "attach"),
    "launchers.local": ("Local",),
    "launchers.named": ("launcher_of",),
    "launchers.sge": ("SGE",),
    "launchers.slurm": ("Slurm",),
    "pools.executor": ("Executor",),
    "pools.joblib": ("register_joblib",),
    "pools.pool": ("Pool",),
    "reading.opening": ("open",),
    "rules": ("Rules",),
    "session.launching": ("connect", "launch"),
    "tasks.grid": ("Grid",),
    "tasks.markers": ("PerTask", "Shared"),
}
_MODULE_OF = {name: module for module, names in _PLACES.items() for name in names}


def __getattr__(name: str) -> Any:
    if name not in _MODULE_OF:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(import_module(f"{__name__}.{_MODULE_OF[name]}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return [*globals(), *_MODULE_OF]


# Without `map` and `open`: a star would hide the builtins.
__all__ = [
    "SGE",
    "ACMEdaemon",
    "AcmeMpiError",
    "Executor",
    "Failure",
    "Grid",
    "InputError",
    "InputTypeError",
    "Job",
    "LaunchError",
    "Local",
    "NoResultError",
    "ParallelMap",
    "PerTask",
    "PlaceError",
    "Pool",
    "Rules",
    "Shared",
    "Slurm",
    "StoppedError",
    "StoreError",
    "TaskError",
    "WorkerDied",
    "__version__",
    "attach",
    "bic_cluster_setup",
    "cluster_cleanup",
    "connect",
    "esi_cluster_setup",
    "get_client",
    "launch",
    "launcher_of",
    "local_cluster_setup",
    "register_joblib",
    "slurm_cluster_setup",
    "submit",
]
