"""How a client and rank 0 prove to each other that they have the key, without telling it.

Rank 0 begins, whoever has dialled: it sends a random number, the client answers with one of its own
and a proof, and rank 0 with its proof. A proof is an HMAC of both numbers (RFC 2104, SHA-256), so
what was heard once is of no use again. The keys of the connection are made of both numbers, too.
"""

from __future__ import annotations

import hmac
import secrets
from collections.abc import Callable
from typing import NamedTuple

from acme_mpi.errors import LaunchError
from acme_mpi.links.transport import Transport

MAGIC = b"acme_mpi"
VERSION = 1  # of what is said on a connection
NONCE_BYTES = PROOF_BYTES = 32
_HEAD = MAGIC + VERSION.to_bytes(4, "little")
_CHALLENGE_BYTES = len(_HEAD) + NONCE_BYTES
_ANSWER_BYTES = len(_HEAD) + NONCE_BYTES + PROOF_BYTES


class StrangerError(LaunchError):
    """The other side does not have the key, or is no acme_mpi."""


class Keys(NamedTuple):
    """With what each side seals what it sends.

    Attributes
    ----------
    of_client, of_ranks : bytes
        32 bytes each.
    """

    of_client: bytes
    of_ranks: bytes


class Handshake:
    """One side of the beginning of a connection.

    Parameters
    ----------
    transport : Transport
        To whoever it may be.
    key : bytes
        Of the ranks.
    is_client : bool
        Which side this is.
    """

    def __init__(self, transport: Transport, key: bytes, is_client: bool) -> None:
        self.transport = transport
        self._key, self._heard = key, bytearray()
        self._own = secrets.token_bytes(NONCE_BYTES)
        self._next: Callable[[bytes], Keys | None]
        if is_client:
            self._n_wanted, self._next = _CHALLENGE_BYTES, self._answer
        else:
            self._n_wanted, self._next = _ANSWER_BYTES, self._check_answer
            transport.send(_HEAD + self._own)

    def go_on(self) -> tuple[Keys, bytes] | None:
        """Hear what has come, and say what is next, without waiting.

        Returns
        -------
        tuple of (Keys, bytes) or None
            The keys, and what the other side has said behind its proof; None: it goes on.

        Raises
        ------
        StrangerError
            The other side has said something wrong.
        EOFError
            It has gone.
        """
        self.transport.flush()
        while True:
            # No more than is wanted: whoever it is has proved nothing yet.
            while len(self._heard) < self._n_wanted:
                data = self.transport.receive()
                if data is None:
                    return None
                self._heard += data
            said = bytes(self._heard[: self._n_wanted])
            del self._heard[: self._n_wanted]
            keys = self._next(said)
            self.transport.flush()
            if keys is not None:
                return keys, bytes(self._heard)

    def _answer(self, challenge: bytes) -> None:
        """Be the client that rank 0 has challenged."""
        nonces = _without_head(challenge) + self._own
        self.transport.send(_HEAD + self._own + self._proof(b"client", nonces))
        self._n_wanted, self._next = PROOF_BYTES, lambda proof: self._check_proof(proof, nonces)

    def _check_proof(self, proof: bytes, nonces: bytes) -> Keys:
        if not hmac.compare_digest(proof, self._proof(b"ranks", nonces)):
            raise StrangerError("who answers there does not have the key of these ranks")
        return self._keys(nonces)

    def _check_answer(self, answer: bytes) -> Keys:
        """Be rank 0 that a client has answered."""
        said = _without_head(answer)
        nonces = self._own + said[:NONCE_BYTES]
        if not hmac.compare_digest(said[NONCE_BYTES:], self._proof(b"client", nonces)):
            raise StrangerError("who dials does not have the key of these ranks")
        self.transport.send(self._proof(b"ranks", nonces))
        return self._keys(nonces)

    def _proof(self, whose: bytes, nonces: bytes) -> bytes:
        return hmac.digest(self._key, b"proof of " + whose + nonces, "sha256")

    def _keys(self, nonces: bytes) -> Keys:
        return Keys(*(hmac.digest(self._key, b"key of " + w + nonces, "sha256") for w in _SIDES))


_SIDES = (b"client", b"ranks")


def _without_head(said: bytes) -> bytes:
    if not said.startswith(MAGIC):
        raise StrangerError("another program answers there")
    if not said.startswith(_HEAD):
        version = int.from_bytes(said[len(MAGIC) : len(_HEAD)], "little")
        raise StrangerError(
            f"the other side speaks version {version} of the protocol, this one {VERSION}: use the "
            "same version of acme_mpi on both"
        )
    return said[len(_HEAD) :]
