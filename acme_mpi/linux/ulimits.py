"""Limits of the process that are known to be too small for any run, found before anything runs."""

from __future__ import annotations

import resource

from acme_mpi.errors import InputError

MIB = 1024**2
# Measured: a run of 20 small tasks needs some 300 MiB of addresses, files grow by 1 MiB at a time,
# and a rank has up to 40 files open.
NEEDED = {
    resource.RLIMIT_AS: ("virtual memory", "v", 400 * MIB, "bytes"),
    resource.RLIMIT_FSIZE: ("the size of files", "f", MIB, "bytes"),
    resource.RLIMIT_NOFILE: ("the number of open files", "n", 64, "files"),
}


def fault_of_limits() -> InputError | None:
    """Return what is wrong with the limits of this process, None if nothing is. Independent."""
    for number, (what, letter, needed, unit) in NEEDED.items():
        soft, _ = resource.getrlimit(number)
        if soft != resource.RLIM_INFINITY and soft < needed:
            return InputError(
                f"{what} is limited to {soft} {unit} here (ulimit -{letter}), and a run needs at "
                f"least {needed}; raise the limit: ulimit -{letter} "
                f"{needed if unit == 'files' else 'unlimited'}"
            )
    return None
