"""Rank 0's side of the way to its client: it lets in who has the key, one at a time.

A thread does it, which takes nothing from what rank 0 does meanwhile. For rank 0 there is one
channel, from beginning to end: clients come and go behind it.
"""

from __future__ import annotations

import contextlib
import os
import select
import socket
import time
from collections.abc import Iterator
from typing import Any, Protocol

from acme_mpi.comm.background import start_thread
from acme_mpi.errors import LaunchError
from acme_mpi.links.bridge import FIRST, Bridge, End, Message
from acme_mpi.links.endpoint import (
    KNOCK,
    RANK_0,
    Endpoint,
    addresses_of_this_node,
    listening,
    listening_here,
    this_process,
)
from acme_mpi.links.handshake import Handshake
from acme_mpi.links.mailbox import Mailbox
from acme_mpi.links.reaching import dialled
from acme_mpi.links.transport import SocketTransport
from acme_mpi.linux.processes import peer_of
from acme_mpi.runner.channel import Channel, Kind, kind_of

LOOK_S = 1.0  # between two looks for what nobody tells
INTRODUCED_S = 30.0  # within which whoever comes has proved to be a client, and has said its name
DIALLED_S = 3.0  # a client that wants to be dialled, and is not reached by then, gets letters
QUIET_S = 3.0  # after the last answer, before the ranks leave: the client may have a last word
MOST_GUESTS = 32  # who have proved nothing yet
_ASKING = (Kind.CALL, Kind.RELEASE, Kind.STREAM, Kind.TAKEN)


class Waking(Protocol):
    """The signals that this process has got."""

    number: int

    def fileno(self) -> int:
        """Return a descriptor that is readable once there was a signal."""


class Seat:
    """The client's place as rank 0 sees it, whoever has it.

    Attributes
    ----------
    channel : Channel
        Rank 0's end.
    end : End
        The other one.
    n_unanswered : int
        Requests that rank 0 has not answered.
    held : Message or None
        The answer to the last request, if that was a call, and it is not known that a client has
        got it.
    last_s : float
        When the last answer came.
    """

    def __init__(self) -> None:
        own, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self.channel, self.end = Channel(theirs), End(own)
        self.n_unanswered, self.last_s = 0, time.monotonic()
        self.held: Message | None = None
        self._asked: Kind | None = None  # what the last request was

    @property
    def has_last(self) -> bool:
        """Whether there is, or will be, an answer to a call that may have reached nobody."""
        is_running = self.n_unanswered > 0 and self._asked == Kind.CALL
        return self.held is not None or is_running

    def hear(self, message: Message) -> None:
        """See a message of the client."""
        kind = kind_of(message.data)
        if kind in _ASKING:
            self.n_unanswered += 1
            self.held, self._asked = None, kind

    def answer(self, message: Message) -> None:
        """See a message of rank 0."""
        if kind_of(message.data) == Kind.ANSWER:
            self.n_unanswered -= 1
            self.last_s = time.monotonic()
            is_last = self.n_unanswered == 0 and self._asked == Kind.CALL
            self.held = message if is_last else None


class _SeatBridge(Bridge):
    """A bridge to a client, whose first channel ends at the seat."""

    seat: Seat

    def received(self, number: int, message: Message) -> None:
        """Give a message of the client to rank 0."""
        if number == FIRST:
            self.seat.hear(message)
        super().received(number, message)

    def taken(self, number: int, message: Message) -> None:
        """Send a message of rank 0 to the client."""
        if number == FIRST:
            self.seat.answer(message)
        super().taken(number, message)


class _Guest:
    """Somebody who has come, and is not the client yet.

    Parameters
    ----------
    handshake : Handshake
        With whoever it is.
    patience_s : float
        How long that may take.
    """

    def __init__(self, handshake: Handshake, patience_s: float = INTRODUCED_S) -> None:
        self.transport = handshake.transport
        self._handshake, self._give_up_s = handshake, time.monotonic() + patience_s
        self.bridge: _SeatBridge | None = None

    def introduction(self) -> dict[str, Any] | None:
        """Return what the guest, who has the key, says of itself; None: nothing yet.

        Raises
        ------
        EOFError, LaunchError
            It has gone, or has no key, or takes too long.
        """
        if time.monotonic() > self._give_up_s:
            raise EOFError("it takes too long")
        if self.bridge is None:
            done = self._handshake.go_on()
            if done is None:
                return None
            keys, more = done
            self.bridge = _SeatBridge.of(self.transport, keys, is_client=False)
            self.bridge.hear(more)
        self.bridge.work()
        return self.bridge.words.popleft() if self.bridge.words else None


