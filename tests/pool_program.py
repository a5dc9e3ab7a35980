"""The program of `test_real_pools`: what pools and executors do, many facts in one start.

    mpiexec -n N python -m acme_mpi pool_program.py REPORT [FACT ...]
    python pool_program.py REPORT [FACT ...]

checks one fact after the other, and writes into the file REPORT what is wrong with each.
"""

from __future__ import annotations

import atexit
import contextlib
import faulthandler
import json
import multiprocessing
import os
import pickle
import resource
import select
import signal
import sys
import tempfile
import threading
import time
import traceback
from collections.abc import Callable, Iterator
from concurrent.futures import as_completed, wait
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from functools import partial
from multiprocessing.pool import (  # type: ignore[attr-defined]
    MaybeEncodingError,
    RemoteTraceback,
)
from pathlib import Path
from typing import Any

import numpy as np

import acme_mpi

LIMIT_S = 30.0
SOON_S = 1.0  # what is killed has ended by then, also on a busy machine
HUNG_S = 60.0
MIB = 2**20


# What tasks do.


def square(x: Any) -> Any:
    return x * x


def power(base: Any, exponent: Any = 2) -> Any:
    return base**exponent


def pid_of(x: Any = None) -> int:
    return os.getpid()


def fail_at_3(x: int) -> int:
    if x == 3:
        raise ValueError(f"bad {x}")
    return x


def rest() -> None:
    while True:
        signal.pause()


class Bell:
    """A pipe with a name: tasks ring, and the script waits for so many rings."""

    def __init__(self) -> None:
        self.path = os.path.join(tempfile.mkdtemp(dir="."), "bell")
        os.mkfifo(self.path)
        self._descriptor = os.open(self.path, os.O_RDWR)

    def hear(self, n: int = 1) -> None:
        for _ in range(n):
            ready, _, _ = select.select([self._descriptor], [], [], LIMIT_S)
            assert ready, "nobody has rung"
            os.read(self._descriptor, 1)


def ring(path: str) -> None:
    descriptor = os.open(path, os.O_WRONLY)
    os.write(descriptor, b"!")
    os.close(descriptor)


def ring_and_rest(path: str) -> None:
    ring(path)
    rest()


def is_runner() -> bool:
    return Path("/proc/self/comm").read_text().strip() == "acme_mpi runner"


class Stuck(Exception):
    def __reduce__(self) -> Any:
        raise TypeError("cannot be pickled")


class TwoWords(Exception):
    def __init__(self, first: str, second: str) -> None:
        super().__init__(f"{first} and {second}")
        self.first = first


class Worded(Exception):
    def __init__(self, text: str, code: int = 0) -> None:
        super().__init__(f"failed: {text}")
        self.code = code


class Keeper(Exception):
    def __init__(self, text: str) -> None:
        super().__init__(text)
        self.lock = threading.Lock()


@dataclass(frozen=True)
class Frozen(Exception):
    number: int

    def __reduce__(self) -> Any:
        return Frozen, (self.number,)


class QuitsWhenPickled:
    def __reduce__(self) -> Any:
        raise SystemExit(3)


class LoadsBadly:
    """Its pickle loads in runners alone, or only elsewhere."""

    def __init__(self, error: type[BaseException], in_runners: bool) -> None:
        self.error, self.in_runners = error, in_runners

    def __reduce__(self) -> Any:
        return make_badly, (self.error, self.in_runners)


def make_badly(error: type[BaseException], in_runners: bool) -> Any:
    if is_runner() != in_runners:
        raise error("not to be had here")
    return LoadsBadly(error, in_runners)


def raise_(error: BaseException) -> None:
    raise error


def raise_stuck(x: int) -> int:
    if x == 1:
        raise Stuck("stuck")
    return x


def raise_two_words(x: int) -> int:
    if x == 1:
        raise TwoWords("salt", "pepper")
    return x


def raise_frozen(x: int) -> int:
    if x == 1:
        raise Frozen(7)
    return x


def lock_at_1(x: int) -> Any:
    return threading.Lock() if x == 1 else x


def quits_at_1(x: int) -> Any:
    return QuitsWhenPickled() if x == 1 else x


@contextlib.contextmanager
def raising(kind: type[BaseException], text: str = "") -> Iterator[list[BaseException]]:
    """Context that has to raise; the list gets the error."""
    caught: list[BaseException] = []
    try:
        yield caught
    except kind as error:
        caught.append(error)
    assert caught, f"no {kind.__name__}"
    assert text in str(caught[0]), repr(caught[0])


@contextlib.contextmanager
def within(seconds: float) -> Iterator[None]:
    begin_s = time.monotonic()
    yield
    took_s = time.monotonic() - begin_s
    assert took_s < seconds, f"{took_s:.2f} s"


def submit(function: Callable[..., Any], *args_and_executor: Any) -> Any:
    *args, executor = args_and_executor
    return executor.submit(function, *args)


