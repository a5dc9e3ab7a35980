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
    Record,
    Records,
    said_of_failures,
    speak_of,
)
from acme_mpi.history.told import Told, is_given_up
from acme_mpi.results.checksum import checksum

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
    numbers = failed["offset"].copy()
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


def _given_up(told: Told) -> Records:
    """Return the last record of each task that was given up and has no result, in task order."""
    final = told.blocks[is_given_up(told.blocks)][::-1]
    indices, last = np.unique(final["first"], return_index=True)
    is_open = ~speak_of(told.history.done, indices) & (indices < told.description.n_tasks)
    return final[last[is_open]]


def _group(told: Told, texts: _Texts, failed: Records) -> FailureGroup:
    first, debug = failed[0], told.description.debug
    said = texts.said(first)
    return FailureGroup(
        said["type"],
        said["location"],
        said["message"],
        len(failed),
        failed["first"][:N_INDICES].tolist(),
        debug.format(index=int(first["first"])) if debug else said["call"],
        texts.traceback(first, said),
    )


class _Texts:
    """What is said of single failures, read from the journals."""

    def __init__(self, told: Told) -> None:
        self._told = told
        self._failed = told.blocks[told.blocks["kind"] == Block.FAILED]
        self._indices = self._failed["first"].copy()

    def said(self, record: Record) -> dict[str, Any]:
        """Return what is said of a failure, as `said_of_failures`."""
        place, piece = self._told.piece_of(record)
        _, said = next(said_of_failures(place, piece), (0, _GONE))
        return {**dict.fromkeys(TOLD_OF_FAILURES, ""), **said}

    def traceback(self, record: Record, said: dict[str, Any]) -> str:
        """Return the traceback of a failure of which this is said."""
        found = said["traceback"]
        if isinstance(found, str):
            return found
        # That of another task of the same rank, which was the first to have it.
        told = (self.said(each)["traceback"] for each in self._beside(record, found))
        return next((each for each in told if each and isinstance(each, str)), "")

    def _beside(self, record: Record, index: int) -> Iterator[Record]:
        """Yield the failures of a task in the journal in which a record stands."""
        for at in np.flatnonzero(self._indices == index).tolist():
            each = self._failed[at]
            if (each["run"], each["rank"]) == (record["run"], record["rank"]):
                yield each


_GONE = {"type": "unknown", "message": "its record is gone"}
