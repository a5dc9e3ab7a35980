"""Functions that return values of pandas, xarray, and masked arrays: `open` gives them back."""

from __future__ import annotations

from pathlib import Path
from typing import Any, NamedTuple

import h5py
import numpy as np
import pytest
from computing import ON_DISK

import acme_mpi
from acme_mpi import ParallelMap
from acme_mpi.cli.commands import run_command

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("module_runner", "folder")]

pandas = pytest.importorskip("pandas")
xarray = pytest.importorskip("xarray")


def series(x):
    return pandas.Series([x, None, 2.5], index=["a", "b", "c"], name="power")


def frame(x):
    return pandas.DataFrame({"time": pandas.date_range("2026", periods=2), "name": ["a", f"{x}"]})


def labelled(x):
    data = np.full((2, 10_000), x, "f8")
    return xarray.DataArray(data, {"x": [1, 2]}, ("x", "t"), "power", {"unit": "W"})


def dataset(x):
    return labelled(x).to_dataset().assign(note=("x", ["a", "bc"]))


def masked(x):
    return np.ma.array([x, 2.0], mask=[0, 1])


def assert_masked_equal(found: Any, expected: Any) -> None:
    assert isinstance(found, np.ma.MaskedArray)
    assert found.mask.tolist() == expected.mask.tolist()
    assert found.data.tolist() == expected.data.tolist()


class Several(NamedTuple):
    """Results of which some are of other libraries."""

    n: int
    power: Any
    table: Any


def several(x):
    return Several(x, series(x), frame(x))


def in_a_dict(x):
    return {"table": frame(x), "mask": masked(x), "none": None, "of": dataset(x), "text": "ü"}


def in_a_tuple(x):
    return x, labelled(x), "a", masked(x), np.arange(20_000.0) + x


def in_a_list(x):
    return [masked(x), np.arange(3), series(x)]


def alone_in_a_tuple(x):
    return (pandas.Series([x, 2]),)


def empty(x):
    return {"frame": pandas.DataFrame(), "set": xarray.Dataset(), "x": x}


def nothing(x):
    return pandas.DataFrame()


def assert_several_equal(found: Any, expected: Any) -> None:
    if hasattr(expected, "_asdict"):
        expected = expected._asdict()
    if isinstance(expected, dict):
        assert list(found) == list(expected)
        found, expected = found.values(), expected.values()
    else:
        assert isinstance(found, tuple)
    for value, again in zip(expected, found, strict=True):
        if isinstance(value, pandas.Series):
            pandas.testing.assert_series_equal(again, value)
        elif isinstance(value, pandas.DataFrame):
            pandas.testing.assert_frame_equal(again, value)
        elif isinstance(value, (xarray.DataArray, xarray.Dataset)):
            xarray.testing.assert_identical(again, value)
        elif isinstance(value, np.ma.MaskedArray):
            assert_masked_equal(again, value)
        else:
            np.testing.assert_array_equal(again, value)
            assert not isinstance(value, (int, str)) or np.ndim(again) == 0


CASES = {
    series: pandas.testing.assert_series_equal,
    frame: pandas.testing.assert_frame_equal,
    labelled: xarray.testing.assert_identical,
    dataset: xarray.testing.assert_identical,
    masked: assert_masked_equal,
    nothing: pandas.testing.assert_frame_equal,
    **dict.fromkeys(
        [several, in_a_dict, in_a_tuple, in_a_list, alone_in_a_tuple, empty], assert_several_equal
    ),
}


@pytest.mark.parametrize("func", CASES, ids=lambda func: func.__name__)
@pytest.mark.parametrize("keywords", ON_DISK)
def test_they_are_equal_when_they_are_opened(func, keywords):
    ParallelMap(func, [1, 4], output_dir="out", **keywords).compute()

    with acme_mpi.open("out") as results:
        for value, x in zip(results, (1, 4), strict=True):
            CASES[func](value, func(x))