def ends_alone(submit_bad: Callable[[Any], Any], kind: type[BaseException], text: str = "") -> None:
    """Check that one of three futures ends with an error."""
    with acme_mpi.Executor() as executor:
        good = [executor.submit(square, x) for x in (2, 3)]
        bad = submit_bad(executor)
        good += [executor.submit(square, x) for x in (4, 5)]
        with raising(kind, text):
            bad.result(LIMIT_S)
        assert [each.result(LIMIT_S) for each in good] == [4, 9, 16, 25]


# Facts: order and values.


def fact_values_come_in_order() -> None:
    items = range(1000)
    expected = [x * x for x in items]
    with acme_mpi.Pool() as pool:
        for chunksize in (None, 1, 7, 5000):
            assert pool.map(square, items, chunksize) == expected
        assert list(pool.imap(square, items)) == expected
        assert list(pool.imap(square, items, 13)) == expected
        assert sorted(pool.imap_unordered(square, items, 3)) == expected
        assert pool.starmap(power, [(2, 3), (3, 2)]) == [8, 9]
        assert list(pool.istarmap(power, [(2, 3), (3, 2)])) == [8, 9]
        assert pool.apply(power, (2,), {"exponent": 5}) == 32
        assert pool.map_async(square, items).get(LIMIT_S) == expected
    with acme_mpi.Executor() as executor:
        assert list(executor.map(square, items)) == expected
        assert list(executor.map(square, items, chunksize=17)) == expected


def fact_a_map_of_nothing_is_empty() -> None:
    with acme_mpi.Pool() as pool:
        assert pool.map_async(square, []).get(3) == []
        assert list(pool.imap(square, [])) == []


def fact_futures_are_the_standard_ones() -> None:
    with acme_mpi.Executor() as executor:
        futures = [executor.submit(square, x) for x in range(300)]
        assert {each.result() for each in as_completed(futures, LIMIT_S)} == {
            x * x for x in range(300)
        }
        done, left = wait([executor.submit(square, x) for x in range(300)], LIMIT_S)
        assert (len(done), len(left)) == (300, 0)


def fact_every_rank_calls() -> None:
    with acme_mpi.Pool() as pool:
        bell = Bell()
        pending = pool.map_async(ring_and_rest, [bell.path] * pool.size, 1)
        bell.hear(pool.size)
        pool.terminate()
        with raising(acme_mpi.StoppedError):
            pending.get(LIMIT_S)


def fact_few_processes_call_for_a_small_pool() -> None:
    with acme_mpi.Pool(1) as pool:
        assert pool.size == 1
        assert len(set(pool.map(pid_of, range(100), 1))) == 1


# Facts: errors.


def fact_an_error_has_note_and_remote_traceback() -> None:
    with acme_mpi.Pool() as pool:
        with raising(ValueError, "bad 3") as caught:
            pool.map(fail_at_3, range(6), 1)
        (error,) = caught
        assert isinstance(error.__cause__, RemoteTraceback), error.__cause__
        assert "fail_at_3" in str(error.__cause__)
        assert any("task 3" in note for note in error.__notes__), error.__notes__
        assert pool.map(square, [3]) == [9]


def fact_all_calls_are_made_whichever_raises() -> None:
    folder = tempfile.mkdtemp(dir=".")

    def note(x: int) -> int:
        open(f"{folder}/{x}", "x").close()
        return fail_at_3(x)

    with acme_mpi.Pool() as pool, raising(ValueError):
        pool.map(note, range(50), 5)
    assert {*os.listdir(folder)} == {str(x) for x in range(50)}


def fact_imap_goes_on_behind_an_error() -> None:
    with acme_mpi.Pool() as pool:
        values = pool.imap(fail_at_3, range(6))
        assert [next(values) for _ in range(3)] == [0, 1, 2]
        with raising(ValueError, "bad 3"):
            next(values)
        assert list(values) == [4, 5]


def fact_an_error_of_the_input_has_its_place() -> None:
    def items() -> Iterator[int]:
        yield 1
        yield 2
        raise LookupError("no more")

    with acme_mpi.Pool() as pool:
        values = pool.imap(square, items())
        assert [next(values), next(values)] == [1, 4]
        with raising(LookupError, "no more") as caught:
            next(values)
        assert caught[0].__cause__ is None
        with raising(StopIteration):
            next(values)


def fact_an_unpicklable_function_ends_its_future_alone() -> None:
    lock = threading.Lock()
    ends_alone(lambda executor: executor.submit(partial(give_back, lock)), TypeError)
    with acme_mpi.Pool() as pool:
        with raising(TypeError):
            pool.map(partial(give_back, lock), [1])
        assert pool.map(square, [2]) == [4]


def fact_an_unpicklable_argument_ends_its_future_alone() -> None:
    ends_alone(lambda executor: executor.submit(square, threading.Lock()), TypeError)


def raise_worded(x: int) -> None:
    raise Worded(str(x), x)


def raise_keeper(x: int) -> None:
    raise Keeper("a lock")


def fact_an_argument_that_quits_when_pickled_does() -> None:
    ends_alone(lambda executor: executor.submit(square, QuitsWhenPickled()), BaseException, "3")


