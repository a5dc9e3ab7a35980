"""What a runner has to say and has not sent: its agent finds it where a call takes long, or dies.

It lies in the page that both share. The runner alone writes, and not while it calls a function.
"""

from __future__ import annotations

import pickle
import struct
from typing import Any

from acme_mpi.runner.channel import ChannelError, loads_plain

SIZE, FIRST = 8, 16  # number of the word with the bytes in use, and of the first word behind it
LENGTH = struct.Struct("<Q")


class Shelf:
    """Answers that wait to be sent.

    Parameters
    ----------
    words : memoryview
        The shared page, see `run_chunk`.
    """

    def __init__(self, words: memoryview) -> None:
        self._words, self._area = words, words[FIRST:].cast("B")

    def put(self, answer: Any) -> bool:
        """Add one; tell whether it had room."""
        data = pickle.dumps(answer, protocol=5)
        start: int = self._words[SIZE]
        stop = start + LENGTH.size + len(data)
        if stop > len(self._area):
            return False
        self._area[start:stop] = LENGTH.pack(len(data)) + data
        self._words[SIZE] = stop  # last: who looks meanwhile finds the earlier ones
        return True

    def clear(self) -> None:
        """Forget them: they have been sent."""
        self._words[SIZE] = 0

    def answers(self) -> list[Any]:
        """Return what is there; only from what is whole, as the runner may have spoilt it."""
        found, done = list[Any](), 0
        try:
            while done < self._words[SIZE]:
                (size,) = LENGTH.unpack_from(self._area, done)
                start = done + LENGTH.size
                done = start + size
                found.append(loads_plain(bytes(self._area[start:done])))
        except (ChannelError, struct.error):
            pass
        return found
