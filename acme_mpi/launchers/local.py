"""Ranks on this machine: an mpiexec in the background, which outlives who has started it."""

from __future__ import annotations

import contextlib
import os
import shlex
import signal
import socket
import subprocess
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import ClassVar

from acme_mpi.comm.background import start_thread
from acme_mpi.comm.mpiexec import AS_ROOT, MORE_RANKS_THAN_CORES, mpiexec
from acme_mpi.errors import LaunchError
from acme_mpi.launchers.base import RUNNING, Launcher, Order, State, note_id
from acme_mpi.launchers.environment import clean_environment
from acme_mpi.launchers.site import own_or_site_prologue
from acme_mpi.launchers.words import check_count
from acme_mpi.linux.cores import n_cores
from acme_mpi.linux.gpus import PER_RANK, refuse_too_few_gpus
from acme_mpi.linux.processes import command_line, start_of


@dataclass(frozen=True)
class Local(Launcher):
    """Start ranks on this machine by mpiexec, in the background; they outlive their caller.

    Parameters
    ----------
    n : int, optional
        Number of ranks, >= 1; default: one for each core that this process may use.
    prologue : list of str, optional
        Lines of shell before mpiexec: ``["module load openmpi"]``; default the site's, see
        docs/sites.md.
    gpus_per_rank : int, optional
        GPUs that each rank sees, >= 1: rank i those from number ``i * gpus_per_rank`` on, by
        ``CUDA_VISIBLE_DEVICES``. If that lists some already, of these.

    Raises
    ------
    InputTypeError, InputError
        A word has a wrong value.

    Examples
    --------
    >>> import acme_mpi
    >>> acme_mpi.Local(n=2)
    Local(n=2, prologue=(), gpus_per_rank=None)
    """

    n: int | None = None
    prologue: tuple[str, ...] | None = None
    gpus_per_rank: int | None = None

    kind: ClassVar[str] = "local"
    title: ClassVar[str] = "this machine"

    def __post_init__(self) -> None:
        """Check all words."""
        n = n_cores() if self.n is None else check_count("n", self.n)
        object.__setattr__(self, "n", n)
        object.__setattr__(self, "prologue", own_or_site_prologue(self.prologue))
        if self.gpus_per_rank is not None:
            n_gpus = check_count("gpus_per_rank", self.gpus_per_rank)
            object.__setattr__(self, "gpus_per_rank", n_gpus)

    def script(self, order: Order) -> str:
        """Return a script that a person may also run."""
        job = shlex.quote(order.folder)
        return "\n".join(
            [
                "#!/bin/bash",
                "# Made by acme_mpi; it can be run again, and computes what is left.",
                "",
                f"job={job}",
                'rm -f "$job/exit" "$job/cancelled"',
                note_id("$HOSTNAME $$"),
                "trap : INT TERM  # the ranks get them, too, and this script tells how they end",
                f"cd {shlex.quote(order.directory)} || exit",
                *self._exports(),
                *(self.prologue or ()),
                "",
                f'{shlex.join([mpiexec(), "-n", str(self.n), *order.command])} "$@"',
                "status=$?",
                'echo "$status" >"$job/exit"',
                'exit "$status"',
                "",
            ]
        )

    def _exports(self) -> list[str]:
        assert self.n is not None
        settings = {
            **(AS_ROOT if os.geteuid() == 0 else {}),
            **(MORE_RANKS_THAN_CORES if self.n > n_cores() else {}),
            **({} if self.gpus_per_rank is None else {PER_RANK: str(self.gpus_per_rank)}),
        }
        words = [f"{name}={value}" for name, value in settings.items()]
        return [f"export {' '.join(words)}"] if words else []

    def how_to_submit(self, path: str) -> str:
        """Return the command that runs a script."""
        return f"bash {shlex.quote(path)}"

    def submit(self, path: str, log: str, directory: str) -> str:
        """Run the script in a session of its own, so that no signal to the caller's reaches it."""
        if self.gpus_per_rank is not None:
            assert self.n is not None
            refuse_too_few_gpus(self.n, self.gpus_per_rank)
        try:
            with open(log, "ab") as file:
                process = subprocess.Popen(
                    ["bash", path],
                    cwd=directory,
                    env=clean_environment(),
                    stdin=subprocess.DEVNULL,
                    stdout=file,
                    stderr=file,
                    start_new_session=True,
                )
        except OSError as error:
            raise LaunchError(f"cannot run bash {path}: {error.strerror}") from None
        # It is waited for as long as this process lives, so that it leaves no zombie.
        start_thread("local job", process.wait)
        return f"{socket.gethostname()} {process.pid}"

    @classmethod
    def states(cls, scripts: Mapping[str, str]) -> dict[str, State]:
        """Tell which scripts are running; those of other hosts cannot be seen from here."""
        found = {}
        for job_id, path in scripts.items():
            host, pid = _host_and_pid(job_id)
            if host != socket.gethostname():
                found[job_id] = State(RUNNING, f"on {host}, as far as can be known from here")
            elif pid and _runs(pid, path):
                found[job_id] = State(RUNNING)
        return found

    @classmethod
    def cancel(cls, job_ids: Collection[str], force: bool = False) -> None:
        """Send a signal to the script and its mpiexec, which ends the ranks."""
        for job_id in job_ids:
            _, pid = _host_and_pid(job_id)
            with contextlib.suppress(ProcessLookupError):
                os.killpg(pid, signal.SIGKILL if force else signal.SIGTERM)


def _runs(pid: int, path: str) -> bool:
    words = command_line(pid)
    if words:
        return path in words
    try:
        return start_of(pid) is not None  # a new process has no command line for a moment
    except OSError:  # another user's
        return False


def _host_and_pid(job_id: str) -> tuple[str, int]:
    host, _, pid = job_id.rpartition(" ")
    return host, int(pid) if pid.isascii() and pid.isdecimal() else 0
