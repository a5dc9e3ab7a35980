"""Where the ranks of a process print: to its own standard streams, or by it.

Notebooks put objects in the place of the standard streams, which show in a cell what is written to
them. There the ranks print into pipes, and a thread writes what comes out of them.
"""

from __future__ import annotations

import codecs
import contextlib
import os
import select
import signal
import sys
import threading
from _thread import start_new_thread
from typing import Protocol

READ_BYTES = 64 * 1024


class Outputs(Protocol):
    """What the ranks have for standard output and standard error.

    Attributes
    ----------
    descriptors : list of int
        For the ranks.
    """

    descriptors: list[int]

    def begin(self) -> None:
        """Hear that all ranks have the descriptors."""

    def drain(self) -> None:
        """Show all that has been printed by now."""

    def close(self) -> None:
        """Show the rest: the ranks have gone."""


class OwnOutputs:
    """The standard streams of this process, such as a terminal or files."""

    def __init__(self) -> None:
        self.descriptors = [1, 2]

    def begin(self) -> None:
        """Do nothing."""

    def drain(self) -> None:
        """Do nothing: it is there already."""

    def close(self) -> None:
        """Do nothing."""


class _Pipe:
    """What is printed to one stream, until `sys.stdout` or `sys.stderr` of the moment has it."""

    def __init__(self, name: str) -> None:
        self._name = name
        self.read_end, self.write_end = os.pipe2(os.O_CLOEXEC)
        os.set_blocking(self.read_end, False)
        self._decoder = codecs.getincrementaldecoder("utf-8")("replace")

    def show(self) -> bool:
        """Write what has come; return whether there may be more."""
        while True:
            try:
                data = os.read(self.read_end, READ_BYTES)
            except BlockingIOError:
                return True
            text = self._decoder.decode(data, final=not data)
            if text:
                # It may be closed, or anything that a user has put there.
                with contextlib.suppress(Exception):
                    stream = getattr(sys, self._name)
                    stream.write(text)
                    stream.flush()
            if not data:
                return False


class ShownOutputs:
    """Pipes, what comes out of which is written to `sys.stdout` and `sys.stderr` of the moment."""

    def __init__(self) -> None:
        self._pipes = [_Pipe("stdout"), _Pipe("stderr")]
        self.descriptors = [pipe.write_end for pipe in self._pipes]
        self._lock = threading.Lock()
        self._open = dict[int, _Pipe]()  # those whose end has not come, by what is read

    def begin(self) -> None:
        """Begin to show what is printed."""
        self._close_own_ends()
        self._open = {pipe.read_end: pipe for pipe in self._pipes}
        # No `threading.Thread`: notebooks show what those write in the cell that has begun them.
        start_new_thread(self._show_to_the_end, ())

    def _show_to_the_end(self) -> None:
        signal.pthread_sigmask(signal.SIG_BLOCK, signal.valid_signals())
        while self._open:
            select.select([*self._open], [], [])
            self.drain()

    def drain(self) -> None:
        """Show all that has been printed by now."""
        with self._lock:
            for pipe in [*self._open.values()]:
                if not pipe.show():
                    del self._open[pipe.read_end]
                    os.close(pipe.read_end)

    def close(self) -> None:
        """Show the rest."""
        self._close_own_ends()
        self.drain()

    def _close_own_ends(self) -> None:
        for descriptor in self.descriptors:
            os.close(descriptor)
        self.descriptors = []


def outputs_of_this_process() -> Outputs:
    """Return where ranks print that this process starts."""
    is_own = sys.stdout is sys.__stdout__ and sys.stderr is sys.__stderr__
    return OwnOutputs() if is_own else ShownOutputs()
