"""What can go wrong, as exceptions and records.

::

    AcmeMpiError
    ├── InputError  (ValueError)     the call is wrong; found before any task runs; exit 2
    │   ├── InputTypeError (TypeError)   an option has a value of the wrong type
    │   ├── LoadingError   a call where user code is loaded, so that it has to be under a guard
    │   └── PlaceError     (OSError)     files cannot go where they were asked to go
    ├── LaunchError (RuntimeError)   launcher and MPI do not fit, or no rank can work; exit 2
    ├── NoResultError (IndexError)   a task whose result is asked for has none; exit 2
    ├── StoreError  (OSError)        the storage medium refused the results; exit 74
    ├── StoppedError (RuntimeError)  the run was ended early, the rest can be run later; exit 75
    ├── WorkerDied  (RuntimeError)   the process that called a pool's task has ended; exit 1
    └── TaskError   (RuntimeError)   some tasks failed, the others are safe; exit 1
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from acme_mpi.spelling import shortened
from acme_mpi.visible import visible

EXIT_DONE = 0
EXIT_TASKS_FAILED = 1
EXIT_USAGE = 2
EXIT_RANK_LOST = 69
EXIT_INTERNAL = 70
EXIT_STORAGE = 74
EXIT_STOPPED = 75


class AcmeMpiError(Exception):
    """Base of every error that acme_mpi raises on purpose."""

    exit_code = EXIT_USAGE

    def __str__(self) -> str:
        """Return the message as it may be shown; `args` has it as it was."""
        return visible(super().__str__())


class InputError(AcmeMpiError, ValueError):
    """The function, its arguments or an option cannot be used; nothing has run.

    Examples
    --------
    >>> import acme_mpi
    >>> acme_mpi.map(pow, [1, 2, 3], [1, 2])
    Traceback (most recent call last):
    acme_mpi.errors.InputError: ...
    """

    def __str__(self) -> str:
        """Return the message as it may be shown; what was given wrong may be of any length."""
        return shortened(super().__str__())


class InputTypeError(InputError, TypeError):
    """An option has a value of the wrong type; also a `TypeError`, as ACME raises there."""


class LoadingError(InputError):
    """A call is made while a rank, or a process of `multiprocessing`, imports the user's module."""


class PlaceError(InputError, OSError):
    """Files cannot go where they were asked to go; also an `OSError`, as in ACME.

    Results of the same function are there already, or there is no such directory.
    """


class LaunchError(AcmeMpiError, RuntimeError):
    """The ranks of the job do not form one MPI world, or none of them can work."""


class NoResultError(AcmeMpiError, IndexError):
    """A task whose result is asked for has failed, has not ended, or does not exist.

    Examples
    --------
    >>> import acme_mpi
    >>> files = acme_mpi.map(abs, [-1, 2], output_dir="out")
    >>> acme_mpi.open("out")[2]
    Traceback (most recent call last):
    acme_mpi.errors.NoResultError: ...
    """


class StoreError(AcmeMpiError, OSError):
    """The storage medium refused data (disk full, no permission, directory gone)."""

    exit_code = EXIT_STORAGE


class StoppedError(AcmeMpiError, RuntimeError):
    """The run was ended before all tasks were run; what is done is safe.

    A signal, the time limit, or ``python -m acme_mpi stop`` asked for it. The same call with
    ``resume=True`` runs the rest.
    """

    exit_code = EXIT_STOPPED


@dataclass(frozen=True, slots=True)
class Failure:
    """One failed task.

    It is made by a run, and found in `TaskError.failures`, which has an example.

    Attributes
    ----------
    index : int
        The task's index in [0, n_tasks).
    type : str
        Name of the exception's class, or ``"killed"``, ``"exit"``, ``"protocol"`` where the runner
        itself ended, or ``"timeout"``, ``"memory"`` where the task was over a limit.
    message : str
        The exception's text, or what ended the runner (signal or exit code), or the limit.
    location : str
        ``file:line`` of the innermost frame of the user's code, else ``""``.
    traceback : str
        The formatted traceback as it was in the runner, or where the task was when it was stopped,
        else ``""``.
    call : str
        The call as text, long values shortened.
    host, rank : str, int
        Where it happened.
    attempt : int
        1 for the first attempt.
    """

    index: int
    type: str
    message: str
    location: str = ""
    traceback: str = ""
    call: str = ""
    host: str = ""
    rank: int = 0
    attempt: int = 1

    def __str__(self) -> str:
        """Return the failure in one line."""
        at = f" at {self.location}" if self.location else ""
        return visible(
            f"task {self.index} on rank {self.rank} ({self.host}){at}: {self.type}: {self.message}",
            kept="\t",
        )


class WorkerDied(AcmeMpiError, RuntimeError):
    """The process that called one task of a pool has ended, or was ended for its limits.

    All other tasks of the pool go on, with a new process. The message names what has happened (the
    signal, the exit status, or the limit), the task and its rank.

    Examples
    --------
    >>> import acme_mpi, os
    >>> with acme_mpi.Pool(on_error="return") as pool:
    ...     value, error = pool.map(lambda x: os._exit(3) if x else x, [0, 1])
    >>> value, isinstance(error, acme_mpi.WorkerDied)
    (0, True)
    """

    exit_code = EXIT_TASKS_FAILED


class TaskError(AcmeMpiError, RuntimeError):
    """Some tasks failed; the results of all others are safe.

    Attributes
    ----------
    failures : list of Failure
        Every failed task, in index order.
    results : list or ndarray or None
        What the call would have returned, with None in the place of a failed task.

    Examples
    --------
    >>> import acme_mpi, math
    >>> try:
    ...     acme_mpi.map(math.sqrt, [4, -1, 16], write_worker_results=False)
    ... except acme_mpi.TaskError as error:
    ...     print(error.results, error.failures[0].index, error.failures[0].message)
    [2.0, None, 4.0] 1 math domain error
    """

    exit_code = EXIT_TASKS_FAILED

    def __init__(self, message: str, failures: Sequence[Failure] = (), results: Any = None) -> None:
        super().__init__(message)
        self.failures = list(failures)
        self.results = results

    def __reduce__(self) -> tuple[Any, ...]:
        """Pickle with all attributes."""
        return type(self), (str(self), self.failures, self.results)


def alike(kind: str, location: str, message: str) -> tuple[str, str, str]:
    """Return what failures that are alike have in common."""
    # What has no line, such as the death of a runner, is told apart by its message.
    return kind, location, "" if location else message


def group_failures(failures: Iterable[Failure]) -> dict[tuple[str, str, str], list[Failure]]:
    """Return the failures that are alike together, the largest group first."""
    groups: dict[tuple[str, str, str], list[Failure]] = defaultdict(list)
    for failure in failures:
        groups[alike(failure.type, failure.location, failure.message)].append(failure)
    return dict(sorted(groups.items(), key=lambda item: -len(item[1])))
