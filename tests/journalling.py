"""Dot folders of runs, written block by block as stores do."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from acme_mpi.history.description import Description
from acme_mpi.history.folders import FINISHED
from acme_mpi.history.groups import likeness
from acme_mpi.history.joblog import JOBLOG_HEADER, joblog_lines
from acme_mpi.history.journal import (
    Block,
    Journal,
    pack_failure,
    pack_record,
    pack_slow,
    pack_synced,
)
from acme_mpi.history.layout import journal_name
from acme_mpi.history.status import Status, read_status

START_S = 1_700_000_000.0
LIMIT_S = 10.0


class Folder:
    """A dot folder of runs of `f` that is written as stores do."""

    def __init__(self, directory: Path, name: str = "f") -> None:
        self.path = directory / ".acme_mpi" / name
        self.path.mkdir(parents=True)
        self.name = name

    def describe(
        self, run: int = 0, n_tasks: int = 10, start_s: float = START_S, **more: Any
    ) -> None:
        described = Description(self.name, n_tasks, "rank", start_s=start_s, **more)
        described.write(str(self.path), run)

    def write(self, *blocks: bytes, run: int = 0, rank: int = 1) -> Path:
        path = self.path / journal_name(run, rank)
        journal = Journal(str(path))
        journal.append(blocks)
        journal.close()
        return path

    def end(self) -> None:
        (self.path / FINISHED).touch()

    def status(self, after_s: float = 0.0) -> Status:
        """Return the status some seconds after the start."""
        return read_status(str(self.path), START_S + after_s)

    def joblog(self) -> list[list[str]]:
        header, *lines = joblog_lines(str(self.path))
        assert header == JOBLOG_HEADER
        return [line.split("\t") for line in lines]


def done(first: int, stop: int, start: float = 0.0, busy_s: float = 1.0, **more: Any) -> bytes:
    return pack_record(
        range(first, stop), start_s=START_S + start, busy_s=busy_s, host="node1", **more
    )


def slow(
    first: int, start: float, busy_s: float, stop: int = 0, call: str = "", **more: Any
) -> bytes:
    tasks = range(first, stop or first + 1)
    return pack_slow(tasks, call, start_s=START_S + start, busy_s=busy_s, host="node1", **more)


def long(index: int, start: float) -> bytes:
    return done(index, index + 1, start, LIMIT_S, kind=Block.LONG)


def synced(start: float, written_s: float) -> bytes:
    return pack_synced(START_S + start, written_s)


def failed(
    index: int, is_final: bool = True, start: float = 0.0, busy_s: float = 0.0, **said: Any
) -> bytes:
    said = {"type": "ValueError", "message": "no", "location": "f.py:3", **said}
    number = said.pop("offset", likeness(said))
    attempt = said.pop("attempt", 1)
    return pack_failure(
        index,
        json.dumps({"traceback": "", "call": "", **said}),
        is_final,
        attempt=attempt,
        start_s=START_S + start,
        busy_s=busy_s,
        host="node1",
        offset=number,
    )


def write_run(folder: Folder, n_tasks: int, n_ranks: int, task_s: float = 0.05) -> float:
    """Write a run of tasks that were dealt in turn, each in a block of its own; return its end."""
    folder.describe(n_tasks=n_tasks, n_ranks=n_ranks)
    for rank in range(n_ranks):
        tasks = range(rank, n_tasks, n_ranks)
        blocks = [done(i, i + 1, k * task_s, task_s * 0.9) for k, i in enumerate(tasks)]
        folder.write(*blocks, rank=rank)
    return -(-n_tasks // n_ranks) * task_s
