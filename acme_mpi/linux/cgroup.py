"""The control groups that bound this process's memory, as a batch system sets them up."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path

MEMBERSHIP, ROOT = "/proc/self/cgroup", "/sys/fs/cgroup"

# (limit, usage, what of it can be had back) in versions 2 and 1.
_BOUNDS = (
    ("memory.max", "memory.current", "inactive_file"),
    ("memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file"),
)


def memory_groups(membership: str = MEMBERSHIP, root: str = ROOT) -> Iterator[Path]:
    """Yield the folders of the groups that this process is in, innermost first.

    Parameters
    ----------
    membership : str
        File that says which groups these are.
    root : str
        Where the groups are mounted, version 1, 2 or both.
    """
    try:
        lines = Path(membership).read_text().splitlines()
    except OSError:
        return
    for line in lines:
        _, controllers, group = line.split(":", 2)
        if not controllers:  # version 2, alone or beside version 1
            mounts = [Path(root), Path(root, "unified")]
        elif "memory" in controllers.split(","):
            mounts = [Path(root, "memory")]
        else:
            continue
        for mount in mounts:
            # In a container the group may be named as on the host, and mounted as the root.
            inner = mount / group.lstrip("/")
            yield inner
            yield from (outer for outer in inner.parents if outer.is_relative_to(mount))


def bytes_left(membership: str = MEMBERSHIP, root: str = ROOT) -> float:
    """Return how much memory the groups leave this process; infinity if they set no limit.

    Parameters
    ----------
    membership, root : str
        As in `memory_groups`.
    """
    left = float("inf")
    for group in memory_groups(membership, root):
        for limit, usage, spare in _BOUNDS:
            # Not there, or the word for "none".
            with contextlib.suppress(OSError, ValueError):
                n_bytes = int((group / limit).read_text()) - int((group / usage).read_text())
                left = min(left, max(0, n_bytes) + field(group / "memory.stat", spare))
    return left


def field(path: Path, name: str) -> int:
    """Return a number of a file with a name and a number in each line.

    Raises
    ------
    OSError, ValueError
        There is no such file, or no such line.
    """
    for line in path.read_text().splitlines():
        key, _, number = line.partition(" ")
        if key == name:
            return int(number)
    raise ValueError(f"{path} has no {name}")
