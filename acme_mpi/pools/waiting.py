"""Wait so that signals are heard."""

from __future__ import annotations

import time
from collections.abc import Callable

TURN_S = 0.5


def wait_in_turns(wait: Callable[[float], bool], timeout: float | None = None) -> bool:
    """Wait until something has happened; tell whether it has within `timeout` seconds.

    Python handles signals between two waits, and when one wakes a wait. A Ctrl-C that comes after
    the former and before a wait has begun is heard when that ends: so none lasts for ever.

    Parameters
    ----------
    wait : callable
        Waits for as many seconds at most; tells whether it has happened.
    timeout : float, optional
        None: for ever.
    """
    end_s = None if timeout is None else time.monotonic() + timeout
    while True:
        left_s = TURN_S if end_s is None else min(TURN_S, end_s - time.monotonic())
        if wait(max(0.0, left_s)):
            return True
        if end_s is not None and time.monotonic() >= end_s:
            return False
