"""How many cores there are, as Open MPI counts its slots: hyperthreads of a core are one."""

from __future__ import annotations

import math
import os
from functools import cache

from acme_mpi.linux.cgroup import cpus_allowed

TOPOLOGY = "/sys/devices/system/cpu"


def n_cores(topology: str = TOPOLOGY) -> int:
    """Return the number of cores that this process may run on.

    Parameters
    ----------
    topology : str
        Where the kernel tells which processors are threads of one core.
    """
    return len({_core_of(number, topology) for number in os.sched_getaffinity(0)})


def n_busy_cores() -> int:
    """Return how many cores this process can keep busy, >= 1: a container may have less of them."""
    return _n_busy(frozenset(os.sched_getaffinity(0)))


@cache  # every call of `map` asks, and what a container may have does not change
def _n_busy(affinity: frozenset[int]) -> int:
    return max(1, math.ceil(min(n_cores(), cpus_allowed())))


def _core_of(number: int, topology: str) -> str:
    try:
        with open(f"{topology}/cpu{number}/topology/thread_siblings_list") as file:
            return file.read()
    except OSError:
        return str(number)
