"""Whether a person is there, to see or to answer.

A launcher's ranks have no terminal of their own, so the launcher's is looked at. Questions go
through `input`, which notebooks and tests replace by their own way to ask.
"""

from __future__ import annotations

import builtins
import contextlib
import os
import sys
from types import BuiltinFunctionType

from acme_mpi.linux.processes import file_of, parent_of, stat_of
from acme_mpi.visible import visible

ANSWERS = {"": True, "y": True, "yes": True, "n": False, "no": False}
_TERMINALS = ("/dev/pts/", "/dev/tty")
_PROXY = "hydra_"  # MPICH's mpiexec starts ranks by a process of its own on each node


def is_watched() -> bool:
    """Tell whether a person sees stderr, of this process or of its launcher."""
    return sys.stderr.isatty() or _is_terminal(_launcher(1), 2)


def ask(question: str, n_above: int = 0) -> bool | None:
    """Ask a yes-or-no question, in a notebook or on the terminal; Enter is yes.

    Parameters
    ----------
    question : str
        Without the choices.
    n_above : int
        The launcher is this process's parent (1) or its parent's parent (2), not counting its
        proxies, and passes on what is typed on its own terminal; 0: there is no launcher.

    Returns
    -------
    bool or None
        None if nobody is there to answer.

    Raises
    ------
    KeyboardInterrupt
        The user does not want to go on at all.
    """
    if not _can_answer(n_above):
        return None
    while True:
        try:
            word = _answer(f"{visible(question)} [Y/n]").strip().lower()
        except (EOFError, OSError, NotImplementedError):  # of a notebook that nobody looks at
            return None
        if word in ANSWERS:
            return ANSWERS[word]


def _answer(question: str) -> str:
    if _is_replaced():
        return input(f"{question} ")
    # On stderr: standard output may be a file. Launchers pass on whole lines only.
    end = " " if sys.stdin.isatty() else "\n"
    print(question, end=end, file=sys.stderr, flush=True)
    return input()


def _is_replaced() -> bool:
    """Tell whether `input` is not Python's: a notebook's, whose standard input is no terminal."""
    return not isinstance(builtins.input, BuiltinFunctionType)


def _can_answer(n_above: int) -> bool:
    if _is_replaced():
        return True
    try:
        if sys.stdin.isatty():
            return True
    except (AttributeError, ValueError):
        return False  # closed, or taken away by a test runner
    return n_above > 0 and _is_terminal(_launcher(n_above), 0)


def _launcher(n_above: int) -> int:
    """Return the process id of the ancestor in that generation, proxies not counted."""
    pid = os.getpid()
    for _ in range(n_above):
        pid = parent_of(pid)
    with contextlib.suppress(OSError):  # it is hidden
        while (stat := stat_of(pid)).name.startswith(_PROXY):
            pid = stat.parent
    return pid


def _is_terminal(pid: int, descriptor: int) -> bool:
    return file_of(pid, descriptor).startswith(_TERMINALS)
