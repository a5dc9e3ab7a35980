"""Messages between an agent and a child process on the same node.

One message is one datagram; what does not fit travels as a sealed memory file whose descriptor
goes along. Messages hold plain Python values, NumPy arrays, segments of shared memory, which
travel as their descriptors, and objects of a few plain classes of ours: the receiver unpickles
nothing else, and recognises garbage that user code may have written into the descriptor.
"""

from __future__ import annotations

import array
import contextlib
import copyreg
import fcntl
import io
import mmap
import os
import pickle
import select
import socket
import struct
import zlib
from enum import IntEnum
from pickle import PickleBuffer, Pickler
from typing import Any

from acme_mpi.linux.segment import Segment

MAGIC = b"acmi"
HEADER = struct.Struct("<4sBBHIQ")  # magic, kind, in a memory file?, buffers, crc32, body bytes
INLINE_BYTES = 64 * 1024  # a datagram has to fit into a socket buffer
OUT_OF_BAND_BYTES = 16 * 1024
MAX_BUFFERS = 4096
MAX_DESCRIPTORS = 8
MESSAGE_BYTES = INLINE_BYTES + 8 * MAX_BUFFERS + HEADER.size  # of a datagram

_ROOM = MESSAGE_BYTES, socket.CMSG_SPACE(4 * MAX_DESCRIPTORS)
# As numbers: Python's enumerations take longer than the call.
_WAITING = int(socket.MSG_CMSG_CLOEXEC)
_AT_ONCE = int(socket.MSG_CMSG_CLOEXEC | socket.MSG_DONTWAIT)


class ChannelError(Exception):
    """The other side sent something that is not a message."""


class Kind(IntEnum):
    """What a message is. Agent to child above the line, child to agent below; contents behind."""

    LOAD = 1  # load target and arguments of the command line: Command
    TASKS = 2  # function, arguments and options of a run: an `Assignment`
    CHUNK = 3  # call the tasks in [start, stop): (start, stop)
    SITE = 4  # where to write a placed array: (path, offset), or None to send it
    SHOW = 5  # make text of values: (pieces, n_tasks, sys.path, whether with care)
    ANSWER = 6  # to a script: (number of its request, answer)
    HELLO = 7  # the first message to a script, or to who has started the ranks, and its answer
    FORGET = 8  # drop function and arguments: shall it answer?
    GIVE = 9  # setups, functions and calls of a stream: list of messages of `runner.calls`
    SAID = 10  # to a script that waits for an answer: a message (level, text, dialect or None)
    PROGRESS = 11  # to one that shows it: (number of tasks that have ended, of those that failed)
    # ----
    READY = 17  # the function is loaded: (number of the assignment, has it opened files?)
    UNREADY = 18  # it cannot be loaded: (number of the assignment, reason)
    LOADED = 19  # result of LOAD: Loaded, or what is wrong: str
    PLACE = 20  # where shall this array go: (index, k, shape, dtype)
    OUTCOME = 21  # results of some tasks: an `Outcome`
    SHOWN = 22  # the texts, and tasks whose value does not load: (list, dict)
    FORGOTTEN = 23  # function and arguments are dropped
    CALL = 24  # a script has a call: (number, what it brings of a `Call`)
    RELEASE = 25  # a script needs no runners for now: (number, None)
    CANCEL = 26  # the script no longer waits for its answer
    NOT_CALLED = 27  # the rest of a chunk, which was not started: (start, stop)
    CHANGED = 28  # what tasks have changed, and whether that may be their habit: (list, bool)
    GOT = 30  # what became of a stream's calls: list of messages of `runner.calls`
    STREAM = 31  # a script has pools: (number, its end of their channel)
    TAKEN = 29  # a script has loaded its values: (number, why some do not load, None: it has not)


