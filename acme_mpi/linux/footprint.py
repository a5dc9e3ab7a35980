"""The memory of a process with all that it has started."""

from __future__ import annotations

import os
import resource
import time
from collections import defaultdict
from collections.abc import Callable
from contextlib import suppress
from typing import Generic, TypeVar

from acme_mpi.linux.memory import kilobytes_field
from acme_mpi.linux.processes import children_of, process_ids, stat_of

SHARE = 0.05  # of a core, at most, is spent on looks that may take long

Given = TypeVar("Given")
Found = TypeVar("Found")


class Footprint:
    """The anonymous resident memory of a process and its descendants.

    Files and shared memory that a process has mapped do not count: they are not its own.

    Parameters
    ----------
    pid : int
        The process.
    """

    def __init__(self, pid: int) -> None:
        self._family = [pid]
        self._find, self._measure = _Rationed(with_descendants), _Rationed(exact_bytes)
        self.last_bytes = 0

    def above(self, n_bytes: int) -> int:
        """Return the memory in use if it is more than `n_bytes`, else 0."""
        self._family = self._find(self._family[0]) or self._family
        used: int | None = sum(map(anonymous_bytes, self._family))
        # Pages that forked processes share were counted once for each of them, and on many cores
        # the cheap figures are rough.
        if used and used > n_bytes:
            used = self._measure(self._family)
        if used is None:
            return 0
        self.last_bytes = used
        return used if used > n_bytes else 0


class _Rationed(Generic[Given, Found]):
    """A function that is called only as often as its duration allows; None in between."""

    def __init__(self, func: Callable[[Given], Found]) -> None:
        self._func, self._not_before_s = func, 0.0

    def __call__(self, given: Given) -> Found | None:
        begin_s = time.monotonic()
        if begin_s < self._not_before_s:
            return None
        found = self._func(given)
        now_s = time.monotonic()
        self._not_before_s = now_s + (now_s - begin_s) / SHARE
        return found


def anonymous_bytes(pid: int) -> int:
    """Return the anonymous resident memory of a process; 0 if it has gone."""
    try:
        with open(f"/proc/{pid}/statm", "rb") as file:
            resident, shared = file.read().split()[1:3]
    except OSError:
        return 0
    return (int(resident) - int(shared)) * resource.getpagesize()


def exact_bytes(pids: list[int]) -> int:
    """Return the same for several processes, where pages that they share count once.

    Takes a millisecond and more for each gigabyte.
    """
    found = ((kilobytes_field(f"/proc/{pid}/smaps_rollup", "Pss_Anon"), pid) for pid in pids)
    return sum(anonymous_bytes(pid) if n is None else n for n, pid in found)


def with_descendants(pid: int, proc: str = "/proc") -> list[int]:
    """Return a process and all that it, or those, have started and that are there."""
    is_told = os.path.exists(f"{proc}/{pid}/task/{pid}/children")  # not by every kernel
    everybody = {} if is_told else _all_children(proc)
    family = [pid]
    for member in family:
        family += children_of(member, proc) if is_told else everybody.get(member, [])
    return family


def _all_children(proc: str) -> dict[int, list[int]]:
    """Return the children of every process of this machine that has any."""
    children = defaultdict[int, list[int]](list)
    for pid in process_ids(proc):
        with suppress(OSError):
            children[stat_of(pid, proc).parent].append(pid)
    return children
