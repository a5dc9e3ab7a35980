"""What all who watch a directory share: the figures of its runs, found out at most every 2 s."""

from __future__ import annotations

import threading
import time
from collections import defaultdict
from collections.abc import Callable
from typing import NamedTuple

from acme_mpi.errors import AcmeMpiError
from acme_mpi.history.growing import GrowingJournals
from acme_mpi.history.status import RUNNING
from acme_mpi.history.told import layouts_in, read_told
from acme_mpi.report.figures import Figures, figures_of

EVERY_S = 2.0
COST_SHARE = 5  # a look that takes long is not repeated before so many times as long have passed


class View(NamedTuple):
    """What there was to see at one moment.

    Attributes
    ----------
    number : int
        From 1 on; views of the same number are the same.
    runs : list of Figures
        By the names of the functions.
    error : str
        Why nothing newer could be read; empty if that is not so.
    """

    number: int
    runs: list[Figures]
    error: str = ""

    @property
    def is_over(self) -> bool:
        """Whether nothing is running."""
        return all(each.status.state != RUNNING for each in self.runs)


class Watch:
    """The runs in a directory, as seen by any number of threads.

    Parameters
    ----------
    directory : str
        Output directory of the runs.
    clock : callable
        Returns the time in seconds.

    Raises
    ------
    InputError
        There is no run, or it cannot be read.
    """

    def __init__(self, directory: str, clock: Callable[[], float] = time.monotonic) -> None:
        self._directory, self._clock = directory, clock
        self._journals: defaultdict[str, GrowingJournals] = defaultdict(GrowingJournals)
        self._lock = threading.Lock()
        self._view = View(1, self._look())
        self._next_s = clock() + EVERY_S

    def view(self) -> View:
        """Return what there is to see; others who ask meanwhile wait for the same."""
        with self._lock:
            begin_s = self._clock()
            if begin_s >= self._next_s:
                self._view = self._newer()
                now_s = self._clock()
                self._next_s = now_s + max(EVERY_S, COST_SHARE * (now_s - begin_s))
            return self._view

    def _newer(self) -> View:
        number = self._view.number + 1
        try:
            return View(number, self._look())
        except AcmeMpiError as error:
            return View(number, self._view.runs, str(error))

    def _look(self) -> list[Figures]:
        folders = [each.dot_folder for each in layouts_in(self._directory)]
        told = [(each, read_told(each, self._journals[each].blocks)) for each in folders]
        return [figures_of(each, folder, time.time()) for folder, each in told]
