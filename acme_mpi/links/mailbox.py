"""Bytes by way of a folder that both sides see, where no connection can be made.

Each direction has a folder of its own, in which every file is a letter: its name is its number. The
reader removes what it has read. Names are looked for by listing the folder, as network drives
remember for a while that a file was not there.
"""

from __future__ import annotations

import contextlib
import os
import secrets
import shutil
import time
from collections import deque
from collections.abc import Callable

SHORTEST_S, LONGEST_S = 0.02, 1.0  # pauses between two looks
LETTER_BYTES = 16 * 1024 * 1024
MOST_LETTERS = 16  # that are not read yet
BEAT_S = 15.0  # between two signs of life
SILENCE_S = 300.0  # without one: drives, and busy processes, take their time
_BEAT, _END = "beat", "end"
_TO_RANKS, _TO_CLIENT = "to_ranks", "to_client"


def make_mailbox(folder: str) -> None:
    """Make the folders of a mailbox, for this user alone.

    Raises
    ------
    OSError
        The medium refused it.
    """
    for path in (folder, os.path.join(folder, _TO_RANKS), os.path.join(folder, _TO_CLIENT)):
        os.mkdir(path, 0o700)


class Mailbox:
    """One side of a mailbox.

    Parameters
    ----------
    folder : str
        Made by `make_mailbox`.
    is_client : bool
        Which side this is.
    clock : callable
        Returns a time in seconds.
    """

    def __init__(
        self, folder: str, is_client: bool, clock: Callable[[], float] = time.monotonic
    ) -> None:
        own, theirs = (_TO_RANKS, _TO_CLIENT) if is_client else (_TO_CLIENT, _TO_RANKS)
        self.title = f"files in {folder}"
        self._folder = folder
        self._out, self._in = os.path.join(folder, own), os.path.join(folder, theirs)
        self._clock = clock
        self._waiting: deque[bytes] = deque()
        self._n_sent = self._n_read = 0
        self.pause_s: float | None = SHORTEST_S
        self._beat_s = self._n_beats = 0.0
        self._last_beat, self._heard_s = b"", clock()

    @property
    def n_waiting(self) -> int:
        """How many bytes are not sent yet."""
        return sum(map(len, self._waiting))

    def fileno(self) -> int:
        """Return -1: nobody tells when a file comes."""
        return -1

    def receive(self) -> bytes | None:
        """Return the next letter; None: there is none.

        Raises
        ------
        EOFError
            The other side has ended the conversation, or has given no sign of life for long.
        """
        names = self._listed(self._in)
        if str(self._n_read) in names and (letter := self._read(str(self._n_read))) is not None:
            self._n_read += 1
            self.pause_s, self._heard_s = SHORTEST_S, self._clock()
            return letter
        if _END in names and str(self._n_read) not in names:
            raise EOFError("the other side has ended the conversation")
        self.pause_s = min(LONGEST_S, 1.2 * (self.pause_s or SHORTEST_S))
        beat = self._read(_BEAT, is_kept=True) if _BEAT in names else None
        if beat is not None and beat != self._last_beat:
            self._last_beat, self._heard_s = beat, self._clock()
        if self._clock() - self._heard_s > SILENCE_S:
            raise EOFError(f"the other side has not been heard of for {SILENCE_S:.0f} s")
        return None

    def send(self, data: bytes) -> None:
        """Send bytes with the next letter."""
        self._waiting.append(data)
        self.pause_s = SHORTEST_S  # an answer may come soon

    def flush(self) -> None:
        """Write letters, if there are few that are not read.

        Raises
        ------
        EOFError
            The mailbox was removed.
        """
        now_s = self._clock()
        if now_s - self._beat_s > BEAT_S:
            self._beat_s, self._n_beats = now_s, self._n_beats + 1
            self._write(_BEAT, str(self._n_beats).encode())
        while self._waiting and sum(map(str.isdigit, self._listed(self._out))) < MOST_LETTERS:
            self._write(str(self._n_sent), self._next_letter())
            self._n_sent += 1

    def _next_letter(self) -> bytes:
        pieces, n_bytes = [], 0
        while self._waiting and n_bytes < LETTER_BYTES:
            pieces.append(self._waiting.popleft())
            n_bytes += len(pieces[-1])
        return b"".join(pieces)

    def _write(self, name: str, data: bytes) -> None:
        partial = os.path.join(self._out, f".{secrets.token_hex(8)}")
        try:
            with open(partial, "xb") as file:
                file.write(data)
            os.replace(partial, os.path.join(self._out, name))
        except OSError as error:
            raise EOFError(f"cannot write into {self._out}: {error.strerror}") from None

    def _listed(self, folder: str) -> set[str]:
        try:
            return {*os.listdir(folder)}
        except OSError as error:
            raise EOFError(f"cannot read {folder}: {error.strerror}") from None

    def _read(self, name: str, is_kept: bool = False) -> bytes | None:
        path = os.path.join(self._in, name)
        try:
            with open(path, "rb") as file:
                data = file.read()
            if not is_kept:
                os.unlink(path)
        except OSError:  # the drive does not show it yet: at the next look
            return None
        return data

    def close(self) -> None:
        """Say that no letter will come any more."""
        with contextlib.suppress(EOFError):
            self._write(_END, b"")

    def remove(self) -> None:
        """Remove the folders; for the other side, that is the end."""
        shutil.rmtree(self._folder, ignore_errors=True)

    def let_go(self) -> None:
        """Do nothing: a process that was forked has no descriptor of it."""
