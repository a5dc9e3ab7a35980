"""What is told of a task that has failed, whatever its exception does."""

from __future__ import annotations

from typing import Any

from acme_mpi.results.convert import ResultError
from acme_mpi.runner.trace import traceback_text
from acme_mpi.tasks.frames import innermost_line, user_frames
from acme_mpi.tasks.pickling import text_of
from acme_mpi.tasks.taskset import TaskSet

FailureFields = dict[str, Any]

# Type of a failure that is the storage medium's; no exception class can have this name.
MEDIUM = "<medium>"
DIED = "died"  # field of a failure by which the runner has ended
_TEXTS = ("message", "location", "traceback", "call")


class MediumError(Exception):
    """The storage medium refused an array that a runner was to put in its place."""


def describe_failure(
    error: BaseException, index: int, name: str, tasks: TaskSet | None
) -> FailureFields:
    """Return the fields of a `Failure`; never raises, whatever the exception does.

    Else the task would count as done, and what was raised here as the fault of the next one.
    """
    try:
        return _described(error, index, name, tasks)
    except BaseException:  # there may be no memory
        kind = type(error).__name__
        return dict.fromkeys(_TEXTS, "") | {"index": index, "type": kind}


def _described(error: BaseException, index: int, name: str, tasks: TaskSet | None) -> FailureFields:
    frames = user_frames(error)
    location = innermost_line(frames)
    if isinstance(error, SystemExit):
        kind, message = "exit", f"the function called sys.exit({text_of(error.code, repr)})"
    elif isinstance(error, MediumError):
        kind, message, frames = MEDIUM, text_of(error), []
    elif isinstance(error, ResultError):
        kind, message, location, frames = "ResultError", error.told, "", []
    else:
        kind, message = type(error).__name__, text_of(error)
        if kind == "ValueError" and message.endswith("is read-only"):
            message += " (arrays among the arguments are shared by all tasks: write into a copy)"
    return {
        "index": index,
        "type": kind,
        "message": message,
        "location": location,
        "traceback": traceback_text(error) if frames else "",
        "call": call_text(index, name, tasks),
    }


def call_text(index: int, name: str, tasks: TaskSet | None) -> str:
    """Return a call as text, whatever its arguments do to that; empty if it cannot be had."""
    try:
        return tasks.call_text(name, index) if tasks is not None else ""
    except (Exception, SystemExit):
        return ""
