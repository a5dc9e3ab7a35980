"""What one rank sees of itself and its node. Independent, and without MPI."""

from __future__ import annotations

import os
import re
import resource
import shutil
import socket
import sys
import time
from collections.abc import Mapping
from importlib.metadata import PackageNotFoundError, version
from typing import NamedTuple

import acme_mpi
from acme_mpi.linux.cores import n_busy_cores
from acme_mpi.linux.oom import oom_kills
from acme_mpi.linux.processes import stat_of
from acme_mpi.linux.segment import available_bytes
from acme_mpi.linux.threads import THREAD_VARIABLES
from acme_mpi.spelling import whole_number

PACKAGES = ("mpi4py", "h5py", "numpy", "cloudpickle")
SHARED_MEMORY, CARDS = "/dev/shm", "/sys/class/infiniband"


class RankFacts(NamedTuple):
    """What one rank sees of itself and its node.

    Attributes
    ----------
    rank, host : int, str
        Which it is, and where.
    cpus : tuple of int
        Processors that it may run on.
    n_cpus, n_busy : int
        Processors of the node; cores that this rank could keep busy, if it were alone.
    threads : dict of str to int
        Variables that say how many threads libraries may have.
    cpus_per_task : int
        As srun tells it, 0 if it does not.
    python : str
        The program and its version.
    versions : dict of str to str
        Of packages.
    memory_bytes : float
        What node and control groups can still give.
    n_oom_kills : int
        That the kernel has counted.
    shared_bytes : int
        Free in ``/dev/shm``; -1 if there is none.
    locked_bytes : int
        Limit of locked memory where there is a card that needs it, else -1; no limit is -1, too.
    interfaces : tuple of str
        Names of network interfaces.
    ready_s : float
        From the start of its process until it could begin.
    """

    rank: int
    host: str
    cpus: tuple[int, ...]
    n_cpus: int
    n_busy: int
    threads: dict[str, int]
    cpus_per_task: int
    python: str
    versions: dict[str, str]
    memory_bytes: float
    n_oom_kills: int
    shared_bytes: int
    locked_bytes: int
    interfaces: tuple[str, ...]
    ready_s: float


def facts_of_rank(
    rank: int, ready_s: float = 0.0, environ: Mapping[str, str] = os.environ
) -> RankFacts:
    """Return what this process sees."""
    return RankFacts(
        rank,
        socket.gethostname(),
        tuple(sorted(os.sched_getaffinity(0))),
        os.cpu_count() or 1,
        n_busy_cores(),
        threads_of(environ),
        whole_number(environ.get("SLURM_CPUS_PER_TASK", "")) or 0,
        f"{sys.executable} {sys.version.split()[0]}",
        versions(),
        available_bytes(),
        oom_kills() or 0,
        free_bytes(SHARED_MEMORY),
        locked_bytes(CARDS),
        tuple(sorted(name for _, name in socket.if_nameindex())),
        ready_s,
    )


def threads_of(environ: Mapping[str, str]) -> dict[str, int]:
    """Return the variables that say how many threads libraries may have."""
    # OMP_NUM_THREADS may have a number for each level: 4,2.
    said = {name: re.match(r"\d+", environ.get(name, "")) for name in THREAD_VARIABLES}
    return {name: int(found[0]) for name, found in said.items() if found}


def versions() -> dict[str, str]:
    """Return the versions of this package and of what it stands on."""
    found = {"acme_mpi": acme_mpi.__version__}
    for name in PACKAGES:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            found[name] = "missing"
    return found


def free_bytes(folder: str) -> int:
    """Return what is free where a folder is, -1 if there is no such folder."""
    try:
        return shutil.disk_usage(folder).free
    except OSError:
        return -1


def locked_bytes(cards: str) -> int:
    """Return the limit of locked memory, -1 if there is none or no card needs it."""
    try:
        has_card = bool(os.listdir(cards))
    except OSError:
        has_card = False
    soft, _ = resource.getrlimit(resource.RLIMIT_MEMLOCK)
    return soft if has_card and soft != resource.RLIM_INFINITY else -1


def age_s() -> float:
    """Return how long ago this process was started."""
    begun_s = stat_of(os.getpid()).started / os.sysconf("SC_CLK_TCK")
    return time.clock_gettime(time.CLOCK_BOOTTIME) - begun_s
