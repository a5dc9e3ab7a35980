"""Where each side can be reached: what rank 0, or a client that cannot reach it, writes down."""

from __future__ import annotations

import contextlib
import fcntl
import getpass
import json
import os
import secrets
import socket
import struct
import sys
from dataclasses import asdict, dataclass
from typing import Any

from acme_mpi.history.journal import write_whole
from acme_mpi.history.parsing import Damaged, read_file

RANK_0 = "rank0.json"
KNOCK = "client-"  # and a random number, and .json: a client wants rank 0 to come to it
_SIOCGIFADDR = 0x8915  # netdevice(7)
_MOST_BYTES = 64 * 1024


@dataclass(frozen=True)
class Endpoint:
    """Where a process listens.

    Attributes
    ----------
    host : str
        Its node.
    pid : int
        Its id.
    port : int
        Of TCP; 0: it does not listen there.
    addresses : list of str
        Of its node.
    name : str
        By which processes of its node reach it, in no folder; empty: they do not.
    mailbox : str
        Path of its mailbox; empty: it has none.
    """

    host: str
    pid: int
    port: int = 0
    addresses: tuple[str, ...] = ()
    name: str = ""
    mailbox: str = ""

    def write(self, path: str) -> None:
        """Write it down, whole or not at all.

        Raises
        ------
        OSError
            The medium refused it.
        """
        write_whole(path, json.dumps(asdict(self)))

    @classmethod
    def read(cls, path: str) -> Endpoint | None:
        """Return what is written down; None: nothing, or not yet."""
        try:
            said = json.loads(read_file(path, _MOST_BYTES))
            found = cls(**{**said, "addresses": tuple(said["addresses"])})
            return found if found._is_sound() else None
        except (OSError, Damaged, ValueError, TypeError, KeyError, RecursionError):
            return None

    def _is_sound(self) -> bool:
        texts = self.host, self.name, self.mailbox, *self.addresses
        numbers = self.pid, self.port
        are_right = all(isinstance(text, str) for text in texts) and all(
            isinstance(number, int) for number in numbers
        )
        return are_right and 0 <= self.port < 2**16


def listening(ports: tuple[int, int] | None = None) -> socket.socket:
    """Return a socket that listens to all networks of this node.

    Parameters
    ----------
    ports : (int, int), optional
        The first and the last port that may be taken; default any.

    Raises
    ------
    OSError
        All ports are taken, or there is no network.
    """
    first, last = ports or (0, 0)
    # Not one after the other: many users of a node begin at the same one.
    wanted = list(range(first, last + 1))
    secrets.SystemRandom().shuffle(wanted)
    for port in wanted[:-1]:
        with contextlib.suppress(OSError):
            return _listening_at(port)
    return _listening_at(wanted[-1])


def _listening_at(port: int) -> socket.socket:
    if socket.has_dualstack_ipv6():
        with contextlib.suppress(OSError):
            sock = socket.create_server(("", port), family=socket.AF_INET6, dualstack_ipv6=True)
            sock.setblocking(False)
            return sock
    sock = socket.create_server(("", port))
    sock.setblocking(False)
    return sock


def listening_here() -> tuple[socket.socket, str]:
    """Return a socket at which processes of this node arrive, and its unguessable name."""
    name = f"acme_mpi.{secrets.token_hex(16)}"
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    sock.bind(f"\0{name}")
    sock.listen()
    sock.setblocking(False)
    return sock, name


def addresses_of_this_node() -> tuple[str, ...]:
    """Return by what other nodes may know this one: addresses of its networks, then its name."""
    found = []
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        for _, interface in socket.if_nameindex():
            request = struct.pack("256s", os.fsencode(interface)[:15])
            with contextlib.suppress(OSError):
                answer = fcntl.ioctl(sock.fileno(), _SIOCGIFADDR, request)
                found.append(socket.inet_ntoa(answer[20:24]))
    found.sort(key=lambda address: address.startswith("127."))
    if len(found) > 1:
        found = [address for address in found if not address.startswith("127.")] or found
    return tuple(dict.fromkeys([*found, *_addresses_of_ipv6(), socket.gethostname()]))


def _addresses_of_ipv6(path: str = "/proc/net/if_inet6") -> list[str]:
    found = []
    with contextlib.suppress(OSError), open(path) as file:
        for line in file:
            digits, _, _, scope, *_ = line.split()
            if scope == "00":  # global; others need to be told which interface
                found.append(socket.inet_ntop(socket.AF_INET6, bytes.fromhex(digits)))
    return found


def this_process() -> dict[str, Any]:
    """Return what one side tells the other of itself, as plain values."""
    from acme_mpi import __version__

    user = str(os.geteuid())
    with contextlib.suppress(Exception):  # a container may not know its users
        user = getpass.getuser()
    return {
        "host": socket.gethostname(),
        "pid": os.getpid(),
        "user": user,
        "python": ".".join(map(str, sys.version_info[:2])),
        "acme_mpi": __version__,
    }
