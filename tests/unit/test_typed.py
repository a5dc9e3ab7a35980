"""The launcher's command line as its user typed it, and what is left of it elsewhere."""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path

import pytest

from acme_mpi.comm import how_to_silence, typed_command
from acme_mpi.linux.cores import n_cores

once = pytest.mark.once
PROBE = """
import json
import sys

from acme_mpi.comm import typed_command

print(json.dumps(typed_command(sys.argv[1:])))
"""
ENVIRONMENT = {"PYTHONPATH": str(Path(__file__).parents[2])}


@pytest.fixture
def probe(tmp_path) -> Path:
    """Return a program that prints how it was started."""
    path = tmp_path / "probe.py"
    path.write_text(PROBE)
    return path


@pytest.fixture
def typed_under(mpiexec, probe, tmp_path):
    """Return a function that tells what a rank finds below a launcher of some name.

    The launcher is a shell that runs what comes behind its first `n_own` words.
    """

    def typed(words, n_own, environ=None, run='"$@"'):
        (tmp_path / "launcher.sh").write_text(f"shift {n_own}\n{run}\nexit\n")
        # What the kernel tells of a program's command line are the words that it was given.
        name, *rest = words
        command = [name, "launcher.sh", *rest, sys.executable, "probe.py", "a", "--b=c d"]
        start = f"import os; os.execv('/bin/sh', {command!r})"
        ran = mpiexec(0, "-c", start, cwd=tmp_path, env={**ENVIRONMENT, **(environ or {})})
        assert ran.returncode == 0, ran.stderr
        return json.loads(ran.stdout)

    return typed


@once
@pytest.mark.parametrize("name", ["mpiexec", "/opt/mpi/bin/mpirun"])
def test_launcher_and_program_come_as_they_were_typed(typed_under, name):
    words = typed_under([name, "-n", "2", "--oversubscribe"], 3)

    assert words == [
        name,
        "launcher.sh",
        "-n",
        "2",
        "--oversubscribe",
        sys.executable,
        "probe.py",
    ]


@once
@pytest.mark.parametrize(
    ("name", "tool", "typed"),
    [
        ("prterun", "mpiexec", "mpiexec"),
        ("/opt/bin/prterun", "mpirun", "/opt/bin/mpirun"),
        ("prterun", None, "prterun"),
    ],
)
def test_open_mpi_5_goes_by_the_name_that_was_typed(typed_under, name, tool, typed):
    """What Open MPI 5 becomes goes by the name that was typed."""
    environ = {} if tool is None else {"OMPI_TOOL_NAME": tool}

    assert typed_under([name, "-n", "2"], 2, environ)[0] == typed


@once
def test_ranks_of_a_launcher_that_cannot_be_seen_are_counted(typed_under):
    environ = {"OMPI_COMM_WORLD_RANK": "0", "OMPI_COMM_WORLD_SIZE": "3"}

    words = typed_under(["orted"], 0, environ)

    assert words == ["mpiexec", "-n", "3", sys.executable, "probe.py"]


@once
def test_an_srun_on_this_node_comes_as_it_was_typed(typed_under):
    environ = {"SLURM_STEP_NUM_TASKS": "2", "SLURM_PROCID": "0"}

    words = typed_under(["srun", "-N2", "-n", "2", "--mpi=pmix"], 4, environ)

    assert words[0] == "srun"
    assert words[2:6] == ["-N2", "-n", "2", "--mpi=pmix"]


@once
def test_of_an_srun_elsewhere_ranks_and_nodes_are_told(monkeypatch):
    monkeypatch.setattr(sys, "orig_argv", ["python", "-m", "acme_mpi", "no:such", "words"])
    told = {
        "SLURM_STEP_NUM_TASKS": "8",
        "SLURM_PROCID": "0",
        "SLURM_STEP_NUM_NODES": "2",
        "SLURM_CPUS_PER_TASK": "4",
    }

    assert typed_command(["no:such", "words"], told) == [
        "srun",
        "--kill-on-bad-exit=1",
        "-N",
        "2",
        "-n",
        "8",
        "-c",
        "4",
        "python",
        "-m",
        "acme_mpi",
    ]


@once
def test_without_srun_the_plain_command_is_what_was_typed(monkeypatch):
    """In a batch job without srun the plain command is what was typed."""
    monkeypatch.setattr(sys, "orig_argv", ["python", "-m", "acme_mpi", "a", "b"])
    batch = {"SLURM_JOB_ID": "7", "SLURM_NTASKS": "4", "SLURM_PROCID": "0", "SLURM_NNODES": "1"}

    assert typed_command(["a", "b"], batch) == ["python", "-m", "acme_mpi"]


@pytest.mark.every
def test_the_launcher_of_these_tests_is_found(mpiexec, probe):
    ran = mpiexec(1, probe, "x", "--y", env=ENVIRONMENT)

    words = json.loads(ran.stdout)
    assert os.path.basename(words[0]) == "mpiexec"
    assert words[1:] == ["-n", "1", sys.executable, str(probe)]


@once
@pytest.mark.parametrize(
    ("environ", "is_told"),
    [
        ({"OMPI_COMM_WORLD_SIZE": "2"}, True),
        ({"OMPI_COMM_WORLD_SIZE": "2", "PRTE_LAUNCHED": "1"}, False),
        ({"PMI_SIZE": "2", "MPI_LOCALNRANKS": "2"}, False),
        ({}, False),
    ],
)
def test_only_open_mpi_4_has_to_be_silenced(environ, is_told):
    assert ("mpiexec --quiet" in how_to_silence(environ)) is is_told


@once
def test_hyperthreads_of_one_core_count_once(tmp_path, monkeypatch):
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: {0, 1, 2, 3, 9})
    for cpu, siblings in {0: "0,2", 2: "0,2", 1: "1,3", 3: "1,3"}.items():
        (tmp_path / f"cpu{cpu}" / "topology").mkdir(parents=True)
        (tmp_path / f"cpu{cpu}" / "topology" / "thread_siblings_list").write_text(f"{siblings}\n")

    assert n_cores(str(tmp_path)) == 3
    assert n_cores(str(tmp_path / "nothing")) == 5
