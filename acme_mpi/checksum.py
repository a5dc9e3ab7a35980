"""What a stored result is known by again: a number for its bytes, one for each record of a journal.

Small pieces get a CRC, of which none of two differing pieces is likely to share one; large ones a
plain sum of 64-bit words, which costs as much as reading them and finds what disks and killed
processes do: missing and zeroed blocks.
"""

from __future__ import annotations

import zlib
from typing import Any

import numpy as np

CRC_BYTES = 64 * 1024  # below this a CRC, from here on a sum
MASK = (1 << 64) - 1


def checksum(data: Any) -> int:
    """Return the checksum of bytes, in [0, 2**64).

    Parameters
    ----------
    data : bytes-like or ndarray
        An array counts by its bytes in C order; one of strings by their lengths and UTF-8.
    """
    if isinstance(data, np.ndarray):
        if data.dtype.kind == "O":
            texts = [text.encode() for text in data.flat]
            data = b"".join(b"%d:%b" % (len(text), text) for text in texts)
        elif data.nbytes < CRC_BYTES:
            return zlib.crc32(data.tobytes())
        else:
            data = np.ascontiguousarray(data).reshape(-1).view(np.uint8)
    view = memoryview(data)
    if view.nbytes < CRC_BYTES:
        return zlib.crc32(view)
    words = np.frombuffer(view, np.uint64, view.nbytes // 8)
    return (int(words.sum()) + zlib.crc32(view[words.nbytes :])) & MASK


def located(number: int, index: int, k: int = 0) -> int:
    """Return what a piece adds to the checksum of a record that speaks of many.

    Sums of these tell when two pieces have been exchanged.

    Parameters
    ----------
    number : int
        The piece's own checksum.
    index, k : int
        Its task, and which of the task's results it is.
    """
    return (number * (2 * index + 1) + k * 0x9E3779B97F4A7C15 + k * number) & MASK


def parts_checksum(index: int, parts: Any, first: int = 0) -> tuple[int, int]:
    """Return (bytes, checksum) of the parts of one task.

    Parameters
    ----------
    index : int
        The task.
    parts : iterable
        Each an array; None for an empty dataset; or (bytes, checksum) of a part that is known by
        these alone.
    first : int
        Number of the first part.
    """
    n_bytes = total = 0
    for k, part in enumerate(parts, first):
        if part is None:
            size, number = 0, 0
        elif isinstance(part, tuple):
            size, number = part
        else:
            size, number = _size(part), checksum(part)
        n_bytes += size
        total = (total + located(number, index, k)) & MASK
    return n_bytes, total


def _size(part: Any) -> int:
    if part.dtype.kind == "O":
        return sum(len(text.encode()) for text in part.flat)
    return int(part.nbytes)
