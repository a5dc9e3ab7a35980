"""Arrays and datasets of xarray: the variables by their names, then the coordinates."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np

from acme_mpi.results.apart import Apart, Note, array_of, from_plain, plain
from acme_mpi.results.convert import Array, ResultError


def array_apart(value: Any) -> Apart:
    """Take a DataArray apart.

    Raises
    ------
    ResultError
        Not all of it can be kept.
    """
    apart = Apart("xarray.DataArray")
    own = value.name if isinstance(value.name, str) else "values"
    apart.note["name"] = plain(value.name)
    apart.note["data"] = [_add(apart, own, value.variable)]
    _add_coords(apart, value)
    return apart


def dataset_apart(value: Any) -> Apart:
    """Take a Dataset apart; raises as `array_apart`."""
    apart = Apart("xarray.Dataset")
    apart.note["data"] = [_add(apart, name, value.variables[name]) for name in value.data_vars]
    apart.note["attrs"] = plain(dict(value.attrs))
    _add_coords(apart, value)
    return apart


def array_of_note(note: Note, arrays: Mapping[str, Array]) -> Any:
    """Return a DataArray as it was."""
    import xarray

    ((_, variable),) = _variables(note["data"], arrays)
    coords = dict(_variables(note["coords"], arrays))
    return xarray.DataArray(
        variable.values,
        coords,
        variable.dims,
        from_plain(note["name"]),
        variable.attrs,
    )


def dataset_of_note(note: Note, arrays: Mapping[str, Array]) -> Any:
    """Return a Dataset as it was."""
    import xarray

    data, coords = (dict(_variables(note[key], arrays)) for key in ("data", "coords"))
    return xarray.Dataset(data, coords, from_plain(note["attrs"]))


def _add(apart: Apart, name: Any, variable: Any) -> Note:
    if not isinstance(variable.dtype, np.dtype):
        raise ResultError(f"an xarray object with a dtype that is not kept: {variable.dtype}")
    note = apart.add(name, np.asarray(variable.values))
    dims = [plain(dim) for dim in variable.dims]
    return {**note, "name": name, "dims": dims, "attrs": plain(dict(variable.attrs))}


def _add_coords(apart: Apart, value: Any) -> None:
    """Add the coordinates; xarray makes the index of each by itself."""
    import xarray

    simple = {
        name for name, index in value.xindexes.items() if type(index) is xarray.indexes.PandasIndex
    }
    indexed = {name for name, coord in value.coords.items() if coord.dims == (name,)}
    if simple != indexed or simple != set(value.xindexes):
        raise ResultError("an xarray object with an index of several coordinates, or none for one")
    apart.note["coords"] = [
        _add(apart, name, coord.variable) for name, coord in value.coords.items()
    ]


def _variables(notes: Iterable[Note], arrays: Mapping[str, Array]) -> Iterable[tuple[str, Any]]:
    import xarray

    for note in notes:
        array = array_of(note, arrays)
        yield note["name"], xarray.Variable(note["dims"], array, from_plain(note["attrs"]))
