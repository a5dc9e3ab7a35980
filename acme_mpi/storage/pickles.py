"""Results as pickles: one file ``<name>_<i>.pickle`` per task, for what HDF5 cannot hold."""

from __future__ import annotations

import os
from collections.abc import Iterator
from typing import Any

from acme_mpi.journal import AS_PICKLES, pack_record
from acme_mpi.offsets import write_all
from acme_mpi.runner.base import Outcome
from acme_mpi.storage.base import Layout, Store, Stored, refusals
from acme_mpi.storage.committer import Committer
from acme_mpi.storage.records import Records, indices_of, share_records


def write_pickle(path: str, data: bytes) -> int:
    """Write one pickle; return a descriptor of the file that is still open.

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


class PickleStore(Store):
    """Every result is a pickle in the output directory; there is no container."""

    def __init__(self, world: Any, layout: Layout, spec: Any, n_tasks: int) -> None:
        super().__init__(world, layout, spec, n_tasks)
        self._committer = Committer(layout.journal(world.rank))

    def write(self, outcome: Outcome) -> None:
        """Write the pickles of one outcome and have them recorded."""
        pickles: Iterator[bytes] = iter(outcome.content.parts or [])
        for tasks in outcome.succeeded():
            for index, data in zip(tasks, pickles, strict=False):
                descriptor = write_pickle(self.layout.pickle(index), data)
                task_s = outcome.busy_ns / 1e9 / outcome.n_succeeded
                record = pack_record(range(index, index + 1), form=AS_PICKLES, busy_s=task_s)
                self._committer.commit_file(descriptor, record)

    def close(self) -> None:
        """Wait until everything is recorded."""
        self._committer.close()

    def commit(self, root: int | None = None) -> Stored:
        """Return the paths of all pickles. Collective."""
        paths: list[str | None] = [None] * self.n_tasks
        for index in indices_of(share_records(self.world, self.layout)):
            paths[index] = self.layout.pickle(index)
        return Stored(paths=paths)
