"""The arguments of the tasks, by name: of a grid nothing is stored but the values of its axes."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np

from acme_mpi.tasks.labels import Labels

Array = np.ndarray[Any, np.dtype[Any]]


class Arguments(Mapping[str, Array]):
    """Maps the names of split arguments to their values, one per task.

    Parameters
    ----------
    labels : Labels
        Of the tasks.
    n_tasks : int
        Their number.
    """

    def __init__(self, labels: Labels, n_tasks: int) -> None:
        self._labels, self._n_tasks = labels, n_tasks
        self._values = {name: native(each.decoded()) for name, each in labels.arguments.items()}

    def __getitem__(self, name: str) -> Array:
        """Return the values of one argument for all tasks."""
        if name not in self._values:
            # Text of a KeyError is shown in quotes.
            raise KeyError(
                f"{name}: no label of the tasks; these are {', '.join(self) or 'not there'}; what "
                "all tasks share is among the attributes"
            )
        return self.of_tasks(name, np.arange(self._n_tasks))

    def __iter__(self) -> Iterator[str]:
        return iter(self._values)

    def __len__(self) -> int:
        return len(self._values)

    def __repr__(self) -> str:
        return f"<arguments of {self._n_tasks} tasks: {', '.join(self) or 'none'}>"

    def of_tasks(self, name: str, tasks: Array) -> Array:
        """Return the values of one argument for some tasks, (n,) ndarray of their indices."""
        values: Array = self._values[name]
        if name not in self._labels.axes:
            return np.asarray(values[tasks])
        at = self._labels.axes.index(name)
        n_inner = int(np.prod(self._labels.shape[at + 1 :], dtype=object))
        return np.asarray(values[tasks // n_inner % len(values)])

    def of_task(self, index: int) -> dict[str, Any]:
        """Return the arguments of one task, by name, as plain values where they are numbers."""
        found = {name: self.of_tasks(name, np.array([index]))[0] for name in self}
        return {name: _plain(value) for name, value in found.items()}

    def axis(self, name: str) -> Array:
        """Return the values of an axis of the grid, or of all tasks."""
        return self._values[name]


def native(array: Array) -> Array:
    """Return the same values in this machine's order of bytes: pandas sorts and finds no others."""
    return array.astype(array.dtype.newbyteorder("="), copy=False)


def _plain(value: Any) -> Any:
    is_number = isinstance(value, np.generic) and value.dtype.kind in "biufc"
    return value.item() if is_number else value
