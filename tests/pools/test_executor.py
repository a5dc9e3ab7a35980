"""What `concurrent.futures` promises holds for its executors and for ours."""

from __future__ import annotations

import asyncio
import itertools
import multiprocessing
import os
import pickle
import re
import subprocess
import sys
import threading
import warnings
import weakref
from concurrent import futures
from pathlib import Path

import pytest
from streaming import LIMIT_S, StreamSession, Unpicklable

import acme_mpi
from acme_mpi.errors import InputError, WorkerDied
from acme_mpi.pools import executor as executor_module
from acme_mpi.pools.future import FutureChunk, TaskFuture

pytestmark = pytest.mark.once


def double(x):
    return 2 * x


def reciprocal(x):
    return 1 / x


def fail():
    raise KeyError("initializer")


def make_processes(max_workers=2, **given):
    context = multiprocessing.get_context("fork")
    return futures.ProcessPoolExecutor(max_workers, context, **given)


MAKERS = {
    "processes": make_processes,
    "threads": futures.ThreadPoolExecutor,
    "ours": acme_mpi.Executor,
}


@pytest.fixture(params=MAKERS)
def executor(request, stream):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # of 3.12, a fork beside threads
        with MAKERS[request.param](2) as executor:
            yield executor


@pytest.fixture(params=["threads", "ours"])
def shared(request, stream):
    """Return an executor whose functions see the memory of the test."""
    with MAKERS[request.param](2) as executor:
        yield executor


@pytest.fixture
def ours(stream):
    with acme_mpi.Executor() as executor:
        yield executor
    assert not stream.setups


@pytest.fixture
def gate():
    """Return an event for which tasks wait; it is set at the end in any case."""
    gate = threading.Event()
    yield gate
    gate.set()


def occupy(executor, gate, n=2):
    """Let `n` tasks run until the gate opens, and return their futures."""
    begun = [threading.Event() for _ in range(n)]

    def wait(is_begun):
        is_begun.set()
        return gate.wait(LIMIT_S)

    running = [executor.submit(wait, is_begun) for is_begun in begun]
    assert all(is_begun.wait(LIMIT_S) for is_begun in begun)
    return running


def test_submit_returns_a_future_of_the_standard_library(executor):
    future = executor.submit(pow, 2, exp=5)

    assert isinstance(future, futures.Future)
    assert future.result(LIMIT_S) == 32
    assert future.exception() is None
    assert future.done()
    assert not future.cancel()


def test_an_error_comes_from_the_future(executor):
    future = executor.submit(reciprocal, 0)

    assert isinstance(future.exception(LIMIT_S), ZeroDivisionError)
    with pytest.raises(ZeroDivisionError):
        future.result()


def test_map_zips_its_iterables_in_order(executor):
    assert list(executor.map(pow, [2, 3, 4], (i for i in range(9)))) == [1, 3, 16]
    assert list(executor.map(double, range(20), chunksize=6)) == list(range(0, 40, 2))
    assert list(executor.map(double, [])) == []


def test_an_error_ends_the_iterator_of_map(executor):
    values = executor.map(reciprocal, [1, 0, 2])

    assert next(values) == 1
    with pytest.raises(ZeroDivisionError):
        next(values)
    assert list(values) == []


def test_a_stop_iteration_of_a_task_is_no_end_of_map(executor):
    values = executor.map(next, map(iter, [[1], [], [3]]))

    assert next(values) == 1
    with pytest.raises(RuntimeError, match="raised StopIteration") as caught:
        next(values)
    assert type(caught.value.__cause__) is StopIteration


def test_map_has_a_time_out(shared, gate):
    with pytest.raises(TimeoutError):
        next(shared.map(gate.wait, [LIMIT_S], timeout=0))
    gate.set()


def test_map_begins_before_its_values_are_asked_for(shared):
    is_begun = threading.Event()
    values = shared.map(lambda _: is_begun.set(), [1])

    assert is_begun.wait(LIMIT_S)
    assert list(values) == [None]


def test_futures_are_waited_for_together(executor):
    submitted = {executor.submit(double, i): i for i in range(10)}

    assert {each.result() - 2 * submitted[each] for each in futures.as_completed(submitted)} == {0}
    assert futures.wait(submitted, LIMIT_S).not_done == set()


def test_asyncio_awaits_futures(executor):
    async def main():
        return await asyncio.gather(
            asyncio.wrap_future(executor.submit(double, 1)),
            asyncio.get_running_loop().run_in_executor(executor, double, 2),
        )

    assert asyncio.run(main()) == [2, 4]


def test_what_does_not_run_is_cancelled(shared, gate):
    running = occupy(shared, gate)
    waiting = shared.submit(double, 1)

    assert waiting.cancel()
    assert waiting.cancelled()
    assert not running[0].cancel()
    with pytest.raises(futures.CancelledError):
        waiting.result(0)
    gate.set()
    assert [future.result(LIMIT_S) for future in running] == [True, True]
    assert shared.submit(double, 1).result(LIMIT_S) == 2


