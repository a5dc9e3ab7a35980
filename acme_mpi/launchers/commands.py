"""Commands of a batch system; they see nothing of a job around this process."""

from __future__ import annotations

import subprocess
from collections.abc import Sequence

from acme_mpi.errors import LaunchError
from acme_mpi.launchers.environment import clean_environment

ANSWER_S = 60.0  # a controller that is asked for states may take so long


def call(
    command: Sequence[str],
    system: str,
    directory: str | None = None,
    timeout_s: float | None = None,
) -> subprocess.CompletedProcess[str]:
    """Run a command and return what it has said.

    Parameters
    ----------
    command : sequence of str
        Program and arguments.
    system : str
        To which the command belongs.
    directory : str, optional
        Where it is run.
    timeout_s : float, optional
        How long it may take.

    Raises
    ------
    LaunchError
        There is no such program.
    subprocess.TimeoutExpired
        It has not ended by then.
    """
    try:
        return subprocess.run(
            command,
            cwd=directory,
            env=clean_environment(),
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            errors="replace",
            timeout=timeout_s,
        )
    except OSError as error:
        raise LaunchError(
            f"cannot run {command[0]} ({error.strerror}), which belongs to {system}: is this a "
            "login node of a cluster?"
        ) from None


def said(ran: subprocess.CompletedProcess[str]) -> str:
    """Return a command's own words about its failure."""
    return (ran.stderr or ran.stdout).strip() or f"{ran.args[0]} has failed: {ran.returncode}"
