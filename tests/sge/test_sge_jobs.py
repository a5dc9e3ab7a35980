"""Jobs that are submitted from Python under a real Grid Engine: see `scripts/sge_sandbox`."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import textwrap
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import h5py
import pytest
from conftest import Launcher

pytestmark = [pytest.mark.slow]

SANDBOX = Path(__file__).resolve().parents[2] / "scripts" / "sge_sandbox"
CANNOT_RUN = 77
LIMIT_S = 120
HEAD = f"""\
import glob
import json
import os
import socket
import subprocess
import time

import acme_mpi
from acme_mpi.comm.launcher import END_TIME

LIMIT_S = {LIMIT_S}
acme_mpi.SGE.pauses_s = (0.1, 1.0)


def f(x, y):
    return x + y


def meet(x, n_hosts):
    open(f"on-{{socket.gethostname()}}", "w").close()
    until(lambda: len(glob.glob("on-grid*")) == n_hosts)
    return x


def brief(x):
    time.sleep(0.05)
    return x


def wait_for_permission(folder, x):
    open(f"{{folder}}/begun{{x}}", "w").close()
    while not os.path.exists(f"{{folder}}/allowed"):
        time.sleep(0.01)
    return x


def until(condition):
    end_s = time.monotonic() + LIMIT_S
    while not condition():
        assert time.monotonic() < end_s
        time.sleep(0.05)


def fails(action):
    try:
        action()
    except (acme_mpi.AcmeMpiError, TimeoutError) as error:
        return [type(error).__name__, str(error)]


"""

Client = Callable[[str], dict[str, Any]]


def call_sandbox(
    state: Path, *args: str, cwd: Path | None = None
) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, str(SANDBOX), f"--state={state}", *args],
        cwd=cwd,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=2 * LIMIT_S,
    )


@pytest.fixture(scope="module")
def grid_engine() -> Iterator[Path]:
    """Start a Grid Engine, and end it after the module; return its state."""
    state = Path(tempfile.mkdtemp(prefix="sge-"))
    try:
        started = call_sandbox(state, "up", f"--end-with={os.getpid()}")
        if started.returncode == CANNOT_RUN:
            pytest.skip(started.stderr.strip())
        assert started.returncode == 0, started.stderr
        yield state
    finally:
        ended = call_sandbox(state, "down")
        assert ended.returncode == 0, ended.stderr
        if state.exists():
            state.rmdir()


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Create a directory whose name Grid Engine does not take for the path of a log."""
    path = tmp_path / "my dir: a,b"
    path.mkdir()
    return path


@pytest.fixture
def client(grid_engine: Path, folder: Path) -> Client:
    """Return the function that runs a script, and returns what that calls `said`."""

    def run(text: str) -> dict[str, Any]:
        path = folder / "client.py"
        path.write_text(f"{HEAD}{textwrap.dedent(text)}\nprint(json.dumps(said))\n")
        ran = call_sandbox(grid_engine, "run", sys.executable, str(path), cwd=folder)
        assert ran.returncode == 0, ran.stderr
        said: dict[str, Any] = json.loads(ran.stdout.splitlines()[-1])
        return said

    return run


@pytest.mark.every
def test_a_job_waits_runs_and_is_found_again(
    client: Client, folder: Path, mpiexec: Launcher
) -> None:
    # MPICH takes two hosts that are name spaces of one machine for one, and does not connect them.
    pe, n_hosts = ("mpi", 1) if mpiexec.is_hydra else ("spread", 2)
    said = client(
        f"""
        wrong = acme_mpi.SGE(2, pe="nowhere")
        refused = fails(lambda: acme_mpi.submit(f, [1], 1, output_dir="out", launch=wrong))
        said = dict(refused=refused, left=os.listdir())
        launch = acme_mpi.SGE(4, pe="{pe}", queue="all.q", time="10min", extra=["-h"])
        job = acme_mpi.submit(meet, range(32), {n_hosts}, output_dir="out", launch=launch)
        until(lambda: "PENDING (Job is in hold state)" in str(job.status()))
        said["second"] = fails(
            lambda: acme_mpi.submit(meet, range(32), {n_hosts}, output_dir="out", launch=launch)
        )
        subprocess.run(["qrls", job.id], check=True)
        """
    )
    assert said["refused"][0] == "LaunchError"
    assert 'the requested parallel environment "nowhere" does not exist' in said["refused"][1]
    assert said["left"] == ["client.py"]
    assert said["second"][0] == "PlaceError"

    said = client(
        """
        job = acme_mpi.attach("out")
        said = dict(files=job.result(LIMIT_S), state=job.wait(), script=job.script())
        said["log"] = open(job.log).read()
        """
    )
    assert said["files"] == [str(folder / "out" / "meet.h5")]
    assert said["state"] == "COMPLETED"
    assert f"\n#$ -pe {pe} 4\n#$ -q all.q\n#$ -l h_rt=00:10:00\n" in said["script"]
    assert "using 4 workers" in said["log"]
    with h5py.File(said["files"][0]) as file:
        assert [file[f"comp_{i}/result_0"][()].item() for i in range(32)] == list(range(32))


