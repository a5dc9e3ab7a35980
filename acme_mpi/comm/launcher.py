"""What the environment says of the launcher, before and besides MPI."""

from __future__ import annotations

import contextlib
import math
import os
import select
import time
from collections.abc import Mapping, Sequence

from acme_mpi.comm.background import start_thread
from acme_mpi.errors import LaunchError

LOOK_EVERY_S = 1.0
# When the job ends, Unix time in seconds: scripts of jobs set it where no one can be asked.
END_TIME = "ACME_MPI_JOB_END_TIME"

# How a launcher tells a process which rank it is, before MPI starts: (rank, size) variables.
LAUNCHER_VARIABLES = (
    ("OMPI_COMM_WORLD_RANK", "OMPI_COMM_WORLD_SIZE"),
    ("PMI_RANK", "PMI_SIZE"),
    ("SLURM_PROCID", "SLURM_STEP_NUM_TASKS"),
)


def launched_rank_and_size(environ: Mapping[str, str] = os.environ) -> tuple[int, int]:
    """Return (rank, size) as the launcher tells them without MPI; (0, 1) without a launcher.

    Raises
    ------
    LaunchError
        They are no numbers.
    """
    for rank_name, size_name in LAUNCHER_VARIABLES:
        if environ.get(rank_name) and environ.get(size_name):
            return _number(environ, rank_name, least=0), _number(environ, size_name, least=1)
    return 0, 1


def _number(environ: Mapping[str, str], name: str, least: int) -> int:
    text = environ[name]
    # Not whatever `int` takes: it has a limit of its own, too.
    if not (text.isascii() and text.isdecimal() and len(text) < 10 and int(text) >= least):
        raise LaunchError(
            f"the variable {name}, by which launchers number their ranks, has to be a whole "
            f"number >= {least}, not {text!r}; if no launcher has set it: unset {name}"
        )
    return int(text)


# Variables that launchers set for their ranks, also those that tell no number of ranks.
LAUNCHER_PREFIXES = (
    "OMPI_COMM_WORLD_",
    "PMI_",
    "PMI2_",
    "PMIX_",
    "SLURM_STEP_NUM_TASKS",  # SLURM_PROCID stands in batch scripts, too, which are no ranks
    "MPI_LOCAL",
    "MV2_COMM_",
    "PALS_",
    "FLUX_",
    "ALPS_",
    "JSM_",
    "MPIRUN_",
    "HYDRA_",
    "HYDI_",
    "I_MPI_HYDRA_",
)


def is_launched(environ: Mapping[str, str] = os.environ) -> bool:
    """Tell whether a launcher may have started this process, be it as the only rank."""
    return any(name.startswith(LAUNCHER_PREFIXES) for name in environ)


# Variables that an mpiexec sets and srun does not: of Open MPI; of MPICH and what stems from it.
OF_MPIEXEC = ("OMPI_COMM_WORLD_SIZE", "MPI_LOCALNRANKS")


def is_launched_by_srun(environ: Mapping[str, str] = os.environ) -> bool:
    """Tell whether srun has started this process as a rank, and not an mpiexec inside its job."""
    return "SLURM_STEP_NUM_TASKS" in environ and not any(name in environ for name in OF_MPIEXEC)


def refuse_singletons(size: int, environ: Mapping[str, str] = os.environ) -> None:
    """Raise if MPI sees one rank where the launcher started several.

    Parameters
    ----------
    size : int
        Number of ranks that MPI sees; 1 also before MPI starts, if it can only start alone.
    environ : mapping
        The process's environment.

    Raises
    ------
    LaunchError
        Each process believes to be rank 0 of 1 and would do all the work again.
    """
    # mpiexec inside a Slurm job leaves step variables that are not about its ranks: first wins.
    name = next((name for _, name in LAUNCHER_VARIABLES if name in environ), "")
    n_launched = _number(environ, name, least=1) if environ.get(name) else 1
    if size > 1 or n_launched < 2:
        return
    from acme_mpi.symptoms import symptom  # a long table

    cure = symptom("srun and MPI" if name.startswith("SLURM") else "lone ranks").cure
    raise LaunchError(
        f"the launcher started {n_launched} processes ({name}={n_launched}), but for MPI each is "
        "rank 0 of 1: launcher and MPI library do not belong together.\n"
        f"  Nothing was started. {cure}\n"
        "  `python -m acme_mpi doctor` names the library, and the mpiexec that is found."
    )


def refuse_srun_without_pmi(environ: Mapping[str, str] = os.environ) -> None:
    """Raise if srun gave its processes no way to find each other.

    Before MPI starts, because some libraries end the process then, with a page of text.

    Raises
    ------
    LaunchError
        As `refuse_singletons`.
    """
    ways = ("PMI", "OMPI_COMM_WORLD")
    if "SLURM_STEP_NUM_TASKS" in environ and not any(name.startswith(ways) for name in environ):
        refuse_singletons(1, environ)


def sleep_until(descriptors: Sequence[int], timeout_s: float = math.inf) -> None:
    """Wait until something can be read; leave if the launcher goes, which nobody else looks at."""
    parent, end_s = os.getppid(), time.monotonic() + timeout_s
    while (left_s := end_s - time.monotonic()) > 0:
        if select.select(descriptors, [], [], min(left_s, LOOK_EVERY_S))[0]:
            return
        leave_if_orphaned(parent)


def leave_if_orphaned(parent: int) -> None:
    """End if the launcher has gone: Open MPI 5 leaves ranks behind when mpiexec is killed.

    Parameters
    ----------
    parent : int
        Process id of this process's parent when it began.
    """
    if _is_child_of_launcher() and os.getppid() != parent:
        os._exit(1)  # the runner, and a script that this process serves, die with it


def end_with_launcher() -> None:
    """End with the launcher from now on, also while this process runs what the user wrote.

    That is a script between two calls, or a task that the agent itself calls. Nothing is done
    until then: a thread sleeps in the kernel.
    """
    if _is_child_of_launcher():
        with contextlib.suppress(OSError):  # it cannot be watched
            start_thread("launcher", _end_with, os.pidfd_open(os.getppid()))


def _end_with(launcher: int) -> None:
    poll = select.poll()
    poll.register(launcher, select.POLLIN)
    poll.poll()
    os._exit(1)


def _is_child_of_launcher() -> bool:
    return "OMPI_COMM_WORLD_SIZE" in os.environ or "PMI_SIZE" in os.environ
