"""How a process comes to its world of ranks, loading MPI if need be, and how it leaves MPI."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Callable
from typing import Any

from acme_mpi.comm.base import World
from acme_mpi.comm.launcher import (
    end_with_launcher,
    is_launched,
    launched_rank_and_size,
    refuse_singletons,
    refuse_srun_without_pmi,
)
from acme_mpi.comm.mpi import N_TELLERS, MpiWorld, wait_for_all
from acme_mpi.comm.relay import RELAYED_FROM, RelayedWorld
from acme_mpi.comm.roll_call import ByGathering
from acme_mpi.comm.twins import SerialWorld
from acme_mpi.errors import LaunchError

DOZE_S = 0.0005


def _load_mpi() -> Any:
    # Wrong data was reported for OMPIO's data sieving (open-mpi/ompi#10546, #12718).
    os.environ.setdefault("OMPI_MCA_fbtl_posix_read_datasieving", "0")
    os.environ.setdefault("OMPI_MCA_fbtl_posix_write_datasieving", "0")
    # `refuse_singletons` says once what mpi4py would warn of on every rank.
    os.environ.setdefault("MPI4PY_CHECK_MPIEXEC", "0")
    import mpi4py

    # Matched probes fail on some fabrics (Libensemble/libensemble#28).
    mpi4py.rc.recv_mprobe = False
    from mpi4py import MPI

    return MPI


def make_world(comm: Any = None, notify: Callable[[str], None] | None = None) -> World:
    """Return the World over a duplicate of `comm`. Collective over `comm`.

    The duplicate is kept with the communicator, so later calls cost nothing.

    Parameters
    ----------
    comm : mpi4py.MPI.Intracomm, optional
        Default: MPI.COMM_WORLD, initialising MPI if need be. Without a launcher, and if nobody has
        loaded MPI before, the world is a `SerialWorld`: MPI would take a second to start, and
        Open MPI leave a daemon that keeps the caller's files open. What a rank has forked is alone,
        too.
    notify : callable, optional
        Told on rank 0 which ranks do not come.

    Raises
    ------
    LaunchError
        Launcher and MPI do not belong together, or no MPI library is found under a launcher.
    """
    is_copy = bool(_PARENT) and _PARENT[0] != os.getpid()
    if is_copy or (comm is None and not is_launched() and "mpi4py.MPI" not in sys.modules):
        return SerialWorld()
    refuse_srun_without_pmi()
    try:
        mpi = _load_mpi()
    except (ImportError, RuntimeError) as error:
        if launched_rank_and_size()[1] > 1:
            from acme_mpi.symptoms import cures_for  # a long table

            text = f"mpi4py cannot load an MPI library: {error}"
            raise LaunchError(f"{text}{cures_for(str(error))}") from None
        return SerialWorld()
    if comm is None:
        comm = mpi.COMM_WORLD
        refuse_singletons(comm.Get_size())
    keyval = _keyval(mpi)
    world: World | None = comm.Get_attr(keyval)
    if world is None:
        if not _PARENT:
            end_with_launcher()
        everyone, roll_call = comm.Ibarrier(), ByGathering(comm, N_TELLERS)
        wait_for_all(comm, everyone, notify, roll_call=roll_call)
        duplicate, request = comm.Idup()
        wait_for_all(comm, request, None, sleep=_doze)
        world = (RelayedWorld if comm.size >= RELAYED_FROM else MpiWorld)(duplicate)
        comm.Set_attr(keyval, world)
        _PARENT[:] = [os.getpid()]
    return world


def _doze(pause_s: float) -> None:
    """Sleep while a collective of many rounds goes on, each of which waits for all ranks' looks.

    All are there, so that growing pauses would be what takes the time.
    """
    time.sleep(min(pause_s, DOZE_S))


# The process that has started MPI: what it forks is no rank, and no place for MPI calls.
_PARENT: list[int] = []


_KEYVALS: list[int] = []


def _keyval(mpi: Any) -> int:
    if not _KEYVALS:
        _KEYVALS.append(mpi.Comm.Create_keyval())
    return _KEYVALS[0]


def finalize() -> None:
    """Finalize MPI, asleep until every rank is here. Collective; nothing if MPI is not up."""
    module = sys.modules.get("mpi4py.MPI")
    if module is None or not module.Is_initialized() or module.Is_finalized():
        return
    wait_for_all(module.COMM_WORLD, module.COMM_WORLD.Ibarrier(), None)
    module.Finalize()
