"""Datasets of large arrays that are made ahead, in the file that becomes the container.

What is written into a file per rank and merged at the end is written twice. So once a task has
shown how large its arrays are, a file is made with such datasets for all tasks, and their bytes go
there at once. The file of the rank keeps all else, and in the place of these arrays datasets of the
same form whose bytes lie elsewhere (HDF5's external storage): in the slots, at an offset. So what
HDF5 says in the file with the slots is of use alone to who makes a container of it; it may be half
changed when the process dies.

The name tells in which state the file is. Under its first one it is as it was made, and takes more
arrays. Under its last one it is, or was to be, a container: its bytes are read, and nothing more is
written there.
"""

from __future__ import annotations

import contextlib
import os
from typing import Any

import h5py
import numpy as np

from acme_mpi.history.journal import rename
from acme_mpi.storage import hdf5

NAME, TAKEN = "slots.h5", "slots.taken.h5"
MOST_TASKS = 10_000  # for which it takes about a second to make the file
# No two ranks write into one page: network drives may bring whole pages to their server.
PAGE_BYTES = 4096
FAULTS = (OSError, KeyError, RuntimeError, ValueError)

Shape = tuple[int, ...]
Forms = dict[int, tuple[Shape, str]]  # shape and dtype of the large parts of a task, by number


class Slots:
    """Places for the large arrays of all tasks.

    Parameters
    ----------
    folder : str
        Where the file lies, or may come to lie.
    """

    def __init__(self, folder: str) -> None:
        self._folder = folder
        self._file: h5py.File | None = None
        self._is_made = False
        self._descriptor = -1

    @property
    def path(self) -> str:
        """The file as long as it takes arrays."""
        return os.path.join(self._folder, NAME)

    @property
    def taken_path(self) -> str:
        """The file once it does not."""
        return os.path.join(self._folder, TAKEN)

    @property
    def where(self) -> str:
        """The file, whatever its state."""
        return next(filter(os.path.exists, [self.path, self.taken_path]), self.path)

    @property
    def is_there(self) -> bool:
        """Whether there is such a file, in any state."""
        return any(map(os.path.lexists, (self.path, self.taken_path)))

    def create(self, n_tasks: int, forms: Forms, is_ordered: bool) -> None:
        """Make the file, once, if it can be made. Independent; one rank only.

        Parameters
        ----------
        n_tasks : int
            For so many tasks.
        forms : Forms
            Of each.
        is_ordered : bool
            The parts have names.
        """
        if self._is_made or n_tasks > MOST_TASKS or self.is_there:
            return
        self._is_made = True
        anew = f"{self.path}.anew"
        try:
            _make(anew, n_tasks, forms, is_ordered)
            os.replace(anew, self.path)
        except OSError:
            # It need not be there. If not all tasks have so large results, it may be larger, with
            # holes, than any file can be.
            _remove(anew)

    def slot_of(self, index: int, k: int, shape: Shape, dtype: str) -> hdf5.Outside | None:
        """Return where the bytes of an array belong; None if there is no slot of this form."""
        try:
            file = self._opened()
            dataset = None if file is None else array_at(file.id, index, k)
        except FAULTS:
            return None  # damaged: what was written is known by offsets and checksums
        if dataset is None or not is_like(dataset, shape, np.dtype(dtype)):
            return None
        return hdf5.Outside(NAME.encode(), dataset.get_offset(), dataset.get_storage_size())

    def _opened(self) -> h5py.File | None:
        if self._file is None and os.path.exists(self.path):
            self._file = hdf5.open_to_read(self.path)
            self._descriptor = os.open(self.path, os.O_RDWR | os.O_CLOEXEC)
        return self._file

    def descriptors(self) -> list[int]:
        """Return the descriptor of the file if it is open."""
        return [] if self._descriptor < 0 else [self._descriptor]

    def close(self) -> None:
        """Close the file. Twice is once."""
        if self._file is not None:
            self._file.close()
            self._file = None
        if self._descriptor >= 0:
            os.close(self._descriptor)
            self._descriptor = -1

    def take(self, path: str, is_ordered: bool, n_bytes: int) -> bool:
        """Have the file become that at `path`, once; False if it cannot, or would have large holes.

        Parameters
        ----------
        path : str
            There is nothing yet.
        is_ordered : bool
            As the slots should have been made.
        n_bytes : int
            Of all results.

        Raises
        ------
        OSError
            The medium refused it.
        """
        if not os.path.exists(self.path) or os.path.exists(self.taken_path):
            return False
        try:
            with hdf5.open_to_read(self.path) as file:
                group = h5py.h5g.open(file.id, b"comp_0")
                was_ordered = bool(group.get_create_plist().get_link_creation_order())
            if was_ordered != is_ordered or 2 * n_bytes < os.path.getsize(self.path):
                return False
            os.link(self.path, path)
        except FAULTS:
            return False  # it is damaged, or no file has two names there
        rename(self.path, self.taken_path)
        return True

    def remove(self) -> None:
        """Remove it, unless it has become something else, which stays."""
        for path in (self.path, self.taken_path, f"{self.path}.anew"):
            _remove(path)


def _make(path: str, n_tasks: int, forms: Forms, is_ordered: bool) -> None:
    """Make a file with slots. Nothing waits for the disk: sync points do, once they are used."""
    _remove(path)
    changing = hdf5.Changing(path, PAGE_BYTES)
    try:
        for index in range(n_tasks):
            group = hdf5.create_group(changing.file.id, b"comp_%d" % index, is_ordered)
            for k, (shape, dtype) in sorted(forms.items()):
                hdf5.create_array(group, b"result_%d" % k, shape, np.dtype(dtype))
    finally:
        os.close(changing.detach())


def _remove(path: str) -> None:
    with contextlib.suppress(OSError):
        os.unlink(path)


def is_like(dataset: Any, shape: Shape, dtype: np.dtype[Any]) -> bool:
    """Tell whether a low-level dataset has a form."""
    return bool(dataset.shape == shape and dataset.dtype == dtype)


def array_at(file: h5py.h5f.FileID, index: int, k: int) -> Any:
    """Return the low-level dataset of a part of a task, None if there is none."""
    group = b"comp_%d" % index
    name = b"%s/result_%d" % (group, k)
    if not file.links.exists(group) or not file.links.exists(name):
        return None
    return h5py.h5d.open(file, name)
