"""Load what a runner is assigned: function, tasks, and what takes their results."""

from __future__ import annotations

import pickle
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

from acme_mpi.errors import LoadingError
from acme_mpi.linux.offsets import reason
from acme_mpi.results.encoder import Encoder, Place, Ways, encoder_of
from acme_mpi.results.spec import RowSpec
from acme_mpi.runner.base import Assignment
from acme_mpi.runner.failure import MediumError
from acme_mpi.tasks.packing import unpack
from acme_mpi.tasks.pickling import Frozen, dump_values, pickle_result, text_of
from acme_mpi.tasks.taskset import TaskSet


def load_assignment(assignment: Assignment) -> tuple[Callable[..., Any], TaskSet]:
    """Return function and tasks, loaded where the caller is.

    Raises
    ------
    BaseException
        Whatever the user's modules and objects raise.
    """
    assignment.surroundings.take_on()
    assert assignment.packed is not None
    func, tasks = unpack(assignment.packed)
    if assignment.func is not None:
        func = pickle.loads(assignment.func)
    assert func is not None
    return func, tasks


def load_tasks(assignment: Assignment) -> TaskSet:
    """Return the tasks alone, for a process that has the function itself.

    Raises
    ------
    BaseException
        Whatever the user's objects raise.
    """
    assert assignment.packed is not None
    return unpack(assignment.packed)[1]


def reason_unready(error: BaseException, host: str = "") -> str:
    """Return why a function could not be loaded, on which host only where that matters."""
    if isinstance(error, LoadingError):
        return str(error)
    where = f"{host}: " if host else ""
    return f"{where}{type(error).__name__}: {text_of(error)}"


def make_encoder(assignment: Assignment, place: Place | None = None) -> Encoder:
    """Return what takes the return values of an assignment's tasks."""
    folder = assignment.folder
    return encoder_of(
        assignment.spec,
        assignment.in_memory,
        Ways(place, dump_values, Frozen, pickle_result, assignment.may_pickle),
        as_pickles=assignment.as_pickles,
        names=assignment.names,
        agree=partial(_agreed_names, folder) if folder else None,
        agree_on_form=partial(_agreed_form, folder) if folder else None,
    )


def _agreed_names(folder: str, names: tuple[str, ...]) -> tuple[str, ...]:
    """Return the names that the results of a run have."""
    from acme_mpi.results.form import NAMES, agreed  # results in memory have none

    with _saying(folder):
        return tuple(agreed(folder, {NAMES: names})[NAMES])


def _agreed_form(folder: str, form: RowSpec) -> RowSpec:
    """Return the form that the first result of a run has, wherever it ended."""
    from acme_mpi.results.form import ROWS, agreed  # most runs know it before

    with _saying(folder):
        return RowSpec.from_listed(agreed(folder, {ROWS: form.listed()})[ROWS])


@contextmanager
def _saying(folder: str) -> Iterator[None]:
    """Context in which the medium may refuse to say, or to note, the form of results.

    Raises
    ------
    MediumError
        It did.
    """
    try:
        yield
    except (OSError, ValueError, KeyError, TypeError) as error:
        text = reason(error, folder) if isinstance(error, OSError) else error
        raise MediumError(f"cannot read or write the form of results in {folder}: {text}") from None