def fact_an_argument_that_loads_badly_does() -> None:
    for kind in (ValueError, SystemExit):
        bad = LoadsBadly(kind, in_runners=False)
        ends_alone(partial(submit, square, bad), Exception, "not to be")


def fact_an_unpicklable_result_ends_its_future_alone() -> None:
    ends_alone(lambda executor: executor.submit(lock_at_1, 1), MaybeEncodingError)
    with acme_mpi.Pool(on_error="return") as pool:
        first, second, third = pool.map(lock_at_1, range(3), 3)
    assert (first, third) == (0, 2)
    assert isinstance(second, MaybeEncodingError)


def fact_a_result_that_quits_when_pickled_does() -> None:
    ends_alone(lambda executor: executor.submit(quits_at_1, 1), Exception)
    with acme_mpi.Pool(on_error="none") as pool:
        assert pool.map(quits_at_1, range(3), 3) == [0, None, 2]


def fact_a_result_that_loads_badly_does() -> None:
    for kind in (ValueError, SystemExit, KeyboardInterrupt):
        ends_alone(partial(submit, LoadsBadly, kind, True), Exception, "not to be")


def fact_an_unpicklable_exception_ends_its_future_alone() -> None:
    ends_alone(lambda executor: executor.submit(raise_stuck, 1), Exception, "stuck")


def fact_an_exception_with_other_arguments_does() -> None:
    ends_alone(lambda executor: executor.submit(raise_two_words, 1), TwoWords, "salt and pepper")


def fact_an_exception_is_what_was_raised() -> None:
    with acme_mpi.Pool(on_error="return") as pool:
        (two,) = pool.map(raise_two_words, [1])
        (worded,) = pool.map(raise_worded, [1])
        (keeper,) = pool.map(raise_keeper, [1])
    assert (str(two), two.first, type(two)) == ("salt and pepper", "salt", TwoWords)
    assert (str(worded), worded.code) == ("failed: 1", 1)
    assert isinstance(keeper, MaybeEncodingError), keeper
    assert str(keeper).startswith("Error sending result: 'Keeper('a lock')'. Reason: 'TypeError(")


def fact_an_exception_that_nothing_can_be_set_on_does() -> None:
    ends_alone(lambda executor: executor.submit(raise_frozen, 1), Frozen)


def fact_a_map_with_an_exception_nothing_can_be_set_on() -> None:
    with acme_mpi.Pool() as pool:
        with raising(Frozen):
            pool.map_async(raise_frozen, range(3)).get(LIMIT_S)
        assert pool.map(square, [3]) == [9]


# Facts: processes.


def fact_an_initializer_is_called_once_per_process() -> None:
    def begin(folder: str) -> None:
        open(f"{folder}/{os.getpid()}", "x").close()  # fails the second time

    folder = tempfile.mkdtemp(dir=".")
    with acme_mpi.Pool(initializer=begin, initargs=(os.path.abspath(folder),)) as pool:
        pids = {pid for _ in range(5) for pid in pool.map(pid_of, range(50), 1)}
    assert {int(name) for name in os.listdir(folder)} == pids


SET: Any = None
SET_ONLY_THERE: Any
CHANGED: dict[str, Any] = {}


class Held:
    value: Any = None

    @classmethod
    def get(cls, x: Any) -> Any:
        return cls.value


def set_globals(value: Any) -> None:
    global SET, SET_ONLY_THERE
    SET = SET_ONLY_THERE = Held.value = CHANGED["value"] = value


def get_set(x: Any) -> Any:
    return SET


def get_all(x: Any) -> Any:
    return get_set(x), SET_ONLY_THERE, CHANGED.get("value"), Held.value


def fact_tasks_find_what_the_initializer_has_set() -> None:
    with acme_mpi.Pool(initializer=set_globals, initargs=(5,)) as pool:
        assert set(pool.map(get_all, range(8), 1)) == {(5, 5, 5, 5)}
        assert pool.map(Held.get, [1]) == [5]
        assert pool.map(lambda x: (SET, CHANGED["value"]), [1]) == [(5, 5)]
        assert pool.apply(get_all, (1,)) == (5, 5, 5, 5)
    with acme_mpi.Executor(initializer=set_globals, initargs=(6,)) as executor:
        assert executor.submit(get_all, 1).result(LIMIT_S) == (6, 6, 6, 6)
    with acme_mpi.Pool() as pool:
        assert set(pool.map(get_set, range(8), 1)) == {None}


def mark_process(value: int) -> None:
    sys.acme_test_mark = value  # type: ignore[attr-defined]


def mark_of_process(x: Any) -> Any:
    return getattr(sys, "acme_test_mark", None)


def fact_what_an_initializer_sets_is_there_for_its_own_pool() -> None:
    plain = acme_mpi.Pool()
    first, second = (acme_mpi.Pool(None, mark_process, (value,)) for value in (1, 2))
    with plain, first, second:
        for _ in range(2):
            for pool, value in ((first, 1), (second, 2), (plain, None)):
                assert set(pool.map(mark_of_process, range(8), 1)) == {value}
    with acme_mpi.Pool() as pool:
        assert set(pool.map(mark_of_process, range(8), 1)) == {None}


