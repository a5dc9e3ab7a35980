"""Whether what journals say is there: of each file its end, or of every result all its bytes."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, NamedTuple

import numpy as np

from acme_mpi.journal import AS_PICKLES
from acme_mpi.storage.recorded import RecordedStore
from acme_mpi.storage.records import Records, by_payload
from acme_mpi.storage.superblock import fault_of_file


class Damage(NamedTuple):
    """Results that are not as they were recorded."""

    record: Any
    path: str
    why: str

    @property
    def tasks(self) -> range:
        """The tasks whose results they are."""
        first = int(self.record["first"])
        return range(first, first + int(self.record["count"]))


def damaged(store: RecordedStore, done: Records) -> Iterator[Damage]:
    """Yield what is not there of files that a run is to go on with. Independent.

    Of each file the last results are read: HDF5 finds by itself that a file has lost its end or
    its root. Where anything is wrong, all results of the file are read.

    Parameters
    ----------
    store : RecordedStore
        Over the files; need not be open.
    done : ndarray
        Records of results.
    """
    # In the order in which they were written.
    for at in by_payload(done, "offset", "start_s"):
        if len(at) == 1 or store.source(done[at[0]]) != store.source(done[at[-1]]):
            yield from _damaged_files(store, done[at])
        elif _damage(store, done[at[-1]]) is not None:
            yield from damaged_bytes(store, done[at])
    store.release()


def damaged_bytes(store: RecordedStore, done: Records) -> Iterator[Damage]:
    """Yield what differs from what was recorded; every result is read. Independent."""
    for position in np.lexsort([done["offset"], done["payload"], done["rank"]]):
        found = _damage(store, done[position])
        if found is not None:
            yield found
    store.release()


def _damaged_files(store: RecordedStore, group: Records) -> Iterator[Damage]:
    """Yield damage of results that have files of their own: there, large enough, the last read."""
    for record in group[:-1]:
        path = store.source(record)
        try:
            why = fault_of_file(path, int(record["n_bytes"]), bool(record["form"] & AS_PICKLES))
        except OSError as error:
            why = reason_text(error)
        if why:
            yield Damage(record, path, why)
    found = _damage(store, group[-1])
    if found is not None:
        yield found


def _damage(store: RecordedStore, record: Any) -> Damage | None:
    if record["n_bytes"] < 0:  # a part of what was recorded together
        return None
    path = store.source(record)
    try:
        measured = store.measure(record)
    except (OSError, KeyError, RuntimeError, ValueError) as error:
        return Damage(record, path, reason_text(error))
    if measured is None:
        return None
    if measured.n_bytes != record["n_bytes"]:
        return Damage(record, path, f"{measured.n_bytes} bytes instead of {record['n_bytes']}")
    is_same = measured.number == record["checksum"]
    return None if is_same else Damage(record, path, "the checksum differs")


def reason_text(error: Exception) -> str:
    """Return why something cannot be read, in one line."""
    if isinstance(error, FileNotFoundError):
        return "there is no such file"
    return " ".join(str(error).split())
