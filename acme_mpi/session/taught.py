"""The functions that the ranks of a stream know, as its client has taught them.

A function is pickled where it is given, and compared with the last few: one that has not changed is
not sent again.
"""

from __future__ import annotations

import ctypes
import math
import threading
from collections import deque
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from acme_mpi.linux.segment import Segment
from acme_mpi.runner.calls import Forget, Teach, Window
from acme_mpi.runner.reloaded import RELOADS
from acme_mpi.tasks.pickling import large_into, pickle_given
from acme_mpi.tasks.unpicklable import note_part

N_KEPT = 8  # functions
N_UNKNOWN = 4  # chunks for each rank, as `map` makes them
ALIGNMENT = 64  # of buffers in a segment

_memcmp = ctypes.CDLL(None).memcmp
_memcmp.argtypes = [ctypes.c_void_p, ctypes.c_void_p, ctypes.c_size_t]


class Function:
    """A function that the ranks know by its number.

    Attributes
    ----------
    number : int
        Its own.
    n_out : int
        Chunks of it that are drawn and have not ended.
    window : int
        How many of them the ranks want to have; 0: none has ended yet.
    call_s : float
        What a call takes, in seconds, once one has ended.
    """

    def __init__(self, number: int, body: bytes, buffers: Sequence[Any]) -> None:
        self.number, self.n_out, self.window = number, 0, 0
        self.call_s = math.inf
        self._body, self._views = body, list[memoryview]()
        self._modules = RELOADS.state()
        self._segment: Segment | None = None
        self._places: list[tuple[int, int]] = []
        if buffers:
            self._segment, self._places = _in_segment([body, *buffers])
            view = self._segment.view()
            self._views = [view[start : start + size] for start, size in self._places[1:]]

    @property
    def message(self) -> Teach:
        """What teaches it to the ranks."""
        body = b"" if self._segment is not None else self._body
        return Teach(self.number, body, self._places, self._segment, self._modules)

    def is_same(self, body: bytes, buffers: Sequence[Any]) -> bool:
        """Tell whether pickle and buffers are those that the ranks have."""
        return (
            body == self._body
            and self._modules == RELOADS.state()
            and len(buffers) == len(self._views)
            and all(map(_are_equal, buffers, self._views))
        )


def _in_segment(pieces: list[Any]) -> tuple[Segment, list[tuple[int, int]]]:
    """Return a segment that holds some pieces, and where they lie in it."""
    padded, places, offset = [], [], 0
    for piece in pieces:
        size = memoryview(piece).nbytes
        places.append((offset, size))
        gap = -size % ALIGNMENT
        padded += [piece, bytes(gap)]
        offset += size + gap
    return Segment.of(padded), places


def _are_equal(left: Any, right: memoryview) -> bool:
    if left.nbytes != right.nbytes:
        return False
    a, b = (np.frombuffer(each, np.uint8).ctypes.data for each in (left, right))
    return not _memcmp(a, b, right.nbytes)


class TaughtFunctions:
    """The last functions, and how many chunks of them the ranks have.

    What was sent cannot be cancelled. So of functions that may take hours, for all that is known,
    only a few chunks are out.

    Parameters
    ----------
    size : int
        Number of ranks.
    order : callable
        Takes the message for the ranks about a new function, before anybody else is given it.
    """

    def __init__(self, size: int, order: Callable[[Teach], None]) -> None:
        self._size, self._order = size, order
        self._lock = threading.Lock()
        self._kept: deque[Function] = deque()
        self._n_made = 0
        self._n_unknown = 0  # chunks that are out, of functions without a window

    def known(self, func: Callable[..., Any]) -> Function:
        """Pickle a function, and have the ranks know it."""
        buffers: list[Any] = []
        try:
            body = pickle_given(func, large_into(buffers))
        except Exception as error:
            note_part(error, func)
            raise
        with self._lock:
            for function in self._kept:
                if function.is_same(body, buffers):
                    self._kept.remove(function)
                    self._kept.append(function)
                    return function
            self._n_made += 1
            function = Function(self._n_made, body, buffers)
            self._kept.append(function)
            self._order(function.message)
        return function

    def taught_again(self, function: Function) -> Teach | None:
        """Keep a function of which a chunk was drawn; what teaches it if it is forgotten."""
        with self._lock:
            if function in self._kept:
                return None
            self._kept.append(function)
        return function.message

    def forgotten(self) -> list[Forget]:
        """Return what the ranks need not know any more."""
        messages = []
        with self._lock:
            for function in [*self._kept][:-N_KEPT]:
                if not function.n_out:
                    self._kept.remove(function)
                    messages.append(Forget(function.number))
        return messages

    def open_window(self, window: Window) -> None:
        """Learn how many chunks of a function the ranks want to have."""
        with self._lock:
            function = next((f for f in self._kept if f.number == window.function), None)
        if function is None:
            return  # it was forgotten
        if not function.window:
            self._n_unknown -= function.n_out
        function.window, function.call_s = window.n_chunks, window.call_s

    def is_wanted(self, function: Function) -> bool:
        """Tell whether one more chunk of a function may be sent."""
        if not function.window:
            return self._n_unknown < N_UNKNOWN * self._size
        return function.n_out < function.window

    def note_sent(self, function: Function) -> None:
        """Hear that a chunk goes to the ranks."""
        function.n_out += 1
        self._n_unknown += not function.window

    def note_back(self, function: Function, n: int = 1) -> None:
        """Hear that some have ended."""
        function.n_out -= n
        self._n_unknown -= n * (not function.window)
