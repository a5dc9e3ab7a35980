"""What is on the disk of a job: its folder in the dot folder of the run, and the record in it.

============= ====================================================================
``job.json``  the record: what runs, and how it was started
``call``      function and arguments; only where no command line says what they are
``script.sh`` what was submitted
``log``       what the job has printed
``id``        by what the launcher knows the job; the script notes it, too
``exit``      the status with which the script has ended
``end``       the last state that the launcher has told
``cancelled`` the job was cancelled
============= ====================================================================
"""

from __future__ import annotations

import contextlib
import glob
import json
import os
import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

from acme_mpi.errors import InputError, StoreError
from acme_mpi.history.journal import write_whole
from acme_mpi.history.layout import DOT_FOLDER, JOB, Layout
from acme_mpi.history.parsing import Damaged, read_file
from acme_mpi.history.stores import STORES, find_store
from acme_mpi.launchers.base import Launcher, State
from acme_mpi.launchers.named import KINDS
from acme_mpi.spelling import whole_number

RECORD, CALL, SCRIPT = "job.json", "call", "script.sh"
_FOLDER = re.compile(rf"{JOB}(\d{{1,9}})")
_MOST_BYTES = 4096  # of an id or a status


@dataclass(frozen=True)
class Record:
    """What a job runs, and how it was started.

    Attributes
    ----------
    name, directory : str
        Of the function, and absolute path of the output directory.
    number : int
        0, or how many jobs were submitted before for the same results.
    store : str
        Kind of store.
    n_tasks : int
        Number of calls.
    launcher : str
        Name of the launcher.
    words : mapping
        What it was told.
    first_run : int
        The number of the first run that can be this job's.
    submitted_s : float
        Unix time.
    """

    name: str
    directory: str
    number: int
    store: str
    n_tasks: int
    launcher: str
    words: Mapping[str, Any]
    first_run: int
    submitted_s: float

    @property
    def layout(self) -> Layout:
        """Where the files of its runs are."""
        return find_store(self.store).layout(self.directory, self.name)

    @property
    def folder(self) -> str:
        """The job's own folder."""
        return self.layout.job_folder(self.number)

    def path(self, name: str) -> str:
        """Return the path of a file of the job."""
        return os.path.join(self.folder, name)

    def make_launcher(self) -> Launcher:
        """Return the launcher that was used."""
        return KINDS[self.launcher](**self.words)

    def write(self) -> None:
        """Write the record.

        Raises
        ------
        OSError
            The medium refused it.
        """
        self.put(RECORD, json.dumps(asdict(self), indent=1))

    def put(self, name: str, text: str) -> None:
        """Write a small file of the job, whole or not at all."""
        write_whole(self.path(name), text)

    def get(self, name: str) -> str:
        """Return the content of a small file of the job; empty if there is none."""
        # Opened, not looked for: network drives remember for a while what was not there.
        with contextlib.suppress(OSError, Damaged):
            return read_file(self.path(name), _MOST_BYTES).decode(errors="replace").strip()
        return ""

    @property
    def exit_status(self) -> int | None:
        """The status with which the script has ended; None if it has not said it."""
        return whole_number(self.get("exit"))

    @property
    def is_cancelled(self) -> bool:
        """Whether it was cancelled by `Job.cancel`."""
        return bool(self.get("cancelled"))

    @property
    def last_state(self) -> State | None:
        """The last state that the launcher has told of the ended job."""
        job_id, _, state = self.get("end").partition("|")
        name, _, reason = state.partition("|")
        return State(name, reason) if name and job_id == self.get("id") else None

    def keep_state(self, state: State) -> None:
        """Keep the state with which a job has ended: launchers forget it."""
        with contextlib.suppress(OSError):  # it may be somebody else's job
            self.put("end", f"{self.get('id')}|{state.name}|{state.reason}")


def new_number(layout: Layout) -> int:
    """Return the number of a job that is submitted now."""
    return max((number for number, _ in _numbered(layout.dot_folder)), default=-1) + 1


def newest_record(directory: str, name: str | None = None) -> Record | None:
    """Return the record of the job that was submitted last for an output directory.

    Parameters
    ----------
    directory : str
        The output directory.
    name : str, optional
        Of the function; default any.

    Raises
    ------
    InputError
        It cannot be read.
    """
    dots = os.path.join(glob.escape(os.path.abspath(directory)), DOT_FOLDER)
    folders = glob.glob(os.path.join(dots, "*" if name is None else glob.escape(name)))
    found = [record for folder in folders if (record := _newest_in(folder)) is not None]
    return max(found, key=lambda record: record.submitted_s, default=None)


def _newest_in(folder: str) -> Record | None:
    for _, path in sorted(_numbered(folder), reverse=True):
        if (record := _read(os.path.join(path, RECORD))) is not None:
            return record
    return None


def _numbered(folder: str) -> list[tuple[int, str]]:
    try:
        names = os.listdir(folder)
    except OSError:
        return []
    matches = ((name, _FOLDER.fullmatch(name)) for name in names)
    return [(int(match[1]), os.path.join(folder, name)) for name, match in matches if match]


def _read(path: str) -> Record | None:
    try:
        said = json.loads(read_file(path))
    except FileNotFoundError:
        return None  # it was killed while it was submitted
    except (OSError, Damaged, ValueError) as error:
        raise InputError(f"cannot read the record of a job, {path}: {error}") from None
    try:
        record = Record(**said)
        record.make_launcher()
        # It may have been moved with its results.
        folder = os.path.dirname(path)
        dot_folder = os.path.dirname(folder)
        directory = os.path.dirname(os.path.dirname(dot_folder))
        is_sound = (
            record.store in STORES
            and record.name == os.path.basename(dot_folder)
            and isinstance(record.n_tasks, int)
            and isinstance(record.submitted_s, float)
            and isinstance(record.first_run, int)
            and os.path.basename(folder) == f"{JOB}{record.number}"
        )
    except (TypeError, KeyError, InputError) as error:
        raise InputError(f"the record of a job, {path}, is damaged: {error!r}") from None
    if not is_sound:
        raise InputError(f"the record of a job, {path}, is damaged; submit the call again")
    return Record(**{**said, "directory": directory})


def write_text(path: str, text: str) -> None:
    """Write a file of the job.

    Raises
    ------
    StoreError
        The medium refused it.
    """
    try:
        with open(path, "x", encoding="utf-8", errors="surrogateescape") as file:
            file.write(text)
    except OSError as error:
        raise StoreError(f"cannot write {path}: {error.strerror}") from None
