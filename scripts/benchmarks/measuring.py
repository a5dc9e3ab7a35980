"""Run the sides of a workload in turn, each repetition in new processes."""

import contextlib
import json
import os
import resource
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import uuid
from dataclasses import dataclass, field
from pathlib import Path

from benchmarks import rates
from benchmarks.added import CPU, tell_added
from benchmarks.once import FIGURES
from benchmarks.processes import MARKER

QUICK_TARGET_S = 0.3
PIECE = bytes(2**23)


@dataclass
class Measured:
    """What a side has reached: its figures by name, one dict per repetition; None: it failed."""

    repetitions: list[dict[str, float] | None] = field(default_factory=list)
    trouble: str = ""  # why it failed


class Bench:
    """Measures workloads on this machine.

    Parameters
    ----------
    root : Path
        The checkout.
    peers_python : str
        Interpreter of the peers' environment; empty if there is none.
    directory : str
        Where files are written.
    n_repetitions : int
        Of each side.
    is_quick : bool
        Few and small tasks.
    """

    def __init__(self, root, peers_python, directory, n_repetitions, is_quick):
        self._root, self._peers_python, self._directory = root, peers_python, directory
        self._n_repetitions, self._is_quick = n_repetitions, is_quick
        # The checkout's acme_mpi, whatever is installed.
        self._python_path = f"{root}:{root / 'scripts'}"

    def measure(self, workload):
        """Return what the sides of a workload have reached, by name."""
        measured = {side.name: Measured() for side in workload.sides}
        n_repetitions = min(self._n_repetitions, workload.n_repetitions)
        for k in range(n_repetitions):
            # To and fro: a machine that slows down or speeds up favours no side.
            for side in workload.sides if k % 2 == 0 else workload.sides[::-1]:
                figures = self._measure_side(side, measured[side.name], workload.cache_bytes)
                measured[side.name].repetitions.append(figures)
                told = measured[side.name].trouble if figures is None else shown(figures)
                print(
                    f"{workload.key} {k + 1}/{n_repetitions}  {side.name}: {told}", file=sys.stderr
                )
            tell_added(workload, {name: each.repetitions[k] for name, each in measured.items()})
        return measured

    def _measure_side(self, side, so_far, cache_bytes):
        python = self._peers_python if side.is_peer else sys.executable
        if not python:
            so_far.trouble = "no .venv-bench: call scripts/setup --bench"
            return None
        if so_far.trouble.startswith("no end"):
            return None  # once is enough
        options = side.options | (side.quick if self._is_quick else {})
        if options.get("n_tasks", 0) is None and so_far.repetitions:
            options["n_tasks"] = next(
                (each["n_tasks"] for each in so_far.repetitions if each is not None), None
            )
        try:
            return self._run(python, side, options, cache_bytes)
        except Failed as failed:
            so_far.trouble = str(failed)
            return None

    def _run(self, python, side, options, cache_bytes):
        """Return the figures of one run; None in `options` is found in the run itself."""
        launcher = ["mpiexec", "-n", str(side.n_ranks), "--oversubscribe"] if side.n_ranks else []
        place = tempfile.mkdtemp(dir=self._directory)
        fill_page_cache(place, cache_bytes)
        os.sync()  # nobody pays for what others have left to be written
        start_s, start_cpu_s = time.monotonic(), ended_cpu_s()
        process = subprocess.Popen(
            [*launcher, python, *self._program(side, options, start_s)],
            cwd=place,
            text=True,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            start_new_session=True,
            env={**os.environ, "PYTHONPATH": self._python_path, MARKER: uuid.uuid4().hex},
        )
        try:
            errors = process.communicate(timeout=side.timeout_s)[1]
            elapsed_s = time.monotonic() - start_s
            if process.returncode:
                raise Failed(last_line(errors) or f"exit status {process.returncode}")
            with contextlib.suppress(FileNotFoundError):
                return json.loads(Path(place, FIGURES).read_text())
            return {"seconds": elapsed_s, CPU: 1e6 * (ended_cpu_s() - start_cpu_s)}
        except subprocess.TimeoutExpired:
            raise Failed(f"no end after {side.timeout_s} s") from None
        finally:
            end(process)
            shutil.rmtree(place, ignore_errors=True)

    def _program(self, side, options, start_s):
        """Return the interpreter's arguments."""
        if " " in side.measure:
            return ["-c", side.measure]
        setting = {
            "started_s": start_s,
            "target_s": QUICK_TARGET_S if self._is_quick else rates.TARGET_S,
        }
        work = {"measure": side.measure, "options": options, "setting": setting}
        served = ["-m", "acme_mpi"] if side.is_script else []
        return [*served, "-m", "benchmarks.once", json.dumps(work)]


def fill_page_cache(directory, n_bytes):
    """Write a file and remove it, so that the kernel has memory for another one."""
    with tempfile.TemporaryFile(dir=directory) as file:
        for _ in range(n_bytes // len(PIECE)):
            file.write(PIECE)


class Failed(Exception):
    """A side has not come to an end, or not to a good one."""


def ended_cpu_s():
    """Return the CPU time in seconds of all programs that have ended, and of what they waited for.

    mpiexec waits for ranks, and these for the processes that they have started.
    """
    ended = resource.getrusage(resource.RUSAGE_CHILDREN)
    return ended.ru_utime + ended.ru_stime


def last_line(text):
    """Return the line of `text` that says what went wrong."""
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    errors = [line for line in lines if "Error" in line or "error" in line]
    return (errors or lines or [""])[-1][:200]


def shown(figures):
    return ", ".join(f"{name} {value:.4g}" for name, value in figures.items())


def end(process):
    """End the process, if it still runs, and what it has started."""
    if process.poll() is not None:
        return
    process.terminate()  # mpiexec ends its ranks then, and would leave them alone if killed
    with contextlib.suppress(subprocess.TimeoutExpired):
        process.wait(timeout=10)
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()
