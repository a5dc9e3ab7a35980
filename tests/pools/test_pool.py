"""What our pools do beyond `multiprocessing`, and where it hangs."""

from __future__ import annotations

import gc
import itertools
import logging
import signal
import threading

import pytest
from streaming import LIMIT_S, StreamSession

import acme_mpi
from acme_mpi.errors import InputError, StoppedError, WorkerDied
from acme_mpi.pools import imap as imap_module
from acme_mpi.pools import pool as pool_module
from acme_mpi.pools.batch import note
from acme_mpi.pools.batches import split
from acme_mpi.session.stream import Raised

pytestmark = pytest.mark.once


def reciprocal(x):
    return 1 / x


def double(x):
    return 2 * x


@pytest.fixture
def pool(stream):
    with acme_mpi.Pool() as pool:
        yield pool
    pool.join()
    assert not stream.setups


@pytest.fixture
def gate():
    """Return an event for which tasks wait; it is set at the end in any case."""
    gate = threading.Event()
    yield gate
    gate.set()


def test_a_failed_slot_can_be_none(stream):
    with acme_mpi.Pool(on_error="none") as pool:
        assert pool.map(reciprocal, [0, 1, 0, 2], 1) == [None, 1, None, 0.5]
        assert [index for index, _ in pool.failures] == [0, 2]
        assert all(isinstance(error, ZeroDivisionError) for _, error in pool.failures)
        assert list(pool.imap(reciprocal, [1, 0])) == [1, None]
        assert [index for index, _ in pool.failures] == [1]
        assert pool.apply(reciprocal, (0,)) is None
        assert [index for index, _ in pool.failures] == [0]
        assert pool.map(reciprocal, [1]) == [1]
        assert pool.failures == []


def test_a_failed_slot_can_have_the_error(stream):
    with acme_mpi.Pool(on_error="return") as pool:
        one, error = pool.map(reciprocal, [1, 0])
        assert one == 1
        assert isinstance(error, ZeroDivisionError)
        assert pool.failures == [(1, error)]
        assert isinstance(pool.apply(reciprocal, (0,)), ZeroDivisionError)


def test_other_words_for_errors_are_refused(stream):
    with pytest.raises(InputError, match="'raise', 'none', 'return', not 'ignore'"):
        acme_mpi.Pool(on_error="ignore")


def test_an_error_says_which_call_it_was(pool):
    with pytest.raises(ZeroDivisionError) as caught:
        pool.map(reciprocal, [1, 2, 0, 4])
    assert caught.value.__notes__ == ["task 2 of the call of a pool"]


@pytest.mark.parametrize("notes", [[1], 7])
def test_notes_that_are_no_texts_are_left_alone(notes):
    error = ValueError("its own")
    error.__notes__ = notes

    note(Raised(error), 2)

    assert error.__notes__ == notes


@pytest.mark.parametrize("chunksize", [0, -3])
def test_map_refuses_chunks_of_nothing(pool, chunksize):
    with pytest.raises(ValueError, match=f"whole number >= 1 or None, not {chunksize}"):
        pool.map(double, [1], chunksize)


def test_the_other_calls_of_a_chunk_keep_their_values(stream):
    with acme_mpi.Pool(on_error="none") as pool:
        assert pool.map(reciprocal, [1, 0, 2], 3) == [1, None, 0.5]


def test_imap_goes_on_behind_an_error_in_a_chunk(pool):
    values = pool.imap(reciprocal, [1, 0, 2], 3)

    assert next(values) == 1
    with pytest.raises(ZeroDivisionError):
        next(values)
    assert list(values) == [0.5]


@pytest.mark.parametrize("method", ["imap", "imap_unordered"])
def test_a_stop_iteration_of_a_task_is_no_end_of_imap(pool, method):
    values = getattr(pool, method)(next, [iter([])])

    with pytest.raises(RuntimeError, match="has raised StopIteration"):
        list(values)


def test_a_time_out_is_both_kinds_of_error(pool, gate):
    result = pool.apply_async(gate.wait, (LIMIT_S,))

    with pytest.raises(TimeoutError):
        result.get(timeout=0)


def test_the_caller_is_told_each_value(pool):
    told = []

    assert pool.map(double, range(10), callback=told.append) == list(range(0, 20, 2))
    assert sorted(told) == list(range(0, 20, 2))
    assert pool.map(double, [], callback=told.append) == []


def test_the_caller_is_told_in_its_own_thread(pool):
    threads = []
    pool.map(double, range(3), callback=lambda _: threads.append(threading.current_thread()))

    assert set(threads) == {threading.current_thread()}


