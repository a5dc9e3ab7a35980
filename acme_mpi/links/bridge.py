"""Channels that end on another machine: what is said into an end here comes out of one there.

A channel knows nothing of it: its other end is here, and each message, with the shared memory and
the channels that come along, is sent on as a few frames and put together again on the other side.
Nothing of a message is unpickled on the way.
"""

from __future__ import annotations

import array
import contextlib
import fcntl
import json
import os
import socket
import stat
import struct
from collections import deque
from collections.abc import Iterator
from typing import Any, Self

from acme_mpi.links.frames import MOST_BYTES, ForgedError, Frame, Opener, Sealer
from acme_mpi.links.handshake import Keys
from acme_mpi.links.transport import Transport
from acme_mpi.linux.offsets import write_all
from acme_mpi.runner.channel import MAX_DESCRIPTORS, MESSAGE_BYTES, receive_datagram

AHEAD_BYTES = 4 * MOST_BYTES  # of frames that wait for the transport
FIRST = 0  # the number of the channel that is there from the beginning
_MEMORY, _CHANNEL = 0, 1  # what comes along with a message
_NUMBER = struct.Struct("<I")
_ALONG = struct.Struct("<BQ")  # which, and its bytes or the number of its channel
_RIGHTS = (socket.SOL_SOCKET, socket.SCM_RIGHTS)


class Message:
    """A message on its way, with the descriptors that come along; it closes them at last.

    Attributes
    ----------
    data : bytes
        The datagram.
    descriptors : list of int
        Of memory files and of channels' ends.
    """

    def __init__(self, data: bytes, descriptors: list[int]) -> None:
        self.data, self.descriptors = data, descriptors

    def __del__(self) -> None:
        for descriptor in self.descriptors:
            with contextlib.suppress(OSError):
                os.close(descriptor)


class End:
    """The end, here, of a channel that goes to another machine.

    Parameters
    ----------
    sock : socket.socket
        Its own from now on.
    """

    def __init__(self, sock: socket.socket) -> None:
        self.sock = sock
        self.to_deliver: deque[Message] = deque()
        self.hears = True  # the process here may say more
        self.speaks = True  # the other side may say more

    def fileno(self) -> int:
        """Return the descriptor."""
        return self.sock.fileno()

    def take(self) -> Message | None:
        """Return the next message of the process here; None: there is none now.

        Raises
        ------
        EOFError
            There will be none any more.
        """
        try:
            data, ancillary, _, _ = receive_datagram(
                self.sock, socket.MSG_DONTWAIT | socket.MSG_CMSG_CLOEXEC
            )
        except BlockingIOError:
            return None
        message = Message(data, [])
        for level, kind, raw in ancillary:
            if (level, kind) == _RIGHTS:
                message.descriptors += array.array("i", raw[: len(raw) - len(raw) % 4])
        if not data:
            raise EOFError("the process has gone")
        return message

    def deliver(self) -> None:
        """Give the process here what has come for it, as far as there is room."""
        while self.to_deliver:
            message = self.to_deliver[0]
            along = [(*_RIGHTS, array.array("i", message.descriptors))]
            try:
                self.sock.sendmsg(
                    [message.data],
                    along if message.descriptors else [],
                    socket.MSG_DONTWAIT | socket.MSG_NOSIGNAL,
                )
            except BlockingIOError:
                return
            except OSError:  # it has gone; that is heard, too
                self.to_deliver.clear()
                return
            self.to_deliver.popleft()
        if not self.speaks:
            with contextlib.suppress(OSError):
                self.sock.shutdown(socket.SHUT_WR)

    @property
    def is_over(self) -> bool:
        """Whether neither side says any more."""
        return not (self.hears or self.speaks or self.to_deliver)


