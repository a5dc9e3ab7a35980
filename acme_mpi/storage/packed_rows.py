"""Packed rows of a payload file: a dataset ``result_<k>``, which grows with the rows."""

from __future__ import annotations

import math
from collections.abc import Iterator
from itertools import pairwise, product

import h5py
import numpy as np

from acme_mpi.results.convert import Array
from acme_mpi.results.parts import PLACED_BYTES
from acme_mpi.results.spec import RowSpec
from acme_mpi.storage import hdf5
from acme_mpi.storage.redo import AtomicFile

CHUNK_BYTES = 1024**2
MAX_CHUNK_BYTES = 2**32 - 1  # HDF5 stores no larger ones (H5Pset_chunk)


class PackedRows:
    """The rows of one payload file, in the order in which they came.

    Parameters
    ----------
    file : h5py.File
        The file, without rows yet.
    in_memory : AtomicFile
        What HDF5 writes it to.
    spec : RowSpec
        Form of the rows; no axis is unlimited.
    """

    def __init__(self, file: h5py.File, in_memory: AtomicFile, spec: RowSpec) -> None:
        self._bytes, self._spec = in_memory, spec
        self._dataset = _created(file, spec)
        self.n = 0

    def write(self, first: int, rows: Array) -> None:
        """Write rows, (n, *row_shape), from the number `first` on."""
        self._grow(first + len(rows))
        if rows.size:
            self._dataset[self._spec.rows(first, len(rows))] = np.moveaxis(rows, 0, self._spec.axis)

    def place(self, row: int) -> int | None:
        """Make an empty row; return the offset of its bytes.

        None if it does not lie in one piece, or may not be written by others than HDF5.
        """
        self._grow(row + 1)
        chunks = list(self._chunks_of(row))
        is_free = all(self._bytes.is_free(offset) for offset, _ in chunks)
        are_adjacent = all(a + n == b for (a, n), (b, _) in pairwise(chunks))
        in_one_piece = are_adjacent and self._is_filled_to_the_last_chunk()
        return chunks[0][0] if is_free and in_one_piece else None

    def _is_filled_to_the_last_chunk(self) -> bool:
        """Whether only the last chunk of a large row reaches beyond its end."""
        shape, chunk = self._dataset.shape, self._dataset.chunks
        others = [k for k in range(len(shape)) if k != self._spec.axis]
        first_long = next((k for k in others if shape[k] > 1), None)
        return all(shape[k] % chunk[k] == 0 for k in others if k != first_long)

    def _grow(self, n: int) -> None:
        if n > self.n:
            first, self.n = self.n, n
            self._dataset.resize(n, axis=self._spec.axis)
            self._note_chunks(first)

    def _note_chunks(self, first: int) -> None:
        """Have rows go at once into the chunks that were made for the rows from `first` on."""
        if 0 in self._dataset.shape:
            return
        n_in_chunk = self._dataset.chunks[self._spec.axis]
        for row in range(-(-first // n_in_chunk) * n_in_chunk, self.n, n_in_chunk):
            for offset, n_bytes in self._chunks_of(row):
                self._bytes.free(offset, n_bytes)

    def _chunks_of(self, row: int) -> Iterator[tuple[int, int]]:
        """Yield offset and size of the chunks that begin with a row, in the order of its bytes."""
        dataset, axis = self._dataset, self._spec.axis
        n_bytes = math.prod(dataset.chunks) * dataset.dtype.itemsize
        starts = [
            [row] if k == axis else range(0, n, step)
            for k, (n, step) in enumerate(zip(dataset.shape, dataset.chunks, strict=True))
        ]
        for corner in product(*starts):
            found = dataset.id.get_chunk_info_by_coord(corner)
            if found.byte_offset is not None:
                yield int(found.byte_offset), n_bytes


def _created(file: h5py.File, spec: RowSpec) -> h5py.Dataset:
    """Create the dataset; the bytes of a large row lie together in the file."""
    chunk = chunk_shape(spec)
    limits = tuple(None if k == spec.axis else n for k, n in enumerate(spec.stacked_shape(0)))
    plist = hdf5.creation(h5py.h5p.DATASET_CREATE)
    plist.set_chunk(chunk)
    plist.set_alloc_time(h5py.h5d.ALLOC_TIME_EARLY)
    plist.set_fill_time(h5py.h5d.FILL_TIME_NEVER)
    unlimited = tuple(h5py.h5s.UNLIMITED if n is None else n for n in limits)
    space = h5py.h5s.create_simple(spec.stacked_shape(0), unlimited)
    kind = h5py.h5t.py_create(np.dtype(spec.dtype), logical=True)
    return h5py.Dataset(h5py.h5d.create(file.id, spec.dataset.encode(), kind, space, plist))


def chunk_shape(spec: RowSpec) -> tuple[int, ...]:
    """Return the shape of the chunks of packed rows.

    A chunk has some small rows, or a large one, or, of a row that HDF5 would not take as one
    chunk, an even share along one axis, so that all shares in their order are the row.
    """
    per_chunk = max(1, CHUNK_BYTES // max(1, spec.row_bytes))
    if spec.row_bytes >= PLACED_BYTES:
        per_chunk = 1
    chunk = [max(1, n) for n in spec.stacked_shape(per_chunk)]
    for k, n in enumerate(chunk):
        n_bytes = math.prod(chunk) // n * np.dtype(spec.dtype).itemsize
        n_shares = -(-n // max(1, MAX_CHUNK_BYTES // n_bytes))
        chunk[k] = -(-n // n_shares)
    return tuple(chunk)
