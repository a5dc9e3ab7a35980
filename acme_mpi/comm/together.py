"""The end of a script that runs on all ranks: one rank that fails does not leave others waiting.

An uncaught exception ends the job, as with ``python -m mpi4py``, unless all ranks end soon after
it: they often raise alike. So does ``sys.exit(n)``, but it leaves the others more time, as it is
meant. A rank that has ended in whatever way says so to those who still wait for it in a call, who
then end the job with its status.
"""

from __future__ import annotations

import atexit
import builtins
import contextlib
import logging
import os
import sys
import threading
import time
from types import TracebackType
from typing import Any, NamedTuple, NoReturn

import numpy as np

from acme_mpi.comm.base import TAG_LEFT, Backoff
from acme_mpi.comm.launcher import leave_if_orphaned

logger = logging.getLogger("acme_mpi")

GRACE_S = 2.0
EXIT_GRACE_S = 10.0  # after sys.exit(n): the others may be at what they have to do without it
N_TOLD = 64  # ranks: among many more, it is enough that some of them end the job


class Left(NamedTuple):
    """A rank whose script has ended, and its status."""

    rank: int
    status: int


_STATUS = [0]  # of this process, as far as it is known


class _Ending:
    """What goes with the SystemExit of a status: whether that ends the script, or is caught."""

    def __init__(self, status: int) -> None:
        self._status = status

    def __del__(self) -> None:
        # Nothing of Python is below: the interpreter itself has taken it.
        if sys._getframe().f_back is None and threading.current_thread() is threading.main_thread():
            _STATUS[0] = self._status

    def __reduce__(self) -> tuple[Any, ...]:
        return type(None), ()  # it means nothing in another process


def _exit(status: Any = None, /) -> NoReturn:
    error = SystemExit() if status is None else SystemExit(status)
    # As the interpreter does: what is no number is printed, and is a failure.
    number = 0 if status is None else status & 0xFF if isinstance(status, int) else 1
    error.__dict__["_ending"] = _Ending(number)
    try:
        raise error
    finally:
        del error  # or its traceback, of which this frame is a part, would keep it


def _replace_exits() -> None:
    """Have all the ways in which a script calls its end go through `_exit`."""
    sys.exit = _exit
    quitter = type(getattr(builtins, "exit", None))
    if quitter.__module__ == "_sitebuiltins":  # not what IPython, say, has put in its place

        def call(self: object, code: Any = None) -> NoReturn:
            with contextlib.suppress(Exception):
                sys.stdin.close()  # as Python's own does, for shells that catch SystemExit
            _exit(code)

        quitter.__call__ = call  # type: ignore[method-assign]


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
        self._has_raised = False
        self._before = sys.excepthook
        sys.excepthook = self._note
        _replace_exits()
        atexit.register(self._leave)

    def _note(
        self, kind: type[BaseException], error: BaseException, trace: TracebackType | None
    ) -> None:
        self._before(kind, error, trace)
        self._has_raised = os.getpid() == self._process

    def _leave(self) -> None:
        """Wait for all others' ends, asleep; end the job if they do not follow a failure."""
        from mpi4py import MPI

        if MPI.Is_finalized() or os.getpid() != self._process:
            return
        everyone, backoff = self._all.Ibarrier(), Backoff()
        start_s, is_told = time.monotonic(), False
        status = 1 if self._has_raised else _STATUS[0]
        while not everyone.Test():
            backoff.sleep()
            leave_if_orphaned(self._parent)
            waited_s = time.monotonic() - start_s
            if status and waited_s > (GRACE_S if self._has_raised else EXIT_GRACE_S):
                self._end_job(status)
            if waited_s > GRACE_S and not is_told:
                is_told = True
                self._tell_others(status)

    def _end_job(self, status: int) -> None:
        if not self._has_raised:
            logger.error(
                "the script has ended on rank %d with status %d, and not on other ranks; the job "
                "ends",
                self._comm.rank,
                status,
            )
        sys.stdout.flush()
        sys.stderr.flush()
        self._comm.Abort(status)

    def _tell_others(self, status: int) -> None:
        message = np.array([status], np.int64)
        for rank in range(min(self._comm.size, N_TOLD)):
            if rank != self._comm.rank:
                self._comm.Isend(message, rank, TAG_LEFT)


def left_rank(comm: Any) -> Left | None:
    """Return what a rank has said whose script has ended, None for none."""
    from mpi4py import MPI

    found, message = MPI.Status(), np.zeros(1, np.int64)
    if not comm.Iprobe(MPI.ANY_SOURCE, TAG_LEFT, found):
        return None
    comm.Recv(message, found.Get_source(), TAG_LEFT)
    return Left(found.Get_source(), int(message[0]))
