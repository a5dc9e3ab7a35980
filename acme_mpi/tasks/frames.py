"""Which frames of a stack are the user's."""

from __future__ import annotations

import os
import traceback
from collections.abc import Iterable
from types import TracebackType

_PYTHONS = (os.path.dirname(os.__file__) + os.sep, "<frozen")
_PACKAGES = ("/site-packages/", "/dist-packages/")
_OWN = os.path.dirname(os.path.dirname(os.path.abspath(__file__))) + os.sep


def is_installed(path: str) -> bool:
    """Tell whether a file is Python's own, or of an installed package.

    Only the path is looked at: a task may have changed what anything else, `sysconfig` too, needs.
    """
    return path.startswith(_PYTHONS) or any(folder in path for folder in _PACKAGES)


def is_own(filename: str) -> bool:
    """Tell whether a file is one of this package."""
    return filename.startswith(_OWN)


def is_users(path: str) -> bool:
    """Tell whether a file is neither Python's own, nor installed, nor one of this package."""
    return not (is_installed(path) or is_own(path))


def users_part(trace: TracebackType | None) -> TracebackType | None:
    """Return the part of a traceback that follows the outermost frames of this package."""
    part = trace
    while part is not None and is_own(part.tb_frame.f_code.co_filename):
        part = part.tb_next
    return part or trace


def user_frames(error: BaseException) -> list[traceback.FrameSummary]:
    """Return the frames of the traceback without those of this package."""
    try:
        frames = traceback.extract_tb(users_part(error.__traceback__))
    except Exception:
        return []
    return only_users(frames)


def only_users(frames: Iterable[traceback.FrameSummary]) -> list[traceback.FrameSummary]:
    """Return those of some frames that are not of this package."""
    # Compiled modules name sources that are not there.
    return [f for f in frames if not is_own(f.filename) and not f.filename.endswith(".pyx")]


def innermost_line(frames: list[traceback.FrameSummary]) -> str:
    """Return the innermost ``file:line`` of the user's own, outside installed packages if any is.

    Parameters
    ----------
    frames : list of FrameSummary
        The innermost is the last.
    """
    own = [frame for frame in frames if not is_installed(frame.filename)]
    innermost = (own or frames)[-1:]
    return f"{innermost[0].filename}:{innermost[0].lineno}" if innermost else ""
