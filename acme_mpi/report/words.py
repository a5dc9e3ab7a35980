"""Numbers as people read them."""

from __future__ import annotations

import time

from acme_mpi.history.status import LostRank


def tasks_text(first: int, stop: int) -> str:
    """Return a half-open range of tasks: ``task 3``, ``tasks 3-7``."""
    return f"task {first}" if stop - first == 1 else f"tasks {first}-{stop - 1}"


def where_text(host: str, rank: int) -> str:
    """Return where something was: ``node05, rank 3``."""
    return f"{host}, rank {rank}" if host else f"rank {rank}"


def lost_text(each: LostRank) -> str:
    """Return which rank is lost, and when it was last heard."""
    heard = "never heard" if each.heard_s is None else f"last heard at {_clock(each.heard_s)}"
    return f"{where_text(each.host, each.rank)}: {heard}, found lost at {_clock(each.lost_s)}"


def _clock(unix_s: float) -> str:
    return time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(unix_s))


def number_text(value: float) -> str:
    """Return a number with three digits, or as many as there are before the point."""
    return f"{value:.3g}" if value < 999.5 else f"{value:.0f}"


def rate_text(per_s: float) -> str:
    """Return how many tasks end in a second, a minute or an hour."""
    for factor, unit in ((1, "s"), (60, "min")):
        if per_s * factor >= 1:
            return f"{number_text(per_s * factor)} tasks/{unit}"
    return f"{number_text(per_s * 3600)} tasks/h"


def duration_text(seconds: float) -> str:
    """Return a duration for people: ``12.3 s``, ``4 min 05 s``, ``2 h 05 min``, ``3 d 04 h``."""
    if seconds < 0.9995:
        return f"{number_text(seconds * 1000)} ms"
    if seconds < 59.95:
        return f"{number_text(seconds)} s"
    for unit_s, unit, part, limit in ((1, "s", "min", 60), (60, "min", "h", 24)):
        whole, rest = divmod(round(seconds / unit_s), 60)
        if whole < limit:
            return f"{whole} {part} {rest:02} {unit}"
    days, hours = divmod(round(seconds / 3600), 24)
    return f"{days} d {hours:02} h"