class Door:
    """Where clients arrive.

    Parameters
    ----------
    folder : str
        Of the ranks, which clients see, too.
    key : bytes
        Of the ranks.
    idle_s : float
        How long the ranks stay without a client, in seconds.
    signals : Waking
        Those that have the ranks leave.
    ports : (int, int), optional
        The first and the last port at which it may listen; default any.

    Attributes
    ----------
    seat : Seat
        The place of the client.
    gone : int
        Descriptor that is readable when there will be no client any more.
    """

    def __init__(
        self,
        folder: str,
        key: bytes,
        idle_s: float,
        signals: Waking,
        ports: tuple[int, int] | None = None,
    ) -> None:
        self.seat = Seat()
        self.gone, self._open = os.pipe2(os.O_CLOEXEC)
        self._folder, self._key, self._idle_s = folder, key, idle_s
        self._signals, self._ports = signals, ports
        self._listeners: list[socket.socket] = []
        self._guests: list[_Guest] = []
        self._bridge: _SeatBridge | None = None
        self._client: dict[str, Any] = {}
        self._welcome: dict[str, Any] = {}
        self._knocks: set[str] = set()
        self._mailboxes: list[tuple[float, str]] = []  # from when on to be used
        self._left_s, self._next_look_s = time.monotonic(), 0.0
        self._is_leaving = False

    @property
    def has_client(self) -> bool:
        """Whether there is a client now."""
        return self._bridge is not None

    def open(self, welcome: dict[str, Any]) -> None:
        """Let clients in from now on.

        Parameters
        ----------
        welcome : dict
            What each is told, as plain values.

        Raises
        ------
        LaunchError
            It cannot be written down where this process listens.
        """
        self._welcome = welcome
        port = 0
        here, name = listening_here()
        self._listeners.append(here)
        with contextlib.suppress(OSError):  # without a network there are files
            self._listeners.append(listening(self._ports))
            port = self._listeners[-1].getsockname()[1]
        endpoint = Endpoint(
            socket.gethostname(), os.getpid(), port, addresses_of_this_node() if port else (), name
        )
        try:
            endpoint.write(os.path.join(self._folder, RANK_0))
        except OSError as error:
            raise LaunchError(f"cannot write into {self._folder}: {error.strerror}") from None
        start_thread("door", self._serve)

    def _serve(self) -> None:
        try:
            while not self._is_over():
                self._sleep()
                self._accept()
                self._look_around()
                self._work()  # before guests: one may be the client, who has hung up and is back
                for guest in [*self._guests]:
                    self._hear_guest(guest)
        finally:
            self._close()

    def _sleep(self) -> None:
        reading = [each.fileno() for each in self._listeners]
        reading += [fd for g in self._guests if (fd := g.transport.fileno()) >= 0]
        writing: list[int] = []
        pauses = [LOOK_S] if self._bridge is None or self._is_leaving else []
        if not self._is_leaving and self._signals.fileno() >= 0:
            reading.append(self._signals.fileno())
        transports = [guest.transport for guest in self._guests]
        writing += [each.fileno() for each in transports if each.n_waiting and each.fileno() >= 0]
        if self._bridge is None:
            reading.append(self.seat.end.fileno())
        else:
            reading += self._bridge.reading()
            writing += self._bridge.writing()
            transports.append(self._bridge.transport)
        pauses += [pause_s for each in transports if (pause_s := each.pause_s) is not None]
        if self._guests:
            pauses.append(LOOK_S)
        select.select(reading, writing, [], min(pauses, default=None))

    def _accept(self) -> None:
        for listener in self._listeners:
            with contextlib.suppress(OSError):
                sock, _ = listener.accept()
                # The kernel shows names of sockets to everybody, and knows whose process dials.
                if sock.family == socket.AF_UNIX and peer_of(sock)[1] != os.geteuid():
                    sock.close()
                    continue
                transport = SocketTransport(sock, "a socket")
                self._let_in(_Guest(Handshake(transport, self._key, is_client=False)))

    def _let_in(self, guest: _Guest) -> None:
        self._guests.append(guest)
        for crowd in self._guests[:-MOST_GUESTS]:  # a port scanner
            self._send_away(crowd)

    def _send_away(self, guest: _Guest) -> None:
        self._guests.remove(guest)
        guest.transport.close()

    def _look_around(self) -> None:
        """See who has written down that it wants to be dialled, or written to."""
        now_s = time.monotonic()
        if self._bridge is not None or now_s < self._next_look_s:
            return
        self._next_look_s = now_s + LOOK_S
        for name in self._new_knocks():
            knock = Endpoint.read(os.path.join(self._folder, name))
            if knock is None:
                continue
            self._knocks.add(name)
            for sock, title in dialled(knock):
                self._let_in(_Guest(Handshake(SocketTransport(sock, title), self._key, False)))
            if knock.mailbox:
                mailbox = os.path.join(self._folder, os.path.basename(knock.mailbox))
                self._mailboxes.append((now_s + DIALLED_S, mailbox))
        due = [path for from_s, path in self._mailboxes if from_s <= now_s]
        self._mailboxes = [each for each in self._mailboxes if each[0] > now_s]
        for path in due:
            transport = Mailbox(path, is_client=False)
            self._let_in(_Guest(Handshake(transport, self._key, False), 2 * INTRODUCED_S))

    def _new_knocks(self) -> Iterator[str]:
        with contextlib.suppress(OSError):
            for name in os.listdir(self._folder):
                is_knock = name.startswith(KNOCK) and name.endswith(".json")
                if is_knock and name not in self._knocks:
                    yield name

    def _hear_guest(self, guest: _Guest) -> None:
        try:
            said = guest.introduction()
        except (EOFError, LaunchError, ValueError, OSError):
            self._send_away(guest)
            return
        if said is None:
            return
        bridge = guest.bridge
        assert bridge is not None
        self._guests.remove(guest)
        reason = self._why_not(said)
        if reason:
            bridge.say({"refused": reason})
            with contextlib.suppress(EOFError):
                bridge.work()
            bridge.transport.close()
            return
        bridge.seat, self._bridge = self.seat, bridge
        self._client = {**said, "since": time.strftime("%H:%M")}
        self._mailboxes.clear()
        bridge.say({**self._welcome, "has_last": self.seat.has_last})
        bridge.join(self.seat.end)

    def _why_not(self, said: dict[str, Any]) -> str:
        """Return why somebody cannot be the client, empty if it can."""
        own = this_process()
        for name, title in (("python", "Python"), ("acme_mpi", "acme_mpi")):
            if said.get(name) != own[name]:
                return (
                    f"this process has {title} {said.get(name)}, and the ranks have {own[name]}: "
                    "functions cannot travel between them; start the ranks with the same "
                    "environment"
                )
        if self._bridge is not None:
            client = self._client
            return (
                f"the ranks serve process {client.get('pid')} of {client.get('user')} on "
                f"{client.get('host')} since {client['since']}, and one process at a time; end "
                "that one, or launch other ranks"
            )
        return "the ranks are leaving: their time is over" if self._is_leaving else ""

    def _work(self) -> None:
        bridge = self._bridge
        if bridge is None:
            self._keep_answers()
            return
        is_there = True
        try:
            bridge.work()
        except (EOFError, LaunchError, ValueError, OSError):
            is_there = False
        while bridge.words and bridge is self._bridge:
            self._hear_client(bridge, bridge.words.popleft())
        if not is_there:
            self._drop_client()
            if isinstance(bridge.transport, Mailbox):
                bridge.transport.remove()  # nobody else does, if the client was killed

    def _hear_client(self, bridge: Bridge, words: dict[str, Any]) -> None:
        if "stop" in words:
            self._idle_s = -1.0
            self._drop_client()
            self.seat.n_unanswered = 0
        elif "last" in words and self.seat.held is not None:
            bridge.send_on(FIRST, self.seat.held)  # and kept: this client may go, too

    def _drop_client(self) -> None:
        if self._bridge is not None:
            self._bridge.close()
        self._bridge, self._left_s = None, time.monotonic()
        self._next_look_s = 0.0

    def _keep_answers(self) -> None:
        """Keep what rank 0 answers to a client that has gone."""
        self.seat.end.deliver()  # what that one has said at last
        try:
            while (message := self.seat.end.take()) is not None:
                self.seat.answer(message)
        except EOFError:
            self.seat.end.hears = False

    def _is_over(self) -> bool:
        """Tell whether the ranks are to leave: after a signal, or when nobody has come for long."""
        now_s = time.monotonic()
        if self._signals.number and not self._is_leaving:
            self._is_leaving = True
            if self._bridge is not None:
                self._bridge.say({"leaving": self._signals.number})
        if not self.seat.end.hears:  # rank 0 has gone
            return True
        if self.seat.n_unanswered > 0:
            return False
        if self._is_leaving:
            return now_s - self.seat.last_s > QUIET_S
        last_s = max(self._left_s, self.seat.last_s)
        return self._bridge is None and now_s - last_s > self._idle_s

    def _close(self) -> None:
        """Have rank 0 find the end of its client."""
        with contextlib.suppress(OSError):
            os.unlink(os.path.join(self._folder, RANK_0))
        for each in self._listeners:
            each.close()
        for guest in self._guests:
            guest.transport.close()
        self._drop_client()
        self.seat.end.sock.close()
        os.close(self._open)
