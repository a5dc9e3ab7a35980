"""Calls of a chunk that a stream's runner has, or will get, as its agent counts them."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable
from dataclasses import dataclass, replace

from acme_mpi.runner.calls import Begin, Calls, Given, Meant


@dataclass(eq=False)
class Piece:
    """Calls [first, stop) of a chunk, which the process has or will get.

    Attributes
    ----------
    number : int
        Of the chunk's first call in the counting of this runner.
    given : Given
        The chunk.
    setup : Begin
        Its setup, which may be forgotten before its calls have ended, if they are lost.
    first, stop : int
        Half-open range of its calls.
    is_careful : bool
        One of them has ended its process; which one is to be found out.
    is_lost : bool
        They were ended, which has been told: what the process says of them counts no more.
    """

    number: int
    given: Given
    setup: Begin
    first: int
    stop: int
    is_careful: bool = False
    is_lost: bool = False

    @property
    def calls(self) -> range:
        """Their numbers in the counting of this runner."""
        return self.numbers(self.first, self.stop)

    @property
    def of_chunk(self) -> Calls:
        """Which calls of their chunk they are."""
        return Calls(self.given.chunk, self.first, self.stop)

    def parted(self, at: Iterable[int]) -> list[Piece]:
        """Return the calls in parts, which begin before some of the chunk's calls."""
        parts = self.of_chunk.parted(at)
        if len(parts) == 1:
            return [self]
        return [replace(self, first=first, stop=stop) for _, first, stop in parts]

    def numbers(self, first: int, stop: int) -> range:
        """Return the numbers of some of the chunk's calls."""
        return range(self.number + first, self.number + stop)


def n_calls(pieces: Iterable[Piece]) -> int:
    """Return how many calls pieces have."""
    return sum(len(each.calls) for each in pieces)


def parted(pieces: Iterable[Piece], meant: Meant) -> deque[Piece]:
    """Return pieces, parted so that each is meant by a kill as a whole, or not at all."""
    return deque(part for each in pieces for part in each.parted(meant.bounds(each.given.chunk)))


def around(each: Piece, start: int, stop: int) -> list[Piece]:
    """Return a chunk's calls in parts; in one of them, [start, stop), is the one to be found."""
    first = start - each.number
    last = min(stop - each.number, each.stop)
    parts = [
        replace(each, stop=first),
        replace(each, first=first, stop=last, is_careful=True),
        replace(each, first=last),
    ]
    return [part for part in parts if part.first < part.stop]
