"""What `multiprocessing.Pool` promises holds for both it and ours."""

from __future__ import annotations

import gc
import multiprocessing
import pickle
import threading
import warnings
import weakref
from multiprocessing.pool import RemoteTraceback, ThreadPool

import pytest
from streaming import LIMIT_S, Unpicklable

import acme_mpi

pytestmark = pytest.mark.once


def double(x):
    return 2 * x


def reciprocal(x):
    return 1 / x


def join(*args, **kwargs):
    return args, kwargs


class Thing:
    pass


def make_processes(**given):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # of 3.12, a fork beside threads
        return multiprocessing.get_context("fork").Pool(2, **given)


MAKERS = {"processes": make_processes, "threads": lambda: ThreadPool(2), "ours": acme_mpi.Pool}


@pytest.fixture(params=MAKERS)
def make(request, stream):
    made = []

    def make():
        made.append(MAKERS[request.param]())
        return made[-1]

    yield make
    for pool in made:
        pool.terminate()
        pool.join()


@pytest.fixture(params=["threads", "ours"])
def shared(request, stream):
    """Return a pool whose functions see the memory of the test."""
    with MAKERS[request.param]() as pool:
        yield pool
    pool.join()


METHODS = {
    "map": lambda pool: pool.map(double, range(9)),
    "map_async": lambda pool: pool.map_async(double, range(9)).get(LIMIT_S),
    "imap": lambda pool: list(pool.imap(double, range(9))),
    "imap in chunks": lambda pool: list(pool.imap(double, range(9), 4)),
    "imap of a generator": lambda pool: list(pool.imap(double, (i for i in range(9)))),
    "imap_unordered": lambda pool: sorted(pool.imap_unordered(double, range(9), 2)),
    "starmap": lambda pool: pool.starmap(double, zip(range(9))),
    "starmap_async": lambda pool: pool.starmap_async(double, [(i,) for i in range(9)]).get(),
    "apply": lambda pool: [pool.apply(double, (i,)) for i in range(9)],
    "apply_async": lambda pool: [pool.apply_async(double, [i]).get(LIMIT_S) for i in range(9)],
}


def test_methods_return_values_in_order(make):
    pool = make()
    for name, call in METHODS.items():
        assert call(pool) == list(range(0, 18, 2)), name


def test_nothing_makes_no_calls(make):
    pool = make()

    assert pool.map(double, []) == pool.starmap(double, []) == list(pool.imap(double, [])) == []
    result = pool.map_async(double, [])
    assert result.get(LIMIT_S) == []
    assert result.successful()


def test_positional_and_keyword_arguments_arrive(make):
    assert make().apply(join, (1, 2), {"c": 3}) == ((1, 2), {"c": 3})


@pytest.mark.parametrize("n", [1, 8, 9, 17, 100])
def test_map_has_chunks_like_those_of_multiprocessing(stream, n):
    starts = []
    with acme_mpi.Pool() as pool:
        add = stream.add
        stream.add = lambda source: add(noted(source, starts))
        pool.map(double, range(n))
    with ThreadPool(2) as threads:
        chunksize = threads.map_async(double, range(n))._chunksize

    assert starts == list(range(0, n, chunksize))


def noted(source, starts):
    for chunk in source:
        starts.append(chunk._start)
        yield chunk


def test_errors_have_the_remote_traceback_as_cause(stream):
    for pool in (make_processes(), acme_mpi.Pool()):
        with pool, pytest.raises(ZeroDivisionError) as caught:
            pool.map(reciprocal, [1, 0])
        pool.join()
        assert isinstance(caught.value.__cause__, RemoteTraceback)
        assert "in reciprocal" in caught.value.__cause__.tb


def test_map_makes_all_calls_whichever_raises(shared):
    called = []

    def f(x):
        called.append(x)
        raise KeyError(x)

    with pytest.raises(KeyError):
        shared.map(f, range(8), 1)
    assert sorted(called) == list(range(8))


def test_imap_goes_on_behind_an_error(make):
    values = make().imap(reciprocal, [1, 0, 2])

    assert next(values) == 1
    with pytest.raises(ZeroDivisionError):
        next(values)
    assert list(values) == [0.5]


def test_an_error_of_the_input_comes_in_its_place(make):
    def items():
        yield 1
        yield 2
        raise KeyError("input")

    def outcomes(values):
        while True:
            try:
                yield next(values)
            except StopIteration:
                return
            except KeyError as error:
                yield str(error)

    assert [*outcomes(make().imap(double, items()))] == [2, 4, "'input'"]
    # Of what comes as it comes, the error may be the first.
    assert {*outcomes(make().imap_unordered(double, items()))} == {2, 4, "'input'"}


def test_map_raises_an_error_of_the_input_there(make):
    def items():
        yield 1
        raise KeyError("input")

    with pytest.raises(KeyError, match="input"):
        make().map_async(double, items())


