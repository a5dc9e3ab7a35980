"""The directories of a run: made before it on rank 0, and removed if nothing came of it."""

from __future__ import annotations

import contextlib
import glob
import os
import shutil
from datetime import datetime

from acme_mpi.errors import InputError, StoreError
from acme_mpi.storage.base import Layout


def make_folders(kind: str, name: str, output_dir: str | None, base: str) -> Layout:
    """Make the directories that a run of one kind needs. Rank 0 only.

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
    InputError
        There is a container of this function already, or what an unfinished run has left.
    StoreError
        A directory cannot be made.
    """
    if kind == "memory":
        return Layout("", name)
    stamp = datetime.now().strftime("%Y%m%d-%H%M%S-%f")
    directory = os.path.join(base, os.path.expanduser(output_dir or f"ACME_{stamp}"))
    layout = Layout(os.path.abspath(directory), name)
    payload = os.path.join(layout.directory, layout.payload_folder)
    _refuse_remains(layout, payload)
    spool = os.path.join(layout.directory, layout.spool_folder)
    inner = {"rank": [payload], "computation": [payload], "single_file": [spool]}[kind]
    for path in (layout.directory, layout.dot_folder, *inner):
        try:
            os.makedirs(path, exist_ok=True)
        except OSError as error:
            raise StoreError(f"cannot create {path}: {error.strerror}") from None
    return layout


def _refuse_remains(layout: Layout, payload: str) -> None:
    cure = "choose another --output-dir (output_dir=...) or move it away"
    if os.path.lexists(layout.container):
        raise InputError(f"{layout.container} exists and is never overwritten; {cure}")
    for path in (payload, layout.dot_folder):
        if os.path.lexists(path):
            raise InputError(
                f"{path} is left from a run of {layout.name} that was not finished; {cure}"
            )


def remove_folders(layout: Layout) -> None:
    """Remove everything that a run without any result has made. Rank 0 only."""
    if not layout.directory:
        return
    shutil.rmtree(layout.dot_folder, ignore_errors=True)
    payload = os.path.join(layout.directory, layout.payload_folder)
    shutil.rmtree(payload, ignore_errors=True)
    log = glob.escape(os.path.join(layout.directory, f"ACME_{layout.name}_"))
    for path in (layout.container, *glob.glob(f"{log}*.log")):
        with contextlib.suppress(OSError):
            os.unlink(path)
    # The directories go only if nothing else is in them.
    for path in (os.path.dirname(layout.dot_folder), layout.directory):
        with contextlib.suppress(OSError):
            os.rmdir(path)
