"""Which single calls of a stream travel together: short ones, as each message costs its time.

They stay calls of their own, see `runner.calls.Given`.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

from acme_mpi.session.stream import Chunk, Form
from acme_mpi.session.taught import Function

# What calls that travel together may take, how many they may be, and bytes of one's arguments.
TOGETHER_S, MOST, SMALL_BYTES = 0.0005, 64, 4096


class Drawn(NamedTuple):
    """A chunk that goes to the ranks.

    Attributes
    ----------
    chunk : Chunk
        Whoever waits for it.
    function : Function
        What is called.
    n_calls : int
        How often.
    body, buffers : bytes, list of buffers
        Its pickled arguments.
    are_counted : bool
        A process is replaced after so many chunks: each travels alone.
    """

    chunk: Chunk
    function: Function
    n_calls: int
    body: bytes
    buffers: list[Any]
    are_counted: bool

    @property
    def key(self) -> tuple[int, Function, Form] | None:
        """What is the same for calls that may travel together; None: this one does not."""
        is_small = len(self.body) <= SMALL_BYTES and not self.buffers
        if self.are_counted or self.n_calls > 1 or not is_small:
            return None
        return self.chunk.setup, self.function, self.chunk.form


def together(drawn: Sequence[Drawn], n_ranks: int) -> Iterator[list[Drawn]]:
    """Yield the chunks that travel as one.

    Parameters
    ----------
    drawn : sequence of Drawn
        In the order in which they are to be called.
    n_ranks : int
        Who share what is out of a function, these included: a few calls are handed out one by one.
    """
    alike: dict[Any, list[Drawn]] = {}
    for number, each in enumerate(drawn):
        alike.setdefault(each.key or number, []).append(each)
    for group in alike.values():
        function = group[0].function
        n = _most(function, -(-function.n_out // (2 * n_ranks)))
        for first in range(0, len(group), n):
            yield group[first : first + n]


def _most(function: Function, share: int) -> int:
    """Return how many calls of a function go together; those of an unknown one do not."""
    return max(1, min(share, MOST, int(TOGETHER_S / (function.call_s + 1e-6))))
