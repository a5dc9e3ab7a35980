"""ACME's clients and clusters, on ranks that the launcher has started.

A `Client` is a handle on the ranks of this job. What a launcher has decided, such as partition and
memory, is checked and otherwise has no effect.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Sequence
from typing import Any

from acme_mpi.errors import InputError, InputTypeError
from acme_mpi.keywords import check_count, check_flag, check_memory, check_partition
from acme_mpi.messages import add_console_handler
from acme_mpi.submit import callers, is_speaker, job_ranks, release

logger = logging.getLogger("acme_mpi")


class Client:
    """The ranks of this job that call tasks.

    Parameters
    ----------
    ranks : sequence of (str, int)
        Host and process id of every rank of the job.
    n_workers : int, optional
        Use the first `n_workers` of them, >= 1; default all.
    """

    def __init__(self, ranks: Sequence[tuple[str, int]], n_workers: int | None = None) -> None:
        self._ranks = dict(enumerate(ranks[:n_workers]))
        self.status = "running"

    @property
    def n_workers(self) -> int:
        """Number of ranks in use."""
        return len(self._ranks)

    @property
    def workers(self) -> tuple[int, ...]:
        """The ranks in use, in order."""
        return tuple(self._ranks)

    @property
    def cluster(self) -> Cluster:
        """The same ranks as dask's cluster objects show them."""
        return Cluster(self)

    def scheduler_info(self) -> dict[str, Any]:
        """Return ``{"type", "address", "workers"}``, the ranks in use by their address.

        Each entry of ``workers`` has ``rank``, ``host``, ``pid`` (of the MPI process), ``name`` and
        ``nthreads``, the number of tasks that it calls at a time: 1.
        """
        workers = {
            f"mpi://{host}:{rank}": {
                "type": "Worker",
                "rank": rank,
                "name": rank,
                "host": host,
                "pid": pid,
                "nthreads": 1,
            }
            for rank, (host, pid) in self._ranks.items()
        }
        return {"type": "Scheduler", "address": next(iter(workers), ""), "workers": workers}

    def retire_workers(
        self, workers: Iterable[str | int] | str | int | None = None, n: int | None = None
    ) -> dict[str, Any]:
        """Use some ranks no more. Independent; in SPMD scripts every rank says the same.

        Parameters
        ----------
        workers : (iterable of) str or int, optional
            Addresses of `scheduler_info`, or ranks.
        n : int, optional
            Instead of `workers`: the number of ranks, the last ones.

        Returns
        -------
        dict
            The retired entries of `scheduler_info`.

        Raises
        ------
        InputError
            There is no such worker.
        """
        if workers is not None and n is not None:
            raise InputError("give the workers to retire, or their number `n`, not both")
        known = self.scheduler_info()["workers"]
        addresses = {entry["rank"]: address for address, entry in known.items()}
        if workers is None:
            n_retired = min(len(known), check_count("n", 0 if n is None else n, 0))
            wanted = list(known)[len(known) - n_retired :]
        else:
            given = [workers] if isinstance(workers, (str, int)) else workers
            wanted = [addresses.get(each, each) for each in dict.fromkeys(given)]
        for each in wanted:
            if each not in known:
                raise InputError(f"there is no worker {each!r}; there are {', '.join(known)}")
        for address in wanted:
            self._ranks.pop(known[address]["rank"], None)
        return {address: known[address] for address in wanted}

    def close(self, timeout: float | None = None) -> None:
        """End the runners and forget this handle; later runs use all ranks of the job again."""
        if self.status == "running":
            self.status = "closed"
            release()
        _KEPT[:] = [each for each in _KEPT if each is not self]

    shutdown = close

    def __enter__(self) -> Client:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    def __repr__(self) -> str:
        address = self.scheduler_info()["address"] or "mpi://"
        return f"<Client: {address!r} processes={self.n_workers} threads={self.n_workers}>"


class Cluster:
    """A client's ranks as dask's cluster objects show them.

    Parameters
    ----------
    client : Client
        Whose ranks.
    """

    def __init__(self, client: Client) -> None:
        self._client = client

    @property
    def workers(self) -> dict[int, dict[str, Any]]:
        """The ranks in use, by their numbers."""
        return {each["rank"]: each for each in self.scheduler_info["workers"].values()}

    @property
    def scheduler_info(self) -> dict[str, Any]:
        """What `Client.scheduler_info` returns."""
        return self._client.scheduler_info()

    def close(self, timeout: float | None = None) -> None:
        """Do what `Client.close` does."""
        self._client.close()


