"""How a run stands, in figures for people and for programs, by what its journals tell.

`status_text` puts it into words, `joblog` lists every call.
"""

from __future__ import annotations

import os
import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from typing import Any, NamedTuple

import numpy as np

from acme_mpi.history.description import how_to_resume
from acme_mpi.history.groups import FailureGroup, groups_of
from acme_mpi.history.journal import Block, texts_in
from acme_mpi.history.parsing import Damaged
from acme_mpi.history.records import Records, speak_of
from acme_mpi.history.told import Told, is_end, is_given_up, read_told

RUNNING, FINISHED, STOPPED = "running", "finished", "stopped"
N_SLOWEST = 5
N_DAMAGES = 4
N_LOST = 20


@dataclass(frozen=True)
class Duration:
    """How long tasks took.

    Attributes
    ----------
    first, stop : int
        Half-open range: a task, or a few that were measured together.
    busy_s : float
        Of all of them, in seconds.
    host, rank : str, int
        Where.
    call : str
        The call as text, of tasks that took 0.1 s and more; empty if it is not known.
    """

    first: int
    stop: int
    busy_s: float
    host: str
    rank: int
    call: str = ""


@dataclass(frozen=True)
class Peak:
    """The most memory that a process which called tasks has used.

    Attributes
    ----------
    peak_bytes : int
        Resident memory.
    first, stop : int
        Half-open range of the tasks that were called meanwhile.
    host, rank : str, int
        Where.
    """

    peak_bytes: int
    first: int
    stop: int
    host: str
    rank: int


@dataclass(frozen=True)
class Straggler:
    """A task that has been running for long.

    Attributes
    ----------
    index : int
        The task.
    running_s : float
        Until now, in seconds.
    n_medians : float or None
        The same in medians of the durations of tasks that are done; None as long as none is.
    host, rank : str, int
        Where.
    """

    index: int
    running_s: float
    n_medians: float | None
    host: str
    rank: int


@dataclass(frozen=True)
class LostRank:
    """A rank of the last run that has died, or was silent for too long.

    Attributes
    ----------
    rank, host : int, str
        Which one, and where.
    lost_s : float
        Unix time when another rank has seen it.
    heard_s : float or None
        Unix time of the last thing that it has recorded; None if there is none.
    """

    rank: int
    host: str
    lost_s: float
    heard_s: float | None


@dataclass(frozen=True)
class Status:
    """The state of a run; plain values, which are also the keys of the JSON form.

    Attributes
    ----------
    name : str
        The function's name.
    directory : str
        Output directory.
    kind : str
        Kind of store.
    state : str
        ``"running"``; ``"finished"``: no task is open; ``"stopped"``: ended, or killed, before.
    reached_end : bool
        A run has come to its regular end here; False after one that was killed while it made
        the container of all results.
    holder : str
        Who works on it, or was killed while it did; empty if it has ended properly.
    n_tasks, n_done, n_failed, n_open : int
        Size of the run; tasks with results, given up, and neither.
    n_ranks : int
        Of the last run.
    n_runs : int
        How many there were, on the same results.
    started_s : float or None
        Unix time of the start of the last run; None if unknown.
    elapsed_s : float
        Since then: until now if it is running, else until the last thing that is recorded.
    tasks_per_s : float or None
        Tasks that ended in the last run, over `elapsed_s`; None before the first.
    eta_s : float or None
        Seconds until the open tasks are done at this rate; None if unknown or not running.
    busy_s : float
        Spent in calls, by all runs together, whatever came of them.
    median_s : float or None
        Duration of a task that is done; means stand for tasks that were measured together.
    results_bytes : int
        Size of the results.
    peak : Peak or None
        The largest use of memory; None if unknown.
    slowest : list of Duration
        At most five, the slowest first.
    stragglers : list of Straggler
        What has been running for long and still is, the longest first.
    lost : list of LostRank
        At most 20, as far as other ranks have seen it before they were ended. For the first one
        the job has ended; others may have been ended with it.
    n_groups : int
        How many kinds of failures there are.
    failures : list of FailureGroup
        The tasks that were given up, at most 100 groups, the largest first.
    command : str
        What resumes the run, or calls the failed tasks again if no other is left; empty if
        there is nothing to do, or no command line has started it.
    damages : list of str
        What is damaged of the records, and was not used; at most five.
    """

    name: str
    directory: str
    kind: str
    state: str
    reached_end: bool
    holder: str
    n_tasks: int
    n_done: int
    n_failed: int
    n_open: int
    n_ranks: int
    n_runs: int
    started_s: float | None
    elapsed_s: float
    tasks_per_s: float | None
    eta_s: float | None
    busy_s: float
    median_s: float | None
    results_bytes: int
    peak: Peak | None
    slowest: list[Duration]
    stragglers: list[Straggler]
    lost: list[LostRank]
    n_groups: int
    failures: list[FailureGroup]
    command: str
    damages: list[str]


