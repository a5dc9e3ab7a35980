"""The record of finished tasks: one append-only file per rank, written after the results.

A record says that the results of the tasks in [first, first + count) are durable, and where. The
container is made from these records alone. A record torn by a kill is ignored.
"""

from __future__ import annotations

import os
import zlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

# Bits of `form`: packed rows of result_0; groups comp_i that belong into the container; rows of
# differing length, each in a dataset of its own; pickles, each in a file of its own.
AS_ROWS, AS_GROUPS, AS_RAGGED, AS_PICKLES = 1, 2, 4, 8

RECORD = np.dtype(
    [
        ("first", "<i8"),
        ("count", "<i8"),
        ("payload", "<i4"),  # number of the rank's payload file
        ("form", "<i4"),
        ("row", "<i8"),  # first row inside the payload
        ("busy_s", "<f8"),
        ("reserved", "<i4"),
        ("crc32", "<u4"),  # of the bytes before it
    ]
)
_CHECKED_BYTES = RECORD.itemsize - 4

Records = np.ndarray[Any, Any]


class Journal:
    """The journal of one rank.

    Parameters
    ----------
    path : str
        A new file.

    Raises
    ------
    OSError
        The file exists or cannot be made.
    """

    def __init__(self, path: str) -> None:
        flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_APPEND | os.O_CLOEXEC
        self._descriptor = os.open(path, flags, 0o666)

    def append(self, records: Sequence[bytes]) -> None:
        """Record that results are durable, durably.

        Parameters
        ----------
        records : sequence of bytes
            Each from `pack_record`.

        Raises
        ------
        OSError
            The medium refused the records.
        """
        os.write(self._descriptor, b"".join(records))
        os.fdatasync(self._descriptor)

    def close(self) -> None:
        """Close the file."""
        os.close(self._descriptor)


def pack_record(
    tasks: range, payload: int = 0, form: int = 0, row: int = 0, busy_s: float = 0.0
) -> bytes:
    """Return the record that the results of consecutive `tasks` are durable, and where."""
    record = np.zeros((), RECORD)
    record["first"], record["count"] = tasks.start, len(tasks)
    record["payload"], record["form"] = payload, form
    record["row"], record["busy_s"] = row, busy_s
    record["crc32"] = zlib.crc32(record.tobytes()[:_CHECKED_BYTES])
    return record.tobytes()


def read_journal(path: str) -> Records:
    """Return the whole records of a journal, (n,) ndarray of `RECORD`; empty without a file."""
    try:
        data = Path(path).read_bytes()
    except FileNotFoundError:
        return np.zeros(0, RECORD)
    view = memoryview(data)
    n_whole = len(data) // RECORD.itemsize
    records = np.frombuffer(data, RECORD, n_whole)
    is_intact = [
        zlib.crc32(view[k * RECORD.itemsize :][:_CHECKED_BYTES]) == records["crc32"][k]
        for k in range(n_whole)
    ]
    return records[is_intact]
