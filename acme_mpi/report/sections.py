"""What a page shows of the runs of one function, in order of use."""

from __future__ import annotations

import time
from collections.abc import Iterable, Sequence

from acme_mpi.history.groups import FailureGroup
from acme_mpi.history.status import RUNNING, Duration, LostRank, Status, Straggler
from acme_mpi.linux.memory import size_text
from acme_mpi.report.charts import Layer, histogram, memory_bars, over_time, raster, shares
from acme_mpi.report.figures import Figures, Rank
from acme_mpi.report.markup import escaped, tag
from acme_mpi.report.words import (
    duration_text,
    lost_text,
    number_text,
    rate_text,
    tasks_text,
    where_text,
)

# What is shown of what may be of any length, so that a page has at most 2 MB.
MOST_GROUPS, MOST_LISTED, MOST_CHARACTERS, MOST_TRACEBACK = 20, 20, 1000, 8000
N_HOSTS = 8


def body_of(figures: Figures) -> str:
    """Return what a page shows of the runs of one function, in order of use."""
    parts = (
        _head(figures),
        _over_time(figures),
        _ranks(figures),
        _durations(figures),
        _failures(figures.status),
        _memory(figures),
        _late(figures.late),
        _lost(figures.status.lost),
        _silent(figures.silent),
        _cost(figures),
    )
    return tag("article", "".join(parts), id=f"run-{figures.status.name}")


def _section(title: str, *parts: str) -> str:
    return tag("section", tag("h2", escaped(title)) + "".join(parts))


def _figure(chart: str, caption: str) -> str:
    return tag("figure", chart + tag("figcaption", escaped(caption)))


def _note(text: str) -> str:
    return tag("p", escaped(text), **{"class": "note"})


def _table(heads: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    lines = [tag("tr", "".join(tag("th", escaped(head)) for head in heads))]
    lines += [tag("tr", "".join(tag("td", escaped(cell)) for cell in row)) for row in rows]
    return tag("table", "".join(lines))


def _cut(text: str, n: int = MOST_CHARACTERS) -> str:
    return text if len(text) <= n else f"{text[: n // 2]}\n[...]\n{text[-n // 2 :]}"


def _head(figures: Figures) -> str:
    status = figures.status
    state = tag("span", escaped(status.state), **{"class": f"state {status.state}"})
    counts = f"{status.n_done} of {status.n_tasks} tasks done"
    counts += f", {status.n_failed} failed" if status.n_failed else ""
    counts += f", {status.n_open} left" if status.n_open else ""
    parts = (
        ("done", "done", status.n_done),
        ("failed", "failed", status.n_failed),
        ("open", "left", status.n_open),
    )
    facts = "".join(
        tag("dt", escaped(name)) + tag("dd", escaped(_cut(text)))
        for name, text in _facts(figures)
        if text
    )
    warnings = "".join(tag("p", escaped(each), **{"class": "warn"}) for each in status.damages)
    head = tag("h1", escaped(status.name) + state) + tag("p", counts, **{"class": "counts"})
    return tag("header", head + shares(parts) + tag("dl", facts) + warnings)


def _facts(figures: Figures) -> Iterable[tuple[str, str]]:
    status = figures.status
    is_running = status.state == RUNNING
    yield "command", figures.description.command
    yield "job", figures.description.job
    yield "directory", status.directory
    yield "ranks", _ranks_text(figures)
    yield ("held by" if is_running else "left by"), status.holder
    if status.started_s:
        yield "started", time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(status.started_s))
    took = duration_text(status.elapsed_s) if status.elapsed_s else ""
    yield ("running for" if is_running else "took"), took
    yield "rate", rate_text(status.tasks_per_s) if status.tasks_per_s else ""
    yield "time left", f"about {duration_text(status.eta_s)}" if status.eta_s else ""
    yield "results", size_text(status.results_bytes) if status.results_bytes else ""
    if status.n_runs > 1:
        yield "runs", f"{status.n_runs} on these results; charts over time show the last one"
    yield "resume with", "" if is_running else status.command


def _ranks_text(figures: Figures) -> str:
    n_ranks = figures.status.n_ranks
    hosts = sorted({each.host for each in figures.ranks if each.host})
    text = "1 rank" if n_ranks == 1 else f"{n_ranks} ranks"
    if not hosts:
        return text
    shown = ", ".join(hosts[:N_HOSTS]) + (", ..." if len(hosts) > N_HOSTS else "")
    return f"{text} on {len(hosts)} host{'s' if len(hosts) > 1 else ''}: {shown}"


def _over_time(figures: Figures) -> str:
    if not figures.ranks:
        return _section("Over time", _note("No task has ended yet."))
    span_s = figures.span_s
    running = over_time([Layer("running", figures.running)], span_s)
    layers = [Layer("done", figures.done + figures.failed)]
    if figures.failed[-1]:
        layers = [Layer("done or failed", layers[0].values), Layer("failed", figures.failed)]
    seen = "; a task is seen when it has ended" if figures.status.state == RUNNING else ""
    return _section(
        "Over time",
        _figure(running, f"Tasks running{seen}"),
        _figure(over_time(layers, span_s), "Tasks that have ended"),
    )


def _ranks(figures: Figures) -> str:
    if not figures.ranks:
        return ""
    labels = [_row_text(figures, ranks.tolist()) for ranks in figures.timeline.rows]
    chart = raster(figures.timeline, labels, figures.span_s)
    caption = "Blue: in tasks, the paler the less. Red: a task has failed."
    if (figures.timeline.writing > 0.5).any():
        caption += " Violet: writing results, and in no task."
    if len(labels) < len(figures.ranks):
        caption += f" Of {len(figures.ranks)} ranks the idlest are on top, others share rows."
    return _section("Ranks", _figure(chart, caption))


