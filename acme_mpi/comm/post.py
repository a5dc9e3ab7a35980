"""Messages of any size between ranks: plain values, with large buffers beside them.

A short one is a single MPI message. Of a longer one the first message has the sizes of its pieces;
the pieces follow in slices, which MPI moves while both sides look after other things.

MPI is called when there is something to find, and seldom else: where ranks share cores, a call that
finds nothing gives the core away (Open MPI's `mpi_yield_when_idle`), for milliseconds if others
compute.
"""

from __future__ import annotations

import pickle
import struct
import time
from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from acme_mpi.comm.base import SLICE_BYTES, Backoff, World
from acme_mpi.comm.doorbell import Doorbell

TAG_LETTER, TAG_PIECE = 6, 7
# Of a message that MPI sends off at once, whatever the receiver does: Open MPI's limit in a node is
# 4 KiB with its headers (`btl_vader_eager_limit`, `btl_sm_eager_limit`).
EAGER_BYTES = 3_500
SMALL_BYTES = 64 * 1024  # of a letter that goes in such messages
FEW_RINGS = 4  # so many a queue holds in any case: net.unix.max_dgram_qlen is 10 and more
OUT_OF_BAND_BYTES = 16 * 1024
LONGEST_PAUSE_S = 0.1  # what a lost ring costs at most,
IDLE_PAUSE_S = 4.0  # and where nothing has happened for
IDLE_S = 0.2
BUSY_PAUSE_S = 0.0002  # while large letters travel, MPI needs both sides
RING_AGAIN_S = 0.02  # when a small one was not taken: it may not have been there to find


class Post(ABC):
    """Letters to and from the other ranks. Independent, but for its making."""

    @abstractmethod
    def send(self, dest: int, content: Any) -> None:
        """Send a letter; never waits. Its buffers must not change until it is taken."""

    @abstractmethod
    def letters(self) -> Iterator[tuple[int, Any]]:
        """Yield source and content of each letter that has arrived.

        Those of one source come in the order in which they were sent.
        """

    @abstractmethod
    def is_due(self) -> bool:
        """Tell whether to look for letters though no bell has rung."""

    @abstractmethod
    def descriptors(self) -> list[int]:
        """Return what becomes readable when a letter may have come."""

    @abstractmethod
    def pause_s(self, waits_for: list[int]) -> float:
        """Return for how long at most to sleep, and remember that.

        Parameters
        ----------
        waits_for : list of int
            Ranks that a letter is expected from.
        """

    @abstractmethod
    def has_woken(self) -> None:
        """Hear that something has happened: the next pauses are short."""


class NoPost(Post):
    """The post of a rank that is alone."""

    def send(self, dest: int, content: Any) -> None:
        """Fail: there is nobody."""
        raise AssertionError(f"no rank {dest} in a world of one")

    def letters(self) -> Iterator[tuple[int, Any]]:
        """Yield nothing."""
        return iter(())

    def is_due(self) -> bool:
        """Return False."""
        return False

    def descriptors(self) -> list[int]:
        """Return none."""
        return []

    def pause_s(self, waits_for: list[int]) -> float:
        """Return a second, in which the caller looks whether its parent is there."""
        return 1.0

    def has_woken(self) -> None:
        """Do nothing."""


