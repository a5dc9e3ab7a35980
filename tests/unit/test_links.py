"""The way between a client and ranks elsewhere: who gets in, by which way, and what arrives."""

from __future__ import annotations

import contextlib
import json
import os
import select
import socket
import struct
import threading
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from playing import FakeClock

from acme_mpi.errors import LaunchError
from acme_mpi.links import door as door_module
from acme_mpi.links import mailbox as mailbox_module
from acme_mpi.links import reaching
from acme_mpi.links.bridge import Bridge, End, Message
from acme_mpi.links.door import Door
from acme_mpi.links.endpoint import KNOCK, RANK_0, Endpoint, listening, this_process
from acme_mpi.links.frames import MOST_BYTES, ForgedError, Frame, Opener, Sealer
from acme_mpi.links.handshake import MAGIC, Handshake, Keys, StrangerError
from acme_mpi.links.key import make_key, read_key
from acme_mpi.links.mailbox import Mailbox, make_mailbox
from acme_mpi.links.reaching import reach
from acme_mpi.links.transport import SocketTransport
from acme_mpi.linux.segment import Segment
from acme_mpi.runner.channel import HEADER, Channel, Kind

pytestmark = pytest.mark.once

KEY = b"k" * 32
KEYS = Keys(b"c" * 32, b"r" * 32)
LIMIT_S = 60.0


class Signals:
    """Signals that a test sends."""

    def __init__(self) -> None:
        self.number = 0
        self._ears, self._mouth = os.pipe()

    def __del__(self) -> None:
        os.close(self._ears)
        os.close(self._mouth)

    def fileno(self) -> int:
        return self._ears

    def send(self, number: int) -> None:
        self.number = number
        os.write(self._mouth, b"!")


@pytest.fixture
def make_pair():
    """Return a function that returns two transports that are connected."""
    made = []

    def make() -> tuple[SocketTransport, SocketTransport]:
        left, right = socket.socketpair()
        ends = SocketTransport(left, "left"), SocketTransport(right, "right")
        made.extend(ends)
        return ends

    yield make
    for each in made:
        each.close()


@pytest.fixture
def pair(make_pair):
    return make_pair()


def shaken(client: Handshake, ranks: Handshake) -> tuple[Any, Any]:
    """Return what both sides have at the end of their handshake."""
    found: list[Any] = [None, None]
    for _ in range(6):
        for k, side in enumerate((client, ranks)):
            found[k] = found[k] or side.go_on()
    return found[0], found[1]


