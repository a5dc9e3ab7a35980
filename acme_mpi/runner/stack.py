"""The Python stack of a process that does not answer, because a task runs in it.

The process itself writes it, in the C handler of a signal: that works whatever Python code or
extension module is running, also one that never lets go of the interpreter lock.
"""

from __future__ import annotations

import faulthandler
import os
import re
import select
import signal
import time
import traceback

from acme_mpi.tasks.frames import innermost_line, is_own

STACK_SIGNAL = signal.SIGRTMIN + 3  # real-time signals are the least likely to be in use
WAIT_S = 0.5
QUIET_S = 0.1  # a dump that has not grown for so long is taken as it is
LOOK_S = 0.002
MAX_CHARACTERS = 20_000

# The main thread, which runs the task, is written last, and its outermost frame at the end: that of
# a new Python, or of the process that was copied. Three dots stand for the rest of a deep stack.
_ENDS = (b'  File "<string>", line 1 in <module>\n', b" in _run_module_as_main\n", b"  ...\n")
_FRAME = re.compile(r'  File "(.*)", line (\d+) in (.*)')
_ESCAPE = re.compile(r"\\(?:x([0-9a-f]{2})|u([0-9a-f]{4})|U([0-9a-f]{8}))")


def show_stack_on_demand(descriptor: int) -> None:
    """Have this process write the stacks of its threads when it gets `STACK_SIGNAL`."""
    os.set_inheritable(descriptor, False)
    faulthandler.register(STACK_SIGNAL, file=descriptor, all_threads=True, chain=False)


def ask_for_stack(pidfd: int, descriptor: int) -> str:
    """Return what `show_stack_on_demand` writes; waits at most `WAIT_S`.

    Parameters
    ----------
    pidfd : int
        Of the process.
    descriptor : int
        The file that the process writes to.

    Returns
    -------
    str
        Empty if it does not answer; it may have blocked the signal.
    """
    begin = os.fstat(descriptor).st_size
    try:
        signal.pidfd_send_signal(pidfd, STACK_SIGNAL)
    except ProcessLookupError:
        return ""
    dump, now_s = b"", time.monotonic()
    give_up_s = latest_s = now_s + WAIT_S
    while now_s < give_up_s and not dump.endswith(_ENDS):
        if select.select([pidfd], [], [], LOOK_S)[0]:
            break
        now_s = time.monotonic()
        written = os.pread(descriptor, os.fstat(descriptor).st_size - begin, begin)
        if len(written) > len(dump):
            dump, give_up_s = written, min(latest_s, now_s + QUIET_S)
    return dump.decode(errors="replace")


def read_stack(dump: str) -> tuple[str, str]:
    """Make a dump of stacks readable.

    Parameters
    ----------
    dump : str
        As Python's fault handler writes it.

    Returns
    -------
    text : str
        The threads without the frames of this package, that of the task first.
    location : str
        ``file:line`` of the innermost frame of the user's code in the task's thread.
    """
    dump = _ESCAPE.sub(_unescape, dump).strip("\n")
    threads = [_without_own(thread.splitlines()) for thread in reversed(dump.split("\n\n"))]
    location = innermost_line(_frames(threads[0]))
    text = "\n\n".join("\n".join(thread) for thread in threads if len(thread) > 1)
    return text[:MAX_CHARACTERS], location


def _unescape(match: re.Match[str]) -> str:
    """Return the character of a path that the fault handler has written in ASCII."""
    character = chr(int(match[match.lastindex or 0], 16))
    return character if character.isprintable() else match[0]


def _without_own(lines: list[str]) -> list[str]:
    """Return a thread without frames of this package, and those outside of its outermost one."""
    own = [k for k, line in enumerate(lines) if (at := _FRAME.match(line)) and is_own(at[1])]
    return [line for k, line in enumerate(lines[: own[-1]] if own else lines) if k not in own]


def _frames(lines: list[str]) -> list[traceback.FrameSummary]:
    """Return the frames of one thread, the innermost last."""
    found = filter(None, map(_FRAME.match, reversed(lines)))
    return [traceback.FrameSummary(at[1], int(at[2]), at[3], lookup_line=False) for at in found]
