"""What goes wrong with MPI, HDF5, launchers and clusters: how it shows, and what cures it.

One table for all who tell of it: ``doctor``, the refusals of what cannot work, and the error of a
job that has ended early.
"""

from __future__ import annotations

import re
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Symptom:
    """One thing that goes wrong.

    Attributes
    ----------
    name : str
        What findings call it.
    title : str
        What has happened, in a line.
    pattern : str
        Regular expression that is found where programs tell of it.
    cure : str
        What to do, as sentences.
    check : str
        What ``doctor`` looks at; ``"the text alone"`` where nothing else tells.
    sources : tuple of str
        Where users and developers have found out: threads, ``owner/repository#number``, or pages.
    """

    name: str
    title: str
    pattern: str
    cure: str
    check: str
    sources: tuple[str, ...] = ()

    def is_in(self, text: str) -> bool:
        """Tell whether a text tells of it."""
        return re.search(self.pattern, text) is not None


SYMPTOMS = (
    Symptom(
        "lone ranks",
        "every process is rank 0 of 1",
        r"rank 0 of 1\b|suspicious MPI execution environment|uses unsupported PMI version",
        "Use the mpiexec that belongs to the MPI library that mpi4py loads, or start by srun "
        "--mpi=pmix (Open MPI) or --mpi=pmi2 (MPICH).",
        "the kinds of mpiexec and library; whether two ranks that mpiexec starts see each other",
        ("mpi4py/mpi4py#428", "adrn/schwimmbad#34", "open-mpi/ompi#13523"),
    ),
    Symptom(
        "srun and MPI",
        "srun and the MPI library have no common way to start ranks",
        r"OMPI was not built with SLURM's PMI support|direct launched using \"?srun",
        "Use srun --mpi=pmix for Open MPI, srun --mpi=pmi2 for MPICH (srun --mpi=list shows what "
        "there is), or mpiexec inside the job.",
        "what `srun --mpi=list` offers for the library",
        (
            "open-mpi/ompi#3778",
            "open-mpi/ompi#4338",
            "open-mpi/ompi#10940",
            "openpmix/prrte#1343",
        ),
    ),
    Symptom(
        "MPI library",
        "mpi4py was built for another MPI library than it finds",
        r"libmpi\w*\.so[.\d]*: cannot open shared object|undefined symbol: \w*mpi_",
        "Load the MPI module that mpi4py was built with, or build mpi4py again for the one that is "
        "there: pip install --force-reinstall --no-cache-dir --no-binary=mpi4py mpi4py; with conda "
        "take MPI and mpi4py from conda-forge together. Leave one MPI library on LD_LIBRARY_PATH.",
        "whether mpi4py can be imported, what it loads, and MPI libraries on LD_LIBRARY_PATH",
        ("mpi4py/mpi4py#175", "mpi4py/mpi4py#424", "mpi4py/mpi4py#222", "mpi4py/mpi4py#570"),
    ),
    Symptom(
        "no MPI library",
        "mpi4py finds no MPI library",
        r"cannot load MPI library",
        'Install one beside it: pip install "acme-mpi[mpi]" (Open MPI) or "acme-mpi[mpich]"; or '
        "load a module of your cluster; or name the library by the variable MPI4PY_LIBMPI.",
        "whether mpi4py can be imported",
        ("mpi4py/mpi4py#659", "mpi4py/mpi4py#662"),
    ),
    Symptom(
        "parallel h5py",
        "h5py was built without MPI, or for another MPI library than mpi4py",
        r"h5py was built without MPI support|has no attribute '?set_fapl_mpio",
        "acme_mpi needs no parallel h5py; your own code that opens files by the driver mpio does: "
        'conda install "h5py=*=mpi_*", or CC=mpicc HDF5_MPI=ON pip install --no-binary=h5py h5py, '
        "with the mpicc of the MPI library that mpi4py loads.",
        "how h5py was built, and which MPI libraries h5py and mpi4py load",
        ("h5py/h5py#1437", "h5py/h5py#1850", "h5py/h5py#1093", "NVlabs/FourCastNet#8"),
    ),
    Symptom(
        "HDF5 version",
        "h5py was built for another HDF5 than it finds",
        r"Headers are \d+\.[\d.]+, library is \d+\.|HDF5 library version mismatched",
        "Keep one HDF5 in the environment: unset LD_LIBRARY_PATH, or leave out the folder of the "
        "other HDF5; else install h5py again.",
        "whether h5py can be imported, and the HDF5 that it was built for and has loaded",
        (
            "h5py/h5py#853",
            "h5py/h5py#1068",
            "h5py/h5py#1549",
            "h5py/h5py#1898",
            "h5py/h5py#2955",
        ),
    ),
    Symptom(
        "file locks",
        "the file system has no locks, or they do not work",
        r"unable to lock file, errno = \d+|File locking failed in ADIOI_Set_lock"
        r"|\[Errno (?:37|524)\]|No locks available",
        "Set HDF5_USE_FILE_LOCKING=FALSE, or open files with locking=False; have Lustre mounted "
        "with the option flock; or write to another file system.",
        "whether a file in the output directory can be locked, and opened by HDF5 with its locks",
        (
            "h5py/h5py#1082",
            "h5py/h5py#1101",
            "h5py/h5py#1679",
            "h5py/h5py#673",
            "open-mpi/ompi#6535",
            "bcbio/bcbio-nextgen#2707",
        ),
    ),
    Symptom(
        "slots",
        "there are more ranks than mpiexec gives places",
        r"not enough slots available",
        "Give mpiexec -n the number of cores, or allow more: mpiexec --oversubscribe; for Open MPI "
        "4 OMPI_MCA_rmaps_base_oversubscribe=1, for 5 "
        "PRTE_MCA_rmaps_default_mapping_policy=:oversubscribe.",
        "ranks and cores of each node, and what a container may use of them",
        ("open-mpi/ompi#8955", "open-mpi/ompi#3133", "open-mpi/ompi#7413"),
    ),
    Symptom(
        "root",
        "mpiexec does not start ranks for root",
        r"has detected an attempt to run as root",
        "Work as another user; in a container set OMPI_ALLOW_RUN_AS_ROOT=1 and "
        "OMPI_ALLOW_RUN_AS_ROOT_CONFIRM=1, for Open MPI 5 also PRTE_ALLOW_RUN_AS_ROOT=1 and "
        "PRTE_ALLOW_RUN_AS_ROOT_CONFIRM=1.",
        "the user, and these variables",
        ("open-mpi/ompi#4451", "ipython/ipyparallel#865", "FEniCS/dolfinx#4456"),
    ),
    Symptom(
        "PMIx memory",
        "PMIx cannot use its shared memory",
        r"gds_ds\d\d_lock_pthread\.c|PMIX ERROR: \S+ in file \S*gds",
        "Set PMIX_MCA_gds=hash.",
        "the text alone",
        ("open-mpi/ompi#7516", "openpmix/openpmix#1716"),
    ),
    Symptom(
        "memory of others",
        "ranks may not read each other's memory, as in a container",
        r"Read -1, expected \d+, errno = \d+",
        "Set OMPI_MCA_btl_vader_single_copy_mechanism=none (Open MPI 4), or give the container the "
        "capability SYS_PTRACE.",
        "whether one process may read another one's memory (process_vm_readv)",
        ("open-mpi/ompi#4948", "horovod/horovod#503"),
    ),
    Symptom(
        "interfaces",
        "ranks of several nodes talk by an interface that leads nowhere",
        r"failed to TCP connect to a peer MPI process|btl_tcp_endpoint\S*\] connect\(\) to"
        r"|complete_connect\] connect\(\) to",
        "Leave out interfaces that other nodes do not reach: "
        "OMPI_MCA_btl_tcp_if_exclude=lo,docker0,virbr0, or name the right one: "
        "OMPI_MCA_btl_tcp_if_include=eth0.",
        "network interfaces of containers and virtual machines; letters between nodes",
        ("open-mpi/ompi#6377", "open-mpi/ompi#4963", "open-mpi/ompi#2320", "tomMoral/dicodile#25"),
    ),
    Symptom(
        "shared memory",
        "/dev/shm is full, or too small",
        r"\bBus error\b|not enough space for /dev/shm|Unable to allocate shared memory"
        r"|/dev/shm/\S*: No space left",
        "Give the container more (docker run --shm-size=1g), remove what killed jobs have left in "
        "/dev/shm, or have Open MPI 4 use files: OMPI_MCA_btl_vader_backing_directory=/tmp.",
        "free space of /dev/shm on each node",
        (
            "GlobalArrays/ga#254",
            "pmodels/mpich#4631",
            "radiasoft/sirepo#7740",
            "ofiwg/libfabric#9422",
            "pytorch/pytorch#58386",
        ),
    ),
    Symptom(
        "threads",
        "ranks have more threads than cores",
        r"blas_thread_init: pthread_create failed|precompiled NUM_THREADS exceeded",
        "Set OMP_NUM_THREADS=1 and OPENBLAS_NUM_THREADS=1, or leave them unset: acme_mpi then "
        "gives each rank its share of the cores.",
        "ranks times threads, as the variables say, against the cores of each node",
        (
            "underworldcode/underworld3#74",
            "numpy/numpy#17856",
            "numpy/numpy#14868",
            "desihub/desispec#1515",
        ),
    ),
    Symptom(
        "binding",
        "ranks are bound to the same cores, or to fewer than they need",
        r"binding more\s+processes than cpus on a resource|CPU binding outside of job step",
        "Say to srun what was said to sbatch: srun --cpus-per-task=$SLURM_CPUS_PER_TASK "
        "--cpu-bind=cores; or mpiexec --bind-to none.",
        "on which cores each rank may run, and whether ranks of a node share them",
        (
            "snakemake/snakemake-executor-plugin-slurm#41",
            "reframe-hpc/reframe#2655",
            "NOAA-EMC/global-workflow#2044",
        ),
    ),
    Symptom(
        "memory",
        "processes were killed because they took too much memory",
        r"oom[-_]kill event|\bOUT_OF_MEMORY\b|[Ee]xceeded (?:job )?memory limit"
        r"|(?:[Ee]xit (?:code|status):?|with status)\s+137\b|[Oo]ut [Oo]f [Mm]emory: Killed",
        "Ask for more memory for each rank (sbatch --mem-per-cpu, submit --mem), or start fewer "
        "ranks; acme_mpi's --memory 2G fails a task that takes more instead of the job.",
        "memory that is left to each rank, and kills that the kernel has counted",
        (
            "nextflow-io/nextflow#5932",
            "dask/dask-jobqueue#498",
            "dask/dask-jobqueue#20",
            "dask/distributed#1469",
        ),
    ),
    Symptom(
        "locked memory",
        "the network card gets too little locked memory",
        r"initializing an OpenFabrics device|ibv_create_cq failed"
        r"|failed to create completion queue",
        "Have ulimit -l unlimited on the nodes, or use another way: OMPI_MCA_pml=ucx, or "
        "OMPI_MCA_btl=^openib.",
        "the limit of locked memory where there is an InfiniBand card",
        ("open-mpi/ompi#6300", "open-mpi/ompi#8403", "open-mpi/ompi#8367", "openucx/ucx#6049"),
    ),
    Symptom(
        "forks",
        "Open MPI warns of a fork",
        r"involving a call to\s+(?:the\s+)?\"fork\(\)\"",
        "With acme_mpi it is harmless: what calls your function was forked before MPI started, or "
        "is a new Python. OMPI_MCA_mpi_warn_on_fork=0 keeps Open MPI quiet.",
        "the text alone",
        ("h5py/h5py#1095",),
    ),
    Symptom(
        "job in a job",
        "what a job around this one has set contradicts what is asked for",
        r"Requested node configuration is not available"
        r"|--mem\b.* mutually exclusive|SLURM_MEM_PER_\w+.* mutually exclusive",
        "Leave out --mem where the site sets it, and unset variables of the job around: unset "
        "${!SLURM_MEM_PER_*} ${!SBATCH_*}. What acme_mpi submits does not see them.",
        "variables SLURM_MEM_PER_* that exclude each other, and SBATCH_*",
        ("dask/dask-jobqueue#238", "dask/dask-jobqueue#698", "facebookincubator/submitit#14"),
    ),
    Symptom(
        "MPI-IO on NFS",
        "parallel HDF5 refuses to write to NFS, or waits for it",
        r"HDF5_DO_MPI_FILE_SYNC|MPI_File_sync (?:failed|is required)",
        "Set HDF5_DO_MPI_FILE_SYNC=FALSE, or leave out --single-file.",
        "the kind of file system of the output directory, with a parallel h5py",
        ("radiasoft/sirepo#7919", "openPMD/openPMD-api#1423", "BLAST-WarpX/warpx#6094"),
    ),
    Symptom(
        "one place for all",
        "a folder, a program or the time is not the same on all nodes",
        r"can't open file '.*': \[Errno 2\]|couldn't chdir to|execve\(\): .*No such file"
        r"|unable to find the specified executable file",
        "Put the results, and Python with its packages, where all nodes see them, often $HOME or "
        "$SCRATCH and not /tmp; clocks that differ are for the administrators.",
        "whether all ranks find a file that rank 0 has written, and tell the same time",
        ("mlr-org/batchtools#85",),
    ),
    Symptom(
        "Python",
        "ranks run another Python than you do",
        r"No module named '?\w",
        "Activate the same environment in the job's script, or start the Python of it by its whole "
        "path; submit --prologue 'source venv/bin/activate' does it for jobs.",
        "program, version and packages of Python on all ranks, and the `python` on the PATH",
        ("https://jobqueue.dask.org/en/latest/debug.html",),
    ),
    Symptom(
        "no mpiexec",
        "there is no mpiexec",
        r"(?:mpiexec|mpirun): (?:command not found|not found|No such file)",
        'To use all cores: pip install "acme-mpi[mpi]" (Open MPI) or "acme-mpi[mpich]"; or apt '
        "install openmpi-bin; or load a module of your cluster.",
        "whether there is one beside Python, or on the PATH",
    ),
)
_BY_NAME = {each.name: each for each in SYMPTOMS}


def symptom(name: str) -> Symptom:
    """Return the entry with a name."""
    return _BY_NAME[name]


def symptoms_in(text: str) -> list[Symptom]:
    """Return the entries of which a text tells, in the order of the table."""
    return [each for each in SYMPTOMS if each.is_in(text)]


def cures_for(text: str) -> str:
    """Return what to do about what a text tells, as lines to add to it; empty if nothing is known.

    A cure that it names itself is left out.
    """
    cures = [each.cure for each in symptoms_in(text) if each.cure not in text]
    return "".join(f"\n  {cure}" for cure in cures)
