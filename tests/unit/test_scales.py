"""Names and coordinates in the container, as xarray and plain h5py see them."""

from __future__ import annotations

import datetime
import errno
from typing import NamedTuple

import h5py
import numpy as np
import pytest

import acme_mpi
from acme_mpi import Grid, ParallelMap, PerTask
from acme_mpi.storage import contained, deferring
from acme_mpi.tasks.labels import Column, Labels

xarray = pytest.importorskip("xarray")
pytest.importorskip("h5netcdf")
pytestmark = pytest.mark.once

EVERY_LAYOUT = pytest.mark.parametrize(
    "layout", [{}, {"payload": "computation"}, {"single_file": True}]
)


class Fit(NamedTuple):
    slope: float
    curve: np.ndarray


def fit(sigma, seed, gain=1.0):
    return Fit(sigma * seed, np.full(2, sigma + seed))


def double(x, word=""):
    return x * 2.0


def opened(path):
    """Return a container as a newcomer opens it, without this package."""
    return xarray.open_dataset(path, engine="h5netcdf")


@EVERY_LAYOUT
def test_a_grid_has_its_axes(layout, tmp_path):
    grid = Grid(sigma=[1.0, 2.0, 4.0], seed=range(4))
    shape = {"slope": (None,), "curve": (None, 2)}
    words = {"result_shape": shape, "output_dir": str(tmp_path), **layout}
    acme_mpi.map(fit, grid, gain=3.5, **words)
    acme_mpi.map(fit, grid, gain=3.5, resume=True, **words)

    with opened(tmp_path / "fit.h5") as found:
        assert found["slope"].dims == ("sigma", "seed")
        assert found["curve"].dims == ("sigma", "seed", "curve_axis_0")
        assert float(found["slope"].sel(sigma=4, seed=3)) == 12
        assert np.array_equal(found["slope"], np.outer([1, 2, 4], range(4)))
        assert found.attrs["gain"] == 3.5
        assert found.attrs["function"] == "fit"


@EVERY_LAYOUT
def test_arguments_are_coordinates_of_the_tasks(layout, tmp_path):
    words = ["a", "b", "Größe"]
    acme_mpi.map(
        double, [1.5, 2, 3], words, result_shape=(None,), output_dir=str(tmp_path), **layout
    )

    with opened(tmp_path / "double.h5") as found:
        assert found["result_0"].dims == ("task",)
        assert found.coords["x"].values.tolist() == [1.5, 2, 3]
        assert found.coords["word"].values.tolist() == words
        assert found["result_0"].values.tolist() == [3, 4, 6]


def test_an_argument_beside_a_grid_has_its_axes(tmp_path):
    acme_mpi.map(
        fit,
        Grid(sigma=[1.0, 2.0], seed=[3, 4]),
        gain=PerTask([0.1, 0.2, 0.3, 0.4]),
        result_shape={"slope": (None,), "curve": (2, None)},
        output_dir=str(tmp_path),
    )

    with opened(tmp_path / "fit.h5") as found:
        assert found["curve"].dims == ("curve_axis_0", "sigma", "seed")
        assert found.coords["gain"].dims == ("sigma", "seed")
        assert found.coords["gain"].values.tolist() == [[0.1, 0.2], [0.3, 0.4]]


@pytest.mark.parametrize(
    "values",
    [
        [True, False],
        [1j, 2 + 0j],
        [datetime.datetime(2026, 1, 2, 3, 4, 5), datetime.datetime(2027, 1, 1)],
        np.array(["2026-01-02", "2026-01-03"], "M8[ns]"),
        np.array([1, 2], "u2"),
    ],
    ids=["bool", "complex", "datetime", "datetime64", "uint16"],
)
def test_values_of_every_kind_come_back(values, tmp_path):
    acme_mpi.map(count, list(values), result_shape=(None,), output_dir=str(tmp_path))

    with opened(tmp_path / "count.h5") as found:
        coordinate = found.coords["x"].values
        if coordinate.dtype.kind == "M":
            assert np.array_equal(coordinate, np.array(values, coordinate.dtype))
        else:
            assert coordinate.tolist() == list(values)


def count(x):
    return 1


@pytest.mark.parametrize(
    ("dtype", "values"),
    [
        ("bool", [True, False, True]),
        ("complex", [1 + 1j, -1, np.nan]),
        ("int16", [1, -2, 3]),
        ("float16", [0.5, np.nan, np.inf]),
    ],
)
def test_results_of_every_kind_are_what_they_were(dtype, values, tmp_path):
    words = {"result_shape": (None,), "result_dtype": dtype, "output_dir": str(tmp_path)}
    acme_mpi.map(lambda x: x, np.array(values, dtype), **words)

    with opened(tmp_path / "lambda.h5") as found:
        assert found["result_0"].dtype == dtype
        np.testing.assert_array_equal(found["result_0"], np.array(values, dtype))