def test_batched_map_gives_each_rank_a_batch(pool):
    assert pool.batched_map(repr, "abcde") == [
        "((0, 3), ['a', 'b', 'c'])",
        "((3, 5), ['d', 'e'])",
    ]
    assert split([1], 3) == [((0, 1), [1])]
    assert pool.batched_map(repr, []) == []


def test_terminate_ends_what_is_pending(stream, gate):
    is_begun = threading.Event()

    def wait(_):
        is_begun.set()
        gate.wait(LIMIT_S)

    pool, errors = acme_mpi.Pool(), []
    results = [
        pool.map_async(wait, range(9), 1, error_callback=errors.append),
        pool.apply_async(wait, (1,)),
    ]
    values = pool.imap(wait, [1, 2])
    is_begun.wait(LIMIT_S)
    pool.terminate()

    assert all(result.ready() for result in results)
    for result in results:
        with pytest.raises(StoppedError, match="the pool was terminated"):
            result.get()
    with pytest.raises(StoppedError):
        next(values)
    assert list(values) == []
    pool.join()
    assert [type(error) for error in errors] == [StoppedError]
    assert not gate.is_set()
    assert not stream.setups


@pytest.fixture
def interrupt():
    """Return a function that interrupts the main thread from another one."""
    is_heard = threading.Event()
    main = threading.main_thread().ident

    def hear(*_):
        is_heard.set()
        raise KeyboardInterrupt

    def interrupt():
        is_heard.clear()
        signal.pthread_kill(main, signal.SIGINT)
        # A signal just before a wait begins is heard only with the next one.
        while not is_heard.wait(0.05):
            signal.pthread_kill(main, signal.SIGINT)

    before = signal.signal(signal.SIGINT, hear)
    yield interrupt
    signal.signal(signal.SIGINT, before)


@pytest.mark.parametrize("name", ["map", "apply", "map with a callback"])
def test_an_interrupt_ends_the_call_alone(pool, gate, interrupt, name):
    def f(_):
        interrupt()
        gate.wait(LIMIT_S)

    calls = {
        "map": lambda: pool.map(f, [1]),
        "apply": lambda: pool.apply(f, (1,)),
        "map with a callback": lambda: pool.map(f, [1], callback=print),
    }
    with pytest.raises(KeyboardInterrupt):
        calls[name]()
    assert pool.map(double, [1, 2, 3]) == [2, 4, 6]
    assert not gate.is_set()


@pytest.mark.parametrize("name", ["map", "map_async", "imap"])
def test_an_interrupt_before_the_wait_ends_what_is_out(pool, stream, gate, monkeypatch, name):
    is_called, finished = threading.Event(), []

    def f(x):
        is_called.set()
        gate.wait(LIMIT_S)
        finished.append(x)

    def add_and_hear(source):
        add(source)
        assert is_called.wait(LIMIT_S)
        raise KeyboardInterrupt

    add = stream.add
    monkeypatch.setattr(stream, "add", add_and_hear)
    with pytest.raises(KeyboardInterrupt):
        getattr(pool, name)(f, [1])
    pool.close()
    pool.join()
    assert finished == []


def test_a_callback_of_map_that_raises_ends_it(pool, gate):
    def wait_but_for_one(x):
        return x if x == 1 else gate.wait(LIMIT_S)

    with pytest.raises(ZeroDivisionError):
        pool.map(wait_but_for_one, [0, 1], 1, callback=lambda x: x / 0)
    assert pool.map(double, [1, 2]) == [2, 4]


def test_a_callback_that_raises_is_logged(pool, caplog):
    def fail(value):
        raise RuntimeError("in a callback")

    with caplog.at_level(logging.ERROR, "acme_mpi"):
        assert pool.apply_async(double, (1,), callback=fail).get(LIMIT_S) == 2
        told = []
        pool.apply_async(double, (2,), callback=told.append).get(LIMIT_S)

    assert told == [4]
    assert "in a callback" in caplog.text


def test_a_callback_may_use_the_pool(pool):
    got = []
    pool.apply_async(double, (1,), callback=lambda x: got.append(pool.apply(double, (x,)))).get()

    assert got == [4]


def test_an_initializer_that_raises_ends_the_pool(stream, gate):
    def fail():
        gate.wait(LIMIT_S)
        raise KeyError("initializer")

    with acme_mpi.Pool(initializer=fail) as pool:
        results = [pool.map_async(double, range(30), 1), pool.apply_async(double, (1,))]
        values = pool.imap(double, range(3))
        gate.set()
        for result in results:
            with pytest.raises(KeyError, match="initializer"):
                result.get(LIMIT_S)
        with pytest.raises(KeyError, match="initializer"):
            next(values)
        with pytest.raises(KeyError, match="initializer"):
            pool.map(double, [1])
    pool.join()


