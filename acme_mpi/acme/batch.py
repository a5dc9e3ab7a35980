"""ACME's words for workers that Slurm has to start, and that stay for the client.

For a process outside of any job, a script or a notebook on a login node.
"""

from __future__ import annotations

import atexit
import math
import os
import re
import shutil
from collections.abc import Sequence

from acme_mpi.comm import is_launched
from acme_mpi.errors import InputError
from acme_mpi.launchers.slurm import Slurm, partitions
from acme_mpi.session.current import outside
from acme_mpi.session.kept_ranks import KeptRanks
from acme_mpi.session.launching import IDLE, started
from acme_mpi.session.local import Hold
from acme_mpi.session.plain import PlainSession
from acme_mpi.standing import Standing, standing

AUTO, MEMORY, TIME = "auto", "--mem-per-cpu=", "--time="
# What ACME's functions say where nothing is said: what may differ from site to site is left to it.
_UNSAID = {"partition": ("partition_name", AUTO), "mem_per_worker": ("1GB", AUTO)}
_MEGABYTES = {"MB": 1, "GB": 1000}
_NAMED_BY_MEMORY = re.compile(r"(\d+)GB\w*")


def may_submit() -> bool:
    """Tell whether this process is no part of a job, and a Slurm is there that answers."""
    return (
        shutil.which("sbatch") is not None
        and not is_launched()
        and "SLURM_JOB_ID" not in os.environ
        and standing() is Standing.ELSEWHERE
        and isinstance(outside(), PlainSession)
        and bool(partitions())
    )


def slurm_of(
    n_workers: int,
    partition: str = AUTO,
    mem_per_worker: str = AUTO,
    n_cores: int | None = None,
    job_extra: Sequence[str] = (),
) -> Slurm:
    """Return what starts the workers that ACME's words describe.

    Parameters
    ----------
    n_workers : int
        Number of ranks, >= 1.
    partition : str
        "auto": of those that are named by the memory of their workers ("8GBXS"), as ESI's and
        CoBIC's are, the smallest that has `mem_per_worker`; without that, Slurm's default.
    mem_per_worker : str
        Such as "8GB".
    n_cores : int, optional
        Of each worker, >= 1.
    job_extra : sequence of str
        Further options of sbatch.

    Raises
    ------
    InputError
        No partition has that memory, or Slurm's options are none.
    """
    n_megabytes = 0
    if mem_per_worker not in _UNSAID["mem_per_worker"]:
        amount, unit = mem_per_worker.strip()[:-2], mem_per_worker.strip()[-2:]
        n_megabytes = math.ceil(float(amount) * _MEGABYTES[unit])
    extra = [each for each in job_extra if not each.startswith(TIME)]
    if n_megabytes:
        extra.append(f"{MEMORY}{math.ceil(n_megabytes / (n_cores or 1))}M")
    if partition == AUTO and n_megabytes:
        partition = _smallest_with(n_megabytes)
    times = [each.removeprefix(TIME) for each in job_extra if each.startswith(TIME)]
    return Slurm(
        n=n_workers,
        partition=None if partition in _UNSAID["partition"] else partition,
        time=times[-1] if times else None,
        cpus_per_task=n_cores if n_cores is not None and n_cores > 1 else None,
        extra=tuple(extra),
    )


def _smallest_with(n_megabytes: int) -> str:
    names = partitions()
    found = [(int(match[1]), name) for name in names if (match := _NAMED_BY_MEMORY.match(name))]
    large = [each for each in found if each[0] * _MEGABYTES["GB"] >= n_megabytes]
    if not large:
        raise InputError(
            "`partition` 'auto' takes the smallest partition that is named by its workers' memory, "
            f"such as '8GBXS', and none has {n_megabytes} MB; name one of {', '.join(names)}"
        )
    return min(large, key=lambda each: each[0])[1]


def start_workers(launcher: Slurm, timeout_s: float, is_interactive: bool, wait_s: float) -> None:
    """Have Slurm start workers for this process, which stay until its client is closed.

    Parameters
    ----------
    launcher : Slurm
        What starts them.
    timeout_s : float
        How long to wait for them, in seconds.
    is_interactive : bool
        Ask then whether to wait longer, if somebody can answer.
    wait_s : float
        How much longer, in seconds.

    Raises
    ------
    TimeoutError
        They have not come in time, and nobody wants to wait longer. No job is left.
    LaunchError
        Slurm refuses the job, the job has ended, or the workers cannot be reached.
    """
    session = outside()
    assert isinstance(session, PlainSession)

    def start() -> KeptRanks:
        patience = [timeout_s]

        def waits_on(late: TimeoutError) -> bool:
            question = f"{late}. Do you want to keep waiting for {wait_s:.0f} s?"
            patience[0] = wait_s
            return is_interactive and session.ask(question) is True

        return started(launcher, IDLE, None, lambda: patience[0], waits_on)

    kept = session.have(start, Hold.BY_SET_UP)
    atexit.register(kept.stop)
