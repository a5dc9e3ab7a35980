"""A run in a terminal, drawn anew while it goes on; over ssh, without a port."""

from __future__ import annotations

import time
from collections.abc import Iterable
from typing import TYPE_CHECKING

import numpy as np

from acme_mpi.errors import InputError
from acme_mpi.history.status import RUNNING, STOPPED
from acme_mpi.linux.memory import size_text
from acme_mpi.report.figures import Figures
from acme_mpi.report.looking import View, Watch
from acme_mpi.report.timeline import Floats
from acme_mpi.report.words import duration_text, lost_text, number_text, rate_text, where_text
from acme_mpi.visible import visible

if TYPE_CHECKING:
    from rich.console import RenderableType

GLANCE_S = 0.5
BLOCKS = " ▁▂▃▄▅▆▇█"
N_LISTED = 5  # failures, late tasks and silent ranks
LEAST_RANKS, N_OTHER_LINES = 4, 16
MESSAGE_WIDTH = 200


def show(watch: Watch) -> None:
    """Show runs until none goes on any more.

    Raises
    ------
    InputError
        The package that draws is not installed.
    """
    try:
        from rich.live import Live
    except ImportError:
        raise InputError(
            "`watch` draws by the package rich, which is not installed: pip install "
            "'acme-mpi[watch]'; or give --serve for a browser, which needs nothing"
        ) from None
    view = watch.view()
    with Live(drawn(view), auto_refresh=False, vertical_overflow="crop") as live:
        while not view.is_over:
            time.sleep(GLANCE_S)
            view = watch.view()
            n_ranks = max(LEAST_RANKS, live.console.height - N_OTHER_LINES)
            live.update(drawn(view, n_ranks), refresh=True)


def drawn(view: View, n_ranks: int = LEAST_RANKS) -> RenderableType:
    """Return a picture of all runs of a view.

    Parameters
    ----------
    view : View
        What there is to see.
    n_ranks : int
        That are listed; of more the idlest.
    """
    from rich.console import Group
    from rich.text import Text

    parts: list[RenderableType] = [_drawn(each, n_ranks) for each in view.runs]
    if view.error:
        parts.append(Text(visible(view.error), "red"))
    return Group(*parts)


def _drawn(figures: Figures, n_ranks: int) -> RenderableType:
    from rich.console import Group
    from rich.padding import Padding
    from rich.panel import Panel
    from rich.progress_bar import ProgressBar
    from rich.text import Text

    status = figures.status
    colour = {RUNNING: "blue", STOPPED: "red"}.get(status.state, "green")
    bar = Padding(ProgressBar(max(status.n_tasks, 1), status.n_done, complete_style=colour))
    lines = [_line(text) for text in _texts(figures)]
    parts = [bar, *lines, _ranks(figures, n_ranks), *map(_line, _troubles(figures))]
    title = Text(visible(f"{status.name}: {status.state}", kept=""), colour)
    return Panel(Group(*parts), title=title, border_style="dim")


def _line(text: str) -> RenderableType:
    from rich.text import Text

    return Text(visible(text, kept=""), no_wrap=True, overflow="ellipsis")


def _texts(figures: Figures) -> Iterable[str]:
    status, cost = figures.status, figures.cost
    failed = f", {status.n_failed} failed" if status.n_failed else ""
    yield f"{status.n_done} of {status.n_tasks} tasks done{failed}, {status.n_open} left"
    parts = [duration_text(status.elapsed_s)]
    parts += [rate_text(status.tasks_per_s)] if status.tasks_per_s else []
    parts += [f"about {duration_text(status.eta_s)} left"] if status.eta_s else []
    parts += [f"median {duration_text(status.median_s)}"] if status.median_s else []
    yield ", ".join(parts)
    idle = 100 * max(0.0, 1 - cost.busy_s / cost.total_s)
    writing = f" ({100 * cost.writing_s / cost.total_s:.1f} % writing)" if cost.writing_s else ""
    yield f"{number_text(cost.total_s / 3600)} core-hours, {idle:.1f} % idle{writing}"


def _ranks(figures: Figures, n_ranks: int) -> RenderableType:
    from rich.table import Table
    from rich.text import Text

    table = Table(box=None, pad_edge=False, header_style="dim")
    for name in ("rank", "host", "done", "failed", "busy", "memory", "over time"):
        table.add_column(name, no_wrap=True, justify="left" if name in _WORDS else "right")
    shown = figures.timeline.rows[:n_ranks] if len(figures.ranks) <= n_ranks else _idlest(figures)
    for ranks in shown[:n_ranks]:
        at = int(ranks[0])
        each = figures.ranks[at]
        table.add_row(
            str(each.number),
            Text(visible(each.host, kept="")),
            str(each.n_done),
            str(each.n_failed or ""),
            f"{100 * each.busy_s / figures.span_s:.0f} %",
            size_text(each.peak_bytes) if each.peak_bytes else "",
            _spark(_over_time(figures, at)),
        )
    return table


_WORDS = ("host", "over time")


def _idlest(figures: Figures) -> list[np.ndarray]:
    order = sorted(range(len(figures.ranks)), key=lambda at: figures.ranks[at].busy_s)
    return [np.array([at]) for at in order]


def _over_time(figures: Figures, at: int) -> Floats:
    for ranks, busy in zip(figures.timeline.rows, figures.timeline.busy, strict=True):
        if at in ranks:
            found: Floats = busy
            return found
    return np.zeros(0)


def _spark(values: Floats, width: int = 40) -> str:
    """Return shares of time as blocks of different heights."""
    if not len(values):
        return ""
    means = values.reshape(width, -1).mean(1)
    return "".join(BLOCKS[round(mean * (len(BLOCKS) - 1))] for mean in means.tolist())


def _troubles(figures: Figures) -> Iterable[str]:
    for group in figures.status.failures[:N_LISTED]:
        at = f" at {group.location}" if group.location else ""
        message = group.message[:MESSAGE_WIDTH]
        yield f"{group.n_tasks} x {group.type}{at}: {message} (task {group.first_indices[0]})"
    for each in figures.late[:N_LISTED]:
        where = where_text(each.host, each.rank)
        yield f"task {each.index} has been running for {duration_text(each.running_s)} ({where})"
    for gone in figures.status.lost[:N_LISTED]:
        yield f"lost: {lost_text(gone)}"
    for rank in figures.silent[:N_LISTED]:
        where = where_text(rank.host, rank.number)
        yield f"{where} has recorded nothing since {duration_text(rank.last_s)} after the start"
