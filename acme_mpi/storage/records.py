"""What the journals of all ranks say together: which tasks are done, and where."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, NamedTuple

import numpy as np

from acme_mpi.comm import World
from acme_mpi.journal import AS_GROUPS, AS_ROWS, RECORD, read_journal
from acme_mpi.storage.base import Layout

Records = np.ndarray[Any, Any]


def share_records(world: World, layout: Layout) -> Records:
    """Return the records of all ranks in task order, with a field ``rank`` added. Collective."""
    return world.bcast(_read_records(layout, world.size) if world.is_master else None)


def _read_records(layout: Layout, n_ranks: int) -> Records:
    dtype = np.dtype([*RECORD.descr, ("rank", "<i4")])
    parts = []
    for rank in range(n_ranks):
        records = read_journal(layout.journal(rank))
        part = np.zeros(len(records), dtype)
        for name in RECORD.names or ():
            part[name] = records[name]
        part["rank"] = rank
        parts.append(part)
    records = np.concatenate(parts)
    return records[np.argsort(records["first"], kind="stable")]


def n_sources(records: Records) -> int:
    """Return how many payload files hold rows."""
    rows = records[records["form"] & AS_ROWS != 0]
    return len(np.unique(np.stack([rows["rank"], rows["payload"]]), axis=1).T)


def indices_of(records: Records) -> Iterator[int]:
    """Yield the tasks that the records speak of."""
    for first, count in zip(records["first"].tolist(), records["count"].tolist(), strict=True):
        yield from range(first, first + count)


def missing_tasks(records: Records, n_tasks: int) -> Any:
    """Return the indices of tasks without a record, (n,) ndarray of int64."""
    is_done = np.zeros(n_tasks, bool)
    for record in records:
        is_done[record["first"] : record["first"] + record["count"]] = True
    return np.flatnonzero(~is_done)


class Place(NamedTuple):
    """Where a rank has put the groups of some tasks."""

    rank: int
    payload: int


def tasks_with_groups(records: Records) -> Iterator[tuple[Place, int]]:
    """Yield (place, task) for every task that has a group in the container."""
    chosen = records[records["form"] & AS_GROUPS != 0]
    columns = (chosen[name].tolist() for name in ("rank", "payload", "first", "count"))
    for rank, payload, first, count in zip(*columns, strict=True):
        place = Place(rank, payload)
        for index in range(first, first + count):
            yield place, index
