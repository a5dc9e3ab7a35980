"""Wait until files in a folder have changed so many times, and kill what was started."""

from __future__ import annotations

import contextlib
import ctypes
import os
import random
import select
import signal
import struct
import time
from collections.abc import Iterator
from pathlib import Path

from conftest import is_runner, processes_of

EVENT = struct.Struct("iIII")
MODIFY, MOVED_TO, CREATE, DELETE, IS_DIR = 0x2, 0x80, 0x100, 0x200, 0x40000000
LONGEST_S = 60.0


class Watch:
    """Changes below a folder, by inotify; folders that are made later belong to it, too."""

    def __init__(self, folder: Path) -> None:
        self._libc = ctypes.CDLL(None, use_errno=True)
        self._descriptor = self._libc.inotify_init1(os.O_CLOEXEC | os.O_NONBLOCK)
        self._folders: dict[int, Path] = {}
        self._add(folder)

    def _add(self, folder: Path) -> None:
        mask = MODIFY | MOVED_TO | CREATE | DELETE
        number = self._libc.inotify_add_watch(self._descriptor, os.fsencode(folder), mask)
        if number < 0:
            return  # gone already
        self._folders[number] = folder
        for path in folder.iterdir():
            if path.is_dir():
                self._add(path)

    def changes(self, start_id: str) -> Iterator[Path]:
        """Yield the path of every change until no process of the start is left."""
        stop_s = time.monotonic() + LONGEST_S
        while time.monotonic() < stop_s:
            if not select.select([self._descriptor], [], [], 0.5)[0]:
                if not processes_of(start_id):
                    return
                continue
            data = os.read(self._descriptor, 1 << 16)
            while data:
                number, mask, _, length = EVENT.unpack_from(data)
                name = data[EVENT.size :][:length].rstrip(b"\0")
                data = data[EVENT.size + length :]
                if number in self._folders:
                    path = self._folders[number] / os.fsdecode(name)
                    if mask & CREATE and mask & IS_DIR:
                        self._add(path)
                    yield path
        raise TimeoutError("the start goes on for too long")

    def close(self) -> None:
        os.close(self._descriptor)


def wait_for_processes(start_id: str, n: int) -> None:
    """Wait until a start has so many processes, or has none any more."""
    seen, stop_s = 0, time.monotonic() + LONGEST_S
    while seen < n and time.monotonic() < stop_s:
        now = len(processes_of(start_id))
        if seen and not now:
            return
        seen = max(seen, now)
        select.select([], [], [], 0.002)  # a look at all processes takes longer


def kill_all(start_id: str) -> None:
    """Kill all processes of a start: launcher, agents and runners."""
    while left := processes_of(start_id):
        for pid in left:
            kill(pid)


def kill_rank(start_id: str, rank: int) -> bool:
    """Kill the agent of one rank; tell whether there is one."""
    wanted = {f"{name}={rank}".encode() for name in ("OMPI_COMM_WORLD_RANK", "PMI_RANK")}
    for pid in processes_of(start_id):
        try:
            environment = Path(f"/proc/{pid}/environ").read_bytes().split(b"\0")
        except OSError:
            continue
        if wanted & set(environment) and not is_runner(pid):
            kill(pid)
            return True
    return False


def kill_runner(start_id: str, chosen: random.Random) -> None:
    """Kill one of the runners, if there is any."""
    runners = sorted(filter(is_runner, processes_of(start_id)))
    if runners:
        kill(chosen.choice(runners))


def kill(pid: int) -> None:
    with contextlib.suppress(ProcessLookupError):
        os.kill(pid, signal.SIGKILL)


@contextlib.contextmanager
def pidfd_of(pid: int) -> Iterator[int]:
    """Context with a descriptor that becomes readable when a process ends."""
    descriptor = os.pidfd_open(pid)
    try:
        yield descriptor
    finally:
        os.close(descriptor)
