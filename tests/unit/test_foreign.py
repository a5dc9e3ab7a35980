"""Values of other libraries: taken apart into arrays, and made again, they are equal."""

from __future__ import annotations

import json
import subprocess
import sys
from typing import Any

import numpy as np
import pytest

from acme_mpi.results.apart import MAX_NOTE_BYTES
from acme_mpi.results.convert import ResultError
from acme_mpi.results.foreign import restore, take_apart

pytestmark = pytest.mark.once

pandas = pytest.importorskip("pandas")
xarray = pytest.importorskip("xarray")

TIME = np.timedelta64(3, "s")
DAYS = pandas.date_range("2026-01-01", periods=3)
ZONED = pandas.date_range("2026-03-28", periods=3, freq="D", tz="Europe/Berlin")
LEVELS = pandas.MultiIndex.from_tuples([("a", 1), ("a", 2), ("b", 1)], names=["k", None])

MASKED = {
    "floats": np.ma.array([1.0, 2.0, 3.0], mask=[0, 1, 0]),
    "no mask": np.ma.array([1, 2]),
    "short strings": np.ma.array(["a", "b"], mask=[1, 0]),
    "fill value": np.ma.array([[1, 2], [3, 4]], mask=[[1, 0], [0, 0]], fill_value=-9, dtype="i2"),
    "hard": np.ma.array([1j, 2], mask=True, hard_mask=True),
    "strings": np.ma.array(["a", "bcd"], mask=[1, 0]),
    "times": np.ma.array(np.array(["2026-01-01", "NaT"], "M8[s]"), mask=[0, 1]),
    "one": np.ma.array(2.5, mask=True),
    "empty": np.ma.array(np.empty((0, 2)), mask=np.empty((0, 2), bool)),
}
SERIES = {
    "numbers": pandas.Series([1.5, np.nan], name="power"),
    "integers": pandas.Series([1, 2, 3], index=[5, 6, 9], dtype="int16"),
    "booleans": pandas.Series([True, False]),
    "strings": pandas.Series(["a", "Größe"], index=["x", "y"], name="name with / and 0"),
    "missing strings": pandas.Series(["a", None, "b"], dtype="str"),
    "nullable": pandas.Series([1, None, 3], dtype="Int32"),
    "nullable booleans": pandas.Series([True, None], dtype="boolean"),
    "nullable floats": pandas.Series([0.5, None], dtype="Float64"),
    "string dtype": pandas.Series(["a", None], dtype="string"),
    "objects that are strings": pandas.Series(["a", "b"], dtype=object),
    "times": pandas.Series([1.0, 2.0, 3.0], index=DAYS, name=3),
    "differences": pandas.Series(DAYS - DAYS[0], name=None),
    "zoned": pandas.Series(ZONED, index=ZONED),
    "levels": pandas.Series([1, 2, 3], index=LEVELS),
    "range": pandas.Series([1, 2], index=pandas.RangeIndex(3, 7, 2, name="n")),
    "index without frequency": pandas.Series([1, 2], index=DAYS[[0, 2]]),
    "empty": pandas.Series([], dtype="f4"),
    "the same label twice": pandas.Series([1, 2], index=["a", "a"]),
    "labels that may not be doubled": pandas.Series([1, 2]).set_flags(
        allows_duplicate_labels=False
    ),
    "float index": pandas.Series([1], index=pandas.Index([0.5], name=(1.5))),
}
FRAMES = {
    "columns": pandas.DataFrame({"b": [1, 2], "a": ["x", "y"], "c": [0.5, np.nan]}),
    "numbers for labels": pandas.DataFrame(np.arange(6.0).reshape(2, 3)),
    "labels that are taken": pandas.DataFrame({"index": [1], "columns": [2.0], "result_1": [3]}),
    "a row twice": pandas.DataFrame({"a": ["x", "y"]}, index=[1, 1], dtype=object),
    "twice": pandas.DataFrame([[1, 2.5]], columns=["a", "a"]),
    "levels": pandas.DataFrame({"v": [1, 2, 3]}, index=LEVELS),
    "levels of columns": pandas.DataFrame([[1, 2, 3]], columns=LEVELS),
    "times for labels": pandas.DataFrame([[1, 2, 3]], columns=DAYS),
    "every kind": pandas.DataFrame(
        {"i": pandas.array([1, None], "Int64"), "t": DAYS[:2], "z": ZONED[:2], "o": [True, False]}
    ),
    "no rows": pandas.DataFrame({"a": np.empty(0, "i4"), "b": np.empty(0, "f8")}),
    "no columns": pandas.DataFrame(index=["a", "b"]),
    "labels that may not be doubled": pandas.DataFrame({"a": [1]}).set_flags(
        allows_duplicate_labels=False
    ),
    "many columns": pandas.DataFrame(np.zeros((2, 500))),
}
GRID = xarray.DataArray(
    np.arange(6.0).reshape(2, 3),
    {"x": [1, 2], "t": ("t", DAYS, {"axis": "T"}), "s": ("x", ["a", "bc"]), "n": 5},
    ("x", "t"),
    "power",
    {"unit": "W", "limits": [1, 2.5], "scale": np.float32(0.1), "of": np.arange(3), "m": {"a": 1}},
)
XARRAYS = {
    "coordinates": GRID,
    "no name, no coordinates": xarray.DataArray(np.ones((2, 2), "f4")),
    "one value": xarray.DataArray(5),
    "a name that is none for HDF5": xarray.DataArray([1], dims="x", name=3),
    "dataset": xarray.Dataset(
        {
            "b": GRID,
            "result_1": 5,
            "a": ("x", np.array(["u", "v"], object)),
            "d": ((), np.timedelta64(3, "s")),
        },
        attrs={"title": "Größe"},
    ),
    "dimensions alone": xarray.Dataset(coords={"x": [1, 2, 3]}),
}


