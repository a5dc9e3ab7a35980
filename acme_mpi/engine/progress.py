"""What a person sees while a run goes on: a bar where somebody can see it move, else lines."""

from __future__ import annotations

import logging
import sys
import time
from collections.abc import Callable
from typing import Any

from acme_mpi.comm import passes_on_whole_lines
from acme_mpi.linux.terminal import is_watched

logger = logging.getLogger("acme_mpi")

# A line comes after a share of the time since the start: soon at first, and in the end not so many
# that a night's log is full of them.
FIRST_LINE_S, LAST_LINES_S, LINE_SHARE = 5.0, 60.0, 1 / 20
NEWS_SHARE, LAST_NEWS_S = 1 / 100, 5.0  # as above, for who draws a picture of them
BAR_FORMAT = "{desc}: {percentage:3.0f}% |{bar}| {n_fmt}/{total_fmt} [{elapsed}<{remaining}]"


class Progress:
    """Counts finished tasks on rank 0 and shows them.

    Parameters
    ----------
    n_tasks : int
        Size of the run.
    bar : bool or None
        Show a bar; None: if somebody watches, and else lines soon after the start. Where the
        launcher passes on whole lines only, nobody sees a bar move: lines come in its place.
    n_kept : int
        Tasks that had ended before.
    clock : callable
        Returns the time in seconds.
    tell : callable, optional
        Is told how many tasks have ended, and failed, and shows it: there are no bar and no lines.
    """

    def __init__(
        self,
        n_tasks: int,
        bar: bool | None = None,
        n_kept: int = 0,
        clock: Callable[[], float] = time.monotonic,
        tell: Callable[[int, int], object] | None = None,
    ) -> None:
        self.n_tasks, self._n_kept, self._clock = n_tasks, n_kept, clock
        self.n_done, self.n_failed = n_kept, 0
        self._start_s = self._shown_s = clock()
        self._first_line_s = LAST_LINES_S if bar is False else FIRST_LINE_S
        self._bar: Any = None
        self._wants_bar = is_watched() if bar is None else bar
        self._is_bar_forced = bool(bar)
        self._tell = tell
        if tell is not None:
            return
        if self._wants_bar and not passes_on_whole_lines():
            from tqdm import tqdm

            self._bar = tqdm(
                total=n_tasks,
                initial=n_kept,
                desc="tasks",
                bar_format=BAR_FORMAT,
                mininterval=0.2,
                leave=True,
                file=sys.stderr,
                ascii=not sys.stderr.isatty(),
            )

    def add(self, n_done: int, n_failed: int) -> None:
        """Count tasks that have ended, `n_failed` of them with an error."""
        self.n_done += n_done
        self.n_failed += n_failed
        if self._bar is not None:
            self._bar.update(n_done)
            if n_failed:
                self._bar.set_description_str(f"tasks ({self.n_failed} failed)")

    def look(self) -> None:
        """Show a line if it is time for one; called about once a second."""
        now_s = self._clock()
        if self._tell is not None:
            if now_s - self._shown_s >= min(NEWS_SHARE * (now_s - self._start_s), LAST_NEWS_S):
                self._shown_s = now_s
                self._tell(self.n_done, self.n_failed)
            return
        every_s = min(max(self._first_line_s, LINE_SHARE * (now_s - self._start_s)), LAST_LINES_S)
        if self._bar is None and now_s - self._shown_s >= every_s:
            self._shown_s = now_s
            logger.info("%s", self.line())

    def line(self) -> str:
        """Return the state in one line."""
        seconds = self._clock() - self._start_s
        rate = (self.n_done - self._n_kept) / seconds if seconds > 0 else 0.0
        n_left = self.n_tasks - self.n_done
        failed = f", {self.n_failed} failed" if self.n_failed else ""
        speed = f", {rate:.3g} tasks/s" if rate else ""
        left = f", about {n_left / rate:.0f} s left" if rate and n_left else ""
        return f"{self.n_done} of {self.n_tasks} tasks done{failed}, {seconds:.0f} s{speed}{left}"

    def close(self) -> None:
        """Leave the last state on the screen."""
        if self._tell is not None:
            return
        if self._bar is not None:
            self._bar.close()
        elif self._is_bar_forced:
            self._print_bar()
        elif self._wants_bar or self._shown_s > self._start_s:
            logger.info("%s", self.line())

    def _print_bar(self) -> None:
        from tqdm import tqdm

        seconds = self._clock() - self._start_s
        text = tqdm.format_meter(
            self.n_done,
            self.n_tasks,
            seconds,
            80,
            prefix="tasks",
            bar_format=BAR_FORMAT,
            ascii=True,
        )
        print(text, file=sys.stderr, flush=True)
