"""The batches of `batched_map`."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import Any


def split(items: Sequence[Any], n: int) -> list[tuple[tuple[int, int], Sequence[Any]]]:
    """Return `n` parts, the larger ones first, each with its first and last index.

    Parameters
    ----------
    items : sequence
        What is split.
    n : int
        Parts, >= 1; fewer if there are fewer items.
    """
    n = min(n, len(items))
    stops = [0, *(_stop(len(items), n, part) for part in range(n))]
    return [((a, b), items[a:b]) for a, b in pairwise(stops)]


def _stop(n_items: int, n: int, part: int) -> int:
    share, rest = divmod(n_items, n)
    return share * (part + 1) + min(part + 1, rest)
