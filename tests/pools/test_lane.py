"""A source of chunks holds nothing that has gone through it."""

from __future__ import annotations

import gc
import weakref
from concurrent.futures import ThreadPoolExecutor

import pytest
from running import LIMIT_S
from streaming import StreamSession

import acme_mpi
from acme_mpi.errors import LaunchError
from acme_mpi.pools import executor as executor_module
from acme_mpi.pools import pool as pool_module

pytestmark = pytest.mark.once


class Thing:
    pass


class HeldStream:
    """Keeps the sources that it is given, for a test that draws them."""

    size = 1
    is_followed = False

    def __init__(self):
        self.sources, self.ended, self.refuses = [], [], False

    def begin(self, setup):
        return 7

    def end(self, number):
        self.ended.append(number)

    def function(self, func):
        return func

    def add(self, source):
        if self.refuses:
            raise LaunchError("no rank is there")
        self.sources.append(source)

    def wake(self, source=None):
        pass

    def kill(self, chunks):
        pass


@pytest.fixture
def held(monkeypatch):
    stream = HeldStream()
    for module in (pool_module, executor_module):
        monkeypatch.setattr(module, "current", lambda: StreamSession(stream))
    return stream


CALLS = {
    "map": lambda pool, thing: pool.map_async(id, [thing, None], 1),
    "apply": lambda pool, thing: pool.apply_async(id, (thing,)),
    "imap": lambda pool, thing: pool.imap(id, [thing, None]),
}


@pytest.mark.parametrize("name", CALLS)
def test_a_source_holds_no_argument_that_was_sent(held, name):
    with acme_mpi.Pool() as pool:
        thing = Thing()
        kept = weakref.ref(thing)
        result = CALLS[name](pool, thing)
        del thing
        chunk = next(held.sources[0])
        assert chunk.begin()
        chunk.arguments = None

        assert kept() is None
        del result, chunk


def test_a_source_holds_no_value_of_a_call(held):
    with acme_mpi.Pool() as pool, acme_mpi.Executor() as executor:
        results = [pool.apply_async(id, (1,)), executor.submit(id, 1)]
        values = [Thing(), Thing()]
        kept = [weakref.ref(value) for value in values]
        for source in held.sources:
            chunk = next(source)
            assert chunk.begin()
            chunk.receive(0, [values.pop()])
        del chunk, results
        gc.collect()

        assert [ref() for ref in kept] == [None, None]
        for source in held.sources:
            assert next(source) is None
        executor.shutdown(wait=False)
        assert [list(source) for source in held.sources[1:]] == [[]]
    assert 7 in held.ended


def test_who_submits_has_the_lock_at_most_times(held):
    with acme_mpi.Executor() as executor:
        futures = [executor.submit(id, k) for k in range(3)]
        (source,) = held.sources
        chunks = [next(source)]
        with ThreadPoolExecutor() as thread, executor._lane.lock:
            chunks += thread.submit(lambda: [next(source), next(source)]).result(LIMIT_S)
        assert [chunk.future for chunk in chunks] == futures
        assert all(chunk.begin() for chunk in chunks)
        for chunk in chunks:
            chunk.receive(0, [None])
        executor.shutdown(wait=False)
        assert list(source) == []


def test_a_stream_that_refuses_a_source_fails_the_call(held):
    held.refuses = True
    pool = acme_mpi.Pool()
    with pytest.raises(LaunchError, match="no rank is there"):
        pool.map(id, [1])
    with pytest.raises(LaunchError, match="no rank is there"):
        pool.apply(id, (1,))
    pool.terminate()
    pool.join()


def test_a_stream_that_drops_a_source_fails_its_calls(held):
    pool = acme_mpi.Pool()
    results = [pool.map_async(id, [1, 2], 1), pool.apply_async(id, (1,))]
    for source in held.sources:
        chunk = next(source)
        source.close()
        chunk.receive(0, [1])

    with pytest.raises(LaunchError, match="have gone"):
        results[0].get(0)
    assert results[1].ready()
    pool.close()
    pool.join()


def test_what_a_dropped_source_has_drawn_is_not_out(held):
    executor = acme_mpi.Executor()
    futures = [executor.submit(id, k) for k in range(3)]
    (source,) = held.sources
    chunk = next(source)
    chunk.receive(0, [None])

    source.close()
    executor.shutdown(wait=False)

    assert [type(future.exception()) for future in futures[1:]] == [LaunchError, LaunchError]
    assert held.ended == [7]


def test_a_setup_ends_when_nothing_is_out(held):
    pool = acme_mpi.Pool()
    result = pool.map_async(id, [1, 2], 1)
    first, second = next(held.sources[0]), next(held.sources[0])
    pool.close()
    assert next(held.sources[0], "end") == "end"
    for chunk in (second, first):
        assert not held.ended
        assert chunk.begin()
        chunk.receive(0, [1])

    assert held.ended
    assert result.get(0) == [1, 1]
    pool.join()