class TestHandshake:
    """Both sides prove that they have the key."""

    def test_with_the_same_key_both_have_the_same_keys(self, pair):
        ours, theirs = shaken(Handshake(pair[0], KEY, True), Handshake(pair[1], KEY, False))

        assert ours[0] == theirs[0]
        assert ours[0].of_client != ours[0].of_ranks

    def test_each_connection_has_keys_of_its_own(self, make_pair):
        keys = set()
        for _ in range(2):
            ends = make_pair()
            keys.add(shaken(Handshake(ends[0], KEY, True), Handshake(ends[1], KEY, False))[0][0])
        assert len(keys) == 2

    @pytest.mark.parametrize("wrong", [0, 1])
    def test_a_wrong_key_is_noticed_by_who_hears_of_it_first(self, pair, wrong):
        """By rank 0: the client proves first."""
        keys = [KEY, KEY]
        keys[wrong] = b"x" * 32

        with pytest.raises(StrangerError, match="who dials does not have the key"):
            shaken(Handshake(pair[0], keys[0], True), Handshake(pair[1], keys[1], False))

    def test_who_answers_without_the_key_is_not_believed(self, pair):
        """The endpoint of a job that has ended may belong to anybody by now."""
        client = Handshake(pair[0], KEY, True)
        pair[1].send(MAGIC + (1).to_bytes(4, "little") + bytes(32))
        pair[1].send(bytes(32))
        pair[1].flush()

        with pytest.raises(StrangerError, match="does not have the key of these ranks"):
            client.go_on()

    def test_what_was_heard_before_is_of_no_use(self, make_pair):
        """A proof belongs to the numbers of one connection."""
        ours, theirs = make_pair()
        first = Handshake(ours, KEY, True)
        Handshake(theirs, KEY, False).go_on()
        first.go_on()
        recorded = theirs.receive()
        assert recorded is not None
        ours, theirs = make_pair()
        ours.send(recorded)
        ours.flush()

        with pytest.raises(StrangerError, match="who dials does not have the key"):
            Handshake(theirs, KEY, False).go_on()

    @pytest.mark.parametrize(
        ("said", "message"),
        [
            (b"GET / HTTP/1.1\r\nHost: node1\r\n\r\n" * 4, "another program"),
            (MAGIC + (7).to_bytes(4, "little") + bytes(64), "speaks version 7"),
        ],
    )
    def test_strangers_are_told_apart(self, pair, said, message):
        ranks = Handshake(pair[1], KEY, False)
        pair[0].send(said)
        pair[0].flush()

        with pytest.raises(StrangerError, match=message):
            ranks.go_on()

    def test_a_stranger_who_talks_without_end_is_heard_no_longer_than_a_proof(self):
        class Flood:
            n_heard = 0

            def receive(self) -> bytes:
                self.n_heard += 1
                return b"x" * 1000

            def send(self, data: bytes) -> None: ...

            def flush(self) -> None: ...

        flood = Flood()
        with pytest.raises(StrangerError, match="another program"):
            Handshake(flood, KEY, False).go_on()
        assert flood.n_heard == 1


class TestFrames:
    """Nothing is changed, repeated, dropped or added on the way without notice."""

    def frames(self) -> list[bytes]:
        sealer = Sealer(KEY)
        return [sealer.seal(Frame.WORDS, bytes([k]) * 5) for k in range(3)]

    def test_they_arrive_whatever_pieces_the_bytes_come_in(self):
        opener, found = Opener(KEY), []
        for byte in b"".join(self.frames()):
            found += opener.open(bytes([byte]))

        assert found == [(Frame.WORDS, bytes([k]) * 5) for k in range(3)]

    @pytest.mark.parametrize("offset", [0, 4, 5, 9, 10, 41])
    def test_a_changed_byte_is_noticed(self, offset):
        data = bytearray(b"".join(self.frames()))
        data[offset] ^= 1

        with pytest.raises(ForgedError):
            list(Opener(KEY).open(bytes(data) + bytes(MOST_BYTES)))

    @pytest.mark.parametrize("order", [[0, 0], [1], [0, 2], [1, 0]])
    def test_a_frame_out_of_its_turn_is_noticed(self, order):
        frames = self.frames()

        with pytest.raises(ForgedError, match="wrong seal"):
            list(Opener(KEY).open(b"".join(frames[k] for k in order)))

    def test_a_frame_that_is_cut_is_none(self):
        assert not list(Opener(KEY).open(self.frames()[0][:-1]))

    def test_a_frame_that_is_too_large_is_refused_before_it_has_come(self):
        with pytest.raises(ForgedError, match=f"{MOST_BYTES} are allowed"):
            list(Opener(KEY).open((MOST_BYTES + 1).to_bytes(4, "little") + b"\1"))

    def test_a_key_of_the_other_direction_opens_nothing(self):
        with pytest.raises(ForgedError):
            list(Opener(b"x" * 32).open(self.frames()[0]))


