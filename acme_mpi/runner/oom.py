"""How often the kernel has killed processes of this job for memory."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path


def oom_kills(membership: str = "/proc/self/cgroup", root: str = "/sys/fs/cgroup") -> int | None:
    """Return the number of such kills in the control group of this process; None: not to be had.

    Parameters
    ----------
    membership : str
        File that says which groups this process is in.
    root : str
        Where the groups are mounted, version 1, 2 or both.
    """
    for path in _counters(membership, Path(root)):
        try:
            text = path.read_text()
        except OSError:
            continue
        for line in text.splitlines():
            name, _, count = line.partition(" ")
            if name == "oom_kill":
                return int(count)
    return None


def _counters(membership: str, root: Path) -> Iterator[Path]:
    """Yield the files that may hold the count, those of this very group first."""
    places = []
    try:
        lines = Path(membership).read_text().splitlines()
    except OSError:
        lines = []
    for line in lines:
        _, controllers, group = line.split(":", 2)
        if not controllers:  # version 2, alone or beside version 1
            places += [(mount, group, "memory.events") for mount in (root, root / "unified")]
        elif "memory" in controllers.split(","):
            places.append((root / "memory", group, "memory.oom_control"))
    for mount, group, name in places:
        yield mount / group.lstrip("/") / name
    # In a container the group may be named as on the host, and mounted as the root.
    for mount, _, name in places:
        yield mount / name


def oom_remark(before: int | None, now: int | None) -> str:
    """Return what two counts say of a process that was killed in between."""
    if before is None or now is None:
        return ""
    if now > before:
        return f": the kernel has killed {now - before} process(es) of this cgroup for it meanwhile"
    return ", although the kernel has counted no such kill in this cgroup"
