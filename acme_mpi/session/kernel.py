"""Whether this process is the kernel of a notebook, and is about to end."""

from __future__ import annotations

import sys
import time
from typing import Any

LOOK_S = 0.01


def is_in_notebook() -> bool:
    """Tell whether this process runs the cells of a notebook."""
    if "ipykernel" not in sys.modules:
        return False
    shell = sys.modules["IPython"].get_ipython() if "IPython" in sys.modules else None
    return getattr(shell, "kernel", None) is not None


def ends_within(seconds: float) -> bool:
    """Wait until it is known that this kernel ends, at most for some seconds; tell whether it does.

    Who restarts a kernel, or shuts it down, interrupts it first. What comes next, either an order
    to end or a kill, comes at once. The order is heard by a thread of the kernel. In any other
    process there is nothing to wait for.
    """
    shell = _shell()
    if shell is None:
        return False
    give_up_s = time.monotonic() + seconds
    while not shell.exit_now and time.monotonic() < give_up_s:
        time.sleep(LOOK_S)
    return bool(shell.exit_now)


def _shell() -> Any:
    """Return IPython's shell in a kernel, None in a terminal or in another Python."""
    ipython = sys.modules.get("IPython")
    shell = None if ipython is None else ipython.get_ipython()
    return shell if hasattr(shell, "kernel") else None
