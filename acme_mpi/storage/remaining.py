"""Which tasks a run has to call that resumes earlier ones of the same computation."""

from __future__ import annotations

import logging
import os
from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from acme_mpi.comm import World
from acme_mpi.errors import StoreError
from acme_mpi.history.folders import last_linked, note_linked
from acme_mpi.history.journal import journal_files
from acme_mpi.history.parsing import Damaged
from acme_mpi.history.records import History, ranges_of, read_history
from acme_mpi.linux.syncing import sync_files
from acme_mpi.storage.base import Store, Stored, agree, refusals
from acme_mpi.storage.left import Only, Remaining, Which, is_among
from acme_mpi.storage.recorded import RecordedStore
from acme_mpi.storage.verify import Damage, look

logger = logging.getLogger("acme_mpi")


def remaining_tasks(
    world: World, store: Store, n_tasks: int, which: Which, only: Only = None
) -> Remaining:
    """Find what earlier runs have left to do. Collective.

    Results that were recorded, but are not there any more, are computed again.

    Parameters
    ----------
    world : World
        The ranks.
    store : RecordedStore
        Of this run, not yet open.
    n_tasks : int
        Size of the run.
    which : {"open", "failed", "none"}
        Call the tasks that have not ended, those that have failed, or none: then what is left to
        do is to link the results.
    only : sequence of (int, int), optional
        Half-open ranges of the tasks that are called if they have no result; failed ones, too.

    Raises
    ------
    StoreError
        On every rank alike: what is there cannot be read, or not be made ready.
    """
    assert isinstance(store, RecordedStore)
    found: list[Remaining] = []
    error: StoreError | None = None
    if world.is_master:
        try:
            found.append(_find(store, n_tasks, which, only))
        except StoreError as caught:
            error = caught
        except OSError as caught:
            error = StoreError(f"cannot read {store.layout.dot_folder}: {caught.strerror}")
    agree(world, error)
    # Which tasks they are rank 0 alone needs to know: there may be very many.
    nothing = np.zeros((0, 2), np.int64)
    shared = world.bcast(replace(found[0], ranges=nothing) if found else None)
    return found[0] if found else shared


def _find(store: RecordedStore, n_tasks: int, which: Which, only: Only) -> Remaining:
    store.restore()
    history = read_history(store.layout.dot_folder)
    lost = note_lost(store, history, n_tasks)
    is_done = history.is_done(n_tasks)
    for tasks in lost:
        is_done[tasks.start : tasks.stop] = False
    failed = {index: each for index, each in history.failed.items() if index < n_tasks}
    is_failed = np.zeros(n_tasks, bool)
    is_failed[list(failed)] = True
    is_failed &= ~is_done
    is_open = ~(is_done | is_failed)
    is_called = {"open": is_open, "failed": is_failed, "none": np.zeros(n_tasks, bool)}[which]
    if only is not None:
        is_called = ~is_done & is_among(n_tasks, only)
        # All others are left out alike: what has failed of them is no failure of this run.
        is_open |= is_failed
        failed = {}
    stored = None if is_called.any() or lost else newest_container(store, history)
    if stored is not None:
        store.close()  # nothing more will be recorded
        if is_done.all():
            store.tidy()
    kept = [each for i, each in failed.items() if is_failed[i] and not is_called[i]]
    return Remaining(
        ranges_of(is_called),
        int(is_done.sum()) + len(kept),
        int((is_open & ~is_called).sum()),
        kept,
        stored,
    )


def newest_container(store: RecordedStore, history: History) -> Stored | None:
    """Return where the results are; None if the container has still to be made. Independent.

    That of an earlier run may be there yet, if the last one was killed before it made its own.
    Where it does not look as it was made it is compared: it may have been copied, or changed.
    """
    stored = store.stored(history.done)
    if stored.container is None:
        return stored
    run, is_as_made = last_linked(store.layout)
    if run < history.last_run:
        return None
    if not is_as_made:
        if any(store.container_faults(history.done)):
            return None
        note_linked(store.layout)
    return stored


def note_lost(store: RecordedStore, history: History, n_tasks: int) -> list[range]:
    """Find, say and record which results are not there any more; return their tasks.

    Independent; rank 0 only.
    """
    found, whole = look(store, history)
    # What earlier runs have recorded stays so, too, when the node loses its power.
    folder = store.layout.dot_folder
    with refusals(folder):
        # What is no file was told of when it was read, and a pipe would be waited for.
        journals = (each.path for each in journal_files(folder))
        sync_files([path for path in journals if os.path.isfile(path)])
    store.note_files(whole)
    _warn_of_damage(found)
    _warn_of_records(history.damages)
    lost = [each.tasks for each in found]
    size = int((history.done["first"] + history.done["count"]).max(initial=0))
    if size > n_tasks:  # there are fewer tasks now
        lost.append(range(n_tasks, size))
    store.note_lost(lost)
    return lost


def _warn_of_damage(found: Sequence[Damage]) -> None:
    if found:
        files = {each.path for each in found}
        logger.warning(
            "the results of %d tasks in %d file(s) are missing or damaged and are computed again; "
            "first: %s: %s",
            sum(len(each.tasks) for each in found),
            len(files),
            found[0].path,
            found[0].why,
        )


def _warn_of_records(damages: Sequence[Damaged]) -> None:
    if damages:
        more = f" (and {len(damages) - 1} more)" if len(damages) > 1 else ""
        logger.warning("%s%s; whatever else is recorded is used", damages[0], more)
