"""A job that was submitted: looked at, waited for, ended, from any process that sees its files."""

from __future__ import annotations

import contextlib
import logging
import math
import numbers
import os
import sys
import time
from typing import Any, NamedTuple

from acme_mpi.engine.progress import Progress
from acme_mpi.errors import EXIT_DONE, InputError, InputTypeError
from acme_mpi.history.lease import holder
from acme_mpi.history.status import Status, read_status
from acme_mpi.history.stores import find_store
from acme_mpi.jobs.ending import has_run, outcome
from acme_mpi.jobs.record import SCRIPT, Record, newest_record
from acme_mpi.launchers.base import CANCELLED, COMPLETED, FAILED, RUNNING, UNKNOWN, State
from acme_mpi.launchers.named import KINDS
from acme_mpi.launchers.queue import queue_of
from acme_mpi.linux.terminal import is_watched
from acme_mpi.visible import say, visible

logger = logging.getLogger("acme_mpi")

GRACE_S = 30.0  # tasks may take so long to end when their job is cancelled
LOOK_S, MOST_LOOK_S = 0.05, 2.0  # between two looks for the end of a job
SHARE = 10  # reading the journals takes at most one part in so many of the time
KILL_S = 10.0  # a job that was ended has gone by then, or is killed


class JobStatus(NamedTuple):
    """How a job is; `str` is for people.

    Attributes
    ----------
    id, launcher : str
        By what the launcher knows it; which launcher.
    state : State
        As the launcher tells it: name, reason and expected start.
    run : Status or None
        What the journals tell; None before a run has begun.
    """

    id: str
    launcher: str
    state: State
    run: Status | None

    def __str__(self) -> str:
        """Return it in a line."""
        text = f"job {self.id} on {self.launcher}: {self.state}"
        if self.run is not None:
            text += f", {self.run.n_done} of {self.run.n_tasks} tasks done"
            text += f", {self.run.n_failed} failed" if self.run.n_failed else ""
        return visible(text, kept="\t")


