"""What a runner has to say and has not sent: its agent finds it where a call takes long, or dies.

It lies in the page that both share. The runner alone writes, and not while it calls a function.
"""

from __future__ import annotations

import struct

from acme_mpi.runner.calls import Got

SIZE, FIRST = 8, 16  # number of the word with the bytes in use, and of the first word behind it
HEAD = struct.Struct("<5q")  # chunk, first, n, busy_ns, bytes of the body behind it


class Shelf:
    """Answers that wait to be sent.

    Parameters
    ----------
    words : memoryview
        The shared page, see `runner.words`.
    """

    def __init__(self, words: memoryview) -> None:
        self._words, self._area = words, words[FIRST:].cast("B")
        self._n_bytes = len(self._area)

    def put(self, answer: Got) -> bool:
        """Add one that has nothing beside it; tell whether it had room."""
        chunk, first, n, body, _, busy_ns = answer
        assert isinstance(body, bytes)
        start: int = self._words[SIZE]
        middle = start + HEAD.size
        stop = middle + len(body)
        if stop > self._n_bytes:
            return False
        HEAD.pack_into(self._area, start, chunk, first, n, busy_ns, len(body))
        self._area[middle:stop] = body
        self._words[SIZE] = stop  # last: who looks meanwhile finds the earlier ones
        return True

    def clear(self) -> None:
        """Forget them: they have been sent."""
        self._words[SIZE] = 0

    def answers(self) -> list[Got]:
        """Return what is there, as far as the runner has not spoilt it."""
        found, done = list[Got](), 0
        size: int = min(self._words[SIZE], self._n_bytes)
        while done + HEAD.size <= size:
            chunk, first, n, busy_ns, n_bytes = HEAD.unpack_from(self._area, done)
            start = done + HEAD.size
            done = start + n_bytes
            if not start <= done <= size:
                break
            found.append(Got(chunk, first, n, bytes(self._area[start:done]), [], busy_ns))
        return found
