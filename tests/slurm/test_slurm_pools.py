"""Pools whose ranks live on two nodes: no bell reaches from one to the other."""

from __future__ import annotations

import pytest
from sandbox import Slurm

pytestmark = [pytest.mark.slurm, pytest.mark.slow, pytest.mark.once]

SCRIPT = """
import os
import signal
import socket
import sys
import time
from pathlib import Path

import numpy as np

import acme_mpi


def meet(x, names):
    # Return this host's name, but not before this was called on both.
    (Path(names) / socket.gethostname()).touch()
    deadline = time.monotonic() + 60
    while len(os.listdir(names)) < 2:
        assert time.monotonic() < deadline, "called on one host only"
        time.sleep(0.01)
    return socket.gethostname()


def double(array):
    return 2 * array


def end_at_7(x):
    if x == 7:
        os.kill(os.getpid(), signal.SIGSEGV)
    return x


table = np.arange(500_000)
arrays = [np.full(400_000, float(k)) for k in range(8)]
with acme_mpi.Pool() as pool:
    assert pool.size == 4
    hosts = pool.starmap(meet, [(x, sys.argv[1]) for x in range(16)], chunksize=1)
    assert {*hosts} == {"node1", "node2"}, hosts
    assert pool.map(lambda k: int(table[k]), range(2000)) == [*range(2000)]
    assert all(map(np.array_equal, pool.imap(double, arrays), map(double, arrays)))
    assert sorted(pool.imap_unordered(abs, range(5000))) == [*range(5000)]
with acme_mpi.Executor() as executor:
    futures = [executor.submit(end_at_7, x) for x in range(12)]
    errors = {x: each.exception(60) for x, each in enumerate(futures)}
    assert type(errors.pop(7)) is acme_mpi.WorkerDied
    assert not any(errors.values()), errors
    rest = executor.submit(time.sleep, 1000)
    while not rest.running():
        time.sleep(0.01)
    rest.kill()
    assert type(rest.exception(30)) is acme_mpi.WorkerDied
print("all holds")
"""


def test_pools_of_two_nodes(slurm: Slurm) -> None:
    work_dir = slurm.shared_dir / "pools"
    names = work_dir / "names"
    names.mkdir(parents=True)
    (work_dir / "script.py").write_text(SCRIPT)

    ran = slurm.srun_acme(
        "-N2", "-n", "4", args=["script.py", str(names)], cwd=work_dir, timeout_s=120
    )

    assert ran.returncode == 0, ran.stderr
    assert ran.stdout == "all holds\n"