class Job:
    """A job from `submit` or `attach`.

    All that it knows lies in files: this object may be dropped, and its process end. All methods
    are Independent.

    Attributes
    ----------
    directory : str
        Absolute path of the output directory.
    name : str
        Of the function.

    Examples
    --------
    >>> import acme_mpi
    >>> job = acme_mpi.submit(abs, [-1, 2], output_dir="out", launch=acme_mpi.Local(1))
    >>> job.wait(timeout=60)
    'COMPLETED'
    """

    def __init__(self, record: Record) -> None:
        self._record = record
        self.directory, self.name = record.directory, record.name
        self._queue = queue_of(KINDS[record.launcher])

    @property
    def id(self) -> str:
        """By what the launcher knows it: a batch system's number, or host and process."""
        return self._record.get("id")

    @property
    def log(self) -> str:
        """Path of the file with all that the job prints."""
        return self._record.path("log")

    @property
    def files(self) -> list[str]:
        """The files that `result` returns if all goes well; they need not be there yet."""
        record = self._record
        return find_store(record.store).own_files(record.layout, record.n_tasks)

    def script(self) -> str:
        """Return the script that was submitted.

        Raises
        ------
        InputError
            It is not there any more.
        """
        path = self._record.path(SCRIPT)
        try:
            with open(path, encoding="utf-8", errors="surrogateescape") as file:
                return file.read()
        except OSError as error:
            raise InputError(f"cannot read {path}: {error.strerror}") from None

    def status(self) -> JobStatus:
        """Return how the job is: what its launcher says, and what is done.

        The launcher is asked at most every 2 s, and once for all jobs of this process; less often
        the longer nothing changes, down to once a minute.

        Raises
        ------
        InputError
            The journals cannot be read.
        """
        state = self._state()
        run = None
        if has_run(self._record):
            run = read_status(self._record.layout.dot_folder)
            if state.is_pending and run.state == "running":
                state = State(RUNNING)
                self._queue.ask_again()
        return JobStatus(self.id, KINDS[self._record.launcher].title, state, run)

    def _state(self) -> State:
        record = self._record
        status = record.exit_status
        if status is not None:
            if record.is_cancelled and status != EXIT_DONE:
                return State(CANCELLED)
            return State(COMPLETED if status == EXIT_DONE else FAILED)
        if (last := record.last_state) is not None:
            return last
        found = self._queue.state(self.id, record.path(SCRIPT))
        if found is None:
            if record.exit_status is not None:  # it has ended just now
                return self._state()
            found = State(UNKNOWN, "it has gone without a word: killed, or its node was lost")
        if not found.is_over:
            return found
        if record.is_cancelled and found.name in (UNKNOWN, FAILED):
            found = State(CANCELLED)
        record.keep_state(found)
        return found

    def wait(self, timeout: float | None = None, bar: bool = False) -> str:
        """Wait for the end of the job.

        Parameters
        ----------
        timeout : float, optional
            In seconds, >= 0; None: for ever.
        bar : bool
            Show its progress on stderr, and why it is pending: a bar if somebody watches, else
            messages of the logger ``acme_mpi``.

        Returns
        -------
        str
            The state in which it has ended, in Slurm's words: ``"COMPLETED"``, ``"FAILED"``,
            ``"CANCELLED"``, ``"TIMEOUT"``, ``"OUT_OF_MEMORY"``, ``"NODE_FAIL"`` ...

        Raises
        ------
        TimeoutError
            It has not ended by then; it goes on.
        """
        deadline_s = time.monotonic() + _seconds("timeout", timeout)
        shown = _Shown(self._record) if bar else None
        pause_s = LOOK_S
        try:
            while not (state := self._state()).is_over:
                if shown is not None:
                    shown.tell(state)
                    shown.look()
                left_s = deadline_s - time.monotonic()
                if left_s <= 0:
                    raise TimeoutError(
                        f"after {timeout} s job {self.id} of {self.name} has not ended: {state}; "
                        "it goes on"
                    )
                time.sleep(min(pause_s, left_s))
                pause_s = min(1.5 * pause_s, MOST_LOOK_S)
        finally:
            if shown is not None:
                shown.close()
        return state.name

    def result(self, timeout: float | None = None, bar: bool = False) -> list[str | None]:
        """Wait for the end of the job and return what `acme_mpi.map` would have returned.

        Parameters
        ----------
        timeout, bar
            As in `wait`.

        Returns
        -------
        list of str
            Paths of the files.

        Raises
        ------
        TaskError
            Tasks failed; see `TaskError.failures` and `TaskError.results`.
        StoppedError
            The job has ended before all tasks were called: its time or memory was over, its node
            was lost, it was cancelled. The message says which, and how to resume it.
        LaunchError
            It has ended before any task was called.
        TimeoutError
            As `wait`.
        """
        self.wait(timeout, bar)
        paths, error = outcome(self._record, self._state())
        if error is not None:
            raise error
        return paths

    def show(self) -> list[str | None]:
        """Return as `result`, and show the progress; an interrupt says that the job goes on."""
        try:
            return self.result(bar=True)
        except KeyboardInterrupt as interrupt:
            interrupt.add_note(
                f"job {self.id} goes on: acme_mpi.attach({self.directory!r}) finds it again, and "
                "its cancel() ends it"
            )
            raise

    def cancel(self, grace_s: float = GRACE_S) -> None:
        """End the job: tasks that run may end, no other begins, and what is done is safe.

        Without effect where it has ended. It can be resumed: ``submit(..., resume=True)``.

        Parameters
        ----------
        grace_s : float
            How long running tasks may take to end, in seconds, >= 0; then they are killed. Returns
            when the job has ended, or its launcher was told to end it.

        Raises
        ------
        LaunchError
            The launcher refuses.
        """
        allowed_s = _seconds("grace_s", grace_s)
        state = self._state()
        if state.is_over:
            return
        self._record.put("cancelled", "yes\n")
        self._queue.ask_again()
        if not state.is_pending and allowed_s and self._ask_to_stop():
            with contextlib.suppress(TimeoutError):
                self.wait(allowed_s)
                return
        launcher = KINDS[self._record.launcher]
        launcher.cancel([self.id])
        self._queue.ask_again()
        with contextlib.suppress(TimeoutError):
            self.wait(KILL_S)
            return
        launcher.cancel([self.id], force=True)
        self._queue.ask_again()
        self._wait_until_it_has_gone()

    def _wait_until_it_has_gone(self) -> None:
        """Wait for ranks that die with their launcher, which takes them a moment."""
        end_s = time.monotonic() + KILL_S
        while time.monotonic() < end_s:
            found = holder(self._record.layout.dot_folder)
            if found is None or not found.is_alive:
                return
            time.sleep(LOOK_S)

    def _ask_to_stop(self) -> bool:
        """Ask the run to end in good order; tell whether there is one."""
        layout = self._record.layout
        found = holder(layout.dot_folder) if has_run(self._record) else None
        if found is None or not found.is_alive:
            return False
        with open(layout.stop_file, "a"):
            return True

    def __repr__(self) -> str:
        return f"<Job {self.id} of {self.name} in {self.directory}>"

    def _repr_html_(self) -> str:
        from acme_mpi.report.cell import lines_html, status_html

        status = self.status()
        title = f"job {self.id} of {self.name}: {status.state}"
        if status.run is None:
            return lines_html(title, [f"in {self.directory}"])
        return status_html(status.run, title)


