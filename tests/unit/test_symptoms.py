"""What goes wrong is known again by the words in which programs tell of it."""

from __future__ import annotations

import re

import pytest

from acme_mpi.errors import LaunchError
from acme_mpi.session.local_ranks import LocalRanks
from acme_mpi.symptoms import SYMPTOMS, cures_for, symptom, symptoms_in

pytestmark = pytest.mark.once

# As users have reported them.
SAID = {
    "lone ranks": (
        "Hello from rank 0 of 1 on node01",
        "mpi4py: suspicious MPI execution environment",
        "check_MPIR_CVAR_PMI_VERSION(167):  Runtime environment uses unsupported PMI version PMIx. "
        "Aborting.",
    ),
    "srun and MPI": (
        'The application appears to have been direct launched using "srun",\n'
        "but OMPI was not built with SLURM's PMI support and therefore cannot\nexecute.",
    ),
    "MPI library": (
        "ImportError: libmpi.so.40: cannot open shared object file: No such file or directory",
        "ImportError: libmpi.so.12: cannot open shared object file: No such file or directory",
        "MPI.cpython-311-x86_64-linux-gnu.so: undefined symbol: ompi_mpi_errors_abort",
    ),
    "no MPI library": (
        "RuntimeError: cannot load MPI library\nlibmpi.so: cannot open shared file",
    ),
    "parallel h5py": (
        "ValueError: h5py was built without MPI support, can't use mpio driver",
        "AttributeError: 'h5py.h5p.PropFAID' object has no attribute 'set_fapl_mpio'",
    ),
    "HDF5 version": (
        "Warning! ***HDF5 library version mismatched error***\n"
        "Headers are 1.12.1, library is 1.10.6\nBye...",
    ),
    "file locks": (
        "Unable to open file (unable to lock file, errno = 11, error message = 'Resource "
        "temporarily unavailable')",
        "(unable to lock file, errno = 524, error message = 'Unknown error 524')",
        "File locking failed in ADIOI_Set_lock(fd 13,cmd F_SETLKW/7,type F_WRLCK/1)",
    ),
    "slots": (
        "There are not enough slots available in the system to satisfy the 8\nslots that were",
    ),
    "root": (
        "mpiexec has detected an attempt to run as root.\n",
        "prterun has detected an attempt to run as root.\n",
    ),
    "PMIx memory": (
        "[n01:17] PMIX ERROR: ERROR in file ../../../src/mca/gds/ds12/gds_ds12_lock_pthread.c at "
        "line 168",
    ),
    "memory of others": ("Read -1, expected 16384, errno = 1",),
    "interfaces": (
        "WARNING: Open MPI failed to TCP connect to a peer MPI process.  This\nshould not happen.",
        "[n1][[4,1],0][btl_tcp_endpoint.c:626:mca_btl_tcp_endpoint_complete_connect] connect() to "
        "172.17.0.1 failed: Connection refused (111)",
    ),
    "shared memory": (
        "Signal: Bus error (7)",
        "It appears as if there is not enough space for /dev/shm/vader_segment.n01.0.2 (the",
    ),
    "threads": (
        "OpenBLAS blas_thread_init: pthread_create failed for thread 12 of 64: Resource "
        "temporarily unavailable",
    ),
    "binding": (
        "A request was made to bind to that would result in binding more\nprocesses than cpus on "
        "a resource:",
    ),
    "memory": (
        "slurmstepd: error: Detected 1 oom_kill event in StepId=17.0. Some of the step tasks have "
        "been OOM Killed.",
        "slurmstepd: error: Exceeded memory limit at some point.",
        "job 17 on Slurm has ended: OUT_OF_MEMORY",
        "  Exit code:    137",
    ),
    "locked memory": (
        "WARNING: There was an error initializing an OpenFabrics device.",
        "ibv_create_cq failed: Cannot allocate memory",
    ),
    "forks": (
        'A process has executed an operation involving a call to the\n"fork()" system call to '
        "create a child process.",
    ),
    "job in a job": (
        "sbatch: error: Batch job submission failed: Requested node configuration is not available",
        "srun: fatal: SLURM_MEM_PER_CPU, SLURM_MEM_PER_GPU, and SLURM_MEM_PER_NODE are mutually "
        "exclusive.",
    ),
    "MPI-IO on NFS": (
        "H5FD__mpio_flush(): MPI_File_sync failed",
        "H5Dio_adjust(): Can't perform independent write when MPI_File_sync is required by ROMIO",
    ),
    "one place for all": (
        "python: can't open file '/home/me/script.py': [Errno 2] No such file or directory",
        "slurmstepd: error: couldn't chdir to `/tmp/out': No such file or directory",
        "slurmstepd: error: execve(): /home/me/venv/bin/python: No such file or directory",
    ),
    "Python": (
        "ModuleNotFoundError: No module named 'acme_mpi'",
        "python: No module named acme_mpi",
    ),
    "no mpiexec": ("bash: line 1: mpiexec: command not found",),
}


@pytest.mark.parametrize("name", [each.name for each in SYMPTOMS])
def test_what_programs_say_is_known_again(name):
    assert SAID[name]
    for text in SAID[name]:
        assert [each.name for each in symptoms_in(f"before\n{text}\nbehind")] == [name]


@pytest.mark.parametrize("each", SYMPTOMS, ids=lambda each: each.name)
def test_an_entry_is_whole(each):
    assert all((each.title, each.check))
    assert each.cure.endswith(".")
    assert all(re.fullmatch(r"[\w.-]+/[\w.-]+#\d+|https://\S+", one) for one in each.sources)


def test_there_is_one_entry_of_each():
    assert len({each.name for each in SYMPTOMS}) == len(SYMPTOMS) == 23


def test_a_log_of_a_run_that_went_well_tells_of_nothing():
    said = "Preparing 4 parallel calls of `f` using 2 workers\nSUCCESS! 4 tasks done."

    assert cures_for(said) == ""


def test_a_cure_that_is_given_is_not_given_again():
    root = SAID["root"][0]
    cure = symptom("root").cure

    assert cures_for(root) == f"\n  {cure}"
    assert cures_for(f"{root}\n{cure}") == ""


def test_an_mpiexec_that_fails_is_cured(tmp_path, monkeypatch):
    """What it says is looked up where ranks are started for plain Python."""
    program = tmp_path / "mpiexec"
    program.write_text(f"#!/bin/sh\necho '{SAID['slots'][0]}'\nexit 1\n")
    program.chmod(0o755)
    monkeypatch.setattr("acme_mpi.session.local_ranks.mpiexec", lambda: str(program))

    with pytest.raises(LaunchError) as caught:
        LocalRanks(2)

    assert symptom("slots").cure in str(caught.value)