class TestKey:
    """Who has the key may use the ranks."""

    def test_only_its_user_can_read_it(self, tmp_path):
        make_key(str(tmp_path))

        assert (tmp_path / "key").stat().st_mode & 0o777 == 0o600
        assert len(read_key(str(tmp_path))) == 32

    def test_one_that_others_may_read_is_refused(self, tmp_path):
        make_key(str(tmp_path))
        (tmp_path / "key").chmod(0o640)

        with pytest.raises(LaunchError, match=r"others may read .*key \(mode 640\)"):
            read_key(str(tmp_path))

    @pytest.mark.skipif(os.geteuid() != 0, reason="only root can give a file away")
    def test_one_of_another_user_is_refused(self, tmp_path):
        make_key(str(tmp_path))
        os.chown(tmp_path / "key", 12345, -1)

        with pytest.raises(LaunchError, match="belongs to another user"):
            read_key(str(tmp_path))

    def test_a_link_is_not_followed(self, tmp_path):
        (tmp_path / "there").mkdir()
        make_key(str(tmp_path / "there"))
        (tmp_path / "key").symlink_to(tmp_path / "there" / "key")

        with pytest.raises(LaunchError, match="cannot read"):
            read_key(str(tmp_path))

    def test_without_one_the_ranks_have_left(self, tmp_path):
        with pytest.raises(LaunchError, match="the ranks have left"):
            read_key(str(tmp_path))


@contextlib.contextmanager
def bridged(ours, theirs):
    """Context with two channels that meet over two transports, moved on by two threads."""
    keys = shaken(Handshake(ours, KEY, True), Handshake(theirs, KEY, False))[0][0]
    channels, ends, bridges, is_over = [], [], [], threading.Event()
    for transport, is_client in ((ours, True), (theirs, False)):
        own, other = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        bridge = Bridge.of(transport, keys, is_client)
        bridge.join(End(own))
        ends.append(own)
        bridges.append(bridge)
        channels.append(Channel(other))

    def move(bridge):
        with contextlib.suppress(EOFError, OSError):
            while not is_over.is_set():
                bridge.work()

    threads = [threading.Thread(target=move, args=[bridge]) for bridge in bridges]
    for thread in threads:
        thread.start()
    try:
        yield channels
    finally:
        is_over.set()
        for thread in threads:
            thread.join()
        for bridge in bridges:
            bridge.close()
        for each in (*channels, *ends):
            each.close()


def mailboxes(folder: Path) -> tuple[Mailbox, Mailbox]:
    make_mailbox(str(folder / "box"))
    return Mailbox(str(folder / "box"), True), Mailbox(str(folder / "box"), False)


@pytest.fixture(params=["socket", "mailbox"])
def transports(request, tmp_path, pair):
    return pair if request.param == "socket" else mailboxes(tmp_path)


