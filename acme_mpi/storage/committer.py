"""Bring results to the disk and record them, beside the agent's other work.

A thread of its own, because a disk may take a second where the runner waits for an answer within
microseconds. It calls neither MPI nor HDF5: it syncs descriptors and appends to the journal, in
this order, so that what is recorded is durable.
"""

from __future__ import annotations

import os
import queue
import threading
from collections.abc import Sequence

from acme_mpi.errors import StoreError
from acme_mpi.journal import Journal, refuse_deleted
from acme_mpi.storage.base import reason

# Files that wait to be synced; more make `commit` wait for the disk.
MAX_WAITING = 256

Batch = tuple[list[int], list[bytes]]


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

    def commit(self, descriptors: Sequence[int], records: Sequence[bytes]) -> None:
        """Have `records` journalled as soon as the files are on the disk.

        Parameters
        ----------
        descriptors : sequence of int
            Of the files that hold the results; they may be closed after this.
        records : sequence of bytes
            Blocks of the journal.

        Raises
        ------
        StoreError
            An earlier commit has failed.
        """
        self._raise_error()
        if self._thread is None:
            self._thread = threading.Thread(target=self._serve, name="committer", daemon=True)
            self._thread.start()
        self._queue.put(([os.dup(descriptor) for descriptor in descriptors], list(records)))

    def commit_file(self, descriptor: int, record: bytes) -> None:
        """Have a record journalled as soon as its file is on the disk, and close the file."""
        try:
            self.commit([descriptor], [record])
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
                for descriptor in _descriptors(batches):
                    os.close(descriptor)
        if journal is not None:
            journal.close()

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
    synced: set[tuple[int, int]] = set()
    for descriptor in _descriptors(batches):
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
    journal.append([record for _, records in batches for record in records])


def _descriptors(batches: Sequence[Batch]) -> list[int]:
    return [descriptor for descriptors, _ in batches for descriptor in descriptors]
