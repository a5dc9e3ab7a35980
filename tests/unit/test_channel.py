"""The channel between agent and runner: messages arrive whole, garbage is recognised."""

from __future__ import annotations

import array
import fcntl
import os
import pickle
import socket
import threading
from fractions import Fraction
from pathlib import PurePosixPath

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from acme_mpi.linux.segment import Segment
from acme_mpi.runner.channel import (
    INLINE_BYTES,
    MAX_BUFFERS,
    OUT_OF_BAND_BYTES,
    Channel,
    ChannelError,
    Kind,
)

pytestmark = pytest.mark.once


@pytest.fixture
def ends():
    """Return the two ends of a channel."""
    left, right = Channel.pair()
    yield left, right
    left.close()
    right.close()


@pytest.fixture
def raw_and_channel():
    """Return a plain socket, into which anything may be written, and the channel it leads to."""
    raw, other = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    channel = Channel.from_descriptor(other.detach())
    yield raw, channel
    raw.close()
    channel.close()


def datagram_of(content) -> tuple[bytes, list[int]]:
    """Return the bytes and the descriptors of a message as it is sent."""
    raw, other = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    channel = Channel.from_descriptor(other.detach())
    channel.send(Kind.OUTCOME, content)
    data, ancillary, _, _ = raw.recvmsg(1 << 20, socket.CMSG_SPACE(64))
    raw.close()
    channel.close()
    rights = array.array("i")
    for _, _, each in ancillary:
        rights.frombytes(each)
    return data, rights.tolist()


def send_datagram(raw, data, descriptors=()) -> None:
    rights = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", descriptors))]
    raw.sendmsg([data], rights if len(descriptors) else [])


def open_descriptors() -> int:
    return len(os.listdir("/proc/self/fd"))


