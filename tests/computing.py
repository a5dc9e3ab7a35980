"""Calls of `ParallelMap`, and what they leave."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import h5py
import pytest
from parallel_map_program import MEMORY, f

from acme_mpi import ParallelMap, TaskError

LOG = r"ACME_\w+_\d{8}-\d{6}\.log"

CALL = (f, [2, 4, 6, 8], 4)

VALUES = [18, 24, 30, 36]

ON_DISK = [{}, {"payload": "rank"}, {"single_file": True}]

EVERYWHERE = [*ON_DISK, MEMORY]


def visible(folder: Path | str) -> list[str]:
    """Return what a directory shows, log files as LOG."""
    return sorted(re.sub(LOG, "LOG", path.name) for path in Path(folder).glob("[!.]*"))


def scalars(container: str | None) -> list[Any]:
    """Return the ``result_0`` of all groups of a container, which are single numbers."""
    with h5py.File(container, "r") as file:
        return [group["result_0"][()].item() for group in file.values()]


def failure_of(pmap: ParallelMap) -> TaskError:
    with pytest.raises(TaskError) as caught:
        pmap.compute()
    return caught.value