def fact_the_processes_of_an_initializer_end_with_its_pool() -> None:
    bell = Bell()
    with acme_mpi.Pool(1, mark_process, (1,)) as idle:
        ended = [pidfd_of(idle.apply(pid_of))]
    busy = acme_mpi.Pool(1, mark_process, (1,))
    ended.append(pidfd_of(busy.apply(pid_of)))
    busy.apply_async(ring_and_rest, (bell.path,))
    bell.hear()
    busy.terminate()
    for pidfd in ended:
        assert select.select([pidfd], [], [], LIMIT_S)[0], "the process is still there"


def pidfd_of(pid: int) -> int:
    return os.pidfd_open(pid)


def fact_an_initializer_that_raises_ends_the_pool() -> None:
    def begin() -> None:
        raise LookupError("no licence")

    with acme_mpi.Pool(initializer=begin) as pool:
        with raising(LookupError, "no licence"):
            pool.map(square, range(10))
        with raising(LookupError, "no licence"):
            pool.apply(square, (1,))
    with acme_mpi.Executor(initializer=begin) as executor:
        with raising(BrokenProcessPool) as caught:
            executor.submit(square, 1).result(LIMIT_S)
        assert isinstance(caught[0].__cause__, LookupError)
    with acme_mpi.Pool() as pool:
        assert pool.map(square, [5]) == [25]


def fact_an_initializer_that_dies_ends_its_calls() -> None:
    died = raising(acme_mpi.WorkerDied, "9")
    with acme_mpi.Pool(initializer=os._exit, initargs=(9,)) as pool, died:
        pool.map_async(square, range(3)).get(LIMIT_S)
    with acme_mpi.Pool() as pool:
        assert pool.map(square, [5]) == [25]


def fact_a_process_ends_after_so_many_chunks() -> None:
    with acme_mpi.Pool(maxtasksperchild=2) as pool:
        pids = pool.map(pid_of, range(8), 1)
    assert len(pids) == 8
    assert max(map(pids.count, pids)) <= 2, pids


def fact_the_tasks_have_what_surrounds_the_script() -> None:
    def surroundings(x: int) -> Any:
        return os.environ.get("ACME_TEST_SAID"), os.getcwd()

    here = os.getcwd()
    os.environ["ACME_TEST_SAID"] = "late"
    folder = tempfile.mkdtemp()
    os.chdir(folder)
    try:
        with acme_mpi.Pool() as pool:
            assert set(pool.map(surroundings, range(8), 1)) == {("late", os.path.realpath(folder))}
    finally:
        os.chdir(here)
        del os.environ["ACME_TEST_SAID"]


# Facts: rules.


def rest_at_1(x: int) -> int:
    if x == 1:
        rest()
    return x


def fill_at_1(x: int) -> int:
    if x == 1:
        hog = bytearray(900 * MIB)
        hog[::4096] = b"x" * len(hog[::4096])
        rest()
    return x


def fact_a_timeout_ends_its_call_alone() -> None:
    with acme_mpi.Pool(rules=acme_mpi.Rules(timeout=0.3), on_error="return") as pool:
        for chunksize in (1, 4):
            first, second, *others = pool.map(rest_at_1, range(4), chunksize)
            assert isinstance(second, acme_mpi.WorkerDied), second
            assert "limit 0.3" in str(second), second
            assert [first, *others] == [0, 2, 3]


def fact_a_memory_limit_ends_its_call_alone() -> None:
    with acme_mpi.Pool(rules=acme_mpi.Rules(memory="600M"), on_error="return") as pool:
        first, second, *others = pool.map(fill_at_1, range(4), 4)
        assert isinstance(second, acme_mpi.WorkerDied), second
        assert "of memory (limit" in str(second), second
        assert [first, *others] == [0, 2, 3]


def fact_retries_call_again() -> None:
    folder = os.path.abspath(tempfile.mkdtemp(dir="."))

    def flaky(x: int, exits: bool) -> int:
        n_before = len([name for name in os.listdir(folder) if name.startswith(f"{x}-")])
        open(f"{folder}/{x}-{n_before}", "x").close()
        if n_before < 2:
            os._exit(1) if exits else raise_(ValueError("again"))
        return x

    with acme_mpi.Pool(rules=acme_mpi.Rules(retries=2)) as pool:
        assert pool.starmap(flaky, [(x, False) for x in range(3)]) == [0, 1, 2]
        with raising(acme_mpi.WorkerDied):
            pool.apply(flaky, (7, True))
    with acme_mpi.Pool(rules=acme_mpi.Rules(crash_limit=3)) as pool:
        assert pool.apply(flaky, (9, True)) == 9


# Facts: ends.


def fact_kill_ends_a_running_call() -> None:
    bell = Bell()
    with acme_mpi.Executor() as executor:
        future = executor.submit(ring_and_rest, bell.path)
        bell.hear()
        with within(SOON_S):
            assert future.kill()
            with raising(acme_mpi.WorkerDied):
                future.result(LIMIT_S)
        assert executor.submit(square, 3).result(LIMIT_S) == 9