def test_those_who_wait_hear_of_what_was_cancelled(shared, gate):
    occupy(shared, gate)
    waiting = shared.submit(double, 1)
    waiting.cancel()
    gate.set()

    assert list(futures.as_completed([waiting], LIMIT_S)) == [waiting]


def test_done_callbacks_are_called(shared, gate):
    told, is_told = [], threading.Event()
    (future, _) = occupy(shared, gate)
    future.add_done_callback(told.append)
    future.add_done_callback(lambda _: is_told.set())
    gate.set()

    assert is_told.wait(LIMIT_S)
    assert told == [future]
    future.add_done_callback(told.append)
    assert told == [future, future]


def test_done_callbacks_are_called_where_no_thread_can_be_started(ours, gate, monkeypatch):
    """As at the end of Python 3.12."""
    told = threading.Event()
    (future, _) = occupy(ours, gate)
    future.add_done_callback(lambda _: told.set())
    start = threading.Thread.start

    def refuse(thread: threading.Thread) -> None:
        if thread.name == "acme_mpi callbacks":
            raise RuntimeError("can't create new thread at interpreter shutdown")
        start(thread)

    monkeypatch.setattr(threading.Thread, "start", refuse)
    gate.set()

    assert told.wait(LIMIT_S)
    ours.shutdown()


def test_a_cancelled_future_calls_back(shared, gate):
    told = threading.Event()
    occupy(shared, gate)
    waiting = shared.submit(double, 1)
    waiting.add_done_callback(lambda _: told.set())
    waiting.cancel()

    assert told.wait(LIMIT_S)


def test_shutdown_finishes_what_was_taken(executor):
    submitted = [executor.submit(double, i) for i in range(20)]
    values = executor.map(double, range(20))
    executor.shutdown()

    assert all(future.done() for future in submitted)
    assert list(values) == list(range(0, 40, 2))
    for call in (executor.submit, executor.map):
        with pytest.raises(RuntimeError, match="cannot schedule new futures after shutdown"):
            call(double, [1])
    executor.shutdown()


def test_shutdown_can_cancel_what_was_not_sent(shared, gate):
    running = occupy(shared, gate)
    waiting = [shared.submit(double, i) for i in range(5)]
    shared.shutdown(wait=False, cancel_futures=True)

    assert all(future.cancelled() for future in waiting)
    gate.set()
    assert [future.result(LIMIT_S) for future in running] == [True, True]


def test_what_was_cancelled_and_drawn_is_cancelled_once(ours):
    """`shutdown(cancel_futures=True)` sees it before the stream has let go of it."""
    future = TaskFuture()
    chunk = FutureChunk(ours._lane, None, ((), {}), future)
    future.cancel()
    assert not chunk.begin()

    chunk.cut(futures.CancelledError())

    assert future.cancelled()


def test_shutdown_without_waiting_returns_at_once(shared, gate):
    running = occupy(shared, gate)
    waiting = shared.submit(double, 1)
    shared.shutdown(wait=False)

    assert not waiting.done()
    gate.set()
    assert waiting.result(LIMIT_S) == 2
    assert running[0].result(LIMIT_S)


@pytest.mark.parametrize("name", ["processes", "ours"])
@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_an_initializer_that_raises_breaks_the_executor(stream, name, caplog):
    with MAKERS[name](2, initializer=fail) as executor:
        with pytest.raises(futures.BrokenExecutor):
            executor.submit(double, 1).result(LIMIT_S)
        with pytest.raises(futures.BrokenExecutor) as caught:
            executor.submit(double, 1)
    if name == "ours":
        assert isinstance(caught.value.__cause__, KeyError)


def test_wrong_values_are_refused(stream):
    for make in (*MAKERS.values(),):
        with pytest.raises(ValueError, match="max_workers"):
            make(0)
        with pytest.raises(TypeError, match="callable"):
            make(1, initializer="text")
    assert not stream.setups


def test_executors_and_futures_are_no_arguments(ours):
    for value, words in ((ours, "one of its own"), (ours.submit(pow, 2, 3), "result()")):
        with pytest.raises(TypeError, match=re.escape(words)):
            pickle.dumps(value)


def test_a_timeout_is_told_as_it_was_given(ours, gate):
    try:
        with pytest.raises(TimeoutError, match=r"within 0.01 s"):
            next(ours.map(gate.wait, [LIMIT_S], timeout=0.01))
    finally:
        gate.set()


def test_what_cannot_be_pickled_costs_its_own_call_alone(ours):
    for future in (ours.submit(Unpicklable()), ours.submit(double, Unpicklable())):
        assert type(future.exception(LIMIT_S)).__name__ == "PicklingError"
    with pytest.raises(Exception, match="cannot pickle"):
        next(ours.map(Unpicklable(), [1]))
    assert ours.submit(double, 1).result(LIMIT_S) == 2


