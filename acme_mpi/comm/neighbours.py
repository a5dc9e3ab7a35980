"""Ranks watch each other, so that the death of one is seen by another at once.

Each rank watches the process of the next one of its node. Where no launcher sees to it, the first
rank of each node also watches the first one of the next node, through a connection on which
nothing is said: the kernel closes it when that rank dies, however it dies.
"""

from __future__ import annotations

import contextlib
import os
import select
import socket
import threading
import time
from abc import ABC, abstractmethod
from typing import NamedTuple

from acme_mpi.comm.background import start_thread
from acme_mpi.linux.processes import stat_of

TRYING_S = 20.0  # to reach the next node; what cannot be reached is not watched
# A node that has gone without a word is lost after five minutes, as for Slurm by default: shorter
# troubles of a network are no reason to end a job.
KEEPALIVE_IDLE_S, KEEPALIVE_EVERY_S, KEEPALIVE_N = 60, 30, 8
MOST_BETWEEN_LOOKS_S = 5.0
TOKEN_BYTES = 16
MOST_VISITORS = 16  # one is due; others are no ranks


class Neighbour(ABC):
    """Another rank.

    Parameters
    ----------
    rank, host, pid : int, str, int
        Who and where it is.
    """

    def __init__(self, rank: int, host: str, pid: int) -> None:
        self.rank, self.host, self.pid = rank, host, pid

    @abstractmethod
    def is_gone(self) -> bool:
        """Tell whether its process has ended; False if that is not known."""

    def stopped_s(self) -> float:
        """Return for how many seconds it was seen stopped, by a signal or a debugger; 0.0: not."""
        return 0.0

    def __str__(self) -> str:
        return f"rank {self.rank} (process {self.pid} on {self.host})"


class LocalNeighbour(Neighbour):
    """A rank of this node, watched by its process.

    Attributes
    ----------
    descriptor : int
        Readable once it has ended.

    Raises
    ------
    OSError
        It cannot be watched: it is in another container, perhaps.
    """

    def __init__(self, rank: int, host: str, pid: int) -> None:
        super().__init__(rank, host, pid)
        self.descriptor = os.pidfd_open(pid)
        self._looked_s, self._stopped_s = time.monotonic(), 0.0

    def is_gone(self) -> bool:
        """Tell whether its process has ended."""
        poll = select.poll()  # select takes no descriptor above 1023
        poll.register(self.descriptor, select.POLLIN)
        return bool(poll.poll(0))

    def stopped_s(self) -> float:
        """Return for how many seconds it was seen stopped; call it about once a second."""
        now_s = time.monotonic()
        # Who has not looked for longer was stopped as well: the whole job may have been suspended.
        self._stopped_s += min(now_s - self._looked_s, MOST_BETWEEN_LOOKS_S)
        self._looked_s = now_s
        if not self._is_stopped():
            self._stopped_s = 0.0
        return self._stopped_s

    def _is_stopped(self) -> bool:
        try:
            return stat_of(self.pid).state in ("T", "t")
        except OSError:
            return False


class Door(NamedTuple):
    """Where a rank can be reached by the one that watches it."""

    port: int
    token: bytes  # what it says at first, so that it is not taken for another program


def open_door() -> Door | None:
    """Let another rank watch this process, until its end; None without a network."""
    try:
        if socket.has_dualstack_ipv6():
            listener = socket.create_server(("", 0), family=socket.AF_INET6, dualstack_ipv6=True)
        else:
            listener = socket.create_server(("", 0))
    except OSError:
        return None
    door = Door(listener.getsockname()[1], os.urandom(TOKEN_BYTES))
    start_thread("neighbours", _receive_visitors, listener, door.token)
    return door


def _receive_visitors(listener: socket.socket, token: bytes) -> None:
    visitors: list[socket.socket] = []
    with contextlib.suppress(OSError):  # no descriptor is left
        while len(visitors) < MOST_VISITORS:
            visitor, _ = listener.accept()
            visitors.append(visitor)
            with contextlib.suppress(OSError):  # it has given up
                visitor.send(token)
    threading.Event().wait()  # for ever: the connections are open as long as this process is


class RemoteNeighbour(Neighbour):
    """A rank of another node, watched through a connection to its door.

    Attributes
    ----------
    is_watched : bool
        Whether it has been reached.
    """

    def __init__(self, rank: int, host: str, pid: int, door: Door) -> None:
        super().__init__(rank, host, pid)
        self.is_watched = self._is_gone = False
        # Names are looked up and connections made in a thread: both may take their time.
        start_thread("neighbours", self._watch, door)

    def is_gone(self) -> bool:
        """Tell whether its connection was closed."""
        return self._is_gone

    def _watch(self, door: Door) -> None:
        with (
            contextlib.suppress(OSError),
            socket.create_connection((self.host, door.port), TRYING_S) as connection,
        ):
            self.is_watched = connection.recv(TOKEN_BYTES, socket.MSG_WAITALL) == door.token
            if self.is_watched:
                self._is_gone = _wait_for_end(connection)


def _wait_for_end(connection: socket.socket) -> bool:
    """Return once a connection has ended, and whether that means that the other side has."""
    connection.settimeout(None)
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPIDLE, KEEPALIVE_IDLE_S)
    connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPINTVL, KEEPALIVE_EVERY_S)
    connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPCNT, KEEPALIVE_N)
    try:
        connection.recv(1)
    except ConnectionResetError:
        return False  # a process that ends closes; this is a firewall that has forgotten
    except OSError:
        return True  # nothing has come back for long
    return True