def fact_kill_ends_one_call_of_many() -> None:
    bell = Bell()
    with acme_mpi.Executor() as executor:
        resting = [executor.submit(ring_and_rest, bell.path) for _ in range(executor.num_workers)]
        bell.hear(len(resting))
        behind = [executor.submit(make_adder(x), 0) for x in range(20)]
        resting[-1].kill()
        with raising(acme_mpi.WorkerDied):
            resting[-1].result(LIMIT_S)
        assert [each.result(LIMIT_S) for each in behind] == [*range(20)]
        assert not any(each.done() for each in resting[:-1])
        for each in resting:
            each.kill()


def fact_kill_ends_a_call_behind_a_long_one() -> None:
    """A call that is sent, and has not begun, ends as fast as one that runs."""
    bell = Bell()
    with acme_mpi.Executor(1) as executor:
        for _ in range(50):  # so that short calls are sent ahead
            executor.submit(ring, bell.path).result(LIMIT_S)
        bell.hear(50)
        first = executor.submit(ring_or_rest, bell.path, True)
        second = executor.submit(ring_or_rest, bell.path, False)
        bell.hear()
        with within(SOON_S):
            second.kill()
            with raising(BaseException):
                second.result(LIMIT_S)
        assert not first.done()
        first.kill()


def fact_short_calls_do_not_wait_behind_a_long_one() -> None:
    bell = Bell()
    with acme_mpi.Executor() as executor:
        if executor.num_workers == 1:
            return
        for _ in range(20):  # so that calls of this function are sent ahead
            executor.submit(rest_at_1, 0).result(LIMIT_S)
        rests = executor.submit(ring_and_rest, bell.path)
        bell.hear()
        try:
            behind = [executor.submit(rest_at_1, x) for x in range(2, 22)]
            assert [each.result(3) for each in behind] == [*range(2, 22)]
        finally:
            rests.kill()


def fact_a_kill_reaches_what_stands_behind_a_long_call() -> None:
    bell = Bell()
    with acme_mpi.Executor(1) as executor:
        for _ in range(20):
            executor.submit(rest_at_1, 0).result(LIMIT_S)
        rests = executor.submit(ring_and_rest, bell.path)
        behind = [executor.submit(rest_at_1, x) for x in range(2, 8)]
        bell.hear()
        for each in behind[1::2]:
            each.kill()
        wait(behind[1::2], LIMIT_S)
        rests.kill()
        assert [each.result(LIMIT_S) for each in behind[::2]] == [2, 4, 6]
        # What had not left this process is cancelled, and has no exception.
        killed = [each.exception() for each in behind[1::2] if not each.cancelled()]
        assert {type(error).__name__ for error in killed} <= {"WorkerDied"}


def fact_a_short_result_does_not_wait_for_a_long_call() -> None:
    with acme_mpi.Executor(1) as executor:
        for _ in range(20):
            executor.submit(rest_at_1, 0).result(LIMIT_S)
        futures = [executor.submit(rest_at_1, x) for x in (0, 2, 3, 1)]
        try:
            assert [each.result(3) for each in futures[:3]] == [0, 2, 3]
        finally:
            futures[-1].kill()


def ring_or_rest(path: str, rests: bool) -> None:
    ring(path)
    if rests:
        rest()


def fact_terminate_ends_what_runs_soon() -> None:
    bell = Bell()
    pool = acme_mpi.Pool()
    results = [pool.apply_async(ring_and_rest, (bell.path,)) for _ in range(3 * pool.size)]
    mapped = pool.map_async(ring_and_rest, [bell.path] * 9)
    bell.hear(pool.size)
    with within(SOON_S):
        pool.terminate()
        for each in (*results, mapped):
            with raising(acme_mpi.StoppedError):
                each.get(LIMIT_S)
    with within(SOON_S):
        pool.join()
    with raising(ValueError, "Pool not running"):
        pool.map(square, [1])
    with acme_mpi.Pool() as pool:
        assert pool.map(square, [3]) == [9]


def fact_close_and_join_finish_all() -> None:
    pool = acme_mpi.Pool()
    results = [pool.apply_async(square, (x,)) for x in range(100)]
    pool.close()
    pool.join()
    assert all(each.ready() for each in results)


def fact_an_interrupt_leaves_the_pool_usable() -> None:
    script = os.getpid()

    def interrupt(x: int) -> None:
        if x == 0:
            os.kill(script, signal.SIGINT)
        rest()

    with acme_mpi.Pool() as pool, acme_mpi.Executor() as executor:
        for call in (
            lambda: pool.map(interrupt, range(10)),
            lambda: pool.apply(interrupt, (0,)),
        ):
            with raising(KeyboardInterrupt):
                call()
            with within(3 * SOON_S):
                assert pool.map(square, range(20), 1) == [x * x for x in range(20)]
            assert executor.submit(square, 4).result(LIMIT_S) == 16


