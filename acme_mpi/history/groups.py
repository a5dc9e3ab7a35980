"""Failures that are alike, of a run that may have a million: all are counted, few are read."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np

from acme_mpi.errors import alike
from acme_mpi.history.journal import Block
from acme_mpi.history.parsing import MOST_BYTES
from acme_mpi.history.records import (
    TOLD_OF_FAILURES,
    said_of_failures,
    speak_of,
)
from acme_mpi.history.told import Told, is_given_up
from acme_mpi.results.checksum import checksum

Positions = np.ndarray[Any, np.dtype[np.int64]]  # among the blocks of a `Told`
MOST_GROUPS = 100  # that are read; failures of a million kinds are nothing for people
N_INDICES = 5


@dataclass(frozen=True)
class FailureGroup:
    """Tasks that have failed alike.

    Attributes
    ----------
    type, location, message : str
        As in `Failure`; the message is the first task's.
    n_tasks : int
        How many.
    first_indices : list of int
        The first few of them.
    reproduce : str
        Command or call that runs the first one; empty if unknown.
    traceback : str
        The first task's, as in `Failure`.
    """

    type: str
    location: str
    message: str
    n_tasks: int
    first_indices: list[int]
    reproduce: str
    traceback: str = ""


class Groups(NamedTuple):
    """The failures of a run.

    Attributes
    ----------
    n_failed : int
        Tasks that were given up.
    n_groups : int
        How many kinds of failures there are.
    largest : list of FailureGroup
        At most `MOST_GROUPS`, the largest first.
    """

    n_failed: int
    n_groups: int
    largest: list[FailureGroup]


def likeness(said: dict[str, Any]) -> int:
    """Return the number that stands in the records of failures that are alike, in [1, 2**50].

    Parameters
    ----------
    said : dict
        The type, location and message of one.
    """
    text = "\0".join(alike(said["type"], said["location"], said["message"]))
    return 1 + checksum(text.encode(errors="replace")) % MOST_BYTES


def groups_of(told: Told) -> Groups:
    """Return the tasks that were given up; files are read for one of each group."""
    texts = _Texts(told)
    failed = _given_up(told)
    numbers = told.blocks["offset"][failed]
    for at in np.flatnonzero(numbers == 0).tolist():  # by a writer that does not number them
        numbers[at] = likeness(texts.said(failed[at]))
    order = np.argsort(numbers, kind="stable")
    starts = np.flatnonzero(np.diff(numbers[order], prepend=0))
    sizes = np.diff(starts, append=len(order))
    by_size = np.lexsort((order[starts], -sizes))
    largest = [
        _group(told, texts, failed[order[starts[at] : starts[at] + sizes[at]]])
        for at in by_size[:MOST_GROUPS].tolist()
    ]
    return Groups(len(failed), len(starts), largest)


def _given_up(told: Told) -> Positions:
    """Return the last block of each task that was given up and has no result, in task order."""
    # Not the blocks themselves, of which there may be a million: copies take their time.
    final = np.flatnonzero(is_given_up(told.blocks))[::-1]
    indices, last = np.unique(told.blocks["first"][final], return_index=True)
    is_open = ~speak_of(told.history.done, indices) & (indices < told.description.n_tasks)
    found: Positions = final[last[is_open]]
    return found


def _group(told: Told, texts: _Texts, failed: Positions) -> FailureGroup:
    indices, debug = told.blocks["first"][failed[:N_INDICES]].tolist(), told.description.debug
    said = texts.said(failed[0])
    return FailureGroup(
        said["type"],
        said["location"],
        said["message"],
        len(failed),
        indices,
        debug.format(index=indices[0]) if debug else said["call"],
        texts.traceback(failed[0], said),
    )


class _Texts:
    """What is said of single failures, read from the journals."""

    def __init__(self, told: Told) -> None:
        self._told = told
        self._failed = np.flatnonzero(told.blocks["kind"] == Block.FAILED)
        self._indices = told.blocks["first"][self._failed]

    def said(self, at: int) -> dict[str, Any]:
        """Return what is said of a failure, as `said_of_failures`."""
        place, piece = self._told.piece_of(self._told.blocks[at])
        _, said = next(said_of_failures(place, piece), (0, _GONE))
        return {**dict.fromkeys(TOLD_OF_FAILURES, ""), **said}

    def traceback(self, at: int, said: dict[str, Any]) -> str:
        """Return the traceback of a failure of which this is said."""
        found = said["traceback"]
        if isinstance(found, str):
            return found
        # That of another task of the same rank, which was the first to have it.
        told = (self.said(each)["traceback"] for each in self._beside(at, found))
        return next((each for each in told if each and isinstance(each, str)), "")

    def _beside(self, at: int, index: int) -> Iterator[int]:
        """Yield the failures of a task in the journal in which that one stands."""
        place = self._told.blocks[["run", "rank"]]
        return (each for each in self._failed[self._indices == index] if place[each] == place[at])


_GONE = {"type": "unknown", "message": "its record is gone"}
