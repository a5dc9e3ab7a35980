"""Which state the jobs of this process are in: a launcher is asked once for all, and seldom."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable

from acme_mpi.launchers.base import Launcher, State


class Queue:
    """What one kind of launcher says of the jobs of this process.

    Parameters
    ----------
    launcher : type of Launcher
        Who is asked.
    clock : callable
        Returns a time in seconds.
    """

    def __init__(
        self, launcher: type[Launcher], clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._launcher, self._clock = launcher, clock
        self._scripts: dict[str, str] = {}  # of the jobs that have not ended, by their ids
        self._states: dict[str, State] = {}
        self._next_s = -1.0
        self._pause_s = launcher.pauses_s[0]
        self._lock = threading.Lock()

    def state(self, job_id: str, script: str) -> State | None:
        """Return the state of a job, perhaps as it was some time ago; None: nothing is known.

        Parameters
        ----------
        job_id : str
            By which the launcher knows it.
        script : str
            Path of its script.
        """
        with self._lock:
            is_new = job_id not in self._scripts
            if is_new:
                self._scripts[job_id] = script
            if is_new or self._clock() >= self._next_s:
                self._ask()
            state = self._states.get(job_id)
            if state is None or state.is_over:
                del self._scripts[job_id]
            return state

    def ask_again(self) -> None:
        """Ask at the next occasion: something has been done to a job."""
        with self._lock:
            self._next_s, self._pause_s = -1.0, self._launcher.pauses_s[0]

    def _ask(self) -> None:
        found = self._launcher.states(self._scripts)
        least_s, most_s = self._launcher.pauses_s
        if found is None:  # nobody has answered: what is known stays
            found = self._states
            for job_id in self._scripts:
                found.setdefault(job_id, State("PENDING", "the launcher does not answer"))
        has_changed = found != self._states
        self._pause_s = least_s if has_changed else min(2 * self._pause_s, most_s)
        self._next_s = self._clock() + self._pause_s
        self._states = found


_QUEUES: dict[type[Launcher], Queue] = {}


def queue_of(launcher: type[Launcher]) -> Queue:
    """Return the one queue of this process for a kind of launcher."""
    return _QUEUES.setdefault(launcher, Queue(launcher))
