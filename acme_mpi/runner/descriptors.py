"""Standard streams that are closed (``>&-``) are nothing, and not what is opened next."""

from __future__ import annotations

import os
import sys


def occupy_standard_descriptors() -> None:
    """Open the null device in the place of each standard stream that is closed.

    A channel or a file that got the number of one would be printed into, here and in children.
    """
    for number, name in enumerate(("stdin", "stdout", "stderr")):
        try:
            os.fstat(number)
        except OSError:
            os.open(os.devnull, os.O_RDWR)  # the lowest number that is free
            os.set_inheritable(number, True)
        if getattr(sys, name) is None:
            setattr(sys, name, open(number, "r" if number == 0 else "w", closefd=False))  # noqa: SIM115 (it stays)
