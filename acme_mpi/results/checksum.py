"""What stored results are known by again: their size and a number, for each record of a journal.

Each piece of a record (its rows, one part of a task, a pickle) has an xxh3 of its own, so that it
does not matter who has written it; the number of the record is the xxh3 of the list of its pieces.
Journals of earlier versions have sums instead, which are told apart by a field of the record.
"""

from __future__ import annotations

import struct
import zlib
from collections.abc import Iterable
from typing import Any

import numpy as np
import xxhash

SUM, XXH3 = 0, 1  # kinds of digests, as they stand in records
COPIED_BYTES = 64 * 1024  # below this a copy of an array is quicker than a view of its bytes
CRC_BYTES = 64 * 1024  # from here on a `SumDigest` has sums of 64-bit words
BYTES = (bytes, bytearray, memoryview)
MASK = (1 << 64) - 1
_PIECE = struct.Struct("<qqQQ")  # task, number of the part, bytes, xxh3
_NO_BYTES = (0, 0)  # size and checksum of an empty dataset


def checksum(data: Any) -> int:
    """Return the xxh3 of bytes, in [0, 2**64).

    Parameters
    ----------
    data : bytes-like or ndarray
        An array counts by its bytes in C order; one of strings by their lengths and UTF-8.
    """
    return xxhash.xxh3_64_intdigest(_bytes_of(data))


class Digest:
    """Size and checksum of the results that one record speaks of, piece by piece.

    It depends on the order of the pieces, on their lengths, and on the tasks they belong to.
    """

    kind = XXH3

    def __init__(self) -> None:
        self.n_bytes = 0
        self._pieces = bytearray()

    def add(self, index: int, data: Any) -> None:
        """Add what is in one piece: the packed rows from task `index` on, or a pickle.

        Parameters
        ----------
        index : int
            The (first) task.
        data : bytes, ndarray, or tuple of (int, int)
            A tuple is size and checksum of what is known by these alone.
        """
        self.add_part(index, 0, data)

    def add_rows(self, index: int, k: int, data: Any) -> None:
        """Add the packed rows of column `k` from task `index` on; `data` as that of `add`."""
        self.add_part(index, k, data)

    def add_parts(self, index: int, parts: Iterable[Any], first: int = 0) -> None:
        """Add the parts of one task.

        Parameters
        ----------
        index : int
            The task.
        parts : iterable
            Each as `data` of `add`, or None for an empty dataset.
        first : int
            Number of the first part.
        """
        for k, part in enumerate(parts, first):
            self.add_part(index, k, part)

    def add_part(self, index: int, k: int, part: Any) -> None:
        """Add part `k` of a task, see `add_parts`."""
        size, number = _NO_BYTES if part is None else self._known(part)
        self.n_bytes += size
        self._pieces += _PIECE.pack(index, k, size, number)

    def _known(self, part: Any) -> tuple[int, int]:
        return part if isinstance(part, tuple) else (_size(part), checksum(part))

    @property
    def number(self) -> int:
        """The checksum, in [0, 2**64)."""
        return xxhash.xxh3_64_intdigest(self._pieces)


class SumDigest(Digest):
    """That of records of earlier versions: sums of 64-bit words and of CRCs, to compare with."""

    kind = SUM

    def __init__(self) -> None:
        super().__init__()
        self._total = 0

    def add(self, index: int, data: Any) -> None:
        """Add rows or a pickle; which task they belong to does not show."""
        self.n_bytes += _size(data)
        self._total += _sum(data)

    def add_rows(self, index: int, k: int, data: Any) -> None:
        """Add rows; there was one column."""
        self.add(index, data)

    def add_part(self, index: int, k: int, part: Any) -> None:
        """Add part `k` of a task."""
        size, number = _NO_BYTES if part is None else (_size(part), _sum(part))
        self.n_bytes += size
        self._total += number * (2 * index + 1) + k * 0x9E3779B97F4A7C15 + k * number

    @property
    def number(self) -> int:
        """The checksum."""
        return self._total & MASK


def new_digest(kind: int = XXH3) -> Digest:
    """Return an empty digest of one kind.

    Raises
    ------
    ValueError
        There is no such kind.
    """
    if kind not in (SUM, XXH3):
        raise ValueError(f"its checksum is of kind {kind}, which this version does not know")
    return Digest() if kind == XXH3 else SumDigest()


def _sum(data: Any) -> int:
    view = memoryview(_bytes_of(data)).cast("B")
    if view.nbytes < CRC_BYTES:
        return zlib.crc32(view)
    words = np.frombuffer(view, np.uint64, view.nbytes // 8)
    return (int(words.sum()) + zlib.crc32(view[words.nbytes :])) & MASK


def _bytes_of(data: Any) -> Any:
    if isinstance(data, BYTES):
        return data
    if data.dtype.kind == "O":
        texts = [text.encode() for text in data.flat]
        return b"".join(b"%d:%b" % (len(text), text) for text in texts)
    if data.nbytes < COPIED_BYTES:
        return data.tobytes()
    return np.ascontiguousarray(data).reshape(-1).view(np.uint8)


def _size(data: Any) -> int:
    if isinstance(data, BYTES):
        return len(data)
    if data.dtype.kind == "O":
        return sum(len(text.encode()) for text in data.flat)
    return int(data.nbytes)
