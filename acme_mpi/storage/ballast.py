"""Disk space held back, so that files can still be closed when the disk is full.

HDF5 keeps metadata in memory that it has to write when a file is closed. If it cannot, it crashes
the process at its end. Each rank therefore holds a small file of its own, which it drops at the
first sign of a full disk.
"""

from __future__ import annotations

import contextlib
import glob
import os
from collections.abc import Iterator

from acme_mpi.comm import World
from acme_mpi.history.layout import Layout
from acme_mpi.storage.base import refusals, together

N_BYTES = 1024**2  # metadata of the 2000 groups or so that a file has got since its last flush

_HELD: list[str] = []


@contextlib.contextmanager
def held(world: World, layout: Layout) -> Iterator[None]:
    """Context in which every rank holds ballast, for runs that write files. Collective.

    Raises
    ------
    StoreError
        On every rank alike: there is not even space for that.
    """
    path = f"{_prefix(layout)}{world.rank}"

    def take() -> None:
        if world.is_master:
            remove_left(layout, world.size)
        with refusals(path):
            descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC, 0o600)
            _HELD.append(path)
            try:
                os.posix_fallocate(descriptor, 0, N_BYTES)
            finally:
                os.close(descriptor)

    try:
        if layout.directory:
            together(world, take)
        yield
    finally:
        drop()


def remove_left(layout: Layout, n_ranks: int = 0) -> None:
    """Remove what ranks have left that were killed, from rank `n_ranks` on. Rank 0 only."""
    prefix = _prefix(layout)
    for path in glob.glob(f"{glob.escape(prefix)}*"):
        rank = path.removeprefix(prefix)
        if rank.isdigit() and int(rank) >= n_ranks:
            with contextlib.suppress(OSError):
                os.unlink(path)


def _prefix(layout: Layout) -> str:
    return os.path.join(layout.dot_folder, "ballast_rank")


def drop() -> None:
    """Give the space back. Independent."""
    while _HELD:
        with contextlib.suppress(OSError):
            os.unlink(_HELD.pop())
