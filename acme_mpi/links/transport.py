"""What carries bytes between a client and rank 0, one way or the other; they may be anybody's.

A transport never waits. Its user looks at it when its descriptor is ready, or every `pause_s`.
"""

from __future__ import annotations

import contextlib
import errno
import socket
from collections import deque
from typing import Protocol

READ_BYTES = 1024 * 1024
# A connection whose other machine is gone ends after a minute, and firewalls do not forget it.
_KEEPALIVE = {"TCP_KEEPIDLE": 20, "TCP_KEEPINTVL": 10, "TCP_KEEPCNT": 4, "TCP_USER_TIMEOUT": 60_000}


class Transport(Protocol):
    """Bytes to the other side and from it, in order.

    Attributes
    ----------
    title : str
        For people: by what they are carried, and where to.
    pause_s : float or None
        How long to wait at most between two looks; None: until its descriptor is ready.
    n_waiting : int
        Bytes that are not sent yet.
    """

    title: str
    pause_s: float | None

    @property
    def n_waiting(self) -> int:
        """How many bytes are not sent yet."""

    def fileno(self) -> int:
        """Return the descriptor that is readable when something has come; -1: there is none."""

    def receive(self) -> bytes | None:
        """Return what has come; None: nothing.

        Raises
        ------
        EOFError
            The other side has gone.
        """

    def send(self, data: bytes) -> None:
        """Send bytes as soon as may be."""

    def flush(self) -> None:
        """Send what waits, as far as there is room.

        Raises
        ------
        EOFError
            The other side has gone.
        """

    def close(self) -> None:
        """Say no more; what was sent by `flush` arrives."""

    def let_go(self) -> None:
        """Have no part in it in a process that was forked from its own."""


class SocketTransport:
    """A connected stream socket.

    Parameters
    ----------
    sock : socket.socket
        Its own from now on; it may still be connecting.
    title : str
        For people.
    """

    pause_s: float | None = None

    def __init__(self, sock: socket.socket, title: str) -> None:
        self.title = title
        self._socket = sock
        self._waiting: deque[memoryview] = deque()
        sock.setblocking(False)
        if sock.family in (socket.AF_INET, socket.AF_INET6):
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            for name, value in _KEEPALIVE.items():
                sock.setsockopt(socket.IPPROTO_TCP, getattr(socket, name), value)

    @property
    def n_waiting(self) -> int:
        """How many bytes are not sent yet."""
        return sum(map(len, self._waiting))

    def fileno(self) -> int:
        """Return the socket's descriptor."""
        return self._socket.fileno()

    def receive(self) -> bytes | None:
        """Return what has come; None: nothing.

        Raises
        ------
        EOFError
            The other side has gone.
        """
        try:
            data = self._socket.recv(READ_BYTES)
        except (BlockingIOError, InterruptedError):
            return None
        except OSError as error:
            if error.errno == errno.ENOTCONN:  # not yet
                return None
            raise EOFError(str(error)) from None
        if not data:
            raise EOFError("the connection was closed")
        return data

    def send(self, data: bytes) -> None:
        """Send bytes as soon as may be."""
        self._waiting.append(memoryview(data))

    def flush(self) -> None:
        """Send what waits, as far as there is room.

        Raises
        ------
        EOFError
            The other side has gone.
        """
        while self._waiting:
            data = self._waiting[0]
            try:
                n_sent = self._socket.send(data, socket.MSG_NOSIGNAL)
            except (BlockingIOError, InterruptedError):
                return
            except OSError as error:
                if error.errno == errno.ENOTCONN:
                    return
                raise EOFError(str(error)) from None
            self._waiting[0] = data[n_sent:]
            if n_sent == len(data):
                self._waiting.popleft()

    def close(self) -> None:
        """Close the connection."""
        with contextlib.suppress(OSError):
            self._socket.shutdown(socket.SHUT_RDWR)
        self._socket.close()

    def let_go(self) -> None:
        """Have no part in it in a process that was forked from its own."""
        self._socket.close()  # not shut down: that would end the other process's, too
