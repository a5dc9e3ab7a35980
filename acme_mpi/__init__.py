"""acme_mpi: call a function for many inputs on the ranks of an MPI job, results in HDF5.

`map` is the collective call for scripts, `ParallelMap` the same with ACME's interface, ``python -m
acme_mpi`` the command line; `PerTask` and `Shared` say how one argument is distributed. Importing
the package does not initialise MPI.
"""

from acme_mpi.api import map as map  # not in __all__: a star would hide the builtin
from acme_mpi.cluster import (
    bic_cluster_setup,
    cluster_cleanup,
    esi_cluster_setup,
    local_cluster_setup,
    slurm_cluster_setup,
)
from acme_mpi.errors import (
    AcmeMpiError,
    Failure,
    InputError,
    InputTypeError,
    LaunchError,
    PlaceError,
    StoppedError,
    StoreError,
    TaskError,
)
from acme_mpi.parallel_map import ACMEdaemon, ParallelMap
from acme_mpi.rules import Rules
from acme_mpi.tasks import PerTask, Shared

__version__ = "0.1.0"

__all__ = [
    "ACMEdaemon",
    "AcmeMpiError",
    "Failure",
    "InputError",
    "InputTypeError",
    "LaunchError",
    "ParallelMap",
    "PerTask",
    "PlaceError",
    "Rules",
    "Shared",
    "StoppedError",
    "StoreError",
    "TaskError",
    "__version__",
    "bic_cluster_setup",
    "cluster_cleanup",
    "esi_cluster_setup",
    "local_cluster_setup",
    "slurm_cluster_setup",
]
