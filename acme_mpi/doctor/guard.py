"""Whoever hangs is ended, also in the midst of a call that lets no Python run."""

from __future__ import annotations

import contextlib
import json
import os
import select
import signal
import struct
from collections.abc import Callable

from acme_mpi.doctor.finding import Finding
from acme_mpi.doctor.report import Report

_LENGTH = struct.Struct("<Q")
FIRST_S = 60.0


class Guard:
    """A forked process that says what was found, and kills this one, if this one hangs.

    It has to be made before MPI starts, as a fork is not safe later.

    Parameters
    ----------
    show : callable
        ``show(report)`` prints a report.
    """

    def __init__(self, show: Callable[[Report], object]) -> None:
        here, self._there = os.pipe()
        self._pid = os.fork()
        if self._pid == 0:
            os.close(self._there)
            _watch(here, show)
        os.close(here)

    def expect(self, found: Report, otherwise: Finding, limit_s: float) -> None:
        """Have this process do its next thing within `limit_s`.

        If it does not, `otherwise` is added to what was found until now.
        """
        report = found.with_findings([otherwise])
        words = limit_s, [list(each) for each in report.findings], report.facts
        data = json.dumps(words).encode()
        with contextlib.suppress(OSError):  # somebody has killed it
            os.write(self._there, _LENGTH.pack(len(data)) + data)

    def dismiss(self) -> None:
        """End it: this process will not hang any more."""
        os.close(self._there)
        with contextlib.suppress(ChildProcessError):
            os.waitpid(self._pid, 0)


def _watch(descriptor: int, show: Callable[[Report], object]) -> None:
    """Wait for the other process's words, in the fork; never return."""
    parent, report, limit_s = os.getppid(), Report((), {}), FIRST_S
    try:
        while select.select([descriptor], [], [], limit_s)[0]:
            head = os.read(descriptor, _LENGTH.size)
            if not head:
                os._exit(0)
            report, limit_s = _read(descriptor, *_LENGTH.unpack(head))
        show(report)
    finally:
        if os.getppid() == parent:
            os.kill(parent, signal.SIGKILL)
        os._exit(1)


def _read(descriptor: int, n_bytes: int) -> tuple[Report, float]:
    data = b""
    while len(data) < n_bytes:
        data += os.read(descriptor, n_bytes - len(data))
    limit_s, findings, facts = json.loads(data)
    return Report(tuple(Finding(*each) for each in findings), facts), limit_s
