"""Results as an xarray Dataset: dimensions and coordinates from the arguments."""

from __future__ import annotations

from collections.abc import Mapping
from importlib import import_module
from typing import Any

import numpy as np

from acme_mpi.errors import InputError
from acme_mpi.linux.memory import size_text
from acme_mpi.linux.segment import available_bytes
from acme_mpi.reading.blocks import block_shape
from acme_mpi.reading.stacked import Stacked, stacked_arrays
from acme_mpi.reading.table import distinct
from acme_mpi.reading.values import Values

TASK = "task"


def to_xarray(results: Values) -> Any:
    """Return the results as a Dataset; see `Results.to_xarray`."""
    try:
        xarray = import_module("xarray")
    except ImportError:
        raise InputError(
            "labelled arrays need xarray, which is not installed: pip install 'acme-mpi[labels]'"
        ) from None
    axes = results.labels.axes or (TASK,)
    lengths = results.labels.shape or (len(results),)
    coordinates = _coordinates(results, axes)
    variables: dict[str, Any] = {}
    for stacked in stacked_arrays(results, lengths):
        name = distinct(stacked.name, {*coordinates, *axes, *variables}, "_result")
        inner = [f"{name}_{k}" for k in range(stacked.ndim - len(axes))]
        variables[name] = ((*axes, *inner), _lazy(stacked))
    return xarray.Dataset(variables, coordinates, _attributes(results))


def _coordinates(results: Values, axes: tuple[str, ...]) -> dict[str, Any]:
    """Return what each coordinate is, by name: dimensions and values."""
    is_grid = bool(results.labels.axes)
    found: dict[str, Any] = {} if is_grid else {TASK: (TASK, np.arange(len(results)))}
    for name in results.arguments:
        values = results.arguments.axis(name)
        if name in axes:
            found[name] = (name, values)
        elif is_grid:
            found[name] = (axes, values.reshape(results.labels.shape))
        else:
            found[distinct(name, found, "_argument")] = (TASK, values)
    return found


def _lazy(stacked: Stacked) -> Any:
    """Return an array that reads when it is computed; without dask one that is read."""
    try:
        array = import_module("dask.array")
    except ImportError:
        return _loaded(stacked)
    chunks = stacked.shape  # dask does not know how long text is
    if 0 not in stacked.shape and not stacked.dtype.hasobject:
        chunks = block_shape(stacked.shape, stacked.n_axes, stacked.dtype.itemsize)
    nothing = np.empty((0,) * stacked.ndim, stacked.dtype)
    return array.from_array(stacked, chunks, name=False, fancy=False, meta=nothing)


def _loaded(stacked: Stacked) -> Any:
    if stacked.nbytes > (available := available_bytes()):
        raise InputError(
            f"{stacked.name} takes {size_text(stacked.nbytes)}, and there are "
            f"{size_text(available)} of memory; with dask it is read by parts: "
            "pip install 'acme-mpi[labels]'"
        )
    return stacked[...]


def _attributes(results: Values) -> Mapping[str, Any]:
    """Return attributes that netCDF can hold, too."""
    return {name: _plain(value) for name, value in results.attributes.items()}


def _plain(value: Any) -> Any:
    array = np.asarray(value)
    if array.dtype.kind in "bc":
        return str(value)
    return value.item() if isinstance(value, np.generic) else value