class _Shown:
    """A job's progress, as a run itself shows it."""

    def __init__(self, record: Record) -> None:
        self._record = record
        # What a notebook writes to stderr is seen, though that is no terminal.
        self._is_seen = is_watched() or "ipykernel" in sys.modules
        self._progress: Progress | None = None
        self._next_s = 0.0
        self._said = ""

    def tell(self, state: State) -> None:
        """Say why a job is pending, whenever that changes."""
        text = f"job {self._record.get('id')} of {self._record.name}: {state}"
        if not state.is_pending or text == self._said:
            return
        self._said = text
        if self._is_seen:
            say(text, sys.stderr)
        else:
            logger.info("%s", text)

    def look(self, is_last: bool = False) -> None:
        """Show what is done, unless that was shown just now."""
        begin_s = time.monotonic()
        if not is_last and begin_s < self._next_s:
            return
        if not has_run(self._record):
            return
        run = read_status(self._record.layout.dot_folder)
        if self._progress is None:
            self._progress = Progress(run.n_tasks, self._is_seen or None)
        progress = self._progress
        n_ended = run.n_done + run.n_failed
        progress.add(n_ended - progress.n_done, run.n_failed - progress.n_failed)
        progress.look()
        took_s = time.monotonic() - begin_s
        self._next_s = begin_s + max(1.0, SHARE * took_s)

    def close(self) -> None:
        """Leave the last state on the screen."""
        with contextlib.suppress(InputError):
            self.look(is_last=True)
        if self._progress is not None:
            self._progress.close()


def attach(output_dir: str, name: str | None = None) -> Job:
    """Return the newest job of an output directory. Independent: any process, at any time.

    Parameters
    ----------
    output_dir : str
        As `submit` was told it, or absolute.
    name : str, optional
        Of the function, where there are jobs of several; default any.

    Returns
    -------
    Job
        It may be pending, run, or have ended.

    Raises
    ------
    InputError
        There is none.

    Examples
    --------
    >>> import acme_mpi
    >>> acme_mpi.attach("out").result()  # doctest: +SKIP
    ['/home/me/out/f.h5']
    """
    if not isinstance(output_dir, (str, os.PathLike)):
        raise InputTypeError(f"`output_dir` has to be a str, not {output_dir!r}")
    directory = os.path.abspath(os.path.expanduser(output_dir))
    record = newest_record(directory, name)
    if record is None:
        of = "" if name is None else f" of {name}"
        raise InputError(
            f"no job{of} was submitted for {directory}; give the output_dir of submit, or the "
            "ACME_YYYYMMDD-hhmmss-ffffff that was made"
        )
    return Job(record)


def _seconds(name: str, value: Any) -> float:
    if value is None:
        return math.inf
    if isinstance(value, bool) or not isinstance(value, numbers.Real):
        raise InputTypeError(f"`{name}` has to be None or seconds >= 0, not {value!r}")
    seconds = float(value)
    if not seconds >= 0:
        raise InputError(f"`{name}` has to be None or seconds >= 0, not {value!r}")
    return seconds
