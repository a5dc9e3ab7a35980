"""Fill a common dataset whose tasks are not its first axis from the packed rows of payloads.

In such a dataset the row of one task lies in as many places as there are elements before the task
axis. A slab has all tasks of some of these elements and is written in one piece.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from itertools import product
from typing import Any

import h5py
import numpy as np

from acme_mpi.comm import World
from acme_mpi.history.journal import AS_ROWS
from acme_mpi.history.records import Record, Records, tasks_of
from acme_mpi.results.convert import Array
from acme_mpi.results.spec import RowSpec
from acme_mpi.storage import hdf5
from acme_mpi.storage.base import missing_value
from acme_mpi.storage.shared_rows import SharedRows

SLAB_BYTES = 32 * 1024**2  # three such are in memory at once

Where = tuple[slice, ...]


class Slabs:
    """What this rank writes of a common dataset.

    Parameters
    ----------
    world : World
        The ranks, which share the slabs.
    spec : RowSpec
        Form of the rows, one column.
    shape : tuple of int
        Of all rows stacked.
    records : ndarray
        Of rows, of all ranks.
    find : callable
        ``find(record)`` returns the path of the file with its rows, and the number of the first.
    """

    def __init__(
        self,
        world: World,
        spec: RowSpec,
        shape: tuple[int, ...],
        records: Records,
        find: Callable[[Record], tuple[str, int]],
    ) -> None:
        self._world, self._spec, self._shape = world, spec, shape
        # By task: the file, -1 for none, and the row in it.
        self._sources = np.full(shape[spec.axis], -1)
        self._rows = np.zeros(shape[spec.axis], dtype=int)
        numbers: dict[str, int] = {}
        rows = records[records["form"] & AS_ROWS != 0]
        for record in rows[np.lexsort([rows["payload"], rows["rank"]])]:
            path, row = find(record)
            tasks = slice(tasks_of(record).start, tasks_of(record).stop)
            self._sources[tasks] = numbers.setdefault(path, len(numbers))
            self._rows[tasks] = np.arange(row, row + len(self._rows[tasks]))
        self._paths = list(numbers)

    def write(self, shared: SharedRows) -> None:
        """Write this rank's slabs, missing tasks too. Independent.

        Raises
        ------
        OSError, KeyError, RuntimeError, ValueError
            The medium refused it.
        """
        itemsize = np.dtype(self._spec.dtype).itemsize
        for k, where in enumerate(slabs(self._shape, itemsize, SLAB_BYTES)):
            if k % self._world.size == self._world.rank:
                shared.write_slab(where, self._read(where), self._spec.number)

    def _read(self, where: Where) -> Array:
        axis, shape = self._spec.axis, tuple(part.stop - part.start for part in where)
        slab = np.full(shape, missing_value(self._spec.dtype), self._spec.dtype)
        sources, rows = self._sources[where[axis]], self._rows[where[axis]]
        for number in np.unique(sources[sources >= 0]).tolist():
            tasks = np.flatnonzero(sources == number)
            first, stop = int(rows[tasks].min()), int(rows[tasks].max()) + 1
            with hdf5.open_to_read(self._paths[number]) as file:
                dataset = _without_cache(file, self._spec.dataset)
                # All rows at once, as those of one chunk lie side by side in the file.
                block = dataset[(*where[:axis], slice(first, stop), *where[axis + 1 :])]
            before: tuple[Any, ...] = (slice(None),) * axis
            slab[(*before, tasks)] = block[(*before, rows[tasks] - first)]
        return slab


def _without_cache(file: h5py.File, name: str) -> h5py.Dataset:
    """Open the rows such that of each chunk only what is asked for is read."""
    access = h5py.h5p.create(h5py.h5p.DATASET_ACCESS)
    access.set_chunk_cache(1, 0, 1.0)
    return h5py.Dataset(h5py.h5d.open(file.id, name.encode(), access))


def slabs(shape: tuple[int, ...], itemsize: int, most: int) -> Iterator[Where]:
    """Yield the parts of an array, each in one piece of at most `most` bytes, in their order."""
    if 0 in shape:
        return
    n_behind = [math.prod(shape[k + 1 :]) * itemsize for k in range(len(shape))]
    split = next((k for k, n_bytes in enumerate(n_behind) if n_bytes <= most), len(shape) - 1)
    step = max(1, most // n_behind[split])
    for corner in product(*(range(n) for n in shape[:split])):
        for start in range(0, shape[split], step):
            yield (
                *(slice(n, n + 1) for n in corner),
                slice(start, min(start + step, shape[split])),
                *(slice(0, n) for n in shape[split + 1 :]),
            )
