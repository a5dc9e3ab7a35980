"""When which rank was busy, in bins of time; the effort hardly depends on the number of tasks."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

N_BINS = 480
MOST_ROWS = 200  # of a picture that can be looked at
N_ALONE = 100  # of more ranks: those that have a row of their own

Floats = np.ndarray[Any, np.dtype[np.float64]]
Ints = np.ndarray[Any, np.dtype[np.int64]]
Mask = np.ndarray[Any, np.dtype[np.bool_]]


class Calls(NamedTuple):
    """Tasks that a rank has called one after the other, by the blocks that tell of them.

    Attributes
    ----------
    rank : (n,) ndarray of int64
        Position of the rank among all that are looked at.
    start_s, stop_s : (n,) ndarray of float64
        Since the start of the run.
    n_done, n_failed : (n,) ndarray of int64
        How many tasks have ended, well and not.
    """

    rank: Ints
    start_s: Floats
    stop_s: Floats
    n_done: Ints
    n_failed: Ints


class Writing(NamedTuple):
    """Spans of time of which a rank has spent a part with results.

    Attributes
    ----------
    rank : (n,) ndarray of int64
        As of `Calls`.
    start_s, stop_s : (n,) ndarray of float64
        Since the start of the run.
    share : (n,) ndarray of float64
        The part, [0, 1].
    """

    rank: Ints
    start_s: Floats
    stop_s: Floats
    share: Floats


class Timeline(NamedTuple):
    """What a picture shows of each row and each bin of time.

    Attributes
    ----------
    rows : list of (n,) ndarray of int64
        The ranks of each row, by their positions; of many ranks the idlest first.
    busy : (n_rows, N_BINS) ndarray of float64
        Share of the time that was spent in tasks, [0, 1].
    writing : (n_rows, N_BINS) ndarray of float64
        Share of the time without a task that may have been for writing results, [0, 1 - busy].
    has_failed : (n_rows, N_BINS) ndarray of bool
        Whether a task has failed there.
    """

    rows: list[Ints]
    busy: Floats
    writing: Floats
    has_failed: Mask

    @property
    def sizes(self) -> Floats:
        """Number of ranks in each row, (n_rows, 1) ndarray of float64."""
        return np.array([len(ranks) for ranks in self.rows], float).reshape(-1, 1)


def timeline_of(calls: Calls, writing: Writing, busy_s: Floats, span_s: float) -> Timeline:
    """Return the picture of all ranks.

    Parameters
    ----------
    calls, writing : Calls, Writing
        Of all ranks.
    busy_s : (n_ranks,) ndarray of float64
        Time that each rank has spent in tasks.
    span_s : float
        Length of the picture, in seconds.
    """
    rows = rows_of(busy_s)
    row_of = np.zeros(len(busy_s), np.int64)
    for number, ranks in enumerate(rows):
        row_of[ranks] = number
    row = row_of[calls.rank]
    has_failed = np.zeros((len(rows), N_BINS), bool)
    is_failed = calls.n_failed > 0
    has_failed[row[is_failed], bins_of(calls.stop_s[is_failed], span_s)] = True
    busy = in_bins(calls.start_s, calls.stop_s, row, len(rows), span_s)
    spans = writing.start_s, writing.stop_s, row_of[writing.rank]
    written = in_bins(*spans, len(rows), span_s, writing.share)
    found = Timeline(rows, busy, written, has_failed)
    busy = (busy / found.sizes).clip(0, 1)
    written = (written / found.sizes).clip(0, 1 - busy)
    return found._replace(busy=busy, writing=written)


def rows_of(busy_s: Floats) -> list[Ints]:
    """Return which ranks share a row: none, or of many the idlest have one each, the others few."""
    if len(busy_s) <= MOST_ROWS:
        return [np.array([rank]) for rank in range(len(busy_s))]
    order = np.argsort(busy_s, kind="stable")
    alone = [np.array([rank]) for rank in order[:N_ALONE].tolist()]
    return alone + np.array_split(order[N_ALONE:], MOST_ROWS - N_ALONE)


def bins_of(seconds: Floats, span_s: float) -> Ints:
    """Return the bins in which moments lie."""
    return (seconds * (N_BINS / span_s)).astype(np.int64).clip(0, N_BINS - 1)


def in_bins(
    start_s: Floats,
    stop_s: Floats,
    row: Ints,
    n_rows: int,
    span_s: float,
    weight: Floats | float = 1.0,
) -> Floats:
    """Return which part of each bin spans of time cover, summed over those of each row.

    Each counts as often as its weight says.
    """
    # What has run since the start grows by one per bin from the begin of a span on, and less by one
    # from its end on. The steps of that, summed up, are what has run in each bin.
    width = N_BINS + 2
    steps = np.zeros(n_rows * width)
    for moments, sign in ((start_s, weight), (stop_s, -1.0 * weight)):
        at = (moments * (N_BINS / span_s)).clip(0, N_BINS)
        whole = at.astype(np.int64)
        part = at - whole
        place = row * width + whole
        steps += np.bincount(place, sign * (1 - part), len(steps))
        steps += np.bincount(place + 1, sign * part, len(steps))
    covered: Floats = np.cumsum(steps.reshape(n_rows, width), axis=1)[:, :N_BINS]
    return covered
