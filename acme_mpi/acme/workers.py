"""Who calls the tasks of a `ParallelMap`: ranks that are there, or that Slurm starts, or a job."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Any

from acme_mpi.acme.client import Client, keep, kept_client
from acme_mpi.acme.cluster import tell_of_missing_ranks
from acme_mpi.comm import World
from acme_mpi.engine.messages import tell_once
from acme_mpi.errors import LaunchError
from acme_mpi.session.base import Session
from acme_mpi.session.keywords import check

if TYPE_CHECKING:
    from acme_mpi.launchers.base import Launcher

logger = logging.getLogger("acme_mpi")

MOST_BY_ITSELF = 64  # ranks of a job whose number nobody has said


class Workers:
    """What ACME's keywords ask for, and who that has come to.

    Parameters
    ----------
    n_workers, stop_client, partition, mem_per_worker, setup_timeout
        As of `ParallelMap`.

    Attributes
    ----------
    launcher : Launcher or None
        Of a job that makes the calls; this process and its ranks do not.
    client : Client or None
        The ranks, once they are found. None again: the user wants nothing to be called.
    are_ours : bool
        They were started for one computation, with which they end.

    Raises
    ------
    InputError
        A keyword has a wrong value.
    """

    def __init__(
        self,
        n_workers: Any,
        stop_client: Any,
        partition: Any,
        mem_per_worker: Any,
        setup_timeout: Any,
    ) -> None:
        self._n_wanted: int | None = check("n_workers", n_workers)
        self._is_stopping = check("stop_client", stop_client)
        check("setup_timeout", setup_timeout)
        check("partition", partition)
        check("mem_per_worker", mem_per_worker)
        self._partition, self._memory, self._timeout_s = partition, mem_per_worker, setup_timeout
        self._are_started = self.are_ours = False
        self.launcher: Launcher | None = None
        self.client: Client | None = None

    def set_launcher(self, launch: Any, writes_files: bool) -> None:
        """Have a job make the calls if there is a launcher for it.

        Raises
        ------
        InputError
            There is no such launcher, or nothing to launch: results go to no files, or the caller
            is a rank.
        """
        if launch is None:
            return
        # All ranks import this module, and few of them submit jobs.
        from acme_mpi.jobs.submitting import check_caller, refuse_in_memory
        from acme_mpi.launchers.named import launcher_of

        check_caller()
        self.launcher = launcher_of(launch)
        refuse_in_memory(writes_files)

    def start(self, n_tasks: int, is_interactive: bool) -> None:
        """Have Slurm start workers if none are there, and a partition is named.

        Parameters
        ----------
        n_tasks : int
            Number of calls, >= 1: so many workers at most, unless their number was said.
        is_interactive : bool
            As `setup_interactive` of `ParallelMap`.

        Raises
        ------
        AcmeMpiError
            They have not come.
        """
        if self._partition == "auto" or self._are_found:
            return
        from acme_mpi.acme.batch import may_submit, slurm_of, start_workers

        if not may_submit():
            return
        n_workers = self._n_wanted or min(n_tasks, MOST_BY_ITSELF)
        launcher = slurm_of(n_workers, self._partition, self._memory)
        start_workers(launcher, self._timeout_s, is_interactive, self._timeout_s)
        self._are_started = True
        # As in ACME: they are ended with the computation, unless they are to stay.
        self.are_ours = self._is_stopping = self._is_stopping is not False

    @property
    def _are_found(self) -> bool:
        return self.launcher is not None or kept_client() is not None

    def session_of(self, session: Session, world: World) -> Session:
        """Return the session with the ranks that are wanted."""
        if self._are_started:
            return session.of_call()
        if self._are_found:
            return session
        if world.is_master:
            self._tell_of_words()
        return session.with_ranks(self._n_wanted)

    def _tell_of_words(self) -> None:
        """Say what the launcher has decided already."""
        given = {"partition": self._partition, "mem_per_worker": self._memory}
        names = " and ".join(f"`{name}`" for name, value in given.items() if value != "auto")
        if names:
            tell_once(
                f"{names} changed nothing: the launcher (srun, mpiexec) has decided where the "
                "ranks run and what they may use",
                dialect="ParallelMap",
            )

    def take(self, ranks: list[tuple[str, int]], world: World) -> None:
        """Take the ranks of a job, or those of the client that was set up."""
        found = kept_client()
        if found is not None and world.is_master:
            logger.info("Attaching to global parallel computing client %s", found)
        self.client = found or Client(ranks, self._n_wanted)
        if self._is_stopping is False:
            keep(self.client)
        if world.is_master and self._n_wanted is not None and self.launcher is None:
            tell_of_missing_ranks(self._n_wanted, len(ranks), "ParallelMap", self.client)

    @property
    def ranks(self) -> tuple[int, ...]:
        """The ranks that call."""
        return self.client.workers[: self._n_wanted] if self.client is not None else ()

    def refuse_none(self) -> None:
        """Raise a `LaunchError` if there is no rank that calls."""
        if not self.ranks:
            raise LaunchError(
                f"no active workers found in distributed computing client "
                f"{self.client}. Consider running cluster_cleanup() to use all ranks again"
            )

    def end(self) -> None:
        """Close the client if it is not to stay."""
        if self._is_stopping and self.client is not None:
            self.client.close()
