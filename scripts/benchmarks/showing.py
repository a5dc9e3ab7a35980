"""The tables: ours beside the best peer and the limit, with a verdict; and all sides."""

import operator
import statistics

HOLDS = {">=": operator.ge, "<=": operator.le, "<": operator.lt}
HEADER = ["what", "ours", "best peer", "ratio", "limit", "ratio to it", "target", "verdict"]
ALL_HEADER = ["what", "side", "median", "least", "most", "ours / it", "CPU added"]
ADDED_HEADER = ["CPU time added", "ours", "least", "most", "least of peers", "ratio"]


def median(measured, figure):
    """Return the median of a side's figure; None if no repetition has it."""
    values = values_of(measured, figure)
    return statistics.median(values) if values else None


def values_of(measured, figure):
    return [each[figure] for each in measured.repetitions if each and figure in each]


def ratio(mine, theirs, figure):
    """Return the median ratio of repetitions that both sides have ended; None without any.

    The two of a pair have met nearly the same machine; medians of each side have not.
    """
    pairs = zip(mine.repetitions, theirs.repetitions, strict=True)
    both = [(a.get(figure), b.get(figure)) for a, b in pairs if a and b]
    ratios = [a / b for a, b in both if a is not None and b is not None and b > 0]
    return statistics.median(ratios) if ratios else None


def best_of(measured, names, line):
    """Return the side with the best median; None if none of them has any."""
    return first_of(measured, names, line.figure, max if line.more_is_better else min)


def first_of(measured, names, figure, choose):
    medians = {name: median(measured[name], figure) for name in names}
    known = {name: value for name, value in medians.items() if value is not None}
    return choose(known, key=known.get) if known else None


def reached(measured, line, target):
    """Return what a target bounds; None if that is not known.

    A missing peer does not make a target easier: all sides that it names count.
    """
    if not target.against:
        return median(measured[line.ours], line.figure)
    if any(median(measured[name], line.figure) is None for name in target.against):
        return None
    best = best_of(measured, target.against, line)
    return ratio(measured[line.ours], measured[best], line.figure)


def verdict(measured, line):
    """Return "met", "MISSED", or why there is none."""
    if not line.targets:
        return ""
    if median(measured[line.ours], line.figure) is None:
        return "MISSED"
    values = [reached(measured, line, target) for target in line.targets]
    judged = zip(values, line.targets, strict=True)
    if any(v is not None and not HOLDS[t.sign](v, t.bound) for v, t in judged):
        return "MISSED"
    return "not known" if None in values else "met"


def cells_of(measured, workload, line):
    """Return the cells of a line of the table."""
    mine = measured[line.ours]
    best = best_of(measured, workload.peers, line)
    own = median(mine, line.figure)
    return [
        line.what,
        "failed" if own is None else with_unit(own, line.unit),
        f"{best}: {number(median(measured[best], line.figure))}" if best else "",
        ratio_cell(mine, measured.get(best), line),
        limit_cell(measured, line),
        ratio_cell(mine, measured.get(line.limit), line),
        ", ".join(map(target_cell, line.targets)),
        verdict(measured, line),
    ]


def ratio_cell(mine, theirs, line):
    value = ratio(mine, theirs, line.figure) if theirs else None
    return "" if value is None else f"{value:.3g}"


def limit_cell(measured, line):
    if not line.limit:
        return ""
    value = median(measured[line.limit], line.figure)
    return f"{line.limit}: {'failed' if value is None else number(value)}"


def target_cell(target):
    bound = f"{target.sign} {number(target.bound)}"
    return f"{bound} x {' and '.join(target.against)}" if target.against else bound


def has_added(measured, workload, line):
    """Tell whether a line's CPU time is known: older figures do not have it."""
    return bool(line.added and values_of(measured[line.ours], line.added))


def added_cells(measured, workload, line):
    """Return the cells of a line of the table of what sides add."""
    mine = measured[line.ours]
    values = values_of(mine, line.added)
    least = first_of(measured, workload.peers, line.added, min)
    share = ratio(mine, measured[least], line.added) if least else None
    return [
        f"{line.what} (per {line.per})",
        *(duration(f(values)) for f in (statistics.median, min, max)),
        f"{least}: {duration(median(measured[least], line.added))}" if least else "",
        "" if share is None else f"{share:.3g}",
    ]


def lines_of_all(measured, workload, line):
    """Return the cells of all sides that have a line's figure, ours first."""
    mine = measured[line.ours]
    others = [*workload.peers, *([line.limit] if line.limit else [])]
    cells: list[list[str]] = []
    for name in [line.ours, *others]:
        values = values_of(measured[name], line.figure)
        figures = ["missing", "", ""]
        if values:
            figures = [number(f(values)) for f in (statistics.median, min, max)]
        share = "" if name == line.ours else ratio_cell(mine, measured[name], line)
        added_us = median(measured[name], line.added)
        added = "" if added_us is None else duration(added_us)
        cells.append(['"' if cells else f"{line.what} ({line.unit})", name, *figures, share, added])
    return cells


def troubles(results):
    """Return a line for every side that has failed, at least once."""
    return [
        f"- {key}, {name}, failed {each.repetitions.count(None)} of {len(each.repetitions)} times: "
        f"{each.trouble}"
        for key, measured in results.items()
        for name, each in measured.items()
        if None in each.repetitions
    ]


def number(value):
    return f"{value:,.0f}".replace(",", " ") if value >= 100 else f"{value:.3g}"


def duration(value_us):
    """Return microseconds in a unit that leaves few digits."""
    for unit, size_us in (("s", 1e6), ("ms", 1e3), ("us", 1)):
        if abs(value_us) >= size_us:
            return with_unit(value_us / size_us, unit)
    return with_unit(1e3 * value_us, "ns")


def with_unit(value, unit):
    return f"{number(value)} {unit}"


def table(header, lines):
    """Return a Markdown table."""
    widths = [max(len(line[k]) for line in [header, *lines]) for k in range(len(header))]
    rows = [header, ["-" * width for width in widths], *lines]
    return "\n".join(
        "| " + " | ".join(c.ljust(w) for c, w in zip(row, widths, strict=True)) + " |"
        for row in rows
    )
