"""What a person sees while a run goes on: a bar where somebody watches, else a line a minute."""

from __future__ import annotations

import logging
import sys
import time
from typing import Any

from acme_mpi.terminal import is_watched

logger = logging.getLogger("acme_mpi")

LINE_EVERY_S = 60.0
BAR_FORMAT = "{desc}: {percentage:3.0f}% |{bar}| {n_fmt}/{total_fmt} [{elapsed}<{remaining}]"


class Progress:
    """Counts finished tasks on rank 0 and shows them.

    Parameters
    ----------
    n_tasks : int
        Size of the run.
    bar : bool or None
        Show a bar; None: if somebody watches.
    n_kept : int
        Tasks that had ended before.
    """

    def __init__(self, n_tasks: int, bar: bool | None = None, n_kept: int = 0) -> None:
        self.n_tasks, self._n_kept = n_tasks, n_kept
        self.n_done, self.n_failed = n_kept, 0
        self._start_s = self._shown_s = time.monotonic()
        self._bar: Any = None
        if is_watched() if bar is None else bar:
            from tqdm import tqdm

            self._bar = tqdm(
                total=n_tasks, initial=n_kept, desc="tasks", bar_format=BAR_FORMAT, mininterval=0.2,
                leave=True, file=sys.stderr, ascii=not sys.stderr.isatty(),
            )  # fmt: skip

    def add(self, n_done: int, n_failed: int) -> None:
        """Count tasks that have ended, `n_failed` of them with an error."""
        self.n_done += n_done
        self.n_failed += n_failed
        if self._bar is not None:
            self._bar.update(n_done)
            if n_failed:
                self._bar.set_description_str(f"tasks ({self.n_failed} failed)")
        elif time.monotonic() - self._shown_s > LINE_EVERY_S:
            self._shown_s = time.monotonic()
            logger.info("%s", self.line())

    def line(self) -> str:
        """Return the state in one line."""
        seconds = time.monotonic() - self._start_s
        rate = (self.n_done - self._n_kept) / seconds if seconds > 0 else 0.0
        left = (self.n_tasks - self.n_done) / rate if rate else float("inf")
        failed = f", {self.n_failed} failed" if self.n_failed else ""
        return (
            f"{self.n_done} of {self.n_tasks} tasks done{failed}, {seconds:.0f} s, "
            f"{rate:.3g} tasks/s, about {left:.0f} s left"
        )

    def close(self) -> None:
        """Leave the last state on the screen."""
        if self._bar is not None:
            self._bar.close()
