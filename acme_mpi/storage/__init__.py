"""Where results go. A new store is one class, and one entry of the table in `history.stores`."""

from __future__ import annotations

from importlib import import_module

from acme_mpi.comm import World
from acme_mpi.history.layout import Layout
from acme_mpi.history.stores import STORES, StoreKind, find_store
from acme_mpi.results.spec import RowSpec
from acme_mpi.storage.base import MemoryStore, Store, Stored


def make_store(
    name: str, world: World, layout: Layout, spec: RowSpec | None, n_tasks: int
) -> Store:
    """Return this rank's store of one kind, not yet open. Independent."""
    module, _, cls = find_store(name).implementation.partition(":")
    store: Store = getattr(import_module(module), cls)(world, layout, spec, n_tasks)
    return store


__all__ = [
    "STORES",
    "Layout",
    "MemoryStore",
    "Store",
    "StoreKind",
    "Stored",
    "find_store",
    "make_store",
]
