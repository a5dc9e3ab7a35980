"""``result_shape="auto"``: the first result that ends decides on the form of all."""

from __future__ import annotations

import subprocess
import sys
from collections import namedtuple

import h5py
import numpy as np
import pytest

import acme_mpi
from acme_mpi import Grid, InputError, ParallelMap, TaskError
from acme_mpi.history.description import read_description
from acme_mpi.results.convert import ResultError
from acme_mpi.results.encoder import encoder_of
from acme_mpi.results.spec import first_form, make_row_spec

EVERY_LAYOUT = pytest.mark.parametrize(
    "layout",
    [{}, {"payload": "computation"}, {"single_file": True}],
    ids=["rank", "computation", "single_file"],
)


def row(x):
    return np.array([x, -x], "f4")


def named(x):
    return {"total": x + 0.5, "both": [x, 2 * x]}


def no_numbers(x):
    return [{1}, np.array(["a"]), None][x]


def uneven(x):
    return np.zeros(x)


def mapped(func, values, folder, **words):
    return acme_mpi.map(func, values, result_shape="auto", output_dir=str(folder), **words)


class TestForm:
    @pytest.mark.parametrize(
        ("value", "forms"),
        [
            (1.5, [("", (), "<f8")]),
            (3, [("", (), "<i8")]),
            (True, [("", (), "|b1")]),
            (np.ones((2, 3), ">f4"), [("", (2, 3), ">f4")]),
            ([1, 2, 3], [("", (3,), "<i8")]),
            ((1.0, np.zeros(2)), [("", (), "<f8"), ("", (2,), "<f8")]),
            ((1.0, "text", 2.0), [("", (), "<f8")]),
            ({"a": 1, "b": [1j]}, [("a", (), "<i8"), ("b", (1,), "<c16")]),
            (namedtuple("P", "x y")(1.0, 2), [("x", (), "<f8"), ("y", (), "<i8")]),
        ],
    )
    def test_it_is_that_of_the_value(self, value, forms):
        columns = first_form(value).columns

        assert [(each.name, each.shape, each.dtype) for each in columns] == forms
        assert [each.number for each in columns] == list(range(len(forms)))

    @pytest.mark.parametrize("value", ["text", None, ("a", 1), {"a": 1, "b": "text"}, ()])
    def test_what_is_no_number_cannot_be_stacked(self, value):
        with pytest.raises(ResultError, match="expected"):
            first_form(value)

    def test_a_value_that_has_none_does_not_decide(self):
        encoder = encoder_of(make_row_spec("auto", "float"), in_memory=False)
        with pytest.raises(ResultError):
            encoder.add(0, "text")
        encoder.add(1, 2.5)

        assert encoder.spec.dtype == "<f8"
        assert encoder.take().rows.tolist() == [2.5]

    def test_whoever_holds_on_to_add_goes_on(self):
        encoder = encoder_of(make_row_spec("auto", "float"), in_memory=False)
        add = encoder.add
        for index in range(3):
            add(index, [index, 1])

        assert encoder.take().rows.tolist() == [[0, 1], [1, 1], [2, 1]]

    @pytest.mark.parametrize(("ndim", "grid"), [(31, ()), (31, (4,)), (30, (2, 2))])
    def test_the_stacked_array_has_as_many_dimensions_as_hdf5_holds(self, ndim, grid):
        assert first_form(np.zeros((1,) * ndim), grid=grid).shape == (1,) * ndim
        for value in (np.zeros((1,) * (ndim + 1)), (1.0, np.zeros((1,) * (ndim + 1)))):
            with pytest.raises(ResultError, match=f"expected arrays of {ndim} dimensions at most"):
                first_form(value, grid=grid)

    def test_names_of_the_caller_count(self):
        assert first_form((1, 2), ("a", "b")).names == ("a", "b")
        with pytest.raises(ResultError, match="expected 3"):
            first_form((1, 2), ("a", "b", "c"))


