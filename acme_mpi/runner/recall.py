"""Taking back what a runner was given, and has not begun because a call before it takes long."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import NamedTuple

from acme_mpi.runner.watch import Watch
from acme_mpi.runner.words import SKIP_FROM, SKIP_TO

LONG_CALL_S = 0.1
SEEN_S = 0.002  # in which a word that one process writes is seen by another for sure


class _Asked(NamedTuple):
    """An order: what ran at the time, when that was, and the range of the numbers."""

    running: int
    since_s: float
    first: int
    stop: int


class Recall:
    """An agent's orders to its runner not to call what has certain numbers.

    The runner looks at them before it begins what it was given. It may have looked, and not yet be
    seen to have begun: so only what stands behind a call that runs still, `SEEN_S` after the
    order, is known to be skipped. Whatever is skipped is told in its turn as well.

    Parameters
    ----------
    words : memoryview
        The page that is shared with the runner.
    clock : callable
        Returns seconds.

    Attributes
    ----------
    has_taken : bool
        Something was taken back; the runner is given no more until it has answered.
    """

    def __init__(self, words: memoryview, clock: Callable[[], float] = time.monotonic) -> None:
        self._words, self._clock = words, clock
        self._watch = Watch(words, clock)
        self._asked: _Asked | None = None
        self.has_taken = False

    @property
    def look_s(self) -> float:
        """How soon in seconds the next look is due."""
        return LONG_CALL_S / 4 if self._asked is None else SEEN_S

    def long_call(self) -> int | None:
        """Return the number of the call that was seen to run for `LONG_CALL_S`; None: none is."""
        running = self._watch.look()
        if running is None or running[1] < LONG_CALL_S:
            return None
        return running[0]

    def take(self, running: int, first: int, stop: int) -> int:
        """Ask for the calls with numbers in [first, stop), or tell which of them are back.

        Parameters
        ----------
        running : int
            The call that was just seen to run.
        first, stop : int
            Of all that stands behind the call that runs; the runner may have got more of it since
            it was asked.

        Returns
        -------
        int
            Those with smaller numbers are.
        """
        asked = self._asked
        if asked is None or asked.running != running:
            self._ask(_Asked(running, self._clock(), first, stop))
        elif first >= asked.stop:  # what was asked for is back, and this stands behind it
            self._ask(_Asked(running, self._clock(), asked.first, stop))
        elif self._clock() - asked.since_s >= SEEN_S:
            self.has_taken = True
            return asked.stop
        return first

    def _ask(self, asked: _Asked) -> None:
        self._words[SKIP_TO], self._words[SKIP_FROM] = asked.stop, asked.first
        self._asked = asked

    def end(self) -> None:
        """Hear that the runner has answered: it may be given what it likes, with new numbers.

        Not yet if that was before the call that it still runs: what is asked for then would take
        the place of what it is to skip.
        """
        if self._asked is not None and self._words[0] != self._asked.running:
            self._asked, self.has_taken = None, False