def fact_a_worker_that_dies_costs_its_call_alone() -> None:
    def die(x: int) -> int:
        if x == 17:
            os.kill(os.getpid(), signal.SIGSEGV)
        return x

    for chunksize in (1, 10, 100):
        with acme_mpi.Pool(on_error="return") as pool:
            values = pool.map(die, range(100), chunksize)
            (index, error), *others = pool.failures
        assert (index, others) == (17, [])
        assert isinstance(error, acme_mpi.WorkerDied)
        assert "SIGSEGV" in str(error)
        assert "rank " in str(error)
        assert values[:17] + values[18:] == [*range(17), *range(18, 100)]


def note_and_do(notes: str, what: str, x: int) -> int:
    with open(notes, "a") as file:
        file.write(f"{x}\n")
    if what == "rest":
        rest()
    if what == "die":
        os.kill(os.getpid(), signal.SIGKILL)
    return x


def among_short_calls(executor: acme_mpi.Executor, what: str) -> tuple[list[Any], Path]:
    """Submit 300 calls, of which number 77 does something else, when they are known to be short."""
    notes = Path(tempfile.mkdtemp(dir=".")) / "notes"
    for _ in range(2):
        submitted = [executor.submit(note_and_do, str(notes), "", x) for x in range(300)]
        assert [each.result(LIMIT_S) for each in submitted] == [*range(300)]
    notes.unlink()
    return [
        executor.submit(note_and_do, str(notes), what if x == 77 else "", x) for x in range(300)
    ], notes


def fact_one_of_many_short_calls_takes_long() -> None:
    """They may have travelled together: nobody waits for it, and it can be ended alone."""
    with acme_mpi.Executor() as executor:
        futures, notes = among_short_calls(executor, "rest")
        n_before = 77 if executor.num_workers == 1 else 300
        for x, each in enumerate(futures[:n_before]):
            assert x == 77 or each.result(LIMIT_S) == x
        assert not futures[77].done()
        assert futures[77].kill()
        with raising(acme_mpi.WorkerDied):
            futures[77].result(LIMIT_S)
        assert [each.result(LIMIT_S) for each in futures[78:]] == [*range(78, 300)]
        assert sorted(map(int, notes.read_text().split())) == [*range(300)]


def fact_one_of_many_short_calls_dies() -> None:
    with acme_mpi.Executor() as executor:
        futures, notes = among_short_calls(executor, "die")
        for x, each in enumerate(futures):
            assert x == 77 or each.result(LIMIT_S) == x
        with raising(acme_mpi.WorkerDied):
            futures[77].result(LIMIT_S)
        # It was sent SIGKILL, perhaps by another process: it has another chance.
        assert sorted(map(int, notes.read_text().split())) == sorted([*range(300), 77])


# Facts: many at once.


def fact_pools_and_maps_are_open_at_the_same_time() -> None:
    folder = tempfile.mkdtemp(dir=".")
    bell = Bell()
    with acme_mpi.Pool() as one, acme_mpi.Pool(1) as two, acme_mpi.Executor() as executor:
        rests = executor.submit(ring_and_rest, bell.path)
        bell.hear()
        slow = one.map_async(square, range(2000), 1)
        futures = [executor.submit(power, x) for x in range(200)]
        values = two.imap(square, range(500))
        assert acme_mpi.map(square, range(20), write_worker_results=False) == [
            x * x for x in range(20)
        ]
        acme_mpi.map(square, range(5), output_dir=f"{folder}/files")
        with acme_mpi.ParallelMap(square, range(4), write_worker_results=False) as mapped:
            assert mapped.compute() == [0, 1, 4, 9]
        with acme_mpi.ParallelMap(square, range(4), output_dir=f"{folder}/acme") as mapped:
            mapped.compute()
        assert not rests.done()
        rests.kill()
        assert slow.get(LIMIT_S) == [x * x for x in range(2000)]
        assert [each.result(LIMIT_S) for each in futures] == [x**2 for x in range(200)]
        assert list(values) == [x * x for x in range(500)]


def fact_a_map_comes_between_calls_that_never_end() -> None:
    """Threads that keep the ranks busy do not keep a map waiting."""
    with acme_mpi.Executor() as executor:
        has_mapped = threading.Event()

        def go_on() -> None:
            while not has_mapped.is_set():
                for each in [executor.submit(square, x) for x in range(50)]:
                    each.result(LIMIT_S)

        threads = [threading.Thread(target=go_on) for _ in range(3)]
        for each in threads:
            each.start()
        try:
            with within(10 * SOON_S):
                acme_mpi.map(square, range(9), write_worker_results=False)
        finally:
            has_mapped.set()
            for each in threads:
                each.join()


def fact_many_functions_take_turns() -> None:
    """More than the ranks keep, and those that they have forgotten come again."""

    functions: list[Callable[[Any], Any]] = [make_adder(n) for n in range(30)]
    named: list[Callable[[Any], Any]] = [
        square,
        power,
        pid_of,
        fail_at_3,
        raise_stuck,
        raise_two_words,
        lock_at_1,
        quits_at_1,
    ]
    with acme_mpi.Executor() as executor, acme_mpi.Pool() as pool:
        for _ in range(3):
            for each in (*functions, *named):
                executor.submit(each, 0).result(LIMIT_S)
            assert pool.apply(functions[3], (4,)) == 7
        for function in (square, *functions, square):
            pool.map(function, [1])
        futures = [executor.submit(each, 1) for _ in range(20) for each in functions]
        assert [each.result(LIMIT_S) for each in futures] == [*range(1, 31)] * 20


