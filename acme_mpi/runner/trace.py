"""An exception as text: Python's own, whole, with the frames of the user's code only."""

from __future__ import annotations

import sys
import traceback
from collections.abc import Callable, Iterable

from acme_mpi.tasks.frames import only_users, user_frames, users_part

MAX_DEPTH = 12  # causes of causes, members of groups of groups
MAX_CHARACTERS = 20_000


def traceback_text(error: BaseException) -> str:
    """Return what Python would print for an exception, without the frames of this package.

    Causes, contexts that are not suppressed, notes, members of groups and the lines of syntax
    errors are there. Never raises: of an exception that does not let itself be looked at, the
    frames and the type are told.
    """
    try:
        # Without our own frames, whose functions are long: to find a line Python goes through them.
        part = users_part(error.__traceback__)
        report = traceback.TracebackException(type(error), error, part)
        keep_frames(report, only_users, MAX_DEPTH)
        return _shortened("".join(report.format()))
    except BaseException:
        frames = "".join(traceback.format_list(user_frames(error)))
        return f"Traceback (most recent call last):\n{frames}{type(error).__name__}\n"


def keep_frames(
    report: traceback.TracebackException,
    kept: Callable[[Iterable[traceback.FrameSummary]], list[traceback.FrameSummary]],
    max_depth: int = sys.maxsize,
) -> None:
    """Keep some frames of an exception and of its causes, contexts and members; drop the deepest.

    Parameters
    ----------
    report : TracebackException
        Changed in place.
    kept : callable
        Returns those of some frames that stay.
    max_depth : int
        How many levels of exceptions stay, 1 or more.
    """
    level, depth = [report], 1  # a loop, as chains are longer than the stack is deep
    while level:
        below = []
        for each in level:
            each.stack = traceback.StackSummary.from_list(kept(each.stack))
            if depth == max_depth:
                each.__cause__ = each.__context__ = each.exceptions = None
            members = each.exceptions or ()
            below += [other for other in (each.__cause__, each.__context__, *members) if other]
        level, depth = below, depth + 1


def _shortened(text: str) -> str:
    """Leave out the middle of a long text: the end says what was raised."""
    n_left_out = len(text) - MAX_CHARACTERS
    if n_left_out <= 0:
        return text
    head = MAX_CHARACTERS // 4
    return f"{text[:head]}\n... {n_left_out} characters ...\n{text[head + n_left_out :]}"
