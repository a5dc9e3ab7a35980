"""What all stores share that keep results in files: the rank's journal and what goes into it."""

from __future__ import annotations

import contextlib
import json
import threading
import time
from abc import abstractmethod
from collections.abc import Iterator, Sequence
from typing import Any

from acme_mpi.comm import World
from acme_mpi.comm.background import start_thread
from acme_mpi.errors import StoreError
from acme_mpi.history.groups import likeness
from acme_mpi.history.journal import (
    AS_PICKLES,
    Block,
    FileKey,
    append_at_once,
    pack_death,
    pack_failure,
    pack_record,
    pack_slow,
)
from acme_mpi.history.layout import Layout
from acme_mpi.history.records import TOLD_OF_FAILURES, Record, Records
from acme_mpi.results.checksum import Digest, checksum, new_digest
from acme_mpi.results.form import ROWS, form_of
from acme_mpi.results.spec import RowSpec
from acme_mpi.runner.base import Outcome
from acme_mpi.storage.base import Store, Stored, on_master
from acme_mpi.storage.committer import Committer

DEATH_S = 2.0  # within which a death is noted


class RecordedStore(Store):
    """A store whose results are recorded one by one.

    Parameters are those of `Store`.
    """

    has_own_files = False  # the results of each task lie in a file of their own

    def __init__(self, world: World, layout: Layout, spec: RowSpec | None, n_tasks: int) -> None:
        super().__init__(world, layout, spec, n_tasks)
        self.settle()
        self._committer = Committer(layout.journal(world.rank))
        self._tracebacks: dict[int, int] = {}  # checksums, and the first task that had each

    def sync_every(self, seconds: float) -> None:
        """Bring what is recorded to the disk so often."""
        self._committer.sync_s = seconds

    def settle(self) -> None:
        """Take the form on which the first result has decided, if it was open. Independent.

        Raises
        ------
        StoreError
            What is there does not say it.
        """
        if self.spec is not None and self.spec.is_open:
            folder = self.layout.dot_folder
            try:
                found = (form_of(folder) or {}).get(ROWS)
                form = None if found is None else RowSpec.from_listed(found)
            except (OSError, ValueError, KeyError, TypeError) as error:
                raise StoreError(f"cannot read the form of results in {folder}: {error}") from None
            self.spec = self.spec if form is None else self.spec.settled(form)

    def settle_together(self) -> None:
        """Settle the form on all ranks, None if there is no result. Collective."""
        if self.spec is not None and self.spec.is_auto:
            on_master(self.world, self.settle)
            self.spec = self.world.bcast(None if self.spec.is_open else self.spec)

    def restore(self) -> None:
        """Make ready to resume what earlier runs have left. Rank 0 only, before `open`.

        Raises
        ------
        StoreError
            The medium refused it.
        """

    def tidy(self) -> None:
        """Remove what is of no use any more, as the container has all results. Rank 0 only."""

    @abstractmethod
    def stored(self, done: Records) -> Stored:
        """Return where the results that the records speak of are. Independent."""

    @abstractmethod
    def measure(self, record: Record) -> Digest | None:
        """Return a digest of the results that a record speaks of, of its kind. Independent.

        They are read from the files, whichever rank of whichever run has written them; None where
        files have been merged in a form that does not show it.

        Raises
        ------
        OSError, KeyError, RuntimeError, ValueError
            They cannot be read.
        """

    @abstractmethod
    def path_of(self, key: FileKey) -> str:
        """Return the path of a file of results."""

    def key(self, record: Record) -> FileKey:
        """Return which file holds the results that a record speaks of, when they are complete."""
        return FileKey(int(record["form"]) & AS_PICKLES, first=int(record["first"]))

    def source(self, record: Record) -> str:
        """Return the path of the file with the results that a record speaks of."""
        return self.path_of(self.key(record))

    def files(self, record: Record) -> list[str]:
        """Return the paths of all files with results that a record speaks of."""
        return [self.source(record)]

    def container_faults(self, done: Records) -> Iterator[str]:
        """Yield what is wrong with the container itself, as sentences. Independent."""
        return iter(())

    def release(self) -> None:
        """Close what `measure` has opened."""

    def record(self, outcome: Outcome, tasks: range, digest: Digest, **fields: Any) -> bytes:
        """Return the block that says that results of some of an outcome's tasks are written.

        Parameters
        ----------
        outcome : Outcome
            Of these tasks and perhaps others.
        tasks : range
            The tasks.
        digest : Digest
            Of their results.
        **fields
            ``form, payload, offset`` of `pack_record`.
        """
        task_s = outcome.busy_ns / 1e9 / max(1, outcome.stop - outcome.start)
        return pack_record(
            tasks,
            attempt=outcome.attempt,
            start_s=outcome.start_s + task_s * (tasks.start - outcome.start),
            busy_s=task_s * len(tasks),
            peak_bytes=outcome.peak_bytes,
            host=self.world.host,
            n_bytes=digest.n_bytes,
            checksum=digest.number,
            digest=digest.kind,
            **fields,
        )

    def note(self, outcome: Outcome) -> None:
        """Record failures and slow tasks."""
        blocks = [
            pack_slow(
                range(first, first + count),
                outcome.calls.get(first, ""),
                attempt=outcome.attempt,
                start_s=start_s,
                busy_s=busy_s,
                host=self.world.host,
            )
            for first, count, start_s, busy_s in outcome.slow
        ]
        blocks += [self._failure(outcome, fields) for fields in outcome.failures]
        self._append(blocks)

    def _failure(self, outcome: Outcome, fields: dict[str, Any]) -> bytes:
        said = {name: fields.get(name, "") for name in TOLD_OF_FAILURES}
        attempt = fields.get("attempt", outcome.attempt)
        # Of a million equal tracebacks one is enough. A task stands for that of its first attempt.
        key = checksum(said["traceback"].encode(errors="replace"))
        first = self._tracebacks.get(key, fields["index"])
        if attempt == 1:
            self._tracebacks.setdefault(key, first)
        if first != fields["index"]:
            said["traceback"] = first
        return pack_failure(
            fields["index"],
            json.dumps(said),
            fields.get("is_final", True),
            attempt=attempt,
            start_s=outcome.start_s,
            busy_s=outcome.busy_ns / 1e9 if outcome.stop - outcome.start == 1 else 0.0,
            peak_bytes=outcome.peak_bytes,
            host=self.world.host,
            offset=likeness(said),
        )

    def note_written(self, seconds: float) -> None:
        """Record it with the next sync point."""
        self._committer.written_s += seconds

    def note_long(self, index: int, start_s: float) -> None:
        """Record that a task is still running."""
        tasks = range(index, index + 1)
        busy_s = time.time() - start_s
        host = self.world.host
        self._append([pack_record(tasks, Block.LONG, start_s=start_s, busy_s=busy_s, host=host)])

    def note_death(self, rank: int, host: str) -> None:
        """Record at once that a rank is lost: there will be no time for the committer.

        A medium that does not answer keeps no rank from ending the job.
        """
        is_noted = threading.Event()

        def append() -> None:
            with contextlib.suppress(OSError):
                append_at_once(self.layout.journal(self.world.rank), pack_death(rank, host))
            is_noted.set()

        start_thread("death", append)
        is_noted.wait(DEATH_S)

    def note_lost(self, lost: Sequence[range]) -> None:
        """Record that results which earlier runs have recorded are not there any more."""
        self._append([pack_record(tasks, Block.LOST) for tasks in lost])

    def note_files(self, blocks: Sequence[bytes]) -> None:
        """Record how files of earlier runs look that have been found to be whole."""
        self._append(blocks)

    def close(self) -> None:
        """Wait until everything is recorded and on the disk."""
        self._committer.close()

    def _append(self, blocks: Sequence[bytes]) -> None:
        if blocks:
            self._committer.commit([], blocks)


def digest_like(record: Record) -> Digest:
    """Return an empty digest that can be compared with that of a record.

    Raises
    ------
    ValueError
        A later version has written the record.
    """
    return new_digest(int(record["digest"]))