def make_adder(n: int) -> Callable[[int], int]:
    return lambda x: x + n


def fact_threads_submit_new_functions() -> None:
    """A function is known before its first call, whoever sends it when."""

    def work(executor: Any, n: int, wrong: list[Any]) -> None:
        for k in range(60):
            value = executor.submit(make_adder(n), k).result(LIMIT_S)
            if value != n + k:
                wrong.append(value)

    wrong: list[Any] = []
    with acme_mpi.Executor() as executor:
        threads = [threading.Thread(target=work, args=(executor, n, wrong)) for n in range(6)]
        for each in threads:
            each.start()
        for each in threads:
            each.join()
    assert wrong == []


# Facts: memory.


class Counted:
    """An iterator of n items, which knows how many it has given."""

    def __init__(self, n: int) -> None:
        self._items = iter(range(n))
        self.n_drawn = 0

    def __iter__(self) -> Counted:
        return self

    def __next__(self) -> bytes:
        item = next(self._items)
        self.n_drawn += 1
        return b"%020d" % item


def most_ahead(values: Iterator[int], items: Counted, n: int) -> int:
    """Take all values; return how far at most the items were drawn ahead of them."""
    n_taken = most = 0
    for n_taken, value in enumerate(values, 1):
        assert value == 20
        most = max(most, items.n_drawn - n_taken)
    assert (items.n_drawn, n_taken) == (n, n)
    return most


def fact_a_generator_is_drawn_as_values_are_taken() -> None:
    n, window, items = 20_000, 20, Counted(20_000)
    with acme_mpi.Executor() as executor:
        values = executor.map(len, items, chunksize=50, buffersize=window)
        most = most_ahead(values, items, n)
    assert most <= 50 * (2 * window + 2), most  # as many chunks again are kept ready


def fact_imap_takes_a_generator_in_flat_memory() -> None:
    n, items = 100_000, Counted(100_000)
    with acme_mpi.Pool() as pool:
        list(pool.imap(len, [b""] * 5000))
        before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        most = most_ahead(pool.imap(len, items, 20), items, n)
        grown = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before
        ready = 20 * (2 * pool.size + 2)
    assert most <= 4096 + ready, most
    assert grown < 20 * 1024, f"{grown} KiB more"


def twice(array: Any) -> Any:
    return array * 2


def give_back(value: Any) -> Any:
    return value