def test_a_result_says_when_it_is_there(shared):
    gate = threading.Event()
    result = shared.apply_async(gate.wait, (LIMIT_S,))

    assert not result.ready()
    with pytest.raises(ValueError, match="not ready"):
        result.successful()
    with pytest.raises(multiprocessing.TimeoutError):
        result.get(0)
    with pytest.raises(multiprocessing.TimeoutError):
        shared.imap(gate.wait, [LIMIT_S]).next(0)
    gate.set()
    result.wait(LIMIT_S)
    assert result.ready()
    assert result.successful()
    assert result.get() is result.get(0) is True


def test_a_failed_result_is_not_successful(make):
    result = make().apply_async(reciprocal, (0,))
    result.wait(LIMIT_S)

    assert not result.successful()
    for _ in range(2):
        with pytest.raises(ZeroDivisionError):
            result.get()


def test_callbacks_are_told_once_before_the_result_is_ready(make):
    told, errors = [], []
    pool = make()
    given = {"callback": told.append, "error_callback": errors.append}

    pool.map_async(double, range(5), 2, **given).get(LIMIT_S)
    assert told == [[0, 2, 4, 6, 8]]
    pool.apply_async(double, (3,), **given).get(LIMIT_S)
    assert told[1:] == [6]
    assert errors == []
    with pytest.raises(ZeroDivisionError):
        pool.starmap_async(reciprocal, [(0,)], **given).get(LIMIT_S)
    assert [type(error) for error in errors] == [ZeroDivisionError]
    assert len(told) == 2


SUBMISSIONS = {
    "map": ([1],),
    "map_async": ([1],),
    "imap": ([1],),
    "imap_unordered": ([1],),
    "starmap": ([(1,)],),
    "starmap_async": ([(1,)],),
    "apply": ((1,),),
    "apply_async": ((1,),),
}


@pytest.mark.parametrize("ending", ["close", "terminate"])
def test_a_pool_that_has_ended_takes_no_calls(make, ending):
    pool = make()
    getattr(pool, ending)()

    for name, args in SUBMISSIONS.items():
        with pytest.raises(ValueError, match="Pool not running"):
            getattr(pool, name)(double, *args)
    with pytest.raises(ValueError, match="Pool not running"):
        pool.__enter__()


def test_only_a_closed_pool_is_joined(make):
    with pytest.raises(ValueError, match="Pool is still running"):
        make().join()


def test_a_closed_pool_finishes_what_it_has_taken(make):
    pool = make()
    result, values = pool.map_async(double, range(50), 1), pool.imap(double, range(50))
    pool.close()
    pool.join()

    assert result.ready()
    assert result.get() == list(values) == list(range(0, 100, 2))


def test_endings_may_come_twice(make):
    pool = make()
    for _ in range(2):
        pool.close()
        pool.join()
        pool.terminate()
        pool.join()


def test_leaving_the_context_terminates(make):
    with make() as pool:
        assert pool.map(double, [1]) == [2]
    assert "TERMINATE" in repr(pool)


def test_the_state_is_shown(make):
    pool = make()
    assert "state=RUN pool_size=2" in repr(pool)
    pool.close()
    assert "state=CLOSE" in repr(pool)


def test_a_pool_cannot_be_pickled(make):
    with pytest.raises(NotImplementedError, match="cannot be passed between processes or pickled"):
        pickle.dumps(make())


def test_a_pool_that_was_not_closed_is_warned_of(stream):
    def drop():
        acme_mpi.Pool()
        gc.collect()

    with pytest.warns(ResourceWarning, match="unclosed running"):
        drop()
    assert not stream.setups


def test_arguments_and_values_are_dropped_at_once(shared):
    def give(thing):
        return Thing()

    items = [Thing() for _ in range(6)]
    kept = [weakref.ref(item) for item in items]
    done = [shared.apply(give, (items[0],)), *shared.map(give, items), *shared.imap(give, items)]
    kept += map(weakref.ref, done)
    del items, done
    shared.apply(double, (0,))  # threads let go of an item when they take the next one
    shared.map(double, range(4), 1)
    gc.collect()

    assert [ref for ref in kept if ref() is not None] == []


BAD = {
    "processes": (0, ValueError),
    "maxtasksperchild": (0, ValueError),
    "initializer": ("text", TypeError),
}


@pytest.mark.parametrize("name", BAD)
def test_wrong_values_are_refused(stream, name):
    value, error = BAD[name]
    for make in (multiprocessing.Pool, acme_mpi.Pool):
        with pytest.raises(error):
            make(**{name: value})
    assert not stream.setups


@pytest.mark.parametrize("method", ["imap", "imap_unordered"])
@pytest.mark.parametrize("chunksize", [0, -1])
def test_imap_refuses_chunks_of_nothing(make, method, chunksize):
    with pytest.raises(ValueError, match="1"):
        getattr(make(), method)(double, [1], chunksize)


def test_what_cannot_be_pickled_costs_its_own_call_alone(stream):
    cases = [(make_processes(), lambda x: x), (acme_mpi.Pool(), Unpicklable())]
    for pool, thing in cases:
        with pool:
            function, argument = pool.map_async(thing, [1, 2]), pool.apply_async(double, (thing,))
            for result in (function, argument, pool.apply_async(thing, (1,))):
                with pytest.raises((pickle.PicklingError, AttributeError)):
                    result.get(LIMIT_S)
            assert pool.map(double, [1]) == [2]
        pool.join()
