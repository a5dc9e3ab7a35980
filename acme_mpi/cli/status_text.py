"""A run's status in words."""

from __future__ import annotations

import time
from textwrap import shorten

from acme_mpi.history.description import how_to_resume
from acme_mpi.history.groups import FailureGroup
from acme_mpi.history.status import (
    FINISHED,
    N_SLOWEST,
    RUNNING,
    Duration,
    Status,
    Straggler,
)
from acme_mpi.linux.memory import size_text
from acme_mpi.report.words import (
    duration_text,
    lost_text,
    number_text,
    rate_text,
    tasks_text,
    where_text,
)
from acme_mpi.visible import visible

N_SHOWN = 4  # groups of failures, or tasks that are still running
MESSAGE_WIDTH = 100


def status_text(status: Status) -> str:
    """Return a status for a person: at most 25 lines, and the traceback of the first failure."""
    lines = [f"{status.name}: {_counts_text(status)}", f"  {_place_text(status)}"]
    if time_text := _time_text(status):
        lines.append(f"  {time_text}")
    if costs := _costs_text(status):
        lines.append(f"  {costs}")
    lines += [f"  {each}" for each in status.damages]
    lines += _listed("slowest", [_slow_text(each) for each in status.slowest], N_SLOWEST)
    lines += _listed("still running", [_straggler_text(each) for each in status.stragglers])
    lines += _listed("lost", [lost_text(each) for each in status.lost])
    texts = [_failure_text(each) for each in status.failures]
    lines += _listed("failed", texts, n_there=status.n_groups)
    if status.failures and status.failures[0].reproduce:
        lines.append(f"  reproduce the first: {status.failures[0].reproduce}")
    if status.failures and status.failures[0].traceback:
        lines.append(f"  traceback of task {status.failures[0].first_indices[0]}:")
        lines += [f"    {line}" for line in status.failures[0].traceback.splitlines()]
    if status.state != RUNNING and (way := status.command or _way(status)):
        lines.append(f"  resume with: {way}")
    return "\n".join(visible(line, kept="\t") for line in lines)


def _counts_text(status: Status) -> str:
    # Rounded down: all is done only when it is.
    percent = 1000 * status.n_done // status.n_tasks / 10 if status.n_tasks else 100.0
    parts = [status.state, f"{status.n_done} of {status.n_tasks} tasks done ({percent:g} %)"]
    parts += [f"{status.n_failed} failed"] if status.n_failed else []
    parts += [f"{status.n_open} open"] if status.n_open else []
    if status.state == FINISHED and not status.reached_end:
        parts.append("but the run did not come to its regular end")
    return ", ".join(parts)


def _way(status: Status) -> str:
    """Return how a script resumes its run: it has no command line that could be named."""
    only_failed = not status.n_open and status.reached_end
    if only_failed and not status.n_failed:
        return ""
    return how_to_resume("", status.directory, only_failed)


def _place_text(status: Status) -> str:
    ranks = "1 rank" if status.n_ranks == 1 else f"{status.n_ranks} ranks"
    parts = [f"in {status.directory}", ranks]
    parts += [f"run {status.n_runs} on these results"] if status.n_runs > 1 else []
    if status.holder:
        parts.append(status.holder if status.state == RUNNING else f"left by {status.holder}")
    return ", ".join(parts)


def _time_text(status: Status) -> str:
    if status.started_s is None:
        return ""
    started = time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(status.started_s))
    parts = [f"started {started}"]
    if status.elapsed_s:
        verb = "running for" if status.state == RUNNING else "took"
        parts.append(f"{verb} {duration_text(status.elapsed_s)}")
    parts += [rate_text(status.tasks_per_s)] if status.tasks_per_s else []
    parts += [f"about {duration_text(status.eta_s)} left"] if status.eta_s else []
    return ", ".join(parts)


def _costs_text(status: Status) -> str:
    parts = []
    if status.busy_s:
        median = f" (median {duration_text(status.median_s)})" if status.median_s else ""
        parts.append(f"{duration_text(status.busy_s)} in tasks{median}")
    if status.results_bytes:
        parts.append(f"{size_text(status.results_bytes)} of results")
    if peak := status.peak:
        where = f"{tasks_text(peak.first, peak.stop)}, {where_text(peak.host, peak.rank)}"
        parts.append(f"at most {size_text(peak.peak_bytes)} of memory ({where})")
    return ", ".join(parts)


def _listed(
    title: str, texts: list[str], n_shown: int = N_SHOWN, n_there: int | None = None
) -> list[str]:
    n_more = (len(texts) if n_there is None else n_there) - n_shown
    lines = [f"    {text}" for text in texts[:n_shown]]
    lines += [f"    ... and {n_more} more"] if n_more > 0 else []
    return [f"  {title}:", *lines] if lines else []


def _slow_text(slow: Duration) -> str:
    tasks, where = tasks_text(slow.first, slow.stop), where_text(slow.host, slow.rank)
    return f"{tasks}: {duration_text(slow.busy_s)} ({where})"


def _straggler_text(each: Straggler) -> str:
    ratio = f", {number_text(each.n_medians)} x the median" if each.n_medians else ""
    where = where_text(each.host, each.rank)
    return f"task {each.index}: {duration_text(each.running_s)}{ratio} ({where})"


def _failure_text(group: FailureGroup) -> str:
    at = f" at {group.location}" if group.location else ""
    ids = ", ".join(map(str, group.first_indices))
    more = ", ..." if group.n_tasks > len(group.first_indices) else ""
    # On one line, whatever an exception's text holds.
    message = shorten(visible(group.message), MESSAGE_WIDTH, placeholder=" ...")
    return f"{group.n_tasks} x {group.type}{at}: {message} (tasks {ids}{more})"
