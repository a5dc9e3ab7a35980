"""How often the kernel has killed processes of this job for memory."""

from __future__ import annotations

import contextlib
import os

from acme_mpi.linux.cgroup import MEMBERSHIP, ROOT, field, memory_groups


def oom_kills(membership: str = MEMBERSHIP, root: str = ROOT) -> int | None:
    """Return the number of such kills in the control group of this process; None: not to be had.

    Parameters
    ----------
    membership, root : str
        As in `memory_groups`.
    """
    for group in memory_groups(membership, root):
        for name in ("memory.events", "memory.oom_control"):  # of version 2, and 1
            with contextlib.suppress(OSError, ValueError):
                return field(os.path.join(group, name), "oom_kill")
    return None


def oom_remark(before: int | None, now: int | None) -> str:
    """Return what two counts say of a process that was killed in between."""
    if before is None or now is None:
        return ""
    if now > before:
        return f": the kernel has killed {now - before} process(es) of this cgroup for it meanwhile"
    return ", although the kernel has counted no such kill in this cgroup"
