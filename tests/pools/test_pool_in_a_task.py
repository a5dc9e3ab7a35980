"""A pool that a task makes calls there and then."""

from __future__ import annotations

import itertools
import threading

import pytest

import acme_mpi
from acme_mpi.errors import LoadingError
from acme_mpi.standing import calling, loading

pytestmark = pytest.mark.once

LIMIT_S = 10.0


@pytest.fixture(autouse=True)
def in_task():
    with calling():
        yield


def double(x):
    return 2 * x


def test_calls_are_made_in_the_thread_of_the_caller():
    n_threads = threading.active_count()
    with acme_mpi.Pool() as pool, acme_mpi.Executor() as executor:
        assert pool.size == 1
        assert set(pool.map(lambda _: threading.get_ident(), range(3))) == {threading.get_ident()}
        assert executor.submit(threading.get_ident).result() == threading.get_ident()
        assert list(pool.imap(double, (i for i in range(5)))) == [0, 2, 4, 6, 8]
        assert list(executor.map(double, range(5))) == [0, 2, 4, 6, 8]
        assert threading.active_count() == n_threads


def test_a_call_may_use_the_same_pool():
    with acme_mpi.Pool() as pool:
        assert pool.map(lambda x: pool.map(double, range(x)), [1, 2]) == [[0], [0, 2]]
        assert pool.apply(lambda: pool.apply(double, (3,))) == 6


def test_imap_calls_only_as_values_are_taken():
    called = []
    with acme_mpi.Pool() as pool:
        values = pool.imap(called.append, itertools.count())
        next(values)
        next(values)
    assert len(called) <= 3


def test_iterators_may_be_the_input_of_others():
    def chain():
        with calling(), acme_mpi.Pool() as pool, acme_mpi.Executor() as executor:

            def applied():
                for x in range(3):
                    yield pool.apply(double, (x,))

            for items in (range(0, 6, 2), applied()):
                values = executor.map(double, pool.imap(double, items), buffersize=1)
                chained.append(list(pool.imap(double, values)))

    chained = []
    caller = threading.Thread(target=chain, daemon=True)
    caller.start()
    caller.join(LIMIT_S)

    assert chained == [[0, 16, 32]] * 2


@pytest.mark.parametrize("error", [SystemExit, KeyboardInterrupt])
def test_what_ends_a_process_ends_the_task(error):
    def leave(x):
        raise error

    with acme_mpi.Pool() as pool:
        with pytest.raises(error):
            pool.map(leave, [1, 2])
        with pytest.raises(error):
            pool.apply(leave, (1,))
        assert pool.map(double, [1]) == [2]
        assert pool.apply(double, (1,)) == 2
    pool.join()


def test_an_error_fails_its_call_alone():
    with acme_mpi.Pool(on_error="none") as pool:
        assert pool.map(lambda x: 1 / x, [0, 1]) == [None, 1]


def test_calls_are_repeated():
    left = [2]

    def fail_twice(x):
        left[0] -= 1
        return 1 / (left[0] < 0)

    with acme_mpi.Pool(rules=acme_mpi.Rules(retries=2)) as pool:
        assert pool.map(fail_twice, [0]) == [1]


def test_an_initializer_is_called_once_and_may_fail():
    called = []
    with acme_mpi.Pool(initializer=called.append, initargs=(1,)) as pool:
        pool.map(double, range(5), 1)
    assert called == [1]
    with acme_mpi.Pool(initializer=double) as pool:
        for _ in range(2):
            with pytest.raises(TypeError, match="missing 1 required"):
                pool.map(double, range(5), 1)


def test_a_pool_is_refused_while_user_code_is_loaded():
    for make in (acme_mpi.Pool, acme_mpi.Executor):
        with loading(), pytest.raises(LoadingError):
            make()
