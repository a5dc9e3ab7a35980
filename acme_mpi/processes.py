"""What the kernel tells of processes, see proc(5)."""

from __future__ import annotations

import os
from typing import NamedTuple


class Stat(NamedTuple):
    """A line of ``/proc/<pid>/stat``.

    Attributes
    ----------
    name : str
        Of the program, its first 15 bytes; may hold anything.
    state : str
        One letter: ``T`` or ``t`` if it is stopped, ``Z`` or ``X`` if it has ended.
    parent : int
        Its parent's id.
    started : int
        When it was started, in clock ticks after the boot.
    """

    name: str
    state: str
    parent: int
    started: int


def stat_of(pid: int, proc: str = "/proc") -> Stat:
    """Return what is told of a process.

    Parameters
    ----------
    pid : int
        Its id.
    proc : str
        Where the kernel tells it.

    Raises
    ------
    OSError
        It has ended, or is hidden from this user (mount option hidepid).
    """
    with open(f"{proc}/{pid}/stat", "rb") as file:
        # The name stands in parentheses.
        head, _, tail = file.read().rpartition(b")")
    fields = tail.split()
    name = os.fsdecode(head.partition(b"(")[2])
    return Stat(name, fields[0].decode(), int(fields[1]), int(fields[19]))


def children_of(pid: int, proc: str = "/proc") -> list[int]:
    """Return the children of all threads of a process; none if it has ended."""
    children: list[int] = []
    try:
        for thread in os.listdir(f"{proc}/{pid}/task"):
            with open(f"{proc}/{pid}/task/{thread}/children", "rb") as file:
                children += map(int, file.read().split())
    except OSError:
        pass  # it, or the thread, has ended meanwhile
    return children


def command_line(pid: int) -> list[str]:
    """Return the words that have started a program; none if it has ended."""
    try:
        with open(f"/proc/{pid}/cmdline", "rb") as file:
            return [os.fsdecode(word) for word in file.read().split(b"\0")[:-1]]
    except OSError:
        return []
