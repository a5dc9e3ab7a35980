"""What workers report to the master, and what it orders: small values that travel as integers.

A message is `MESSAGE_INTS` 64-bit integers at most: the number of its type, and its fields.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple


class Joined(NamedTuple):
    """The worker can call tasks."""


class Ended(NamedTuple):
    """Tasks have ended that lie in one chunk.

    Attributes
    ----------
    start, stop : int
        Half-open range of task indices.
    n_closed : int
        1 if nothing is left of the chunk.
    n_failed : int
        How many of the tasks have failed for good.
    busy_ns : int
        How long they took, in nanoseconds.
    n_again : int
        How many have failed, but not for good: each has an `Again` of its own before.
    """

    start: int
    stop: int
    n_closed: int
    n_failed: int
    busy_ns: int
    n_again: int


class Again(NamedTuple):
    """A task has failed, but not for good.

    Attributes
    ----------
    task : int
        Its index.
    n_raised, n_crashed : int
        How often it has raised, and killed its runner.
    """

    task: int
    n_raised: int
    n_crashed: int


class GivenBack(NamedTuple):
    """Tasks have not been called and go to another worker.

    Attributes
    ----------
    start, stop : int
        Half-open range of task indices.
    n_closed : int
        1 if nothing is left of the chunk.
    n_raised, n_crashed : int
        As of `Again`, of a single task; else 0.
    """

    start: int
    stop: int
    n_closed: int
    n_raised: int
    n_crashed: int


class Retired(NamedTuple):
    """The worker takes no more chunks; those on their way to it will be given back."""


class StorageLost(NamedTuple):
    """Results cannot be written: nobody shall start anything new."""


class Left(NamedTuple):
    """The worker has seen the `Stop`; nothing follows."""


class Alive(NamedTuple):
    """The worker has nothing else to report for a while."""


class DrainAsked(NamedTuple):
    """A signal has asked the worker's rank to end the run.

    Attributes
    ----------
    signal : int
        Its number.
    """

    signal: int


class CallChunk(NamedTuple):
    """Call these tasks, which are a chunk.

    Attributes
    ----------
    start, stop : int
        Half-open range of task indices.
    n_raised, n_crashed : int
        As of `Again`, of a single task; else 0.
    """

    start: int
    stop: int
    n_raised: int = 0
    n_crashed: int = 0


class Stop(NamedTuple):
    """Leave, whatever is running."""


class Drain(NamedTuple):
    """Begin no further task, and give back what is not begun."""


class Limit(NamedTuple):
    """How long a task may take from now on.

    Attributes
    ----------
    ns : int
        In nanoseconds.
    """

    ns: int


Report = Joined | Ended | Again | GivenBack | Retired | StorageLost | Left | Alive | DrainAsked
Order = CallChunk | Stop | Drain | Limit

_TYPES: tuple[Any, ...] = (
    Joined,
    Ended,
    Again,
    GivenBack,
    Retired,
    StorageLost,
    Left,
    Alive,
    DrainAsked,
    CallChunk,
    Stop,
    Drain,
    Limit,
)
_NUMBERS = {kind: number for number, kind in enumerate(_TYPES, 1)}
_N_FIELDS = [0, *(len(kind._fields) for kind in _TYPES)]


def to_ints(message: Report | Order) -> tuple[int, ...]:
    """Return the integers by which a message travels."""
    return (_NUMBERS[type(message)], *message)


def from_ints(numbers: Sequence[int]) -> Any:
    """Return the `Report` or `Order` that integers stand for, whatever follows them."""
    number = numbers[0]
    return _TYPES[number - 1](*numbers[1 : 1 + _N_FIELDS[number]])