# The client that the next ParallelMap attaches to, if any.
_KEPT: list[Client] = []
_TOLD: set[str] = set()


def kept_client() -> Client | None:
    """Return the client that was set up and not closed, None if there is none."""
    return _KEPT[-1] if _KEPT else None


def keep(client: Client) -> None:
    """Have later runs attach to a client."""
    _KEPT[:] = [client]


def tell_once(text: str, *values: object, dialect: str, level: int = logging.INFO) -> None:
    """Say something, but not twice in one process."""
    if (said := text % values) not in _TOLD:
        _TOLD.add(said)
        logger.log(level, "%s", said, extra={"dialect": dialect})


def tell_of_missing_ranks(
    n_wanted: int, n_there: int, dialect: str, client: Client | None = None
) -> None:
    """Warn, once, that the job, or the client in use, has fewer ranks than were asked for."""
    if n_wanted > n_there:
        tell_once(
            "`n_workers` is %d, but the job has %d rank(s): all are used. Their number is said to "
            "the launcher: srun -n %d, or mpiexec -n %d",
            *(n_wanted, n_there, n_wanted, n_wanted),
            dialect=dialect,
            level=logging.WARNING,
        )
    elif client is not None and n_wanted > client.n_workers:
        tell_once(
            "`n_workers` is %d, but %s was set up with %d: all are used. cluster_cleanup() gives "
            "way to all ranks of the job",
            *(n_wanted, client, client.n_workers),
            dialect=dialect,
            level=logging.WARNING,
        )


def _set_up(name: str, check: Callable[[], int | None]) -> Client:
    """Check keywords and return a client on the ranks that they ask for. Collective."""
    world = callers()
    if world.is_master:
        add_console_handler()
    n_workers, error = None, None
    try:
        n_workers = check()
    except InputError as caught:
        error = type(caught)(f"<{name}> {caught}")
    ranks = job_ranks(world, error)
    client = Client(ranks, n_workers)
    keep(client)
    if world.is_master:
        tell_once(
            "partition, cores, memory and start-up of the workers were decided by the launcher "
            "(srun, mpiexec); the keywords for them are checked and change nothing",
            dialect=name,
        )
        tell_of_missing_ranks(n_workers or 1, len(ranks), name)
        text = "Using %d of %d ranks: %s"
        logger.info(text, client.n_workers, len(ranks), client, extra={"dialect": name})
    return client


def _check_n_workers(value: Any) -> int | None:
    return None if value is None else check_count("n_workers", value, 1)


def local_cluster_setup(
    n_workers: int | None = None, mem_per_worker: str | None = None, interactive: bool = True
) -> Client:
    """Return a handle on the ranks of this job. Collective.

    Parameters
    ----------
    n_workers : int, optional
        How many of the ranks to use, >= 1; default all.
    mem_per_worker : str, optional
        Such as "8GB"; decided by the launcher.
    interactive : bool
        Nothing is asked here: ranks need no ``__main__`` guard.

    Raises
    ------
    InputError
        A keyword has a wrong value.
    """

    def check() -> int | None:
        if not isinstance(interactive, bool):
            raise InputTypeError(f"`interactive` has to be Boolean, not {type(interactive)}")
        if mem_per_worker is not None:
            check_memory(mem_per_worker)
        return _check_n_workers(n_workers)

    return _set_up("local_cluster_setup", check)


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
    """Return a handle on the ranks of this Slurm job. Collective.

    Parameters
    ----------
    partition, n_cores, processes_per_worker, mem_per_worker, n_workers_startup, timeout, \
    interactive_wait, job_extra, worker_extra_args, scheduler_options, mem_cushion
        Decided by ``srun``; checked only.
    n_workers : int, optional
        How many of the ranks to use, >= 1; default all.
    interactive : bool
        Nothing is asked here.
    start_client : bool
        False: return the handle's `Cluster`.
    avail_partitions, invalid_partitions : sequence of str
        If given, `partition` has to be among the first and not among the second.
    **kwargs
        ACME takes any; unknown ones are named in a warning.

    Raises
    ------
    InputError
        A keyword has a wrong value.
    """
    counts = {
        "n_cores": n_cores,
        "processes_per_worker": processes_per_worker,
        "n_workers_startup": n_workers_startup,
        "timeout": timeout,
        "interactive_wait": interactive_wait,
        "mem_cushion": mem_cushion,
    }
    lists = {
        "job_extra": job_extra,
        "worker_extra_args": worker_extra_args,
        "avail_partitions": avail_partitions,
        "invalid_partitions": invalid_partitions,
    }

    def check() -> int | None:
        check_flag("start_client", start_client)
        _check_slurm(partition, mem_per_worker, interactive, counts, lists)
        _tell_of_unknown("slurm_cluster_setup", kwargs)
        invalid = invalid_partitions or []
        if partition in invalid or partition not in (avail_partitions or [partition]):
            allowed = [each for each in avail_partitions or [] if each not in invalid]
            raise InputError(
                f"Invalid partition {partition!r}; available are: {', '.join(allowed) or 'others'}"
            )
        return _check_n_workers(n_workers)

    client = _set_up("slurm_cluster_setup", check)
    return client if start_client else client.cluster


