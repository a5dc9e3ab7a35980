"""How ranks on this node find the process that has started them, and how both know each other.

The process listens at a name that the kernel keeps for it, in no folder, so nothing is left when it
is killed. Whoever dials has to be of the same user, as the kernel tells it, and to bring a key,
which only the environment of the ranks has. The answer brings the other half of the key, and the
descriptors to which the ranks print.
"""

from __future__ import annotations

import contextlib
import os
import select
import socket
import struct

# What `hmac.compare_digest` is without OpenSSL, which that module loads.
from _operator import _compare_digest as compare_digest
from collections.abc import Sequence
from typing import NamedTuple

from acme_mpi.errors import LaunchError
from acme_mpi.linux.processes import peer_of
from acme_mpi.runner.channel import Channel

VARIABLE = "ACME_MPI_DIAL"  # for ranks: where the process listens, and the key
KEY_BYTES = 32  # each way
ANSWERED_S = 10.0  # within which either side has said what it has to say

_RANK = struct.Struct("<I")


class Dialled(NamedTuple):
    """The other side, which is known.

    Attributes
    ----------
    channel : Channel
        To it.
    pidfd : int
        Its process.
    rank : int
        Who has dialled, as its launcher has told it.
    """

    channel: Channel
    pidfd: int
    rank: int

    def has_ended(self) -> bool:
        """Tell whether its process is gone."""
        return bool(select.select([self.pidfd], [], [], 0)[0])

    def close(self) -> None:
        """Drop it."""
        self.channel.close()
        os.close(self.pidfd)


class Listener:
    """Where a process waits for the ranks that it has started.

    Parameters
    ----------
    outputs : sequence of int
        Descriptors of what the ranks have for standard output and standard error.
    """

    def __init__(self, outputs: Sequence[int]) -> None:
        self._outputs = list(outputs)
        self._name, self._key = os.urandom(16).hex(), os.urandom(2 * KEY_BYTES)
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        try:
            self._socket.bind(_address(self._name))
            self._socket.listen()
            self._socket.setblocking(False)
        except OSError:
            self._socket.close()
            raise

    @property
    def word(self) -> str:
        """What the ranks have to find in `VARIABLE`."""
        return f"{self._name}:{self._key.hex()}"

    def fileno(self) -> int:
        """Return the descriptor that is readable when somebody dials."""
        return self._socket.fileno()

    def accept(self) -> Dialled | None:
        """Return who has dialled; None if nobody has, or only somebody who has no key."""
        try:
            sock, _ = self._socket.accept()
        except OSError:
            return None
        with contextlib.ExitStack() as stack:
            stack.callback(sock.close)
            with contextlib.suppress(OSError):  # it has gone, or does not say anything
                pid, user = peer_of(sock)
                if user != os.geteuid():
                    return None
                sock.settimeout(ANSWERED_S)
                said = sock.recv(KEY_BYTES + _RANK.size + 1)
                if not self._is_known(said):
                    return None
                pidfd = os.pidfd_open(pid)
                stack.callback(os.close, pidfd)
                socket.send_fds(sock, [self._key[KEY_BYTES:]], self._outputs)
                sock.settimeout(None)
                stack.pop_all()
                return Dialled(Channel(sock), pidfd, _RANK.unpack(said[KEY_BYTES:])[0])
        return None

    def _is_known(self, said: bytes) -> bool:
        is_whole = len(said) == KEY_BYTES + _RANK.size
        return is_whole and compare_digest(said[:KEY_BYTES], self._key[:KEY_BYTES])

    def close(self) -> None:
        """Listen no more; who has dialled stays."""
        self._socket.close()


def dial(word: str, rank: int) -> tuple[Dialled, list[int]]:
    """Return the process that has started this rank, and the descriptors that it has sent.

    Parameters
    ----------
    word : str
        From `VARIABLE`.
    rank : int
        This rank.

    Raises
    ------
    LaunchError
        It is not there any more, or another process has its place.
    """
    name, _, key = word.partition(":")
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    try:
        sock.settimeout(ANSWERED_S)
        sock.connect(_address(name))
        pid, user = peer_of(sock)
        if user != os.geteuid():
            raise LaunchError("the process that is to have these ranks is another user's")
        pidfd = os.pidfd_open(pid)  # before it answers: it is alive, and so this is its own
        both = bytes.fromhex(key)
        sock.sendall(both[:KEY_BYTES] + _RANK.pack(rank))
        answer, outputs, _, _ = socket.recv_fds(sock, KEY_BYTES, 2, socket.MSG_CMSG_CLOEXEC)
    except (OSError, ValueError) as error:
        sock.close()
        raise LaunchError(f"the process that has started this rank has gone: {error}") from None
    except LaunchError:
        sock.close()
        raise
    if len(outputs) != 2 or not compare_digest(answer, both[KEY_BYTES:]):
        sock.close()
        raise LaunchError("who answers this rank does not have its key: has its starter gone?")
    sock.settimeout(None)
    return Dialled(Channel(sock), pidfd, rank), outputs


def _address(name: str) -> str:
    return f"\0acme_mpi.{name}"
