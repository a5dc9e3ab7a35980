"""What travels on a connection: sealed frames, so that nobody can change, repeat or drop one.

A frame is its size and kind, its content, and a seal: a keyed BLAKE2b (RFC 7693) of all that and of
the number of the frame. Anybody on the way can read it; see the docs.
"""

from __future__ import annotations

import hashlib
import hmac
import struct
from collections.abc import Iterator
from enum import IntEnum

from acme_mpi.errors import LaunchError

MOST_BYTES = 1024 * 1024  # of a frame's content
SEAL_BYTES = 32
_HEAD = struct.Struct("<IB")  # bytes of the content, kind
_NUMBER = struct.Struct("<Q")


class Frame(IntEnum):
    """What a frame holds."""

    WORDS = 1  # JSON: who is there, who is welcome
    MESSAGE = 2  # a message of a channel, and what comes along: see `Bridge`
    BYTES = 3  # the next bytes of what comes along with the last message
    HANG_UP = 4  # a channel's end says no more


class ForgedError(LaunchError):
    """A frame is not what the other side has sent: somebody meddles, or the network is broken."""


class Sealer:
    """Makes the frames of one direction of one connection.

    Parameters
    ----------
    key : bytes
        From `Keys`, known to both sides.
    """

    def __init__(self, key: bytes) -> None:
        self._key, self._n_sealed = key, 0

    def seal(self, kind: Frame, content: bytes | memoryview) -> bytes:
        """Return a frame.

        Parameters
        ----------
        kind : Frame
            What it holds.
        content : bytes
            At most `MOST_BYTES`.
        """
        assert len(content) <= MOST_BYTES
        head = _HEAD.pack(len(content), kind)
        seal = _seal(self._key, self._n_sealed, head, content)
        self._n_sealed += 1
        return b"".join([head, content, seal])


class Opener:
    """Takes the frames of one direction of one connection.

    Parameters
    ----------
    key : bytes
        From `Keys`, known to both sides.
    """

    def __init__(self, key: bytes) -> None:
        self._key, self._n_opened = key, 0
        self._heard = bytearray()

    def open(self, data: bytes) -> Iterator[tuple[Frame, bytes]]:
        """Take in bytes, and yield kind and content of each frame that is whole by now.

        Raises
        ------
        ForgedError
            A frame is too large, or its seal is wrong. Nothing of it, and nothing behind it, was
            or will be yielded.
        """
        self._heard += data
        while len(self._heard) >= _HEAD.size:
            size, kind = _HEAD.unpack_from(self._heard)
            if size > MOST_BYTES:
                raise ForgedError(f"a frame of {size} bytes has come, {MOST_BYTES} are allowed")
            end = _HEAD.size + size
            if len(self._heard) < end + SEAL_BYTES:
                return
            frame = bytes(self._heard[: end + SEAL_BYTES])
            del self._heard[: end + SEAL_BYTES]
            head, content, seal = frame[: _HEAD.size], frame[_HEAD.size : end], frame[end:]
            if not hmac.compare_digest(seal, _seal(self._key, self._n_opened, head, content)):
                raise ForgedError(f"frame {self._n_opened} has a wrong seal")
            self._n_opened += 1
            yield Frame(kind), content


def _seal(key: bytes, number: int, head: bytes, content: bytes | memoryview) -> bytes:
    made = hashlib.blake2b(_NUMBER.pack(number), key=key, digest_size=SEAL_BYTES)
    made.update(head)
    made.update(content)
    return made.digest()
