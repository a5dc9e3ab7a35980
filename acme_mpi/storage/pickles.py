"""Results as pickles: one file ``<name>_<i>.pickle`` per task, for what HDF5 cannot hold."""

from __future__ import annotations

import os
from collections.abc import Iterator

from acme_mpi.history.journal import AS_PICKLES, FileKey
from acme_mpi.history.layout import Layout
from acme_mpi.history.parsing import read_file
from acme_mpi.history.records import Record, Records, indices_of, share_records
from acme_mpi.linux.offsets import write_all
from acme_mpi.results.checksum import Digest, new_digest
from acme_mpi.runner.base import Outcome
from acme_mpi.storage.base import Stored, refusals
from acme_mpi.storage.recorded import RecordedStore, digest_like


def write_file(path: str, data: bytes) -> int:
    """Write a whole file; return a descriptor of it that is still open.

    Raises
    ------
    StoreError
        The medium refused the data.
    """
    with refusals(path):
        # The task may have been called before, by a runner that died with others of its results.
        flags = os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC
        descriptor = os.open(path, flags, 0o666)
        try:
            write_all(descriptor, data, 0)
        except BaseException:
            os.close(descriptor)
            raise
        return descriptor


def emergency_pickles(layout: Layout, records: Records) -> list[str]:
    """Return the paths of results that were pickled beside HDF5 files, in task order."""
    pickled = records[records["form"] & AS_PICKLES != 0]
    return [layout.emergency_pickle(index) for index in indices_of(pickled)]


class PickleStore(RecordedStore):
    """Every result is a pickle in the output directory; there is no container."""

    has_own_files = True

    def write(self, outcome: Outcome) -> None:
        """Write the pickles of one outcome and have them recorded."""
        pickles: Iterator[bytes] = iter(outcome.content.parts or [])
        for tasks in outcome.succeeded():
            for index, data in zip(tasks, pickles, strict=False):
                path, digest = self.layout.pickle(index), new_digest()
                os.close(write_file(path, data))
                digest.add(index, data)
                record = self.record(outcome, range(index, index + 1), digest, form=AS_PICKLES)
                key = FileKey(AS_PICKLES, first=index)
                self._committer.commit([], [record], complete=[(path, key)])

    def path_of(self, key: FileKey) -> str:
        """Return the path of a task's pickle."""
        return self.layout.pickle(key.first)

    def measure(self, record: Record) -> Digest:
        """Return the digest of the pickle."""
        digest = digest_like(record)
        digest.add(int(record["first"]), read_file(self.source(record), int(record["n_bytes"])))
        return digest

    def commit(self, root: int | None = None) -> Stored:
        """Return the paths of all pickles. Collective."""
        return self.stored(share_records(self.world, self.layout))

    def stored(self, done: Records) -> Stored:
        """Return the paths of all pickles."""
        paths: list[str | None] = [None] * self.n_tasks
        for index in indices_of(done):
            paths[index] = self.layout.pickle(index)
        return Stored(paths=paths)