def read_status(folder: str, now_s: float | None = None) -> Status:
    """Return what is known of the progress of a run. Independent, any process.

    Parameters
    ----------
    folder : str
        Its dot folder, ``DIR/.acme_mpi/NAME``.
    now_s : float, optional
        Unix time, default the present one.

    Raises
    ------
    InputError
        Nothing is there, or it cannot be read.
    """
    return status_of(read_told(folder), folder, time.time() if now_s is None else now_s)


def status_of(told: Told, folder: str, now_s: float) -> Status:
    """Return what is known of the progress of a run whose folder has been read."""
    description, history, blocks = told.description, told.history, told.blocks
    groups = groups_of(told)
    n_done, n_failed = history.n_done(description.n_tasks), groups.n_failed
    n_open = description.n_tasks - n_done - n_failed
    speed = _speed(told, now_s)
    median_s = _median_s(blocks)
    reached_end = told.reached_end
    return Status(
        name=description.name,
        directory=os.path.dirname(os.path.dirname(os.path.abspath(folder))),
        kind=description.kind,
        state=RUNNING if told.is_running else STOPPED if n_open else FINISHED,
        reached_end=reached_end,
        holder=str(told.holder) if told.holder else "",
        n_tasks=description.n_tasks,
        n_done=n_done,
        n_failed=n_failed,
        n_open=n_open,
        n_ranks=description.n_ranks,
        n_runs=len(told.runs),
        started_s=speed.started_s,
        elapsed_s=speed.elapsed_s,
        tasks_per_s=speed.tasks_per_s,
        eta_s=n_open / speed.tasks_per_s if speed.tasks_per_s and told.is_running else None,
        busy_s=float(blocks["busy_s"][is_end(blocks)].sum()),
        median_s=median_s,
        results_bytes=int(history.done["n_bytes"].clip(0).sum()),
        peak=_peak(blocks),
        slowest=slowest_of(told),
        stragglers=_stragglers(told, median_s, now_s) if told.is_running else [],
        lost=_lost(told),
        n_groups=groups.n_groups,
        failures=groups.largest,
        command=_resume_command(description.command, n_open, n_failed, reached_end),
        damages=damages_text(history.damages),
    )


def damages_text(damages: Sequence[Damaged]) -> list[str]:
    """Return what is damaged, a sentence each; of many the first few."""
    shown = [str(each) for each in damages[:N_DAMAGES]]
    n_more = len(damages) - len(shown)
    return [*shown, f"damaged: {n_more} more"] if n_more else shown


class _Speed(NamedTuple):
    """How fast the last run is, or was; see `Status`."""

    started_s: float | None
    elapsed_s: float
    tasks_per_s: float | None


def _speed(told: Told, now_s: float) -> _Speed:
    blocks, is_last = told.blocks, told.is_last
    starts_s = blocks["start_s"][is_last & (blocks["start_s"] > 0)]
    started_s = told.description.start_s or float(starts_s.min(initial=np.inf))
    if started_s == np.inf:
        return _Speed(None, 0.0, None)
    ends_s = (blocks["start_s"] + blocks["busy_s"])[is_last]
    until_s = now_s if told.is_running else ends_s.max(initial=0.0)
    elapsed_s = max(0.0, float(until_s) - started_s)  # the clocks of nodes need not agree
    has_ended = (blocks["kind"] == Block.DONE) | is_given_up(blocks)
    n_ended = int(blocks["count"][is_last & has_ended].sum())
    return _Speed(started_s, elapsed_s, n_ended / elapsed_s if n_ended and elapsed_s else None)


def _resume_command(command: str, n_open: int, n_failed: int, reached_end: bool) -> str:
    if n_open or not reached_end:
        return command
    return how_to_resume(command, "", only_failed=True) if command and n_failed else ""


def _median_s(blocks: Records) -> float | None:
    is_done = blocks["kind"] == Block.DONE
    if not is_done.any():
        return None
    counts = blocks["count"][is_done]
    means_s = blocks["busy_s"][is_done] / counts
    order = np.argsort(means_s)
    n_below = np.cumsum(counts[order])
    return float(means_s[order[np.searchsorted(n_below, n_below[-1] / 2)]])


def _host(block: np.void) -> str:
    return str(block["host"].decode(errors="replace"))


def _tasks(block: np.void) -> tuple[int, int]:
    return int(block["first"]), int(block["first"] + block["count"])


