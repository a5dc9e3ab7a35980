"""What a child process shares with its parent, and the lifeline with which it ends."""

from __future__ import annotations

import fcntl
import mmap
import os
import select
import signal

PAGE_BYTES = 16 * mmap.PAGESIZE  # that a child shares with its parent
BROKEN = 70  # exit code of a runner in which a task has broken what it needs to go on


def arm_lifeline(descriptor: int, whole_group: bool) -> None:
    """Have the kernel kill this process (group) when the write end of the lifeline closes.

    Parameters
    ----------
    descriptor : int
        Read end of the pipe.
    whole_group : bool
        Kill the process group, which this process leads.

    References
    ----------
    fcntl(2), F_SETOWN and F_SETSIG.
    """
    os.set_inheritable(descriptor, False)
    fcntl.fcntl(descriptor, fcntl.F_SETOWN, -os.getpgrp() if whole_group else os.getpid())
    fcntl.fcntl(descriptor, fcntl.F_SETSIG, signal.SIGKILL)
    flags = fcntl.fcntl(descriptor, fcntl.F_GETFL)
    fcntl.fcntl(descriptor, fcntl.F_SETFL, flags | os.O_ASYNC)
    # The parent may have gone before the pipe was armed.
    if select.select([descriptor], [], [], 0)[0]:
        os.kill(os.getpid(), signal.SIGKILL)
