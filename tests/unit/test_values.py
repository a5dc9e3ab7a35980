"""What a function returns costs at most its own task, and is stored alike in every layout."""

from __future__ import annotations

import os
import pickle
import time
from pathlib import Path

import h5py
import numpy as np
import pytest

import acme_mpi
from acme_mpi import ParallelMap, TaskError
from acme_mpi.cli.commands import run_command

LAYOUTS = {
    "rank": {},
    "computation": {"payload": "computation"},
    "single_file": {"single_file": True},
}
IN_MEMORY = {"write_worker_results": False}
UNION = {"names": ["w", "lo", "hi"], "formats": ["u4", "u2", "u2"], "offsets": [0, 0, 2]}
MASKED = np.ma.array([1.0, 99.0], mask=[0, 1])
REFUSED = {
    "33 dimensions": np.ones((1,) * 33),
    "3000 columns": np.zeros(1, [(f"c{i}", "f8") for i in range(3000)]),
    "no bytes": np.zeros(1, [("a", "S0"), ("b", "i4")]),
    "overlap": np.zeros(3, UNION),
    "masks": (1, [MASKED] * 2),
    "rounded": [2**63 + 1, -1],
    "NUL": b"ab\0",
}


@pytest.mark.once
@pytest.mark.parametrize("layout", LAYOUTS)
def test_what_hdf5_refuses_costs_its_task_alone(layout, tmp_path):
    """HDF5 itself would have stopped the run, as if the disk were at fault."""
    refused = list(REFUSED.values())

    def f(i):
        return refused[i // 2] if i % 2 else float(i)

    n_tasks = 2 * len(refused)
    with pytest.raises(TaskError) as caught:
        acme_mpi.map(f, range(n_tasks), output_dir=str(tmp_path / "o"), **LAYOUTS[layout])

    assert [each.index for each in caught.value.failures] == list(range(1, n_tasks, 2))
    with h5py.File(tmp_path / "o" / "f.h5") as file:
        assert list(file) == [f"comp_{i}" for i in range(0, n_tasks, 2)]


@pytest.mark.once
def test_what_hdf5_refuses_is_pickled_where_that_is_wanted(tmp_path):
    refused = list(REFUSED.values())

    def f(i):
        return refused[i]

    with ParallelMap(f, range(len(refused)), output_dir=str(tmp_path / "o")) as pmap:
        paths = pmap.compute()

    assert all(path.endswith(".pickle") for path in paths)


@pytest.mark.once
def test_in_memory_nothing_is_refused():
    values = list(REFUSED.values())
    results = acme_mpi.map(lambda i: values[i], range(len(values)), **IN_MEMORY)

    assert all(map(np.array_equal, results[:4], values[:4]))
    assert results[5:] == values[5:]


@pytest.mark.once
@pytest.mark.parametrize("layout", LAYOUTS)
def test_a_resume_reads_back_what_was_written(layout, tmp_path):
    """A lone string was read without the bytes that fill it up, and declared damaged."""
    log = tmp_path / "calls"
    values = [
        (np.array(b"ab", "S10"), 1.5),
        (np.array((1, 2.5), [("a", "i1"), ("b", "f8")]), "text"),
        (np.longdouble(1) / 3, np.zeros((0, 3)), None),
        np.zeros(2, {"names": ["a"], "formats": ["i4"], "offsets": [8], "itemsize": 24}),
    ]

    def f(i):
        with log.open("a") as file:
            file.write(".")
        return values[i]

    form = {"output_dir": str(tmp_path / "o"), **LAYOUTS[layout]}
    acme_mpi.map(f, range(4), **form)
    assert run_command(["check", str(tmp_path / "o")]) == 0
    for path in (tmp_path / "o").rglob("*.h5"):
        os.utime(path)  # so that all of it is read again
    acme_mpi.map(f, range(4), resume=True, **form)

    assert log.read_text() == "...."


@pytest.mark.once
@pytest.mark.parametrize("rows", [False, True], ids=["parts", "rows"])
@pytest.mark.parametrize("layout", LAYOUTS)
def test_two_equal_runs_write_equal_files(layout, rows, tmp_path, monkeypatch):
    """Objects of HDF5 have times of their own, in seconds, unless one says no."""

    def f(i):
        return (np.full(3, i), "text", None)

    shape = {"result_shape": (None, 3)} if rows else {}
    contents = []
    begin_s = int(time.time())
    for k in range(2):
        while int(time.time()) == begin_s + k:  # the next second
            acme_mpi.map(f, [0], **IN_MEMORY)
        acme_mpi.map(f, range(3), output_dir=str(tmp_path / "o"), **shape, **LAYOUTS[layout])
        files = sorted((tmp_path / "o").rglob("*.h5"))
        contents.append({path.name: path.read_bytes() for path in files})
        (tmp_path / "o").rename(tmp_path / f"o{k}")

    assert contents[0] == contents[1]


@pytest.mark.parametrize("shape", [(None, 100_000), None], ids=["rows", "parts"])
@pytest.mark.parametrize("layout", [*LAYOUTS, "memory"])
def test_a_map_of_a_file_that_was_cut_costs_its_task_alone(layout, shape, tmp_path):
    """Reading its memory is a bus error, writing it to a file a bad address."""
    path = tmp_path / "cut"

    def f(i):
        if i == 1:
            mapped = np.memmap(path, "f8", "w+", shape=(100_000,))
            os.truncate(path, 10)
            return mapped
        return np.full(100_000, float(i))

    form = IN_MEMORY if layout == "memory" else {"output_dir": str(tmp_path / "o")}
    with pytest.raises(TaskError) as caught:
        acme_mpi.map(f, range(3), result_shape=shape, **form, **LAYOUTS.get(layout, {}))

    assert [each.index for each in caught.value.failures] == [1]


@pytest.mark.once
class TestRows:
    def test_what_comes_after_the_row_stays_as_it_was_in_memory(self):
        def f(x):
            return np.full(3, x), {"m": x}, 5

        rows, *rest = acme_mpi.map(f, [1, 2], result_shape=(None, 3), **IN_MEMORY)

        assert rows.tolist() == [[1, 1, 1], [2, 2, 2]]
        assert rest == [{"m": 1}, 5, {"m": 2}, 5]
        assert type(rest[1]) is int

    def test_those_of_a_failed_task_are_left_out(self):
        def f(x):
            return (np.full(3, x), x) if x != 1 else np.zeros(4)

        with pytest.raises(TaskError) as caught:
            acme_mpi.map(f, range(3), result_shape=(None, 3), **IN_MEMORY)

        assert caught.value.results[1:] == [0, 2]

    def test_a_tuple_of_numbers_is_a_row(self):
        values = acme_mpi.map(lambda x: (1, 2.5, x), [1, 2], result_shape=(None, 3), **IN_MEMORY)

        assert values.tolist() == [[1, 2.5, 1], [1, 2.5, 2]]

    @pytest.mark.parametrize("shape", [(None, 3), (3, None), (None, np.inf)], ids=str)
    @pytest.mark.parametrize("payload", ["computation", "rank"])
    def test_a_result_that_is_none_is_pickled_and_its_row_missing(self, payload, shape, tmp_path):
        """As ACME does; the others keep their rows, also at the resume."""

        def g(x):
            return {"m": x} if x == 2 else np.full(3, x)

        form = {"result_shape": shape, "output_dir": str(tmp_path / "o"), "payload": payload}
        with ParallelMap(g, [1, 2, 3], **form) as pmap:
            paths = pmap.compute()
        with ParallelMap(g, [1, 2, 3], resume=True, **form) as again:
            assert again.compute() == paths

        assert pickle.loads(Path(paths[1]).read_bytes()) == [{"m": 2}]
        with h5py.File(pmap.results_container) as file:
            rows = np.moveaxis(file["result_0"][()], shape.index(None), 0)
            assert file["result_0"].attrs["missing"].tolist() == [1]
        assert np.isnan(rows[1]).all()
        assert rows[::2].tolist() == [[1, 1, 1], [3, 3, 3]]
