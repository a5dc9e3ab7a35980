"""How a run begins: in a new place, or with what earlier runs of the same computation have left.

Everything here is for rank 0 alone, before the first task.
"""

from __future__ import annotations

import glob
import logging
import os
import shlex
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import NamedTuple

from acme_mpi.errors import PlaceError, StoreError
from acme_mpi.history.description import (
    Description,
    how_to_resume,
    next_run,
    read_description,
)
from acme_mpi.history.folders import (
    FINISHED,
    MADE_UP,
    choose_layout,
    make_folders,
    refuse_unnameable,
    remove_results,
    unmark_finished,
)
from acme_mpi.history.layout import DOT_FOLDER, Layout
from acme_mpi.history.lease import Lease
from acme_mpi.history.parsing import Damaged
from acme_mpi.history.records import read_history
from acme_mpi.history.stores import find_store
from acme_mpi.tasks.changes import changes, version_changes, without_source

logger = logging.getLogger("acme_mpi")

# What to do where the results of the same function are already: refuse; resume if it is the same
# computation; resume whatever it is; begin anew.
POLICIES = ("refuse", "resume", "force", "overwrite")


@dataclass(frozen=True)
class NewRun:
    """A run that is to begin, and what it may do with what earlier ones have left.

    Attributes
    ----------
    description : Description
        What the run is.
    output_dir : str or None
        As the user gave it; None: a new directory, or that of the newest unfinished run of the
        same computation if the policy is to resume.
    base : str
        Directory to which relative paths refer.
    policy : str
        One of `POLICIES`.
    command_line : bool
        Errors name options of the command line, and not keywords.
    only_failed : bool
        It calls only what has failed: the function's source may have changed, to mend it.
    """

    description: Description
    output_dir: str | None
    base: str
    policy: str = "refuse"
    command_line: bool = False
    only_failed: bool = False


class Beginning(NamedTuple):
    """Where a run begins."""

    layout: Layout
    lease: Lease | None = None  # None in memory
    earlier: Description | None = None  # the last run on the same results


def begin(new: NewRun, notify: Callable[[str], None]) -> Beginning:
    """Decide where a run's files go, take the folder for it, and make the directories.

    Parameters
    ----------
    new : NewRun
        What begins.
    notify : callable
        Told if this has to wait for a sign of another job.

    Raises
    ------
    PlaceError
        There are results, or remains, that this run may not resume.
    StoreError
        The medium refused, or another job uses the folder.
    """
    layout = choose_place(new)
    if not layout.directory:
        return Beginning(layout)
    is_new = not os.path.lexists(layout.dot_folder)
    make_folders("", layout)
    lease = Lease.take(layout.dot_folder, notify)
    try:
        # Now that nobody else writes here, look again; what is to be said was said.
        earlier = _look(new, layout, _unsaid)
        if new.policy == "overwrite":
            remove_results(layout)
            earlier = None
        layout = layout._replace(run=next_run(layout.dot_folder))
        unmark_finished(layout)
        # First of all: if this is killed now, it leaves a run that can be resumed, and no folders
        # that belong to no run.
        _describe(new, layout)
        make_folders(new.description.kind, layout)
    except BaseException:
        if is_new:  # before others may take the folder
            remove_results(layout, also=(layout.dot_folder,))
        lease.release()
        raise
    return Beginning(layout, lease, earlier)


def _describe(new: NewRun, layout: Layout) -> None:
    command = new.description.command.replace("{directory}", shlex.quote(layout.directory))
    try:
        replace(new.description, command=command).write(layout.dot_folder, layout.run)
    except OSError as error:
        raise StoreError(f"cannot write into {layout.dot_folder}: {error.strerror}") from None


def choose_place(new: NewRun) -> Layout:
    """Return where the files of a run go; nothing is made yet.

    Raises
    ------
    PlaceError
        As `begin`.
    """
    described = new.description
    output_dir = new.output_dir
    if find_store(described.kind).writes_files:
        refuse_unnameable(described.name, output_dir or "")
    if output_dir is None and new.policy in ("resume", "force"):
        output_dir = newest_run(new.base, described, new.only_failed)
        if output_dir is None:
            _tell_of_mended(new)
    layout = choose_layout(described.kind, described.name, output_dir, new.base)
    if layout.directory:
        _look(new, layout, logger.warning)
    return layout


