"""What a job has led to, read from the journals: what its call returns, or what it raises."""

from __future__ import annotations

from typing import Any

from acme_mpi.engine.call import Display, Options, Output, Result, Work
from acme_mpi.engine.summary import error_of
from acme_mpi.errors import AcmeMpiError, LaunchError, StoppedError
from acme_mpi.history.description import described_runs
from acme_mpi.history.journal import AS_PICKLES
from acme_mpi.history.records import History, indices_of
from acme_mpi.history.stores import find_store
from acme_mpi.jobs.record import SCRIPT, Record
from acme_mpi.launchers.base import State
from acme_mpi.launchers.log import last_lines, log_end
from acme_mpi.reading.recorded import Recorded
from acme_mpi.storage import Stored
from acme_mpi.symptoms import cures_for

N_LINES = 10  # of a log, in an error


def has_run(record: Record) -> bool:
    """Tell whether a run of this job has begun."""
    runs = described_runs(record.layout.dot_folder)
    return bool(runs) and runs[-1] >= record.first_run


def outcome(record: Record, state: State) -> tuple[list[str | None], AcmeMpiError | None]:
    """Return what the call of a job returns, and the exception that it raises, if any.

    Parameters
    ----------
    record : Record
        Of a job that has ended.
    state : State
        In which it has ended.

    Raises
    ------
    InputError
        The journals cannot be read.
    """
    if not has_run(record):
        ended = _ended(record, state)
        return [], LaunchError(f"{ended}{_log_text(record, ended)}{_way(record)}")
    recorded = Recorded(record.directory, record.name)
    n_tasks, failures = recorded.description.n_tasks, recorded.failures
    stored = _stored(record, recorded.history, n_tasks)
    n_open = n_tasks - int(recorded.is_done.sum()) - len(failures)
    # It was to call some tasks only: had it been stopped, its status would be another one.
    n_left_out = n_open if record.exit_status == 0 else 0
    command = record.make_launcher().how_to_submit(record.path(SCRIPT))
    options = Options(
        Work(record.name, n_tasks, recorded.description.spec),
        Output(recorded.description.kind),
        Display(resume_command=command),
    )
    result = Result(
        options,
        stored,
        failures,
        n_open - n_left_out,
        n_ready=1,
        stopped_because=_ended(record, state) if n_open > n_left_out else "",
        output_dir=record.directory,
        n_left_out=n_left_out,
    )
    paths = stored.paths or []
    error = error_of(result, paths)
    if isinstance(error, StoppedError):
        said, resume, command = str(error).rpartition("\n  resume with: ")
        error = StoppedError(f"{said}{_log_text(record, said)}{resume}{command}")
    return paths, error


def _stored(record: Record, history: History, n_tasks: int) -> Stored:
    """Return where the results are, as the store itself says it, which needs HDF5 for that."""
    layout, kind = record.layout, find_store(record.store)
    container = layout.container if kind.has_container else None
    done = history.done[history.done["first"] < n_tasks]
    is_pickled = (done["form"] & AS_PICKLES != 0) & (not kind.is_pickled)
    pickles = {index: layout.emergency_pickle(index) for index in indices_of(done[is_pickled])}
    if kind.task_file is None:
        return Stored(container, [layout.container, *pickles.values()])
    paths: list[str | None] = [None] * n_tasks
    for index in indices_of(done):
        paths[index] = pickles.get(index) or kind.task_file(layout, index)
    return Stored(container, paths)


def _ended(record: Record, state: State) -> str:
    launcher = record.make_launcher().title
    job_id, status = record.get("id"), record.exit_status
    with_status = "" if status is None else f" with status {status}"
    begun = "" if has_run(record) else " before any task was called"
    return f"job {job_id} on {launcher} has ended{with_status}{begun}: {state}"


def _log_text(record: Record, said: str) -> str:
    """Return the last lines of a job's log, and what cures what they, or `said`, tell of."""
    path = record.path("log")
    shown = "\n".join(f"    {line}" for line in last_lines(path, N_LINES))
    cures = cures_for(f"{said}\n{log_end(path)}")
    return f"\n  the last lines of {path}:\n{shown}{cures}" if shown else cures


def _way(record: Record) -> str:
    how: Any = record.make_launcher().how_to_submit(record.path(SCRIPT))
    return f"\n  resume with: {how}"
