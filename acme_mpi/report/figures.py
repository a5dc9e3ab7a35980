"""The numbers behind every picture of a run, from what its journals tell."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np

from acme_mpi.history.calls import durations_of
from acme_mpi.history.description import Description
from acme_mpi.history.journal import Block
from acme_mpi.history.records import Records
from acme_mpi.history.status import Duration, Status, Straggler, slowest_of, status_of
from acme_mpi.history.told import Told, is_end, is_given_up
from acme_mpi.report.timeline import (
    N_BINS,
    Calls,
    Floats,
    Ints,
    Timeline,
    Writing,
    bins_of,
    in_bins,
    timeline_of,
)

N_SLOWEST = 20
N_DURATIONS = 40  # bars of the histogram
SHORTEST_S = 1e-7
LATE_MEDIANS = 5.0
SILENT_S = 60.0  # a rank that has recorded nothing for so long is named
MATCHED = ("kind", "attempt", "first", "count", "busy_s", "run", "rank")


class Rank(NamedTuple):
    """What one rank has done in the run.

    Attributes
    ----------
    number, host : int, str
        Which one, and where.
    n_done, n_failed : int
        Tasks that have ended.
    busy_s : float
        Spent in them.
    peak_bytes : int
        The largest use of memory of the process that called them; 0 if unknown.
    last_s : float
        When it has last told of anything, since the start of the run.
    """

    number: int
    host: str
    n_done: int
    n_failed: int
    busy_s: float
    peak_bytes: int
    last_s: float


@dataclass(frozen=True)
class Cost:
    """Where the time of all ranks has gone, in seconds times ranks; the parts add up to `total_s`.

    Attributes
    ----------
    total_s : float
        Ranks times the time since the start.
    busy_s : float
        In tasks.
    before_s, after_s : float
        Before a rank's first task and after its last one: the start, and the tail.
    writing_s : float
        Between tasks, while results may have been written: at most.
    between_s : float
        Between tasks otherwise: waiting for rank 0.
    unused_s : float
        Of ranks that have not called any.
    """

    total_s: float
    busy_s: float
    before_s: float
    writing_s: float
    between_s: float
    after_s: float
    unused_s: float


@dataclass(frozen=True)
class Figures:
    """What is shown of a run. Pictures over time are those of the last run that has called tasks.

    Attributes
    ----------
    status : Status
        The state of all runs together.
    description : Description
        Of the last run.
    start_s, span_s : float
        Unix time at the left edge of pictures, and their length in seconds, > 0.
    running : (N_BINS,) ndarray of float64
        How many tasks were running, on average over each bin of time.
    done, failed : (N_BINS,) ndarray of int64
        How many had ended at the end of each bin, in this run.
    ranks : list of Rank
        That have recorded something, by their numbers.
    timeline : Timeline
        Its ranks are positions in `ranks`.
    duration_edges : (n + 1,) ndarray of float64
        Of the bars of the histogram, in seconds.
    duration_counts : (n,) ndarray of int64
        Tasks that took so long and are done.
    slowest : list of Duration
        At most `N_SLOWEST`.
    late : list of Straggler
        Running now, for longer than five times the median.
    silent : list of Rank
        That have recorded nothing for long while others have, and are not known to be lost.
    cost : Cost
        Of this run.
    """

    status: Status
    description: Description
    start_s: float
    span_s: float
    running: Floats
    done: Ints
    failed: Ints
    ranks: list[Rank]
    timeline: Timeline
    duration_edges: Floats
    duration_counts: Ints
    slowest: list[Duration]
    late: list[Straggler]
    silent: list[Rank]
    cost: Cost


def figures_of(told: Told, folder: str, now_s: float) -> Figures:
    """Return all figures of a run whose folder has been read; `now_s` is Unix time. Independent."""
    status = status_of(told, folder, now_s)
    blocks = told.blocks
    ended = blocks[is_end(blocks) & _is_shown(blocks)]
    start_s = _start_s(told, ended)
    numbers, calls = _calls_of(ended, start_s, now_s, status.stragglers)
    end_s = now_s - start_s if told.is_running else 0.0
    span_s = max(float(calls.stop_s.max(initial=0.0)), end_s, 1e-3)
    ranks = _ranks_of(ended, numbers, calls, status.stragglers)
    busy_s = np.array([each.busy_s for each in ranks])
    everywhere = np.zeros(len(calls.rank), np.int64)
    edges, counts = _durations(blocks)
    synced = blocks[(blocks["kind"] == Block.SYNCED) & _is_shown(blocks)]
    writing = _writing_of(synced, numbers, start_s, np.array([each.last_s for each in ranks]))
    timeline = timeline_of(calls, writing, busy_s, span_s)
    n_ranks = max(told.description.n_ranks, len(ranks))
    return Figures(
        status=status,
        description=told.description,
        start_s=start_s,
        span_s=span_s,
        running=in_bins(calls.start_s, calls.stop_s, everywhere, 1, span_s)[0].clip(0),
        done=_ended(calls, calls.n_done, span_s),
        failed=_ended(calls, calls.n_failed, span_s),
        ranks=ranks,
        timeline=timeline,
        duration_edges=edges,
        duration_counts=counts,
        slowest=slowest_of(told, N_SLOWEST),
        late=[each for each in status.stragglers if _is_late(each)],
        silent=_silent(ranks, status, span_s),
        cost=_cost(calls, timeline, busy_s, n_ranks, span_s),
    )


def _is_shown(blocks: Records) -> Any:
    """Return which blocks are of the last run that has called tasks."""
    runs = blocks["run"][is_end(blocks) | (blocks["kind"] == Block.LONG)]
    return blocks["run"] == runs.max(initial=-1)


def _start_s(told: Told, ended: Records) -> float:
    first_s = float(ended["start_s"][ended["start_s"] > 0].min(initial=np.inf))
    described_s = told.description.start_s
    is_described = not len(ended) or ended["run"][0] == told.runs[-1]
    if is_described and described_s:
        return min(described_s, first_s)  # the clocks of nodes need not agree
    return 0.0 if first_s == np.inf else first_s


def _calls_of(
    ended: Records, start_s: float, now_s: float, running: list[Straggler]
) -> tuple[Ints, Calls]:
    """Return the numbers of the ranks that have called tasks, and their calls."""
    of_ranks = np.concatenate([ended["rank"], np.array([each.rank for each in running], "i4")])
    numbers = np.flatnonzero(np.bincount(of_ranks))
    none = np.zeros(len(running), np.int64)
    began_s = ended["start_s"] - start_s
    running_s = np.array([each.running_s for each in running])
    is_done = ended["kind"] == Block.DONE
    calls = Calls(
        np.searchsorted(numbers, of_ranks),
        np.concatenate([began_s, now_s - start_s - running_s]).clip(0),
        np.concatenate([began_s + ended["busy_s"], now_s - start_s + 0 * running_s]).clip(0),
        np.concatenate([np.where(is_done, ended["count"], 0), none]),
        np.concatenate([np.where(is_given_up(ended), ended["count"], 0), none]),
    )
    return numbers, calls


def _writing_of(synced: Records, numbers: Ints, start_s: float, last_s: Floats) -> Writing:
    """Return what sync points say; each reaches to the next one, or to the rank's last task."""
    synced = synced[(synced["busy_s"] > 0) & np.isin(synced["rank"], numbers)]
    rank = np.searchsorted(numbers, synced["rank"])
    order = np.lexsort((synced["start_s"], rank))
    synced, rank = synced[order], rank[order]
    began_s = synced["start_s"] - start_s
    is_last = np.append(rank[1:] != rank[:-1], True)[: len(rank)]
    stop_s = np.where(is_last, last_s[rank], np.roll(began_s, -1))
    stop_s = np.maximum(stop_s, began_s + synced["busy_s"])
    share = synced["busy_s"] / (stop_s - began_s)
    return Writing(rank, began_s.clip(0), stop_s.clip(0), share.clip(0, 1))


