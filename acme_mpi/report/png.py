"""A picture of a table of small numbers, as a PNG file that a page can hold."""

from __future__ import annotations

import base64
import struct
import zlib
from collections.abc import Sequence
from typing import Any

import numpy as np


def png_of(table: Any, colours: Sequence[tuple[int, int, int, int]]) -> str:
    """Return a picture as a ``data:`` address.

    Parameters
    ----------
    table : (n_rows, n_columns) ndarray of uint8
        The colour of each pixel, by its position in `colours`.
    colours : sequence of (int, int, int, int)
        Red, green, blue and opacity, each in [0, 255].
    """
    n_rows, n_columns = table.shape
    # Eight bits per pixel, by a palette; each row begins with the number of its filter, none.
    header = struct.pack(">IIBBBBB", n_columns, n_rows, 8, 3, 0, 0, 0)
    rows = np.zeros((n_rows, n_columns + 1), np.uint8)
    rows[:, 1:] = table
    palette = bytes(value for colour in colours for value in colour[:3])
    opacities = bytes(colour[3] for colour in colours)
    data = b"\x89PNG\r\n\x1a\n" + b"".join(
        _chunk(name, body)
        for name, body in (
            (b"IHDR", header),
            (b"PLTE", palette),
            (b"tRNS", opacities),
            (b"IDAT", zlib.compress(rows.tobytes(), 9)),
            (b"IEND", b""),
        )
    )
    return f"data:image/png;base64,{base64.b64encode(data).decode()}"


def _chunk(name: bytes, body: bytes) -> bytes:
    crc = struct.pack(">I", zlib.crc32(name + body))
    return struct.pack(">I", len(body)) + name + body + crc