def test_kill_ends_a_running_task(ours, gate):
    future, other = occupy(ours, gate)

    assert future.kill()
    with pytest.raises(WorkerDied):
        future.result(LIMIT_S)
    assert not other.done()
    assert not future.kill()
    assert ours.submit(double, 1).result(LIMIT_S) == 2


def test_kill_cancels_what_does_not_run(ours, gate):
    occupy(ours, gate)
    future = ours.submit(double, 1)

    assert future.kill()
    assert future.cancelled()


def test_a_done_callback_may_wait_for_other_tasks(ours, gate):
    got, is_told = [], threading.Event()

    def submit_more(future):
        got.append(ours.submit(double, 3).result(LIMIT_S))
        is_told.set()

    occupy(ours, gate)[0].add_done_callback(submit_more)
    gate.set()
    assert is_told.wait(LIMIT_S)
    assert got == [6]


def test_starmap_unpacks(ours):
    assert list(ours.starmap(pow, [(2, 3), (3, 2)])) == [8, 9]


def test_values_may_come_in_any_order(ours, gate):
    values = ours.map(lambda x: x or gate.wait(LIMIT_S), [0, 2, 3], unordered=True)

    assert sorted(itertools.islice(values, 2)) == [2, 3]
    gate.set()
    assert list(values) == [True]


def test_a_buffer_limits_what_is_sent(ours):
    called = []
    values = ours.map(called.append, itertools.count(), buffersize=3)

    assert list(itertools.islice(values, 10)) == [None] * 10
    values.close()
    assert len(called) <= 13


def test_shutdown_ends_a_buffered_map(stream):
    with acme_mpi.Executor() as executor:
        values = executor.map(double, itertools.count(), buffersize=2)
        assert next(values) == 0
    with pytest.raises(RuntimeError, match="after shutdown"):
        list(values)


@pytest.mark.parametrize("name", ["chunksize", "buffersize"])
def test_map_refuses_sizes_of_nothing(ours, name):
    with pytest.raises(ValueError, match=f"`{name}` has to be a whole number >= 1"):
        ours.map(double, [1], **{name: 0})


def test_the_number_of_workers_is_known(ours, stream):
    assert ours.num_workers == ours._max_workers == stream.size
    with acme_mpi.Executor(1) as one:
        assert one.num_workers == 1


def test_a_value_is_dropped_with_its_future(ours):
    future = ours.submit(threading.Event)
    kept = weakref.ref(future.result(LIMIT_S))
    del future
    ours.submit(double, 1).result(LIMIT_S)  # what the stream has sent is gone when it sends more
    ours.submit(double, 1).result(LIMIT_S)

    assert kept() is None


def new_event(x):
    return threading.Event()


def test_the_iterator_of_map_holds_no_value_that_was_taken(ours):
    values = ours.map(new_event, range(2))
    kept = weakref.ref(next(values))
    ours.submit(double, 1).result(LIMIT_S)
    ours.submit(double, 1).result(LIMIT_S)

    assert kept() is None
    assert len(list(values)) == 1


def test_an_executor_that_was_dropped_finishes_its_tasks(stream, gate):
    executor = acme_mpi.Executor()
    running = occupy(executor, gate)
    del executor
    gate.set()

    assert [future.result(LIMIT_S) for future in running] == [True, True]


def test_a_rank_that_has_served_is_told_what_to_do(monkeypatch):
    session = StreamSession(None)
    monkeypatch.setattr(executor_module, "current", lambda: session)
    with acme_mpi.Executor() as executor:
        assert not executor.is_master()
        assert executor.wait() is None
        for call in (executor.submit, executor.map, executor.starmap):
            with pytest.raises(InputError, match=r"if executor\.is_master\(\):"):
                call(os.getpid, [])


def test_the_end_of_the_interpreter_waits_for_tasks(ours, gate):
    occupy(ours, gate)
    waiting = ours.submit(double, 1)
    gate.set()
    ours._lane.leave()

    assert waiting.done()


def test_tasks_that_were_submitted_run_before_the_interpreter_ends(tmp_path):
    path = tmp_path / "script.py"
    path.write_text(
        "import sys; sys.path.insert(0, sys.argv[1])\n"
        "import acme_mpi\n"
        "from acme_mpi.pools import executor, pool\n"
        "from streaming import StreamSession, ThreadStream\n"
        "stream = ThreadStream(1)\n"
        "executor.current = pool.current = lambda: StreamSession(stream)\n"
        "pool = acme_mpi.Pool()\n"
        "results = pool.imap(abs, iter(int, 1))\n"
        "executor = acme_mpi.Executor()\n"
        "for i in range(9):\n"
        "    executor.submit(print, i, end='')\n"
    )
    command = [sys.executable, str(path), str(Path(__file__).parents[1])]

    assert subprocess.run(command, capture_output=True, timeout=60).stdout == b"012345678"