def _ended(calls: Calls, counts: Ints, span_s: float) -> Ints:
    ended: Ints = np.bincount(bins_of(calls.stop_s, span_s), counts, N_BINS).cumsum()
    return ended.astype(np.int64)


def _ranks_of(ended: Records, numbers: Ints, calls: Calls, running: list[Straggler]) -> list[Rank]:
    n = len(numbers)
    took_s = calls.stop_s - calls.start_s
    sums = [np.bincount(calls.rank, each, n) for each in (calls.n_done, calls.n_failed, took_s)]
    of_rank = calls.rank[: len(ended)]
    peaks, last_s = np.zeros(n, np.int64), np.zeros(n)
    np.maximum.at(peaks, of_rank, ended["peak_bytes"])
    np.maximum.at(last_s, calls.rank, calls.stop_s)
    host_of = {each.rank: each.host for each in running}
    ranks, firsts = np.unique(of_rank, return_index=True)
    hosts = [host.decode(errors="replace") for host in ended["host"][firsts].tolist()]
    host_of.update(zip(numbers[ranks].tolist(), hosts, strict=True))
    columns = (numbers.tolist(), *(each.tolist() for each in (*sums, peaks, last_s)))
    return [
        Rank(number, host_of.get(number, ""), int(done), int(failed), busy_s, peak, at_s)
        for number, done, failed, busy_s, peak, at_s in zip(*columns, strict=True)
    ]


