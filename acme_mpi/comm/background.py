"""Threads in which a rank waits for what its main thread cannot look at."""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable
from typing import Any


def start_thread(name: str, target: Callable[..., object], *args: Any) -> None:
    """Call a function in a thread that does not keep the process from ending."""

    def run() -> None:
        # The main thread has to wake when a signal comes.
        signal.pthread_sigmask(signal.SIG_BLOCK, signal.valid_signals())
        target(*args)

    threading.Thread(target=run, name=f"acme_mpi {name}", daemon=True).start()
