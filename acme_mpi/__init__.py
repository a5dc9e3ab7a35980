"""acme_mpi: call a function for many inputs on the ranks of an MPI job, results in HDF5.

`map` is the collective call for scripts, ``python -m acme_mpi`` the command line; `PerTask` and
`Shared` say how one argument is distributed. Importing the package does not initialise MPI.
"""

from acme_mpi.api import map
from acme_mpi.errors import (
    AcmeMpiError,
    Failure,
    InputError,
    LaunchError,
    StoreError,
    TaskError,
)
from acme_mpi.tasks import PerTask, Shared

__version__ = "0.1.0"

__all__ = [
    "AcmeMpiError",
    "Failure",
    "InputError",
    "LaunchError",
    "PerTask",
    "Shared",
    "StoreError",
    "TaskError",
    "__version__",
    "map",
]
