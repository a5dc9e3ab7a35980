"""The head of the table of a run, for people: as text, or in a notebook."""

from __future__ import annotations

import html
from textwrap import shorten
from typing import Any

import numpy as np

from acme_mpi.reading.table import Cells, table
from acme_mpi.reading.values import Values
from acme_mpi.visible import visible

N_ROWS = 10
WIDTH = 40  # characters of a cell, at most


def html_of(results: Values) -> str:
    """Return the head of the table for a notebook."""
    title = html.escape(visible(f"{results.name}: {results.counts_text()}"))
    names, rows = _head(results, N_ROWS)
    head = "".join(f"<th>{html.escape(name)}</th>" for name in names)
    body = "".join(
        "<tr>" + "".join(f"<td>{html.escape(cell)}</td>" for cell in row) + "</tr>" for row in rows
    )
    more = "" if len(rows) == len(results) else f"<p>... and {len(results) - len(rows)} more</p>"
    place = html.escape(visible(results.directory))
    return f"<p>{title}<br>{place}</p><table><tr>{head}</tr>{body}</table>{more}"


def text_of(results: Values, n_rows: int = N_ROWS) -> str:
    """Return the counts, and the head of the table in columns."""
    names, rows = _head(results, n_rows)
    widths = [max(map(len, column)) for column in zip(names, *rows, strict=True)]
    lines = [f"{results.name}: {results.counts_text()}, in {results.directory}"]
    for row in (names, *rows):
        cells = (cell.rjust(width) for cell, width in zip(row, widths, strict=True))
        lines.append("  ".join(("", *cells)).rstrip())
    if len(rows) < len(results):
        lines.append(f"  ... and {len(results) - len(rows)} more")
    return "\n".join(lines)


def _head(results: Values, n_rows: int) -> tuple[list[str], list[list[str]]]:
    """Return titles and rows of the first tasks, as texts; without what nobody has."""
    tasks = range(min(n_rows, len(results)))
    columns = {
        name: cells for name, cells in table(results, tasks).items() if not cells.is_missing.all()
    }
    texts = [[_text(name, cells, at) for at in tasks] for name, cells in columns.items()]
    rows = [[str(at), *row] for at, row in enumerate(zip(*texts, strict=True))]
    return ["task", *map(visible, columns)], rows


def _text(name: str, cells: Cells, at: int) -> str:
    """Return one cell of the table."""
    if cells.is_missing[at]:
        return "-"
    value: Any = cells.values[at]
    if isinstance(value, (float, np.floating)):
        return f"{value:.6g}"
    return shorten(visible(str(value), kept=""), WIDTH, placeholder=" ...")