class Bridge:
    """Channels over one connection; its user selects on it and lets it work, see `work`.

    Parameters
    ----------
    transport : Transport
        To the other side, which has proved that it has the key.
    sealer, opener : Sealer, Opener
        For the frames of each direction.
    is_client : bool
        Which side this is: each numbers the channels that it begins.
    """

    def __init__(
        self, transport: Transport, sealer: Sealer, opener: Opener, is_client: bool
    ) -> None:
        self.transport = transport
        self._sealer, self._opener = sealer, opener
        self._ends: dict[int, End] = {}
        self._next_number, self._their_next = (1, 2) if is_client else (2, 1)
        self._frames: deque[Iterator[bytes]] = deque()  # to be sent
        self._building: _Building | None = None
        self.words: deque[dict[str, Any]] = deque()  # that the other side has said

    @classmethod
    def of(cls, transport: Transport, keys: Keys, is_client: bool) -> Self:
        """Return the bridge of one side of a connection."""
        own, theirs = keys.of_client, keys.of_ranks
        if not is_client:
            own, theirs = theirs, own
        return cls(transport, Sealer(own), Opener(theirs), is_client)

    def join(self, end: End) -> None:
        """Have a channel's end here meet the one that is joined there: the first channel.

        It outlives connections: that one side has hung up is not told to the other.
        """
        self._ends[FIRST] = end

    def say(self, words: dict[str, Any]) -> None:
        """Say plain words to the other side itself. Any thread may."""
        self._frames.append(self._frame_of(Frame.WORDS, json.dumps(words).encode()))

    def reading(self) -> list[int]:
        """Return the descriptors whose news are to be looked at."""
        found = [self.transport.fileno()] if self.transport.fileno() >= 0 else []
        if not self._frames:
            found += [end.fileno() for end in self._ends.values() if end.hears]
        return found

    def writing(self) -> list[int]:
        """Return the descriptors where room is waited for."""
        has_more = self._frames or self.transport.n_waiting
        found = [self.transport.fileno()] if has_more and self.transport.fileno() >= 0 else []
        return found + [end.fileno() for end in self._ends.values() if end.to_deliver]

    def work(self) -> None:
        """Move on what has come, from both sides, without waiting.

        Raises
        ------
        EOFError
            The other side has gone.
        ForgedError
            It has sent what it cannot have sent.
        """
        while (data := self.transport.receive()) is not None:
            self.hear(data)
        for number, end in list(self._ends.items()):
            end.deliver()
            if end.hears and not self._frames:
                self._take_from(number, end)
            if end.is_over and number != FIRST:
                end.sock.close()
                del self._ends[number]
        self._send()

    def hear(self, data: bytes) -> None:
        """Take bytes from the other side.

        Raises
        ------
        ForgedError
            No acme_mpi sends such.
        """
        try:
            for kind, content in self._opener.open(data):
                self._hear_frame(kind, content)
        except (ValueError, IndexError, OverflowError, RecursionError, struct.error) as error:
            raise ForgedError(f"a damaged frame has come: {error}") from None

    def _hear_frame(self, kind: Frame, content: bytes) -> None:
        match kind:
            case Frame.WORDS:
                words = json.loads(content)
                if not isinstance(words, dict):
                    raise ValueError("words that say nothing")
                self.words.append(words)
            case Frame.MESSAGE:
                self._begin_message(content)
            case Frame.BYTES:
                self._add_bytes(content)
            case Frame.HANG_UP:
                self._hang_up(_NUMBER.unpack(content)[0])

    def _hang_up(self, number: int) -> None:
        if number == FIRST:
            raise ValueError("the first channel has no end")
        end = self._ends.get(number)
        if end is not None:
            end.speaks = False
            end.deliver()

    def received(self, number: int, message: Message) -> None:
        """Give a message, which has come whole, to the end here."""
        self._ends[number].to_deliver.append(message)
        self._ends[number].deliver()

    def taken(self, number: int, message: Message) -> None:
        """Take a message of the process here."""
        self.send_on(number, message)

    def send_on(self, number: int, message: Message) -> None:
        """Send a message to the other side."""
        self._frames.append(self._frames_of(number, message))

    def _take_from(self, number: int, end: End) -> None:
        try:
            message = end.take()
        except EOFError:
            end.hears = False
            if number != FIRST:
                self._frames.append(self._frame_of(Frame.HANG_UP, _NUMBER.pack(number)))
            return
        if message is not None:
            self.taken(number, message)

    # Both seal a frame when it is sent, not before: its seal has its number.

    def _frame_of(self, kind: Frame, content: bytes) -> Iterator[bytes]:
        yield self._sealer.seal(kind, content)

    def _frames_of(self, number: int, message: Message) -> Iterator[bytes]:
        along, memories = [], []
        for descriptor in message.descriptors:
            status = os.fstat(descriptor)
            if stat.S_ISSOCK(status.st_mode):
                along.append(_ALONG.pack(_CHANNEL, self._next_number))
                self._ends[self._next_number] = End(socket.socket(fileno=os.dup(descriptor)))
                self._next_number += 2
            else:
                along.append(_ALONG.pack(_MEMORY, status.st_size))
                memories.append((descriptor, status.st_size))
        head = _NUMBER.pack(number) + bytes([len(along)]) + b"".join(along)
        yield self._sealer.seal(Frame.MESSAGE, head + message.data)
        for descriptor, size in memories:
            for offset in range(0, size, MOST_BYTES):
                piece = os.pread(descriptor, MOST_BYTES, offset)
                yield self._sealer.seal(Frame.BYTES, piece)

    def _send(self) -> None:
        while self._frames and self.transport.n_waiting < AHEAD_BYTES:
            frame = next(self._frames[0], None)
            if frame is None:
                self._frames.popleft()
            else:
                self.transport.send(frame)
                self.transport.flush()
        self.transport.flush()

    def _begin_message(self, content: bytes) -> None:
        if self._building is not None:
            raise ForgedError("a message has begun inside of another one")
        number, n_along = _NUMBER.unpack_from(content)[0], content[_NUMBER.size]
        start = _NUMBER.size + 1
        stop = start + n_along * _ALONG.size
        if n_along > MAX_DESCRIPTORS or not 0 < len(content) - stop <= MESSAGE_BYTES:
            raise ValueError(f"a message of {len(content)} bytes, with {n_along} descriptors")
        self._building = _Building(number, Message(content[stop:], []))
        for which, value in _ALONG.iter_unpack(content[start:stop]):
            if which == _CHANNEL:
                self._add_channel(self._building.message, value)
            elif which == _MEMORY:
                self._building.add_memory(value)
            else:
                raise ValueError(f"{which} has come along with a message")
        self._end_message()

    def _add_channel(self, message: Message, number: int) -> None:
        if number != self._their_next:
            raise ValueError(f"channel {number} has come, {self._their_next} is the next")
        self._their_next += 2
        own, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self._ends[number] = End(own)
        message.descriptors.append(theirs.detach())

    def _add_bytes(self, content: bytes) -> None:
        if self._building is None:
            raise ForgedError("bytes have come that belong to no message")
        self._building.fill(content)
        self._end_message()

    def _end_message(self) -> None:
        building = self._building
        if building is not None and building.is_whole:
            self._building = None
            if building.number in self._ends:  # else nobody here hears it any more, or yet
                self.received(building.number, building.message)

    def let_go(self) -> None:
        """Have no part in it in a process that was forked from its own."""
        self.transport.let_go()
        for end in self._ends.values():
            end.sock.close()

    def close(self) -> None:
        """Drop the connection, and hang up all channels but the first, which its user keeps."""
        self.transport.close()
        for number, end in self._ends.items():
            if number != FIRST:
                end.sock.close()
        self._ends.clear()
        self._frames.clear()