def test_an_initializer_is_called_with_its_arguments(stream):
    called = []
    with acme_mpi.Pool(initializer=lambda *args: called.append(args), initargs=[1, 2]) as pool:
        pool.map(double, range(4), 1)
    assert set(called) == {(1, 2)}


def test_what_is_given_reaches_the_stream(stream):
    rules = acme_mpi.Rules(retries=2)
    with acme_mpi.Pool(1, maxtasksperchild=3, context=object(), rules=rules) as pool:
        (setup,) = stream.setups.values()
        assert (setup.n_ranks, setup.max_chunks, setup.rules) == (1, 3, rules)
        assert pool.size == pool._processes == 1
    with acme_mpi.Pool(5) as pool:
        assert pool.size == stream.size
        assert list(stream.setups.values())[-1].n_ranks is None


@pytest.mark.parametrize("method", ["imap", "imap_unordered"])
def test_imap_draws_its_input_as_values_are_taken(pool, monkeypatch, method):
    monkeypatch.setattr(imap_module, "MOST_UNTAKEN", 10)
    monkeypatch.setattr(imap_module, "MOST_CHUNKS_UNTAKEN", 10)
    drawn = itertools.count()

    def items():
        while True:
            next(drawn)
            yield 1

    values = getattr(pool, method)(double, items())
    for _ in range(200):
        assert next(values) == 2
    pool.terminate()
    pool.join()
    ahead = 2 * pool.size + 1
    assert next(drawn) <= 200 + 10 + ahead


def test_join_needs_nobody_who_takes_values(stream, monkeypatch):
    monkeypatch.setattr(imap_module, "MOST_UNTAKEN", 2)
    monkeypatch.setattr(imap_module, "MOST_CHUNKS_UNTAKEN", 2)
    called = []
    pool = acme_mpi.Pool()
    values = pool.imap(called.append, range(50))
    pool.close()
    pool.join()

    assert len(called) == len(list(values)) == 50


def test_all_calls_of_an_iterator_that_was_dropped_are_made(stream, monkeypatch):
    monkeypatch.setattr(imap_module, "MOST_UNTAKEN", 2)
    monkeypatch.setattr(imap_module, "MOST_CHUNKS_UNTAKEN", 2)
    called = []
    pool = acme_mpi.Pool()
    pool.imap_unordered(called.append, range(50))
    pool.close()
    pool.join()

    assert sorted(called) == list(range(50))


def test_an_input_may_wait_for_other_calls_of_the_pool(pool):
    def items():
        for i in range(5):
            yield pool.apply(double, (i,))

    assert list(pool.imap(double, items())) == [0, 4, 8, 12, 16]


def test_star_methods_unpack_in_order_and_as_they_come(pool):
    items = [(2, i) for i in range(5)]

    assert list(pool.istarmap(pow, items)) == [1, 2, 4, 8, 16]
    assert sorted(pool.istarmap_unordered(pow, items, 2)) == [1, 2, 4, 8, 16]


def test_a_function_of_a_module_is_pickled_once(pool, stream):
    for _ in range(3):
        pool.apply(double, (1,))
        pool.apply(lambda: 0)

    assert stream.functions.count("double") == 1
    assert stream.functions.count("<lambda>") == 3


def test_a_pool_lives_until_its_results_are_there(stream, gate):
    def wait():
        result = acme_mpi.Pool().apply_async(gate.wait, (LIMIT_S,))
        gc.collect()
        gate.set()
        return result.get(LIMIT_S)

    with pytest.warns(ResourceWarning):
        assert wait()


def test_a_rank_that_has_served_is_told_what_to_do(monkeypatch):
    session = StreamSession(None)
    monkeypatch.setattr(pool_module, "current", lambda: session)
    with acme_mpi.Pool() as pool:
        assert not pool.is_master()
        assert pool.is_worker()
        assert pool.wait() is None
        assert pool.size == 0
        for name in ("map", "map_async", "imap", "istarmap", "starmap", "batched_map"):
            with pytest.raises(InputError, match=r"if pool\.is_master\(\):"):
                getattr(pool, name)(double, [1])
        for name in ("apply", "apply_async"):
            with pytest.raises(InputError, match=r"pool\.wait\(\); sys\.exit\(0\)"):
                getattr(pool, name)(double, (1,))
    pool.close()
    pool.join()


def test_a_worker_that_dies_costs_its_own_call(pool, stream, gate):
    is_begun = threading.Event()

    def wait():
        is_begun.set()
        gate.wait(LIMIT_S)

    result, other = pool.apply_async(wait), pool.map_async(double, range(20), 1)
    is_begun.wait(LIMIT_S)
    stream.kill(list(stream._out))
    with pytest.raises(WorkerDied):
        result.get(LIMIT_S)
    other.wait(LIMIT_S)
    assert pool.map(double, [1]) == [2]
