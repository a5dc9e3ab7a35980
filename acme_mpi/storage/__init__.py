"""Where results go. A new store is one class, and one entry of the table in `stores`."""

from __future__ import annotations

from importlib import import_module

from acme_mpi.comm import World
from acme_mpi.results import RowSpec
from acme_mpi.storage.base import MemoryStore, Store, Stored
from acme_mpi.storage.layout import Layout
from acme_mpi.storage.stores import STORES, StoreKind, find_store


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
