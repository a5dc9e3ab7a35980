"""How rank 0 leaves with an error so that its launcher adds little to what it has said."""

from __future__ import annotations

import contextlib
import os
import select
import time
from collections.abc import Iterator, Mapping

from acme_mpi.comm.typed import is_quiet
from acme_mpi.linux.processes import children_of, environment_of

OUTLAST_S = 2.0
RANK = b"OMPI_COMM_WORLD_RANK="


def outlast_other_ranks(environ: Mapping[str, str] = os.environ) -> None:
    """Sleep until the other ranks of this node have ended, `OUTLAST_S` at most. On rank 0.

    Open MPI 5 has its say on a process that ends with an error while others are there, and none on
    the last one.
    """
    if "PRTE_LAUNCHED" not in environ:
        return
    give_up_s = time.monotonic() + OUTLAST_S
    for descriptor in _siblings():
        select.select([descriptor], [], [], max(0.0, give_up_s - time.monotonic()))
        os.close(descriptor)


def how_to_silence(environ: Mapping[str, str] = os.environ) -> str:
    """Return how to leave out what the launcher will add to an error, empty if it adds nothing."""
    # Open MPI 4 always does: see `outlast_other_ranks` for 5; MPICH and Slurm never, or shortly.
    if "OMPI_COMM_WORLD_SIZE" not in environ or "PRTE_LAUNCHED" in environ or is_quiet(environ):
        return ""
    return "  (without the lines that mpiexec adds: mpiexec --quiet)"


def _siblings() -> Iterator[int]:
    """Yield process descriptors of the other ranks that this one's launcher has started here."""
    for pid in children_of(os.getppid()):
        if pid != os.getpid() and any(each.startswith(RANK) for each in environment_of(pid)):
            with contextlib.suppress(OSError):
                yield os.pidfd_open(pid)
