"""What a run's dot folder says, read as it is, while the run goes on or later.

Nobody is asked and nothing is written, so it works from any shell that sees the files; no MPI, no
HDF5. `status` makes figures of it.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import NamedTuple

from acme_mpi.errors import AcmeMpiError, InputError
from acme_mpi.history.description import Description, described_runs, read_description
from acme_mpi.history.folders import FINISHED as END_MARK
from acme_mpi.history.folders import refuse_unnameable
from acme_mpi.history.journal import (
    FINAL,
    Block,
    JournalFile,
    Mask,
    Piece,
    Tell,
    n_blocks_in,
    read_piece,
)
from acme_mpi.history.layout import DOT_FOLDER, Layout, journal_name
from acme_mpi.history.lease import Holder, holder
from acme_mpi.history.parsing import Damaged
from acme_mpi.history.records import (
    NUMBER,
    History,
    Record,
    Records,
    Table,
    history_of,
    read_history,
)

TOLD = (
    "kind",
    "form",
    "attempt",
    "first",
    "count",
    "payload",
    "offset",
    "start_s",
    "busy_s",
    "peak_bytes",
    "host",
    NUMBER,
)


class Told(NamedTuple):
    """What a dot folder says, without texts: these are read of single blocks."""

    folder: str
    holder: Holder | None
    runs: list[int]
    description: Description
    history: History  # without failures
    blocks: Records  # the columns `TOLD`, run and rank of all blocks without texts
    reached_end: bool

    @property
    def is_running(self) -> bool:
        """Whether somebody works on it."""
        return self.holder is not None and self.holder.is_alive

    @property
    def is_last(self) -> Mask:
        """Which blocks are the last run's, (n,) ndarray of bool."""
        is_last: Mask = self.blocks["run"] == self.runs[-1]
        return is_last

    def piece_of(self, block: Record) -> tuple[JournalFile, Piece]:
        """Return one of the blocks as it stands in its journal, with its text."""
        run, rank = int(block["run"]), int(block["rank"])
        path = os.path.join(self.folder, journal_name(run, rank))
        return JournalFile(run, rank, path), read_piece(path, int(block[NUMBER]))


@contextmanager
def readable(folder: str) -> Iterator[None]:
    """Context in which what a dot folder says is read; turn what is wrong into an InputError."""
    try:
        os.listdir(folder)  # what looks for names finds none where it may not look
        yield
    except AcmeMpiError:
        raise
    except Damaged as error:
        raise InputError(str(error)) from None
    except OSError as error:
        path = getattr(error, "filename", None) or folder
        reason = getattr(error, "strerror", None) or str(error)
        raise InputError(f"cannot read {path}: {reason}") from error


def described(folder: str) -> Description:
    """Return the description of the last run; raise InputError where there is none."""
    description = read_description(folder)
    if description is None:
        raise InputError(f"{folder} holds no description of a run")
    return description


Grown = Callable[[str, Tell], Records]


def read_told(folder: str, grown: Grown | None = None) -> Told:
    """Read what a dot folder says; `grown` has the blocks, as `GrowingJournals.blocks`."""
    with readable(folder):
        # The holder first: a run that ends meanwhile is then shown as running, with all tasks
        # done, and not as one that has left some.
        found = holder(folder)
        runs, description = described_runs(folder), described(folder)
        blocks, history = _read(folder) if grown is None else _read_again(folder, grown)
        reached_end = os.path.exists(os.path.join(folder, END_MARK))
    return Told(folder, found, runs, description, history, blocks, reached_end)


def _read(folder: str) -> tuple[Records, History]:
    told = Table(TOLD, n_blocks_in(folder))
    history = read_history(folder, told, has_texts=False)
    return told.rows, history


def _read_again(folder: str, grown: Grown) -> tuple[Records, History]:
    damages: list[Damaged] = []
    blocks = grown(folder, damages.append)
    return blocks, history_of(blocks, damages)


def is_end(blocks: Records) -> Mask:
    """Return which blocks say that tasks have ended, well or not, (n,) ndarray of bool."""
    kinds = blocks["kind"]
    found: Mask = (kinds == Block.DONE) | (kinds == Block.FAILED)
    return found


def is_given_up(blocks: Records) -> Mask:
    """Return which blocks say that a task was given up, (n,) ndarray of bool."""
    is_final: Mask = (blocks["kind"] == Block.FAILED) & (blocks["form"] & FINAL != 0)
    return is_final


def runs_in(directory: str) -> list[str]:
    """Return the names of the functions of which a directory holds runs, sorted.

    Raises
    ------
    InputError
        The directory cannot be read, or this locale has no characters for a name.
    """
    place = os.path.join(directory, DOT_FOLDER)
    try:
        names = os.listdir(place)
    except (FileNotFoundError, NotADirectoryError):
        return []
    except OSError as error:
        raise InputError(f"cannot read {place}: {error.strerror}") from error
    found = sorted(name for name in names if described_runs(os.path.join(place, name)))
    refuse_unnameable(*(os.fsencode(name).decode(errors="surrogateescape") for name in found))
    return found


def layouts_in(directory: str) -> list[Layout]:
    """Return where the runs in a directory lie, by the names of their functions.

    Raises
    ------
    InputError
        There are none, or the directory cannot be read.
    """
    directory = os.path.abspath(directory)
    names = runs_in(directory)
    if not names:
        raise InputError(
            f"{directory} holds no run; give the directory named by --output-dir, or the "
            "ACME_YYYYMMDD-hhmmss-ffffff that was made"
        )
    return [Layout(directory, name) for name in names]
