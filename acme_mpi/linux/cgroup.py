"""The control groups that bound this process, as batch systems and containers set them up."""

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
    """Yield the folders of the groups that bound this process's memory, see `groups_of`."""
    return groups_of("memory", membership, root)


def groups_of(controller: str, membership: str = MEMBERSHIP, root: str = ROOT) -> Iterator[Path]:
    """Yield the folders of the groups that this process is in, innermost first.

    Parameters
    ----------
    controller : str
        Of what, in version 1: ``"memory"`` or ``"cpu"``.
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
        elif controller in controllers.split(","):
            mounts = [Path(root, controller)]
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


def cpus_allowed(membership: str = MEMBERSHIP, root: str = ROOT) -> float:
    """Return how many processors' time the groups allow this process; infinity without a limit.

    Parameters
    ----------
    membership, root : str
        As in `groups_of`.
    """
    allowed = float("inf")
    for group in groups_of("cpu", membership, root):
        # Not there, or the word, or -1, for "none".
        with contextlib.suppress(OSError, ValueError):
            quota, period = _quota(group)
            if quota > 0 and period > 0:
                allowed = min(allowed, quota / period)
    return allowed


def _quota(group: Path) -> tuple[int, int]:
    """Return the time that a group may use in a period, as version 2 tells it, or 1."""
    try:
        quota, period = (group / "cpu.max").read_text().split()
    except FileNotFoundError:
        quota = (group / "cpu.cfs_quota_us").read_text()
        period = (group / "cpu.cfs_period_us").read_text()
    return int(quota), int(period)


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
