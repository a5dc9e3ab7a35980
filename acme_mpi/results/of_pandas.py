"""Series and DataFrames of pandas: the columns by their names, then index and labels of columns."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from acme_mpi.results.apart import Apart, Note, array_of, from_plain, plain
from acme_mpi.results.convert import Array, ResultError
from acme_mpi.results.named import checked_names


def series_apart(value: Any) -> Apart:
    """Take a Series apart.

    Raises
    ------
    ResultError
        Not all of it can be kept.
    """
    apart = Apart("pandas.Series")
    apart.note["values"] = _add(apart, _name(value.name, "values"), value)
    apart.note["name"] = plain(value.name)
    apart.note["index"] = _add_index(apart, "index", value.index)
    _add_attributes(apart, value)
    return apart


def frame_apart(value: Any) -> Apart:
    """Take a DataFrame apart; raises as `series_apart`."""
    apart = Apart("pandas.DataFrame")
    apart.note["data"] = [
        _add(apart, _name(label, f"column_{k}"), value.iloc[:, k])
        for k, label in enumerate(value.columns)
    ]
    apart.note["index"] = _add_index(apart, "index", value.index)
    apart.note["columns"] = _add_index(apart, "columns", value.columns)
    _add_attributes(apart, value)
    return apart


def series_of(note: Note, arrays: Mapping[str, Array]) -> Any:
    """Return a Series as it was."""
    import pandas

    values, index = _values(note["values"], arrays), _index(note["index"], arrays)
    series = pandas.Series(values, index, values.dtype, from_plain(note["name"]))
    return _with_attributes(series, note)


def frame_of(note: Note, arrays: Mapping[str, Array]) -> Any:
    """Return a DataFrame as it was."""
    import pandas

    index = _index(note["index"], arrays)
    data = [_values(each, arrays) for each in note["data"]]
    # A Series keeps strings that are objects what they are.
    columns = {k: pandas.Series(values, dtype=values.dtype) for k, values in enumerate(data)}
    frame = pandas.DataFrame(columns, index=range(len(index)))
    frame.index, frame.columns = index, _index(note["columns"], arrays)
    return _with_attributes(frame, note)


def _add_attributes(apart: Apart, value: Any) -> None:
    apart.note["attrs"] = plain(value.attrs)
    if not value.flags.allows_duplicate_labels:
        apart.note["has_distinct_labels"] = True


def _with_attributes(value: Any, note: Note) -> Any:
    value.attrs = from_plain(note["attrs"])
    if note.get("has_distinct_labels"):
        value.flags.allows_duplicate_labels = False
    return value


def _name(label: Any, other: str) -> str:
    """Return a label if a dataset can be called so, else another name."""
    try:
        return checked_names((label,))[0]
    except ResultError:
        return other


def _add(apart: Apart, name: str, values: Any) -> Note:
    """Add what a Series or Index holds; where something is missing a mask tells."""
    import pandas

    if isinstance(values.dtype, np.dtype):
        return apart.add(name, np.asarray(values))
    dtype: Any = values.dtype
    text = str(dtype)
    if isinstance(dtype, pandas.DatetimeTZDtype):
        note = apart.add(name, pandas.DatetimeIndex(values).tz_convert(None).to_numpy())
    elif isinstance(dtype, pandas.StringDtype):
        note = apart.add(name, values.to_numpy(object, na_value=""))
    elif isinstance(dtype, _nullable()):
        note = apart.add(name, values.to_numpy(values.dtype.numpy_dtype, na_value=0))
    else:
        raise ResultError(f"a pandas object with a dtype that is not kept: {text}")
    if pandas.api.types.pandas_dtype(text) != dtype:
        raise ResultError(f"a pandas object with a dtype that its name does not tell: {dtype!r}")
    is_missing = np.asarray(values.isna())
    if is_missing.any() and not isinstance(dtype, pandas.DatetimeTZDtype):
        note["mask"] = apart.add(f"{name}_mask", is_missing)
    return {**note, "pandas": text}


def _nullable() -> tuple[type, ...]:
    import pandas

    sizes = (8, 16, 32, 64)
    names = (*(f"Int{n}Dtype" for n in sizes), *(f"UInt{n}Dtype" for n in sizes))
    others = ("Float32Dtype", "Float64Dtype", "BooleanDtype")
    return tuple(getattr(pandas, name) for name in (*names, *others))


def _values(note: Note, arrays: Mapping[str, Array]) -> Any:
    import pandas

    array = array_of(note, arrays)
    if "pandas" not in note:
        return array
    dtype = pandas.api.types.pandas_dtype(note["pandas"])
    if isinstance(dtype, pandas.DatetimeTZDtype):
        return pandas.DatetimeIndex(array).tz_localize("UTC").tz_convert(dtype.tz).array
    values = pandas.array(array.astype(object) if array.dtype.kind == "O" else array, dtype=dtype)
    if "mask" in note:
        values[array_of(note["mask"], arrays)] = dtype.na_value
    return values


def _add_index(apart: Apart, name: str, index: Any) -> Note:
    import pandas

    if type(index) is pandas.RangeIndex:
        return {"range": [index.start, index.stop, index.step], "name": plain(index.name)}
    if type(index) is pandas.MultiIndex:
        levels = [index.get_level_values(k) for k in range(index.nlevels)]
        return {"levels": [_add_index(apart, f"{name}_{k}", each) for k, each in enumerate(levels)]}
    if type(index) not in (pandas.Index, pandas.DatetimeIndex, pandas.TimedeltaIndex):
        raise ResultError(f"a pandas object with a {type(index).__name__}, which is not kept")
    note = {**_add(apart, name, index), "name": plain(index.name)}
    frequency = getattr(index, "freqstr", None)
    return note if frequency is None else {**note, "frequency": frequency}


def _index(note: Note, arrays: Mapping[str, Array]) -> Any:
    import pandas

    if "levels" in note:
        levels = [_index(each, arrays) for each in note["levels"]]
        names = [each.name for each in levels]
        return pandas.MultiIndex.from_arrays(levels, names=names)
    name = from_plain(note["name"])
    if "range" in note:
        return pandas.RangeIndex(*note["range"], name=name)
    values = _values(note, arrays)
    if "frequency" in note:
        kind = values.dtype.kind
        make = pandas.TimedeltaIndex if kind == "m" else pandas.DatetimeIndex
        return make(values, freq=note["frequency"], name=name)
    return pandas.Index(values, dtype=values.dtype, name=name)
