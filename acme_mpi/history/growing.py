"""Journals that are looked at again and again: only what has been added is read."""

from __future__ import annotations

import os
from collections.abc import Iterator

import numpy as np

from acme_mpi.history.description import described_runs, read_descriptions
from acme_mpi.history.journal import (
    RECORD,
    Block,
    JournalFile,
    Piece,
    Tell,
    journal_files,
    n_blocks,
    read_journal,
)
from acme_mpi.history.parsing import Damaged


class GrowingJournals:
    """The journals in one dot folder, kept in memory as far as they have been read."""

    def __init__(self) -> None:
        self._kept: dict[str, _Kept] = {}
        self._begins: dict[int, tuple[int, int]] = {}

    def pieces(self, folder: str, tell: Tell) -> Iterator[tuple[JournalFile, Piece]]:
        """Yield what the journals say, without texts, one piece each; see `read_pieces`."""
        if not self._goes_on(folder):
            self._kept.clear()
        most = max((each.n_tasks for each in read_descriptions(folder, tell)), default=None)
        for each in journal_files(folder, tell):
            kept = self._kept.setdefault(each.path, _Kept())
            kept.read(each.path, most)
            for damage in kept.damages:
                tell(damage)
            yield each, kept.piece

    def _goes_on(self, folder: str) -> bool:
        """Tell whether the runs that were known are the same still, and were not begun anew."""
        begins = {}
        for run in described_runs(folder):
            status = os.stat(os.path.join(folder, f"run{run}.json"))
            begins[run] = status.st_ino, status.st_mtime_ns
        known, self._begins = self._begins, begins
        return known.items() <= begins.items()


class _Kept:
    """What has been read of one journal."""

    def __init__(self) -> None:
        self._pieces = [Piece(np.zeros(0, RECORD), np.zeros(0, np.int64))]
        self.damages: list[Damaged] = []
        self._n_read = self._n_seen = 0  # blocks up to the last whole one, and all

    def read(self, path: str, n_tasks: int | None) -> None:
        """Read what has been added."""
        n_there = n_blocks(path)
        if n_there == self._n_seen:
            return
        for new in read_journal(path, n_tasks, self.damages.append, self._n_read):
            if len(new.numbers):  # what is torn at the end may be on its way
                self._n_read = int(new.numbers[-1]) + 1
            is_kept = new.blocks["kind"] != Block.TEXT
            self._pieces.append(Piece(new.blocks[is_kept], new.numbers[is_kept]))
        self._n_seen = n_there

    @property
    def piece(self) -> Piece:
        """What has been read, without texts."""
        if len(self._pieces) > 1:
            self._pieces = [Piece(*map(np.concatenate, zip(*self._pieces, strict=True)))]
        return self._pieces[0]
