"""Which process is which, and what it was started by: what proc(5) tells of processes."""

from __future__ import annotations

import contextlib
import os
import socket
import struct
from typing import NamedTuple

_CREDENTIALS = struct.Struct("iII")  # process, user, group


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


def parent_of(pid: int) -> int:
    """Return the parent of a process, 0 if that cannot be known."""
    try:
        return stat_of(pid).parent
    except OSError:
        return 0


def start_of(pid: int) -> int | None:
    """Return when a process was started, in clock ticks after the boot; None if it has ended.

    Raises
    ------
    OSError
        It cannot be known.
    """
    try:
        stat = stat_of(pid)
    except (FileNotFoundError, ProcessLookupError):
        # Processes of other users may be hidden (mount option hidepid).
        try:
            os.kill(pid, 0)
        except ProcessLookupError:
            return None
        raise
    return None if stat.state in ("Z", "X") else stat.started


class Machine(NamedTuple):
    """What processes have in common that see each other by their ids.

    Attributes
    ----------
    host, boot_id : str
        Name of the node, and what differs each time it boots; empty if unknown.
    pid_namespace : int
        Inode of the namespace of process ids, 0 if unknown.
    """

    host: str
    boot_id: str
    pid_namespace: int


def this_machine() -> Machine:
    """Return where this process runs."""
    boot_id, pid_namespace = "", 0
    with contextlib.suppress(OSError):
        with open("/proc/sys/kernel/random/boot_id") as file:
            boot_id = file.read().strip()
        pid_namespace = os.stat("/proc/self/ns/pid").st_ino
    return Machine(socket.gethostname(), boot_id, pid_namespace)


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
    return [os.fsdecode(word) for word in _strings(pid, "cmdline")]


def image_of(pid: int) -> bytes:
    """Return what the kernel has told a program at its start; nothing if it has ended.

    It differs after and during `os.execv`, and not where a program has given itself another title.
    """
    try:
        with open(f"/proc/{pid}/auxv", "rb") as file:
            return file.read()
    except OSError:
        return b""


def environment_of(pid: int) -> list[bytes]:
    """Return the ``name=value`` that a program was started with; none if they cannot be seen."""
    return _strings(pid, "environ")


def _strings(pid: int, name: str) -> list[bytes]:
    try:
        with open(f"/proc/{pid}/{name}", "rb") as file:
            return file.read().split(b"\0")[:-1]
    except OSError:
        return []


def file_of(pid: int, descriptor: int) -> str:
    """Return the path of what a process has open; empty if it cannot be seen."""
    try:
        return os.readlink(f"/proc/{pid}/fd/{descriptor}")
    except OSError:
        return ""


def process_ids(proc: str = "/proc") -> list[int]:
    """Return the ids of all processes of this machine."""
    return [int(name) for name in os.listdir(proc) if name.isdigit()]


def peer_of(sock: socket.socket) -> tuple[int, int]:
    """Return process and user of the other end of a socket of this node, as the kernel knows them.

    Raises
    ------
    OSError
        It is no such socket.
    """
    raw = sock.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _CREDENTIALS.size)
    pid, user, _ = _CREDENTIALS.unpack(raw)
    return pid, user
