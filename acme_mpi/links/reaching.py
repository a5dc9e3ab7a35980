"""How a client reaches rank 0: it dials; else rank 0 dials it; else both write files.

Which way is open differs from cluster to cluster, so each is tried. Nobody is believed to be rank 0
because of where it answers: it has to prove that it has the key.
"""

from __future__ import annotations

import contextlib
import os
import secrets
import select
import shutil
import socket
import time
from collections.abc import Iterator

from acme_mpi.errors import LaunchError
from acme_mpi.links.bridge import Bridge
from acme_mpi.links.endpoint import KNOCK, Endpoint, addresses_of_this_node, listening
from acme_mpi.links.handshake import Handshake, StrangerError
from acme_mpi.links.mailbox import Mailbox, make_mailbox
from acme_mpi.links.transport import SocketTransport

DIALLED_S = 4.0  # within which one of the addresses has answered
KNOCKED_S = 60.0  # within which rank 0 has come, or has written
LOOK_S = 0.05


def reach(folder: str, key: bytes, rank_0: Endpoint, ports: tuple[int, int] | None) -> Bridge:
    """Return the bridge to rank 0.

    Parameters
    ----------
    folder : str
        Of the ranks, which both sides see.
    key : bytes
        Of the ranks.
    rank_0 : Endpoint
        Where it listens.
    ports : (int, int), optional
        The first and the last port at which this process may listen; default any.

    Raises
    ------
    LaunchError
        It is not there, or somebody else is.
    """
    trial = _Trial(key)
    found, box = None, None
    try:
        for sock, title in dialled(rank_0):
            trial.add(Handshake(SocketTransport(sock, title), key, is_client=True))
        found = trial.wait(DIALLED_S)
        if found is None:
            with _knocking(folder, ports) as (listener, mailbox):
                box = Mailbox(mailbox, is_client=True)
                trial.add(Handshake(box, key, is_client=True))
                found = trial.wait(KNOCKED_S, listener)
    finally:
        trial.close()
        if box is not None and (found is None or found.transport is not box):
            box.remove()
    if found is None:
        raise LaunchError(
            f"rank 0 on {rank_0.host} does not answer: not at {', '.join(rank_0.addresses)}, port "
            f"{rank_0.port}, nor does it come to this process, nor write into {folder}"
            f"{trial.strangers}"
        )
    return found


def dialled(endpoint: Endpoint) -> Iterator[tuple[socket.socket, str]]:
    """Begin to dial what an endpoint names; yield sockets, which may be connecting yet."""
    if endpoint.name and (sock := _dial(socket.AF_UNIX, f"\0{endpoint.name}")) is not None:
        yield sock, f"a socket of {endpoint.host}"
        return
    known = set()
    for address in endpoint.addresses if endpoint.port else ():
        with contextlib.suppress(OSError, UnicodeError):  # a name that nobody knows here
            infos = socket.getaddrinfo(address, endpoint.port, type=socket.SOCK_STREAM)
            for family, _, _, _, where in infos:
                if where in known or family not in (socket.AF_INET, socket.AF_INET6):
                    continue
                known.add(where)
                if (sock := _dial(family, where)) is not None:
                    yield sock, f"TCP with {address}, port {endpoint.port}"


def _dial(family: int, address: object) -> socket.socket | None:
    sock = socket.socket(family, socket.SOCK_STREAM)
    sock.setblocking(False)
    try:
        with contextlib.suppress(BlockingIOError):
            sock.connect(address)  # type: ignore[arg-type]
    except (OSError, ValueError):  # a name that cannot be one
        sock.close()
        return None
    return sock


@contextlib.contextmanager
def _knocking(folder: str, ports: tuple[int, int] | None) -> Iterator[tuple[socket.socket, str]]:
    """Context in which rank 0 finds this process: yields where it listens, and a mailbox."""
    name = f"{KNOCK}{secrets.token_hex(8)}"
    mailbox, path = os.path.join(folder, name), os.path.join(folder, f"{name}.json")
    try:
        with listening(ports) as listener:
            make_mailbox(mailbox)
            port = listener.getsockname()[1]
            addresses = addresses_of_this_node()
            knock = Endpoint(socket.gethostname(), os.getpid(), port, addresses, "", mailbox)
            knock.write(path)
            yield listener, mailbox
    except OSError as error:
        shutil.rmtree(mailbox, ignore_errors=True)
        raise LaunchError(f"cannot ask rank 0 to come, in {folder}: {error}") from None
    finally:
        with contextlib.suppress(OSError):
            os.unlink(path)


class _Trial:
    """Those who may be rank 0.

    Parameters
    ----------
    key : bytes
        Of the ranks.
    """

    def __init__(self, key: bytes) -> None:
        self._key = key
        self._hands: list[Handshake] = []
        self._strangers: list[str] = []

    @property
    def strangers(self) -> str:
        """Who has answered and is somebody else, as the end of a sentence."""
        return "".join(f"; {stranger}" for stranger in dict.fromkeys(self._strangers))

    def add(self, handshake: Handshake) -> None:
        """Try one more."""
        self._hands.append(handshake)

    def wait(self, time_s: float, listener: socket.socket | None = None) -> Bridge | None:
        """Return the first who has proved to be rank 0; None: nobody has within that time."""
        give_up_s = time.monotonic() + time_s
        while time.monotonic() < give_up_s and (self._hands or listener is not None):
            if listener is not None:
                self._accept(listener)
            for hand in [*self._hands]:
                if (found := self._go_on(hand)) is not None:
                    return found
            fds = [fd for hand in self._hands if (fd := hand.transport.fileno()) >= 0]
            # Also for sockets that are connecting, and fail: those are ready to be written to.
            connecting = fds if listener is None else []
            reading = fds if listener is None else [*fds, listener.fileno()]
            select.select(reading, [], connecting, LOOK_S)
        return None

    def _accept(self, listener: socket.socket) -> None:
        with contextlib.suppress(OSError):
            sock, where = listener.accept()
            title = f"TCP from {where[0]}, which has dialled this process"
            self.add(Handshake(SocketTransport(sock, title), self._key, is_client=True))

    def _go_on(self, hand: Handshake) -> Bridge | None:
        try:
            done = hand.go_on()
        except (EOFError, StrangerError) as error:
            if isinstance(error, StrangerError):
                self._strangers.append(f"{hand.transport.title}: {error}")
            hand.transport.close()
            self._hands.remove(hand)
            return None
        if done is None:
            return None
        self._hands.remove(hand)
        keys, more = done
        bridge = Bridge.of(hand.transport, keys, is_client=True)
        bridge.hear(more)
        return bridge

    def close(self) -> None:
        """Drop the others."""
        for hand in self._hands:
            hand.transport.close()
        self._hands.clear()
