"""Where a batch's arguments come from: a list, or an iterator that is drawn when it is asked."""

from __future__ import annotations

import threading
from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import islice
from typing import Any

# Their iterators run no user code, so that a stream's thread may draw them.
_PLAIN = (list, tuple, range, str, bytes, dict, set, frozenset)


class Feed(ABC):
    """Hands out arguments in chunks.

    Attributes
    ----------
    error : BaseException or None
        What the input has raised behind the last argument.
    """

    error: BaseException | None = None

    @abstractmethod
    def draw(self) -> Sequence[Any] | None:
        """Return the next arguments, none at the end; None: nothing for now, `wake` is called."""

    @abstractmethod
    def close(self) -> None:
        """Draw nothing more."""


class Listed(Feed):
    """Arguments that are all there; they are dropped as they are handed out.

    A chunk of a range is a range: it travels as three numbers.

    Attributes
    ----------
    chunksize : int
        Arguments at once, >= 1.
    """

    def __init__(self, items: Iterable[Any], chunksize: int) -> None:
        # A list gets shorter only at its end.
        self._left = items[::-1] if type(items) is range else list(items)[::-1]
        self.chunksize = chunksize

    def __len__(self) -> int:
        return len(self._left)

    def draw(self) -> Sequence[Any]:
        """Return the next arguments."""
        chunk = self._left[: -self.chunksize - 1 : -1]
        if isinstance(self._left, list):
            del self._left[-self.chunksize :]
        else:
            self._left = self._left[: -self.chunksize]
        return chunk

    def close(self) -> None:
        """Drop what is left."""
        self._left = []


class Drawn(Feed):
    """An iterator that is drawn in the thread that asks."""

    def __init__(self, items: Iterator[Any], chunksize: int) -> None:
        self._items = items
        self._chunksize = chunksize

    def draw(self) -> list[Any]:
        """Return the next arguments."""
        chunk: list[Any] = []
        if self.error is None:
            try:
                chunk.extend(islice(self._items, self._chunksize))
            except Exception as error:
                self.error = error
        return chunk

    def close(self) -> None:
        """Let go of the iterator."""
        self._items = iter(())


class Ahead(Feed):
    """An iterator of the user, which may wait for anything: it has a thread of its own.

    Parameters
    ----------
    items : iterator
        What is drawn.
    chunksize : int
        Arguments at once, >= 1.
    n_ahead : int
        Chunks that are kept ready, >= 1.
    wake : callable
        Called when there is something again.
    """

    def __init__(
        self, items: Iterator[Any], chunksize: int, n_ahead: int, wake: Callable[[], None]
    ) -> None:
        self._drawn = Drawn(items, chunksize)
        self._n_ahead = n_ahead
        self._wake = wake
        self._ready: deque[list[Any]] = deque()
        self._changed = threading.Condition()
        self._is_closed = self._is_awaited = False
        threading.Thread(target=self._draw_all, name="acme_mpi input", daemon=True).start()

    def draw(self) -> list[Any] | None:
        """Return the next arguments, if they are there yet."""
        with self._changed:
            if not self._ready:
                self._is_awaited = True
                return None
            self._changed.notify()
            if self._ready[0]:
                return self._ready.popleft()
        self.error = self._drawn.error
        return []

    def close(self) -> None:
        """Have the thread end, once the input gives it the chance."""
        with self._changed:
            self._is_closed = True
            self._changed.notify()

    def _draw_all(self) -> None:
        chunk: list[Any] | None = None
        while chunk != [] and self._has_room():
            try:
                chunk = self._drawn.draw()
            except BaseException as error:  # of this thread alone; the caller learns of it
                chunk, self._drawn.error = [], error
            with self._changed:
                self._ready.append(chunk)
                is_awaited, self._is_awaited = self._is_awaited, False
            if is_awaited:
                self._wake()
        self._drawn.close()

    def _has_room(self) -> bool:
        with self._changed:
            self._changed.wait_for(lambda: self._is_closed or len(self._ready) < self._n_ahead)
            return not self._is_closed


def feed_of(
    items: Iterable[Any], chunksize: int, n_ahead: int, wake: Callable[[], None] | None
) -> Feed:
    """Return the feed for an iterable.

    Parameters
    ----------
    items : iterable
        The arguments.
    chunksize, n_ahead : int
        As for `Ahead`.
    wake : callable or None
        None: whoever asks may wait for the user's iterator.
    """
    if type(items) is range:  # of any length
        return Drawn(iter(items), chunksize)
    if type(items) in _PLAIN:
        return Listed(items, chunksize)
    if wake is None:
        return Drawn(iter(items), chunksize)
    return Ahead(iter(items), chunksize, n_ahead, wake)