def _durations(blocks: Records) -> tuple[Floats, Ints]:
    """Return the edges of bars, each as much longer than the last one, and the tasks in each."""
    is_done = blocks["kind"] == Block.DONE
    is_alone = is_done & (blocks["count"] == 1)
    # What was measured together has hidden its slow ones, which are named elsewhere.
    together = _matched(blocks[is_done & ~is_alone])
    is_named = (blocks["kind"] == Block.SLOW) & (blocks["count"] == 1)
    named = _matched(blocks[is_named]) if len(together) else together
    seconds, counts = durations_of(together, named)
    seconds = np.concatenate([seconds, blocks["busy_s"][is_alone]]).clip(SHORTEST_S)
    counts = np.concatenate([counts, np.ones(int(is_alone.sum()), np.int64)])
    if not counts.any():
        return np.array([SHORTEST_S, 1.0]), np.zeros(1, np.int64)
    logs = np.log10(seconds[counts > 0])
    low, high = float(logs.min()), float(logs.max())
    edges = np.linspace(low - 0.01, max(high, low) + 0.01, N_DURATIONS + 1)
    found, _ = np.histogram(logs, edges, weights=counts[counts > 0])
    return 10**edges, found.astype(np.int64)


def _matched(blocks: Records) -> Records:
    """Return a few columns: whole blocks would be copied and sorted."""
    narrow = np.empty(len(blocks), [(name, blocks.dtype[name]) for name in MATCHED])
    for name in MATCHED:
        narrow[name] = blocks[name]
    return narrow


def _is_late(each: Straggler) -> bool:
    return each.n_medians is None or each.n_medians > LATE_MEDIANS


def _silent(ranks: list[Rank], status: Status, span_s: float) -> list[Rank]:
    if not status.n_open:
        return []
    longest_s = max((each.busy_s for each in status.slowest), default=0.0)
    named = {each.rank for each in status.stragglers} | {each.rank for each in status.lost}
    latest_s = span_s - max(SILENT_S, LATE_MEDIANS * longest_s)
    return [each for each in ranks if each.last_s < latest_s and each.number not in named]


def _cost(calls: Calls, timeline: Timeline, busy_s: Floats, n_ranks: int, span_s: float) -> Cost:
    n = len(busy_s)
    first_s, last_s = np.full(n, span_s), np.zeros(n)
    np.minimum.at(first_s, calls.rank, calls.start_s)
    np.maximum.at(last_s, calls.rank, calls.stop_s)
    total_busy_s = float(busy_s.sum())
    idle_s = max(0.0, float((last_s - first_s).sum()) - total_busy_s)
    writing_s = float((timeline.writing * timeline.sizes).sum()) * span_s / N_BINS
    writing_s = min(writing_s, idle_s)
    return Cost(
        n_ranks * span_s,
        total_busy_s,
        float(first_s.sum()),
        writing_s,
        idle_s - writing_s,
        float((span_s - last_s).sum()),
        (n_ranks - n) * span_s,
    )
