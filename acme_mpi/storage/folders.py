"""The directories of a run: made before it on rank 0, and removed if nothing came of it."""

from __future__ import annotations

import contextlib
import errno
import glob
import os
import re
import shutil
import time
from datetime import datetime

from acme_mpi.errors import PlaceError, StoreError
from acme_mpi.storage.base import DOT_FOLDER, Layout

FINISHED = "finished"
MADE_UP = re.compile(r"ACME_\d{8}-\d{6}-\d{6}")


def choose_layout(kind: str, name: str, output_dir: str | None, base: str) -> Layout:
    """Decide where the files of a run go; nothing is made yet. Rank 0 only.

    Parameters
    ----------
    kind : str
        Kind of store.
    name : str
        The function's name.
    output_dir : str or None
        As the user gave it; None: ``ACME_<time>``.
    base : str
        Directory to which relative paths refer.

    Raises
    ------
    PlaceError
        There is a container of this function already, or what an unfinished run has left.
    """
    if kind == "memory":
        return Layout("", name)
    stamp = datetime.now().strftime("%Y%m%d-%H%M%S-%f")
    directory = os.path.join(base, os.path.expanduser(output_dir or f"ACME_{stamp}"))
    layout = Layout(os.path.abspath(directory), name)
    _refuse_remains(layout)
    return layout


def make_folders(kind: str, name: str, output_dir: str | None, base: str) -> Layout:
    """Make the directories that a run of one kind needs. Rank 0 only.

    Parameters are those of `choose_layout`.

    Raises
    ------
    PlaceError
        As there.
    StoreError
        A directory cannot be made.
    """
    layout = choose_layout(kind, name, output_dir, base)
    if not layout.directory:
        return layout
    payload = os.path.join(layout.directory, layout.payload_folder)
    spool = os.path.join(layout.directory, layout.spool_folder)
    inner = {"rank": [payload], "computation": [payload], "single_file": [spool]}.get(kind, [])
    for path in (layout.directory, layout.dot_folder, *inner):
        try:
            os.makedirs(path, exist_ok=True)
        except OSError as error:
            raise StoreError(f"cannot create {path}: {error.strerror}") from None
    return layout


def _refuse_remains(layout: Layout) -> None:
    payload = os.path.join(layout.directory, layout.payload_folder)
    cure = "choose another output directory (--output-dir, output_dir=...) or move it away"
    for path in (layout.container, layout.pickle(0)):
        if os.path.lexists(path):
            raise PlaceError(f"{path} exists and is never overwritten; {cure}")
    for path in (payload, layout.dot_folder):
        if os.path.lexists(path):
            raise PlaceError(
                f"{path} is left from a run of {layout.name} that was not finished; {cure}"
            )


def refuse_unmakeable(directory: str) -> None:
    """Raise if a directory cannot be made, as far as can be told without making it.

    Raises
    ------
    PlaceError
        What is there, or where it would lie, is no directory or may not be written.
    """
    parent = directory
    while not os.path.lexists(parent):
        parent = os.path.dirname(parent)
    for is_fine, number in (
        (os.path.isdir(parent), errno.ENOTDIR),
        (os.access(parent, os.W_OK | os.X_OK), errno.EACCES),
    ):
        if not is_fine:
            raise PlaceError(f"{parent}: {os.strerror(number)}")


def mark_finished(layout: Layout) -> None:
    """Leave the sign by which a directory is known as that of a run that has ended. Rank 0 only."""
    # Nothing depends on it but the removal of old directories.
    with contextlib.suppress(OSError), open(os.path.join(layout.dot_folder, FINISHED), "x"):
        pass


def remove_old_runs(base: str, older_than_days: float, keep: str = "") -> list[str]:
    """Remove directories of finished runs of this user. Rank 0 only.

    Only those whose names were made up here, ``ACME_YYYYMMDD-hhmmss-ffffff``.

    Parameters
    ----------
    base : str
        Directory that is looked at.
    older_than_days : float
        Days since a run has ended, >= 0.
    keep : str
        A directory that stays, whatever its age.

    Returns
    -------
    list of str
        What was removed.
    """
    limit_s = time.time() - older_than_days * 86400
    removed = []
    for path in sorted(glob.glob(os.path.join(glob.escape(base), "ACME_*"))):
        if not MADE_UP.fullmatch(os.path.basename(path)) or path == keep:
            continue
        # Only what carries our own mark, too, not what merely has such a name.
        if (ended_s := _ended_s(path)) is not None and ended_s <= limit_s:
            shutil.rmtree(path, ignore_errors=True)
            if not os.path.lexists(path):
                removed.append(path)
    return removed


def _ended_s(path: str) -> float | None:
    """Return when the last run of a directory has ended; None if it is no such directory."""
    try:
        if os.path.islink(path) or os.stat(path).st_uid != os.geteuid():
            return None
        runs = [entry.path for entry in os.scandir(os.path.join(path, DOT_FOLDER))]
        return max(os.stat(os.path.join(run, FINISHED)).st_mtime for run in runs)
    except (OSError, ValueError):
        return None


def remove_folders(layout: Layout, log_file: str = "") -> None:
    """Remove everything that a run without any result has made. Rank 0 only.

    Parameters
    ----------
    layout : Layout
        Of the run.
    log_file : str
        The log file that it has made; empty for none.
    """
    if not layout.directory:
        return
    shutil.rmtree(layout.dot_folder, ignore_errors=True)
    payload = os.path.join(layout.directory, layout.payload_folder)
    shutil.rmtree(payload, ignore_errors=True)
    for path in (layout.container, log_file):
        with contextlib.suppress(OSError):
            os.unlink(path)
    # The directories go only if nothing else is in them.
    for path in (os.path.dirname(layout.dot_folder), layout.directory):
        with contextlib.suppress(OSError):
            os.rmdir(path)