OF_ONE_AT_LEAST = {"n_cores", "cores_per_worker", "processes_per_worker"}


def _check_slurm(
    partition: Any,
    memory: Any,
    interactive: Any,
    counts: dict[str, Any],
    lists: dict[str, Any],
) -> None:
    check_partition(partition)
    check_memory(memory)
    if not isinstance(interactive, bool):
        raise InputTypeError(f"`interactive` has to be Boolean, not {type(interactive)}")
    for name, value in counts.items():
        check_count(name, value, 1 if name in OF_ONE_AT_LEAST else 0)
    for name, value in lists.items():
        if value is not None and not isinstance(value, (list, tuple)):
            raise InputTypeError(f"`{name}` has to be a list, not {type(value)}")


def _tell_of_unknown(name: str, unknown: dict[str, Any]) -> None:
    if unknown and is_speaker():
        text = "these keywords are not known and change nothing: %s"
        tell_once(text, ", ".join(unknown), dialect=name, level=logging.WARNING)


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
    """Return a handle on the ranks of this job: `slurm_cluster_setup` with ESI's keywords.

    Collective. The cores of a worker are `cores_per_worker` and, like all that is not `n_workers`,
    decided by the launcher.

    Raises
    ------
    InputError
        A keyword has a wrong value.
    """
    return _set_up_site("esi_cluster_setup", locals())


def _set_up_site(name: str, given: dict[str, Any]) -> Client | Cluster:
    counts = {key: given[key] for key in ("n_workers_startup", "timeout", "interactive_wait",
                                          "mem_cushion")}  # fmt: skip
    if given["cores_per_worker"] is not None:
        counts["cores_per_worker"] = given["cores_per_worker"]

    def check() -> int | None:
        check_flag("start_client", given["start_client"])
        lists = {"job_extra": given["job_extra"]}
        _check_slurm(
            given["partition"], given["mem_per_worker"], given["interactive"], counts, lists
        )
        _tell_of_unknown(name, given["kwargs"])
        return _check_n_workers(given["n_workers"])

    client = _set_up(name, check)
    return client if given["start_client"] else client.cluster


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
    """Return a handle on the ranks of this job: `slurm_cluster_setup` with CoBIC's keywords.

    Collective.

    Raises
    ------
    InputError
        A keyword has a wrong value.
    """
    return _set_up_site("bic_cluster_setup", locals())


def cluster_cleanup(client: Client | Cluster | None = None) -> None:
    """Close a client; default the one that was set up last. Independent.

    Raises
    ------
    InputTypeError
        It is no client.
    """
    name = "cluster_cleanup"
    if is_speaker():
        add_console_handler()
    if isinstance(client, Cluster):
        client = client._client
    client = client or kept_client()
    if client is None:
        if is_speaker():
            text = "No dangling clients or clusters found."
            logger.warning(text, extra={"dialect": name})
        return
    if not isinstance(client, Client):
        raise InputTypeError(
            f"<{name}> `client` has to be a client object, as local_cluster_setup() returns, "
            f"not {type(client)}"
        )
    was_running, n_workers, shown = client.status == "running", client.n_workers, repr(client)
    client.close()
    if was_running and is_speaker():
        text = "Successfully shut down %s containing %d workers"
        logger.info(text, shown, n_workers, extra={"dialect": name})
