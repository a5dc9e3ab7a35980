"""Whether what journals say is there: of each file that has changed, all bytes of all results."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np

from acme_mpi.errors import StoreError
from acme_mpi.history.folders import last_linked
from acme_mpi.history.journal import AS_PICKLES, key_of, pack_file, stamp_of
from acme_mpi.history.parsing import Damaged
from acme_mpi.history.records import History, Record, Records, by_payload, tasks_of
from acme_mpi.linux.syncing import sync_files
from acme_mpi.storage.base import refusals
from acme_mpi.storage.recorded import RecordedStore


class Damage(NamedTuple):
    """Results that are not as they were recorded."""

    record: Record
    path: str
    why: str

    @property
    def tasks(self) -> range:
        """The tasks whose results they are."""
        return tasks_of(self.record)


def look(store: RecordedStore, history: History) -> tuple[list[Damage], list[bytes]]:
    """Return what is not there, or not whole, of files that a run is to resume with. Independent.

    A file that is as it was when it was complete is not opened. Of all others every result is read.

    Parameters
    ----------
    store : RecordedStore
        Over the files; need not be open.
    history : History
        What is recorded.

    Returns
    -------
    damages : list of Damage
        What is not as it was recorded.
    whole : list of bytes
        Blocks for the journal that say how the files look that were read, and are whole.

    Raises
    ------
    StoreError
        A file is there and cannot be read, which says nothing of its content.
    """
    files = _Files(store, history)
    damages: list[Damage] = []
    for group in _groups(store, history.done):
        paths = store.files(group[0])
        if all(files.is_unchanged(path) for path in paths):
            continue
        found = list(damaged_bytes(store, group))
        damages += found
        if not found and (group["n_bytes"] >= 0).all():
            files.is_whole.setdefault(paths[0], group[0])
        else:
            files.is_whole[paths[0]] = None
    store.release()
    return damages, files.blocks()


class _Files:
    """How files look, and how they looked when they were complete."""

    def __init__(self, store: RecordedStore, history: History) -> None:
        self._store = store
        self._known = {
            store.path_of(key_of(block)): int(block["checksum"]) for block in history.files
        }
        self._seen: dict[str, os.stat_result | None] = {}
        # By path a record of what lies in a file that was read; None if it is not whole.
        self.is_whole: dict[str, Record | None] = {}

    def is_unchanged(self, path: str) -> bool:
        """Tell whether a file is as it was when it was complete."""
        if path not in self._seen:
            self._seen[path] = _status(path)
        status = self._seen[path]
        if path == self._store.layout.container:
            return last_linked(self._store.layout)[1]
        return status is not None and self._known.get(path) == stamp_of(status)

    def blocks(self) -> list[bytes]:
        """Return blocks that say how the files looked before they were found to be whole.

        These files are on the disk then, which those of a run that was killed need not be.
        """
        blocks = {}
        for path, record in self.is_whole.items():
            status = self._seen[path]
            if record is None or status is None:
                continue
            key = self._store.key(record)
            if self._store.path_of(key) == path:
                blocks[path] = pack_file(key, status)
        with refusals(next(iter(blocks), "")):
            sync_files(blocks)
        return list(blocks.values())


def _status(path: str) -> os.stat_result | None:
    try:
        return os.stat(path)
    except OSError:
        return None  # whoever opens it finds out why


def _groups(store: RecordedStore, done: Records) -> Iterator[Records]:
    """Yield the records of results that lie in the same files, in the order of their places."""
    for at in by_payload(done, "offset"):
        forms = done["form"][at]
        for form in sorted({*forms.tolist()}):
            alike = done[at[forms == form]]
            if store.has_own_files or form & AS_PICKLES:
                yield from (alike[k : k + 1] for k in range(len(alike)))
            else:
                yield alike


def damaged_bytes(
    store: RecordedStore, done: Records, pauses_s: Sequence[float] = ()
) -> Iterator[Damage]:
    """Yield what differs from what was recorded; every result is read. Independent.

    Parameters
    ----------
    store : RecordedStore
        Over the files; need not be open.
    done : Records
        Of what is read.
    pauses_s : sequence of float
        Before another look at what is not there, or not whole: a run is changing the files.

    Raises
    ------
    StoreError
        A file is there and cannot be read.
    """
    for position in np.lexsort([done["offset"], done["payload"], done["rank"]]):
        found = _damage(store, done[position])
        for pause_s in pauses_s:
            if found is None:
                break
            store.release()  # what was read of the file may not be so any more
            time.sleep(pause_s)
            found = _damage(store, done[position])
        if found is not None:
            yield found
    store.release()


def _damage(store: RecordedStore, record: Record) -> Damage | None:
    if record["n_bytes"] < 0:  # a part of what was recorded together
        return None
    path = store.source(record)
    try:
        measured = store.measure(record)
    except (FileNotFoundError, NotADirectoryError):
        return Damage(record, path, "there is no such file")
    except Damaged as damage:
        return Damage(record, damage.path, damage.what)
    except (OSError, KeyError, RuntimeError, ValueError) as error:
        # Of what the system refuses there is an errno; of bytes that make no sense there is none.
        if isinstance(error, OSError) and error.errno is not None:
            raise StoreError(f"cannot read {path}: {error.strerror}") from None
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
