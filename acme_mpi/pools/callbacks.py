"""A thread for what users want to be told, so that their code never holds up a stream."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable
from queue import SimpleQueue

logger = logging.getLogger("acme_mpi")


class Callbacks:
    """Makes calls one after the other, in a thread that starts with the first of them."""

    def __init__(self) -> None:
        self._lock = threading.RLock()  # the garbage collector may end a pool at any moment
        self._calls: SimpleQueue[Callable[[], object] | None] = SimpleQueue()
        self._thread: threading.Thread | None = None
        self._is_stopped = True

    def post(self, call: Callable[[], object]) -> None:
        """Have a call made; what it raises is logged."""
        with self._lock:
            if self._is_stopped:
                self._start()
            self._calls.put(call)

    def drain(self) -> None:
        """Wait until all has been called that was posted; a callback does not wait for itself."""
        with self._lock:
            thread, is_stopped = self._thread, self._is_stopped
        if thread is None or thread is threading.current_thread():
            return
        if is_stopped:
            thread.join()
            return
        is_drained = threading.Event()
        self.post(is_drained.set)
        is_drained.wait()

    def stop(self) -> None:
        """Let the thread end after what was posted; another `post` starts a new one."""
        with self._lock:
            if not self._is_stopped:
                self._is_stopped = True
                self._calls.put(None)

    def _start(self) -> None:
        self._calls = SimpleQueue()
        self._thread = threading.Thread(
            target=_make, args=(self._calls,), name="acme_mpi callbacks", daemon=True
        )
        self._thread.start()
        self._is_stopped = False


def _make(calls: SimpleQueue[Callable[[], object] | None]) -> None:
    while (call := calls.get()) is not None:
        try:
            call()
        except BaseException:
            logger.exception("a callback of a pool has raised; nothing else is lost")
        del call  # it holds a result, which may be large
