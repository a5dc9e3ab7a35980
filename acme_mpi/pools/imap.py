"""`imap`: values that are taken one by one, while the input is drawn as they are."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Iterator, Sequence
from functools import partial
from typing import Any

from acme_mpi.pools.batch import Batch, note
from acme_mpi.pools.feeds import Feed
from acme_mpi.pools.lane import Lane
from acme_mpi.pools.results import ResultTimeoutError
from acme_mpi.pools.waiting import wait_in_turns
from acme_mpi.session.stream import Form, Raised

MOST_UNTAKEN = 4096  # tasks that are drawn, and whose values nobody has taken
MOST_CHUNKS_UNTAKEN = 64
WORTH_A_WAKE = 64  # tasks that can be drawn again


def most_untaken(chunksize: int, size: int) -> int:
    """Return how many tasks may be drawn whose values nobody has taken; all ranks are busy."""
    return max(MOST_UNTAKEN, chunksize * max(MOST_CHUNKS_UNTAKEN, 4 * size))


class ImapBatch(Batch):
    """The calls of `imap`.

    Parameters
    ----------
    lane, feed, form, on_error
        As of `Batch`.
    is_ordered : bool
        Values are taken in the order of the input, not in that of their arrival.
    most_untaken : int or None
        Tasks that are drawn, and whose values nobody has taken; None: any number.
    pool : object
        Kept as long as there are values to come.
    """

    def __init__(
        self,
        lane: Lane,
        feed: Feed,
        form: Form,
        on_error: str,
        is_ordered: bool,
        most_untaken: int | None,
        pool: object = None,
    ) -> None:
        super().__init__(lane, feed, form, on_error)
        self._is_ordered = is_ordered
        self._most_untaken = most_untaken
        self._pool = pool
        self._changed = threading.Condition()
        self._ready: deque[Any] = deque()
        self._early: dict[int, list[Any]] = {}  # values that wait for those before them
        self._n_arrived = 0  # in order: the index of the next one
        self._n_taken = 0
        self._n_all: int | None = None  # known at the end of the input
        self._last: Raised | None = None  # what the input has raised
        self._is_stalled = self._is_abandoned = False

    def receive(self, start: int, values: list[Any]) -> None:
        """Take values as they come."""
        if Raised in map(type, values):
            values = self._judge(start, values)
        with self._changed:
            if self._is_abandoned or not self._is_ordered:
                self._arrive(values)
            else:
                self._early[start] = values
                while self._n_arrived in self._early:
                    self._arrive(self._early.pop(self._n_arrived))
            self._end_if_done()

    @property
    def is_bounded(self) -> bool:
        """Whether its input is drawn as values are taken."""
        return self._most_untaken is not None

    def take(self, timeout: float | None, asked: float | None = None) -> Any:
        """Return the next value, or raise its error.

        Parameters
        ----------
        timeout : float or None
            Seconds, from now on.
        asked : float, optional
            What the user has given, if that counts from an earlier moment.

        Raises
        ------
        TimeoutError
            It was not there after `timeout` seconds.
        RuntimeError
            Its call has raised a `StopIteration`.
        StopIteration
            There are no more.
        """
        self._ask_for_more()
        with self._changed:
            if not wait_in_turns(partial(self._changed.wait_for, self._has_answer), timeout):
                limit = timeout if asked is None else asked
                raise ResultTimeoutError(f"no value of a pool has come within {limit} s")
            if not self._ready:
                raise StopIteration
            value = self._ready.popleft()
            self._n_taken += 1
        if type(value) is Raised:
            try:
                raise _told_apart(value.error)
            finally:
                del value  # the traceback would hold it
        return value

    def end(self, error: BaseException) -> None:
        """Let the next value be this error, and the last one."""
        with self._changed:
            if self.is_over:
                return
            self._early.clear()
            self._arrive([Raised(error)])
            self._leave()

    def stop(self) -> None:
        """Send nothing more, and drop what comes."""
        with self._changed:
            self._abandon()
            self._leave()
        self.lane.stream.wake(self._source)

    def abandon(self) -> None:
        """Make all calls, but drop what comes: nobody can take it."""
        with self._changed:
            self._abandon()
        self.lane.stream.wake(self._source)

    def _abandon(self) -> None:
        if not self._is_abandoned:
            self._is_abandoned = True
            self._n_arrived += sum(map(len, self._early.values()))
            self._early.clear()
            self._ready.clear()

    def _judge(self, start: int, values: list[Any]) -> list[Any]:
        if self._on_error != "raise":
            return super()._judge(start, values)
        for index, value in enumerate(values, start):
            if type(value) is Raised:
                note(value, index)
        return values

    def _has_answer(self) -> bool:
        return bool(self._ready) or self.is_over

    def _arrive(self, values: list[Any]) -> None:
        self._n_arrived += len(values)
        if not self._is_abandoned:
            self._ready.extend(values)
            self._changed.notify()

    def _ask_for_more(self) -> None:
        with self._changed:
            must_wake = self._is_stalled and self._has_room(WORTH_A_WAKE)
            self._is_stalled &= not must_wake
        if must_wake:
            self.lane.stream.wake(self._source)

    def _draw(self) -> Sequence[Any] | None:
        with self._changed:
            if not self._has_room(1):
                self._is_stalled = True
                return None
        return super()._draw()

    def _has_room(self, n: int) -> bool:
        """Tell whether `n` more tasks may be drawn, or half of all that may be out."""
        most = self._most_untaken
        if most is None or self._is_abandoned or self.lane.is_unbounded:
            return True
        return self._n_drawn - self._n_taken + max(1, min(n, most // 2)) <= most

    def _end_input(self) -> None:
        super()._end_input()
        with self._changed:
            if self.is_over:
                return
            self._n_all = self._n_drawn
            if self.feed.error is not None:
                self._last = Raised(self.feed.error)
            self._end_if_done()

    def _end_if_done(self) -> None:
        if self._n_arrived == self._n_all:
            last, self._last = self._last, None
            if last is not None:
                self._arrive([last])
            self._leave()

    def _leave(self) -> None:
        self.is_over = True
        self._pool = None
        self.lane.forget(self)
        self._changed.notify_all()


def _told_apart(error: BaseException) -> BaseException:
    """Return an error as an iterator may raise it: a `StopIteration` would be taken for its end."""
    if not isinstance(error, StopIteration):
        return error
    told = RuntimeError("a call of the pool has raised StopIteration")
    told.__cause__ = error
    return told


class ImapIterator(Iterator[Any]):
    """Values of the calls of `imap`; an error in the place of a value does not end it.

    Parameters
    ----------
    batch : ImapBatch
        The calls.
    """

    def __init__(self, batch: ImapBatch) -> None:
        self._batch = batch

    def next(self, timeout: float | None = None) -> Any:
        """Return the next value, or raise the error that it has become.

        Raises
        ------
        TimeoutError
            It was not there after `timeout` seconds; it is `multiprocessing.TimeoutError`, too.
        StopIteration
            There are no more.
        """
        return self._batch.take(timeout)

    def __next__(self) -> Any:
        return self._batch.take(None)

    def __del__(self) -> None:
        if not self._batch.is_over:
            self._batch.abandon()