def test_whole_numbers_that_are_missing_are_zero_and_listed(tmp_path):
    words = {"result_shape": (None,), "result_dtype": "int", "output_dir": str(tmp_path)}
    with pytest.raises(acme_mpi.TaskError):
        acme_mpi.map(lambda x: 10 // x, [1, 0, 5], **words)

    with opened(tmp_path / "lambda.h5") as found:
        assert found["result_0"].values.tolist() == [10, 0, 2]
        assert found["result_0"].attrs["missing"] == 1


def test_names_that_results_have_are_given_way(tmp_path):
    def f(power, result_1):
        return {"power": power}

    shape = {"power": (None,)}
    acme_mpi.map(f, [1, 2], [3, 4], result_shape=shape, output_dir=str(tmp_path))

    with opened(tmp_path / "f.h5") as found:
        assert found["power"].values.tolist() == [1, 2]
        assert found.coords["argument_power"].values.tolist() == [1, 2]
        assert found.coords["argument_result_1"].values.tolist() == [3, 4]


@EVERY_LAYOUT
def test_one_stacked_array_may_have_a_name(layout, tmp_path):
    words = {"result_shape": (None,), "result_names": ("twice",), **layout}
    acme_mpi.map(double, [1, 2], output_dir=str(tmp_path), **words)

    with opened(tmp_path / "double.h5") as found:
        assert found["twice"].values.tolist() == [2, 4]
    assert acme_mpi.open(tmp_path).names == ("twice",)


@EVERY_LAYOUT
def test_a_result_may_be_called_like_the_axis(layout, tmp_path):
    def f(task, argument_task):
        return {"task": task * 2.0, "argument_argument_task": 1}

    words = {"result_shape": "auto", "output_dir": str(tmp_path), **layout}
    acme_mpi.map(f, [1, 2], [3, 4], **words)
    acme_mpi.map(named_like_it, [1, 2], **words)

    for name in ("f", "named_like_it"):
        with opened(tmp_path / f"{name}.h5") as found:
            assert found["task"].values.tolist() == [2, 4]


def named_like_it(x):
    return {"task": x * 2.0}


def test_missing_tasks_are_nan_and_listed(tmp_path):
    def f(x):
        return 1 / x

    with pytest.raises(acme_mpi.TaskError):
        acme_mpi.map(f, [1, 0, 4], result_shape=(None,), output_dir=str(tmp_path))

    with opened(tmp_path / "f.h5") as found:
        assert np.isnan(found["result_0"].sel(task=1))
        assert found["result_0"].attrs["missing"] == 1


class TestReadersOfAcme:
    """What ACME's documents show of a container."""

    def test_groups_are_all_that_lies_in_the_root(self, tmp_path):
        acme_mpi.map(double, [1, 2, 3], output_dir=str(tmp_path))

        with h5py.File(tmp_path / "double.h5") as file:
            values = [file[name]["result_0"][()] for name in file]  # as they walk through it
            assert np.ravel(values).tolist() == [2, 4, 6]

    @EVERY_LAYOUT
    def test_a_stacked_result_is_the_only_key_of_parallel_map(self, layout, tmp_path):
        words = {"result_shape": (None,), "output_dir": str(tmp_path), **layout}
        with ParallelMap(double, [1, 2, 3], **words) as pmap:
            pmap.compute()

        with h5py.File(pmap.results_container) as file:
            assert list(file) == ["result_0"]

    def test_parallel_map_shows_the_axes_of_a_grid(self, tmp_path):
        grid, shape = Grid(sigma=[1.0, 2.0], seed=[1, 2, 3]), {"slope": (None,), "curve": (None, 2)}
        with ParallelMap(fit, grid, result_shape=shape, output_dir=str(tmp_path)) as pmap:
            pmap.compute()

        with opened(pmap.results_container) as found:
            assert found["slope"].dims == ("sigma", "seed")


@EVERY_LAYOUT
def test_two_equal_runs_leave_equal_containers(layout, tmp_path):
    for folder in ("one", "two"):
        acme_mpi.map(
            double, [1, 2, 3], result_shape=(None,), output_dir=str(tmp_path / folder), **layout
        )

    first, second = (tmp_path / name / "double.h5" for name in ("one", "two"))
    assert first.read_bytes() == second.read_bytes()


def test_damaged_labels_cost_nothing_but_labels(tmp_path, caplog):
    words = {"result_shape": (None,), "output_dir": str(tmp_path)}
    acme_mpi.map(double, [1, 2], **words)
    (tmp_path / "double.h5").unlink()
    (tmp_path / ".acme_mpi" / "double" / "labels.hdf5").write_bytes(b"x" * 1000)
    acme_mpi.map(double, [1, 2], resume=True, **words)

    assert "labels.hdf5" in caplog.text
    with h5py.File(tmp_path / "double.h5") as file:
        assert file["result_0"][()].tolist() == [2, 4]


def have_labels_read(monkeypatch, **odd):
    """Have stores find labels of a kind that no version writes."""
    found = Labels(**{"arguments": {"x": Column(np.arange(2))}, **odd})
    monkeypatch.setattr(contained, "read_labels", lambda *_: found)


@EVERY_LAYOUT
@pytest.mark.parametrize(
    "odd",
    [
        {"arguments": {"x": Column(np.arange(2)), "y": Column(np.array([{}, 1], object))}},
        {"arguments": {"x": Column(np.arange(2)), "y": Column(np.array(["a\0b", ""], object))}},
        {"arguments": {"task": Column(np.array([1, 2, 3]))}},
        {"arguments": {"x": None}},
        {"facts": {"": "without a name"}},
        {"shared": {"y": object()}},
    ],
    ids=["objects", "nul", "length", "nothing", "name", "shared"],
)
def test_odd_labels_cost_no_results(layout, odd, tmp_path, monkeypatch, caplog):
    have_labels_read(monkeypatch, **odd)
    words = {"result_shape": (None,), "output_dir": str(tmp_path), **layout}
    acme_mpi.map(double, [1, 2], **words)

    path = tmp_path / "double.h5"
    warnings = [each.getMessage() for each in caplog.records if each.levelname == "WARNING"]
    assert len(warnings) == 1
    assert f"{path} has all results" in warnings[0]
    with h5py.File(path) as file:
        assert file["result_0"][()].tolist() == [2, 4]
        assert list(file) == ["result_0"]
        assert not dict(file["result_0"].attrs)
    with xarray.open_dataset(path, engine="h5netcdf", phony_dims="sort") as found:
        assert found["result_0"].values.tolist() == [2, 4]


def test_odd_labels_cost_no_groups(tmp_path, monkeypatch, caplog):
    have_labels_read(monkeypatch, shared={"y": object()})
    acme_mpi.map(double, [1, 2], output_dir=str(tmp_path))

    assert "has all results" in caplog.text
    assert acme_mpi.open(tmp_path)[1].tolist() == [4]


@EVERY_LAYOUT
def test_a_full_disk_is_no_fault_of_labels(layout, tmp_path, monkeypatch):
    def refuse(*_):
        raise OSError(errno.ENOSPC, "No space left on device")

    def label(store, file):
        monkeypatch.setattr(deferring, "write_all", refuse)
        whole(store, file)

    whole = contained.ContainedStore.label
    monkeypatch.setattr(contained.ContainedStore, "label", label)
    words = {"result_shape": (None,), "output_dir": str(tmp_path), **layout}
    with pytest.raises(acme_mpi.StoreError, match="No space left"):
        acme_mpi.map(double, [1, 2], **words)


@EVERY_LAYOUT
def test_an_axis_may_have_any_name(layout, tmp_path):
    for k, name in enumerate(["", "a/b", ".", "a\0b", "\udc80", "DIMENSION_LIST"]):
        out = tmp_path / str(k)
        grid = Grid(**{name: [1.0, 2.0], "seed": [3, 4, 5]})
        acme_mpi.map(constant, grid, result_shape=(None,), output_dir=str(out), **layout)

        with opened(out / "constant.h5") as found:
            assert found["result_0"].sizes == {found["result_0"].dims[0]: 2, "seed": 3}
            assert found.coords["seed"].values.tolist() == [3, 4, 5]


def constant(**arguments):
    return 1.0


def test_times_and_durations_are_what_they_were(tmp_path):
    days = np.array(["2024-01-01T00:00:00.5", "NaT"], "M8[ns]")
    spans = np.array([1, 2], "m8[s]")
    acme_mpi.map(lambda day, span: 1.0, days, spans, output_dir=str(tmp_path), result_shape=(None,))

    with opened(tmp_path / "lambda.h5") as found:
        assert np.array_equal(found["span"], spans)
        assert np.array_equal(found["day"], days, equal_nan=True)
