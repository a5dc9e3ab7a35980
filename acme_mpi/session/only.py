"""Some of the tasks, as users name them: by their indices, or those that have failed."""

from __future__ import annotations

import numbers
from typing import Any

import numpy as np

from acme_mpi.errors import InputError, InputTypeError
from acme_mpi.history.stores import find_store
from acme_mpi.spelling import whole_number

FAILED = "failed"
OPTION, KEYWORD = "--only", "`only`"

Ranges = tuple[tuple[int, int], ...]


def parse_tasks(text: str, name: str = OPTION) -> Ranges:
    """Return half-open ranges of ``17,402-410``.

    Raises
    ------
    InputError
        It is something else.
    """
    ranges = []
    for part in text.split(","):
        ends = [whole_number(word) for word in part.partition("-")[::2] if word]
        first, last = (ends[0], ends[-1]) if ends else (None, None)
        is_one = "-" not in part
        if first is None or last is None or last < first or len(ends) != (1 if is_one else 2):
            raise InputError(
                f"{name} needs indices of tasks such as 17,402-410, or `failed`, not {text!r}"
            )
        ranges.append((first, last + 1))
    return tuple(ranges)


def check_only(only: Ranges | None, n_tasks: int, name: str = OPTION) -> None:
    """Raise InputError if there are not all of the tasks."""
    last = max((stop for _, stop in only or ()), default=0) - 1
    if last >= n_tasks:
        raise InputError(f"{name} names task {last}, and there are {n_tasks}, from 0 on")


def chosen_tasks(only: Any, n_tasks: int, kind: str) -> Ranges | None:
    """Return the ranges of tasks that Python's keyword names; None for all, and for failed ones.

    Parameters
    ----------
    only : None, int, sequence of int, or str
        Indices; as text ``"17,402-410"``, or ``"failed"``.
    n_tasks : int
        How many there are.
    kind : str
        Of the store.

    Raises
    ------
    InputTypeError, InputError
        It names no tasks, or some that do not exist; or results do not go to files.
    """
    if only is None:
        return None
    if not find_store(kind).writes_files:
        raise InputError(f"{KEYWORD} needs results in files; leave out write_worker_results=False")
    if isinstance(only, str):
        ranges = None if only == FAILED else parse_tasks(only, KEYWORD)
    else:
        ranges = _ranges_of(_indices(only))
    check_only(ranges, n_tasks, KEYWORD)
    return ranges


def _indices(only: Any) -> Any:
    """Return indices of tasks, in order, each once."""
    entries = [only] if isinstance(only, numbers.Integral) else only
    if not isinstance(entries, (list, tuple, range, set, frozenset, np.ndarray)):
        raise InputTypeError(
            f"{KEYWORD} has to be None, indices of tasks such as [17, 402], '17,402-410', or "
            f"'failed', not {only!r:.80}"
        )
    for each in [] if isinstance(entries, range) else entries:
        is_index = isinstance(each, numbers.Integral) and not isinstance(each, (bool, np.bool_))
        if not is_index:
            raise InputTypeError(f"{KEYWORD} holds {each!r:.80}, which is no index of a task")
    indices = sorted({int(each) for each in entries})
    if not indices:
        raise InputError(f"{KEYWORD} names no task; leave it out to call all of them")
    if indices[0] < 0:
        raise InputError(f"{KEYWORD} names task {indices[0]}; indices begin with 0")
    return np.array(indices, object if indices[-1] >= 2**62 else np.int64)


def _ranges_of(indices: Any) -> Ranges:
    """Return half-open ranges of indices that are in order."""
    is_new = np.flatnonzero(np.diff(indices) != 1) + 1
    firsts, lasts = indices[[0, *is_new]], indices[[*(is_new - 1), -1]]
    return tuple((int(first), int(last) + 1) for first, last in zip(firsts, lasts, strict=True))
