"""Results as an xarray Dataset: dimensions and coordinates from the arguments."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from importlib import import_module
from typing import Any

import numpy as np

from acme_mpi.errors import InputError
from acme_mpi.linux.memory import size_text
from acme_mpi.linux.segment import available_bytes
from acme_mpi.reading.blocks import block_shape
from acme_mpi.reading.inner_axes import Agreed, Inner, Said, inner_axes, only_shared
from acme_mpi.reading.stacked import Stacked, stacked_arrays
from acme_mpi.reading.table import distinct
from acme_mpi.reading.values import Values

TASK, PREFIX = "task", "argument_"


def to_xarray(results: Values) -> Any:
    """Return the results as a Dataset; see `Results.to_xarray`."""
    try:
        xarray = import_module("xarray")
    except ImportError:
        raise InputError(
            "labelled arrays need xarray, which is not installed: pip install 'acme-mpi[labels]'"
        ) from None
    labels, agreed = results.labels, Agreed()
    shape = labels.shape or (len(results),)
    arrays = {each.name: each for each in stacked_arrays(results, shape, agreed)}
    inner = _inner(results, agreed.said, arrays)
    unnamed = {
        name: tuple(f"{name}_axis_{k}" for k in range(len(each.inner_shape)))
        for name, each in arrays.items()
    }
    dims = {**unnamed, **inner.dims}
    taken = {*arrays, *inner.coordinates, *(dim for own in dims.values() for dim in own)}
    axes = tuple(distinct(axis, taken, PREFIX) for axis in labels.axes or (TASK,))
    variables: dict[str, Any] = {}
    coordinates: dict[str, Any] = dict(_coordinates(results, axes, taken))
    for name, stacked in arrays.items():
        if name not in inner.parts:
            is_coordinate = name in agreed.said and bool(agreed.said[name].name)
            among = coordinates if is_coordinate else variables
            among[name] = ((*axes, *dims[name]), _lazy(stacked))
    coordinates.update(inner.coordinates)
    return xarray.Dataset(variables, coordinates, _attributes(results))


def _inner(results: Values, said: Mapping[str, Said], arrays: Mapping[str, Stacked]) -> Inner:
    """Return the axes of the results themselves, as far as they have names."""
    names = [part for part, each in said.items() if each.name and part in arrays]
    done = np.flatnonzero(results.recorded.is_done).tolist() if names else []
    values = only_shared(results.reader.named(task, names) for task in done)
    shapes = {name: each.inner_shape for name, each in arrays.items()}
    return inner_axes(said, shapes, values)


def _coordinates(
    results: Values, axes: tuple[str, ...], taken: Collection[str]
) -> Iterator[tuple[str, Any]]:
    """Yield what each coordinate is, by name: dimensions and values."""
    labels = results.labels
    if not labels.axes:
        yield axes[0], (axes, np.arange(len(results)))
    for name in results.arguments:
        values = results.arguments.axis(name)
        if name in labels.axes:
            own = axes[labels.axes.index(name)]
            yield own, (own, values)
        else:
            yield (
                distinct(name, {*taken, *axes}, PREFIX),
                (axes, values.reshape(labels.shape or len(values))),
            )


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
