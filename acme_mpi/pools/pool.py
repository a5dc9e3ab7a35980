"""`Pool`: `multiprocessing.Pool` whose processes are the ranks of the job."""

from __future__ import annotations

import queue
import warnings
from collections.abc import Callable, Iterable, Mapping
from functools import partial
from types import TracebackType
from typing import Any, NoReturn, Self

from acme_mpi.errors import InputError, StoppedError
from acme_mpi.pools.batch import MapBatch, ToldBatch
from acme_mpi.pools.batches import split
from acme_mpi.pools.feeds import Listed, feed_of
from acme_mpi.pools.imap import ImapBatch, ImapIterator, most_untaken
from acme_mpi.pools.lane import Lane
from acme_mpi.pools.results import ON_ERROR, AsyncResult, SingleChunk
from acme_mpi.pools.setup import check_count, limit_ranks, make_setup, served
from acme_mpi.pools.waiting import TURN_S
from acme_mpi.rules import Rules
from acme_mpi.session import current
from acme_mpi.session.stream import Form

CHUNKS_PER_PROCESS = 4  # of a `map`, as in `multiprocessing`

Callback = Callable[[Any], object] | None
ErrorCallback = Callable[[BaseException], object] | None


class Pool:
    """Calls functions on the ranks of the job, as `multiprocessing.Pool` does on processes.

    The constructor is Collective in a script that all ranks run: rank 0 goes on, and the others
    serve until the pool is closed. In a script started by ``python -m acme_mpi script.py`` the
    script alone makes it. Inside of a task it makes its calls there and then.

    Parameters
    ----------
    processes : int, optional
        At most so many ranks call tasks of this pool at the same time, >= 1. Default: all.
    initializer : callable, optional
        Called once in each process that calls tasks. If it raises, the pool raises its error,
        where `multiprocessing` starts processes for ever.
    initargs : iterable
        Arguments of the initializer.
    maxtasksperchild : int, optional
        After so many chunks a process is replaced by a new one, >= 1.
    context : object, optional
        Means nothing here, and is accepted for code that hands it on.
    rules : Rules, optional
        `retries`, `crash_limit`, `timeout` and `memory` count for each call.
    on_error : {"raise", "none", "return"}
        What becomes of a call that raises, or whose process dies. ``"raise"``: the method raises,
        after all its calls were made. ``"none"``: its value is None; ``"return"``: the exception
        itself; and `failures` lists them.

    Attributes
    ----------
    size : int
        Ranks that call tasks at the same time; 0 on a rank that has served.
    failures : list of tuple of int and BaseException
        With ``on_error`` other than ``"raise"``: index and error of what has failed of the call
        that was made last, in the order of the indices once it is done.

    Raises
    ------
    InputError
        A value is out of range; also a `ValueError`.
    InputTypeError
        A value has the wrong type; also a `TypeError`.

    Examples
    --------
    >>> import acme_mpi
    >>> with acme_mpi.Pool() as pool:
    ...     pool.map(abs, [-1, 2, -3])
    [1, 2, 3]
    """

    def __init__(
        self,
        processes: int | None = None,
        initializer: Callable[..., object] | None = None,
        initargs: Iterable[Any] = (),
        maxtasksperchild: int | None = None,
        context: object = None,
        *,
        rules: Rules | None = None,
        on_error: str = "raise",
    ) -> None:
        check_count("processes", processes)
        check_count("maxtasksperchild", maxtasksperchild)
        if on_error not in ON_ERROR:
            raise InputError(
                f"`on_error` has to be one of {', '.join(map(repr, ON_ERROR))}, not {on_error!r}"
            )
        setup = make_setup(initializer, initargs, rules)
        setup.max_chunks = maxtasksperchild
        self._on_error = on_error
        self.failures: list[tuple[int, BaseException]] = []
        self._state = "RUN"
        stream = current().with_ranks(processes).stream()
        self.size = limit_ranks(setup, stream, processes)
        self._lane: Lane | None = None
        if stream is not None:
            self._lane = Lane(stream, setup, self.size, _not_running, lambda error: error)
            self._lane.leave = partial(self._lane.terminate, _terminated())

    @property
    def _processes(self) -> int:
        return self.size

    def is_master(self) -> bool:
        """Tell whether this process makes the calls; others have served them."""
        return self._lane is not None

    def is_worker(self) -> bool:
        """Tell whether this process has served the calls of another one."""
        return not self.is_master()

    def wait(self) -> None:
        """Return at once: a rank that serves has done so in the constructor."""

    def map(
        self,
        func: Callable[[Any], Any],
        iterable: Iterable[Any],
        chunksize: int | None = None,
        *,
        callback: Callback = None,
    ) -> list[Any]:
        """Return the values of ``func(item)`` for all items, in their order.

        All calls are made, whichever raises, also the others of its chunk.

        Parameters
        ----------
        func : callable
            What is called.
        iterable : iterable
            Its arguments; read to the end first.
        chunksize : int, optional
            So many calls go to a rank at once, >= 1; default a quarter of what each rank gets.
        callback : callable, optional
            Called in this thread with each value as it comes, in any order (as in schwimmbad).

        Raises
        ------
        Exception
            The first error that has come of a call, unless `on_error` says otherwise.
        """
        return self._map(func, iterable, chunksize, Form.EACH, callback)

    def starmap(
        self,
        func: Callable[..., Any],
        iterable: Iterable[Iterable[Any]],
        chunksize: int | None = None,
        *,
        callback: Callback = None,
    ) -> list[Any]:
        """Return the values of ``func(*item)`` for all items, as `map`."""
        return self._map(func, iterable, chunksize, Form.STAR, callback)

    def map_async(
        self,
        func: Callable[[Any], Any],
        iterable: Iterable[Any],
        chunksize: int | None = None,
        callback: Callback = None,
        error_callback: ErrorCallback = None,
    ) -> AsyncResult:
        """Begin a `map`; the callbacks are told once, all values or the error."""
        result = self._result(callback, error_callback)
        self._send(self._batch(iterable, chunksize, Form.EACH, result), func)
        return result

    def starmap_async(
        self,
        func: Callable[..., Any],
        iterable: Iterable[Iterable[Any]],
        chunksize: int | None = None,
        callback: Callback = None,
        error_callback: ErrorCallback = None,
    ) -> AsyncResult:
        """Begin a `starmap`; the callbacks are told once, all values or the error."""
        result = self._result(callback, error_callback)
        self._send(self._batch(iterable, chunksize, Form.STAR, result), func)
        return result

    def apply(
        self,
        func: Callable[..., Any],
        args: Iterable[Any] = (),
        kwds: Mapping[str, Any] | None = None,
    ) -> Any:
        """Return the value of ``func(*args, **kwds)``.

        Parameters
        ----------
        func : callable
            What is called.
        args, kwds : iterable, mapping
            Its arguments.

        Raises
        ------
        Exception
            What the call has raised, unless `on_error` says otherwise.
        """
        result = self._result()
        chunk = self._chunk(args, kwds, result)
        try:
            self._submit(chunk, func)
            return result.get()
        except BaseException as error:
            if not result.ready():
                chunk.end(error)
                chunk.kill()
            raise

    def apply_async(
        self,
        func: Callable[..., Any],
        args: Iterable[Any] = (),
        kwds: Mapping[str, Any] | None = None,
        callback: Callback = None,
        error_callback: ErrorCallback = None,
    ) -> AsyncResult:
        """Begin an `apply`."""
        result = self._result(callback, error_callback)
        self._submit(self._chunk(args, kwds, result), func)
        return result

    def imap(
        self, func: Callable[[Any], Any], iterable: Iterable[Any], chunksize: int = 1
    ) -> ImapIterator:
        """Return an iterator of the values of ``func(item)``, in the order of the items.

        The iterable is drawn as values are taken: some thousand items, or some chunks, are ahead.
        An error stands in the place of a value; the iterator goes on behind it, whatever the
        `chunksize` (that of `multiprocessing` ends where it is not 1).

        Parameters
        ----------
        func : callable
            What is called.
        iterable : iterable
            Its arguments. What it raises comes in its place, and ends the iterator.
        chunksize : int
            So many calls go to a rank at once, >= 1.
        """
        return self._imap(func, iterable, chunksize, Form.EACH, is_ordered=True)

    def imap_unordered(
        self, func: Callable[[Any], Any], iterable: Iterable[Any], chunksize: int = 1
    ) -> ImapIterator:
        """Return an iterator of the values of ``func(item)`` as they come, as `imap`."""
        return self._imap(func, iterable, chunksize, Form.EACH, is_ordered=False)

    def istarmap(
        self, func: Callable[..., Any], iterable: Iterable[Iterable[Any]], chunksize: int = 1
    ) -> ImapIterator:
        """Return an iterator of the values of ``func(*item)``, as `imap`."""
        return self._imap(func, iterable, chunksize, Form.STAR, is_ordered=True)

    def istarmap_unordered(
        self, func: Callable[..., Any], iterable: Iterable[Iterable[Any]], chunksize: int = 1
    ) -> ImapIterator:
        """Return an iterator of the values of ``func(*item)`` as they come, as `imap`."""
        return self._imap(func, iterable, chunksize, Form.STAR, is_ordered=False)

    def batched_map(
        self, worker: Callable[[Any], Any], tasks: Iterable[Any], *args: Any, **kwargs: Any
    ) -> list[Any]:
        """Call `worker` once for each rank, with a tuple: first and last index, and the tasks.

        As in schwimmbad: ``worker(((start, stop), tasks[start:stop]))``.

        Parameters
        ----------
        worker : callable
            What is called.
        tasks : iterable
            Read to the end, and split into as many parts of about one length as there are ranks.
        *args, **kwargs
            As in `map`, behind its iterable.
        """
        self._running()
        return self.map(worker, split(list(tasks), self.size), *args, **kwargs)

    def close(self) -> None:
        """Take no more calls; those that were made are finished."""
        if self._state == "RUN":
            self._state = "CLOSE"
            if self._lane is not None:
                self._lane.close()

    def terminate(self) -> None:
        """End what runs, at once; results that are not there raise `StoppedError`."""
        self._state = "TERMINATE"
        if self._lane is not None:
            self._lane.terminate(_terminated())
            self._lane.let_go()

    def join(self) -> None:
        """Wait until all calls are done, after `close` or `terminate`.

        Raises
        ------
        ValueError
            The pool is not closed.
        """
        if self._state == "RUN":
            raise ValueError("Pool is still running")
        if self._lane is not None:
            self._lane.join()

    def __enter__(self) -> Self:
        if self._lane is not None:
            self._running()
        return self

    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.terminate()

    def __del__(self) -> None:
        lane = getattr(self, "_lane", None)
        if lane is not None and self._state == "RUN" and lane.is_own:
            warnings.warn(
                f"unclosed running pool {self!r}: use `with`, or close() and join()",
                ResourceWarning,
                source=self,
                stacklevel=2,
            )
            lane.terminate(_terminated())

    def __repr__(self) -> str:
        return f"<acme_mpi.Pool state={self._state} pool_size={self.size}>"

    def __reduce__(self) -> NoReturn:
        raise NotImplementedError("pool objects cannot be passed between processes or pickled")

    def _running(self) -> Lane:
        """Return the lane, if it takes calls."""
        if self._lane is None:
            raise served("pool")
        self._lane.check()
        return self._lane

    def _result(
        self, callback: Callback = None, error_callback: ErrorCallback = None
    ) -> AsyncResult:
        return AsyncResult(self._running(), self, callback, error_callback)

    def _map(
        self,
        func: Callable[..., Any],
        iterable: Iterable[Any],
        chunksize: int | None,
        form: Form,
        callback: Callback,
    ) -> list[Any]:
        result = self._result()
        batch = self._batch(iterable, chunksize, form, result, callback)
        try:
            self._send(batch, func)
            if isinstance(batch, ToldBatch):
                _tell(batch, callback)
            gathered: list[Any] = result.get()
            return gathered
        except BaseException as error:
            if not result.ready():
                batch.end(error)
                batch.kill()
            raise

    def _batch(
        self,
        iterable: Iterable[Any],
        chunksize: int | None,
        form: Form,
        result: AsyncResult,
        callback: Callback = None,
    ) -> MapBatch:
        lane = self._running()
        check_count("chunksize", chunksize)
        feed = Listed(iterable, chunksize or 1)
        if chunksize is None:
            feed.chunksize = max(1, -(-len(feed) // (CHUNKS_PER_PROCESS * self.size)))
        kind = MapBatch if callback is None else ToldBatch
        return kind(lane, feed, form, self._on_error, result)

    def _chunk(
        self, args: Iterable[Any], kwds: Mapping[str, Any] | None, result: AsyncResult
    ) -> SingleChunk:
        return SingleChunk(self._running(), (args, kwds or {}), result, self._on_error)

    def _submit(self, chunk: SingleChunk, func: Callable[..., Any]) -> None:
        lane, self.failures = self._running(), chunk.failures
        try:
            chunk.function = lane.function(func)
        except Exception as error:  # it cannot be pickled
            chunk.end(error)
        else:
            lane.submit(chunk, chunk)

    def _send(self, batch: MapBatch | ImapBatch, func: Callable[..., Any]) -> None:
        self.failures = [] if self._on_error == "raise" else batch.failures
        try:
            function = batch.lane.stream.function(func)
        except Exception as error:  # it cannot be pickled
            batch.end(error)
        else:
            batch.start(function)

    def _imap(
        self,
        func: Callable[..., Any],
        iterable: Iterable[Any],
        chunksize: int,
        form: Form,
        is_ordered: bool,
    ) -> ImapIterator:
        lane = self._running()
        check_count("chunksize", chunksize, "")
        is_here = lane.is_here
        feed = feed_of(iterable, chunksize, 2 * self.size, None if is_here else lane.stream.wake)
        most = chunksize if is_here else most_untaken(chunksize, self.size)
        batch = ImapBatch(lane, feed, form, self._on_error, is_ordered, most, self)
        iterator = ImapIterator(batch)
        self._send(batch, func)
        return iterator


def _tell(batch: ToldBatch, callback: Callback) -> None:
    assert callback is not None
    values: list[Any] | None = []
    while values is not None:
        for value in values:
            callback(value)
        try:
            values = batch.arrived.get(timeout=TURN_S)
        except queue.Empty:
            values = []


def _not_running() -> ValueError:
    return ValueError("Pool not running")


def _terminated() -> StoppedError:
    return StoppedError("the pool was terminated before this call was done; call it again")
