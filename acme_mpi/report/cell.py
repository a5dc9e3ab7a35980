"""A run as a cell of a notebook shows it: a bar, counts, and what has failed."""

from __future__ import annotations

import contextlib
from collections.abc import Iterable, Sequence
from typing import Any

from acme_mpi.errors import Failure, group_failures
from acme_mpi.history.status import Status
from acme_mpi.report.markup import escaped, tag

MOST_GROUPS, MOST_CHARACTERS = 5, 200
BAR = "display:flex;height:.6em;max-width:40em;background:#8884;border-radius:.3em;overflow:hidden"
DONE, FAILED = "background:#2e7ab8", "background:#d0342c"


def cell_html(
    title: str, n_tasks: int, n_done: int, n_failed: int, lines: Iterable[str] = ()
) -> str:
    """Return a few lines of HTML.

    Parameters
    ----------
    title : str
        In bold; that of whomever, as all texts here.
    n_tasks, n_done, n_failed : int
        Size of the run, and tasks that have ended well and not.
    lines : iterable of str
        Below the bar.
    """
    failed = f", {n_failed} failed" if n_failed else ""
    n_left = n_tasks - n_done - n_failed
    counts = f"{n_done} of {n_tasks} tasks done{failed}" + (f", {n_left} left" if n_left else "")
    bar = _part(DONE, n_done, n_tasks) + _part(FAILED, n_failed, n_tasks)
    below = "".join(tag("div", escaped(line)) for line in lines)
    head = tag("b", escaped(title)) + " " + escaped(counts)
    return tag("div", tag("div", head) + tag("div", bar, style=BAR) + below)


def _part(colour: str, n: int, n_tasks: int) -> str:
    return tag("div", style=f"{colour};width:{100 * n / max(n_tasks, 1):.2f}%") if n else ""


def lines_html(title: str, lines: Iterable[str]) -> str:
    """Return a title and lines of text as HTML."""
    return tag("div", tag("b", escaped(title)) + "".join(tag("div", escaped(x)) for x in lines))


def status_html(status: Status, title: str = "") -> str:
    """Return what a cell shows of a run that is known by its journals."""
    groups = [
        _group_text(each.n_tasks, each.type, each.location, each.message, each.first_indices)
        for each in status.failures[:MOST_GROUPS]
    ]
    title = title or f"{status.name}: {status.state}"
    lines = [*groups, f"in {status.directory}"]
    return cell_html(title, status.n_tasks, status.n_done, status.n_failed, lines)


def failure_lines(failures: Sequence[Failure]) -> list[str]:
    """Return failures that are alike in a line each, of many kinds the largest groups."""
    return [
        _group_text(len(group), kind, location, group[0].message, [each.index for each in group])
        for (kind, location, _), group in list(group_failures(failures).items())[:MOST_GROUPS]
    ]


def _group_text(n: int, kind: str, location: str, message: str, indices: Sequence[int]) -> str:
    at = f" at {location}" if location else ""
    more = ", ..." if n > 3 else ""
    shown = message if len(message) <= MOST_CHARACTERS else f"{message[:MOST_CHARACTERS]} ..."
    return f"{n} x {kind}{at}: {shown} (tasks {', '.join(map(str, indices[:3]))}{more})"


class Cell:
    """What the present cell of a notebook shows of one call, from the first news on.

    Parameters
    ----------
    name : str
        Of the function.
    n_tasks : int
        Size of the run.
    """

    def __init__(self, name: str, n_tasks: int) -> None:
        self._name, self._n_tasks = name, n_tasks
        self._handle: Any = None

    def news(self, n_ended: int, n_failed: int) -> None:
        """Show how many tasks have ended, `n_failed` of them with an error."""
        title = f"{self._name}: running"
        self._show(cell_html(title, self._n_tasks, n_ended - n_failed, n_failed))

    def end(self, n_left: int, failures: Sequence[Failure], where: str) -> None:
        """Show how the call has ended, if it was long enough to be shown at all."""
        if self._handle is None:
            return
        title = f"{self._name}: {'stopped' if n_left else 'finished'}"
        n_failed = len(failures)
        lines = [*failure_lines(failures), *([f"results: {where}"] if where else [])]
        n_done = self._n_tasks - n_left - n_failed
        self._show(cell_html(title, self._n_tasks, n_done, n_failed, lines))

    def _show(self, html: str) -> None:
        # The call is worth more than its picture, whatever the notebook says to that.
        with contextlib.suppress(Exception):
            from IPython.display import HTML, display

            if self._handle is None:
                self._handle = display(HTML(html), display_id=True)  # type: ignore[no-untyped-call]
            else:
                self._handle.update(HTML(html))  # type: ignore[no-untyped-call]
