"""Record results and bring them to the disk, beside the agent's other work.

A thread of its own, because a disk may take a second where the runner waits for an answer within
microseconds. It calls neither MPI nor HDF5.
"""

from __future__ import annotations

import os
import queue
import threading
import time
from collections.abc import Sequence

from acme_mpi.errors import StoreError
from acme_mpi.history.journal import FileKey
from acme_mpi.linux.offsets import reason
from acme_mpi.rules import SYNC_S
from acme_mpi.storage.ledger import Batch, Ledger
from acme_mpi.storage.redo import Change

# What waits while the disk is busy with a sync point; more make `commit` wait.
MAX_WAITING = 1024


class Committer:
    """The way of one rank's results from the operating system to journal and disk.

    Parameters
    ----------
    journal_path : str
        Made at the first result.

    Attributes
    ----------
    sync_s : float
        How long after a result was recorded it is on the disk, in seconds; 0: each time.
    written_s : float
        How long the rank was busy with results, in seconds; it only grows.
    """

    def __init__(self, journal_path: str) -> None:
        self._path = journal_path
        self.sync_s = SYNC_S
        self.written_s, self._told_s = 0.0, 0.0
        self._queue: queue.Queue[Batch | None] = queue.Queue(MAX_WAITING)
        self._thread: threading.Thread | None = None
        self._error: OSError | None = None

    def commit(
        self,
        descriptors: Sequence[int],
        records: Sequence[bytes],
        changes: Sequence[Change] = (),
        complete: Sequence[tuple[str, FileKey]] = (),
    ) -> None:
        """Have `records` journalled, and the files brought to the disk with them.

        Parameters
        ----------
        descriptors : sequence of int
            Of the files that hold the results, which are written; they may be closed after this.
        records : sequence of bytes
            Blocks of the journal.
        changes : sequence of Change
            Of files that hold results, to be made before that.
        complete : sequence of (str, FileKey)
            Paths of files that are closed and will not change any more.

        Raises
        ------
        StoreError
            An earlier commit has failed.
        """
        try:
            self._raise_error()
        except StoreError:
            # Closed behind what is still under way.
            self._queue.put(Batch([], [], list(changes), []))
            raise
        if self._thread is None:
            self._thread = threading.Thread(target=self._serve, name="committer", daemon=True)
            self._thread.start()
        duplicates = [os.dup(descriptor) for descriptor in descriptors]
        self._queue.put(Batch(duplicates, list(records), list(changes), list(complete)))

    def close(self) -> None:
        """Wait until everything is recorded and on the disk.

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
        ledger: Ledger | None = None
        is_open = True
        while is_open:
            batches, is_open = self._take(self._wait_s(ledger))
            try:
                if batches and self._error is None:
                    ledger = ledger or Ledger(self._path)
                    ledger.record(batches)
            except OSError as error:
                self._error = error
            finally:
                for batch in batches:
                    for descriptor in batch.descriptors:
                        os.close(descriptor)
            self._sync_if_due(ledger, is_open)
            if self._error is not None:
                for batch in batches:
                    _close_last(batch.changes)
        try:
            if ledger is not None:
                ledger.close()
        except OSError as error:
            self._error = self._error or error

    def _wait_s(self, ledger: Ledger | None) -> float | None:
        """Return how long there is time until the next sync point; None without one."""
        if ledger is None or ledger.unsynced_s is None:
            return None
        return max(0.0, ledger.unsynced_s + self.sync_s - time.monotonic())

    def _sync_if_due(self, ledger: Ledger | None, is_open: bool) -> None:
        if ledger is None or not (
            not is_open or self._error or ledger.is_full or self._wait_s(ledger) == 0
        ):
            return
        written_s = self.written_s
        try:
            ledger.sync(written_s - self._told_s)
            self._told_s = written_s
        except OSError as error:
            self._error = self._error or error

    def _take(self, wait_s: float | None) -> tuple[list[Batch], bool]:
        """Wait for one batch and take all that wait with it; tell whether more may come."""
        batches: list[Batch] = []
        try:
            batch = self._queue.get(timeout=wait_s)
            while batch is not None:
                batches.append(batch)
                batch = self._queue.get_nowait()
        except queue.Empty:
            return batches, True
        return batches, False


def _close_last(changes: Sequence[Change]) -> None:
    for change in changes:
        if change.is_last:
            change.file.close()
