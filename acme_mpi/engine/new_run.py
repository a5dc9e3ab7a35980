"""The run that a call asks for, as its folder describes it."""

from __future__ import annotations

import os
import time
from collections.abc import Mapping

from acme_mpi.engine.call import Call
from acme_mpi.history.beginning import NewRun
from acme_mpi.history.description import Description


def new_run(call: Call, n_ranks: int) -> NewRun:
    """Return the run that a call asks for, whose options are known. Independent."""
    assert call.options is not None
    work, output, display = call.options.work, call.options.output, call.options.display
    described = Description(
        work.name,
        work.n_tasks,
        output.kind,
        work.spec,
        n_ranks,
        time.time(),
        display.resume_command,
        display.reproduce,
        call.fingerprint,
        work.rules.memory_bytes,
        batch_job(os.environ),
    )
    return NewRun(
        described,
        output.output_dir,
        call.directory,
        output.policy,
        bool(display.resume_command),
        output.retry_failed,
    )


def batch_job(environ: Mapping[str, str]) -> str:
    """Return in which batch job a process is, for people; empty if none is known."""
    names = {"SLURM_JOB_ID": "Slurm", "PBS_JOBID": "PBS", "LSB_JOBID": "LSF"}
    names |= {"JOB_ID": "Grid Engine"} if "SGE_ROOT" in environ else {}
    found = (f"job {environ[name]} of {kind}" for name, kind in names.items() if name in environ)
    return next(found, "")
