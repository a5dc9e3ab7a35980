"""What a launcher tells a rank by its environment, and what of it is the user's own.

A child that imports mpi4py must get a world of its own instead of the agent's place; a program that
it starts, an mpiexec perhaps, must find the settings of the user.
"""

from __future__ import annotations

from collections.abc import Mapping

# What mpiexec of Open MPI 4 and 5 and of MPICH, and srun, set for their ranks.
_OF_RANKS = (
    "OMPI_COMM_WORLD_",
    "OMPI_WORLD_",
    "OMPI_APP_CTX_",
    "OMPI_NUM_APP_CTX",
    "OMPI_UNIVERSE_SIZE",
    "OMPI_ARGV",
    "OMPI_COMMAND",
    "OMPI_FILE_LOCATION",
    "OMPI_FIRST_RANKS",
    "OMPI_LIBDIR_LOC",
    "OMPI_TOOL_NAME",
    "OMPI_VERSION",
    "OMPI_MCA_PREFIXES",
    "OMPI_MCA_cpu_type",
    "OMPI_MCA_ess",
    "OMPI_MCA_initial_wdir",
    "OMPI_MCA_num_procs",
    "OMPI_MCA_pmix",
    "OMPI_MCA_mpi_oversubscribe",
    "OMPI_MCA_shmem_RUNTIME_QUERY_hint",
    "OMPI_MCA_orte_app_num",
    "OMPI_MCA_orte_bound_at_launch",
    "OMPI_MCA_orte_ess_",
    "OMPI_MCA_orte_hnp_uri",
    "OMPI_MCA_orte_jobfam_session_dir",
    "OMPI_MCA_orte_launch",
    "OMPI_MCA_orte_local_daemon_uri",
    "OMPI_MCA_orte_num_nodes",
    "OMPI_MCA_orte_top_session_dir",
    "OMPI_MCA_orte_parent_uri",
    "OMPI_MCA_orte_precondition_transports",
    "PMIX_",
    "PMI_",
    "PMI2_",
    "PRTE_",
    "HYDI_",
    "MPI_LOCAL",
    "SLURM_STEP",
    "SLURM_PROCID",
    "SLURM_LOCALID",
    "SLURM_TASK_PID",
)
# Open MPI 4 sets the first for its ranks; 5 the second, from the user's setting for OMPI_MCA_.
_NOT_OF_THE_USER = (
    "PMIX_MCA_mca_base_component_show_load_errors",
    "PMIX_MCA_hwloc_base_binding_policy",
)
_OF_THE_USER = ("PMIX_MCA_", "PRTE_MCA_", "PRTE_ALLOW_RUN_AS_ROOT")


def without_launcher(environ: Mapping[str, str]) -> dict[str, str]:
    """Return an environment without what the launcher has told this rank."""
    return {name: value for name, value in environ.items() if not is_of_rank(name)}


def is_of_rank(name: str) -> bool:
    """Tell whether a variable is a launcher's word to a rank."""
    is_users = name.startswith(_OF_THE_USER) and name not in _NOT_OF_THE_USER
    return name.startswith(_OF_RANKS) and not is_users
