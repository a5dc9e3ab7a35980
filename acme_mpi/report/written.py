"""A run's page as a file beside its results: at any time, and at the end of a run that was long."""

from __future__ import annotations

import contextlib
import logging
import os
import secrets
import time
from collections.abc import Sequence
from pathlib import Path

from acme_mpi.errors import StoreError
from acme_mpi.history.journal import journal_files, n_blocks
from acme_mpi.history.layout import Layout
from acme_mpi.history.told import read_told
from acme_mpi.report.figures import figures_of
from acme_mpi.report.page import page_of
from acme_mpi.report.sections import body_of

logger = logging.getLogger("acme_mpi")

# At the end of a run the page may take this share of the run's time, and so long at most.
SHARE, MOST_S = 0.01, 2.0
# What it takes at most, on a node that is busy: imports and page, to read a journal, and a block.
PAGE_S, JOURNAL_S, BLOCK_S = 0.1, 0.5e-3, 4e-6


def write_report(layouts: Sequence[Layout], path: str) -> None:
    """Write a page of runs of some functions. Independent, any process; they may be going on.

    Parameters
    ----------
    layouts : sequence of Layout
        Of the functions.
    path : str
        Of the page. A file that is there is replaced, as a whole or not at all; links stay, and
        pipes and devices are written to.

    Raises
    ------
    InputError
        A dot folder cannot be read.
    StoreError
        The page cannot be written.
    """
    now_s = time.time()
    told = [(each.dot_folder, read_told(each.dot_folder)) for each in layouts]
    bodies = [body_of(figures_of(each, folder, now_s)) for folder, each in told]
    try:
        _replace(path, page_of(bodies, ", ".join(each.name for each in layouts)))
    except OSError as error:
        raise StoreError(f"cannot write {path}: {error.strerror}") from None


def report_at_end(layout: Layout, n_ranks: int, took_s: float) -> None:
    """Write the page of a run that ends now, unless that would take too long. Rank 0 only.

    It never fails: what is wrong with a picture must not cost a run.

    Parameters
    ----------
    layout : Layout
        Of the run.
    n_ranks : int
        That have taken part.
    took_s : float
        How long the run has taken.
    """
    allowed_s = min(SHARE * took_s, MOST_S)
    # Of many journals even the sizes take long to find out.
    if PAGE_S + JOURNAL_S * n_ranks > allowed_s:
        return
    try:
        if _expected_s(layout.dot_folder) > allowed_s:
            logger.debug("no report yet, it would take too long; `report` makes it")
            return
        # Whoever ends has its lease still, and is not running any more.
        told = read_told(layout.dot_folder)._replace(holder=None)
        figures = figures_of(told, layout.dot_folder, time.time())
        _replace(layout.report, page_of([body_of(figures)], layout.name))
    except Exception as error:
        logger.debug("the report could not be written: %s", error)


def _expected_s(folder: str) -> float:
    journals = journal_files(folder)
    blocks = sum(n_blocks(each.path) for each in journals)
    return PAGE_S + JOURNAL_S * len(journals) + BLOCK_S * blocks


def _replace(path: str, text: str) -> None:
    if os.path.exists(path) and not os.path.isfile(path):
        Path(path).write_text(text, encoding="utf-8")
        return
    path = os.path.realpath(path)
    partial = f"{path}.{secrets.token_hex(8)}"
    try:
        with open(partial, "x", encoding="utf-8") as file:
            file.write(text)
        os.replace(partial, path)
    except OSError:
        with contextlib.suppress(OSError):
            os.unlink(partial)
        raise
