"""Signals by which users and batch systems end a job early.

The first one is remembered, so that what is running can be ended in good order; the second ends
this process at once, or raises in a script what it would have raised without us. What is recorded
is on the disk by then, and files are valid at any time.
"""

from __future__ import annotations

import contextlib
import os
import signal
import threading
from collections.abc import Callable, Collection, Iterator
from types import FrameType
from typing import Any

from acme_mpi.linux.handlers import set_handler

SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1, signal.SIGUSR2)
# By this the script that rank 0 serves passes a SIGTERM on. It never counts as the second one:
# often rank 0 has got its own, before or after.
PASSED_ON = signal.SIGRTMIN


def reset_after_fork(signals: Collection[int], reset: Callable[[], None]) -> None:
    """Have a forked child call `reset`, which gives it other handlers of some signals.

    They are blocked around the fork: Python forgets signals that a child gets before it runs.

    Parameters
    ----------
    signals : collection of int
        The signals.
    reset : callable
        Sets the handlers.
    """
    masks: list[set[int]] = []

    def block() -> None:
        masks.append(signal.pthread_sigmask(signal.SIG_BLOCK, signals))

    def unblock() -> None:
        signal.pthread_sigmask(signal.SIG_SETMASK, masks.pop())

    def reset_and_unblock() -> None:
        reset()
        unblock()

    os.register_at_fork(before=block, after_in_parent=unblock, after_in_child=reset_and_unblock)


class Interrupts:
    """The signals that this process has got.

    Attributes
    ----------
    number : int
        The first signal, 0 if there was none.
    """

    def __init__(self) -> None:
        self.number = 0
        self._wake = -1
        self._is_own_process = self._has_taken = False
        self._before: list[Any] = []  # the handlers of others
        self._is_reset_after_fork = False

    def fileno(self) -> int:
        """Return a descriptor that is readable once there was a signal, -1 if none is caught."""
        return self._wake

    def catch(self, is_own_process: bool = True) -> None:
        """Catch the signals from now on.

        Parameters
        ----------
        is_own_process : bool
            The process is there for the run alone, and not a script, or a notebook, of the user's.
        """
        self._is_own_process = is_own_process
        self._wake = os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK)
        self._before = [set_handler(number, self._take) for number in SIGNALS]
        if not self._is_reset_after_fork:
            self._is_reset_after_fork = True
            # What a task of this very process forks is ended by signals as any other program.
            reset_after_fork(SIGNALS, self.restore)

    def catch_passed_on(self) -> None:
        """Catch what a script passes on, too; for a process that catches signals to its end."""
        signal.signal(PASSED_ON, self._take_passed_on)

    def _take(self, number: int, frame: FrameType | None) -> None:
        if self._has_taken:
            self._leave(number)
        self._has_taken = True
        self._note(number)

    def _take_passed_on(self, number: int, frame: FrameType | None) -> None:
        self._note(signal.SIGTERM)

    def _note(self, number: int) -> None:
        self.number = self.number or number
        # A select that sleeps goes on sleeping after a handler (PEP 475): it has to be woken.
        os.eventfd_write(self._wake, 1)

    def _leave(self, number: int) -> None:
        if self._is_own_process:
            # Nothing is tidied up: runners die with their agent, and files need no closing.
            os._exit(128 + number)
        if number == signal.SIGINT:
            raise KeyboardInterrupt
        signal.signal(number, signal.SIG_DFL)
        os.kill(os.getpid(), number)

    @contextlib.contextmanager
    def caught(self) -> Iterator[None]:
        """Context in which the signals are caught; without effect where they are already.

        Only the main thread of a process can catch signals; in another one nothing happens.
        """
        if self._wake >= 0 or threading.current_thread() is not threading.main_thread():
            yield
            return
        self.catch(is_own_process=False)
        try:
            yield
        finally:
            self.restore()

    def restore(self) -> None:
        """Leave the signals to those who had them before; without effect where none is caught."""
        if self._wake < 0:
            return
        for number, handler in zip(SIGNALS, self._before, strict=True):
            # None: it was not set from Python, and cannot be set again.
            set_handler(number, signal.SIG_DFL if handler is None else handler)
        os.close(self._wake)
        self._wake, self.number, self._has_taken = -1, 0, False


INTERRUPTS = Interrupts()


def signal_name(number: int) -> str:
    """Return the name of a signal."""
    try:
        return signal.Signals(number).name
    except ValueError:
        return f"signal {number}"
