"""A handle on the ranks of this job, with what users of dask's clients look for."""

from __future__ import annotations

import logging
import weakref
from collections import Counter
from collections.abc import Iterable, Sequence
from typing import Any, Protocol

from acme_mpi.acme.uncaught import before_uncaught
from acme_mpi.errors import InputError, StoppedError
from acme_mpi.linux.segment import memory_bytes
from acme_mpi.session import current
from acme_mpi.session.keywords import NATURAL

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
        self._all = list(ranks)
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

        Each entry of ``workers`` has ``rank``, ``host``, ``pid`` (of the MPI process), ``name``,
        ``nthreads``, the number of tasks that it calls at a time: 1, and ``memory_limit``: the
        share in bytes that a rank has of its node, which is taken to be like this process's.
        """
        n_on = Counter(host for host, _ in self._all)
        node_bytes = memory_bytes()
        workers = {
            f"mpi://{host}:{rank}": {
                "type": "Worker",
                "rank": rank,
                "name": rank,
                "host": host,
                "pid": pid,
                "nthreads": 1,
                "memory_limit": node_bytes // n_on[host],
            }
            for rank, (host, pid) in self._ranks.items()
        }
        return {"type": "Scheduler", "address": next(iter(workers), ""), "workers": workers}

    def retire_workers(
        self,
        workers: Iterable[str | int] | str | int | None = None,
        n: int | None = None,
        close_workers: bool = False,
        remove: bool = True,
    ) -> dict[str, Any]:
        """Use some ranks no more. Independent; in SPMD scripts every rank says the same.

        Parameters
        ----------
        workers : (iterable of) str or int, optional
            Addresses of `scheduler_info`, or ranks.
        n : int, optional
            Instead of `workers`: the number of ranks, the last ones.
        close_workers, remove : bool
            As in dask; the ranks are the launcher's, and stay.

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
            n_retired = min(len(known), NATURAL.check("n", 0 if n is None else n))
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

    def wait_for_workers(
        self, n_workers: int | None = None, timeout: float | str | None = None
    ) -> None:
        """Return at once, as all ranks are there from the beginning.

        Raises
        ------
        TimeoutError
            There are fewer than `n_workers`, and there will be no more.
        """
        if n_workers is not None and NATURAL.check("n_workers", n_workers) > self.n_workers:
            raise TimeoutError(
                f"only {self.n_workers}/{n_workers} workers are there, and their number is the "
                f"launcher's: mpiexec -n {n_workers}"
            )

    def close(self, timeout: float | None = None) -> None:
        """End the runners and forget this handle; later runs use all ranks of the job again."""
        if self.status == "running":
            self.status = "closed"
            current().release()

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
        The client that has the ranks.
    """

    def __init__(self, client: Client) -> None:
        self.client = client

    @property
    def workers(self) -> dict[int, dict[str, Any]]:
        """The ranks in use, by their numbers."""
        return {each["rank"]: each for each in self.scheduler_info["workers"].values()}

    @property
    def requested(self) -> set[int]:
        """The ranks in use: what was asked for is there."""
        return set(self.client.workers)

    @property
    def scheduler_info(self) -> dict[str, Any]:
        """What `Client.scheduler_info` returns."""
        return self.client.scheduler_info()

    def close(self, timeout: float | None = None) -> None:
        """Do what `Client.close` does."""
        self.client.close()


def kept_client() -> Client | None:
    """Return the client that was set up and not closed, None if there is none."""
    kept = current().client
    return kept if isinstance(kept, Client) and kept.status == "running" else None


class Holder(Protocol):
    """What has a client, or None in its place."""

    client: Client | None


def begin_use(holder: Holder) -> None:
    """Let `get_client` return the client of `holder`, as long as that lives."""
    end_use(holder)
    current().users.append(weakref.ref(holder))


def end_use(holder: Holder) -> None:
    """Let it return the one before again."""
    users = current().users
    users[:] = [each for each in users if each() not in (None, holder)]


def get_client() -> Client:
    """Return the client in use. Independent.

    That is the one that was set up and not closed, which the next `ParallelMap` attaches to, or
    else that of the last `ParallelMap` that was made and neither cleaned up nor left by ``with``.

    Returns
    -------
    Client
        As from `local_cluster_setup`.

    Raises
    ------
    InputError
        There is none, as in tasks; also a ValueError, as in dask.

    Examples
    --------
    >>> import acme_mpi
    >>> client = acme_mpi.local_cluster_setup()
    >>> acme_mpi.get_client() is client
    True
    >>> acme_mpi.cluster_cleanup()
    """
    session = current()
    holders = [] if session.is_nested else [each() for each in reversed(session.users)]
    for client in (kept_client(), *(getattr(each, "client", None) for each in holders)):
        if isinstance(client, Client) and client.status == "running":
            return client
    raise InputError("No global client found; local_cluster_setup() makes one")


def keep(client: Client) -> None:
    """Have later runs attach to a client; those of tasks need none."""
    session = current()
    if session.is_nested:
        return
    session.client = client
    before_uncaught(_close_at_an_interrupt)


def tell_of_the_end(client: Client) -> None:
    """Say that a client is closed, in ACME's words."""
    text = "Successfully shut down %s containing %d workers"
    logger.info(text, client, client.n_workers, extra={"dialect": "cluster_cleanup"})


def _close_at_an_interrupt(error: BaseException) -> None:
    """Close the client at an uncaught Ctrl-C: IPython goes on, with all ranks at its next run."""
    client = kept_client()
    if client is None or not isinstance(error, (KeyboardInterrupt, StoppedError)):
        return
    client.close()
    if current().is_speaker:
        tell_of_the_end(client)
