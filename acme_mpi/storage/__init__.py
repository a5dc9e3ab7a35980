"""Where results go. A new kind of store is one module and one branch of `make_store`."""

from __future__ import annotations

from typing import Any

from acme_mpi.comm import World
from acme_mpi.storage.base import MemoryStore, Store, Stored
from acme_mpi.storage.layout import Layout
from acme_mpi.storage.pickles import PickleStore


def make_store(kind: str, world: World, layout: Layout, spec: Any, n_tasks: int) -> Store:
    """Return this rank's store of one kind, not yet open. Independent."""
    if kind == "memory":
        return MemoryStore(world, layout, spec, n_tasks)
    if kind == "pickle":
        return PickleStore(world, layout, spec, n_tasks)
    # h5py is imported only where files are written: the start of 64 ranks feels it.
    if kind == "rank":
        from acme_mpi.storage.linked import RankStore

        return RankStore(world, layout, spec, n_tasks)
    if kind == "computation":
        from acme_mpi.storage.computation import ComputationStore

        return ComputationStore(world, layout, spec, n_tasks)
    from acme_mpi.storage.single_file import SingleFileStore

    return SingleFileStore(world, layout, spec, n_tasks)


__all__ = ["Layout", "MemoryStore", "Store", "Stored", "make_store"]