def _peak(blocks: Records) -> Peak | None:
    peaks = np.where(is_end(blocks), blocks["peak_bytes"], 0)
    if not peaks.any():
        return None
    block = blocks[np.argmax(peaks)]
    return Peak(int(block["peak_bytes"]), *_tasks(block), _host(block), int(block["rank"]))


def slowest_of(told: Told, n: int = N_SLOWEST) -> list[Duration]:
    """Return the tasks that took longest, at most `n`, the slowest first."""
    blocks = told.blocks
    is_slow = blocks["kind"] == Block.SLOW
    # A run's SLOW blocks name all that took long. Beside them, its other records would only
    # mislead: they share the time of their chunk, also with tasks that have failed.
    has_named = np.isin(blocks["run"], np.unique(blocks["run"][is_slow]))
    is_single = (blocks["kind"] == Block.DONE) & (blocks["count"] == 1)
    found = np.flatnonzero(is_slow | is_single & ~has_named)
    busy_s = blocks["busy_s"][found]
    if len(found) > n:  # all of those that are as slow as the last one, and no others, are sorted
        found = found[busy_s >= np.partition(busy_s, -n)[-n]]
    slowest = blocks[found[np.argsort(-blocks["busy_s"][found], kind="stable")[:n]]]
    return [
        Duration(
            *_tasks(block),
            float(block["busy_s"]),
            _host(block),
            int(block["rank"]),
            _call(told, block),
        )
        for block in slowest
    ]


def _lost(told: Told) -> list[LostRank]:
    last = told.blocks[told.is_last & (told.blocks["kind"] == Block.DEATH)]
    last = last[np.argsort(last["start_s"], kind="stable")]
    _, first = np.unique(last["payload"], return_index=True)
    return [
        LostRank(
            rank := int(block["payload"]),
            _host(block),
            float(block["start_s"]),
            _heard_s(told, rank),
        )
        for block in last[np.sort(first)[:N_LOST]]
    ]


def _heard_s(told: Told, rank: int) -> float | None:
    blocks = told.blocks
    own = blocks[told.is_last & (blocks["rank"] == rank) & (blocks["start_s"] > 0)]
    return float((own["start_s"] + own["busy_s"]).max()) if len(own) else None


def _call(told: Told, block: np.void) -> str:
    if block["kind"] != Block.SLOW:
        return ""
    _, piece = told.piece_of(block)
    return next((text for _, text in texts_in(piece.blocks, Block.SLOW)), "")


def _stragglers(told: Told, median_s: float | None, now_s: float) -> list[Straggler]:
    if not (told.is_last & (told.blocks["kind"] == Block.LONG)).any():
        return []
    last = told.blocks[told.is_last]
    given_up = set(last["first"][is_given_up(last)].tolist())
    found: dict[int, np.void] = {}
    for block in _running(last):
        index = int(block["first"])
        if index not in found or found[index]["start_s"] < block["start_s"]:
            found[index] = block
    # Another rank may have called one after the one that noted it has retired.
    is_done = speak_of(told.history.done, np.array([*found], np.int64))
    stragglers = [
        _straggler(block, median_s, now_s)
        for (index, block), has_result in zip(found.items(), is_done.tolist(), strict=True)
        if index not in given_up and not has_result
    ]
    return sorted(stragglers, key=lambda each: -each.running_s)


def _straggler(block: np.void, median_s: float | None, now_s: float) -> Straggler:
    running_s = max(0.0, now_s - float(block["start_s"]))
    n_medians = running_s / median_s if median_s else None
    return Straggler(int(block["first"]), running_s, n_medians, _host(block), int(block["rank"]))


def _running(last: Records) -> Iterator[np.void]:
    """Yield the LONG block of each rank whose task has not ended by what the rank itself says."""
    for own in np.split(last, np.flatnonzero(np.diff(last["rank"])) + 1):
        # A rank runs one task at a time, so only the last one can be running.
        noted = np.flatnonzero(own["kind"] == Block.LONG)
        if len(noted) and not _has_ended(own[noted[-1]], own[noted[-1] + 1 :]):
            yield own[noted[-1]]


def _has_ended(noted: np.void, later: Records) -> bool:
    # A slow task may be known to have ended before its result is durable.
    ends = later[is_end(later) | (later["kind"] == Block.SLOW)]
    distance = noted["first"] - ends["first"]
    return bool(((distance >= 0) & (distance < ends["count"])).any())


def status_json(status: Status) -> dict[str, Any]:
    """Return a status as plain values; the keys are the attributes of `Status` and its parts."""
    return asdict(status)
