"""Which mpiexec starts local ranks, and what it is told."""

from __future__ import annotations

import site
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest

from acme_mpi.comm import mpiexec
from acme_mpi.comm.mpiexec import environment_of_local_ranks, find_mpiexec

pytestmark = pytest.mark.once


@pytest.fixture
def make_program(tmp_path, monkeypatch):
    """Return a function that makes an mpiexec in a folder; there is no other one."""
    monkeypatch.setattr(sys, "executable", str(tmp_path / "venv" / "python"))
    monkeypatch.setattr(site, "ENABLE_USER_SITE", False)
    monkeypatch.setattr(mpiexec, "find_spec", lambda name: None)

    def make(folder: str) -> str:
        path: Path = tmp_path / folder / "mpiexec"
        path.parent.mkdir(exist_ok=True)
        path.touch(0o755)
        return str(path)

    return make


def test_the_mpiexec_beside_python_comes_first(make_program):
    beside, on_path = make_program("venv"), make_program("path")

    assert find_mpiexec({"PATH": str(Path(on_path).parent)}) == beside


def test_the_mpiexec_that_mpi4py_was_built_with_comes_next(make_program, tmp_path, monkeypatch):
    built, on_path = make_program("mpi"), make_program("path")
    spec = SimpleNamespace(origin=str(tmp_path / "mpi4py" / "__init__.py"))
    monkeypatch.setattr(mpiexec, "find_spec", lambda name: spec)
    (tmp_path / "mpi4py").mkdir()
    compiler = Path(built).with_name("mpicc")
    (tmp_path / "mpi4py" / "mpi.cfg").write_text(f"[mpi]\nmpicc = {compiler}\n")

    assert find_mpiexec({"PATH": str(Path(on_path).parent)}) == built


def test_the_mpiexec_on_the_path_comes_last(make_program):
    on_path = make_program("path")

    assert find_mpiexec({"PATH": str(Path(on_path).parent)}) == on_path


def test_without_any_mpiexec_there_is_none(make_program):
    assert find_mpiexec({"PATH": "/nowhere"}) is None


def test_ranks_know_nothing_of_the_job_around_them():
    around = {
        "SLURM_JOB_ID": "7",
        "SBATCH_PARTITION": "x",
        "PMIX_RANK": "0",
        "PMI_FD": "5",
        "OMPI_COMM_WORLD_RANK": "0",
        "PRTE_LAUNCHED": "1",
        "HYDRA_HOST_FILE": "hosts",
        "OMPI_MCA_orte_default_hostfile": "hosts",
        "OMPI_MCA_plm": "slurm",
    }

    left = environment_of_local_ranks({**around, "PATH": "/bin", "CONDA_PREFIX": "/c"})

    assert not around.keys() & left.keys()
    assert (left["PATH"], left["CONDA_PREFIX"]) == ("/bin", "/c")


def test_settings_of_mpi_are_kept():
    own = {"OMPI_MCA_btl": "self,vader", "OMPI_MCA_hwloc_base_binding_policy": "core"}

    left = environment_of_local_ranks(own)

    assert {name: left[name] for name in own} == own
    assert left["PRTE_MCA_rmaps_default_mapping_policy"] == ":oversubscribe"