# Classes whose objects are what their fields say, and no more.
PLAIN_CLASSES = {
    ("acme_mpi.engine.call", "Display"),
    ("acme_mpi.engine.call", "Options"),
    ("acme_mpi.engine.call", "Output"),
    ("acme_mpi.engine.call", "Result"),
    ("acme_mpi.engine.call", "Work"),
    ("acme_mpi.errors", "Failure"),
    ("acme_mpi.engine.messages", "Said"),
    ("acme_mpi.results.content", "Content"),
    ("acme_mpi.results.parts", "NamedParts"),
    ("acme_mpi.results.spec", "RowSpec"),
    ("acme_mpi.rules", "Rules"),
    ("acme_mpi.runner.base", "Assignment"),
    ("acme_mpi.runner.base", "Outcome"),
    ("acme_mpi.runner.command", "Command"),
    ("acme_mpi.runner.command", "Loaded"),
    ("acme_mpi.runner.surroundings", "Surroundings"),
    ("acme_mpi.storage.base", "Stored"),
    ("acme_mpi.tasks.labels", "Column"),
    ("acme_mpi.tasks.labels", "Labels"),
    *(
        ("acme_mpi.runner.calls", name)
        for name in (
            "Answers",
            "Back",
            "Begin",
            "Broken",
            "CallNow",
            "Calls",
            "End",
            "Forget",
            "Given",
            "Got",
            "Kill",
            "Lost",
            "Skipped",
            "Teach",
            "Window",
        )
    ),
}


class _PlainUnpickler(pickle.Unpickler):
    """Unpickle builtins, NumPy arrays and `PLAIN_CLASSES`, refuse the rest."""

    # NumPy 1 and 2 keep the same functions in different modules.
    _NUMPY = frozenset({"numpy"}) | {
        f"numpy.{core}.{module}"
        for core in ("core", "_core")
        for module in ("multiarray", "numeric")
    }
    _NAMES = frozenset({"_reconstruct", "_frombuffer", "scalar", "ndarray", "dtype"})

    def __init__(self, file: Any, buffers: list[memoryview], descriptors: list[int]) -> None:
        super().__init__(file, buffers=buffers)
        self.used = used = set[int]()  # numbers of the descriptors that the message has

        def segment(number: int) -> Segment:
            used.add(number)
            return Segment(os.dup(descriptors[number]))

        def channel(number: int) -> Channel:
            used.add(number)
            return Channel.from_descriptor(os.dup(descriptors[number]))

        # No methods: what is loaded would refer to this object, and that to what is loaded.
        self._sent = {_sent_segment.__name__: segment, _sent_channel.__name__: channel}

    def find_class(self, module: str, name: str) -> Any:
        if module == __name__ and name in self._sent:
            return self._sent[name]
        is_plain = (module, name) in PLAIN_CLASSES or (
            module == "builtins" and name in ("complex", "range")
        )
        if is_plain or (module in self._NUMPY and name in self._NAMES):
            return super().find_class(module, name)
        raise ChannelError(f"a message holds a {module}.{name}")


def _sent_segment(number: int) -> Segment:
    """Stand in a message for the segment whose descriptor travels beside it, by its number."""
    raise AssertionError("only a channel's receiver knows its descriptors")


def _sent_channel(number: int) -> Channel:
    """Stand in a message for a channel's end whose descriptor travels beside it."""
    raise AssertionError("only a channel's receiver knows its descriptors")


def kind_of(data: bytes) -> Kind:
    """Return what the message of a datagram is; its content is not looked at.

    Raises
    ------
    ValueError
        It is no message.
    """
    if len(data) < HEADER.size or not data.startswith(MAGIC):
        raise ValueError("bytes that are not a message")
    return Kind(data[len(MAGIC)])


