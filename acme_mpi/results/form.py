"""The form that all results of a run have in common: the first one that ends decides it.

No rank waits for another: whoever has a result first writes the form into the run's folder, and all
others, and later runs, find it there.
"""

from __future__ import annotations

import contextlib
import errno
import json
import os
import time
from collections.abc import Mapping
from typing import Any

FORM = "form.json"  # name of the file in the dot folder of a run
NAMES, ROWS = "names", "rows"  # what it says: of the parts of each result, or of stacked arrays
MOST_BYTES = 16 * 1024**2
HALF_WRITTEN_S = 5.0  # for who writes it where there are no hard links

_NO_LINKS = (errno.EPERM, errno.EOPNOTSUPP, errno.ENOSYS)


def agreed(folder: str, proposal: Mapping[str, Any]) -> dict[str, Any]:
    """Return the form of a run: the one that is there, else this proposal. Independent.

    Parameters
    ----------
    folder : str
        The dot folder of the run.
    proposal : mapping of str
        What JSON holds: text, finite numbers, lists and mappings of these, None.

    Raises
    ------
    OSError
        It can be neither read nor written.
    ValueError
        What is there is no form.
    """
    found = form_of(folder)
    if found is not None:
        return found
    path = os.path.join(folder, FORM)
    aside = f"{path}.{os.urandom(8).hex()}"
    try:
        _write(aside, json.dumps(proposal))
        # The first one wins. An NFS server may do it twice, and say the second time that it is
        # there: so what counts is what is read.
        with contextlib.suppress(FileExistsError):
            _link(aside, path)
    finally:
        with contextlib.suppress(OSError):
            os.unlink(aside)
    found = form_of(folder)
    if found is None:
        raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), path)
    return found


def form_of(folder: str) -> dict[str, Any] | None:
    """Return the form on which a run has agreed; None if there is none. Independent.

    Raises
    ------
    OSError, ValueError
        As `agreed`.
    """
    path = os.path.join(folder, FORM)
    end_s = time.monotonic() + HALF_WRITTEN_S
    while True:
        try:
            return _read(path)
        except FileNotFoundError:
            return None
        except ValueError as error:
            if time.monotonic() > end_s:
                raise ValueError(f"damaged: {path}: {error}") from None
            time.sleep(0.05)


def _read(path: str) -> dict[str, Any]:
    with open(path, "rb") as file:
        said = json.loads(file.read(MOST_BYTES))
    if not isinstance(said, dict):
        raise ValueError("it is no JSON object")
    return said


def _write(path: str, text: str) -> None:
    with open(path, "x", encoding="utf-8") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())


def _link(source: str, path: str) -> None:
    """Give a file a second name, or where no file can have two (FAT) make a copy of it.

    Raises
    ------
    FileExistsError
        Something else has it.
    """
    try:
        os.link(source, path)
    except OSError as error:
        if error.errno not in _NO_LINKS:
            raise
        with open(source, encoding="utf-8") as file:
            _write(path, file.read())
