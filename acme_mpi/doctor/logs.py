"""What a log tells of that is known."""

from __future__ import annotations

import os
import re
import sys

from acme_mpi.doctor.finding import NOTE, WRONG, Finding, fine
from acme_mpi.errors import InputError
from acme_mpi.symptoms import SYMPTOMS

STANDARD_INPUT = "-"
MOST_BYTES = 32 * 1024**2  # the end of a log
MOST_CHARACTERS = 300  # of a line that is shown
HARMLESS = ("forks",)


def read_log(path: str) -> str:
    """Return the end of a log.

    Parameters
    ----------
    path : str
        Its file; ``-`` for standard input.

    Raises
    ------
    InputError
        It cannot be read.
    """
    try:
        if path == STANDARD_INPUT:
            data = sys.stdin.buffer.read()[-MOST_BYTES:]
        else:
            with open(path, "rb") as file:
                file.seek(max(0, os.fstat(file.fileno()).st_size - MOST_BYTES))
                data = file.read(MOST_BYTES)
    except OSError as error:
        raise InputError(f"cannot read the log {path!r}: {error.strerror}") from None
    return re.sub(r"\r\n?", "\n", data.decode(errors="replace"))


def check_log(text: str, name: str) -> list[Finding]:
    """Return what a log tells of, each with the first line that does.

    Parameters
    ----------
    text : str
        The log.
    name : str
        What to call it.
    """
    findings = []
    for each in SYMPTOMS:
        if (found := re.search(each.pattern, text)) is not None:
            start = text.rfind("\n", 0, found.start()) + 1
            line = text[start:].partition("\n")[0].strip()[:MOST_CHARACTERS]
            evidence = f"{each.title} (line {text.count(chr(10), 0, start) + 1}: {line})"
            level = NOTE if each.name in HARMLESS else WRONG
            findings.append(Finding(each.name, level, evidence, each.cure))
    n_lines = text.count("\n")
    return findings or [fine("log", f"the {n_lines} lines of {name} tell of nothing that is known")]
