"""Draw how ours compares with every side: ``python -m benchmarks.plot JSON PICTURE``.

Runs in the peers' environment, which has matplotlib.
"""

import sys

import matplotlib as mpl

from benchmarks.showing import ratio
from benchmarks.stored import read_results
from benchmarks.workloads import WORKLOADS

mpl.use("agg")
from matplotlib import pyplot


def bars_of(results):
    """Return (line, name of the side, how many times better ours is), line by line."""
    bars = []
    for workload in WORKLOADS:
        measured = results.get(workload.key)
        for line in workload.lines if measured else ():
            for name in [*workload.peers, *filter(None, [line.limit])]:
                value = ratio(measured[line.ours], measured[name], line.figure)
                if value:
                    bars.append((line.what, name, value if line.more_is_better else 1 / value))
    return bars


def draw(results, path):
    bars = bars_of(results)
    whats = list(dict.fromkeys(what for what, _, _ in bars))
    colors = dict(zip(whats, 2 * mpl.color_sequences["tab20"], strict=False))
    figure, axes = pyplot.subplots(figsize=(10, 1 + 0.2 * len(bars)), layout="constrained")
    places = range(len(bars), 0, -1)
    # A bar begins at 1, where ours and the other are equal.
    widths = [value - 1 for _, _, value in bars]
    axes.barh(places, widths, left=1, color=[colors[what] for what, _, _ in bars], height=0.8)
    axes.set_yticks(places, [name for _, name, _ in bars], fontsize=7)
    for k, (what, _, _) in enumerate(bars):
        if k == 0 or bars[k - 1][0] != what:
            axes.axhline(len(bars) - k + 0.5, color="0.8", linewidth=0.5)
            axes.text(
                1.01,
                len(bars) - k,
                what,
                transform=axes.get_yaxis_transform(),
                va="center",
                fontsize=7,
                color=colors[what],
            )
    axes.axvline(1, color="black", linewidth=0.8)
    values = [1, *(value for _, _, value in bars)]
    axes.set(xscale="log", xlim=(min(values) / 1.5, 1.5 * max(values)), ylim=(0.4, len(bars) + 0.6))
    axes.set_xlabel("how many times better acme_mpi is (left of 1: worse)")
    figure.savefig(path, dpi=150)


if __name__ == "__main__":
    draw(read_results(sys.argv[1])[1], sys.argv[2])
