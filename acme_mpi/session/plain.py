"""A process that no launcher has started: it starts ranks on its machine when a call wants them."""

from __future__ import annotations

import logging
import os
import sys
import threading
from collections.abc import Callable
from typing import TYPE_CHECKING, TypeVar

from acme_mpi.comm import is_launched, launched_rank_and_size
from acme_mpi.errors import AcmeMpiError, LaunchError
from acme_mpi.linux.cores import n_busy_cores
from acme_mpi.linux.ulimits import fault_of_limits
from acme_mpi.session.base import Session
from acme_mpi.session.spmd import SpmdSession

if TYPE_CHECKING:
    from acme_mpi.session.local import Hold, LocalSession
    from acme_mpi.session.local_ranks import LocalRanks
    from acme_mpi.session.ranks import Ranks

    AnyRanks = TypeVar("AnyRanks", bound=Ranks)

VARIABLE = "ACME_MPI_LAUNCH"  # "none": no call starts ranks by itself
_NONE = "none"

logger = logging.getLogger("acme_mpi")


class PlainSession(SpmdSession):
    """The session of a process until it has ranks, and of its calls that need none.

    Under a launcher it is nothing but an `SpmdSession`.
    """

    def __init__(self) -> None:
        super().__init__()
        self._local: LocalSession | None = None
        self._is_copy = self._has_failed = False
        os.register_at_fork(after_in_child=self.stay_alone)

    def stay_alone(self) -> None:
        """Have no ranks in this process, a forked child, and start none: it may be one of many."""
        self._is_copy, self._lock = True, threading.RLock()
        local, self._local = self._local, None
        if local is not None:
            local.local.let_go()

    def of_call(self) -> Session:
        """Return what serves a call that is made now: the ranks, if there are any."""
        return self._with_local() or super().of_call()

    def _with_local(self) -> LocalSession | None:
        local = self._local
        if local is None or local.local.is_missed:
            return local
        if local.local.is_direct and local.has_lost_stream:
            local.local.stop()  # they are leaving, or have nobody to talk to
        if local.local.status() != "running":
            self._local = local = None
        return local

    def with_ranks(self, n_wanted: int | None = None, is_set_up: bool = False) -> Session:
        """Return the session for a call that is to use ranks; start them if need be.

        Where none can be started, the session of this process alone. That is said, once.
        """
        with self._lock:
            if self._with_local() is None and (n_wanted == 1 or not self._may_start()):
                return self.of_call()
            return self._with_local_ranks(n_wanted, is_set_up) or self.of_call()

    def _with_local_ranks(self, n_wanted: int | None, is_set_up: bool) -> LocalSession | None:
        from acme_mpi.session.local import MOST_PER_CORE

        local, n_cores = self._with_local(), n_busy_cores()
        n = n_cores if n_wanted is None else min(n_wanted, MOST_PER_CORE * n_cores)
        if local is None and n < 2:
            return None
        if local is None or self._is_to_be_replaced(local, n, is_set_up):
            local = self._start_for_call(n, is_set_up)
        if local is not None and n_wanted is not None:
            local.tell_of_fewer(n_wanted, n)
        return local

    def _is_to_be_replaced(self, local: LocalSession, n: int, is_set_up: bool) -> bool:
        if not local.may_be_replaced:
            return False
        return n > local.size or (is_set_up and n != local.size)

    def _may_start(self) -> bool:
        return (
            not (self._is_copy or self._has_failed or is_launched())
            and not _is_child_of_multiprocessing()
            and os.environ.get(VARIABLE) != _NONE
            and fault_of_limits() is None  # which the run says; MPI would wait, or dump its own
            and self.callers().size == 1  # also for a launcher that nobody knows
        )

    def _start_for_call(self, n: int, is_set_up: bool) -> LocalSession | None:
        # The ranks themselves, and processes that are alone, load nothing of it.
        from acme_mpi.session.local import Hold
        from acme_mpi.session.local_ranks import LocalRanks

        try:
            self._begin(lambda: LocalRanks(n), Hold.BY_SET_UP if is_set_up else Hold.BY_CALL)
        except (AcmeMpiError, OSError) as error:
            self._has_failed = True
            logger.warning("one rank calls all tasks, as no others can be started: %s", error)
            return None
        logger.info("Started %d ranks on this machine for this process", n)
        return self._local

    def _begin(self, start: Callable[[], AnyRanks], hold: Hold) -> AnyRanks:
        from acme_mpi.session.local import LocalSession

        # Ranks that are missed may only be out of reach: `start` may be to reach them again.
        if self._local is not None and not self._local.local.is_missed:
            self._local.local.stop()
        ranks = start()
        self._local = LocalSession(ranks, self, hold)
        return ranks

    def launch(self, n: int | None, gpus_per_rank: int | None = None) -> LocalRanks:
        """Start ranks on this machine because the user says so.

        Parameters
        ----------
        n : int, optional
            How many, >= 1; default one for each core that this process may use.
        gpus_per_rank : int, optional
            GPUs that each sees, >= 1; default all.

        Raises
        ------
        LaunchError
            They cannot be started, or there are such ranks already.
        """
        from acme_mpi.session.local import Hold
        from acme_mpi.session.local_ranks import LocalRanks

        n_ranks = n_busy_cores() if n is None else n
        return self.have(lambda: LocalRanks(n_ranks, gpus_per_rank), Hold.BY_USER)

    def have(self, start: Callable[[], AnyRanks], hold: Hold) -> AnyRanks:
        """Have the calls of this process go to ranks.

        Parameters
        ----------
        start : callable
            Starts them, and returns them.
        hold : Hold
            Who has asked for them.

        Raises
        ------
        LaunchError
            They cannot be started, or there are such ranks already.
        """
        with self._lock:
            local = self._with_local()
            if self._is_copy or launched_rank_and_size()[1] > 1 or self.callers().size > 1:
                raise LaunchError(
                    "this process cannot start ranks: it is one of several itself, or a fork of a "
                    "process that may have ranks"
                )
            is_there = local is not None and not local.local.is_missed
            if local is not None and is_there and not local.may_be_replaced:
                raise LaunchError(
                    f"this process has {local.size} ranks already, which are in use; stop() them, "
                    "or close what uses them, before others are started"
                )
            return self._begin(start, hold)


def _is_child_of_multiprocessing() -> bool:
    module = sys.modules.get("multiprocessing.process")
    return module is not None and module.parent_process() is not None