class TestMessages:
    @pytest.mark.parametrize(
        "content",
        [
            None,
            (3, 7),
            [("a", 1.5, True, 2j, b"bytes"), {"key": None}],
            "Größe \U0001f600",
            2**100,
            "x" * (2 * INLINE_BYTES),
        ],
        ids=lambda content: f"{type(content).__name__}",
    )
    def test_plain_values_arrive(self, ends, content):
        ends[0].send(Kind.TASKS, content)

        assert ends[1].receive() == (Kind.TASKS, content)

    @pytest.mark.parametrize(
        "n_bytes",
        [
            0,
            8,
            OUT_OF_BAND_BYTES - 8,
            OUT_OF_BAND_BYTES,
            INLINE_BYTES - 1024,
            INLINE_BYTES,
            INLINE_BYTES + 8,
            5_000_000,
        ],
    )
    def test_arrays_of_any_size_arrive_writable(self, ends, n_bytes):
        sent = np.arange(n_bytes // 8, dtype=np.float64)

        ends[0].send(Kind.OUTCOME, (1, sent))
        kind, (number, received) = ends[1].receive()

        assert (kind, number) == (Kind.OUTCOME, 1)
        assert received.dtype == sent.dtype
        np.testing.assert_array_equal(received, sent)
        received += 1  # a copy of the receiver's own
        np.testing.assert_array_equal(sent, np.arange(n_bytes // 8))

    @pytest.mark.parametrize(
        "sent",
        [
            np.ones((200, 300), order="F"),
            np.arange(100_000)[::3],
            np.zeros((3, 0, 2)),
            np.array(5.0),
            np.array(["a", "Größe"] * 9000, object),
            np.array([b"abc"] * 9000),
            np.zeros(9000, [("x", "<f8"), ("n", ">i4", (2,))]),
            np.zeros(40_000, bool),
            np.zeros(9000, np.complex64),
            np.zeros(9000, ">f8"),
            np.float32(1.5),
        ],
        ids=lambda a: f"{a.dtype}-{a.shape}",
    )
    def test_arrays_of_every_kind_arrive(self, ends, sent):
        ends[0].send(Kind.OUTCOME, [sent])
        received = ends[1].receive()[1][0]

        assert (received.dtype, received.shape) == (sent.dtype, sent.shape)
        np.testing.assert_array_equal(received, sent)

    def test_many_arrays_in_one_message_arrive_in_order(self, ends):
        n = MAX_BUFFERS + 3
        column = np.zeros(OUT_OF_BAND_BYTES // 8)
        sent = [column + k if k in (0, 7, n - 1) else column for k in range(n)]

        ends[0].send(Kind.OUTCOME, [each.copy() for each in sent[:50]] + [sent[-1]])
        received = ends[1].receive()[1]

        assert [each[0] for each in received] == [each[0] for each in [*sent[:50], sent[-1]]]

    def test_more_arrays_than_a_message_may_list_arrive(self, ends):
        arrays = [np.full(OUT_OF_BAND_BYTES, k % 251, np.uint8) for k in range(MAX_BUFFERS + 3)]

        ends[0].send(Kind.OUTCOME, arrays)
        received = ends[1].receive()[1]

        assert [int(each[-1]) for each in received] == [k % 251 for k in range(len(arrays))]

    def test_messages_keep_their_order_and_their_bounds(self, ends):
        large = np.zeros(INLINE_BYTES)
        for k in range(5):
            ends[0].send(Kind.CHUNK, k)
            ends[0].send(Kind.OUTCOME, (k, large))

        received = [ends[1].receive() for _ in range(10)]

        assert [kind for kind, _ in received] == [Kind.CHUNK, Kind.OUTCOME] * 5
        assert [content for _, content in received[::2]] == list(range(5))
        assert [content[0] for _, content in received[1::2]] == list(range(5))

    def test_both_directions_at_once_do_not_block(self, ends):
        """Two large items that cross each other would deadlock in a pipe."""
        sent = np.arange(1_000_000)
        ends[0].send(Kind.TASKS, sent)
        ends[1].send(Kind.OUTCOME, sent)

        assert ends[0].receive()[1].sum() == ends[1].receive()[1].sum() == sent.sum()

    def test_no_message_is_none_where_nobody_waits(self, ends):
        assert ends[0].receive(wait=False) is None

    def test_a_receiver_that_waits_gets_the_next_message(self, ends):
        received = []
        reader = threading.Thread(target=lambda: received.append(ends[1].receive()))
        reader.start()
        ends[0].send(Kind.CHUNK, (0, 1))
        reader.join(10)

        assert received == [(Kind.CHUNK, (0, 1))]

    def test_a_large_message_costs_no_descriptor_for_good(self, ends):
        before = open_descriptors()
        for _ in range(3):
            ends[0].send(Kind.OUTCOME, np.zeros(INLINE_BYTES))
            ends[1].receive()

        assert open_descriptors() == before


class TestEnd:
    def test_a_closed_other_end_is_eof(self, ends):
        ends[0].close()

        with pytest.raises(EOFError):
            ends[1].receive()

    def test_what_was_sent_before_the_end_still_arrives(self, ends):
        ends[0].send(Kind.CHUNK, (0, 1))
        ends[0].close()

        assert ends[1].receive() == (Kind.CHUNK, (0, 1))
        with pytest.raises(EOFError):
            ends[1].receive()

    def test_what_was_sent_before_the_end_arrives(self, ends):
        """The kernel then says ECONNRESET first, and gives the messages afterwards."""
        ends[1].send(Kind.CHUNK, (2, 3))
        ends[0].send(Kind.READY)
        ends[0].send(Kind.OUTCOME, (0, 1))
        ends[0].close()

        assert ends[1].receive(wait=False) == (Kind.READY, None)
        assert ends[1].receive() == (Kind.OUTCOME, (0, 1))
        with pytest.raises(EOFError):
            ends[1].receive()

    def test_sending_to_a_closed_end_is_a_connection_error(self, ends):
        ends[0].close()

        with pytest.raises(ConnectionError):
            ends[1].send(Kind.CHUNK, (0, 1))


class TestSegments:
    @pytest.mark.parametrize("is_large", [False, True])
    def test_they_travel_as_they_are(self, ends, is_large):
        left, right = ends
        sent = [Segment.of([b"spam"]), Segment.of([bytes(1_000_000)])]
        more = np.zeros(INLINE_BYTES if is_large else 1)

        left.send(Kind.TASKS, (*sent, more))
        _, (*received, array) = right.receive()

        assert [each.address.inode for each in received] == [each.address.inode for each in sent]
        assert [each.n_bytes for each in received] == [4, 1_000_000]
        assert np.array_equal(array, more)

    def test_descriptors_are_closed_with_what_has_them(self, ends):
        left, right = ends
        before = os.listdir("/proc/self/fd")

        for _ in range(3):
            left.send(Kind.TASKS, Segment.of([b"spam"]))
            right.receive()

        assert os.listdir("/proc/self/fd") == before

    def test_more_descriptors_than_segments_are_refused(self, raw_and_channel):
        raw, channel = raw_and_channel
        data, (descriptor,) = datagram_of(Segment.of([b"spam"]))
        send_datagram(raw, data, [descriptor] * 2)
        os.close(descriptor)

        with pytest.raises(ChannelError, match="2 descriptors"):
            channel.receive()


class TestGarbage:
    @pytest.mark.parametrize(
        "data", [b"hello\n", b"\0", b"acmi", b"acmi" + bytes(30), bytes(range(64)), bytes(70_000)]
    )
    def test_bytes_that_are_no_message_are_a_channel_error(self, raw_and_channel, data):
        raw, channel = raw_and_channel
        raw.send(data)

        with pytest.raises(ChannelError):
            channel.receive()

    @settings(
        deadline=None, max_examples=100, suppress_health_check=[HealthCheck.function_scoped_fixture]
    )
    @given(st.binary(min_size=1, max_size=200), st.booleans())
    def test_any_bytes_are_a_channel_error_and_nothing_else(self, raw_and_channel, data, is_marked):
        raw, channel = raw_and_channel
        raw.send(b"acmi" + data if is_marked else data)

        with pytest.raises(ChannelError):
            channel.receive()

    @pytest.mark.parametrize("content", [(1, "abc", [2.5]), np.zeros(INLINE_BYTES)])
    def test_a_truncated_message_is_a_channel_error_at_every_length(self, raw_and_channel, content):
        raw, channel = raw_and_channel
        data, descriptors = datagram_of(content)
        for n_kept in range(1, len(data)):
            send_datagram(raw, data[:n_kept], descriptors)
            with pytest.raises(ChannelError):
                channel.receive()
        for descriptor in descriptors:
            os.close(descriptor)

    def test_a_message_with_any_wrong_byte_is_a_channel_error(self, raw_and_channel):
        """Except in the kind, which may become another kind."""
        raw, channel = raw_and_channel
        data, _ = datagram_of((1, "abc"))
        for position in range(len(data)):
            broken = bytearray(data)
            broken[position] ^= 0x40
            raw.send(broken)
            with pytest.raises(ChannelError):
                channel.receive()

    def test_after_garbage_the_next_message_is_read(self, raw_and_channel):
        raw, channel = raw_and_channel
        raw.send(b"print('user code was here')")
        raw.send(datagram_of((0, 1))[0])

        with pytest.raises(ChannelError):
            channel.receive()
        assert channel.receive() == (Kind.OUTCOME, (0, 1))

    @pytest.mark.parametrize("n_sent", [0, 2])
    def test_a_large_message_with_a_wrong_file_count_is_refused(self, raw_and_channel, n_sent):
        """A large message with a wrong number of files is refused."""
        raw, channel = raw_and_channel
        data, (descriptor,) = datagram_of(np.zeros(INLINE_BYTES))
        send_datagram(raw, data, [descriptor] * n_sent)
        os.close(descriptor)

        with pytest.raises(ChannelError):
            channel.receive()

    def test_a_file_that_could_shrink_under_its_reader_is_refused(self, raw_and_channel):
        """The reader would die of SIGBUS."""
        raw, channel = raw_and_channel
        data, (sealed,) = datagram_of(np.zeros(INLINE_BYTES))
        unsealed = os.memfd_create("copy", os.MFD_ALLOW_SEALING)
        os.write(unsealed, os.pread(sealed, 1 << 24, 0))
        assert not fcntl.fcntl(unsealed, fcntl.F_GET_SEALS) & fcntl.F_SEAL_SHRINK
        send_datagram(raw, data, [unsealed])
        os.close(sealed)
        os.close(unsealed)

        with pytest.raises(ChannelError, match="not sealed"):
            channel.receive()

    def test_a_file_that_is_no_memory_file_is_refused(self, raw_and_channel, tmp_path):
        raw, channel = raw_and_channel
        data, (sealed,) = datagram_of(np.zeros(INLINE_BYTES))
        path = tmp_path / "file"
        path.write_bytes(os.pread(sealed, 1 << 24, 0))
        os.close(sealed)
        with open(path, "rb") as file:
            send_datagram(raw, data, [file.fileno()])

        with pytest.raises(ChannelError):
            channel.receive()

    def test_refused_messages_cost_no_descriptor_for_good(self, raw_and_channel):
        raw, channel = raw_and_channel
        data, (descriptor,) = datagram_of(np.zeros(INLINE_BYTES))
        before = open_descriptors()
        for bad in (data[:-1], b"garbage"):
            send_datagram(raw, bad, [descriptor])
            with pytest.raises(ChannelError):
                channel.receive()

        assert open_descriptors() == before
        os.close(descriptor)


class Foreign:
    """A class of a user."""


class Trap:
    """Runs a command where it is unpickled."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return os.system, (f"touch {self.path}",)


class TestForeignClasses:
    @pytest.mark.parametrize(
        "content",
        [
            Foreign(),
            PurePosixPath("a"),
            Fraction(1, 3),
            len,
            np.sum,
            Foreign,
            [1, {"a": Foreign()}],
            np.array([Foreign()], object),
            np.ma.masked_array([1], [True]),
        ],
        ids=lambda content: type(content).__name__,
    )
    def test_they_are_refused(self, ends, content):
        ends[0].send(Kind.OUTCOME, content)

        with pytest.raises(ChannelError, match="a message holds a"):
            ends[1].receive()

    def test_nothing_of_them_runs(self, ends, tmp_path):
        path = tmp_path / "ran"
        ends[0].send(Kind.OUTCOME, Trap(path))

        with pytest.raises(ChannelError):
            ends[1].receive()
        assert not path.exists()

    def test_what_cannot_be_pickled_is_not_sent_in_part(self, ends):
        with pytest.raises((pickle.PicklingError, AttributeError, TypeError)):
            ends[0].send(Kind.OUTCOME, [np.zeros(INLINE_BYTES), lambda: None])

        assert ends[1].receive(wait=False) is None
