"""Rows of a single file whose tasks are not the first axis."""

from __future__ import annotations

import math
import os
import shutil

import h5py
import numpy as np
import pytest
from storing import FAILED, Case, encode, store_case

from acme_mpi.comm import SerialWorld
from acme_mpi.history.folders import make_folders
from acme_mpi.history.records import read_history
from acme_mpi.results.spec import make_row_spec
from acme_mpi.storage import Layout, make_store
from acme_mpi.storage.contained import joined
from acme_mpi.storage.shared_rows import SharedRows
from acme_mpi.storage.slabs import slabs
from acme_mpi.storage.verify import look

pytestmark = pytest.mark.once


@pytest.mark.parametrize("most", [1, 8, 24, 100, 10**6])
@pytest.mark.parametrize("shape", [(5,), (7, 3), (2, 3, 4), (4, 1, 5), (1, 1, 1), (3, 0, 2)])
def test_slabs_follow_one_another(shape, most):
    array = np.arange(math.prod(shape), dtype="i8").reshape(shape)
    parts = [array[where] for where in slabs(shape, 8, most)]
    assert all(part.nbytes <= max(8, most) for part in parts)
    assert np.array_equal(np.concatenate([np.empty(0), *map(np.ravel, parts)]), array.ravel())


@pytest.mark.parametrize("most", [1, 16, 40, 10**6])
def test_rows_of_consecutive_tasks_are_joined(most):
    own = [(0, 1), (1, 1), (2, 3), (7, 1), (8, 2), (10, 1), (3, 2), (5, 1)]  # first task, count
    rows = [(first, np.arange(first, first + n, dtype="i8")[:, np.newaxis]) for first, n in own]
    parts = list(joined(iter(rows), most))

    tasks = [task for first, part in parts for task in range(first, first + len(part))]
    assert tasks == [task for first, n in own for task in range(first, first + n)]
    assert tasks == np.concatenate([part[:, 0] for _, part in parts]).tolist()
    assert all(part.nbytes <= max(most, 3 * 8) for _, part in parts)
    assert len(parts) == {1: 8, 16: 7, 40: 3, 10**6: 3}[most]


VALUES = [np.arange(6.0).reshape(2, 3) + 10 * k for k in range(11)]
FORMS = {"axis 1": (2, None, 3), "axis 2": (2, 3, None)}


@pytest.mark.parametrize("most", [1, 16, 100, 300])
@pytest.mark.parametrize("shape", FORMS.values(), ids=FORMS)
@pytest.mark.parametrize("size", [1, 3])
def test_many_slabs_hold_what_one_does(size, shape, most, tmp_path, monkeypatch):
    monkeypatch.setattr("acme_mpi.storage.slabs.SLAB_BYTES", most)
    case = Case([FAILED, *VALUES, FAILED], shape)

    path = store_case("single_file", size, tmp_path / "out", case)

    blank = np.full((2, 3), np.nan)
    with h5py.File(path) as file:
        rows = np.moveaxis(file["result_0"][()], case.spec.axis, 0)
        assert np.array_equal(rows, [blank, *VALUES, blank], equal_nan=True)
        assert file["result_0"].attrs["missing"].tolist() == [0, 12]


@pytest.mark.parametrize("shape", FORMS.values(), ids=FORMS)
def test_a_run_resumes_with_rows_of_an_earlier_version(shape, tmp_path):
    """A run resumes with rows that an earlier version wrote into the file."""
    case = Case([*VALUES, FAILED], shape)
    path = store_case("single_file", 1, tmp_path / "out", case)
    layout = Layout(str(path.parent), "f")
    # That version had no rows in the spool, and the file had its name only at the end.
    shutil.rmtree(os.path.join(layout.directory, layout.spool_folder))
    os.replace(path, layout.partial)
    whole = Case([*VALUES, VALUES[0]], shape)
    layout = layout._replace(run=1)
    make_folders("single_file", layout)
    store = make_store("single_file", SerialWorld(), layout, whole.spec, len(whole.values))

    store.restore()
    assert look(store, read_history(layout.dot_folder))[0] == []
    store.open()
    store.write(encode(store, whole, range(11, 12)))
    store.close()
    store.commit()

    with h5py.File(path) as file:
        rows = np.moveaxis(file["result_0"][()], whole.spec.axis, 0)
        assert np.array_equal(rows, whole.values)
        assert "missing" not in file["result_0"].attrs


def test_a_second_name_that_a_killed_run_has_left_is_removed(tmp_path):
    path = tmp_path / "f.h5.partial"
    left = tmp_path / "f.h5.partial.5fad2e9f434bef66"
    left.symlink_to(path.name)
    tried = tmp_path / "f.h5.partial.8ac46f031607394b.locktest.0"
    tried.touch()
    shared = SharedRows(SerialWorld(), str(path), make_row_spec((None,), "float"), 3)
    shared.open()
    shared.close()

    assert path.exists()
    assert not os.path.lexists(left)
    assert not tried.exists()
