"""Whole runs under a real Slurm with two nodes, on one machine: see `scripts/slurm_sandbox`."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import h5py
import numpy as np
import pytest
from sandbox import Slurm

pytestmark = [pytest.mark.slurm, pytest.mark.slow]

EXPECTED = [18, 24, 30, 36]
FUNCTIONS = '''\
import os
import socket
import time


def f(x, y, z=3):
    return (x + y) * z


def meet(x, names):
    """Return this host's name, but not before the function was called on two hosts."""
    open(os.path.join(names, socket.gethostname()), "w").close()
    deadline = time.monotonic() + 60
    while len(os.listdir(names)) < 2:
        if time.monotonic() > deadline:
            raise TimeoutError("called on one host only")
        time.sleep(0.01)
    return socket.gethostname()
'''


@pytest.fixture
def work_dir(slurm: Slurm, request: pytest.FixtureRequest) -> Path:
    """Create a directory that all nodes see, with the module and the arguments of the examples."""
    path = slurm.shared_dir / str(request.node.name)
    path.mkdir()
    (path / "mymod.py").write_text(FUNCTIONS)
    np.savez(path / "args.npz", x=[2, 4, 6, 8], y=4)
    return path


def test_two_nodes_form_one_mpi_world(slurm: Slurm, work_dir: Path) -> None:
    """Of Slurm and MPI alone: where this fails, the package is not to blame."""
    program = (
        "from mpi4py import MPI; import socket;"
        " print(MPI.COMM_WORLD.allreduce(1), socket.gethostname())"
    )
    ran = slurm.srun("-N2", "-n", "4", sys.executable, "-c", program, cwd=work_dir)
    assert ran.returncode == 0, ran.stderr
    assert set(ran.stdout.splitlines()) == {"4 node1", "4 node2"}


@pytest.mark.once
def test_64_ranks(slurm: Slurm, work_dir: Path) -> None:
    args = ["mymod:f", "args.npz", "--output-dir", "out"]
    ran = slurm.srun_acme("-n", "64", args=args, cwd=work_dir, timeout_s=120)
    assert ran.returncode == 0, ran.stderr
    with h5py.File(work_dir / "out" / "f.h5") as container:
        assert list(container) == [f"comp_{i}" for i in range(4)]
        results = [container[f"comp_{i}/result_0"][...] for i in range(4)]
    assert np.ravel(results).tolist() == EXPECTED


def test_two_nodes_write_one_file(slurm: Slurm, work_dir: Path) -> None:
    args = ["mymod:f", "args.npz", "--output-dir", "out", "--single-file", "--result-shape", "None"]
    ran = slurm.srun_acme("-N2", "-n", "4", args=args, cwd=work_dir)
    assert ran.returncode == 0, ran.stderr
    with h5py.File(work_dir / "out" / "f.h5") as container:
        assert list(container) == ["result_0", "task", "x"]
        assert container["result_0"][...].tolist() == EXPECTED


def test_tasks_run_on_both_nodes(slurm: Slurm, work_dir: Path) -> None:
    n_tasks = 64
    names = work_dir / "names"
    names.mkdir()
    np.save(work_dir / "x.npy", np.arange(n_tasks))
    args = ["mymod:meet", "x.npy", "--set", f"names={names}", "--output-dir", "out"]
    ran = slurm.srun_acme("-N2", "-n", "4", args=args, cwd=work_dir, timeout_s=90)
    assert ran.returncode == 0, ran.stderr
    with h5py.File(work_dir / "out" / "meet.h5") as container:
        hosts = [container[f"comp_{i}/result_0"].asstr()[...].item() for i in range(n_tasks)]
    assert set(hosts) == {"node1", "node2"}


PARALLEL_MAP = """
import json
import sys

from acme_mpi import ParallelMap, slurm_cluster_setup
from mymod import f

client = slurm_cluster_setup(partition="debug", n_workers=4)
workers = client.scheduler_info()["workers"].values()
with ParallelMap(f, [2, 4, 6, 8], 4, output_dir="out") as pmap:
    files = pmap.compute()
facts = [sorted({each["host"] for each in workers}), len(files), pmap.has_slurm, pmap.n_workers]
with open(sys.argv[1], "w") as file:
    json.dump(facts, file)
"""


@pytest.mark.parametrize("command", [["-m", "acme_mpi", "script.py"], ["script.py"]])
def test_parallel_map_uses_both_nodes(slurm: Slurm, work_dir: Path, command: list[str]) -> None:
    """In a script that the ranks serve, and in one that every rank runs."""
    (work_dir / "script.py").write_text(PARALLEL_MAP)
    ran = slurm.srun("-N2", "-n", "4", sys.executable, *command, "facts.json", cwd=work_dir)
    assert ran.returncode == 0, ran.stderr
    assert json.loads((work_dir / "facts.json").read_text()) == [["node1", "node2"], 4, True, 4]
    with h5py.File(work_dir / "out" / "f.h5") as container:
        results = [container[f"comp_{i}/result_0"][...] for i in range(4)]
    assert np.ravel(results).tolist() == EXPECTED


def test_ranks_that_do_not_find_each_other_are_refused(slurm: Slurm, work_dir: Path) -> None:
    """Under `--mpi=none` each rank would be rank 0 of 1, and all would write the same files."""
    args = ["mymod:f", "args.npz", "--output-dir", "out"]
    ran = slurm.srun_acme("--mpi=none", "-n", "4", args=args, cwd=work_dir)
    assert ran.returncode == 2, ran.stderr
    assert "--mpi=pmix" in ran.stderr
    assert not (work_dir / "out").exists()


@pytest.mark.once
@pytest.mark.parametrize("is_shared", [True, False])
def test_the_doctor_sees_whether_nodes_share_a_folder(
    slurm: Slurm, work_dir: Path, is_shared: bool
) -> None:
    """Each node has a /tmp of its own."""
    args = ["doctor", "--json", "--output-dir", str(work_dir) if is_shared else "/tmp"]

    ran = slurm.srun_acme("-N2", "-n", "4", args=args, cwd=work_dir)

    found = json.loads(ran.stdout)["findings"]
    said = {each["check"]: each for each in found}
    assert said["ranks"]["evidence"].startswith("4 of 4 ranks on 2 nodes: node1 (")
    assert said["srun and MPI"]["level"] == "ok"
    assert said["one place for all"]["level"] == ("ok" if is_shared else "wrong")
    assert said["death of a rank"]["evidence"].startswith("srun ")
    assert (ran.returncode != 0) is any(each["level"] == "wrong" for each in found)