class TestBridge:
    """Channels reach to the other side as if they were short."""

    def test_messages_of_any_size_arrive_in_order_both_ways(self, transports):
        rng = np.random.default_rng(5)
        large = rng.integers(0, 256, 3 * MOST_BYTES + 17, np.uint8)
        contents = ["small", b"x" * 70_000, large, None]
        with bridged(*transports) as ends:
            for ours, theirs in (ends, ends[::-1]):
                sender = threading.Thread(
                    target=lambda ours=ours: [ours.send(Kind.CALL, each) for each in contents]
                )
                sender.start()
                found = [theirs.receive() for _ in contents]
                sender.join()

                assert [kind for kind, _ in found] == [Kind.CALL] * 4
                assert [each for _, each in (found[0], found[1], found[3])] == [
                    *contents[:2],
                    None,
                ]
                np.testing.assert_array_equal(found[2][1], large)

    def test_words_that_are_said_while_a_large_message_travels_come_behind_it(self, pair):
        ours, theirs = (Bridge.of(end, KEYS, k == 0) for k, end in enumerate(pair))
        memory = Segment.of([bytes(9 * MOST_BYTES)])
        ours.send_on(5, Message(b"large", [os.dup(memory.descriptor)]))
        ours.work()
        ours.say({"stop": True})
        while not theirs.words:
            ours.work()
            theirs.work()

        assert [*theirs.words] == [{"stop": True}]

    def test_shared_memory_comes_along(self, pair):
        with bridged(*pair) as (ours, theirs):
            ours.send(Kind.CALL, [Segment.of([b"abc", b"def"]), Segment.of([b""]), 3])
            _, (full, empty, rest) = theirs.receive()

            assert (bytes(full.view()), bytes(empty.view()), rest) == (b"abcdef", b"", 3)

    def test_what_a_process_said_before_it_went_arrives_though_it_had_not_heard_all(self, pair):
        """Such as the last results of a pool whose client has closed it, and the other way."""
        with bridged(*pair) as (ours, theirs):
            own, other = Channel.pair()
            ours.send(Kind.STREAM, other)
            other.close()
            far = theirs.receive()[1]
            far.send(Kind.GOT, "unread")
            assert select.select([own], [], [], LIMIT_S)[0]
            own.send(Kind.GIVE, "last")
            own.close()

            assert far.receive() == (Kind.GIVE, "last")
            with pytest.raises(EOFError):
                far.receive()
            far.close()

    def test_channels_come_along_and_end_on_both_sides(self, pair):
        with bridged(*pair) as (ours, theirs):
            own, other = Channel.pair()
            ours.send(Kind.STREAM, other)
            other.close()
            far = theirs.receive()[1]
            own.send(Kind.GIVE, 1)
            assert far.receive() == (Kind.GIVE, 1)
            far.send(Kind.GOT, 2)
            assert own.receive() == (Kind.GOT, 2)
            own.hang_up()
            with pytest.raises(EOFError):
                far.receive()
            far.send(Kind.GOT, 3)  # one side may say more than the other
            assert own.receive() == (Kind.GOT, 3)
            far.close()
            with pytest.raises(EOFError):
                own.receive()
            own.close()


class TestMailbox:
    """Files that both sides see stand for a connection."""

    def test_letters_are_removed_when_they_are_read(self, tmp_path):
        client, ranks = mailboxes(tmp_path)
        client.send(b"one")
        client.send(b"two")
        client.flush()

        assert ranks.receive() == b"onetwo"
        assert ranks.receive() is None
        assert [path.name for path in (tmp_path / "box" / "to_ranks").iterdir()] == ["beat"]

    def test_the_end_comes_after_the_last_letter(self, tmp_path):
        client, ranks = mailboxes(tmp_path)
        client.send(b"last")
        client.flush()
        client.close()

        assert ranks.receive() == b"last"
        with pytest.raises(EOFError, match="ended the conversation"):
            ranks.receive()

    def test_who_gives_no_sign_of_life_has_gone(self, tmp_path):
        clock = FakeClock()
        make_mailbox(str(tmp_path / "box"))
        client = Mailbox(str(tmp_path / "box"), True, clock.monotonic)
        ranks = Mailbox(str(tmp_path / "box"), False, clock.monotonic)
        for _ in range(4):
            clock.now_s += mailbox_module.SILENCE_S / 2
            client.flush()
            assert ranks.receive() is None
        clock.now_s += mailbox_module.SILENCE_S + 1

        with pytest.raises(EOFError, match="has not been heard of for 300 s"):
            ranks.receive()

    def test_a_reader_that_is_slow_bounds_the_files(self, tmp_path):
        client, ranks = mailboxes(tmp_path)
        for k in range(2 * mailbox_module.MOST_LETTERS):
            client.send(bytes([k]))
            client.flush()

        n_files = len(list((tmp_path / "box" / "to_ranks").iterdir()))
        assert n_files == mailbox_module.MOST_LETTERS + 1  # and a sign of life
        assert client.n_waiting == mailbox_module.MOST_LETTERS
        assert ranks.receive() == b"\0"

    def test_a_removed_folder_is_the_end(self, tmp_path):
        _, ranks = mailboxes(tmp_path)
        (tmp_path / "box").rename(tmp_path / "away")

        with pytest.raises(EOFError, match="cannot read"):
            ranks.receive()


