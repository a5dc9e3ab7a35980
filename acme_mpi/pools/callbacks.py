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
        """Have a call made; what it raises is logged.

        It is made here if there can be no new thread: at the end of Python 3.12, or with a limit.
        """
        with self._lock:
            has_thread = not self._is_stopped or self._has_started()
            if has_thread:
                self._calls.put(call)
        if not has_thread:
            _make(call)

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

    def _has_started(self) -> bool:
        """Start a thread, if there can be one."""
        calls: SimpleQueue[Callable[[], object] | None] = SimpleQueue()
        thread = threading.Thread(
            target=_make_all, args=(calls,), name="acme_mpi callbacks", daemon=True
        )
        try:
            thread.start()
        except RuntimeError:
            return False
        self._calls, self._thread, self._is_stopped = calls, thread, False
        return True


def _make_all(calls: SimpleQueue[Callable[[], object] | None]) -> None:
    while (call := calls.get()) is not None:
        _make(call)
        del call  # it holds a result, which may be large


def _make(call: Callable[[], object]) -> None:
    try:
        call()
    except BaseException:
        logger.exception("a callback of a pool has raised; nothing else is lost")