class MpiPost(Post):
    """Letters over MPI. Collective.

    Parameters
    ----------
    world : World
        The ranks, over MPI.
    """

    def __init__(self, world: World) -> None:
        from mpi4py import MPI

        self._mpi, self._comm, self._status = MPI, world.mpi_comm, MPI.Status()
        self._bell = Doorbell()
        self._bell.meet(world.allgather(self._bell.name), world.hosts, world.host)
        self._sending: deque[tuple[Any, Any, int]] = deque()  # request, buffer, receiver
        self._rung_s: dict[int, float] = {}  # when, by receiver
        self._coming: dict[int, deque[_Letter]] = {}
        self._backoff = Backoff(LONGEST_PAUSE_S, share=1 / 32)
        self._woken_s = self._looked_s = time.monotonic()
        self._is_near = all(map(self._bell.reaches, range(world.size)))

    def send(self, dest: int, content: Any) -> None:
        """Send a letter; the receiver is woken if it is of this node."""
        buffers: list[memoryview] = []

        def keep_in_band(buffer: pickle.PickleBuffer) -> bool:
            raw = buffer.raw()
            if raw.nbytes < OUT_OF_BAND_BYTES:
                return True
            buffers.append(raw)
            return False

        body = pickle.dumps(content, protocol=5, buffer_callback=keep_in_band)
        if not buffers and len(body) <= EAGER_BYTES:
            self._isend(body, dest, TAG_LETTER)
        else:
            pieces = [memoryview(body), *buffers]
            sizes = [piece.nbytes for piece in pieces]
            # A pickle begins with b"\x80".
            self._isend(b"\0" + struct.pack(f"<{len(sizes)}Q", *sizes), dest, TAG_LETTER)
            for piece in _slices(pieces, sizes):
                self._isend(piece, dest, TAG_PIECE)
        self._ring(dest)

    def _isend(self, buffer: Any, dest: int, tag: int) -> None:
        request = self._comm.Isend([buffer, self._mpi.BYTE], dest, tag)
        self._sending.append((request, buffer, dest))

    def _ring(self, dest: int) -> None:
        self._bell.ring(dest)
        self._rung_s[dest] = time.monotonic()

    def _flush(self) -> None:
        """Let go of what the receivers have taken."""
        while self._sending and self._sending[0][0].Test():
            self._sending.popleft()
        for receiver in {receiver for _, _, receiver in self._sending}:
            if time.monotonic() - self._rung_s[receiver] > RING_AGAIN_S:
                self._ring(receiver)

    @property
    def _is_large_under_way(self) -> bool:
        """Whether MPI needs both sides."""
        if any(self._coming.values()):
            return True
        return any(len(buffer) > EAGER_BYTES for _, buffer, _ in self._sending)

    def letters(self) -> Iterator[tuple[int, Any]]:
        """Yield letters that have arrived whole."""
        self._looked_s = time.monotonic()
        n_rings = self._bell.hush()  # before the look: what comes after that rings again
        n_found = 0
        while self._open_next():
            n_found += 1
            if n_found == n_rings < FEW_RINGS and self._is_near:
                break
        self._flush()
        for source, letters in self._coming.items():
            while letters and letters[0].is_whole():
                yield source, letters.popleft().content()

    def _open_next(self) -> bool:
        """Take in the first message of a letter; tell whether there was one."""
        comm, status, source = self._comm, self._status, self._mpi.ANY_SOURCE
        # Open MPI looks first and progresses afterwards: the second look sees what has come in.
        if not (comm.Iprobe(source, TAG_LETTER, status) or comm.Iprobe(source, TAG_LETTER, status)):
            return False
        sender = status.Get_source()
        head = bytearray(status.Get_count(self._mpi.BYTE))
        comm.Recv([head, self._mpi.BYTE], sender, TAG_LETTER)
        letters = self._coming.setdefault(sender, deque())
        if head[0]:
            letters.append(_Letter([head], []))
            return True
        sizes = struct.unpack(f"<{(len(head) - 1) // 8}Q", head[1:])
        pieces = [np.empty(size, np.uint8) for size in sizes]
        requests = [
            comm.Irecv([piece, self._mpi.BYTE], sender, TAG_PIECE)
            for piece in _slices(pieces, sizes)
        ]
        letters.append(_Letter(pieces, requests))
        return True

    def is_due(self) -> bool:
        """Tell whether something travels, is to be polled for, or may have come unheard."""
        if not self._is_near or self._is_large_under_way:
            return True
        longest_s = RING_AGAIN_S if self._sending else LONGEST_PAUSE_S
        return time.monotonic() - self._looked_s > longest_s

    def descriptors(self) -> list[int]:
        """Return the bell."""
        return [self._bell.fileno()]

    def pause_s(self, waits_for: list[int]) -> float:
        """Return for how long to sleep: long where the bell wakes, short where MPI is needed."""
        if self._is_large_under_way:
            return BUSY_PAUSE_S
        if not (self._is_near or all(self._bell.reaches(rank) for rank in waits_for)):
            return self._backoff.pause()
        if self._sending:
            return RING_AGAIN_S
        is_idle = time.monotonic() - self._woken_s > IDLE_S
        return IDLE_PAUSE_S if is_idle else LONGEST_PAUSE_S

    def has_woken(self) -> None:
        """Begin with short pauses again."""
        self._backoff.reset()
        self._woken_s = time.monotonic()


class _Letter:
    """A letter that is there, or coming."""

    def __init__(self, pieces: list[Any], requests: list[Any]) -> None:
        self._pieces, self._requests = pieces, requests

    def is_whole(self) -> bool:
        while self._requests and self._requests[-1].Test():
            self._requests.pop()
        return not self._requests

    def content(self) -> Any:
        return pickle.loads(self._pieces[0], buffers=self._pieces[1:])


def _slices(pieces: Sequence[Any], sizes: Sequence[int]) -> Iterator[Any]:
    """Yield the parts of pieces of such sizes in bytes that are a message each."""
    n_slice = EAGER_BYTES if sum(sizes) <= SMALL_BYTES else SLICE_BYTES
    for piece, size in zip(pieces, sizes, strict=True):
        for start in range(0, size, n_slice):
            yield piece[start : start + n_slice]
