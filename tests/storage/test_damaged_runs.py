"""What becomes of damaged files between two runs: right results, or a clear message."""

from __future__ import annotations

import gc
from pathlib import Path
from typing import Any

import pytest
from damaged_runs import LAYOUTS, content, run
from test_damage import FOREIGN

import acme_mpi
from acme_mpi.errors import StoreError
from acme_mpi.history.folders import LINKED
from acme_mpi.history.layout import journal_name

pytestmark = pytest.mark.once

PROGRAM = Path(__file__).parents[1] / "damaged_runs.py"
OPEN = """\
import acme_mpi, h5py
import numpy as np

called = []

def row(x):
    called.append(x)
    return np.full(3, x, float)

def large(x):
    called.append(x)
    return np.full(9000, x, float)

for k, (single, func, n) in enumerate([(True, row, 3), (False, row, 3), (True, large, 9000)]):
    called.clear()
    d = f"out{k}"
    options = dict(output_dir=d, isolate=False, single_file=single, result_shape=(None, n))
    acme_mpi.map(func, [1, 2], **options)
    left_open = h5py.File(f"{d}/{func.__name__}.h5")
    rows = left_open["result_0"][:]
    acme_mpi.map(func, [1, 2], resume=True, **options)
    assert called == [1, 2]
    acme_mpi.map(func, [1, 2, 3], resume="force", **options)
    assert called == [1, 2, 3]
    assert left_open["result_0"][:].tolist() == rows.tolist()
    with h5py.File(f"{d}/{func.__name__}.h5", locking=True) as file:
        assert file["result_0"].shape == (3, n)
"""


def test_what_a_notebook_has_left_open_is_no_damage(mpiexec, tmp_path):
    """Nothing is called again, and what is open is not changed under its hands."""
    (tmp_path / "notebook.py").write_text(OPEN)

    end = mpiexec(0, "notebook.py", cwd=tmp_path)

    assert end.returncode == 0, end.stderr
    assert "damaged" not in end.stderr


@pytest.mark.parametrize(("layout", "seed"), [("computation-rows", 5), ("single-more", 1)])
def test_a_few_random_damages_are_found(mpiexec, tmp_path, layout, seed):
    """Among them are some that were not."""
    end = mpiexec(0, PROGRAM, tmp_path, layout, seed, 3)

    assert end.returncode == 0, end.stdout + end.stderr


@pytest.mark.many
@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.timeout(1800)
def test_many_random_damages_are_found(mpiexec, tmp_path, layout):
    end = mpiexec(0, PROGRAM, tmp_path, layout, 1, 400, timeout_s=1700)

    assert end.returncode == 0, end.stdout + end.stderr


def run_rows(directory: Path, **more: Any) -> list[Any]:
    run(directory, "rank-rows", **more)
    return content(directory, "rank-rows")


@pytest.mark.parametrize("make", FOREIGN)
@pytest.mark.parametrize("name", [journal_name(0, 0), LINKED])
def test_what_has_the_name_of_a_file_is_no_obstacle(tmp_path, name, make):
    rows = run_rows(tmp_path)
    path = tmp_path / ".acme_mpi" / "row" / name
    path.unlink()
    make(path)

    assert run_rows(tmp_path, resume=True) == rows


def test_a_folder_in_the_place_of_a_file_is_to_be_moved_away(tmp_path):
    rows = run_rows(tmp_path)
    container = tmp_path / "row.h5"
    container.unlink()
    container.mkdir()

    with pytest.raises(StoreError) as told:
        run_rows(tmp_path, resume=True)

    assert str(told.value).splitlines() == [
        f"cannot write {container}: Is a directory; move it away",
        "  every task was run",
        f"  resume with: resume=True, output_dir='{tmp_path}'",
    ]
    container.rmdir()
    assert run_rows(tmp_path, resume=True) == rows


def test_a_folder_in_the_place_of_a_payload_is_an_error_and_no_more(tmp_path):
    """No complaint of Python's follows of an object that was never made."""
    run(tmp_path, "rank")
    payload = tmp_path / "several_payload" / "several_rank0_0.h5"
    payload.unlink()
    payload.mkdir()

    with pytest.raises(StoreError, match=f"{payload}: Is a directory"):
        acme_mpi.open(tmp_path)[0]
    gc.collect()
