"""What a run is: what a later one, and every view, has to know of it besides the journals.

One small JSON file per run, written on rank 0 before the first task; the last one counts.
"""

from __future__ import annotations

import glob
import json
import os
import re
import shlex
from collections.abc import Mapping
from dataclasses import dataclass, field
from dataclasses import fields as dataclass_fields
from typing import Any

from acme_mpi.history.journal import Tell, ignore, journal_files, sync_folder, write_whole
from acme_mpi.history.parsing import MOST_RUNS, Damaged, parse_description, read_file, sealed
from acme_mpi.history.stores import STORES
from acme_mpi.results.spec import RowSpec
from acme_mpi.tasks.fingerprint import NAMES


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
    spec : RowSpec or None
        The form of the results.
    n_ranks : int
        Of the job.
    start_s : float
        Unix time.
    command : str
        Command that resumes the run; empty if a script knows it.
    debug : str
        Command that runs one task, ``{index}`` in the task's place; empty likewise.
    fingerprint : mapping of str to str
        What makes it the same computation, see `fingerprint`.
    memory_bytes : int
        What a task may take at most; 0 if that was not said.
    job : str
        The batch job in which the ranks are, for people; empty if there is none.
    """

    name: str
    n_tasks: int
    kind: str
    spec: RowSpec | None = None
    n_ranks: int = 1
    start_s: float = 0.0
    command: str = ""
    debug: str = ""
    fingerprint: Mapping[str, str] = field(default_factory=dict)
    memory_bytes: int = 0
    job: str = ""

    def write(self, folder: str, run: int) -> None:
        """Write the file of one run, durably.

        Raises
        ------
        OSError
            The medium refused it.
        """
        write_whole(_path(folder, run), json.dumps(sealed(self._fields()), indent=1))
        sync_folder(folder)

    def has_form_of(self, other: Description) -> bool:
        """Tell whether the results of two runs have one form."""
        names = (each.fingerprint.get(NAMES) for each in (self, other))
        return self.kind == other.kind and self.spec == other.spec and len(set(names)) == 1

    def _fields(self) -> dict[str, Any]:
        fields = {each.name: getattr(self, each.name) for each in dataclass_fields(self)}
        return {**fields, "spec": None if self.spec is None else self.spec.listed()}


def how_to_resume(command: str, directory: str, only_failed: bool = False) -> str:
    """Return how to resume a run: the command itself, or what a script has to say.

    Parameters
    ----------
    command : str
        With ``{directory}`` in it; empty if a script knows it.
    directory : str
        Of the run.
    only_failed : bool
        Call what has failed, and nothing else.
    """
    if not command:
        return f"resume={'failed' if only_failed else True!r}, output_dir={directory!r}"
    line = command.replace("{directory}", shlex.quote(directory))
    return f"{line} --retry-failed" if only_failed else line


def _path(folder: str, run: int) -> str:
    return os.path.join(folder, f"run{run}.json")


def described_runs(folder: str) -> list[int]:
    """Return the numbers of the runs with a description, in order."""
    names = map(os.path.basename, glob.glob(os.path.join(glob.escape(folder), "run*.json")))
    matches = (re.fullmatch(r"run(\d{1,8})\.json", name) for name in names)
    return sorted(run for match in matches if match and (run := int(match[1])) < MOST_RUNS)


def read_description(folder: str) -> Description | None:
    """Return the last run's description, of those that are whole; None where no run has begun.

    Raises
    ------
    Damaged
        None of those that are there is whole.
    OSError
        A file cannot be read.
    """
    damages: list[Damaged] = []
    found = read_descriptions(folder, damages.append)
    if damages and not found:
        raise damages[-1]
    return found[-1] if found else None


def read_descriptions(folder: str, tell: Tell = ignore) -> list[Description]:
    """Return the descriptions of all runs that are whole, in order; tell of the others.

    Raises
    ------
    OSError
        A file cannot be read.
    """
    found = []
    for run in described_runs(folder):
        path = _path(folder, run)
        try:
            said = parse_description(read_file(path), path)
            if said["name"] != os.path.basename(folder):
                raise Damaged(path, f"it describes runs of {said['name']}")
            if said["kind"] not in STORES:
                raise Damaged(path, f"`kind` is {said['kind']!r:.60}")
            found.append(Description(**{**said, "spec": _spec_of(said)}))
        except Damaged as damage:
            tell(damage)
    return found


def _spec_of(said: Mapping[str, Any]) -> RowSpec | None:
    listed = said.get("spec")
    return None if listed is None else RowSpec.from_listed(listed)


def next_run(folder: str) -> int:
    """Return the number of a run that begins now: more than any that has left something."""
    seen = [*described_runs(folder), *(each.run for each in journal_files(folder))]
    return max(seen, default=-1) + 1