def through(value: Any) -> Any:
    """Return what is made again of the arrays and the note of a value."""
    apart = take_apart(value)
    assert all(isinstance(each, np.ndarray) for each in apart.arrays.values())
    assert all(each.dtype.kind in "biufcOS" for each in apart.arrays.values())
    return restore(apart.text(), dict(apart.arrays))


@pytest.mark.parametrize("name", MASKED)
def test_masked_arrays(name):
    value, again = MASKED[name], through(MASKED[name])

    assert (again.dtype, again.shape, again.hardmask) == (value.dtype, value.shape, value.hardmask)
    assert (again.mask is np.ma.nomask) == (value.mask is np.ma.nomask)
    np.testing.assert_array_equal(again.mask, value.mask)
    assert again.data.tobytes() == value.data.tobytes()
    assert again.fill_value == value.fill_value or np.isnat(value.fill_value)


@pytest.mark.parametrize("name", SERIES)
def test_series(name):
    pandas.testing.assert_series_equal(through(SERIES[name]), SERIES[name], check_index_type=True)


@pytest.mark.parametrize("name", FRAMES)
def test_frames(name):
    value = FRAMES[name]

    pandas.testing.assert_frame_equal(
        through(value), value, check_index_type=True, check_column_type=True
    )


@pytest.mark.parametrize("name", XARRAYS)
def test_xarrays(name):
    value, again = XARRAYS[name], through(XARRAYS[name])

    xarray.testing.assert_identical(again, value)
    parts = value.variables if isinstance(value, xarray.Dataset) else value.coords
    assert {k: again[k].dtype for k in parts} == {k: value[k].dtype for k in parts}
    assert list(again.xindexes) == list(value.xindexes)


def test_the_data_come_first_and_are_called_as_there():
    assert list(take_apart(GRID).arrays) == ["power", "x", "t", "s", "n"]
    assert list(take_apart(FRAMES["columns"]).arrays) == ["b", "a", "c", "columns"]
    assert list(take_apart(SERIES["missing strings"]).arrays) == ["values", "values_mask"]
    assert list(take_apart(FRAMES["labels that are taken"]).arrays)[:3] == [
        "index",
        "columns",
        "column_2",
    ]


@pytest.mark.parametrize(
    ("value", "why"),
    [
        (np.ma.array([(1, 2.0)], dtype=[("a", "i4"), ("b", "f8")]), "masked array of dtype"),
        (np.ma.array([None, 1], dtype=object), "masked array of dtype object"),
        (pandas.Series([1, "a"], dtype=object), "holds int"),
        (pandas.Series(["a", "b"], dtype="category"), "a dtype that is not kept: category"),
        (pandas.Series([1], index=pandas.period_range("2026", periods=1, freq="Y")), "PeriodIndex"),
        (pandas.Series([1.0], name=("a", 1)), "of type tuple"),
        (pandas.DataFrame({"a": [[1, 2]]}), "holds list"),
        (xarray.DataArray([1], attrs={"f": len}), "builtin_function_or_method"),
        (xarray.DataArray(np.array([1, "a"], object)), "holds int"),
        (GRID.stack(z=("x", "t")), "an index of several coordinates"),
        (GRID.drop_indexes("x"), "or none for one"),
        (xarray.DataArray([1], attrs={"note": "a" * MAX_NOTE_BYTES}), "too much to say"),
    ],
)
def test_what_cannot_be_kept_is_refused(value, why):
    with pytest.raises(ResultError, match=why):
        take_apart(value).text()


@pytest.mark.parametrize(
    "value", [1, {"a": 1}, np.ones(3), np.ma.masked, pandas.Index([1]), DAYS[0]]
)
def test_other_values_are_none_of_these(value):
    assert take_apart(value) is None


def test_no_library_is_imported_for_values_of_others():
    code = (
        "import sys, numpy; from acme_mpi.results.foreign import take_apart\n"
        "take_apart(5), take_apart({}), take_apart(numpy.ma.array([1])).text()\n"
        "assert not {'pandas', 'xarray', 'h5py'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_a_note_of_a_later_version_is_refused():
    note = json.loads(take_apart(GRID).text())

    with pytest.raises(ValueError, match="later version"):
        restore(json.dumps({**note, "version": 2}), {})


@pytest.mark.parametrize("text", ["", "[]", "{", "null"])
def test_what_is_no_note_is_refused(text):
    with pytest.raises(ValueError, match=r"Expect|note"):
        restore(text, {})
