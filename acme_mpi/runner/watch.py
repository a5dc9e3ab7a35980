"""Since when the agent has seen a task run."""

from __future__ import annotations

import time
from collections.abc import Callable

STOPPED_S = 5.0


class Watch:
    """Looks at the shared page of one runner.

    The agent's clock counts: tasks share looks at the runner's, so that by it a task that follows
    many others may seem to have begun long ago. What is seen here is never longer than the truth.

    Parameters
    ----------
    words : memoryview
        The shared page, see `runner.words`.
    clock : callable
        Returns seconds.
    """

    def __init__(
        self, words: memoryview | list[int], clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._words, self._clock = words, clock
        self._seen = (-1, 0)
        self._since_s = self._looked_s = clock()

    def running(self) -> tuple[int, float] | None:
        """Return the task that runs and for how many seconds that has been seen; None: none."""
        seen, now_s = (self._words[0], self._words[1]), self._clock()
        if seen != self._seen:
            self._seen, self._since_s = seen, now_s
        return None if seen[0] < 0 else (seen[0], now_s - self._since_s)

    def restart(self) -> None:
        """Forget for how long the task that runs has been seen."""
        self._since_s = self._clock()

    def begin_looks(self) -> None:
        """Note that `look` is called often from now on, and was not until now."""
        self._looked_s = self._clock()

    def look(self) -> tuple[int, float] | None:
        """Return the same, where time without a look does not count as time that a task took.

        A process that has not looked for `STOPPED_S` was stopped itself, and its runner probably
        with it: the batch system had suspended the job.
        """
        now_s = self._clock()
        gap_s, self._looked_s = now_s - self._looked_s, now_s
        if gap_s > STOPPED_S:
            self._since_s = min(now_s, self._since_s + gap_s)
        return self.running()