class TestInFiles:
    @EVERY_LAYOUT
    def test_the_array_is_that_of_all_results(self, layout, tmp_path):
        mapped(row, range(7), tmp_path, **layout)

        with h5py.File(tmp_path / "row.h5") as file:
            assert file["result_0"].dtype == np.dtype("f4")
            assert np.array_equal(file["result_0"], [[x, -x] for x in range(7)])

    @EVERY_LAYOUT
    def test_named_results_on_a_grid(self, layout, tmp_path):
        words = {"result_shape": "auto", "output_dir": str(tmp_path), **layout}
        acme_mpi.map(named, Grid(x=[1, 2, 3]), **words)

        with h5py.File(tmp_path / "named.h5") as file:
            assert file["total"][()].tolist() == [1.5, 2.5, 3.5]
            assert file["both"][()].tolist() == [[1, 2], [2, 4], [3, 6]]

    @EVERY_LAYOUT
    def test_what_differs_has_failed_and_a_later_run_agrees(self, layout, tmp_path):
        with pytest.raises(TaskError) as caught:
            mapped(uneven, [2, 2, 3, 2], tmp_path, **layout)
        assert "expected shape (2,) float64, got shape (3,)" in str(caught.value.failures[0])

        with pytest.raises(TaskError):  # the one that is called alone does not decide anew
            mapped(uneven, [2, 2, 3, 2], tmp_path, resume="failed", **layout)
        with h5py.File(tmp_path / "uneven.h5") as file:
            assert file["result_0"].shape == (4, 2)
            assert file["result_0"].attrs["missing"].tolist() == [2]

    @EVERY_LAYOUT
    def test_what_has_too_many_axes_beside_those_of_the_grid_has_failed(self, layout, tmp_path):
        def f(x, y):
            return np.ones((1,) * 31) if x == 1 else float(y)

        words = {"result_shape": "auto", "output_dir": str(tmp_path), **layout}
        with pytest.raises(TaskError) as caught:
            acme_mpi.map(f, Grid(x=[1, 2], y=[3, 4]), **words)

        assert [each.index for each in caught.value.failures] == [0, 1]
        with h5py.File(tmp_path / "f.h5") as file:
            assert file["result_0"][1].tolist() == [3, 4]

    @EVERY_LAYOUT
    def test_a_run_without_results_decides_nothing(self, layout, tmp_path):
        switch = tmp_path / "switch"

        def f(x):
            if not switch.exists():
                raise ValueError("not yet")
            return [x] * 3

        with pytest.raises(TaskError):
            mapped(f, [1, 2], tmp_path / "out", **layout)
        switch.touch()
        mapped(f, [1, 2], tmp_path / "out", resume="failed", **layout)

        with h5py.File(tmp_path / "out" / "f.h5") as file:
            assert file["result_0"][()].tolist() == [[1, 1, 1], [2, 2, 2]]

    @EVERY_LAYOUT
    def test_commands_and_open_know_the_form(self, layout, tmp_path):
        mapped(row, range(3), tmp_path, **layout)
        assert read_description(str(tmp_path / ".acme_mpi" / "row")).spec.is_open

        ran = subprocess.run([sys.executable, "-m", "acme_mpi", "check", str(tmp_path)], timeout=60)
        assert ran.returncode == 0
        (tmp_path / "row.h5").unlink(missing_ok="single_file" not in layout)
        if "single_file" not in layout:
            recover = [sys.executable, "-m", "acme_mpi", "recover", str(tmp_path)]
            assert subprocess.run(recover, timeout=60).returncode == 0
            with h5py.File(tmp_path / "row.h5") as file:
                assert file["result_0"].shape == (3, 2)
            assert np.array_equal(acme_mpi.open(tmp_path)[2], [2, -2])

    def test_another_form_is_another_computation(self, tmp_path):
        mapped(row, range(3), tmp_path)
        words = {"result_shape": (None, 2), "output_dir": str(tmp_path), "resume": True}
        with pytest.raises(InputError, match="result_shape"):
            acme_mpi.map(row, range(3), **words)

    def test_parallel_map_takes_it(self, tmp_path):
        words = {"result_shape": "auto", "output_dir": str(tmp_path)}
        with ParallelMap(row, [1, 2, 3], **words) as pmap:
            pmap.compute()

        with h5py.File(pmap.results_container) as file:
            assert file["result_0"].shape == (3, 2)
        assert pmap.result_shape == "auto"


class TestInMemory:
    def test_the_values_are_stacked(self):
        values = acme_mpi.map(row, range(3), result_shape="auto", write_worker_results=False)

        assert values.dtype == np.dtype("f4")
        assert values.tolist() == [[0, 0], [1, -1], [2, -2]]

    def test_named_ones_are_a_dict(self):
        values = acme_mpi.map(named, [1, 2], result_shape="auto", write_worker_results=False)

        assert {name: value.tolist() for name, value in values.items()} == {
            "total": [1.5, 2.5],
            "both": [[1, 2], [2, 4]],
        }

    def test_what_differs_has_failed(self):
        with pytest.raises(TaskError) as caught:
            acme_mpi.map(uneven, [2, 3, 2], result_shape="auto", write_worker_results=False)

        assert [failure.index for failure in caught.value.failures] == [1]
        assert np.isnan(caught.value.results[1]).all()
        assert caught.value.results[2].tolist() == [0, 0]

    @pytest.mark.parametrize("keywords", [{"write_worker_results": False}, {"output_dir": "out"}])
    def test_what_is_no_number_is_told_alike(self, keywords, tmp_path, monkeypatch):
        monkeypatch.chdir(tmp_path)
        with pytest.raises(TaskError) as caught:
            acme_mpi.map(no_numbers, range(3), result_shape="auto", **keywords)

        unknown, words, nothing = [each.message for each in caught.value.failures]
        assert unknown.startswith("the function returned a value of type builtins.set")
        assert words.startswith("expected numbers, to be stacked, got an array of <U1; without")
        assert "got None; without `result_shape`" in nothing


@EVERY_LAYOUT
def test_ranks_agree_on_one_form(layout, mpiexec, tmp_path):
    (tmp_path / "mymod.py").write_text("def f(x):\n    return [x, x + 0.5]\n")
    option = {"payload": "--payload=computation", "single_file": "--single-file"}
    words = [option[name] for name in layout]

    args = ["--set", "x=[1,2,3,4,5,6,7,8,9]", "--result-shape", "auto", "--output-dir", "out"]
    ran = mpiexec(3, "-m", "acme_mpi", "mymod.py:f", *args, *words, cwd=tmp_path)

    assert ran.returncode == 0, ran.stderr
    with h5py.File(tmp_path / "out" / "f.h5") as file:
        assert file["result_0"][()].tolist() == [[x, x + 0.5] for x in range(1, 10)]
