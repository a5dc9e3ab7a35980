"""What a run is: what a later one, and every view, has to know of it besides the journals.

One small JSON file per run, written on rank 0 before the first task; the last one counts.
"""

from __future__ import annotations

import glob
import json
import os
import re
import secrets
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields
from typing import Any

from acme_mpi.journal import journal_files, sync_folder
from acme_mpi.results import RowSpec


@dataclass(frozen=True)
class Description:
    """One run.

    Attributes
    ----------
    name : str
        The function's name.
    n_tasks : int
        Number of calls.
    kind : str
        Kind of store.
    spec : list or None
        Fields of the `RowSpec`.
    n_ranks : int
        Of the job.
    start_s : float
        Unix time.
    command : str
        Command that goes on with the run; empty if a script knows it.
    debug : str
        Command that runs one task, ``{index}`` in the task's place; empty likewise.
    fingerprint : mapping of str to str
        What makes it the same computation, see `fingerprint`.
    """

    name: str
    n_tasks: int
    kind: str
    spec: list[Any] | None = None
    n_ranks: int = 1
    start_s: float = 0.0
    command: str = ""
    debug: str = ""
    fingerprint: Mapping[str, str] = field(default_factory=dict)

    @property
    def row_spec(self) -> RowSpec | None:
        """The form of the results."""
        if self.spec is None:
            return None
        shape, axis, dtype = self.spec
        return RowSpec(tuple(shape), axis, dtype)

    def write(self, folder: str, run: int) -> None:
        """Write the file of one run, durably.

        Raises
        ------
        OSError
            The medium refused it.
        """
        path = _path(folder, run)
        partial = f"{path}.{secrets.token_hex(8)}"
        with open(partial, "x") as file:
            json.dump(asdict(self), file, indent=1)
            file.flush()
            os.fsync(file.fileno())
        os.replace(partial, path)
        sync_folder(folder)


def _path(folder: str, run: int) -> str:
    return os.path.join(folder, f"run{run}.json")


def described_runs(folder: str) -> list[int]:
    """Return the numbers of the runs with a description, in order."""
    names = map(os.path.basename, glob.glob(os.path.join(glob.escape(folder), "run*.json")))
    return sorted(
        int(match[1]) for name in names if (match := re.fullmatch(r"run(\d+)\.json", name))
    )


def read_description(folder: str) -> Description | None:
    """Return the last run's description; None where no run has begun.

    Raises
    ------
    OSError, ValueError, TypeError
        The file cannot be read.
    """
    runs = described_runs(folder)
    if not runs:
        return None
    with open(_path(folder, runs[-1])) as file:
        content = json.load(file)
    known = {each.name for each in fields(Description)}
    return Description(**{name: value for name, value in content.items() if name in known})


def next_run(folder: str) -> int:
    """Return the number of a run that begins now: more than any that has left something."""
    seen = [*described_runs(folder), *(each.run for each in journal_files(folder))]
    return max(seen, default=-1) + 1