def _row_text(figures: Figures, ranks: Sequence[int]) -> str:
    found = [figures.ranks[rank] for rank in ranks]
    busy = 100 * sum(each.busy_s for each in found) / (len(found) * figures.span_s)
    n_tasks = sum(each.n_done + each.n_failed for each in found)
    host = f"{found[0].host}, " if found[0].host else ""
    name = f"rank {found[0].number} ({host}" if len(found) == 1 else f"{len(found)} ranks ("
    return f"{name}{n_tasks} tasks, busy {busy:.0f} %)"


def _durations(figures: Figures) -> str:
    if not figures.duration_counts.any():
        return ""
    median_s = figures.status.median_s
    text = f"Median {duration_text(median_s)}. " if median_s else ""
    chart = histogram(figures.duration_edges, figures.duration_counts)
    caption = f"{text}Short tasks that were measured together count with their mean."
    rows = [_slow_row(each, figures.description.debug) for each in figures.slowest]
    heads = ("slowest", "time", "where", "call")
    return _section("Durations", _figure(chart, caption), _table(heads, rows))


def _slow_row(each: Duration, debug: str) -> Sequence[str]:
    again = each.call or (debug.format(index=each.first) if debug else "")
    where = where_text(each.host, each.rank)
    return tasks_text(each.first, each.stop), duration_text(each.busy_s), where, _cut(again)


def _failures(status: Status) -> str:
    if not status.failures:
        return ""
    groups = status.failures[:MOST_GROUPS]
    shown = [_failure(f"{status.name}-{k}", each) for k, each in enumerate(groups)]
    n_more = status.n_groups - len(shown)
    more = _note(f"... and {n_more} more kinds; `failed` lists all tasks") if n_more else ""
    return _section("Failures", *shown, more)


def _failure(name: str, group: FailureGroup) -> str:
    at = f" at {group.location}" if group.location else ""
    said = tag("summary", escaped(_cut(f"{group.n_tasks} x {group.type}{at}: {group.message}")))
    ids = ", ".join(map(str, group.first_indices))
    more = ", ..." if group.n_tasks > len(group.first_indices) else ""
    parts = tag("p", f"tasks {ids}{more}")
    if group.reproduce:
        parts += tag("p", "reproduce: " + tag("code", escaped(_cut(group.reproduce))))
    if group.traceback:
        parts += tag("pre", escaped(_cut(group.traceback, MOST_TRACEBACK)))
    return tag("details", said + parts, id=f"failure-{name}")


def _memory(figures: Figures) -> str:
    peaks, labels = [], []
    for ranks in figures.timeline.rows:
        found = max((figures.ranks[rank] for rank in ranks), key=lambda each: each.peak_bytes)
        peaks.append(found.peak_bytes)
        labels.append(where_text(found.host, found.number))
    if not any(peaks):
        return ""
    chart = memory_bars(peaks, labels, figures.description.memory_bytes)
    return _section("Memory", _figure(chart, "The most that the process of each rank has used"))


def _late(late: Sequence[Straggler]) -> str:
    if not late:
        return ""
    rows = [
        (
            f"task {each.index}",
            duration_text(each.running_s),
            f"{number_text(each.n_medians)} x the median" if each.n_medians else "",
            where_text(each.host, each.rank),
        )
        for each in late[:MOST_LISTED]
    ]
    return _section("Running for long", _table(("task", "until now", "", "where"), rows))


def _lost(lost: Sequence[LostRank]) -> str:
    if not lost:
        return ""
    note = _note(
        "The first one has died, or was silent for too long; all others were ended for it."
    )
    lines = "".join(tag("li", escaped(lost_text(each))) for each in lost[:MOST_LISTED])
    return _section("Ranks that are lost", note, tag("ul", lines))


def _silent(silent: Sequence[Rank]) -> str:
    if not silent:
        return ""
    rows = [
        (where_text(each.host, each.number), duration_text(each.last_s))
        for each in silent[:MOST_LISTED]
    ]
    n_more = len(silent) - len(rows)
    more = _note(f"... and {n_more} more") if n_more else ""
    note = _note("They have recorded nothing for long while others have: idle, or stuck.")
    heads = ("rank", "last told of anything after")
    return _section("Ranks that are silent", note, _table(heads, rows), more)


def _cost(figures: Figures) -> str:
    cost = figures.cost
    if not figures.ranks:
        return ""
    parts = (
        ("done", "in tasks", cost.busy_s),
        ("open", "before the first task", cost.before_s),
        ("disk", "between tasks, writing results", cost.writing_s),
        ("wait", "between tasks, waiting for rank 0", cost.between_s),
        ("tail", "after the last task", cost.after_s),
        ("failed", "ranks that called no task", cost.unused_s),
    )
    idle = max(0.0, 1 - cost.busy_s / cost.total_s)
    text = f"{number_text(cost.total_s / 3600)} core-hours (ranks x time), {100 * idle:.1f} % idle"
    legend = "".join(
        tag("span", "", **{"class": f"swatch {kind}"})
        + escaped(f"{name} {100 * value / cost.total_s:.1f} %")
        for kind, name, value in parts
        if value
    )
    return _section("Cost", tag("p", escaped(text)), shares(parts), tag("p", legend))
