"""ACME's functions that set up clients and clusters, on ranks that the launcher has started.

What a launcher has decided, such as partition and memory, is checked and changes nothing. Where
none has, on a login node of a Slurm cluster, they start workers: see `acme.batch`.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from typing import Any

from acme_mpi.acme.client import Client, Cluster, keep, kept_client, tell_of_the_end
from acme_mpi.engine.messages import add_console_handler, tell_once
from acme_mpi.errors import AcmeMpiError, InputError, InputTypeError
from acme_mpi.session import current
from acme_mpi.session.keywords import (
    FLAG,
    MEMORY,
    NATURAL,
    PARTITION,
    POSITIVE,
    Kind,
    check_all,
    instance_of,
)

logger = logging.getLogger("acme_mpi")

N_WORKERS = 2  # of a client whose jobs Slurm starts, if nothing is said, as in ACME
LOCAL = "local_cluster_setup"  # whose ranks can be started, where there is no launcher


def tell_of_missing_ranks(
    n_wanted: int, n_there: int, dialect: str, client: Client | None = None
) -> None:
    """Warn, once, that the job, or the client in use, has fewer ranks than were asked for."""
    session = current()
    if session.is_nested:
        return
    if n_wanted > n_there:
        if session.starts_ranks:
            return
        tell_once(
            "`n_workers` is %d, but the job has %d rank(s): all are used. The launcher sets their "
            "number: srun -n %d, or mpiexec -n %d",
            n_wanted,
            n_there,
            n_wanted,
            n_wanted,
            dialect=dialect,
            level=logging.WARNING,
        )
    elif client is not None and n_wanted > client.n_workers:
        tell_once(
            "`n_workers` is %d, but %s was set up with %d: all are used; after "
            "cluster_cleanup() later runs use all ranks of the job",
            n_wanted,
            client,
            client.n_workers,
            dialect=dialect,
            level=logging.WARNING,
        )


# What the functions below accept; all but `n_workers` and `start_client` is only checked, as the
# launcher has decided it already.
KEYWORDS = {
    "start_client": FLAG,
    "partition": PARTITION,
    "mem_per_worker": MEMORY,
    "interactive": Kind((instance_of(bool, words="Boolean, not {type}"),)),
    "n_cores": POSITIVE,
    "cores_per_worker": POSITIVE.optional(),
    "processes_per_worker": POSITIVE,
    "n_workers_startup": NATURAL,
    "timeout": NATURAL,
    "interactive_wait": NATURAL,
    "mem_cushion": NATURAL,
    **dict.fromkeys(
        ("job_extra", "worker_extra_args", "avail_partitions", "invalid_partitions"),
        Kind((instance_of(list, tuple, words="a list, not {type}"),), (None,)),
    ),
    "n_workers": POSITIVE.optional(),
}


def _set_up(name: str, given: dict[str, Any]) -> Client:
    """Check keywords and return a client on the ranks that they ask for. Collective.

    Parameters
    ----------
    name : str
        The function that was called.
    given : dict
        Its arguments by name; those that nobody knows under ``kwargs``.
    """
    session = current()
    world = session.callers()
    if world.is_master:
        add_console_handler()
    n_workers, error = None, None
    try:
        check_all(KEYWORDS, given)
        _check_available(**given)
        if (unknown := given.get("kwargs")) and session.is_speaker:
            text = "these keywords are not known and change nothing: %s"
            tell_once(text, ", ".join(unknown), dialect=name, level=logging.WARNING)
        n_workers = KEYWORDS["n_workers"].check("n_workers", given["n_workers"])
    except InputError as caught:
        error = type(caught)(f"<{name}> {caught}")
    if error is None and name == LOCAL:
        session = session.with_ranks(n_workers, is_set_up=True)
    has_started = error is None and name != LOCAL and _has_started_workers(name, given, n_workers)
    ranks = session.of_call().job_ranks(world, error)
    client = Client(ranks, n_workers)
    keep(client)
    if world.is_master:
        if not has_started:
            tell_once(
                "partition, cores, memory and start-up of the workers were decided by the launcher "
                "(srun, mpiexec); the keywords for them are checked and change nothing",
                dialect=name,
            )
        tell_of_missing_ranks(n_workers or 1, len(ranks), name)
        text = "Using %d of %d ranks: %s"
        logger.info(text, client.n_workers, len(ranks), client, extra={"dialect": name})
    return client


def _has_started_workers(name: str, given: dict[str, Any], n_workers: int | None) -> bool:
    """Have Slurm start what a set-up function says, where this process is in no job."""
    from acme_mpi.acme.batch import may_submit, slurm_of, start_workers  # all ranks import this

    if kept_client() is not None or not may_submit():
        return False
    n_cores = given.get("n_cores") or given.get("cores_per_worker")
    memory, extra = given["mem_per_worker"], given["job_extra"] or ()
    try:
        launcher = slurm_of(n_workers or N_WORKERS, given["partition"], memory, n_cores, extra)
        patience = given["timeout"], given["interactive"], given["interactive_wait"]
        start_workers(launcher, *patience)
    except (AcmeMpiError, TimeoutError) as error:
        raise type(error)(f"<{name}> {error}") from None
    return True


def _check_available(
    partition: str = "auto",
    avail_partitions: Sequence[str] | None = None,
    invalid_partitions: Sequence[str] | None = None,
    **_: Any,
) -> None:
    invalid, available = invalid_partitions or [], avail_partitions or [partition]
    if partition in invalid or partition not in available:
        allowed = ", ".join(each for each in available if each not in invalid)
        raise InputError(f"Invalid partition {partition!r}; available are: {allowed or 'others'}")


def local_cluster_setup(
    n_workers: int | None = None, mem_per_worker: str | None = None, interactive: bool = True
) -> Client:
    """Return a handle on the ranks of this job. Collective.

    Without a launcher it starts ranks on this machine, which end with this process or by
    `cluster_cleanup`.

    Parameters
    ----------
    n_workers : int, optional
        How many of the ranks to use, >= 1; default all. Where they are started: how many,
        default one for each core.
    mem_per_worker : str, optional
        Such as "8GB"; decided by the launcher.
    interactive : bool
        Nothing is asked here: ranks need no ``__main__`` guard.

    Returns
    -------
    Client
        With ``n_workers``, ``scheduler_info()``, ``retire_workers()``, ``wait_for_workers()``,
        ``cluster`` and ``close()``, as dask's.

    Raises
    ------
    InputError
        A keyword has a wrong value.

    Examples
    --------
    >>> import acme_mpi
    >>> client = acme_mpi.local_cluster_setup()
    >>> client.n_workers >= 1
    True
    >>> acme_mpi.cluster_cleanup(client)
    """
    given = locals()
    if mem_per_worker is None:
        del given["mem_per_worker"]
    return _set_up(LOCAL, given)


def slurm_cluster_setup(
    partition: str = "partition_name",
    n_cores: int = 1,
    n_workers: int | None = None,
    processes_per_worker: int = 1,
    mem_per_worker: str = "1GB",
    n_workers_startup: int = 1,
    timeout: int = 60,
    interactive: bool = True,
    interactive_wait: int = 10,
    start_client: bool = True,
    job_extra: Sequence[str] = (),
    worker_extra_args: Sequence[str] | None = None,
    scheduler_options: dict[str, Any] | None = None,
    avail_partitions: Sequence[str] | None = None,
    invalid_partitions: Sequence[str] | None = None,
    mem_cushion: int = 100,
    **kwargs: Any,
) -> Client | Cluster:
    """Return a handle on the ranks of this Slurm job, or on workers that it starts. Collective.

    Outside of a job, where there is ``sbatch``, the workers are started as a job, which ends with
    `cluster_cleanup`, or with this process. Inside of one the ranks are there, and what else is
    said is checked only.

    Parameters
    ----------
    partition : str
        Where the job is submitted.
    n_cores : int
        Cores of each rank, >= 1.
    n_workers : int, optional
        Inside of a job: how many of the ranks to use, >= 1; default all. Outside: their
        number; default 2.
    mem_per_worker : str
        Memory of each rank; said to Slurm if it is not the default.
    job_extra : sequence of str
        Further options of sbatch: ``["--time=02:00:00"]``.
    timeout : int
        How long to wait for the workers, in seconds, >= 0.
    interactive : bool
        Ask then whether to wait for `interactive_wait` seconds more, if somebody can answer.
    interactive_wait : int
        In seconds, >= 0.
    processes_per_worker, n_workers_startup, worker_extra_args, scheduler_options, mem_cushion
        Checked only: workers come together, and have no scheduler.
    start_client : bool
        False: return the handle's `Cluster`.
    avail_partitions, invalid_partitions : sequence of str
        If given, `partition` has to be among the first and not among the second.
    **kwargs
        ACME takes any; unknown ones are named in a warning.

    Returns
    -------
    Client or Cluster
        As from `local_cluster_setup`.

    Raises
    ------
    InputError
        A keyword has a wrong value.
    TimeoutError
        The workers have not come in time. No job is left.
    LaunchError
        Slurm refuses the job, in its own words, or the job has ended.

    Examples
    --------
    >>> import acme_mpi
    >>> client = acme_mpi.slurm_cluster_setup("8GBS", n_workers=64)  # doctest: +SKIP
    """
    client = _set_up("slurm_cluster_setup", locals())
    return client if start_client else client.cluster


def esi_cluster_setup(
    partition: str = "auto",
    n_workers: int | None = None,
    mem_per_worker: str = "auto",
    cores_per_worker: int | None = None,
    n_workers_startup: int = 1,
    timeout: int = 60,
    interactive: bool = True,
    interactive_wait: int = 120,
    start_client: bool = True,
    job_extra: Sequence[str] = (),
    mem_cushion: int = 100,
    **kwargs: Any,
) -> Client | Cluster:
    """Return a handle on ranks: `slurm_cluster_setup` with ESI's keywords. Collective.

    Keywords that do not stand here are those of `slurm_cluster_setup`.

    Parameters
    ----------
    partition : str
        "auto": the smallest of those named by the memory of their workers ("8GBXS") that has
        `mem_per_worker`.
    cores_per_worker : int, optional
        Cores of each rank, >= 1; default what Slurm gives.

    Returns
    -------
    Client or Cluster
        As from `local_cluster_setup`.

    Raises
    ------
    InputError, TimeoutError, LaunchError
        As in `slurm_cluster_setup`.

    Examples
    --------
    >>> import acme_mpi
    >>> client = acme_mpi.esi_cluster_setup("8GBXS", n_workers=64)  # doctest: +SKIP
    """
    client = _set_up("esi_cluster_setup", locals())
    return client if start_client else client.cluster


def bic_cluster_setup(
    partition: str = "auto",
    n_workers: int | None = None,
    mem_per_worker: str = "auto",
    cores_per_worker: int | None = None,
    n_workers_startup: int = 1,
    timeout: int = 120,
    interactive: bool = True,
    interactive_wait: int = 120,
    start_client: bool = True,
    job_extra: Sequence[str] = (),
    mem_cushion: int = 500,
    **kwargs: Any,
) -> Client | Cluster:
    """Return a handle on ranks as `esi_cluster_setup`, with CoBIC's keywords. Collective.

    They mean what they mean there; some have other defaults.

    Returns
    -------
    Client or Cluster
        As from `local_cluster_setup`.

    Raises
    ------
    InputError, TimeoutError, LaunchError
        As in `slurm_cluster_setup`.

    Examples
    --------
    >>> import acme_mpi
    >>> client = acme_mpi.bic_cluster_setup("8GBSppc", n_workers=64)  # doctest: +SKIP
    """
    client = _set_up("bic_cluster_setup", locals())
    return client if start_client else client.cluster


def cluster_cleanup(client: Client | Cluster | None = None) -> None:
    """Close a client. Independent.

    Parameters
    ----------
    client : Client or Cluster, optional
        From one of the functions that set one up; default the last one.

    Raises
    ------
    InputTypeError
        It is no client.

    Examples
    --------
    >>> import acme_mpi
    >>> client = acme_mpi.local_cluster_setup()
    >>> acme_mpi.cluster_cleanup()
    >>> client.status
    'closed'
    """
    name = "cluster_cleanup"
    if current().is_speaker:
        add_console_handler()
    if isinstance(client, Cluster):
        client = client.client
    client = client or kept_client()
    if client is None:
        if current().is_speaker:
            text = "No dangling clients or clusters found."
            logger.warning(text, extra={"dialect": name})
        return
    if not isinstance(client, Client):
        raise InputTypeError(
            f"<{name}> `client` has to be a client object, as local_cluster_setup() returns, "
            f"not {type(client)}"
        )
    was_running = client.status == "running"
    client.close()
    if was_running and current().is_speaker:
        tell_of_the_end(client)
