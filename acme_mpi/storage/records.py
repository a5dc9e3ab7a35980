"""What the journals of all ranks and runs say together: which tasks are done, and where."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import replace
from typing import Any, NamedTuple

import numpy as np

from acme_mpi.comm import World
from acme_mpi.errors import Failure
from acme_mpi.journal import (
    AS_GROUPS,
    AS_ROWS,
    FINAL,
    RECORD,
    Block,
    failures_in,
    journal_files,
    read_journal,
)
from acme_mpi.storage.base import Layout

Records = np.ndarray[Any, Any]
LOCATED = np.dtype([*RECORD.descr, ("run", "<i4"), ("rank", "<i4")])


class History(NamedTuple):
    """All that the runs on the same results have recorded.

    Attributes
    ----------
    done : (n,) ndarray of `LOCATED`
        The records of durable results, in task order; no task is in two of them.
    failed : dict of int to Failure
        The tasks that were given up, by index.
    blocks : (n,) ndarray of `LOCATED`
        Every block of every journal, by run and rank, as they were written.
    """

    done: Records
    failed: dict[int, Failure]
    blocks: Records

    def is_done(self, n_tasks: int) -> Any:
        """Return which tasks have durable results, (n_tasks,) ndarray of bool."""
        return _covered(self.done, n_tasks)


def read_history(folder: str) -> History:
    """Read the journals in a run's dot folder. Independent; it may be in use."""
    parts = []
    for run, rank, path in journal_files(folder):
        blocks = read_journal(path)
        part = np.zeros(len(blocks), LOCATED)
        for name in RECORD.names or ():
            part[name] = blocks[name]
        part["run"], part["rank"] = run, rank
        parts.append(part)
    blocks = np.concatenate(parts) if parts else np.zeros(0, LOCATED)
    done = _valid(blocks)
    return History(done, _failed(blocks, done), blocks)


def share_records(world: World, layout: Layout) -> Records:
    """Return the records of results of all ranks and runs, in task order. Collective."""
    return world.bcast(read_history(layout.dot_folder).done if world.is_master else None)


def _valid(blocks: Records) -> Records:
    """Return the records that count: what a later run says of a task replaces what was said."""
    said: Records = blocks[np.isin(blocks["kind"], (Block.DONE, Block.LOST))]
    in_order: Records = said[np.argsort(said["first"], kind="stable")]
    is_apart = (in_order["first"][1:] >= (in_order["first"] + in_order["count"])[:-1]).all()
    if is_apart and (said["kind"] == Block.DONE).all():
        return in_order
    # The block that says the last word about each task.
    last = np.full(int((said["first"] + said["count"]).max()), -1, np.int64)
    counts = said["count"]
    starts = np.repeat(said["first"] - (np.cumsum(counts) - counts), counts)
    tasks = starts + np.arange(len(starts))
    # Assignments are carried out in order, so that of the last block stays.
    last[tasks] = np.repeat(np.arange(len(said)), counts)
    n_owned = np.bincount(last[last >= 0], minlength=len(said))
    is_done = said["kind"] == Block.DONE
    whole = said[is_done & (n_owned == counts)]
    for at in np.flatnonzero(is_done & (n_owned > 0) & (n_owned < counts)).tolist():
        whole = np.concatenate([whole, _parts_owned(said[at], last, at)])
    ordered: Records = whole[np.argsort(whole["first"], kind="stable")]
    return ordered


def _parts_owned(record: Any, last: Any, at: int) -> Records:
    """Return what is left of a record, some tasks of which others speak for."""
    first, count = int(record["first"]), int(record["count"])
    owned = np.concatenate([[False], last[first : first + count] == at, [False]])
    edges = np.flatnonzero(np.diff(owned.astype(np.int8))).reshape(-1, 2)
    parts = np.repeat(np.array([record]), len(edges))
    parts["first"], parts["count"] = first + edges[:, 0], edges[:, 1] - edges[:, 0]
    if record["form"] & AS_ROWS:
        parts["offset"] = int(record["offset"]) + edges[:, 0]
    parts["n_bytes"] = -1  # of the whole; a part cannot be measured against it
    return parts


def _failed(blocks: Records, done: Records) -> dict[int, Failure]:
    failed: dict[int, Failure] = {}
    tracebacks: dict[tuple[int, int, int], str] = {}
    for block, text in failures_in(blocks):
        index = int(block["first"])
        failure, place = _failure(block, text), (int(block["run"]), int(block["rank"]))
        if isinstance(failure.traceback, int):  # that of another task of the same rank
            known = tracebacks.get((*place, failure.traceback), "")
            failure = replace(failure, traceback=known)
        else:
            tracebacks.setdefault((*place, index), failure.traceback)
        if block["form"] & FINAL:
            failed[index] = failure
    for index in np.flatnonzero(_covered(done, max(failed, default=-1) + 1)).tolist():
        failed.pop(index, None)
    return dict(sorted(failed.items()))


def _failure(block: Any, text: str) -> Failure:
    said = json.loads(text) if text else {"type": "unknown", "message": "its record is torn"}
    return Failure(
        int(block["first"]),
        **said,
        host=block["host"].decode(errors="replace"),
        rank=int(block["rank"]),
        attempt=int(block["attempt"]),
    )


def _covered(records: Records, n_tasks: int) -> Any:
    """Return which tasks the records speak of, none of them twice, (n_tasks,) ndarray of bool."""
    # One byte per task, and no other array of that length: of tasks there may be 1e7.
    edges = np.zeros(n_tasks + 1, np.int8)
    edges[np.minimum(records["first"], n_tasks)] += 1
    edges[np.minimum(records["first"] + records["count"], n_tasks)] -= 1
    return np.cumsum(edges, dtype=np.int8, out=edges)[:-1].view(bool)


def ranges_of(is_wanted: Any) -> Any:
    """Return the runs of consecutive tasks that are wanted, (n, 2) ndarray: start, stop.

    Parameters
    ----------
    is_wanted : (n_tasks,) ndarray of bool
        By task.
    """
    padded = np.concatenate([[False], is_wanted, [False]])
    return np.flatnonzero(np.diff(padded)).reshape(-1, 2)


def share_of(records: Records, world: World) -> Records:
    """Return the records whose results this rank takes care of at the end. Independent.

    Those that it has written itself, and those of ranks that are not there any more.
    """
    share: Records = records[records["rank"] % world.size == world.rank]
    return share


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
    return np.flatnonzero(is_missing(records, n_tasks))


def is_missing(records: Records, n_tasks: int) -> Any:
    """Return which tasks have no record, (n_tasks,) ndarray of bool."""
    return ~_covered(records, n_tasks)


class Place(NamedTuple):
    """Where a rank has put the groups of some tasks."""

    rank: int
    payload: int


def places(records: Records) -> list[Place]:
    """Return where the records' results lie, each place once, by rank and payload."""
    found = zip(records["rank"].tolist(), records["payload"].tolist(), strict=True)
    return sorted({Place(rank, payload) for rank, payload in found})


def tasks_with_groups(records: Records) -> Iterator[tuple[Place, int]]:
    """Yield (place, task) for every task that has a group in the container."""
    chosen = records[records["form"] & AS_GROUPS != 0]
    columns = (chosen[name].tolist() for name in ("rank", "payload", "first", "count"))
    for rank, payload, first, count in zip(*columns, strict=True):
        place = Place(rank, payload)
        for index in range(first, first + count):
            yield place, index
