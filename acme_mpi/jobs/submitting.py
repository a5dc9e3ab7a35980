"""How a job begins: its files are written, then its launcher is told."""

from __future__ import annotations

import contextlib
import os
import shutil
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

from acme_mpi.comm import launched_rank_and_size
from acme_mpi.engine.call import Options
from acme_mpi.errors import InputError, PlaceError, StoreError
from acme_mpi.history.description import next_run
from acme_mpi.history.folders import make_folders, refuse_unmakeable
from acme_mpi.history.layout import Layout
from acme_mpi.history.lease import holder
from acme_mpi.jobs.job import Job
from acme_mpi.jobs.record import CALL, SCRIPT, Record, new_number, newest_record, write_text
from acme_mpi.jobs.saved_call import SavedCall
from acme_mpi.launchers.base import Launcher, Order
from acme_mpi.linux.segment import Segment
from acme_mpi.runner.surroundings import Surroundings
from acme_mpi.standing import Standing, refuse_while_loading, standing
from acme_mpi.tasks.labels import Labels


class Submission(NamedTuple):
    """What is to be submitted.

    Attributes
    ----------
    layout : Layout
        Where its files go.
    store : str
        Kind of store.
    n_tasks : int
        Number of calls.
    command : callable
        ``command(folder)`` is the program of every rank, given the job's own folder, in which
        `prepare` has left what it needs.
    prepare : callable, optional
        Writes into the job's own folder.
    """

    layout: Layout
    store: str
    n_tasks: int
    command: Callable[[str], Sequence[str]]
    prepare: Callable[[str], None] | None = None

    def script(self, launcher: Launcher, number: int) -> str:
        """Return the script of the job of that number."""
        folder = self.layout.job_folder(number)
        command = tuple(self.command(folder))
        order = Order(self.layout.name, folder, os.getcwd(), command, self.layout.directory)
        return launcher.script(order)

    def submit(self, launcher: Launcher) -> Job:
        """Write the job's files, submit its script, and return the job.

        Raises
        ------
        PlaceError, StoreError
            A run, or another job, is at work there, or the files cannot be written.
        LaunchError
            The launcher refuses it, for the reason that the message tells. Nothing is left then.
        """
        layout = self.layout
        refuse_busy(layout)
        refuse_unmakeable(layout.directory)
        number = new_number(layout)
        script = self.script(launcher, number)  # whatever is wrong with it comes before any file
        make_folders("", layout)
        record = Record(
            layout.name,
            layout.directory,
            number,
            self.store,
            self.n_tasks,
            launcher.kind,
            launcher.words(),
            next_run(layout.dot_folder),
            time.time(),
        )
        folder = record.folder
        try:
            _make(folder)
            if self.prepare is not None:
                self.prepare(folder)
            path = record.path(SCRIPT)
            write_text(path, script)
            try:
                record.write()
                record.put("id", launcher.submit(path, record.path("log"), os.getcwd()))
            except OSError as error:
                if isinstance(error, StoreError):
                    raise
                raise StoreError(f"cannot write into {folder}: {error.strerror}") from None
        except BaseException:
            shutil.rmtree(folder, ignore_errors=True)
            for made in (layout.dot_folder, os.path.dirname(layout.dot_folder), layout.directory):
                with contextlib.suppress(OSError):
                    os.rmdir(made)  # if nothing else is in it
            raise
        return Job(record)


def _make(folder: str) -> None:
    try:
        os.mkdir(folder, 0o700)
    except FileExistsError:
        raise PlaceError(f"{folder} has just been made by another job; submit again") from None
    except OSError as error:
        raise StoreError(f"cannot create {folder}: {error.strerror}") from None


def refuse_busy(layout: Layout) -> None:
    """Raise where a run, or a job that has not ended, is at work already. Independent.

    Raises
    ------
    PlaceError
        So it is.
    """
    found = holder(layout.dot_folder)
    if found is not None and found.is_alive:
        raise PlaceError(
            f"{layout.dot_folder} is being written by {found}; wait until that has ended, or end "
            "it, or choose another output directory (--output-dir, output_dir=...)"
        )
    record = newest_record(layout.directory, layout.name)
    if record is None:
        return
    status = Job(record).status()
    if not status.state.is_over:
        raise PlaceError(
            f"{layout.directory} is where {status}; wait for it (acme_mpi.attach, or python -m "
            "acme_mpi wait), cancel it, or choose another output directory"
        )


def submit_call(
    layout: Layout,
    options: Options,
    packed: Segment,
    fingerprint: Mapping[str, str],
    labels: Labels | None,
    launcher: Launcher,
) -> Job:
    """Submit a job that makes a call of this process.

    Parameters
    ----------
    layout : Layout
        Where its files go; free, or what is there may be resumed.
    options : Options
        Of the run.
    packed : Segment
        Function and arguments.
    fingerprint : mapping of str to str
        What makes it the same computation as another one.
    labels : Labels or None
        What the tasks are known by.
    launcher : Launcher
        What starts the ranks.

    Raises
    ------
    PlaceError, StoreError, LaunchError
        As `Submission.submit`.
    """
    output = options.output
    # A job that is started again goes on with what it has left itself.
    policy = "resume" if output.policy == "refuse" else output.policy
    output = output._replace(output_dir=layout.directory, policy=policy)

    def prepare(folder: str) -> None:
        command = launcher.how_to_submit(os.path.join(folder, SCRIPT))
        display = options.display._replace(resume_command=command, bar=None)
        saved = options._replace(output=output, display=display)
        here = Surroundings.here()
        SavedCall(saved, packed, here, fingerprint, labels).write(os.path.join(folder, CALL))

    submission = Submission(layout, output.kind, options.work.n_tasks, _call_command, prepare)
    return submission.submit(launcher)


def _call_command(folder: str) -> list[str]:
    return [sys.executable, "-m", "acme_mpi", "--call", os.path.join(folder, CALL)]


def refuse_in_memory(write: object) -> None:
    """Raise where results are to be returned and not written.

    Raises
    ------
    InputError
        `write`, the user's ``write_worker_results``, is not True.
    """
    if write is not True:
        raise InputError(
            "`launch` needs results in files, as its ranks end with the job; leave out "
            f"write_worker_results={write!r}"
        )


def check_caller() -> None:
    """Raise in processes each of which would submit the same job.

    Raises
    ------
    InputError
        This is a task, or one rank of several, or user code is just being loaded.
    """
    found = standing()
    if found is Standing.LOADING:
        refuse_while_loading()
    if found is Standing.IN_TASK:
        raise InputError("a task cannot submit jobs; call acme_mpi.map there, or submit before")
    rank, size = launched_rank_and_size()
    if size > 1:
        raise InputError(
            f"this is rank {rank} of {size}, and each rank would submit a job; submit in a script "
            "that is started without mpiexec or srun"
        )
