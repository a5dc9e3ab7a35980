"""The directories of a run: made before it, removed if nothing came of it, or when they are old."""

from __future__ import annotations

import contextlib
import errno
import glob
import os
import re
import shutil
import time
from collections.abc import Sequence
from datetime import datetime

from acme_mpi.errors import PlaceError, StoreError
from acme_mpi.history.journal import stamp_of
from acme_mpi.history.layout import DOT_FOLDER, JOB, Layout
from acme_mpi.history.lease import LEASE
from acme_mpi.history.parsing import read_file
from acme_mpi.history.stores import STORES, find_store
from acme_mpi.linux.offsets import reason

FINISHED = "finished"
LINKED = "linked"
_JOBS = re.compile(rf"{JOB}\d+")
# No disk is at fault, and the same command would fail again.
_NO_PLACE = (errno.ENAMETOOLONG, errno.ELOOP, errno.ENOTDIR, errno.EEXIST)
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
    """
    stamp = datetime.now().strftime("%Y%m%d-%H%M%S-%f")
    directory = os.path.join(base, os.path.expanduser(output_dir or f"ACME_{stamp}"))
    return find_store(kind).layout(os.path.abspath(directory), name)


def refuse_unnameable(*names: str) -> None:
    """Raise PlaceError if this locale has no characters for these names. Independent."""
    for name in names:
        try:
            os.fsencode(name)
        except UnicodeEncodeError as error:
            raise PlaceError(
                f"this locale, whose encoding is {error.encoding}, cannot name files after "
                f"{name!r}; set LC_ALL=C.UTF-8"
            ) from None


def make_folders(kind: str, layout: Layout) -> None:
    """Make the directories that a run of one kind needs. Rank 0 only.

    Parameters
    ----------
    kind : str
        Kind of store; empty: only those that every run needs.
    layout : Layout
        Of the run.

    Raises
    ------
    PlaceError
        There is something by the name of the output directory, and it is none; or none can have
        that name.
    StoreError
        A directory cannot be made.
    """
    if os.path.lexists(layout.directory) and not os.path.isdir(layout.directory):
        raise PlaceError(
            f"{layout.directory} is there and is no directory; results need one of their own: name "
            "another output directory"
        )
    inner = find_store(kind).folders(layout) if kind else []
    for path in (layout.directory, layout.dot_folder, *inner):
        try:
            os.makedirs(path, exist_ok=True)
        except OSError as error:
            what = f"cannot create {path}: {reason(error, path)}"
            if error.errno in _NO_PLACE:
                raise PlaceError(f"{what}; name another output directory") from None
            raise StoreError(what) from None


def existing(directory: str) -> str:
    """Return the last that is there already on the way to a folder; a file is in its way."""
    path = os.path.abspath(directory)
    while not os.path.lexists(path):
        path = os.path.dirname(path)
    return path


def refuse_unmakeable(directory: str) -> None:
    """Raise if a directory cannot be made, as far as can be told without making it.

    Raises
    ------
    PlaceError
        What is there, or where it would lie, is no directory or may not be written.
    """
    parent = existing(directory)
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


def unmark_finished(layout: Layout) -> None:
    """Remove that sign: a run has begun that has not ended. Rank 0 only."""
    _remove(os.path.join(layout.dot_folder, FINISHED))


def note_linked(layout: Layout) -> None:
    """Note that this run has made the container. Rank 0 only, once it has its name."""
    path = os.path.join(layout.dot_folder, LINKED)
    # A pipe of that name would be waited for.
    with contextlib.suppress(OSError):
        os.unlink(path)
    # Without the note it is made again, which does no harm.
    with contextlib.suppress(OSError), open(path, "x") as file:
        file.write(f"{layout.run} {stamp_of(os.stat(layout.container))}\n")


def last_linked(layout: Layout) -> tuple[int, bool]:
    """Return the number of the run that has made the container, and if it looks as it did then.

    -1 and False if it is not known, or there is no container.
    """
    try:
        run, stamp = map(int, read_file(os.path.join(layout.dot_folder, LINKED), 60).split())
        return run, stamp == stamp_of(os.stat(layout.container))
    except (OSError, ValueError):
        return -1, False


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


def remove_results(layout: Layout, also: Sequence[str] = ()) -> None:
    """Remove all that runs of this function have left, and directories that are then empty.

    Rank 0 only. The lease stays, unless its folder is named; what belongs to submitted jobs stays
    anyway: one of them may be the caller.

    Parameters
    ----------
    layout : Layout
        Of the function.
    also : sequence of str
        Further files and directories.
    """
    if not layout.directory:
        return
    kept = "" if layout.dot_folder in also else LEASE
    for entry in _entries(layout.dot_folder):
        name = os.path.basename(entry)
        if name != kept and not _JOBS.fullmatch(name):
            _remove(entry)
    payload = os.path.join(layout.directory, layout.payload_folder)
    pickles = glob.glob(
        os.path.join(glob.escape(layout.directory), f"{glob.escape(layout.name)}_*.pickle")
    )
    own = [path for path in pickles if path[len(layout.pickle(0)) - 8 : -7].isdigit()]
    containers = {layout._replace(suffix=each.suffix).container for each in STORES.values()}
    for path in (payload, layout.report, *containers, *own, *also):
        if path != layout.dot_folder:
            _remove(path)
    # The directories go only if nothing else is in them.
    for path in (layout.dot_folder, os.path.dirname(layout.dot_folder), layout.directory):
        with contextlib.suppress(OSError):
            os.rmdir(path)


def _entries(folder: str) -> list[str]:
    with contextlib.suppress(OSError):
        return [entry.path for entry in os.scandir(folder)]
    return []


def _remove(path: str) -> None:
    if os.path.isdir(path) and not os.path.islink(path):
        shutil.rmtree(path, ignore_errors=True)
    else:
        with contextlib.suppress(OSError):
            os.unlink(path)
