"""Charts as SVG, drawn from arrays: as many marks as bins, never as many as tasks.

A chart over time is an SVG in an SVG: the inner one, of class ``plot``, is as wide as `N_BINS` and
as high as 100, whatever its size on the screen. So the script zooms by changing what part is seen.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from acme_mpi.linux.memory import size_text
from acme_mpi.report.markup import escaped, tag
from acme_mpi.report.png import png_of
from acme_mpi.report.timeline import N_BINS, Timeline
from acme_mpi.report.words import duration_text, number_text

WIDTH, LEFT, RIGHT, TOP, BOTTOM = 960, 60, 10, 8, 22
INNER = WIDTH - LEFT - RIGHT
STEPS_S = (1, 2, 5, 10, 15, 30, 60, 120, 300, 600, 900, 1800, 3600, 7200, 14400, 21600, 43200)
N_LEVELS = 9
FAILED, WRITING = N_LEVELS + 1, N_LEVELS + 2  # after the levels, of which 0 is idle
BLUE, RED, VIOLET = (46, 122, 184), (208, 52, 44), (138, 99, 184)
COLOURS = [
    (*BLUE, 0),
    *((*BLUE, 255 * level // N_LEVELS) for level in range(1, FAILED)),
    (*RED, 255),
    (*VIOLET, 255),
]


class Layer(NamedTuple):
    """One quantity over time.

    Attributes
    ----------
    name : str
        What it is; its first word, in small letters, is the class that gives the colour.
    values : (N_BINS,) ndarray
        One for each bin, >= 0.
    """

    name: str
    values: Any


def over_time(layers: Sequence[Layer], span_s: float, height: int = 150) -> str:
    """Return a chart of quantities over time, each an area from zero."""
    top = nice_above(max((float(each.values.max(initial=0)) for each in layers), default=0.0))
    areas = "".join(_area(each, top) for each in layers)
    told = {
        f"data-{number}": f"{each.name}|{','.join(map(_short, each.values.tolist()))}"
        for number, each in enumerate(layers)
    }
    names = ", ".join(each.name for each in layers)
    return _time_chart(areas + _grid_y(), _labels_y(top, height), names, span_s, height, **told)


def raster(timeline: Timeline, labels: Sequence[str], span_s: float) -> str:
    """Return the picture of the rows of a timeline, whose names are `labels`."""
    levels = np.ceil(timeline.busy * N_LEVELS - 1e-6).astype(np.uint8)
    levels[timeline.writing > 0.5] = WRITING
    levels[timeline.has_failed] = FAILED
    n_rows = len(levels)
    height = min(max(5 * n_rows, min(16 * n_rows, 250)), 600)
    image = tag(
        "image",
        href=png_of(levels, COLOURS),
        width=N_BINS,
        height=100,
        preserveAspectRatio="none",
    )
    cells = "|".join("".join("0123456789fw"[level] for level in row) for row in levels.tolist())
    told = {"data-cells": cells, "data-labels": "|".join(each.replace("|", "/") for each in labels)}
    shown = range(0, n_rows, max(1, math.ceil(n_rows * 11 / height)))
    beside = "".join(
        _text(LEFT - 6, TOP + (row + 0.5) * height / n_rows + 3, _first_word(labels[row]), "end")
        for row in shown
    )
    return _time_chart(image, beside, "timeline of the ranks", span_s, height, **told)


def histogram(edges: Any, counts: Any, height: int = 150) -> str:
    """Return bars of how many tasks took how long; each bar as much longer than the last one."""
    top = nice_above(float(counts.max(initial=0)))
    width = INNER / max(len(counts), 1)
    bars = ""
    for k, count in enumerate(counts.tolist()):
        between = f"{duration_text(edges[k])} to {duration_text(edges[k + 1])}"
        bars += _bar(LEFT + k * width, width, count / top, height, f"{between}: {count} tasks")
    every = max(1, len(counts) // 8)
    below = "".join(
        _below(k / max(len(counts), 1), duration_text(float(edges[k])), height)
        for k in range(0, len(counts) + 1, every)
    )
    return _chart(bars + _labels_y(top, height) + below, "durations of tasks", height)


def memory_bars(peaks: Sequence[int], labels: Sequence[str], limit: int, height: int = 110) -> str:
    """Return a bar of bytes for each row of ranks, and a line at their limit, 0 for none."""
    top = nice_above(max([*peaks, limit, 1]) / 1e6) * 1e6
    width = INNER / max(len(peaks), 1)
    bars = "".join(
        _bar(LEFT + k * width, width, peak / top, height, f"{label}: {size_text(peak)}")
        for k, (peak, label) in enumerate(zip(peaks, labels, strict=True))
    )
    if limit:
        y = TOP + height * (1 - limit / top)
        line = tag("line", x1=LEFT, x2=WIDTH - RIGHT, y1=round(y, 1), y2=round(y, 1), **_LIMIT)
        bars += line + _text(WIDTH - RIGHT, y - 4, f"limit {size_text(limit)}", "end")
    return _chart(bars + _labels_y(top, height, size_text), "memory of ranks", height)


_LIMIT = {"class": "limit"}


def shares(parts: Sequence[tuple[str, str, float]]) -> str:
    """Return one bar of (class, name, value) parts, as long as their sum."""
    total = sum(value for _, _, value in parts) or 1.0
    bars, x = "", 0.0
    for kind, name, value in parts:
        width = WIDTH * value / total
        title = tag("title", f"{escaped(name)}: {100 * value / total:.1f} %")
        where = {"x": round(x, 1), "y": 0, "width": round(width, 1), "height": 18, "class": kind}
        bars += tag("rect", title, **where)
        x += width
    view = {"class": "chart bar", "viewBox": f"0 0 {WIDTH} 18", "preserveAspectRatio": "none"}
    return tag("svg", bars, role="img", **view)


def nice_above(value: float) -> float:
    """Return the smallest of 1, 2, 4, 6, 8, 10, 20, ... that is not below a value."""
    if value <= 1:
        return 1.0
    power = 10.0 ** math.floor(math.log10(value) + 1e-12)
    return next(step * power for step in (1, 2, 4, 6, 8, 10) if step * power >= value * (1 - 1e-12))


def _time_chart(
    inside: str, beside: str, name: str, span_s: float, height: int, **told: str
) -> str:
    plot = tag(
        "svg",
        inside,
        x=LEFT,
        y=TOP,
        width=INNER,
        height=height,
        viewBox=f"0 0 {N_BINS} 100",
        preserveAspectRatio="none",
        **{"class": "plot"},
    )
    ticks = tag("g", _ticks(span_s, height), **{"class": "ticks"})
    told = {"data-span": f"{span_s:.6g}", **told}
    return _chart(_frame(height) + plot + beside + ticks, name, height, "chart time", **told)


def _chart(inside: str, name: str, height: int, kind: str = "chart", **told: str) -> str:
    view = {"class": kind, "viewBox": f"0 0 {WIDTH} {height + TOP + BOTTOM}", "aria-label": name}
    return tag("svg", inside, role="img", **view, **told)


def _frame(height: int) -> str:
    return tag("rect", x=LEFT, y=TOP, width=INNER, height=height, **{"class": "frame"})


def _area(layer: Layer, top: float) -> str:
    heights = (100 - 100 * np.asarray(layer.values, float) / top).round(2).tolist()
    steps = "".join(f"V{height:g}h1" for height in heights)
    return tag("path", d=f"M0 100{steps}V100Z", **{"class": layer.name.split()[0]})


def _grid_y() -> str:
    return "".join(tag("line", x1=0, x2=N_BINS, y1=y, y2=y, **{"class": "grid"}) for y in (0, 50))


def _labels_y(top: float, height: int, text: Any = number_text) -> str:
    return "".join(
        _text(LEFT - 6, TOP + height * (1 - part) + 4, text(top * part), "end")
        for part in (0, 0.5, 1)
    )


def _ticks(span_s: float, height: int) -> str:
    """Return the times below a chart; the script draws others when it zooms."""
    step_s = next((step for step in STEPS_S if span_s / step <= 8), 86400 * span_s // 691200 + 1)
    if span_s < 4:
        step_s = nice_above(span_s * 1000 / 8) / 1000
    marks = ""
    for k in range(int(span_s / step_s) + 1):
        part = k * step_s / span_s
        text = duration_text(k * step_s).replace(" 00 s", "").replace(" 00 min", "") if k else "0"
        marks += _below(part, text, height)
    return marks


def _below(part: float, text: str, height: int) -> str:
    """Return a word below a chart, which does not leave it on the right."""
    anchor = "end" if part > 0.96 else "middle"
    return _text(LEFT + INNER * part, TOP + height + 15, text, anchor)


def _bar(x: float, width: float, part: float, height: int, title: str) -> str:
    size = height * part
    where = {"x": round(x + 0.5, 1), "width": round(max(width - 1, 0.5), 1)}
    where |= {"y": round(TOP + height - size, 1), "height": round(size, 1)}
    return tag("rect", tag("title", escaped(title)), **where, **{"class": "column"})


def _text(x: float, y: float, text: str, anchor: str) -> str:
    where = {"x": round(x, 1), "y": round(y, 1), "text-anchor": anchor}
    return tag("text", escaped(text), **where)


def _short(value: float) -> str:
    return f"{value:.4g}" if value < 1e4 else f"{value:.0f}"


def _first_word(label: str) -> str:
    return label.split(" (")[0]