@pytest.mark.once
def test_jobs_that_cannot_begin_say_why(client: Client) -> None:
    said = client(
        """
        many = acme_mpi.submit(f, [1], 1, output_dir="many", launch=acme_mpi.SGE(1000))
        nowhere = acme_mpi.SGE(1, extra=["-o /nowhere/log"])
        unable = acme_mpi.submit(f, [1], 1, output_dir="unable", launch=nowhere)
        until(lambda: "PENDING (cannot run in PE" in str(many.status()))
        until(lambda: "PENDING (error" in str(unable.status()))
        said = dict(unable=str(unable.status()), waited=fails(lambda: many.wait(0)))
        for job in (many, unable):
            job.cancel()
            said[job.directory[-4:]] = [job.wait(LIMIT_S), *fails(job.result)]
        """
    )
    assert 'can\'t open output file "/nowhere/log"' in said["unable"]
    assert "qmod -cj" in said["unable"]
    assert said["waited"][0] == "TimeoutError"
    for ended in (said["many"], said["able"]):
        assert ended[:2] == ["CANCELLED", "LaunchError"]


@pytest.mark.once
def test_jobs_that_end_early_say_how_and_what_resumes_them(client: Client, folder: Path) -> None:
    said = client(
        """
        def start(name, **words):
            os.makedirs(name)
            launch = acme_mpi.SGE(2, **words)
            return acme_mpi.submit(
                wait_for_permission, name, range(4), output_dir=name, launch=launch
            )

        def is_running(job):
            return os.path.exists(f"{job.directory}/begun0")

        def has_ranks(job):
            command = ["pgrep", "--full", f"acme_mpi.--call.{job.directory}/"]
            return not subprocess.run(command, stdout=subprocess.DEVNULL).returncode

        killed, cancelled = (start(name, pe="spread") for name in ("killed", "cancelled"))
        asked = start("asked", extra=["-notify"])
        # An hour may be over in some seconds if the script says so.
        soon = f"export {END_TIME}=$(($(date +%s) + 5))"
        hour = acme_mpi.SGE(2, pe="spread", time="1h", prologue=[soon])
        late = acme_mpi.submit(brief, range(10000), output_dir="late", launch=hour)
        for job in (killed, cancelled, asked):
            until(lambda: is_running(job))
        said = dict(running=str(killed.status()), had_ranks=has_ranks(killed))
        subprocess.run(["qdel", killed.id, asked.id], check=True, stdout=subprocess.DEVNULL)
        cancelled.cancel(grace_s=0)
        until(lambda: "was asked to by SIGUSR2" in open(asked.log).read())
        open("asked/allowed", "w").close()
        for job in (killed, cancelled, asked, late):
            said[job.directory.rpartition("/")[2]] = [job.wait(LIMIT_S), *fails(job.result)]
            until(lambda: not has_ranks(job))
        """
    )
    assert "RUNNING, 0 of 4 tasks done" in said["running"]
    assert said["had_ranks"]
    state, kind, text = said["killed"]
    assert (state, kind) == ("FAILED", "StoppedError")
    assert "FAILED (assumedly after job, status 137 (Killed))" in text
    assert "the last lines of" in text
    job_folder = folder / "killed" / ".acme_mpi" / "wait_for_permission" / "job0"
    assert f"resume with: qsub '{job_folder}/script.sh'" in text
    assert said["cancelled"][:2] == ["CANCELLED", "StoppedError"]
    for state, kind, text in (said["asked"], said["late"]):
        assert (state, kind) == ("FAILED", "StoppedError")
        assert "has ended with status 75" in text
