"""The environment of a job, without what a job around this process has set.

A notebook may itself run in a job of Slurm, or below an mpiexec. What these have told it would
overrule the options of a new job, or make its ranks look for those of another one.
"""

from __future__ import annotations

import os
from collections.abc import Mapping

from acme_mpi.runner.launched import is_of_rank

_OF_JOBS = ("SLURM_", "SBATCH_", "SRUN_", "SALLOC_", "PMI", "OMPI_", "PRTE_", "HYDRA_", "HYDI_")
# What users, and sites, set: where Slurm's configuration is; how MPI shall do things.
_KEPT = ("SLURM_CONF", "SLURM_JWT")
_SETTINGS = ("OMPI_MCA_", "PMIX_MCA_", "PRTE_MCA_", "OMPI_ALLOW_RUN", "PRTE_ALLOW_RUN")


def clean_environment(environ: Mapping[str, str] = os.environ) -> dict[str, str]:
    """Return the environment in which a new job is submitted or started."""
    return {name: value for name, value in environ.items() if not _is_of_a_job(name)}


def _is_of_a_job(name: str) -> bool:
    if name in _KEPT or (name.startswith(_SETTINGS) and not is_of_rank(name)):
        return False
    return name.startswith(_OF_JOBS) or is_of_rank(name)
