"""The calls of tasks, one by one, as far as blocks of journals tell them apart."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

from acme_mpi.history.records import Records


class Calls(NamedTuple):
    """Calls of tasks that have ended, one by one.

    Attributes
    ----------
    block : (n,) ndarray of int64
        Position of the block that says so.
    index : (n,) ndarray of int64
        The task.
    start_s, busy_s : (n,) ndarray of float64
        Unix time of the start, and duration.
    """

    block: Any
    index: Any
    start_s: Any
    busy_s: Any


def calls_in(ended: Records, named: Records) -> Calls:
    """Return the calls of the tasks in `ended`, with the durations in `named` where they fit.

    What the named ones leave of the time of a block is shared by its other tasks.
    """
    counts = ended["count"]
    begins = np.cumsum(counts) - counts
    block = np.repeat(np.arange(len(ended)), counts)
    index = np.arange(len(block)) + (ended["first"] - begins)[block]
    holding, distance, named = _found_in(ended, named)
    at = begins[holding] + distance
    n_named = np.bincount(holding, minlength=len(ended))
    named_s = np.bincount(holding, weights=named["busy_s"], minlength=len(ended))
    mean_s = (ended["busy_s"] - named_s).clip(0) / (counts - n_named).clip(1)
    busy_s = mean_s[block]
    busy_s[at] = named["busy_s"]
    before_s = np.cumsum(busy_s) - busy_s
    start_s = ended["start_s"][block] + before_s - before_s[begins][block]
    start_s[at] = named["start_s"]
    return Calls(block, index, start_s, busy_s)


def durations_of(ended: Records, named: Records) -> tuple[Any, Any]:
    """Return how long tasks took, and how many took so long, (n,) ndarrays.

    Parameters are those of `calls_in`.
    """
    holding, _, named = _found_in(ended, named)
    n_left = ended["count"] - np.bincount(holding, minlength=len(ended))
    named_s = np.bincount(holding, weights=named["busy_s"], minlength=len(ended))
    mean_s = (ended["busy_s"] - named_s).clip(0) / n_left.clip(1)
    seconds = np.concatenate([mean_s, named["busy_s"]])
    return seconds, np.concatenate([n_left.clip(0), np.ones(len(named), np.int64)])


def _found_in(ended: Records, named: Records) -> tuple[Any, Any, Records]:
    """Return which blocks hold the named tasks, their places in them, and those that are held."""
    if not (len(ended) and len(named)):
        return np.zeros(0, np.int64), np.zeros(0, np.int64), named[:0]
    both = np.concatenate([ended, named])
    key = _distinct(_distinct(both["run"], both["rank"]), both["attempt"])
    key = key * int((both["first"] + both["count"]).max()) + both["first"]
    order = np.argsort(key[: len(ended)])
    found = np.searchsorted(key[order], key[len(ended) :], side="right") - 1
    block = order[found.clip(0)]
    distance = key[len(ended) :] - key[block]
    is_there = (distance >= 0) & (distance < ended["count"][block])
    return block[is_there], distance[is_there], named[is_there]


def _distinct(first: Any, second: Any) -> Any:
    """Return numbers from 0 on, equal where both are equal."""
    pairs = first.astype(np.int64) * (int(second.max()) + 1) + second
    return np.unique(pairs, return_inverse=True)[1]