def fact_large_arguments_and_results_travel() -> None:
    array = np.arange(96 * MIB // 8, dtype=np.float64)
    data = os.urandom(MIB) * 20  # so large a pickle is not tried
    with acme_mpi.Pool() as pool:
        result = pool.apply(twice, (array,))
        assert result.nbytes == array.nbytes
        assert (result[::1001] == 2 * array[::1001]).all()
        del result
        assert pool.apply(give_back, (data,)) == data
        assert pool.map(len, [data] * 5, 1) == [len(data)] * 5


def fact_many_arrays_are_one_argument() -> None:
    """More than a message has places for what lies beside it."""
    arrays = [np.full(4096, float(k)) for k in range(5000)]
    with acme_mpi.Pool() as pool:
        back = pool.apply(give_back, (arrays,))
    assert [float(each[-1]) for each in back] == [float(k) for k in range(5000)]


def fact_objects_beside_arrays_travel() -> None:
    pair = (TwoWords, np.arange(100_000.0), {"key": LoadsBadly(ValueError, True).in_runners})
    with acme_mpi.Pool() as pool:
        kind, array, rest_of_it = pool.apply(give_back, (pair,))
    assert kind is TwoWords
    assert (array == pair[1]).all()
    assert rest_of_it == pair[2]


def fact_arrays_of_a_function_are_shared_and_sent_once() -> None:
    data = np.ones(100 * MIB // 8)

    def held(x: int) -> tuple[int, int, int]:
        return os.getpid(), int(data.sum()), arrays_kib("self")["Anonymous:"]

    with counted_teaches() as sent, acme_mpi.Pool() as pool:
        for _ in range(3):
            got = pool.map(held, range(8 * pool.size), 1)
            assert {total for _, total, _ in got} == {len(data)}
            assert max(copied for _, _, copied in got) < 1024, "KiB of it are a process's own"
        found = [arrays_kib(pid) for pid in {pid for pid, _, _ in got}]
    assert sum(each["Rss:"] for each in found) > 90 * 1024 * len(found), found
    assert sum(each["Pss:"] for each in found) < 110 * 1024, found
    assert len(sent) <= 1, sent


def arrays_kib(pid: int | str) -> dict[str, int]:
    """Return what the memory files of a process take, by the words of smaps."""
    fields: dict[str, int] = {"Rss:": 0, "Pss:": 0, "Anonymous:": 0}
    is_ours = False
    for line in Path(f"/proc/{pid}/smaps").read_text().splitlines():
        word, *words = line.split()
        if "-" in word:
            is_ours = "memfd:acme_mpi " in line + " "
        elif is_ours and word in fields:
            fields[word] += int(words[0])
    return fields


@contextlib.contextmanager
def counted_teaches() -> Iterator[list[int]]:
    """Context in which the list gets the number of every function that this process sends."""
    from acme_mpi.runner.channel import Channel

    sent: list[int] = []
    send = Channel.send

    def noting(self: Any, kind: Any, content: Any = None) -> None:
        if isinstance(content, list) and threading.current_thread().name.endswith("stream"):
            sent.extend(each.function for each in content if type(each).__name__ == "Teach")
        send(self, kind, content)

    Channel.send = noting  # type: ignore[method-assign]
    try:
        yield sent
    finally:
        Channel.send = send  # type: ignore[method-assign]


# Facts: what tasks do themselves.


def fact_a_task_has_a_pool_of_its_own() -> None:
    def outer(x: int) -> list[int]:
        with acme_mpi.Pool() as pool:
            return pool.map(square, range(x))

    with acme_mpi.Pool() as pool:
        assert pool.map(outer, [1, 2, 3]) == [[0], [0, 1], [0, 1, 4]]


def fact_a_task_forks() -> None:
    def fork(x: int) -> int:
        pid = os.fork()
        if pid:
            return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
        if x == 1:
            raise ValueError("in a child")
        if x == 2:
            sys.exit(5)
        return 0

    with acme_mpi.Pool() as pool:
        codes = pool.map(fork, range(3), 3)
    assert codes[::2] == [0, 5], codes
    assert codes[1] != 0


def fact_a_fork_of_the_script_leaves_the_pool_alone() -> None:
    with acme_mpi.Pool() as pool, acme_mpi.Executor() as executor:
        assert pool.map(square, [2]) == [4]
        pid = os.fork()
        if not pid:
            try:
                atexit._run_exitfuncs()  # as at the end of a script
            finally:
                os._exit(0)
        assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0
        assert pool.map_async(square, [3]).get(LIMIT_S) == [9]
        assert executor.submit(square, 3).result(LIMIT_S) == 9


def fact_a_forked_child_is_told_that_the_pool_is_not_its() -> None:
    with acme_mpi.Pool() as pool, acme_mpi.Executor() as executor:
        pid = os.fork()
        if not pid:
            try:
                for call in (lambda: pool.map(square, [2]), lambda: executor.submit(square, 2)):
                    with raising(acme_mpi.errors.InputError, "was forked"):
                        call()
                os._exit(0)
            finally:
                os._exit(1)
        assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0
        assert pool.map_async(square, [3]).get(LIMIT_S) == [9]


def fact_a_forked_child_has_pools_of_its_own() -> None:
    with acme_mpi.Pool() as pool:
        assert pool.map(square, [2]) == [4]
        process = multiprocessing.get_context("fork").Process(target=use_a_pool)
        process.start()
        process.join(LIMIT_S)
        assert process.exitcode == 0, process.exitcode
        assert pool.map_async(square, [3]).get(LIMIT_S) == [9]


def use_a_pool() -> None:
    with acme_mpi.Pool() as pool:
        assert pool.map(square, [7]) == [49]


def fact_a_pool_cannot_be_pickled() -> None:
    with acme_mpi.Pool() as pool, raising(NotImplementedError):
        pickle.dumps(pool)


def fact_what_tasks_print_appears() -> None:
    def say(x: int) -> None:
        print(f"<said by task {x}>")
        print(f"<warned by task {x}>", file=sys.stderr)

    with acme_mpi.Pool() as pool:
        pool.map(say, range(6), 2)


# Those about memory: what they need does not depend on how many ranks there are.
OF_MEMORY = (
    "imap_takes_a_generator_in_flat_memory",
    "large_arguments_and_results_travel",
    "many_arrays_are_one_argument",
    "arrays_of_a_function_are_shared_and_sent_once",
)
MANY = ("three_gib_travel",)


def fact_three_gib_travel() -> None:
    array = np.ones(3 * 2**30 // 8)
    with acme_mpi.Pool() as pool:
        back = pool.apply(give_back, (array,))
    assert back.nbytes == array.nbytes
    assert (back[::9999] == 1).all()


FACTS = {name[5:]: value for name, value in globals().items() if name.startswith("fact_")}


def main() -> None:
    report = Path(sys.argv[1])
    names = sys.argv[2:] or [name for name in FACTS if name not in MANY]
    found: dict[str, Any] = {}
    for name in names:
        faulthandler.dump_traceback_later(HUNG_S, exit=True)
        found[name] = "not finished"
        report.write_text(json.dumps(found))
        begin_s = time.monotonic()
        try:
            FACTS[name]()
        except BaseException:
            found[name] = traceback.format_exc()
        else:
            found[name] = ""
        report.write_text(json.dumps(found))
        print(f"{name}: {time.monotonic() - begin_s:.2f} s", flush=True)
        faulthandler.cancel_dump_traceback_later()


if __name__ == "__main__":
    main()
