"""Doorbells: ranks of a node wake each other, instead of looking for messages again and again."""

from __future__ import annotations

import contextlib
import os
import select
import socket
import time
import weakref
from collections.abc import Sequence

_NO_NAME = b""
LATE_S = 0.02  # a message may be so much slower than its ring


class Doorbell:
    """What wakes this rank, and the bells of the other ranks of its node.

    A bell is a datagram socket. It says only that there may be something to look for: one that
    is lost, or rung by a stranger, costs or wins time and nothing else.
    """

    def __init__(self) -> None:
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC)
        self._socket.setblocking(False)
        # Its owner may be garbage with others; what waits at the end of the process may need it.
        weakref.finalize(self, self._socket.close).atexit = False
        # No file that would stay behind; nobody can guess it.
        self.name = b"\0acme_mpi-" + os.urandom(16).hex().encode()
        self._socket.bind(self.name)
        self._names: list[bytes] = []
        # Rings whose messages were not found yet; below 0: messages found before their rings.
        self._n_owed, self._owed_since_s = 0, 0.0

    def meet(self, names: Sequence[bytes], hosts: Sequence[str], own_host: str) -> None:
        """Learn the names of all ranks' bells; those of other nodes cannot be rung."""
        self._names = [
            name if host == own_host else _NO_NAME for name, host in zip(names, hosts, strict=True)
        ]

    def fileno(self) -> int:
        """Return the descriptor that is readable once somebody has rung."""
        return self._socket.fileno()

    def reaches(self, rank: int) -> bool:
        """Tell whether a rank can be woken."""
        return bool(self._names[rank])

    def ring(self, rank: int) -> None:
        """Wake a rank, if it is of this node; never waits."""
        if name := self._names[rank]:
            # A full queue of rings wakes as well as one.
            with contextlib.suppress(OSError):
                self._socket.sendto(b"!", name)

    def wait(self, longest_s: float) -> bool:
        """Sleep until this rank is woken, or for `longest_s` seconds; tell whether it was woken."""
        is_rung = bool(select.select([self._socket], [], [], longest_s)[0])
        if is_rung:
            self.hush()
        return is_rung

    def hush(self) -> int:
        """Take note of the rings so far; what they told of is to be looked for after this.

        Returns
        -------
        int
            How many there were.
        """
        n_rings = 0
        with contextlib.suppress(OSError):
            while True:
                self._socket.recv(1)
                n_rings += 1
        if self._n_owed <= 0:
            self._owed_since_s = time.monotonic()
        # Not every message has a ring, so what is below 0 says nothing about those to come.
        self._n_owed = max(self._n_owed + n_rings, 0)
        return n_rings

    def found(self) -> None:
        """Take note that a message was found."""
        self._n_owed -= 1

    @property
    def is_owed(self) -> bool:
        """Whether there were more rings than messages; what stays out for long is not awaited."""
        if self._n_owed > 0 and time.monotonic() - self._owed_since_s > LATE_S:
            self._n_owed = 0
        return self._n_owed > 0

    def close(self) -> None:
        """Take the bell away."""
        self._socket.close()