class _Building:
    """A message that has come in part.

    Parameters
    ----------
    number : int
        Of its channel.
    message : Message
        What has come.
    """

    def __init__(self, number: int, message: Message) -> None:
        self.number, self.message = number, message
        self._missing: deque[tuple[int, int]] = deque()  # memory files, and their sizes
        self._n_filled = 0  # bytes of the first of them

    @property
    def is_whole(self) -> bool:
        """Whether all has come."""
        return not self._missing

    def add_memory(self, size: int) -> None:
        """Make room for what comes."""
        descriptor = os.memfd_create("acme_mpi", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
        self.message.descriptors.append(descriptor)
        if size:
            os.ftruncate(descriptor, size)  # memory is taken by what comes
            self._missing.append((descriptor, size))
        else:
            _seal(descriptor)

    def fill(self, content: bytes) -> None:
        """Take the next bytes.

        Raises
        ------
        ForgedError
            They are more than there should be.
        """
        descriptor, size = self._missing[0]
        if not content or self._n_filled + len(content) > size:
            raise ForgedError("more bytes have come than belong to a message")
        write_all(descriptor, content, self._n_filled)
        self._n_filled += len(content)
        if self._n_filled == size:
            self._missing.popleft()
            self._n_filled = 0
            _seal(descriptor)


def _seal(descriptor: int) -> None:
    # A file that cannot shrink cannot make its reader die of SIGBUS.
    fcntl.fcntl(descriptor, fcntl.F_ADD_SEALS, fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW)
