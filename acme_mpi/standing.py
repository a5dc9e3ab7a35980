"""Where a call of this package stands: in a task, where a rank loads user code, or elsewhere.

A runner is never the parent of another runner. A call that a task makes is run right there, in the
task's own process. One that is made while user code is loaded, by a module without a main guard
mostly, is refused: each import would start a run, whose runners import the module again.
"""

from __future__ import annotations

import contextlib
import os
import sys
import threading
from collections.abc import Iterator, Mapping
from enum import Enum
from types import FrameType
from typing import NoReturn

from acme_mpi.errors import LoadingError

# Set for whatever a task starts; its value says which rank, so that ranks of a job that a task
# has launched are none of it.
VARIABLE = "ACME_MPI_TASK"
_WHILE_LOADING = "loading"  # its value for what a module starts when it is imported
_OF_A_RANK = (
    "PMIX_NAMESPACE",
    "PMIX_RANK",
    "PMI_FD",
    "PMI_PORT",
    "PMI_RANK",
    "OMPI_COMM_WORLD_RANK",
    "SLURM_STEP_ID",
    "SLURM_PROCID",
)
_OWN = os.path.dirname(os.path.abspath(__file__)) + os.sep


class Standing(Enum):
    """Where a call stands."""

    ELSEWHERE = 0
    LOADING = 1
    IN_TASK = 2


class _Place(threading.local):
    is_loading = False


_thread = _Place()
_process = Standing.ELSEWHERE
_lock = threading.Lock()
_n_calling = 0  # tasks that this process calls beside what else it does


def become(standing: Standing) -> None:
    """Say what this process is there for, as a runner does; its threads and forks inherit it."""
    global _process
    _process = standing
    if VARIABLE in os.environ:  # for the programs that it starts
        is_loading = standing is Standing.LOADING
        os.environ[VARIABLE] = _WHILE_LOADING if is_loading else mark_of(os.environ)


class loading:
    """Context in which this thread loads, or takes apart, user code and its arguments."""

    def __enter__(self) -> None:
        self._before, _thread.is_loading = _thread.is_loading, True

    def __exit__(self, *raised: object) -> None:
        _thread.is_loading = self._before


@contextlib.contextmanager
def calling() -> Iterator[None]:
    """Context in which this process calls a task, which may have threads and processes."""
    global _n_calling
    with _lock:
        _n_calling += 1
        if _n_calling == 1 and VARIABLE not in os.environ:
            os.environ[VARIABLE] = mark_of(os.environ)
    before, _thread.is_loading = _thread.is_loading, False
    try:
        yield
    finally:
        _thread.is_loading = before
        with _lock:
            _n_calling -= 1
            if not _n_calling and _process is Standing.ELSEWHERE:
                os.environ.pop(VARIABLE, None)


def mark_of(environ: Mapping[str, str]) -> str:
    """Return the value of `VARIABLE` that counts in an environment."""
    return " ".join(f"{name}={environ[name]}" for name in _OF_A_RANK if name in environ)


def leave_task() -> None:
    """Let this process be no part of the task that has started it: it is a job of its own.

    Raises
    ------
    LoadingError
        It was started by a module that is being imported.
    """
    if os.environ.pop(VARIABLE, None) == _WHILE_LOADING:
        raise LoadingError(
            "this command was started by a module that is imported for a task or a rank: each "
            "import would start another run\n"
            '  Put what starts it under `if __name__ == "__main__":`'
        )


def standing() -> Standing:
    """Return where a call stands that this thread makes now."""
    if _thread.is_loading or _is_spawning():
        return Standing.LOADING
    if _n_calling:
        return Standing.IN_TASK
    mark = os.environ.get(VARIABLE) if _process is Standing.ELSEWHERE else None
    if mark is not None and mark == mark_of(os.environ):
        return Standing.IN_TASK
    return _process


def is_in_task() -> bool:
    """Tell whether this thread runs in a task, or in what a task has started."""
    return standing() is Standing.IN_TASK


def refuse_while_loading() -> NoReturn:
    """Refuse a call that is made while user code is loaded: nobody waits for its run.

    Raises
    ------
    LoadingError
        With file and line of the user's call.
    """
    raise LoadingError(_text(sys._getframe(1)))


def _is_spawning() -> bool:
    """Tell whether this is a child of `multiprocessing` that imports its parent's main module."""
    module = sys.modules.get("multiprocessing.process")
    return module is not None and getattr(module.current_process(), "_inheriting", False)


def _text(frame: FrameType | None) -> str:
    called = ""
    while frame is not None and frame.f_code.co_filename.startswith(_OWN):
        called = frame.f_code.co_qualname.removesuffix(".__init__")
        frame = frame.f_back
    name, where = f"acme_mpi.{called}", _line(frame)
    while frame is not None and frame.f_code.co_name != "<module>":
        frame = frame.f_back
        if frame is not None and frame.f_code.co_filename.startswith(_OWN):
            frame = None
    if frame is None:
        return (
            f"{where} calls {name} while a function or its arguments are pickled or loaded; only "
            "the script itself and tasks can make such calls"
        )
    guarded = _line(frame)
    by_way_of = "" if guarded == where else f", by way of {guarded},"
    return (
        f"{where} calls {name}{by_way_of} while the module is imported for a task or a rank: each "
        "import would start another run\n"
        f'  Put what {guarded} does under `if __name__ == "__main__":`'
    )


def _line(frame: FrameType | None) -> str:
    return "?" if frame is None else f"{frame.f_code.co_filename}:{frame.f_lineno}"
