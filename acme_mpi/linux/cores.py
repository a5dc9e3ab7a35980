"""How many cores there are, as Open MPI counts its slots: hyperthreads of a core are one."""

from __future__ import annotations

import os
from pathlib import Path

TOPOLOGY = "/sys/devices/system/cpu"


def n_cores(topology: str = TOPOLOGY) -> int:
    """Return the number of cores that this process may run on.

    Parameters
    ----------
    topology : str
        Where the kernel tells which processors are threads of one core.
    """
    return len({_core_of(number, Path(topology)) for number in os.sched_getaffinity(0)})


def _core_of(number: int, topology: Path) -> str:
    try:
        return (topology / f"cpu{number}" / "topology" / "thread_siblings_list").read_text()
    except OSError:
        return str(number)