class Ranks:
    """A door, and a thread behind it that answers like rank 0."""

    def __init__(self, folder: Path, idle_s: float = LIMIT_S) -> None:
        self.folder = folder
        make_key(str(folder))
        self.key = read_key(str(folder))
        self.signals = Signals()
        self.door = Door(str(folder), self.key, idle_s, self.signals)
        self.asked = threading.Semaphore(0)
        self.may_answer = threading.Event()
        self.may_answer.set()
        self._thread = threading.Thread(target=self._answer)
        self._thread.start()
        self._clients: list[Client] = []
        self.streams: list[Channel] = []
        self.door.open({"ranks": [["here", 1]]})

    def _answer(self) -> None:
        channel = self.door.seat.channel
        with contextlib.suppress(EOFError, BrokenPipeError):
            while True:
                kind, (number, content) = channel.receive()
                self.asked.release()
                assert self.may_answer.wait(LIMIT_S)
                if kind == Kind.STREAM:
                    self.streams.append(content)
                    content = None
                if kind != Kind.CANCEL:
                    channel.send(Kind.ANSWER, (number, content))

    @property
    def endpoint(self) -> Endpoint:
        found = Endpoint.read(str(self.folder / RANK_0))
        assert found is not None
        return found

    def reach(self, endpoint: Endpoint | None = None, who: dict[str, Any] | None = None) -> Client:
        bridge = reach(str(self.folder), self.key, endpoint or self.endpoint, None)
        self._clients.append(Client(bridge, who))
        return self._clients[-1]

    def have_left(self) -> bool:
        self._thread.join(LIMIT_S)
        for client in self._clients:
            client.leave()
        self.door.seat.channel.close()
        os.close(self.door.gone)
        return not self._thread.is_alive()


class Client:
    """A client that has reached a door."""

    def __init__(self, bridge: Bridge, who: dict[str, Any] | None = None) -> None:
        self.bridge = bridge
        own, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self.channel = Channel(theirs)
        self._end = End(own)
        bridge.say(this_process() if who is None else who)
        self.welcome = self._words()
        bridge.join(self._end)

    def _words(self) -> dict[str, Any]:
        while not self.bridge.words:
            try:
                self.bridge.work()
            except EOFError:
                break
        return self.bridge.words.popleft()

    def ask(self, number: int, content: Any, kind: Kind = Kind.CALL) -> None:
        self.channel.send(kind, (number, content))
        self.bridge.work()

    def answer(self) -> Any:
        while (message := self.channel.receive(wait=False)) is None:
            with contextlib.suppress(EOFError):  # it may come with the end
                self.bridge.work()
        return message[1]

    def work_for_ever(self) -> None:
        while True:
            self.bridge.work()

    def leave(self) -> None:
        self.bridge.close()
        self._end.sock.close()
        self.channel.close()


@pytest.fixture
def ranks(tmp_path):
    found = Ranks(tmp_path)
    yield found
    found.may_answer.set()
    found.signals.send(15)
    assert found.have_left()


@pytest.fixture(autouse=True)
def short_waits(monkeypatch):
    monkeypatch.setattr(reaching, "DIALLED_S", 0.5)
    monkeypatch.setattr(door_module, "DIALLED_S", 0.3)
    monkeypatch.setattr(door_module, "LOOK_S", 0.05)
    monkeypatch.setattr(door_module, "QUIET_S", 0.0)


