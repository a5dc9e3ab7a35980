"""The commands on the directory of a run: ``status``, ``stop``, ``recover`` and ``check``.

They are for any shell, while the run goes on or later, and start no MPI.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
from collections.abc import Iterator, Sequence
from typing import NamedTuple

from acme_mpi.comm import SerialWorld
from acme_mpi.errors import EXIT_DONE, EXIT_STORAGE, AcmeMpiError, InputError, StoreError
from acme_mpi.joblog import joblog_lines
from acme_mpi.status import read_status, runs_in, status_json
from acme_mpi.status_text import status_text
from acme_mpi.storage import make_store
from acme_mpi.storage.ballast import remove_left
from acme_mpi.storage.base import DOT_FOLDER, Layout
from acme_mpi.storage.description import Description, next_run, read_description
from acme_mpi.storage.lease import Lease, holder
from acme_mpi.storage.recorded import RecordedStore
from acme_mpi.storage.records import read_history
from acme_mpi.storage.remaining import newest_container, note_lost
from acme_mpi.visible import say, visible

COMMANDS = {
    "status": "tell what is done, what is slow, and what has failed",
    "stop": "have a run end in good order; it can be gone on with",
    "recover": "link what a run has left that was killed, and what is left of damaged files",
    "check": "read all results and compare their checksums; follow all links",
}
MAX_FAULTS = 20  # that are shown


class _Run(NamedTuple):
    """What runs of one function have left in a directory."""

    description: Description
    layout: Layout


def run_command(argv: Sequence[str]) -> int:
    """Carry out one command; return the exit status.

    Parameters
    ----------
    argv : sequence of str
        Its name and its arguments.
    """
    name = argv[0]
    parser = argparse.ArgumentParser(
        prog=f"python -m acme_mpi {name}", description=f"{COMMANDS[name].capitalize()}."
    )
    parser.add_argument("directory", metavar="DIR", help="output directory of the run")
    if name == "status":
        form = parser.add_mutually_exclusive_group()
        form.add_argument("--json", action="store_true", help="for programs")
        form.add_argument(
            "--joblog", action="store_true", help="a line per task, as GNU parallel writes them"
        )
    options = parser.parse_args(argv[1:])
    act = {"status": _status, "stop": _stop, "recover": _recover, "check": _check}[name]
    try:
        return max(act(run, options) for run in _runs(options.directory))
    except AcmeMpiError as error:
        say(f"acme_mpi: {error}", sys.stderr)
        return error.exit_code
    except BrokenPipeError:  # the reader has seen enough, `... | head`
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return EXIT_DONE


def _runs(directory: str) -> Iterator[_Run]:
    """Yield the runs in a directory, by the names of their functions."""
    directory = os.path.abspath(directory)
    names = runs_in(directory)
    if not names:
        raise InputError(
            f"{directory} holds no run; give the directory named by --output-dir, or the "
            "ACME_YYYYMMDD-hhmmss-ffffff that was made"
        )
    for name in names:
        layout = Layout(directory, name)
        try:
            description = read_description(layout.dot_folder)
        except (OSError, ValueError, TypeError) as error:
            raise InputError(
                f"cannot read {os.path.join(directory, DOT_FOLDER)}: {error}"
            ) from None
        if description is not None:
            yield _Run(description, layout)


def _status(run: _Run, options: argparse.Namespace) -> int:
    folder = run.layout.dot_folder
    if options.joblog:
        for line in joblog_lines(folder):
            say(line)
    elif options.json:
        print(json.dumps(status_json(read_status(folder))))
    else:
        say(status_text(read_status(folder)))
    sys.stdout.flush()
    return EXIT_DONE


def _stop(run: _Run, options: argparse.Namespace) -> int:
    found = holder(run.layout.dot_folder)
    if found is None or not found.is_alive:
        say(f"{run.layout.name}: no run is going on")
        return EXIT_DONE
    try:
        with open(run.layout.stop_file, "a"):
            pass
    except OSError as error:
        raise StoreError(f"cannot write {run.layout.stop_file}: {error.strerror}") from None
    say(f"{run.layout.name}: {found} was asked to stop; it ends the tasks that are running")
    return EXIT_DONE


def _store_of(run: _Run, number: int = 0) -> RecordedStore:
    layout = Layout(run.layout.directory, run.layout.name, number)
    described = run.description
    store = make_store(described.kind, SerialWorld(), layout, described.row_spec, described.n_tasks)
    assert isinstance(store, RecordedStore)
    return store


def _recover(run: _Run, options: argparse.Namespace) -> int:
    described, folder = run.description, run.layout.dot_folder
    lease = Lease.take(folder, lambda text: say(text, sys.stderr))
    try:
        remove_left(run.layout)
        store = _store_of(run, next_run(folder))
        store.restore()
        history = read_history(folder)
        lost = note_lost(store, history, described.n_tasks)
        stored = None if lost else newest_container(store, history)
        if stored is None:
            store.open()
            store.close()
            stored = store.commit()
            history = read_history(folder)
    finally:
        lease.release()
    n_done = int(history.is_done(described.n_tasks).sum())
    say(f"{described.name}: {n_done} of {described.n_tasks} results are in {stored.where}")
    if history.failed:
        say(f"  {len(history.failed)} tasks have failed")
    if n_done < described.n_tasks and described.command:
        say(f"  go on with: {described.command}")
    return EXIT_DONE


def _check(run: _Run, options: argparse.Namespace) -> int:
    from acme_mpi.storage.faults import faults

    described = run.description
    history = read_history(run.layout.dot_folder)
    found = holder(run.layout.dot_folder)
    is_running = found is not None and found.is_alive
    store = _store_of(run)
    n_faults = 0
    for fault in faults(store, history.done, described.n_tasks, is_running):
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
