"""What one rank has written and recorded between two sync points.

Nothing waits for the disk but a sync point. What was written survives the death of all processes;
what a node had in memory when it lost its power is gone, in any part and order. So a sync point
goes this way: results and new bytes, then the logs of what is to be changed in place, then the
names, and only then these changes; the journal last. Whatever of that is lost, a file is as it was
at the last sync point or can be made so, and what is recorded beyond it is known by its checksums.
"""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np

from acme_mpi.history.journal import (
    RECORD,
    Block,
    FileKey,
    Journal,
    pack_file,
    pack_record,
    pack_synced,
    refuse_deleted,
    sync_folder,
)
from acme_mpi.linux.syncing import sync_descriptor, sync_files
from acme_mpi.storage.redo import AtomicFile, Change

MAX_FILES = 16  # that are kept open until a sync point
MAX_LOG_BYTES = 64 * 1024**2  # whoever repeats a log holds it in memory


class Batch(NamedTuple):
    """What is to be recorded together."""

    descriptors: list[int]  # of files that hold results; whoever hands them over closes them
    records: list[bytes]
    changes: list[Change]  # that may be made once they are in the log
    complete: list[tuple[str, FileKey]]  # files that are closed


class Ledger:
    """The journal of a rank, and the files of which it speaks.

    Parameters
    ----------
    journal_path : str
        A new file.

    Attributes
    ----------
    unsynced_s : float or None
        When the first of what is not on the disk was recorded, of `time.monotonic`.

    Raises
    ------
    OSError
        The journal cannot be made.
    """

    def __init__(self, journal_path: str) -> None:
        self._journal = Journal(journal_path)
        self.unsynced_s: float | None = None
        self._synced_s = time.time()
        self._is_new = True
        self._new_names = {os.path.dirname(journal_path)}  # folders
        self._files: dict[AtomicFile, list[Change]] = {}
        self._descriptors: dict[tuple[int, int], tuple[int, str]] = {}  # by inode, with paths
        self._complete: dict[str, FileKey] = {}
        self._records: list[bytes] = []

    @property
    def is_full(self) -> bool:
        """Whether a sync point is due that time alone does not ask for."""
        n_files = len(self._files) + len(self._descriptors)
        log_bytes = max((file.log_bytes for file in self._files), default=0)
        return n_files > MAX_FILES or log_bytes > MAX_LOG_BYTES

    def record(self, batches: Sequence[Batch]) -> None:
        """Record what is written; nothing waits for the disk.

        Raises
        ------
        OSError
            The medium refused it; then none of it is recorded.
        """
        if self.unsynced_s is None:
            self.unsynced_s = time.monotonic()
        for batch in batches:
            self._take_files(batch)
        changes: dict[AtomicFile, list[Change]] = {}
        for change in (change for batch in batches for change in batch.changes):
            changes.setdefault(change.file, []).append(change)
        for file, found in changes.items():
            self._log(file, found)
        records = [record for batch in batches for record in batch.records]
        self._journal.append(records)
        self._records += records

    def _take_files(self, batch: Batch) -> None:
        """Note the files of a batch, and keep those open that are not complete."""
        self._complete.update(batch.complete)
        self._new_names.update(os.path.dirname(path) for path, _ in batch.complete)
        for descriptor in batch.descriptors:
            path = os.readlink(f"/proc/self/fd/{descriptor}").removesuffix(" (deleted)")
            refuse_deleted(descriptor, path)
            status = os.fstat(descriptor)
            inode = status.st_dev, status.st_ino
            if inode not in self._descriptors:
                self._descriptors[inode] = os.dup(descriptor), path
                self._new_names.add(os.path.dirname(path))

    def _log(self, file: AtomicFile, changes: list[Change]) -> None:
        if file not in self._files:
            self._files[file] = []
            self._new_names.add(os.path.dirname(file.path))
        refuse_deleted(file.fileno(), file.path)
        file.write_log(changes)
        self._files[file] += changes

    def sync(self, written_s: float) -> None:
        """Bring all to the disk that is recorded, and make the changes that wait for that.

        Parameters
        ----------
        written_s : float
            How long the rank was busy with results since the last time, in seconds.

        Raises
        ------
        OSError
            The medium refused it. What was recorded since the last sync point does not count any
            more, as it may not be there.
        """
        if self.unsynced_s is None:
            return
        try:
            self._sync_all(written_s)
        except OSError:
            self._retract()
            raise
        finally:
            self._forget()

    def _sync_all(self, written_s: float) -> None:
        for file in self._files:
            sync_descriptor(file.fileno(), file.path)
        for descriptor, path in self._descriptors.values():
            sync_descriptor(descriptor, path)
        sync_files(self._complete)
        for file in self._files:
            file.seal_log()
        for folder in self._new_names:
            sync_folder(folder)
        if self._is_new:
            _sync_above(self._journal.path)
            self._is_new = False
        for file, changes in self._files.items():
            file.make_changes(changes)
            if changes and changes[-1].is_last:
                file.finish()
            else:
                file.settle()
        synced = pack_synced(self._synced_s, written_s)
        self._synced_s = time.time()
        self._journal.append([synced, *self._file_blocks()])
        self._journal.sync()

    def _file_blocks(self) -> Iterator[bytes]:
        """Yield how the files look that are complete and on the disk."""
        # Only now, as network drives set times when they have the data.
        for path, key in self._complete.items():
            yield pack_file(key, os.stat(path))
        for file, changes in self._files.items():
            if changes and changes[-1].is_last:
                yield pack_file(file.key, os.fstat(file.fileno()))

    def _retract(self) -> None:
        blocks = np.frombuffer(b"".join(self._records), RECORD)
        done = blocks[blocks["kind"] == Block.DONE]
        spans = zip(done["first"].tolist(), done["count"].tolist(), strict=True)
        with contextlib.suppress(OSError):
            self._journal.append(
                [pack_record(range(first, first + n), Block.LOST) for first, n in spans]
            )

    def _forget(self) -> None:
        """Begin anew, with what has been written since."""
        self.unsynced_s = None
        for file in [file for file, changes in self._files.items() if changes]:
            if self._files[file][-1].is_last:
                file.close()
        self._files.clear()
        for descriptor, _ in self._descriptors.values():
            os.close(descriptor)
        self._descriptors.clear()
        self._complete.clear()
        self._records.clear()
        self._new_names = {os.path.dirname(self._journal.path)}

    def close(self) -> None:
        """Close the journal.

        Raises
        ------
        OSError
            It has been deleted since.
        """
        self._journal.close()


def _sync_above(path: str) -> None:
    """Have the names of all folders on the disk that lead to a file: any of them may be new."""
    folder = os.path.dirname(os.path.abspath(path))
    device = os.stat(folder).st_dev
    while folder != os.path.dirname(folder):
        folder = os.path.dirname(folder)
        # Those that this user may not read were there before.
        with contextlib.suppress(OSError):
            if os.stat(folder).st_dev != device:
                return
            sync_folder(folder)
