"""Names, coordinates and attributes of a container, as netCDF has them.

Dimension scales of HDF5 (reference manual, H5DS) in the conventions of netCDF-4 and CF: xarray
opens the container by h5netcdf alone, and finds which parameters a result has. They lie in the
root, where netCDF looks, but only beside arrays of all results: where each task has a group,
readers that walk through the root meet nothing else.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import Any

import h5py
import numpy as np

from acme_mpi.results.spec import RowSpec
from acme_mpi.storage import hdf5
from acme_mpi.tasks.labels import Column, Labels

TASK = "task"
# Attributes of an array: of HDF5, the scales of its axes, and of CF, other coordinates.
DIMENSIONS, COORDINATES = "DIMENSION_LIST", "coordinates"
# Files of two equal runs are equal: these stand with the labels alone.
OF_ONE_RUN = ("command", "host", "started")
# How the netCDF library says it, with the length.
WITHOUT_VALUES = "This is a netCDF dimension but not a netCDF variable.%10d"


def give_labels(file: h5py.File, spec: RowSpec | None, labels: Labels, n_tasks: int) -> None:
    """Name the arrays of a container, and say what their axes are. Independent; rank 0 only.

    Parameters
    ----------
    file : h5py.File
        The container, with its arrays and no labels yet.
    spec : RowSpec or None
        Their form.
    labels : Labels
        What the tasks are known by; if they are empty only names are given.
    n_tasks : int
        Number of tasks.

    Raises
    ------
    Exception
        Whatever h5py makes of odd labels. The arrays can be read, and have all coordinates or none.
    """
    for column in spec.columns if spec is not None else ():
        if column.name and column.name not in file:
            file[column.name] = h5py.SoftLink(column.dataset)
    if labels != Labels():
        _note(file, labels)
        if spec is not None and spec.has_coordinates:
            _Coordinates(file, spec, labels, n_tasks).attach_or_remove()


def _note(file: h5py.File, labels: Labels) -> None:
    """Write how the results were made, and what all tasks share, as attributes."""
    facts = {name: fact for name, fact in labels.facts.items() if name not in OF_ONE_RUN}
    for name, value in labels.shared.items():
        facts[f"argument_{name}" if name in facts else name] = value
    for name, value in facts.items():
        file.attrs[name] = value


class _Coordinates:
    """The axes of the arrays, and what is known of each task."""

    def __init__(self, file: h5py.File, spec: RowSpec, labels: Labels, n_tasks: int) -> None:
        self._file, self._spec = file, spec
        self._made: list[str] = []
        is_grid = bool(spec.grid) and labels.shape == spec.grid
        axes = labels.axes if is_grid else (TASK,)
        lengths = spec.grid or (n_tasks,)
        if len(axes) != len(lengths):  # labels that are not of this grid
            axes = tuple(f"axis_{k}" for k in range(len(lengths)))
        self._of_axes = {name: labels.arguments.get(name) for name in axes}
        self._lengths = dict(zip(axes, lengths, strict=True))
        self._of_tasks: Mapping[str, Column] = {
            name: column
            for name, column in labels.arguments.items()
            if name not in axes and len(column.values) == n_tasks
        }

    def attach_or_remove(self) -> None:
        """Make all coordinates and attach them to the arrays, or leave nothing of them there."""
        try:
            self._attach()
        except Exception:
            self._remove()
            raise

    def _remove(self) -> None:
        for name in self._made:
            del self._file[name]
        for column in self._spec.columns:
            attributes = self._file[column.dataset].attrs
            for name in {DIMENSIONS, COORDINATES} & set(attributes):
                del attributes[name]

    def _attach(self) -> None:
        scales = [self._scale(*each) for each in self._of_axes.items()]
        named = [self._of_each_task(*each, scales) for each in self._of_tasks.items()]
        for column in self._spec.columns:
            rows, at = self._file[column.dataset], column.axis
            lengths = (*rows.shape[:at], *rows.shape[at + len(scales) :])
            others = list(self._unnamed(column.name or column.dataset, lengths))
            _attach(rows, [*others[:at], *scales, *others[at:]])
            if named:
                rows.attrs[COORDINATES] = " ".join(named)

    def _scale(self, name: str, column: Column | None) -> h5py.Dataset:
        """Make the coordinate of an axis of the tasks."""
        length, name = self._lengths[name], self._free(name)
        if column is None:
            return self._without_values(name, length)
        return _as_scale(self._written(name, column, (length,)), name)

    def _of_each_task(self, name: str, column: Column, scales: list[h5py.Dataset]) -> str:
        """Make the coordinate that one argument is; return its name."""
        name = self._free(name)
        _attach(self._written(name, column, tuple(self._lengths.values())), scales)
        return name

    def _unnamed(self, name: str, lengths: tuple[int, ...]) -> Iterator[h5py.Dataset]:
        """Yield the dimensions of the rows themselves."""
        for k, length in enumerate(lengths):
            yield self._without_values(self._free(f"{name}_axis_{k}"), length)

    def _written(self, name: str, column: Column, shape: tuple[int, ...]) -> h5py.Dataset:
        kind = hdf5.STRING if column.dtype.kind == "O" else column.dtype
        dataset = self._created(name, shape, kind)
        if len(shape) == 1:
            for first, piece in column.pieces():
                dataset[first : first + len(piece)] = piece
        else:
            values = [piece for _, piece in column.pieces()]
            dataset[...] = np.concatenate(values).reshape(shape)
        dataset.attrs.update(column.attributes)
        return dataset

    def _without_values(self, name: str, length: int) -> h5py.Dataset:
        """Make a dimension that has a name and a length, and no bytes in the file."""
        dataset = self._created(name, (length,), np.dtype(">f4"))
        return _as_scale(dataset, WITHOUT_VALUES % length)

    def _created(self, name: str, shape: tuple[int, ...], kind: np.dtype[Any]) -> h5py.Dataset:
        dataset = self._file.create_dataset(name, shape, kind)
        self._made.append(name)
        return dataset

    def _free(self, name: str) -> str:
        """Return a name for a coordinate that no result has."""
        name = re.sub(r"\W", "_", name) or "argument"
        while name in self._file or re.fullmatch(r"(comp|result)_\d+", name):
            name = f"argument_{name}"
        return name


def _as_scale(dataset: h5py.Dataset, name: str) -> h5py.Dataset:
    dataset.make_scale(name)
    return dataset


def _attach(dataset: h5py.Dataset, scales: list[h5py.Dataset]) -> None:
    for dimension, scale in zip(dataset.dims, scales, strict=True):
        dimension.attach_scale(scale)
