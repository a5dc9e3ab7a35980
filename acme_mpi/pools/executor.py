"""`Executor`: a `concurrent.futures.Executor` whose workers are the ranks of the job."""

from __future__ import annotations

import concurrent.futures
import time
from collections.abc import Callable, Generator, Iterable, Iterator
from functools import partial
from typing import Any, NoReturn

from acme_mpi.pools.feeds import Feed, Listed, feed_of
from acme_mpi.pools.future import FutureChunk, TaskFuture
from acme_mpi.pools.imap import ImapBatch
from acme_mpi.pools.lane import Lane
from acme_mpi.pools.setup import check_count, limit_ranks, make_setup, served
from acme_mpi.rules import Rules
from acme_mpi.session import current
from acme_mpi.session.stream import Form


class Executor(concurrent.futures.Executor):
    """Calls functions on the ranks of the job, as `ProcessPoolExecutor` does on processes.

    Its futures are the standard library's. The constructor is Collective where that of a `Pool` is.

    Parameters
    ----------
    max_workers : int, optional
        At most so many ranks call its tasks at the same time, >= 1. Default: all.
    initializer : callable, optional
        Called once in each process that calls tasks. If it raises, futures and further calls get
        a `BrokenExecutor` with its error as the cause.
    initargs : iterable
        Arguments of the initializer.
    rules : Rules, optional
        `retries`, `crash_limit`, `timeout` and `memory` count for each call.

    Raises
    ------
    InputError
        A value is out of range; also a `ValueError`.
    InputTypeError
        A value has the wrong type; also a `TypeError`.

    Examples
    --------
    >>> import acme_mpi
    >>> with acme_mpi.Executor() as executor:
    ...     executor.submit(pow, 2, 5).result()
    32
    """

    def __init__(
        self,
        max_workers: int | None = None,
        initializer: Callable[..., object] | None = None,
        initargs: Iterable[Any] = (),
        *,
        rules: Rules | None = None,
    ) -> None:
        check_count("max_workers", max_workers)
        setup = make_setup(initializer, initargs, rules)
        stream = current().with_ranks(max_workers).stream()
        self._max_workers = limit_ranks(setup, stream, max_workers)
        self._lane: Lane | None = None
        if stream is not None:
            self._lane = Lane(stream, setup, self._max_workers, _is_shut_down, _broken)
            self._lane.leave = partial(_finish, self._lane)

    @property
    def num_workers(self) -> int:
        """Ranks that call its tasks at the same time; 0 on a rank that has served."""
        return self._max_workers

    def is_master(self) -> bool:
        """Tell whether this process makes the calls; others have served them."""
        return self._lane is not None

    def wait(self) -> None:
        """Return at once: a rank that serves has done so in the constructor."""

    def submit(self, fn: Callable[..., Any], /, *args: Any, **kwargs: Any) -> TaskFuture:
        """Have ``fn(*args, **kwargs)`` called, and return its future.

        Parameters
        ----------
        fn : callable
            What is called. A function of a module is pickled at the first time that it is
            submitted.
        *args, **kwargs
            Its arguments.

        Returns
        -------
        TaskFuture
            A `concurrent.futures.Future`, whose ``kill()`` also ends a call that runs.

        Raises
        ------
        RuntimeError
            The executor is shut down, or broken (`BrokenExecutor`).
        """
        lane = self._running()
        future = TaskFuture()
        try:
            function = lane.function(fn)
        except Exception as error:  # it cannot be pickled
            future.set_exception(error)
            return future
        chunk = FutureChunk(lane, function, (args, kwargs), future)
        future._chunk = chunk
        lane.submit(chunk, chunk)
        return future

    def map(
        self,
        fn: Callable[..., Any],
        *iterables: Iterable[Any],
        timeout: float | None = None,
        chunksize: int = 1,
        buffersize: int | None = None,
        unordered: bool = False,
    ) -> Iterator[Any]:
        """Return an iterator of the values of ``fn(*items)``, as items of all iterables come.

        Parameters
        ----------
        fn : callable
            What is called, at once.
        *iterables : iterable
            Its arguments, up to the end of the shortest one.
        timeout : float, optional
            Seconds from now on after which no value is waited for any more.
        chunksize : int
            So many calls go to a rank at once, >= 1.
        buffersize : int, optional
            So many chunks, >= 1, may be sent whose values were not taken; the iterables are drawn
            as they are. Default: all are drawn now.
        unordered : bool
            Yield values as they come.

        Raises
        ------
        TimeoutError, Exception
            By the iterator: a value did not come in time, or its call has raised. What was not
            sent by then is cancelled.
        """
        if len(iterables) == 1:
            items, form = iterables[0], Form.EACH
        else:
            items, form = zip(*iterables, strict=False), Form.STAR
        return self._map(fn, items, form, timeout, chunksize, buffersize, unordered)

    def starmap(
        self,
        fn: Callable[..., Any],
        iterable: Iterable[Iterable[Any]],
        timeout: float | None = None,
        chunksize: int = 1,
        buffersize: int | None = None,
        unordered: bool = False,
    ) -> Iterator[Any]:
        """Return an iterator of the values of ``fn(*item)``, as `map`."""
        return self._map(fn, iterable, Form.STAR, timeout, chunksize, buffersize, unordered)

    def shutdown(self, wait: bool = True, *, cancel_futures: bool = False) -> None:
        """Take no more calls.

        Parameters
        ----------
        wait : bool
            Return when all that was taken is done.
        cancel_futures : bool
            Cancel what was not sent.
        """
        if self._lane is None:
            return
        self._lane.close()
        if cancel_futures:
            self._lane.cut(concurrent.futures.CancelledError())
        else:
            _cut_buffered(self._lane)
        if wait:
            self._lane.join()

    def _leave(self) -> None:
        """Cancel what was not sent, wait for nothing that runs, and let go of other ranks."""
        self.shutdown(wait=False, cancel_futures=True)
        if self._lane is not None:
            self._lane.let_go()

    def __del__(self) -> None:
        lane: Lane | None = getattr(self, "_lane", None)
        if lane is not None and lane.is_own:
            self.shutdown(wait=False)

    def __reduce__(self) -> NoReturn:
        raise TypeError(
            "executors cannot be passed between processes or pickled; is it an attribute of the "
            "object whose method is called? A task may make one of its own"
        )

    def _running(self) -> Lane:
        if self._lane is None:
            raise served("executor")
        self._lane.check()
        return self._lane

    def _map(
        self,
        fn: Callable[..., Any],
        items: Iterable[Any],
        form: Form,
        timeout: float | None,
        chunksize: int,
        buffersize: int | None,
        unordered: bool,
    ) -> Iterator[Any]:
        lane = self._running()
        check_count("chunksize", chunksize, "")
        check_count("buffersize", buffersize)
        deadline = None if timeout is None else time.monotonic() + timeout
        if buffersize is None:
            feed: Feed = Listed(items, chunksize)
            most_untaken = None
        else:
            wake = None if lane.is_here else lane.stream.wake
            feed = feed_of(items, chunksize, buffersize, wake)
            most_untaken = buffersize * chunksize
        batch = ImapBatch(lane, feed, form, "raise", not unordered, most_untaken)
        try:
            function = lane.stream.function(fn)
        except Exception as error:  # it cannot be pickled
            batch.end(error)
        else:
            batch.start(function)
        return _values(batch, timeout, deadline)


def _values(
    batch: ImapBatch, timeout: float | None, deadline: float | None
) -> Generator[Any, None, None]:
    try:
        while True:
            left_s = None if deadline is None else deadline - time.monotonic()
            try:
                taken = [batch.take(left_s, timeout)]
            except StopIteration:
                return
            yield taken.pop()  # while it is suspended it holds no value
    finally:
        batch.stop()


def _finish(lane: Lane) -> None:
    """Wait at the interpreter's end for all that was submitted, as the standard library does."""
    lane.close()
    _cut_buffered(lane)
    lane.join()


def _cut_buffered(lane: Lane) -> None:
    """End the iterators that would send more as values are taken."""
    for pending in lane.pending():
        if isinstance(pending, ImapBatch) and pending.is_bounded:
            pending.cut(_is_shut_down())


def _is_shut_down() -> RuntimeError:
    return RuntimeError("cannot schedule new futures after shutdown")


def _broken(error: BaseException) -> BaseException:
    from concurrent.futures.process import BrokenProcessPool  # it imports a lot

    broken = BrokenProcessPool(f"the initializer of the executor has raised {error!r}")
    broken.__cause__ = error
    return broken
