"""The files that ACME's users may name: the log, and ``kwargv["outFile"]``, what `compute` returns.

The run itself writes its files where they always lie, so that it can be resumed and checked; what
is wanted elsewhere gets a second name there (a hard link), and on another file system a copy.
"""

from __future__ import annotations

import contextlib
import logging
import os
import secrets
import shutil
from collections.abc import Sequence
from typing import Any

from acme_mpi.engine.messages import log_path
from acme_mpi.errors import InputError, PlaceError
from acme_mpi.storage import Layout, StoreKind
from acme_mpi.storage.base import refusals
from acme_mpi.tasks.items import shape_text

logger = logging.getLogger("acme_mpi")

NAME = "outFile"


def wanted_files(given: Any, own: Sequence[str], store: StoreKind, may_exist: bool) -> list[str]:
    """Return the absolute paths that a user wants in the place of `own`.

    Raises
    ------
    InputError
        They are not as many different paths, or these files cannot be elsewhere.
    PlaceError
        There is something already, other than `own`, and `may_exist` is false.
    """
    is_list = isinstance(given, (list, tuple)) and len(given) == len(own)
    if not is_list or not all(isinstance(each, (str, bytes, os.PathLike)) for each in given):
        raise InputError(
            f"`kwargv[{NAME!r}]` has to be a list of {len(own)} path(s), not {shape_text(given)}"
        )
    wanted = [os.path.abspath(os.path.expanduser(os.fsdecode(each))) for each in given]
    if len(set(wanted)) < len(wanted):
        raise InputError(f"`kwargv[{NAME!r}]` has a path twice, but every file needs its own")
    moved = [path for path, usual in zip(wanted, own, strict=True) if path != usual]
    if moved and not store.is_movable:
        raise InputError(
            f"`kwargv[{NAME!r}]` cannot be changed with payload={store.name!r}: the container "
            "needs the files beside it. Choose `output_dir` instead"
        )
    there = [path for path in moved if os.path.lexists(path)]
    if there and (not may_exist or os.path.isdir(there[0])):
        raise PlaceError(f"`kwargv[{NAME!r}]`: there is {there[0]} already")
    return wanted


def hand_out(stored: Sequence[str | None], wanted: Sequence[str]) -> list[str | None]:
    """Give files the names that are wanted, and return these; None where there is no file.

    Raises
    ------
    StoreError
        The medium refused it.
    """
    return [
        None if path is None else _hand_out(path, target)
        for path, target in zip(stored, wanted, strict=False)
    ]


def _hand_out(path: str, target: str) -> str:
    suffix = os.path.splitext(path)[1]
    if suffix == ".pickle" and target.endswith(".h5"):  # HDF5 could not hold the result
        target = target.removesuffix(".h5") + suffix
    with refusals(target):
        if not os.path.exists(target) or not os.path.samefile(path, target):
            os.makedirs(os.path.dirname(target), exist_ok=True)
            _link_or_copy(path, target)
    return target


def _link_or_copy(path: str, target: str) -> None:
    partial = f"{target}.{secrets.token_hex(8)}"
    try:
        try:
            os.link(path, partial)
        except OSError:  # of another file system, or of one that has no links
            shutil.copyfile(path, partial)
        os.replace(partial, target)
    except BaseException:
        with contextlib.suppress(FileNotFoundError):
            os.unlink(partial)
        raise


def chosen_log(given: bool | str | None, layout: Layout) -> str | None:
    """Return the path of the log file that `logfile` asks for, None for none.

    Raises
    ------
    PlaceError
        It is a directory, or in none.
    """
    if given is True or (given is None and layout.directory):
        return log_path(layout.directory or os.getcwd(), layout.name)
    if not isinstance(given, str):
        return None
    path = os.path.abspath(os.path.expanduser(given))
    if os.path.isdir(path) or not os.path.isdir(os.path.dirname(path)):
        wrong = "is a directory" if os.path.isdir(path) else "is in no directory"
        raise PlaceError(f"`logfile` {path} {wrong}; give the name of a file")
    if os.path.exists(path):
        logger.warning("log-file %s already exists, appending to it", path)
    return path
