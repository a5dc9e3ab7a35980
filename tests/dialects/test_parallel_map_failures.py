"""What `ParallelMap` makes of failed tasks, and how they are debugged."""

from __future__ import annotations

import os
import re
import threading
import traceback
from pathlib import Path
from typing import Any

import pytest
from computing import CALL, EVERYWHERE, VALUES, failure_of, scalars, visible
from parallel_map_program import MEMORY, fail_at

from acme_mpi import ParallelMap

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("module_runner", "folder")]


def test_a_task_error_begins_with_the_ids_of_failed_tasks():
    """A task error begins with the number and the ids of failed tasks."""
    error = failure_of(ParallelMap(fail_at, range(6), {1, 4}, **MEMORY))

    first = str(error).splitlines()[0]
    assert first == "Parallel computation failed: 2/6 tasks failed or stalled: 1, 4"
    assert isinstance(error, RuntimeError)


def test_a_task_error_names_the_first_twenty_tasks():
    error = failure_of(ParallelMap(fail_at, range(30), set(range(30)), **MEMORY))

    first = str(error).splitlines()[0]
    assert first.endswith(f"failed or stalled: {', '.join(map(str, range(20)))}, ...")


def test_a_task_error_has_three_tracebacks_at_most():
    """A task error has one traceback of each kind and three at most."""

    def fail_in_many_ways(i: int) -> None:
        raise (KeyError, ValueError, LookupError, OSError)[i % 4](f"call {i}")

    text = str(failure_of(ParallelMap(fail_in_many_ways, range(8), **MEMORY)))

    assert text.count("Traceback (most recent call last):") == 3
    assert set(re.findall(r"call (\d)", text)) == {"0", "1", "2"}


def test_a_task_error_says_where_results_and_log_are():
    pmap = ParallelMap(fail_at, range(3), {1})

    text = str(failure_of(pmap))

    assert f"  The other 2 results are in {pmap.results_container}\n" in text
    assert text.endswith(f"  Log file: {pmap.logfile}")


def test_failures_are_records():
    error = failure_of(ParallelMap(fail_at, range(6), {1, 4}, **MEMORY))

    assert [(each.index, each.type, each.message) for each in error.failures] == [
        (1, "KeyError", "'bad 1'"),
        (4, "KeyError", "'bad 4'"),
    ]
    assert error.failures[0].call == "fail_at(1, {1, 4})"
    assert 'raise KeyError(f"bad {i}")' in error.failures[0].traceback


@pytest.mark.parametrize(
    ("keywords", "expected"),
    [
        (MEMORY, [0, None, 2]),
        ({}, ["fail_at_0.h5", None, "fail_at_2.h5"]),
        ({"write_pickle": True}, ["fail_at_0.pickle", None, "fail_at_2.pickle"]),
    ],
)
def test_results_of_a_task_error_have_holes(keywords, expected):
    results = failure_of(ParallelMap(fail_at, range(3), {1}, **keywords)).results

    assert [Path(each).name if isinstance(each, str) else each for each in results] == expected


def test_results_of_other_tasks_are_safe():
    pmap = ParallelMap(fail_at, range(3), {1})
    failure_of(pmap)

    assert scalars(pmap.results_container) == [0, 2]


def test_the_callers_traceback_shows_the_failed_function_once(mpiexec, write_script):
    """Messages and exception go to the same terminal."""
    path = write_script("""
        from acme_mpi import ParallelMap


        def fail(x):
            raise KeyError("bad")


        ParallelMap(fail, [1, 2], write_worker_results=False).compute()
    """)

    ran = mpiexec(0, path)

    assert ran.returncode == 1
    assert ran.stderr.count('raise KeyError("bad")') == 1
    assert ran.stderr.count("Parallel computation failed: 2/2 tasks") == 1
    assert ran.stderr.count("<ParallelMap> ERROR: ") == 1


def test_debugging_calls_in_this_process_and_thread():
    def where(i: int) -> tuple[int, int, int]:
        return i, os.getpid(), threading.get_ident()

    results = ParallelMap(where, range(3), **MEMORY).compute(debug=True)

    assert results == [(i, os.getpid(), threading.get_ident()) for i in range(3)]


def test_debugging_passes_the_callers_own_objects():
    """Also what cannot be pickled."""
    lock, called = threading.Lock(), []

    def call(i: int, it: Any) -> None:
        called.append((i, it))

    ParallelMap(call, range(2), it=lock, **MEMORY).compute(debug=True)

    assert called == [(0, lock), (1, lock)]


@pytest.mark.parametrize("keywords", EVERYWHERE)
def test_debugging_gives_the_results_of_a_run(keywords):
    pmap = ParallelMap(*CALL, output_dir="debugged", **keywords)
    results = pmap.compute(debug=True)

    if pmap.results_container is None:
        assert results == VALUES
    else:
        assert scalars(pmap.results_container) == VALUES
        undebugged = ParallelMap(*CALL, output_dir="run", **keywords).compute()
        assert [path.replace("debugged", "run") for path in results] == undebugged


@pytest.mark.parametrize("error", [KeyError("bad"), SystemExit(3), KeyboardInterrupt()])
def test_debugging_raises_the_exception_itself(error):
    def fail(i: int) -> None:
        raise error

    with pytest.raises(type(error)) as caught:
        ParallelMap(fail, [0], **MEMORY).compute(debug=True)

    assert caught.value is error


def test_debugging_shows_compute_and_the_users_frames():
    """Debugging shows the call of compute and the user's frames."""
    with pytest.raises(KeyError) as caught:
        ParallelMap(fail_at, [1], {1}, **MEMORY).compute(debug=True)

    here, *frames = traceback.extract_tb(caught.value.__traceback__)
    assert here.filename == __file__
    assert [frame.name for frame in frames] == ["compute", "fail_at"]
    assert caught.value.__context__ is None
    assert caught.value.__cause__ is None


def test_debugging_keeps_the_traceback_of_a_false_exception():
    """Debugging keeps the traceback of an exception that is false."""

    class EmptyError(Exception):
        def __len__(self) -> int:
            return 0

    def fail(i: int) -> None:
        raise EmptyError

    with pytest.raises(EmptyError) as caught:
        ParallelMap(fail, [0], **MEMORY).compute(debug=True)

    assert caught.traceback[-1].name == "fail"


def test_debugging_keeps_results_before_the_first_exception():
    """Debugging stops at the first exception and keeps earlier results."""
    called = []

    def call(i: int) -> int:
        called.append(i)
        return fail_at(i, {97})

    pmap = ParallelMap(call, range(100), payload="rank")
    with pytest.raises(KeyError):
        pmap.compute(debug=True)

    assert called == list(range(98))
    assert scalars(pmap.results_container) == list(range(97))


def test_debugging_leaves_nothing_if_the_first_task_fails(folder):
    with pytest.raises(KeyError):
        ParallelMap(fail_at, [1, 2], {1}).compute(debug=True)

    assert list(folder.iterdir()) == []


def test_a_run_that_fails_leaves_other_log_files_alone():
    """A run that comes to nothing leaves other log files alone."""

    def fail_at_home(i: int) -> int:
        return i

    other = ParallelMap(fail_at_home, [1], output_dir="out")
    other.compute()
    with pytest.raises(KeyError):
        ParallelMap(fail_at, [1], {1}, output_dir="out").compute(debug=True)

    assert visible("out") == ["LOG", "fail_at_home.h5", "fail_at_home_payload"]
    assert Path(str(other.logfile)).exists()
