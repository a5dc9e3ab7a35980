"""The commands on the directory of a run: ``status``, ``stop``, ``recover`` and ``check``.

Those of jobs, of results and of views lie in `job_commands`, `result_commands` and `view_commands`.
All are for any shell, while the run goes on or later, and start no MPI.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import logging
import sys
from collections.abc import Callable, Iterator, Sequence
from importlib import import_module
from typing import NamedTuple

from acme_mpi.cli.command_parser import CommandParser
from acme_mpi.cli.status_text import status_text
from acme_mpi.cli.summaries import COMMANDS, OF_JOBS, OF_RESULTS, OF_VIEWS
from acme_mpi.comm import SerialWorld
from acme_mpi.engine.messages import ConsoleFormatter
from acme_mpi.errors import EXIT_DONE, EXIT_STORAGE, AcmeMpiError, StoppedError, StoreError
from acme_mpi.history.description import Description, next_run
from acme_mpi.history.joblog import joblog_lines
from acme_mpi.history.layout import Layout
from acme_mpi.history.lease import Lease, holder
from acme_mpi.history.parsing import Damaged
from acme_mpi.history.records import read_history
from acme_mpi.history.status import damages_text, read_status, status_json
from acme_mpi.history.told import described, layouts_in, readable, runs_in
from acme_mpi.linux.printing import say_error, standard_output
from acme_mpi.storage import find_store, make_store
from acme_mpi.storage.ballast import remove_left
from acme_mpi.storage.recorded import RecordedStore
from acme_mpi.visible import say, visible

logger = logging.getLogger("acme_mpi")

MAX_FAULTS = 20  # that are shown


class _Run(NamedTuple):
    """What runs of one function have left in a directory."""

    description: Description
    layout: Layout


_Act = Callable[[_Run, argparse.Namespace], int]


def run_command(argv: Sequence[str]) -> int:
    """Carry out one command; return the exit status.

    Parameters
    ----------
    argv : sequence of str
        Its name and its arguments.
    """
    try:
        with _messages(), standard_output():
            return _carry_out(argv[0], argv[1:])
    except AcmeMpiError as error:
        return say_error(error)
    except KeyboardInterrupt:
        return say_error(StoppedError("interrupted"))
    return EXIT_DONE  # the reader has seen enough


def _carry_out(name: str, arguments: Sequence[str]) -> int:
    if name in OF_JOBS:
        return _elsewhere("acme_mpi.cli.job_commands", "run_job_command", name, arguments)
    if name in OF_RESULTS:
        return _elsewhere("acme_mpi.cli.result_commands", "run_result_command", name, arguments)
    if name in OF_VIEWS:
        return _elsewhere("acme_mpi.cli.view_commands", "run_view_command", name, arguments)
    parser = CommandParser(
        prog=f"python -m acme_mpi {name}", description=f"{COMMANDS[name].capitalize()}."
    )
    parser.add_argument("directory", metavar="DIR", help="output directory of the run")
    if name == "status":
        form = parser.add_mutually_exclusive_group()
        form.add_argument("--json", action="store_true", help="as JSON, for programs")
        form.add_argument(
            "--joblog", action="store_true", help="a line per task, as GNU parallel writes them"
        )
    options = parser.parse_args(arguments)
    act = {"status": _status, "stop": _stop, "recover": _recover, "check": _check}[name]
    if name == "status" and not (options.json or options.joblog):
        has_job = _say_job(options.directory)
        if has_job and not runs_in(options.directory):
            return EXIT_DONE
    return max(_act_on(layout, act, options) for layout in layouts_in(options.directory))


@contextlib.contextmanager
def _messages() -> Iterator[None]:
    """Context in which what is said on the way goes to stderr."""
    handler = logging.StreamHandler()
    handler.setFormatter(ConsoleFormatter())
    logger.addHandler(handler)
    try:
        yield
    finally:
        logger.removeHandler(handler)


def _elsewhere(module: str, function: str, name: str, arguments: Sequence[str]) -> int:
    """Carry out a command that has a module of its own."""
    status: int = getattr(import_module(module), function)(name, arguments)
    return status


def _say_job(directory: str) -> bool:
    """Say how the job of a directory is, unless it has ended and the run says more of it.

    Returns
    -------
    bool
        Whether there is one.
    """
    from acme_mpi.jobs.job import Job
    from acme_mpi.jobs.record import newest_record

    record = newest_record(directory)
    if record is None:
        return False
    status = Job(record).status()
    if not status.state.is_over or status.run is None:
        say(str(status._replace(run=None)))
    return True


def _act_on(layout: Layout, act: _Act, options: argparse.Namespace) -> int:
    """Carry out a command on the runs of one function; those of others do not depend on it."""
    try:
        with readable(layout.dot_folder):
            description = described(layout.dot_folder)
        layout = layout._replace(suffix=find_store(description.kind).suffix)
        return act(_Run(description, layout), options)
    except AcmeMpiError as error:
        return say_error(error)


def _status(run: _Run, options: argparse.Namespace) -> int:
    folder = run.layout.dot_folder
    if options.joblog:
        damages: list[Damaged] = []
        for line in joblog_lines(folder, damages.append):
            say(line)
        for text in damages_text(damages):
            say(text, sys.stderr)
    elif options.json:
        print(json.dumps(status_json(read_status(folder))))
    else:
        say(status_text(read_status(folder)))
    sys.stdout.flush()
    return EXIT_DONE


def _stop(run: _Run, options: argparse.Namespace) -> int:
    found = holder(run.layout.dot_folder)
    if found is None or not found.is_alive:
        say(f"{run.layout.name}: no run is active")
        return EXIT_DONE
    try:
        with open(run.layout.stop_file, "a"):
            pass
    except OSError as error:
        raise StoreError(f"cannot write {run.layout.stop_file}: {error.strerror}") from None
    say(f"{run.layout.name}: {found} was asked to stop; it ends the tasks that are running")
    return EXIT_DONE


def _store_of(run: _Run) -> RecordedStore:
    described = run.description
    store = make_store(described.kind, SerialWorld(), run.layout, described.spec, described.n_tasks)
    assert isinstance(store, RecordedStore)
    return store


def _recover(run: _Run, options: argparse.Namespace) -> int:
    from acme_mpi.engine.call import Call, Options, Output, Work
    from acme_mpi.engine.run import Run

    described, folder = run.description, run.layout.dot_folder
    lease = Lease.take(folder, lambda text: say(text, sys.stderr))
    layout = run.layout._replace(run=next_run(folder))
    work = Work(described.name, described.n_tasks, described.spec)
    asked = Options(work, Output(described.kind))
    recovery = Run(SerialWorld(), Call(asked, surroundings=None), asked, layout, lease, True)
    with recovery.released():
        remove_left(layout)
        remaining = recovery.find_remaining(calls_tasks=False)
        stored = remaining.stored
        if stored is None:
            recovery.store.open()
            recovery.store.close()
            stored = recovery.link()
    n_failed = len(remaining.failures)
    n_done = remaining.n_kept - n_failed
    say(f"{described.name}: {n_done} of {described.n_tasks} results are in {stored.where}")
    if n_failed:
        say(f"  {n_failed} tasks have failed")
    if n_done < described.n_tasks and described.command:
        say(f"  resume with: {described.command}")
    return EXIT_DONE


def _check(run: _Run, options: argparse.Namespace) -> int:
    from acme_mpi.storage.faults import faults

    described = run.description
    with readable(run.layout.dot_folder):
        history = read_history(run.layout.dot_folder)
    found = holder(run.layout.dot_folder)
    is_running = found is not None and found.is_alive
    store = _store_of(run)
    n_faults = 0
    found_faults = faults(store, history.done, is_running)
    for fault in (*damages_text(history.damages), *found_faults):
        n_faults += 1
        if n_faults <= MAX_FAULTS:
            say(visible(f"{described.name}: {fault}", kept="\t"))
    n_done = int(history.is_done(described.n_tasks).sum())
    n_bytes = int(history.done["n_bytes"].clip(0).sum())
    if n_faults:
        more = f" ({n_faults - MAX_FAULTS} more)" if n_faults > MAX_FAULTS else ""
        say(f"{described.name}: {n_faults} faults found{more}; `recover` links what is intact")
        return EXIT_STORAGE
    say(
        f"{described.name}: {n_done} of {described.n_tasks} tasks are done; all {n_bytes} bytes of "
        "their results are as they were recorded"
    )
    return EXIT_DONE