class TestWays:
    """Each way is tried, and the first that is open is taken."""

    def test_a_process_of_the_same_node_needs_no_network(self, ranks):
        client = ranks.reach()

        assert client.bridge.transport.title.startswith("a socket of")
        client.ask(1, "what")
        assert client.answer() == (1, "what")

    def test_the_kernel_keeps_other_users_of_the_node_away(self, ranks, monkeypatch):
        """Names of sockets are no secret: /proc/net/unix lists them."""
        monkeypatch.setattr(door_module, "peer_of", lambda sock: (1, os.geteuid() + 1))
        sock = socket.socket(socket.AF_UNIX)
        sock.settimeout(LIMIT_S)
        sock.connect(f"\0{ranks.endpoint.name}")

        assert sock.recv(1) == b""  # not even a number to answer to
        sock.close()

    def test_from_elsewhere_the_client_dials(self, ranks):
        endpoint = ranks.endpoint
        client = ranks.reach(Endpoint(endpoint.host, 1, endpoint.port, endpoint.addresses))

        assert client.bridge.transport.title.startswith("TCP with")
        client.ask(1, "what")
        assert client.answer() == (1, "what")

    def test_where_that_is_closed_rank_0_dials(self, ranks):
        client = ranks.reach(Endpoint("nowhere", 1))

        assert client.bridge.transport.title.endswith("which has dialled this process")
        client.ask(1, "what")
        assert client.answer() == (1, "what")
        assert not list(ranks.folder.glob(f"{KNOCK}*"))

    def test_a_damaged_file_of_a_client_is_passed_over(self, ranks):
        """Disks of clusters are full at times, and people try things."""
        sound = {"host": "x", "pid": 1, "port": 9, "addresses": ["127.0.0.1"]}
        changes = [
            {"port": 2**16},
            {"port": "9"},
            {"addresses": [5]},
            {"addresses": ["x" * 70 + "\N{SNOWMAN}"]},
            {"name": "\ud800"},
            {"mailbox": 5},
            {"mailbox": "../.."},
            {"what": 1},
        ]
        texts = [json.dumps({**sound, **each}) for each in changes]
        for k, text in enumerate([*texts, "", "[]", "[" * 20_000]):
            (ranks.folder / f"{KNOCK}{k}.json").write_text(text)
        (ranks.folder / f"{KNOCK}link.json").symlink_to("/dev/zero")

        client = ranks.reach(Endpoint("nowhere", 1))
        client.ask(1, "what")
        assert client.answer() == (1, "what")

    def test_where_both_are_closed_files_are_written(self, ranks, monkeypatch):
        monkeypatch.setattr(reaching, "addresses_of_this_node", tuple)
        client = ranks.reach(Endpoint("nowhere", 1))

        assert client.bridge.transport.title.startswith(f"files in {ranks.folder}/{KNOCK}")
        client.ask(1, np.arange(100_000))
        number, array = client.answer()
        assert number == 1
        np.testing.assert_array_equal(array, np.arange(100_000))
        client.leave()
        while list(ranks.folder.glob(f"{KNOCK}*")):
            os.sched_yield()

    def test_a_way_that_ends_at_a_stranger_is_not_taken(self, ranks):
        """Such as the port of a job that has ended, which another one has got."""
        with Stranger() as stranger:
            client = ranks.reach(Endpoint("nowhere", 1, stranger.port, ("127.0.0.1",)))

            assert "has dialled this process" in client.bridge.transport.title

    def test_nobody_there_is_told_with_all_that_was_tried(self, tmp_path, monkeypatch):
        monkeypatch.setattr(reaching, "KNOCKED_S", 0.2)
        with Stranger() as stranger:
            endpoint = Endpoint("node7", 1, stranger.port, ("127.0.0.1",))
            with pytest.raises(LaunchError) as raised:
                reach(str(tmp_path), KEY, endpoint, None)

        assert f"rank 0 on node7 does not answer: not at 127.0.0.1, port {stranger.port}" in str(
            raised.value
        )
        assert "another program answers there" in str(raised.value)
        assert not list(tmp_path.iterdir())

    def test_ports_that_a_site_allows_are_used(self):
        with listening() as taken:
            port = taken.getsockname()[1]
            with pytest.raises(OSError, match=r"."), listening((port, port)):
                pass
        with listening((port, port)) as sock:
            assert sock.getsockname()[1] == port