def newest_run(base: str, described: Description, is_mended: bool = False) -> str | None:
    """Return the newest directory in `base` of a run of the same computation, unfinished first.

    Only directories with a name made up here, ``ACME_YYYYMMDD-hhmmss-ffffff``. One that is mended
    may have another source.
    """
    unfinished: list[str] = []
    finished: list[str] = []
    for path in sorted(glob.glob(os.path.join(glob.escape(base), "ACME_*"))):
        folder = os.path.join(path, DOT_FOLDER, described.name)
        if not MADE_UP.fullmatch(os.path.basename(path)):
            continue
        try:
            found = read_description(folder)
        except (OSError, Damaged):
            continue  # not ours to judge
        if found is None:
            continue
        before, now = found.fingerprint, described.fingerprint
        if changes(*map(without_source, (before, now))) if is_mended else changes(before, now):
            continue
        is_finished = os.path.exists(os.path.join(folder, FINISHED))
        (finished if is_finished else unfinished).append(path)
    return next(iter([*reversed(unfinished), *reversed(finished)]), None)


def _tell_of_mended(new: NewRun) -> None:
    """Say which run is not resumed, as its function has changed since."""
    described = new.description
    found = newest_run(new.base, described, is_mended=True)
    if found is None:
        return
    layout = choose_layout(described.kind, described.name, found, new.base)
    earlier = read_description(layout.dot_folder)
    assert earlier is not None
    lines = "".join(f"\n  {line}" for line in changes(earlier.fingerprint, described.fingerprint))
    logger.warning(
        "%s is not resumed, all tasks are called:%s%s",
        found,
        lines,
        _way_to_mend(new, layout),
    )


def _way_to_mend(new: NewRun, layout: Layout) -> str:
    """Return what calls the failed tasks again, as a line; empty if none has failed."""
    try:
        n_failed = len(read_history(layout.dot_folder).failed)
    except OSError:
        return ""
    if not n_failed:
        return ""
    command = how_to_resume(new.description.command, layout.directory, only_failed=True)
    return (
        f"\n  if that mends the {n_failed} task(s) that failed: what is done stays and they alone "
        f"are called again; resume with: {command}"
    )


def _look(new: NewRun, layout: Layout, warn: Callable[..., None]) -> Description | None:
    """Return the last run on the same results, None for none; raise if this one may not begin."""
    if new.policy == "overwrite":
        return None
    ways = _ways(new)
    try:
        earlier = read_description(layout.dot_folder)
    except (OSError, Damaged) as error:
        if new.policy == "force" and isinstance(error, Damaged):
            # Results in another form are found to be damaged.
            warn("resuming regardless: %s", error)
            return new.description
        raise PlaceError(
            f"{layout.dot_folder} holds no description of a run that can be read ({error}); {ways}"
        ) from None
    remains = [layout.container, layout.pickle(0)]
    if earlier is None or new.policy == "refuse":
        if earlier is None:
            remains.append(os.path.join(layout.directory, layout.payload_folder))
        if path := next((path for path in remains if os.path.lexists(path)), None):
            raise PlaceError(f"{path} exists and is never overwritten; {ways}")
        if earlier is not None:
            raise PlaceError(
                f"{layout.directory} holds what a run of {layout.name} that was not finished has "
                f"left; {ways}"
            )
        return None
    _refuse_changes(new, earlier, layout, warn)
    return earlier


def _unsaid(text: str, *args: object) -> None:
    pass


def _refuse_changes(
    new: NewRun, earlier: Description, layout: Layout, warn: Callable[..., None]
) -> None:
    described = new.description
    found = changes(earlier.fingerprint, described.fingerprint)
    shown = "".join(f"\n  {line}" for line in found)
    if not earlier.has_form_of(described):
        raise PlaceError(
            f"{layout.directory} holds results of {layout.name} in another form, which cannot be "
            f"resumed:{shown}\n  {_ways(new, has_other_form=True)}"
        )
    ways = _ways(new)
    may_be_mended = not changes(
        without_source(earlier.fingerprint), without_source(described.fingerprint)
    )
    is_mended = may_be_mended and new.only_failed
    if found and new.policy != "force" and not is_mended:
        mend = _way_to_mend(new, layout) if may_be_mended else ""
        raise PlaceError(
            f"{layout.directory} holds results of another computation of {layout.name}:{shown}"
            f"{mend}\n  {'or ' if mend else ''}{ways}"
        )
    for line in found:
        how = (
            "what failed is called again, what is done stays"
            if is_mended
            else "resuming regardless"
        )
        warn("%s: %s", how, line)
    for line in version_changes(earlier.fingerprint, described.fingerprint):
        warn("%s", line)


def _ways(new: NewRun, has_other_form: bool = False) -> str:
    """Return what may be done instead; results that have another form nobody can resume."""
    if not new.command_line:
        ways = "choose another output directory (output_dir=...) or move it away"
        same, any_run = (
            "resume=True resumes a run of the same computation",
            "resume='force' any run",
        )
        return ways if has_other_form else f"{ways}; {same}, {any_run}"
    ways = "choose another output directory (--output-dir), "
    if new.policy == "refuse":
        return f"{ways}or --overwrite it"
    if not has_other_form:
        ways += "resume regardless with --force-resume (what is done stays as it is), "
    return f"{ways}or begin anew with --overwrite (what is done is removed)"