@pytest.mark.parametrize("keywords", ON_DISK)
def test_plain_h5py_finds_the_data_by_name_and_number(keywords):
    pmap = ParallelMap(labelled, [1, 4], output_dir="out", **keywords)
    pmap.compute()

    with h5py.File(pmap.results_container) as file:
        group = file["comp_1"]
        np.testing.assert_array_equal(group["power"], np.full((2, 10_000), 4.0))
        assert group.get("result_0", getlink=True).path == "power"
        assert group["x"][:].tolist() == [1, 2]
        assert '"class": "xarray.DataArray"' in group.attrs["acme_mpi"]


@pytest.mark.parametrize("keywords", ON_DISK)
def test_numbers_among_several_lead_to_the_values(keywords):
    for func in (in_a_tuple, several):
        pmap = ParallelMap(func, [1, 4], output_dir="out", **keywords)
        pmap.compute()
        with h5py.File(pmap.results_container) as file:
            group = file["comp_1"]
            if func is in_a_tuple:
                assert [group[f"result_{k}"].shape[:1] for k in range(5)] == [
                    (),
                    (2,),
                    (),
                    (2,),
                    (20_000,),
                ]
                assert group["result_1.x"][:].tolist() == [1, 2]
                assert group["result_3.mask"][:].tolist() == [False, True]
            else:
                names = ["n", "power", "table.time", "power.index", "table.name", "table.columns"]
                assert [name for name in group if "result" not in name] == names
                assert group.get("result_2", getlink=True).path == "table.time"


def test_names_may_be_given_to_values_of_libraries():
    acme_mpi.map(frame, [1, 4], output_dir="out", result_names=("table",))
    acme_mpi.map(in_a_list, [1, 4], output_dir="out", result_names=("a", "b", "c"))

    pandas.testing.assert_frame_equal(acme_mpi.open("out", name="frame")[1]["table"], frame(4))
    assert_several_equal(
        acme_mpi.open("out", name="in_a_list")[0],
        dict(zip("abc", in_a_list(1), strict=True)),
    )


def test_names_of_arrays_among_several_give_way():
    def f(x):
        return {"a": pandas.Series([x], index=["u"]), "a.index": 5, "result_2": frame(x)}

    acme_mpi.map(f, [1], output_dir="out")
    assert_several_equal(acme_mpi.open("out")[0], f(1))


def test_names_of_several_are_those_of_all_tasks():
    def f(x):
        return {"a" if x < 3 else "b": frame(x), "n": x}

    with pytest.raises(acme_mpi.TaskError, match=r"1 of 2 tasks failed.*missing: a"):
        acme_mpi.map(f, [1, 4], output_dir="out", isolate=False)


@pytest.mark.parametrize("keywords", ON_DISK)
def test_a_note_that_was_changed_is_found(keywords, capsys):
    for func in (in_a_tuple, in_a_dict):
        ParallelMap(func, [1, 4], output_dir=func.__name__, **keywords).compute()
        assert run_command(["check", func.__name__]) == 0
    ParallelMap(labelled, [1, 4], output_dir="out", **keywords).compute()
    assert run_command(["check", "out"]) == 0

    path = "out/labelled.h5" if "single_file" in keywords else payload_of(1)
    with h5py.File(path, "r+") as file:
        group = file.get("comp_1", file)
        group.attrs["acme_mpi"] = group.attrs["acme_mpi"].replace('"W"', '"V"')

    assert run_command(["check", "out"]) == 74
    assert "the checksum differs" in capsys.readouterr().out


def payload_of(task: int) -> Path:
    found = sorted(Path("out/labelled_payload").iterdir())
    return found[-1 if len(found) == 1 else task]


def test_what_cannot_be_kept_is_a_failed_task_that_says_why():
    def f(x):
        return pandas.Series(["a", "b"], dtype="category")

    with pytest.raises(acme_mpi.TaskError, match="a dtype that is not kept: category"):
        acme_mpi.map(f, [1], output_dir="out", isolate=False)


def test_in_a_parallel_map_it_is_pickled():
    def f(x):
        return pandas.Series(["a", "b"], dtype="category")

    (file,) = ParallelMap(f, [1]).compute()

    assert Path(file).suffix == ".pickle"