def receive_datagram(sock: socket.socket, flags: int) -> tuple[bytes, list[Any], int, Any]:
    """Return the next datagram of a channel, as `recvmsg` does; without bytes it is the end.

    Raises
    ------
    BlockingIOError
        There is none now.
    EOFError
        The other side has gone.
    """
    try:
        return sock.recvmsg(*_ROOM, flags)
    except ConnectionError:
        # The other side has gone with messages unread. That is told once, before the messages
        # that it had sent.
        try:
            return sock.recvmsg(*_ROOM, flags)
        except ConnectionError as error:
            raise EOFError(str(error)) from None


def load_plain(data: bytes | bytearray) -> Any:
    """Return an object from a pickle of what messages may hold, from elsewhere than a channel.

    Raises
    ------
    ChannelError
        It holds something else, or cannot be read.
    """
    try:
        return _PlainUnpickler(io.BytesIO(data), [], []).load()
    except ChannelError:
        raise
    except Exception as error:
        raise ChannelError(f"it cannot be read: {error}") from None


class Channel:
    """One end of a two-way connection to a process on this node.

    Parameters
    ----------
    sock : socket.socket
        A connected ``AF_UNIX`` ``SOCK_SEQPACKET`` socket.
    """

    def __init__(self, sock: socket.socket) -> None:
        self._socket = sock

    @classmethod
    def pair(cls) -> tuple[Channel, Channel]:
        """Return the two ends of a new channel."""
        left, right = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        return cls(left), cls(right)

    @classmethod
    def from_descriptor(cls, descriptor: int) -> Channel:
        """Return the end that was inherited as `descriptor`."""
        return cls(socket.socket(fileno=descriptor))

    def fileno(self) -> int:
        """Return the descriptor, for select and for passing on."""
        return self._socket.fileno()

    def has_room(self) -> bool:
        """Tell whether a message can be sent without waiting for the other side."""
        return bool(select.select([], [self], [], 0)[1])

    def hang_up(self) -> None:
        """Say that nothing more will be said: the other side finds the end, whoever has copies."""
        with contextlib.suppress(OSError):  # it has gone
            self._socket.shutdown(socket.SHUT_WR)

    def close(self) -> None:
        """Close this end."""
        self._socket.close()

    def send(self, kind: Kind, content: Any = None) -> None:
        """Send one message; large arrays inside `content` are not copied into the pickle."""
        buffers: list[PickleBuffer] = []
        descriptors: list[int] = []

        def keep_in_band(buffer: PickleBuffer) -> bool:
            if buffer.raw().nbytes < OUT_OF_BAND_BYTES or len(buffers) >= MAX_BUFFERS:
                return True
            buffers.append(buffer)
            return False

        def send_along(segment: Segment) -> Any:
            descriptors.append(segment.descriptor)
            return _sent_segment, (len(descriptors) - 1,)

        def send_channel(channel: Channel) -> Any:
            descriptors.append(channel.fileno())
            return _sent_channel, (len(descriptors) - 1,)

        file = io.BytesIO()
        pickler = Pickler(file, protocol=5, buffer_callback=keep_in_band)
        pickler.dispatch_table = copyreg.dispatch_table | {
            Segment: send_along,
            Channel: send_channel,
        }
        pickler.dump(content)
        pieces = [file.getbuffer(), *(buffer.raw() for buffer in buffers)]
        sizes = struct.pack(f"<{len(pieces)}Q", *(piece.nbytes for piece in pieces))
        n_bytes = len(sizes) + sum(piece.nbytes for piece in pieces)
        if n_bytes <= INLINE_BYTES:
            data = b"".join([sizes, *pieces])
            header = HEADER.pack(MAGIC, kind, 0, len(pieces), zlib.crc32(data), n_bytes)
            self._send_datagram([header, data], descriptors)
            return
        descriptor = _sealed_memory(sizes, pieces, n_bytes)
        try:
            header = HEADER.pack(MAGIC, kind, 1, len(pieces), zlib.crc32(sizes), n_bytes)
            self._send_datagram([header, sizes], [*descriptors, descriptor])
        finally:
            os.close(descriptor)

    def _send_datagram(self, data: list[bytes], descriptors: list[int]) -> None:
        rights = (socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", descriptors))
        self._socket.sendmsg(data, [rights] if descriptors else [])

    def receive(self, wait: bool = True) -> tuple[Kind, Any] | None:
        """Return (kind, content) of the next message; None if there is none and `wait` is false.

        Raises
        ------
        EOFError
            The other side has closed its end.
        ChannelError
            What came is not a message.
        """
        try:
            data, ancillary, _, _ = receive_datagram(self._socket, _WAITING if wait else _AT_ONCE)
        except BlockingIOError:
            return None
        descriptors = [
            descriptor
            for level, kind, raw in ancillary
            if level == socket.SOL_SOCKET and kind == socket.SCM_RIGHTS
            for descriptor in array.array("i", raw[: len(raw) - len(raw) % 4])
        ]
        try:
            if not data:
                raise EOFError("the other side has gone")
            return _decode(data, descriptors)
        finally:
            for descriptor in descriptors:
                os.close(descriptor)


def _sealed_memory(sizes: bytes, pieces: list[memoryview], n_bytes: int) -> int:
    descriptor = os.memfd_create("acme_mpi", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
    try:
        os.ftruncate(descriptor, n_bytes)
        offset = 0
        for piece in (memoryview(sizes), *pieces):
            flat = piece.cast("B") if piece.nbytes else piece
            done = 0
            while done < piece.nbytes:
                done += os.pwrite(descriptor, flat[done:], offset + done)
            offset += piece.nbytes
        # A file that cannot shrink cannot make its reader die of SIGBUS.
        fcntl.fcntl(descriptor, fcntl.F_ADD_SEALS, fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW)
    except BaseException:
        os.close(descriptor)
        raise
    return descriptor


def _decode(data: bytes, descriptors: list[int]) -> tuple[Kind, Any]:
    if len(data) < HEADER.size or data[:4] != MAGIC:
        raise ChannelError("bytes that are not a message")
    _, kind, in_memory, n_pieces, crc, n_bytes = HEADER.unpack_from(data)
    head = memoryview(data)[HEADER.size :]
    if zlib.crc32(head) != crc or n_pieces < 1 or len(head) < 8 * n_pieces:
        raise ChannelError("a damaged message")
    sizes = struct.unpack_from(f"<{n_pieces}Q", head)
    # Arrays in a message can be written to by whoever gets them.
    body = _map_memory(descriptors[-1:], n_bytes) if in_memory else memoryview(bytearray(head))
    if body.nbytes != n_bytes or 8 * n_pieces + sum(sizes) != n_bytes:
        raise ChannelError("a message of the wrong length")
    pieces, offset = [], 8 * n_pieces
    for size in sizes:
        pieces.append(body[offset : offset + size])
        offset += size
    try:
        unpickler = _PlainUnpickler(io.BytesIO(pieces[0]), pieces[1:], descriptors)
        content = unpickler.load()
        if len(unpickler.used) + in_memory != len(descriptors):
            raise ChannelError(f"a message with {len(descriptors)} descriptors")
        return Kind(kind), content
    except ChannelError:
        raise
    except Exception as error:
        raise ChannelError(f"a message that cannot be read: {error}") from None


def _map_memory(descriptors: list[int], n_bytes: int) -> memoryview:
    if len(descriptors) != 1:
        raise ChannelError("a message without its memory file")
    try:
        seals = fcntl.fcntl(descriptors[0], fcntl.F_GET_SEALS)
    except OSError:
        seals = 0
    if not seals & fcntl.F_SEAL_SHRINK or os.fstat(descriptors[0]).st_size != n_bytes:
        raise ChannelError("a memory file that is not sealed")
    # ACCESS_COPY gives writable arrays; pages are copied only where somebody writes.
    return memoryview(mmap.mmap(descriptors[0], n_bytes, access=mmap.ACCESS_COPY))
