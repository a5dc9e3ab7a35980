"""When a run has to be over: the end of the batch job, and the limit that the user has set."""

from __future__ import annotations

import logging
import math
import os
import subprocess
import time
from collections.abc import Mapping
from datetime import datetime
from functools import lru_cache

from acme_mpi.comm.launcher import END_TIME

logger = logging.getLogger("acme_mpi")

ASKING_S = 10.0  # for an answer of Slurm's controller
ASKED_ANEW_S = 60.0
MARGIN = 0.05  # this share of the time is kept for ending: linking results, leaving MPI
LEAST_MARGIN_S, MOST_MARGIN_S = 1.0, 60.0
LINK_S = 20e-6  # per result


def deadline_s(limit_s: float, n_tasks: int, environ: Mapping[str, str] = os.environ) -> float:
    """Return the time of `time.monotonic` at which tasks have to be over; infinity without limit.

    Independent; rank 0 only, as Slurm's controller is asked once per job.

    Parameters
    ----------
    limit_s : float
        What the user allows from now on, in seconds; 0: no limit.
    n_tasks : int
        Size of the run: linking many results takes time.
    environ : mapping
        Says which job of Slurm's this is, or when the job ends.
    """
    left_s = min(limit_s or math.inf, job_left_s(environ))
    if left_s == math.inf:
        return left_s
    margin_s = min(max(MARGIN * left_s, LEAST_MARGIN_S), MOST_MARGIN_S) + n_tasks * LINK_S
    return time.monotonic() + max(left_s - margin_s, left_s / 2)


def job_left_s(environ: Mapping[str, str] = os.environ) -> float:
    """Return the seconds until this job is ended; infinity outside of one or without a limit."""
    job = environ.get("SLURM_JOB_ID")
    end = environ.get(END_TIME, "")
    if job is not None:
        end = end or environ.get("SLURM_JOB_END_TIME", "")  # Slurm 22.05 does not set it yet
    if end.isascii() and end.isdecimal():
        return max(0.0, int(end) - time.time())
    if job is None:
        return math.inf
    # A script may have thousands of runs, and the controller is there for the whole cluster.
    asked_s = int(time.monotonic() / ASKED_ANEW_S)
    return max(0.0, _job_end_s(job, asked_s) - time.time())


@lru_cache(maxsize=1)
def _job_end_s(job: str, asked_s: int) -> float:
    """Return when a job ends, Unix time in seconds; Slurm is asked anew for another `asked_s`."""
    try:
        # The end and not the time left, which Slurm reckons from the limit alone.
        answer = subprocess.run(
            ["squeue", "--noheader", f"--jobs={job}", "--format=%e"],
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=ASKING_S,
            env={**os.environ, "SLURM_TIME_FORMAT": "standard"},
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        logger.warning("the time limit of job %s is not known: %s", job, error)
        return math.inf
    return parse_end(answer.stdout.strip())


def parse_end(text: str) -> float:
    """Return the Unix time that ``squeue --format=%e`` tells; infinity where it tells none.

    References
    ----------
    squeue(1), ``%e``: local time as 2026-11-26T07:08:06; NONE or N/A without a limit.
    """
    try:
        return datetime.fromisoformat(text).timestamp()
    except ValueError:
        return math.inf
