"""Standard streams that are closed (``>&-``) are nothing, and not what is opened next."""

from __future__ import annotations

import os
import subprocess
import sys


def occupy_standard_descriptors() -> None:
    """Open the null device in the place of each standard stream that is closed.

    A channel or a file that got the number of one would be printed into, here and in children:
    call it before any is opened.
    """
    for number, name in enumerate(("stdin", "stdout", "stderr")):
        try:
            os.fstat(number)
        except OSError:
            os.open(os.devnull, os.O_RDWR)  # the lowest number that is free
            os.set_inheritable(number, True)
        if getattr(sys, name) is None:
            # Not the number: the user may have opened a file since, which has got it.
            setattr(sys, name, open(os.devnull, "r" if number == 0 else "w"))  # noqa: SIM115 (it stays)


def for_child(name: str) -> int | None:
    """Return what `subprocess.Popen` gives a child for a standard stream of this process."""
    return subprocess.DEVNULL if getattr(sys, f"__{name}__") is None else None
