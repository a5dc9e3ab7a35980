"""The control groups that bound this process, as batch systems and containers set them up."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator

MEMBERSHIP, ROOT = "/proc/self/cgroup", "/sys/fs/cgroup"

# (limit, usage, what of it can be had back) in versions 2 and 1.
_BOUNDS = (
    ("memory.max", "memory.current", "inactive_file"),
    ("memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file"),
)


def memory_groups(membership: str = MEMBERSHIP, root: str = ROOT) -> Iterator[str]:
    """Yield the folders of the groups that bound this process's memory, see `groups_of`."""
    return groups_of("memory", membership, root)


def groups_of(controller: str, membership: str = MEMBERSHIP, root: str = ROOT) -> Iterator[str]:
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
        lines = _text_of(membership).splitlines()
    except OSError:
        return
    for line in lines:
        _, controllers, group = line.split(":", 2)
        if not controllers:  # version 2, alone or beside version 1
            mounts = [root, os.path.join(root, "unified")]
        elif controller in controllers.split(","):
            mounts = [os.path.join(root, controller)]
        else:
            continue
        for mount in mounts:
            # In a container the group may be named as on the host, and mounted as the root.
            folder = os.path.join(mount, group.strip("/")).rstrip("/")
            while len(folder) > len(mount):
                yield folder
                folder = os.path.dirname(folder)
            yield mount


def _text_of(*parts: str) -> str:
    with open(os.path.join(*parts)) as file:
        return file.read()


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
                n_bytes = int(_text_of(group, limit)) - int(_text_of(group, usage))
                left = min(left, max(0, n_bytes) + field(os.path.join(group, "memory.stat"), spare))
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


def _quota(group: str) -> tuple[int, int]:
    """Return the time that a group may use in a period, as version 2 tells it, or 1."""
    try:
        quota, period = _text_of(group, "cpu.max").split()
    except FileNotFoundError:
        quota = _text_of(group, "cpu.cfs_quota_us")
        period = _text_of(group, "cpu.cfs_period_us")
    return int(quota), int(period)


def field(path: str, name: str) -> int:
    """Return a number of a file with a name and a number in each line.

    Raises
    ------
    OSError, ValueError
        There is no such file, or no such line.
    """
    for line in _text_of(path).splitlines():
        key, _, number = line.partition(" ")
        if key == name:
            return int(number)
    raise ValueError(f"{path} has no {name}")
