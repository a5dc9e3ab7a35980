"""Bring results to the disk and record them, beside the agent's other work.

A thread of its own, because a disk may take a second where the runner waits for an answer within
microseconds. It calls neither MPI nor HDF5: it syncs descriptors and appends to the journal, in
this order, so that what is recorded is durable.
"""

from __future__ import annotations

import os
import queue
import threading
from collections.abc import Iterator, Sequence
from typing import NamedTuple

from acme_mpi.errors import StoreError
from acme_mpi.history.journal import FileKey, Journal, pack_file, refuse_deleted
from acme_mpi.linux.offsets import reason
from acme_mpi.storage.redo import AtomicFile, Change

# Files that wait to be synced; more make `commit` wait for the disk.
MAX_WAITING = 256


class Batch(NamedTuple):
    """What is to be recorded together."""

    descriptors: list[int]  # of the files that have to be on the disk before that
    records: list[bytes]
    changes: list[Change]  # that may be made once they are in the log
    keys: list[FileKey]  # of the descriptors whose files are complete, or none


class Committer:
    """The way of one rank's results from the operating system to disk and journal.

    Parameters
    ----------
    journal_path : str
        Made at the first result.
    """

    def __init__(self, journal_path: str) -> None:
        self._path = journal_path
        self._queue: queue.Queue[Batch | None] = queue.Queue(MAX_WAITING)
        self._thread: threading.Thread | None = None
        self._error: OSError | None = None

    def commit(
        self,
        descriptors: Sequence[int],
        records: Sequence[bytes],
        changes: Sequence[Change] = (),
        keys: Sequence[FileKey] = (),
    ) -> None:
        """Have `records` journalled as soon as the files are on the disk.

        Parameters
        ----------
        descriptors : sequence of int
            Of the files that hold the results; they may be closed after this.
        records : sequence of bytes
            Blocks of the journal.
        changes : sequence of Change
            Of files that hold results, to be made before that.
        keys : sequence of FileKey
            Where the descriptors are those of complete files: which these are.

        Raises
        ------
        StoreError
            An earlier commit has failed.
        """
        try:
            self._raise_error()
        except StoreError:
            _close_last(changes)
            raise
        if self._thread is None:
            self._thread = threading.Thread(target=self._serve, name="committer", daemon=True)
            self._thread.start()
        duplicates = [os.dup(descriptor) for descriptor in descriptors]
        self._queue.put(Batch(duplicates, list(records), list(changes), list(keys)))

    def commit_file(self, descriptor: int, record: bytes, key: FileKey) -> None:
        """Have a record journalled as soon as its file is on the disk, and close the file."""
        try:
            self.commit([descriptor], [record], keys=[key])
        finally:
            os.close(descriptor)

    def close(self) -> None:
        """Wait until everything is recorded.

        Raises
        ------
        StoreError
            Something could not be.
        """
        if self._thread is not None:
            self._queue.put(None)
            self._thread.join()
            self._thread = None
        self._raise_error()

    def _raise_error(self) -> None:
        if self._error is not None:
            path = str(self._error.filename or self._path)
            raise StoreError(
                f"cannot bring results to the disk, {path}: {reason(self._error, path)}"
            ) from self._error

    def _serve(self) -> None:
        journal: Journal | None = None
        is_open = True
        while is_open:
            batches, is_open = self._take()
            try:
                if batches and self._error is None:
                    journal = journal or Journal(self._path)
                    _sync_and_record(journal, batches)
            except OSError as error:
                self._error = error
            finally:
                for batch in batches:
                    for descriptor in batch.descriptors:
                        os.close(descriptor)
                    _close_last(batch.changes)
        try:
            if journal is not None:
                journal.close()
        except OSError as error:
            self._error = self._error or error

    def _take(self) -> tuple[list[Batch], bool]:
        """Wait for one batch and take all that wait with it; tell whether more may come."""
        batches: list[Batch] = []
        batch = self._queue.get()
        while batch is not None:
            batches.append(batch)
            try:
                batch = self._queue.get_nowait()
            except queue.Empty:
                return batches, True
        return batches, False


def _sync_and_record(journal: Journal, batches: Sequence[Batch]) -> None:
    changes: dict[AtomicFile, list[Change]] = {}
    for batch in batches:
        for change in batch.changes:
            changes.setdefault(change.file, []).append(change)
    _sync([file.fileno() for file in changes])
    _sync([descriptor for batch in batches for descriptor in batch.descriptors])
    for file, found in changes.items():
        file.write_log(found)
    journal.append([block for batch in batches for block in _blocks(batch)])
    for file, found in changes.items():
        file.make_changes(found)
        if found[-1].is_last:
            file.finish()
            journal.append([pack_file(file.key, os.fstat(file.fileno()))])


def _blocks(batch: Batch) -> Iterator[bytes]:
    yield from batch.records
    # Only now, as network drives set times when they have the data.
    for key, descriptor in zip(batch.keys, batch.descriptors, strict=False):
        yield pack_file(key, os.fstat(descriptor))


def _sync(descriptors: Sequence[int]) -> None:
    synced: set[tuple[int, int]] = set()
    for descriptor in descriptors:
        status = os.fstat(descriptor)
        # Many results of one file wait together: one sync does for all.
        if (status.st_dev, status.st_ino) not in synced:
            synced.add((status.st_dev, status.st_ino))
            path = os.readlink(f"/proc/self/fd/{descriptor}").removesuffix(" (deleted)")
            try:
                os.fdatasync(descriptor)
            except OSError as error:
                raise OSError(error.errno, error.strerror, path) from None
            refuse_deleted(descriptor, path)


def _close_last(changes: Sequence[Change]) -> None:
    for change in changes:
        if change.is_last:
            change.file.close()
