"""A real Slurm with two nodes on one machine, for tests: see `scripts/slurm_sandbox`."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import tempfile
import textwrap
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import h5py
import pytest

SANDBOX = Path(__file__).resolve().parent.parent / "scripts" / "slurm_sandbox"
CANNOT_RUN = 77
LIMIT_S = 120


def sandbox_command(state: Path, *args: str) -> list[str]:
    """Return the command line that calls `scripts/slurm_sandbox`."""
    return [sys.executable, str(SANDBOX), f"--state={state}", *args]


def call_sandbox(
    state: Path, *args: str, cwd: Path | None = None, timeout_s: float = 90
) -> subprocess.CompletedProcess[str]:
    """Call `scripts/slurm_sandbox` and return its output."""
    return subprocess.run(
        sandbox_command(state, *args),
        cwd=cwd,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=timeout_s,
    )


# Joins a control group and ends a moment after a process has ended.
LATE = """\
import os
import select
import sys

group, pid = sys.argv[1:]
with open(f"{group}/cgroup.procs", "w") as file:
    file.write(str(os.getpid()))
ends = os.pidfd_open(int(pid))
print("there", flush=True)
select.select([ends], [], [])
select.select([], [], [], 0.3)
"""


@dataclass(frozen=True)
class Slurm:
    """A sandbox that is up, and a directory that all its nodes see."""

    state: Path
    shared_dir: Path

    def command(self, *args: str) -> list[str]:
        """Return the command line that runs a command on the login machine."""
        return sandbox_command(self.state, "run", *args)

    def call(
        self, *args: str, cwd: Path | None = None, timeout_s: float = 60
    ) -> subprocess.CompletedProcess[str]:
        """Run a command on the login machine and return its output."""
        return call_sandbox(self.state, "run", *args, cwd=cwd, timeout_s=timeout_s)

    def end_jobs(self) -> None:
        """Cancel all jobs; they are gone a little later."""
        self.call("scancel", "--full", "--user=root")

    def srun(
        self, *args: str, cwd: Path, timeout_s: float = 60
    ) -> subprocess.CompletedProcess[str]:
        """Run `srun ARGS` in `cwd`; the job is gone when this returns."""
        try:
            return self.call("srun", *args, cwd=cwd, timeout_s=timeout_s)
        except subprocess.TimeoutExpired:
            # The job outlives a killed srun and would keep its CPUs from the tests that follow.
            self.end_jobs()
            raise

    def srun_acme(
        self, *options: str, args: list[str], cwd: Path, timeout_s: float = 60
    ) -> subprocess.CompletedProcess[str]:
        """Run `srun OPTIONS python -m acme_mpi ARGS` in `cwd`."""
        program = [sys.executable, "-m", "acme_mpi", *args]
        return self.srun(*options, *program, cwd=cwd, timeout_s=timeout_s)

    def outlive(self, node: str) -> subprocess.Popen[bytes]:
        """Start a process in the control group of a node's jobs that ends a little later than all.

        Any process may do that under Linux 6.18: the kernel sees it there when its parent does not.
        """
        group = Path("/sys/fs/cgroup/memory", f"{self.state.name}-{node}")
        init = int((self.state / "init").read_text().split()[0])
        late = subprocess.Popen(
            [sys.executable, "-c", LATE, str(group), str(init)], stdout=subprocess.PIPE
        )
        assert late.stdout is not None
        assert late.stdout.readline() == b"there\n"
        return late

    def lose(self, node: str) -> None:
        """Switch a node off, as it were; it does not come back."""
        os.kill(self._init_of(node), signal.SIGKILL)
        # By itself Slurm would find out after half a minute to five.
        told = self.call("scontrol", "update", f"nodename={node}", "state=down", "reason=lost")
        assert told.returncode == 0, told.stderr

    def _init_of(self, node: str) -> int:
        """Return the process id of a node's init; with it the kernel ends all its processes."""
        words = f"_node\0{self.state}\0{node}\0".encode()
        for path in Path("/proc").glob("[0-9]*/cmdline"):
            try:
                found = path.read_bytes()
            except OSError:
                continue  # it has ended
            if found.endswith(words) and not found.startswith(b"unshare"):
                return int(path.parent.name)
        raise LookupError(node)


@contextmanager
def running_slurm(shared_dir: Path, *options: str) -> Iterator[Slurm]:
    """Context with a Slurm of two nodes, which see one directory below /tmp.

    Parameters
    ----------
    shared_dir : Path
        The directory.
    *options : str
        More options of `scripts/slurm_sandbox up`.
    """
    # A state of its own: a sandbox that a developer has up in this checkout goes on.
    # Not in pytest's directory, whose name may be too long for sockets.
    state = Path(tempfile.mkdtemp(prefix="slurm-"))
    # --end-with: even a pytest that is killed leaves no Slurm behind.
    own = ["2", f"--share={shared_dir}", f"--end-with={os.getpid()}"]
    try:
        started = call_sandbox(state, "up", *own, *options)
        if started.returncode == CANNOT_RUN:
            pytest.skip(started.stderr.strip())
        assert started.returncode == 0, started.stderr
        yield Slurm(state, shared_dir)
    finally:
        ended = call_sandbox(state, "down")
        assert ended.returncode == 0, ended.stderr
        if state.exists():
            state.rmdir()


# What scripts on the login machine have.
HEAD = f"""\
import json
import os
import subprocess
import time

import acme_mpi

LIMIT_S = {LIMIT_S}
acme_mpi.Slurm.pauses_s = (0.1, 1.0)


def f(x, y):
    return x + y


def brief(x):
    time.sleep(0.1)
    return x


def wait_for_permission(x):
    open(f"begun{{x}}", "w").close()
    while not os.path.exists("allowed"):
        time.sleep(0.01)
    return x


def until(condition):
    end_s = time.monotonic() + LIMIT_S
    while not condition():
        assert time.monotonic() < end_s
        time.sleep(0.05)


def state_of(job_id):
    command = ["squeue", "--noheader", f"--jobs={{job_id}}", "--format=%T"]
    return subprocess.run(command, capture_output=True, text=True).stdout.strip()


def fails(action):
    try:
        action()
    except (acme_mpi.AcmeMpiError, TimeoutError) as error:
        return [type(error).__name__, str(error)]


"""


def run_client(slurm: Slurm, folder: Path, text: str) -> dict[str, Any]:
    """Run a script on the login machine and return what it calls `said`."""
    path = folder / "client.py"
    path.write_text(f"{HEAD}{textwrap.dedent(text)}\nprint(json.dumps(said))\n")
    ran = slurm.call(sys.executable, str(path), cwd=folder, timeout_s=2 * LIMIT_S)
    assert ran.returncode == 0, ran.stderr
    said: dict[str, Any] = json.loads(ran.stdout.splitlines()[-1])
    return said


def values_in(path: Path) -> list[float]:
    """Return the results of a run whose tasks return one number each."""
    with h5py.File(path) as file:
        return [file[f"comp_{i}/result_0"][()].item() for i in range(len(file))]
