"""All that can be looked at by one process, which does not load MPI."""

from __future__ import annotations

import os
import shutil

from acme_mpi.comm.mpiexec import environment_of_local_ranks, find_mpiexec
from acme_mpi.doctor import questions
from acme_mpi.doctor.asking import Answer, ask, ask_python
from acme_mpi.doctor.finding import Finding
from acme_mpi.doctor.here import check_memory_of_others, check_python
from acme_mpi.doctor.launching import (
    check_job,
    check_mpiexec,
    check_root,
    check_srun,
    launcher_of_ranks,
    try_mpiexec,
)
from acme_mpi.doctor.libraries import (
    check_hdf5,
    check_library_path,
    check_mpi,
    facts_in,
    kind_of_mpi,
    library_in,
)
from acme_mpi.doctor.nodes import check_nodes
from acme_mpi.doctor.place import ask_for_place, check_nfs, check_place, file_system_of
from acme_mpi.doctor.rank_facts import facts_of_rank
from acme_mpi.doctor.report import Report
from acme_mpi.doctor.versions import known_versions
from acme_mpi.history.folders import existing
from acme_mpi.linux.cores import n_busy_cores


def examine(directory: str, is_rank: bool) -> Report:
    """Return what this process finds. Independent.

    Parameters
    ----------
    directory : str
        Where results are to go; it need not be there.
    is_rank : bool
        Whether ranks look at nodes and launcher themselves, so that none are tried.
    """
    mpi, hdf5 = ask_python(questions.MPI), ask_python(questions.HDF5)
    mpi_facts, hdf5_facts = facts_in(mpi), facts_in(hdf5)
    library = library_in(mpi)
    mpiexec = find_mpiexec()
    # Another one may have started this process.
    alone = environment_of_local_ranks(os.environ)
    answer = ask([mpiexec, "--version"], environ=alone) if mpiexec else Answer(127, "", "")
    folder = existing(directory)
    kind = file_system_of(folder)
    findings = [
        *check_python(),
        *check_mpi(mpi),
        *check_library_path(),
        *check_hdf5(hdf5, mpi_facts),
        *check_mpiexec(mpiexec, answer, library),
        *check_srun(ask(["srun", "--mpi=list"]) if shutil.which("srun") else None, library),
        *check_place(folder, ask_for_place(folder), kind),
        *check_nfs(kind, hdf5_facts.get("is_parallel", False)),
        *check_memory_of_others(ask_python(questions.MEMORY), library),
    ]
    if not is_rank:
        findings += [*check_root(library), *check_job(), *_try(mpiexec, bool(mpi_facts))]
        findings += check_nodes([facts_of_rank(0)], n_busy_cores())
    facts = {
        **known_versions(library, hdf5_facts),
        "cores": str(n_busy_cores()),
        "mpiexec": f"{mpiexec} ({' '.join(kind_of_mpi(answer.text)).strip() or 'unknown'})"
        if mpiexec
        else "none",
        "launcher": launcher_of_ranks() or _batch_system() or "none",
        "files": f"{kind or 'unknown'} in {directory}",
    }
    return Report(tuple(findings), facts)


def _try(mpiexec: str | None, has_library: bool) -> list[Finding]:
    return try_mpiexec(mpiexec) if mpiexec and has_library else []


def _batch_system() -> str:
    return "Slurm job, no rank" if "SLURM_JOB_ID" in os.environ else ""
