"""What becomes of damaged files between two runs: right results, or a clear message."""

from __future__ import annotations

from pathlib import Path

import pytest
from damaged_runs import LAYOUTS

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
