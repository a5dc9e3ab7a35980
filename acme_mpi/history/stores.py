"""The table of stores: what each is called, and all that is known of it before it is opened.

A new store is a class like those that the table names, and an entry here; nothing else compares
names of stores. The module of a store is imported when one is made, and not before: most of them
need h5py, whose parallel build starts MPI, and whoever only asks may be no rank.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import NamedTuple

from acme_mpi.errors import InputError
from acme_mpi.history.layout import Layout


class StoreKind(NamedTuple):
    """One store, before it is opened.

    Attributes
    ----------
    name : str
        In options, and in descriptions of runs on disk.
    implementation : str
        ``module:class`` of the `Store`; a `RecordedStore` if it writes files.
    plan : str
        What it leaves, for people; ``{container}``, ``{payload}`` and ``{name}`` are filled in.
    folder : callable or None
        ``folder(layout)`` is the folder of its payload files, relative to the output directory.
    suffix : str
        Of the container.
    task_file : callable or None
        ``task_file(layout, index)`` is the file with one task's result, of stores that return one
        for each task; None: the container is returned.
    group_bytes, row_bytes : int
        Bytes of the medium's own for a result with a group to itself, and for one in a row.
    writes_files : bool
        Results outlive the run, and a later one can resume it.
    has_container : bool
        Everything is to be found in one file or folder.
    has_payloads : bool
        It is chosen by its name, as ``payload=``.
    is_movable : bool
        Users may have the files that are returned elsewhere.
    is_pickled : bool
        Every result is pickled, whatever it is.
    may_pickle : bool
        A result that it cannot hold may be pickled beside the others.
    holds_ragged : bool
        Rows may differ in one axis.
    """

    name: str
    implementation: str
    plan: str
    folder: Callable[[Layout], str] | None = None
    suffix: str = ".h5"
    task_file: Callable[[Layout, int], str] | None = None
    group_bytes: int = 0
    row_bytes: int = 0
    writes_files: bool = True
    has_container: bool = True
    has_payloads: bool = False
    is_movable: bool = True
    is_pickled: bool = False
    may_pickle: bool = False
    holds_ragged: bool = True

    def layout(self, directory: str, name: str, run: int = 0) -> Layout:
        """Return where the files of a run lie, nowhere if there are none."""
        return Layout(directory if self.writes_files else "", name, run, self.suffix)

    def own_files(self, layout: Layout, n_tasks: int) -> list[str]:
        """Return the files that a run returns."""
        if self.task_file is None:
            return [layout.container]
        return [self.task_file(layout, index) for index in range(n_tasks)]

    def folders(self, layout: Layout) -> list[str]:
        """Return the directories that have to be there, besides those of every run."""
        return [] if self.folder is None else [os.path.join(layout.directory, self.folder(layout))]

    def what_to_open(self, layout: Layout) -> str:
        """Return the path that users look for: the container, or the directory of the files."""
        return layout.container if self.has_container else layout.directory

    def plan_text(self, layout: Layout) -> str:
        """Return what a run would leave, in one line."""
        container, payload = layout.container, layout.payload_folder
        return self.plan.format(container=container, payload=payload, name=layout.name)

    def overhead_bytes(self, is_stacked: bool) -> int:
        """Return the bytes of the medium's own for each result."""
        return self.row_bytes if is_stacked else self.group_bytes


# Bytes of HDF5's own, measured with results of one scalar: a group with its link; a file with its
# link; a group.
MEMORY = StoreKind(
    "memory",
    "acme_mpi.storage.base:MemoryStore",
    "nothing is written; results are printed",
    writes_files=False,
    has_container=False,
    holds_ragged=False,
)
RANK = StoreKind(
    "rank",
    "acme_mpi.storage.linked:RankStore",
    "{container}, links to {payload}/{name}_rank<r>_<k>.h5",
    folder=lambda layout: layout.payload_folder,
    group_bytes=700,
    has_payloads=True,
    is_movable=False,
    may_pickle=True,
)
COMPUTATION = StoreKind(
    "computation",
    "acme_mpi.storage.computation:ComputationStore",
    "{container}, links to {payload}/{name}_<i>.h5",
    folder=lambda layout: layout.payload_folder,
    task_file=Layout.computation,
    group_bytes=500,
    row_bytes=500,
    has_payloads=True,
    may_pickle=True,
)
SINGLE_FILE = StoreKind(
    "single_file",
    "acme_mpi.storage.single_file:SingleFileStore",
    "{container}, one file",
    folder=lambda layout: layout.spool_folder,
    group_bytes=500,
)
PICKLE = StoreKind(
    "pickle",
    "acme_mpi.storage.pickles:PickleStore",
    "{name}_<i>.pickle",
    task_file=Layout.pickle,
    has_container=False,
    is_pickled=True,
)

STORES = {each.name: each for each in (MEMORY, RANK, COMPUTATION, SINGLE_FILE, PICKLE)}


def find_store(name: str) -> StoreKind:
    """Return what is known of a store.

    Raises
    ------
    InputError
        There is none of that name.
    """
    try:
        return STORES[name]
    except KeyError:
        raise InputError(f"there is no store {name!r}, but {', '.join(STORES)}") from None


def payload_names() -> list[str]:
    """Return the stores that are chosen as ``payload=``."""
    return [each.name for each in STORES.values() if each.has_payloads]


def chosen_kind(payload: str, write: bool, single_file: bool, write_pickle: bool = False) -> str:
    """Return the name of the store that the users' keywords ask for together."""
    if not write:
        return MEMORY.name
    if write_pickle:
        return PICKLE.name
    return SINGLE_FILE.name if single_file else payload
