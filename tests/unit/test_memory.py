"""Peak memory of agents and runners: none keeps an object, or a 64-bit number, for each task."""

from __future__ import annotations

import json

import numpy as np
import pytest

pytestmark = [pytest.mark.once, pytest.mark.slow]

FEW, MANY = 10_000, 4_000_000
MOST_BYTES = 6  # per task: a few flags

PROGRAM = f"""
import glob, json, os, sys
import acme_mpi
from mpi4py import MPI

def half(x):
    return x / 2

def read(path):
    try:
        with open(path) as file:
            return file.read()
    except FileNotFoundError:  # a thread that has ended
        return ""

def peak_bytes(pid):
    with open(f"/proc/{{pid}}/status") as file:
        return next(int(line.split()[1]) for line in file if line.startswith("VmHWM")) * 1024

def peaks():
    lists = map(read, glob.glob("/proc/self/task/*/children"))
    return [peak_bytes(pid) for pid in (os.getpid(), *" ".join(lists).split())]

found = []
for n_tasks in ({FEW}, {MANY}):
    acme_mpi.map(
        half, range(n_tasks), result_shape=(None,), output_dir=f"{{n_tasks}}",
        single_file=sys.argv[1] == "single_file",
    )
    found.append(MPI.COMM_WORLD.gather(peaks()))
if MPI.COMM_WORLD.rank == 0:
    print(json.dumps(found))
"""


@pytest.mark.parametrize("files", ["payload", "single_file"])
def test_memory_does_not_grow_with_the_tasks(mpiexec, write_script, files):
    ran = mpiexec(2, write_script(PROGRAM), files)

    assert ran.returncode == 0, ran.stderr
    few, many = np.array(json.loads(ran.stdout.splitlines()[-1]))
    assert few.shape == (2, 2)  # agent and runner of both ranks
    assert ((many - few) / MANY < MOST_BYTES).all(), (many - few) / MANY
