"""Journals that are looked at again and again: only what has been added is read."""

from __future__ import annotations

import os
from collections import defaultdict
from dataclasses import dataclass, field

import numpy as np

from acme_mpi.history.description import described_runs, read_descriptions
from acme_mpi.history.journal import (
    RECORD,
    Block,
    JournalFile,
    Tell,
    journal_files,
    n_blocks,
    read_journal,
)
from acme_mpi.history.parsing import Damaged
from acme_mpi.history.records import NUMBER, Records, Table

COLUMNS = (*(RECORD.names or ()), NUMBER)


class GrowingJournals:
    """The journals in one dot folder, kept in memory as far as they have been read.

    A look at ten thousand of them costs a look at each size. What is kept is one array, which
    changes only where something was added.
    """

    def __init__(self) -> None:
        self._forget()
        self._begins: dict[int, tuple[int, int]] = {}

    def _forget(self) -> None:
        self._seen = defaultdict[str, _Seen](_Seen)
        self._blocks = Table(COLUMNS, 0).rows

    def blocks(self, folder: str, tell: Tell) -> Records:
        """Return what the journals say, without texts, by run, rank and place in the journal.

        Returns
        -------
        (n,) ndarray
            The columns of `RECORD`, number, run and rank; not to be changed.
        """
        if not self._goes_on(folder):
            self._forget()
        most = max((each.n_tasks for each in read_descriptions(folder, tell)), default=None)
        added = []
        for each in journal_files(folder, tell):
            seen = self._seen[each.path]
            n_there = n_blocks(each.path)
            if n_there != seen.n_there:
                added += seen.read(each, most)
                seen.n_there = n_there
            for damage in seen.damages:
                tell(damage)
        if added:
            found = np.concatenate([self._blocks, *added])
            # Of one journal they are in order already.
            self._blocks = found[np.lexsort((found["rank"], found["run"]))]
        return self._blocks

    def _goes_on(self, folder: str) -> bool:
        """Tell whether the runs that were known are the same still, and were not begun anew."""
        begins = {}
        for run in described_runs(folder):
            status = os.stat(os.path.join(folder, f"run{run}.json"))
            begins[run] = status.st_ino, status.st_mtime_ns
        known, self._begins = self._begins, begins
        return known.items() <= begins.items()


@dataclass
class _Seen:
    """What has been seen of one journal."""

    n_there: int = 0  # blocks
    n_read: int = 0  # up to the last whole one: what is torn at the end may be on its way
    damages: list[Damaged] = field(default_factory=list)

    def read(self, place: JournalFile, n_tasks: int | None) -> list[Records]:
        """Return what has been added."""
        found = []
        for piece in read_journal(place.path, n_tasks, self.damages.append, self.n_read):
            if len(piece.numbers):
                self.n_read = int(piece.numbers[-1]) + 1
            table = Table(COLUMNS, len(piece.blocks))
            table.add(place, piece, piece.blocks["kind"] != Block.TEXT)
            found.append(table.rows)
        return found
