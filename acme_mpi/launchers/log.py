"""What a job has said at last: the end of its log."""

from __future__ import annotations

import os
import re

# What Open MPI says between two lines of dashes when a rank ends with a status.
_OF_MPIEXEC = re.compile(
    r"^-{60,}\n(?:(?!-{60}).*\n){1,12}?.*(?:Exit code:|job has been aborted).*\n(?:(?!-{60}).*\n)?"
    r"-{60,}\n?",
    re.MULTILINE,
)
_END_BYTES = 16 * 1024


def last_lines(path: str, n_most: int = 10) -> list[str]:
    """Return the last lines of a log, without what mpiexec adds to any failure.

    Parameters
    ----------
    path : str
        Of the log; one that is not there, or cannot be read, has no lines.
    n_most : int
        So many, >= 1; empty lines do not count.
    """
    lines = re.split(r"[\r\n]+", _OF_MPIEXEC.sub("", log_end(path)).strip())
    return [line for line in lines if line.strip()][-n_most:]


def log_end(path: str) -> str:
    """Return the last 16 KiB of a log, also what mpiexec adds; empty if it cannot be read."""
    try:
        with open(path, "rb") as file:
            size = os.fstat(file.fileno()).st_size
            file.seek(max(0, size - _END_BYTES))
            return file.read(_END_BYTES).decode(errors="replace")
    except OSError:
        return ""
