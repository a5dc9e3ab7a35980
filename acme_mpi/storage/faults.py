"""All that is wrong with what runs have left: every result, every link, every source."""

from __future__ import annotations

import os
from collections.abc import Iterator
from typing import Any

import h5py
import numpy as np

from acme_mpi.journal import AS_ROWS
from acme_mpi.results import RowSpec
from acme_mpi.storage.recorded import RecordedStore, digest_like
from acme_mpi.storage.records import Records, missing_tasks, tasks_with_groups
from acme_mpi.storage.verify import damaged_bytes, reason_text


def faults(
    store: RecordedStore, done: Records, n_tasks: int, is_running: bool = False
) -> Iterator[str]:
    """Yield all that is wrong with what runs have left, as sentences. Independent.

    Parameters
    ----------
    store : RecordedStore
        Over the files; need not be open.
    done : ndarray
        Records of results.
    n_tasks : int
        Size of the run.
    is_running : bool
        The container is still to come.
    """
    for each in damaged_bytes(store, done):
        tasks = each.tasks
        yield f"tasks {tasks.start} to {tasks.stop - 1}: {each.path}: {each.why}"
    container = store.stored(done).container
    if container is None or is_running:
        return
    try:
        with h5py.File(container, "r", locking=False) as file:
            yield from _broken_links(file, done)
            if store.spec is not None:
                yield from _wrong_rows(file, store.spec, done, n_tasks)
    except OSError as error:
        yield f"{container}: {reason_text(error)}"


def _broken_links(file: h5py.File, done: Records) -> Iterator[str]:
    for _, index in tasks_with_groups(done):
        try:
            file[f"comp_{index}"]
        except (KeyError, OSError) as error:
            yield f"{file.filename}: comp_{index} leads nowhere: {reason_text(error)}"


def _wrong_rows(file: h5py.File, spec: RowSpec, done: Records, n_tasks: int) -> Iterator[str]:
    """Yield what is wrong with the common dataset: missing sources, rows, and what is missing."""
    if "result_0" not in file:
        yield f"{file.filename}: there is no result_0"
        return
    dataset = file["result_0"]
    folder = os.path.dirname(file.filename)
    sources = {each.file_name for each in dataset.virtual_sources()} if dataset.is_virtual else ()
    for source in sorted(sources):
        if not os.path.exists(os.path.join(folder, source)):
            yield f"{file.filename}: result_0 needs {source}, which is not there"
    if not np.array_equal(dataset.attrs.get("missing", ()), missing_tasks(done, n_tasks)):
        yield f"{file.filename}: the attribute `missing` of result_0 is not what journals say"
    for record in done[done["form"] == AS_ROWS]:
        first, count = int(record["first"]), int(record["count"])
        where = (slice(None),) * spec.axis + (slice(first, first + count),)
        rows = np.moveaxis(dataset[where], spec.axis, 0)
        if record["n_bytes"] >= 0 and count > 0 and not _are_recorded(rows, record):
            yield f"{file.filename}: rows {first} to {first + count - 1} of result_0 differ"


def _are_recorded(rows: Any, record: Any) -> bool:
    # They were packed, or the only part of a task's own file: sums tell these apart.
    packed, own = digest_like(record), digest_like(record)
    packed.add(int(record["first"]), rows)
    own.add_parts(int(record["first"]), [rows[0]])
    return record["checksum"] in (packed.number, own.number)