class Stranger:
    """Another program that listens, and says something to whoever comes."""

    def __enter__(self) -> Stranger:
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port = self._listener.getsockname()[1]
        self._thread = threading.Thread(target=self._talk, daemon=True)
        self._thread.start()
        return self

    def _talk(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                sock, _ = self._listener.accept()
                with sock:
                    sock.sendall(b"SSH-2.0-OpenSSH_9.2p1 Debian-2+deb12u3\r\n" * 2)

    def __exit__(self, *exception: object) -> None:
        self._listener.shutdown(socket.SHUT_RDWR)
        self._thread.join()
        self._listener.close()


class TestDoor:
    """One client at a time, who has the key; what it leaves behind is kept for the next."""

    def test_a_second_client_is_told_who_the_first_is(self, ranks):
        first = ranks.reach()
        second = ranks.reach()

        assert f"the ranks serve process {os.getpid()} of " in second.welcome["refused"]
        first.ask(1, "still here")
        assert first.answer() == (1, "still here")

    @pytest.mark.parametrize("name", ["python", "acme_mpi"])
    def test_other_versions_are_refused_by_name(self, ranks, name):
        client = ranks.reach(who={**this_process(), name: "0.0"})

        assert "has " in client.welcome["refused"]
        assert " 0.0, and the ranks have " in client.welcome["refused"]

    def test_after_one_client_comes_another(self, ranks):
        for k in range(3):
            client = ranks.reach()
            assert client.welcome == {"ranks": [["here", 1]], "has_last": False}
            client.ask(k, "hello", Kind.TAKEN)
            assert client.answer() == (k, "hello")
            client.leave()

    def test_a_call_goes_on_and_its_answer_is_kept_for_the_next_client(self, ranks):
        first = ranks.reach()
        ranks.may_answer.clear()
        first.ask(1, "result")
        first.leave()
        second = ranks.reach()
        assert second.welcome.get("has_last"), second.welcome
        second.leave()
        ranks.may_answer.set()
        third = ranks.reach()
        assert third.welcome["has_last"]
        third.bridge.say({"last": True})
        assert third.answer() == (1, "result")
        third.leave()
        # It may have gone before it had all of that.
        fourth = ranks.reach()
        fourth.bridge.say({"last": True})
        assert fourth.answer() == (1, "result")
        fourth.ask(2, None, Kind.TAKEN)
        assert fourth.answer() == (2, None)
        fourth.leave()
        assert not ranks.reach().welcome["has_last"]

    @pytest.mark.parametrize("kind", [Kind.STREAM, Kind.RELEASE, Kind.TAKEN])
    def test_only_answers_of_calls_are_kept(self, ranks, kind):
        client = ranks.reach()
        ranks.may_answer.clear()
        client.ask(1, None, kind)
        client.leave()
        second = ranks.reach()
        assert not second.welcome.get("has_last", second.welcome)
        ranks.may_answer.set()
        assert second.answer() == (1, None)
        second.leave()

        assert not ranks.reach().welcome["has_last"]

    def test_an_answer_that_was_taken_is_not_kept(self, ranks):
        first = ranks.reach()
        first.ask(1, "result")
        assert first.answer() == (1, "result")
        first.ask(2, None, Kind.TAKEN)
        assert first.answer() == (2, None)
        first.leave()

        assert not ranks.reach().welcome["has_last"]

    def test_pools_of_a_client_that_has_gone_hear_of_it(self, ranks):
        client = ranks.reach()
        own, other = Channel.pair()
        client.ask(1, other, Kind.STREAM)
        other.close()
        assert client.answer()[0] == 1
        [far] = ranks.streams
        client.leave()
        with pytest.raises(EOFError):
            far.receive()
        for each in (own, far):
            each.close()

    def test_a_port_scanner_keeps_nobody_out(self, ranks):
        port = ranks.endpoint.port
        socks = [socket.create_connection(("127.0.0.1", port)) for _ in range(40)]
        for k, sock in enumerate(socks):
            with contextlib.suppress(OSError):
                sock.sendall([b"", b"\0", b"GET / HTTP/1.0\r\n\r\n" * 9][k % 3])
        client = ranks.reach()

        client.ask(1, "what")
        assert client.answer() == (1, "what")
        for sock in socks:
            sock.close()

    def test_a_client_that_meddles_is_dropped(self, ranks):
        first = ranks.reach()
        first.bridge.transport.send(b"\5\0\0\0\1" + bytes(37))
        first.bridge.transport.flush()

        with pytest.raises(EOFError):
            first.work_for_ever()

    def test_damaged_content_costs_the_client_its_place_and_nothing_else(self, ranks):
        """Whoever it is has the key, and another version or a mistake."""
        message = HEADER.pack(b"acmi", Kind.CALL, 0, 1, 0, 8)

        def along(*values: int, n: int = 1) -> bytes:
            return bytes(4) + bytes([n]) + struct.pack("<BQ", *values) + message

        damaged = [
            (Frame.WORDS, b"[1]"),
            (Frame.WORDS, b"{"),
            (Frame.WORDS, b"[" * 100_000),
            (99, b""),
            (Frame.MESSAGE, b""),
            (Frame.MESSAGE, bytes(5)),  # an empty datagram is the end of a channel
            (Frame.MESSAGE, bytes(5) + b"short"),
            (Frame.MESSAGE, bytes(5) + message + bytes(200_000)),
            (Frame.MESSAGE, bytes(5) + message[:4] + b"\xff" + message[5:]),
            (Frame.MESSAGE, along(0, 2**63)),
            (Frame.MESSAGE, along(1, 0)),  # the first channel, again
            (Frame.MESSAGE, along(1, 2)),  # a number of the other side
            (Frame.MESSAGE, along(7, 1)),
            (Frame.MESSAGE, along(0, 1, n=200)),
            (Frame.BYTES, b"of nothing"),
            (Frame.HANG_UP, b""),
            (Frame.HANG_UP, bytes(4)),
        ]
        for kind, content in damaged:
            client = ranks.reach()
            assert "refused" not in client.welcome, "the place is free again"
            client.bridge.transport.send(client.bridge._sealer.seal(kind, content))
            client.bridge.transport.flush()
            with pytest.raises(EOFError):
                client.work_for_ever()
        # A message before anybody is welcome is nobody's.
        bridge = reach(str(ranks.folder), ranks.key, ranks.endpoint, None)
        bridge.send_on(0, Message(bytes(message), []))
        bridge.work()
        client = Client(bridge, None)
        client.ask(1, "what")
        assert client.answer() == (1, "what")
        client.leave()

    def test_told_to_stop_the_ranks_leave(self, tmp_path):
        found = Ranks(tmp_path)
        client = found.reach()
        found.may_answer.clear()
        client.ask(1, "runs")
        client.bridge.say({"stop": True})
        client.bridge.work()
        found.may_answer.set()

        assert found.have_left()
        assert not (tmp_path / RANK_0).exists()

    def test_without_a_client_they_leave_after_a_while(self, tmp_path):
        found = Ranks(tmp_path, idle_s=0.0)

        assert found.have_left()

    def test_a_signal_has_them_leave_when_the_call_has_ended(self, tmp_path):
        found = Ranks(tmp_path)
        client = found.reach()
        found.may_answer.clear()
        client.ask(1, "result")
        assert found.asked.acquire(timeout=LIMIT_S)
        found.signals.send(12)
        while not client.bridge.words:
            client.bridge.work()
        assert client.bridge.words.popleft() == {"leaving": 12}
        found.may_answer.set()

        assert client.answer() == (1, "result")
        assert found.have_left()
