"""A function comes to the ranks before its tasks, whatever else came in between."""

from __future__ import annotations

import pytest
from conftest import by_stacks

pytestmark = pytest.mark.slow

# More functions than ranks keep, of which the first comes again, and more than are under way.
MANY = """
import numpy as np

import acme_mpi


def first(x):
    return x


def adder(n):
    return lambda x: x + n


def large_adder(n):
    values = np.full(200_000, n)
    return lambda x: values[-1] + x


with acme_mpi.Executor() as executor:
    assert executor.submit(first, 1).result() == 1
    for make, n in ((adder, 100), (large_adder, 20)):
        futures = [executor.submit(make(k), 1) for k in range(n)]
        assert [future.result() for future in futures] == list(range(1, n + 1))
    assert executor.submit(first, 2).result() == 2
print("all came")
"""


@pytest.mark.parametrize("n", by_stacks([0, 2]))
def test_ranks_learn_again_what_they_forgot(n, mpiexec, write_script):
    script = write_script(MANY)

    ran = mpiexec(n, *(["-m", "acme_mpi"] if n else []), script)

    assert (ran.returncode, ran.stdout) == (0, "all came\n"), ran.stderr
