"""Results in the formats of others: each one file, or one folder, that holds all by itself."""

from __future__ import annotations

import contextlib
import os
import secrets
import shutil
import sys
import warnings
from collections.abc import Iterator
from importlib import import_module
from typing import Any

import numpy as np

from acme_mpi.errors import InputError, PlaceError, StoreError
from acme_mpi.reading.blocks import chunk_shape
from acme_mpi.reading.dataset import to_xarray
from acme_mpi.reading.table import to_pandas
from acme_mpi.reading.values import Values

COMPRESSION = {"zlib": True, "complevel": 1, "shuffle": True}
STANDARD_OUTPUT = "-"
FORMATS = ("csv", "parquet", "netcdf", "zarr")
_DOUBLES = {np.dtype(np.longdouble): np.dtype("f8"), np.dtype(np.clongdouble): np.dtype("c16")}
_EXTRAS = {"csv": "tables", "parquet": "tables", "netcdf": "labels", "zarr": "zarr"}


def export(results: Values, form: str, path: str) -> None:
    """Write the results into a new file, whole or not at all.

    Parameters
    ----------
    results : Values
        What is written.
    form : {"csv", "parquet", "netcdf", "zarr"}
        The first two hold the table of `Results.to_pandas`, the others all arrays.
    path : str
        Of the file, for zarr the folder; it must not exist. ``"-"``: CSV goes to standard output.

    Raises
    ------
    PlaceError
        There is something.
    InputError
        A library is not installed, or the format cannot hold the results, or be printed.
    StoreError
        They cannot be read, or the file not be written.
    """
    if path == STANDARD_OUTPUT:
        if form != "csv":
            raise InputError(f"{form} cannot be printed; give the name of a file")
        sys.stdout.write(to_pandas(results).to_csv())
        return
    if os.path.lexists(path):
        raise PlaceError(f"{path} exists and is never overwritten; name another file")
    write = {"csv": _csv, "parquet": _parquet, "netcdf": _netcdf, "zarr": _zarr}[form]
    with _whole(path) as partial:
        try:
            write(results, partial)
        except ImportError as error:
            raise InputError(
                f"a {form} file cannot be written, {error}: pip install 'acme-mpi[{_EXTRAS[form]}]'"
            ) from None


@contextlib.contextmanager
def _whole(path: str) -> Iterator[str]:
    """Context with another name for what is written; it gets its own at the end."""
    partial = f"{path}.{secrets.token_hex(8)}"
    try:
        yield partial
        os.replace(partial, path)
    except OSError as error:
        if isinstance(error, StoreError):
            raise
        raise StoreError(f"cannot write {path}: {error.strerror or error}") from None
    finally:
        if os.path.isdir(partial):
            shutil.rmtree(partial, ignore_errors=True)
        with contextlib.suppress(OSError):  # it may not be there, as nothing could be written
            os.unlink(partial)


def _csv(results: Values, path: str) -> None:
    to_pandas(results).to_csv(path)


def _parquet(results: Values, path: str) -> None:
    import_module("pyarrow")
    table = to_pandas(results)
    table = table.astype(
        {name: _DOUBLES.get(table[name].dtype, table[name].dtype) for name in table}
    )
    for name in [name for name in table if table[name].dtype.kind == "c"]:
        at, values = table.columns.get_loc(name), table.pop(name)
        table.insert(at, f"{name}_imag", np.imag(values))
        table.insert(at, f"{name}_real", np.real(values))
    try:
        table.to_parquet(path)
    except (TypeError, ValueError, NotImplementedError) as error:  # Arrow's are these, too
        raise InputError(f"a parquet file cannot hold the table: {_one_line(error)}") from None


def _netcdf(results: Values, path: str) -> None:
    import_module("h5netcdf")
    dataset = _for_netcdf(_in_doubles(to_xarray(results)))
    n_axes = max(1, len(results.labels.axes))
    encoding = {
        name: _encoding(variable, n_axes)
        for name, variable in dataset.variables.items()
        if variable.dtype.kind in "biuf" and 0 not in variable.shape
    }
    with _one_thread():
        try:
            dataset.to_netcdf(path, engine="h5netcdf", encoding=encoding)
        except (TypeError, ValueError) as error:
            raise InputError(f"a netCDF file cannot hold it: {_one_line(error)}") from None


def _encoding(variable: Any, n_axes: int) -> dict[str, Any]:
    if not variable.shape:
        return {}
    n_outer = min(n_axes, len(variable.shape))
    chunks = chunk_shape(variable.shape, n_outer, variable.dtype.itemsize)
    return {**COMPRESSION, "chunksizes": chunks}


def _for_netcdf(dataset: Any) -> Any:
    """Return a Dataset of what netCDF has: no complex numbers, halves, and records."""
    for name, variable in list(dataset.variables.items()):
        if variable.dtype.kind == "V":
            raise InputError(
                f"{name} holds records, {variable.dtype}, which netCDF has not; take the results "
                "one by one (acme_mpi.open), or have the function return a dict"
            )
        if variable.dtype == np.float16:
            dataset[name] = dataset[name].astype("f4")
        elif variable.dtype.kind == "c":
            dataset[f"{name}_real"], dataset[f"{name}_imag"] = (
                dataset[name].real,
                dataset[name].imag,
            )
            dataset = dataset.drop_vars(name)
    return dataset


def _zarr(results: Values, path: str) -> None:
    import_module("zarr")
    dataset = _in_doubles(to_xarray(results))
    with _one_thread(), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        # Of the third version not all know text yet.
        dataset.to_zarr(path, zarr_format=2, consolidated=True)


def _in_doubles(dataset: Any) -> Any:
    """Return a Dataset without long doubles, which no format of others has."""
    for name, variable in dataset.variables.items():
        if variable.dtype in _DOUBLES:
            dataset[name] = dataset[name].astype(_DOUBLES[variable.dtype])
    return dataset


def _one_thread() -> Any:
    """Context in which one block after the other is read and written."""
    try:
        return import_module("dask").config.set(scheduler="synchronous")
    except ImportError:
        return contextlib.nullcontext()


def _one_line(error: Exception) -> str:
    text = " ".join(str(error).split())
    return text[:300] + ("..." if len(text) > 300 else "")
