"""ACME's words for workers that Slurm has to start: each computation is a job of its own.

For a process outside of any job, a script or a notebook on a login node.
"""

from __future__ import annotations

import math
import os
import re
import shutil
from collections.abc import Iterable, Sequence
from typing import Any

from acme_mpi.acme.client import Client
from acme_mpi.comm import is_launched
from acme_mpi.errors import InputError
from acme_mpi.jobs.job import Job
from acme_mpi.launchers.slurm import Slurm, partitions
from acme_mpi.session.current import outside
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


class BatchClient(Client):
    """Workers that come with each computation, and go with it.

    Parameters
    ----------
    launcher : Slurm
        What starts them.

    Attributes
    ----------
    jobs : list of Job
        Those that were submitted.
    """

    def __init__(self, launcher: Slurm) -> None:
        super().__init__([("", 0)] * launcher.n)
        self.launcher = launcher
        self.jobs: list[Job] = []

    def scheduler_info(self) -> dict[str, Any]:
        """Return what `Client.scheduler_info` returns; no worker is there between computations."""
        address = f"slurm://{self.launcher.partition or 'default partition'}"
        return {"type": "Scheduler", "address": address, "workers": {}}

    def retire_workers(
        self,
        workers: Iterable[str | int] | str | int | None = None,
        n: int | None = None,
        close_workers: bool = False,
        remove: bool = True,
    ) -> dict[str, Any]:
        """Retire nobody: workers leave with their computation."""
        return {}

    def wait_for_workers(
        self, n_workers: int | None = None, timeout: float | str | None = None
    ) -> None:
        """Return at once: a computation waits for its workers."""

    def close(self, timeout: float | None = None) -> None:
        """Cancel the jobs that have not ended."""
        super().close()
        for job in self.jobs:
            if not job.status().state.is_over:
                job.cancel()
