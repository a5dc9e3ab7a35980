"""The environment of a job, without what a job around this process has set.

A notebook may itself run in a job of Slurm, or below an mpiexec. What these have told it would
overrule the options of a new job, or make its ranks look for those of another one.
"""

from __future__ import annotations

import os
from collections.abc import Mapping

from acme_mpi.comm.mpiexec import is_of_job
from acme_mpi.runner.launched import without_launcher

_KEPT = ("SLURM_CONF", "SLURM_JWT")  # where Slurm is, and who asks


def clean_environment(environ: Mapping[str, str] = os.environ) -> dict[str, str]:
    """Return the environment in which a new job is submitted or started."""
    return {
        name: value
        for name, value in without_launcher(environ).items()
        if name in _KEPT or not is_of_job(name)
    }
