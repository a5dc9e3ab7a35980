"""A child process that is a copy of this one, as clean as one that was started anew."""

from __future__ import annotations

import contextlib
import ctypes
import os
import sys
import traceback
from collections.abc import Callable, Collection, Mapping, Sequence
from types import ModuleType


class Fork:
    """A forked child, as `subprocess.Popen` has it.

    Neither MPI nor a thread of this project may have been started: of a thread the child has only
    the locks that it held.

    Parameters
    ----------
    main : callable
        Called in the child, which ends with it as Python ends. Nothing of the child returns to the
        caller.
    arguments : sequence of str
        The child's ``sys.argv[1:]``.
    kept : collection of int
        Descriptors that the child keeps besides stdout and stderr.
    environment : mapping
        The child's environment.
    """

    def __init__(
        self,
        main: Callable[[], None],
        arguments: Sequence[str],
        kept: Collection[int],
        environment: Mapping[str, str],
    ) -> None:
        sys.stdout.flush()
        sys.stderr.flush()
        self.pid = os.fork()
        if not self.pid:
            try:
                _start_anew(arguments, kept, environment)
                main()
            except BaseException:
                os.write(2, traceback.format_exc().encode(errors="backslashreplace"))
                os._exit(1)
            ctypes.pythonapi.Py_Exit(0)  # what is below this frame is the parent's

    def wait(self) -> int:
        """Wait for the end; return the exit code, or minus the signal."""
        return os.waitstatus_to_exitcode(os.waitpid(self.pid, 0)[1])


def _start_anew(
    arguments: Sequence[str], kept: Collection[int], environment: Mapping[str, str]
) -> None:
    """Leave behind what the parent was: its session, descriptors, environment, and main module."""
    os.setsid()
    nothing = os.open(os.devnull, os.O_RDONLY)
    os.dup2(nothing, 0)
    for descriptor in map(int, os.listdir("/proc/self/fd")):
        if descriptor > 2 and descriptor not in kept:
            with contextlib.suppress(OSError):  # that of the listing itself
                os.close(descriptor)
    os.environ.clear()
    os.environ.update(environment)
    sys.argv[:] = ["", *arguments]
    sys.modules["__main__"] = ModuleType("__main__")
