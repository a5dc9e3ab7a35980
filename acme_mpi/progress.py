"""What a person sees while a run goes on: a bar where somebody watches, else a line a minute."""

from __future__ import annotations

import logging
import os
import sys
import time
from datetime import datetime
from typing import Any

logger = logging.getLogger("acme_mpi")

LINE_EVERY_S = 60.0
BAR_FORMAT = "{desc}: {percentage:3.0f}% |{bar}| {n_fmt}/{total_fmt} [{elapsed}<{remaining}]"


class LogFile:
    """Context in which the package's messages also go to a log file of the run.

    Parameters
    ----------
    directory : str
        The output directory; empty: no file.
    name : str
        The function's name; the file is ``ACME_<name>_YYYYMMDD-hhmmss.log``.
    """

    def __init__(self, directory: str, name: str) -> None:
        self._handler: logging.Handler | None = None
        if directory:
            stamp = datetime.now().strftime("%Y%m%d-%H%M%S")
            # Made at the first message.
            path = os.path.join(directory, f"ACME_{name}_{stamp}.log")
            self._handler = logging.FileHandler(path, delay=True)
            self._handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(message)s"))

    def __enter__(self) -> None:
        """Start to log."""
        self._level = logger.level
        if self._handler is not None:
            logger.addHandler(self._handler)
            if logger.getEffectiveLevel() > logging.INFO:
                logger.setLevel(logging.INFO)

    def __exit__(self, *exception: object) -> None:
        """Close the file and leave the logger as it was."""
        logger.setLevel(self._level)
        if self._handler is not None:
            logger.removeHandler(self._handler)
            self._handler.close()


def is_watched() -> bool:
    """Tell whether a person sees stderr.

    A launcher's ranks never have a terminal of their own, so the launcher's is looked at.
    """
    if sys.stderr.isatty():
        return True
    try:
        return os.readlink(f"/proc/{os.getppid()}/fd/2").startswith(("/dev/pts/", "/dev/tty"))
    except OSError:
        return False


class Progress:
    """Counts finished tasks on rank 0 and shows them.

    Parameters
    ----------
    n_tasks : int
        Size of the run.
    bar : bool or None
        Show a bar; None: if somebody watches.
    """

    def __init__(self, n_tasks: int, bar: bool | None = None) -> None:
        self.n_tasks = n_tasks
        self.n_done = self.n_failed = 0
        self._start_s = self._shown_s = time.monotonic()
        self._bar: Any = None
        if is_watched() if bar is None else bar:
            from tqdm import tqdm

            self._bar = tqdm(
                total=n_tasks, desc="tasks", bar_format=BAR_FORMAT, mininterval=0.2,
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
        rate = self.n_done / seconds if seconds > 0 else 0.0
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
