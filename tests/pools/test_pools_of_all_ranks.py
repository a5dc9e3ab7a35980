"""Pools in a script that all ranks run: rank 0 goes on, the others serve it."""

from __future__ import annotations

import pytest
from conftest import by_stacks

pytestmark = pytest.mark.slow

PROGRAM = """
import time

import acme_mpi
from acme_mpi.comm import make_world

world = make_world()


def square(x):
    return x * x


def in_memory(xs):
    return list(acme_mpi.map(square, xs, write_worker_results=False))


with acme_mpi.Pool() as pool:
    if pool.is_master():
        print(pool.map(square, range(4)), pool.size)
        with acme_mpi.Executor() as executor:  # its ranks serve it after this pool
            print(executor.submit(square, 5).result(), in_memory([1, 2]), pool.map(square, [6]))
    else:
        pool.wait()
if not world.is_master:
    executor = acme_mpi.Executor()
    try:
        executor.submit(square, 1)
    except acme_mpi.InputError as error:
        assert "rank 0 alone" in str(error) and "is_master()" in str(error), error
assert in_memory([3, 4]) == [9, 16]  # on all ranks again

pool = acme_mpi.Pool()
if pool.is_master():
    waiting = pool.map_async(time.sleep, [1000] * 8)
    pool.terminate()
    try:
        waiting.get()
    except acme_mpi.StoppedError:
        print("stopped")
print(f"out {world.rank}")
acme_mpi.Pool()  # is not closed: the end of the script does that
"""


@pytest.mark.parametrize("value", by_stacks([2, 4], every=[2]))
def test_rank_0_has_pools_and_the_others_serve(mpiexec, tmp_path, value):
    (tmp_path / "script.py").write_text(PROGRAM)

    ran = mpiexec(value, "-W", "ignore", "script.py", cwd=tmp_path)

    assert ran.returncode == 0, ran.stderr
    lines = sorted(ran.stdout.splitlines())
    assert lines == sorted(
        [
            f"[0, 1, 4, 9] {value}",
            "25 [1, 4] [36]",
            "stopped",
            *(f"out {rank}" for rank in range(value)),
        ]
    )


IN_TURN = """
import acme_mpi


def square(x):
    return x * x


for _ in range(5):
    with acme_mpi.Pool() as pool:
        if pool.is_master():
            assert pool.apply(square, (3,)) == 9
    {between}
print("done")
"""
BETWEEN = {
    "pool": "pass",
    "call": "assert list(acme_mpi.map(square, [2, 3], write_worker_results=False)) == [4, 9]",
}


@pytest.mark.parametrize("between", BETWEEN)
def test_what_comes_after_a_pool_may_be_collective(mpiexec, tmp_path, between):
    """The queue of single tasks ends a moment after the pool, in a thread."""
    (tmp_path / "script.py").write_text(IN_TURN.replace("{between}", BETWEEN[between]))

    ran = mpiexec(2, "script.py", cwd=tmp_path, timeout_s=60)

    assert ran.returncode == 0, ran.stderr
    assert ran.stdout.split() == ["done"] * 2


FORKING = """
import os

import acme_mpi

with acme_mpi.Pool() as pool:
    if pool.is_master():
        if os.fork() == 0:
            pool.terminate()
            os._exit(3)
        print(os.waitstatus_to_exitcode(os.wait()[1]), pool.map(abs, [-1]))
"""


def test_a_forked_child_leaves_its_parents_pool_alone(mpiexec, tmp_path):
    (tmp_path / "script.py").write_text(FORKING)

    ran = mpiexec(2, "script.py", cwd=tmp_path, timeout_s=60)

    assert ran.returncode == 0, ran.stderr
    assert ran.stdout.split("\n") == ["3 [1]", ""]


JOBLIB = """
import acme_mpi
import joblib
from acme_mpi.comm import make_world

acme_mpi.register_joblib()
called = [joblib.delayed(abs)(x) for x in [-1, 2]]
try:
    with joblib.parallel_config("acme_mpi"):
        print(joblib.Parallel()(called))
except acme_mpi.InputError as error:
    assert make_world().rank == 1 and "mpiexec -n 4 python -m acme_mpi script.py" in str(error)
print(list(acme_mpi.map(abs, [-3], write_worker_results=False)))
"""


def test_rank_0_alone_uses_joblibs_backend(mpiexec, tmp_path):
    pytest.importorskip("joblib")
    (tmp_path / "script.py").write_text(JOBLIB)

    ran = mpiexec(2, "script.py", cwd=tmp_path, timeout_s=60)

    assert ran.returncode == 0, ran.stderr
    assert sorted(ran.stdout.splitlines()) == ["[1, 2]", "[3]", "[3]"]
