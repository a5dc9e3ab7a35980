"""What the tasks of one function have returned: each is read when it is asked for."""

from __future__ import annotations

import logging
import operator
import pickle
import shlex
from collections.abc import Iterator, Sequence
from functools import cached_property
from typing import Any, NamedTuple, SupportsIndex, overload

import numpy as np

from acme_mpi.errors import Failure, InputError, InputTypeError, NoResultError, StoreError
from acme_mpi.history.parsing import Damaged
from acme_mpi.history.status import damages_text
from acme_mpi.history.stores import PICKLE
from acme_mpi.reading.arguments import Arguments
from acme_mpi.reading.recorded import Array, Recorded
from acme_mpi.results.foreign import plain_value, restore
from acme_mpi.storage.labels import read_labels
from acme_mpi.storage.reading import Found, Reader
from acme_mpi.tasks.labels import Labels

logger = logging.getLogger("acme_mpi")


class FailedTask(NamedTuple):
    """A task that was given up.

    Attributes
    ----------
    task : int
        Its index.
    arguments : dict
        Those that are known, by name.
    error : str
        Class and text of the exception, or what has ended the process.
    """

    task: int
    arguments: dict[str, Any]
    error: str


class Values(Sequence[Any]):
    """What the tasks of a function have returned, by their indices, and what is known of them.

    Parameters
    ----------
    recorded : Recorded
        What the journals say.
    allow_pickle : bool
        Load results that were pickled; a pickle can run any code.

    Attributes
    ----------
    name : str
        Of the function.
    directory : str
        Where the results are.
    recorded : Recorded
        What the journals say.
    reader : Reader
        What reads the files.
    """

    def __init__(self, recorded: Recorded, allow_pickle: bool = False) -> None:
        self.recorded, self._allow_pickle = recorded, allow_pickle
        self.name, self.directory = recorded.description.name, recorded.directory
        for text in damages_text(recorded.history.damages):
            logger.warning("%s; whatever else is recorded is used", text)
        self.reader = Reader(
            recorded.layout, recorded.description, recorded.history.done, recorded.is_running
        )

    def __len__(self) -> int:
        """Return the number of tasks, whether they are done or not."""
        return self.recorded.description.n_tasks

    @overload
    def __getitem__(self, index: SupportsIndex) -> Any: ...
    @overload
    def __getitem__(self, index: slice) -> list[Any]: ...
    def __getitem__(self, index: Any) -> Any:
        """Return what one task has returned, or some of them.

        Raises
        ------
        NoResultError
            A task has failed, has not ended, or does not exist.
        StoreError
            A file cannot be read.
        InputError
            The result is a pickle, which is not loaded unasked; or `index` is no integer or slice.
        """
        if isinstance(index, slice):
            return [self[k] for k in range(*index.indices(len(self)))]
        try:
            number = operator.index(index)
        except TypeError:
            raise InputTypeError(
                f"results are taken by tasks, an integer or a slice like [2:5], not {index!r:.60}; "
                "names are those of one result, results[7]['name'], and of to_xarray()['name']"
            ) from None
        task = number + len(self) if number < 0 else number
        if not 0 <= task < len(self):
            raise NoResultError(f"{self.name} has {len(self)} tasks, and there is no task {number}")
        if self.reader.record_of(task) is None:
            raise NoResultError(self._why_missing(task))
        return self._value(task, self.reader.read(task))

    def __iter__(self) -> Iterator[Any]:
        return (self[task] for task in range(len(self)))

    def items(self) -> Iterator[tuple[int, Any]]:
        """Yield (index, what it has returned) of the tasks that have results."""
        return ((task, self[task]) for task in np.flatnonzero(self.recorded.is_done).tolist())

    def _why_missing(self, task: int) -> str:
        failure = self.recorded.history.failed.get(task)
        if failure is not None:
            return f"task {task} of {self.name} has failed: {error_text(failure)}"
        status = f"python -m acme_mpi status {shlex.quote(self.directory)}"
        what_next = (
            "open the results again later, as they are being computed"
            if self.recorded.is_running()
            else f"`{status}` says how to resume the run"
        )
        return f"task {task} of {self.name} has no result yet; {what_next}"

    def _value(self, task: int, found: Found) -> Any:
        if found.pickled is not None:
            return self._unpickled(task, found.pickled)
        if found.note:
            return self._restored(task, found)
        values = list(map(plain_value, found.parts))
        if any(name != f"result_{k}" for k, name in enumerate(found.names)):
            return dict(zip(found.names, values, strict=True))
        return values[0] if len(values) == 1 else tuple(values)

    def _restored(self, task: int, found: Found) -> Any:
        """Return what was a value of another library."""
        try:
            return restore(found.note, dict(zip(found.names, found.parts, strict=True)))
        except ImportError as error:
            raise InputError(
                f"the result of task {task} needs {error.name}, which is not installed: "
                f"pip install {error.name}"
            ) from None
        except (KeyError, TypeError, ValueError) as error:
            raise StoreError(f"the result of task {task} cannot be made again: {error}") from None

    def _unpickled(self, task: int, data: bytes) -> Any:
        if not self._allow_pickle:
            raise InputError(
                f"the result of task {task} is a pickle, and a pickle can run any code when it is "
                "loaded; if you trust the files: acme_mpi.open(..., allow_pickle=True)"
            )
        value = pickle.loads(data)
        if self.recorded.description.kind == PICKLE.name:
            return value
        # Beside HDF5 files the list of all return values is pickled.
        return value[0] if len(value) == 1 else tuple(value)

    @cached_property
    def labels(self) -> Labels:
        """What the tasks are known by, and how the results were made."""
        return read_labels(self.recorded.layout.dot_folder, len(self), _warn)

    @cached_property
    def arguments(self) -> Arguments:
        """The split arguments: a mapping of names to arrays with one value per task.

        Those that are numbers, booleans, strings or times.
        """
        return Arguments(self.labels, len(self))

    @property
    def names(self) -> tuple[str, ...]:
        """The names of what a task returns, as the first one that is done has them."""
        done = np.flatnonzero(self.recorded.is_done)
        return tuple(self.reader.form(int(done[0])).names) if len(done) else ()

    @property
    def failed(self) -> list[FailedTask]:
        """The tasks that were given up: (task, arguments, error) each."""
        return self.failed_in(range(len(self)))

    def failed_in(self, tasks: range) -> list[FailedTask]:
        """Return those of some tasks that were given up."""
        return [
            FailedTask(each.index, self.arguments.of_task(each.index), error_text(each))
            for each in self.recorded.failures
            if each.index in tasks
        ]

    @property
    def missing(self) -> Array:
        """The tasks without a result, failed ones too, (n,) ndarray of int64."""
        return np.flatnonzero(~self.recorded.is_done)

    @property
    def durations(self) -> Array:
        """Seconds that each task took, (n_tasks,) ndarray of float64; NaN where not recorded."""
        return self.recorded.durations

    @property
    def attributes(self) -> dict[str, Any]:
        """How the results were made, and the arguments that all tasks share."""
        return {**self.labels.facts, **self.labels.shared}

    def counts_text(self) -> str:
        """Return how many tasks are done, in words."""
        n_done, n_failed = int(self.recorded.is_done.sum()), len(self.recorded.failures)
        n_open = len(self) - n_done - n_failed
        parts = [f"{n_done} of {len(self)} tasks done"]
        parts += [f"{n_failed} failed"] if n_failed else []
        parts += [f"{n_open} open"] if n_open else []
        return ", ".join(parts)


def _warn(damage: Damaged) -> None:
    logger.warning("%s; the tasks have no such labels", damage)


def error_text(failure: Failure) -> str:
    """Return why a task has failed, in one line."""
    kind, *words = failure.type, *failure.message.split()
    return " ".join([f"{kind}:", *words]) if words else kind
