"""The end of a script that runs on all ranks: one rank that fails does not leave others waiting.

An uncaught exception ends the job, as with ``python -m mpi4py``, unless all ranks end soon after
it: they often raise alike. A rank that has ended in whatever way says so to those who still wait
for it in a call, who then end the job.
"""

from __future__ import annotations

import atexit
import os
import sys
import time
from types import TracebackType
from typing import Any

import numpy as np

from acme_mpi.comm.base import TAG_LEFT, Backoff
from acme_mpi.comm.launcher import leave_if_orphaned

GRACE_S = 2.0
N_TOLD = 64  # ranks: among many more, it is enough that some of them end the job


class End:
    """The end of one rank among the others'. Collective over `comm`.

    Parameters
    ----------
    comm : mpi4py.MPI.Intracomm
        Of the calls; those who wait in one listen there.
    """

    def __init__(self, comm: Any) -> None:
        self._comm, self._all = comm, comm.Dup()
        self._parent, self._process = os.getppid(), os.getpid()
        self._has_failed = False
        self._before = sys.excepthook
        sys.excepthook = self._note
        atexit.register(self._leave)

    def _note(
        self, kind: type[BaseException], error: BaseException, trace: TracebackType | None
    ) -> None:
        self._before(kind, error, trace)
        self._has_failed = os.getpid() == self._process

    def _leave(self) -> None:
        """Wait for all others' ends, asleep; end the job if they do not follow a failure."""
        from mpi4py import MPI

        if MPI.Is_finalized() or os.getpid() != self._process:
            return
        everyone, backoff = self._all.Ibarrier(), Backoff()
        give_up_s, is_told = time.monotonic() + GRACE_S, False
        while not everyone.Test():
            backoff.sleep()
            leave_if_orphaned(self._parent)
            if time.monotonic() < give_up_s:
                continue
            if self._has_failed:
                sys.stdout.flush()
                sys.stderr.flush()
                self._comm.Abort(1)
            if not is_told:
                is_told = True
                for rank in range(min(self._comm.size, N_TOLD)):
                    if rank != self._comm.rank:
                        self._comm.Isend(np.zeros(1, np.int64), rank, TAG_LEFT)


def left_rank(comm: Any) -> int | None:
    """Return a rank that has said that its script has ended, None for none."""
    from mpi4py import MPI

    status = MPI.Status()
    return status.Get_source() if comm.Iprobe(MPI.ANY_SOURCE, TAG_LEFT, status) else None
