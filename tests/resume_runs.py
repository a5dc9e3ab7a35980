"""Runs that can be resumed: functions that note their calls, and the folder they run in."""

from __future__ import annotations

import json
import os
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np

N_TASKS = 40
# Calls are noted in a folder; tasks fail, or kill everything, as a file tells them to.
MODULE = """\
import json
import os
import signal
import uuid

import numpy as np


def orders():
    try:
        with open("orders.json") as file:
            return json.load(file)
    except FileNotFoundError:
        return {}


def note(index):
    open(os.path.join("calls", f"{index}.{uuid.uuid4().hex}"), "x").close()


def misbehave(index):
    order = orders().get(str(index))
    if order == "fail":
        raise ValueError(f"no result for {index}")
    if order == "die":
        os.kill(os.getpid(), signal.SIGKILL)
    if order == "hang":
        signal.pause()
    if order == "wait":
        os.close(os.open("gate", os.O_RDONLY))  # until somebody opens it for writing
    if order == "open":
        os.close(os.open("gate", os.O_WRONLY))
    return order


def f(x):
    note(x)
    misbehave(x)
    return np.arange(x % 5) + x, f"text {x}"


def g(x, scale=1.0):
    note(x)
    misbehave(x)
    return np.array([x, -x]) * scale


def large(x):
    note(x)
    misbehave(x)
    return np.full((100, 200), float(x))


def ragged(x):
    note(x)
    misbehave(x)
    return np.arange(x % 7, dtype=float)


def more(x):
    note(x)
    misbehave(x)
    return np.array([x, x]), f"more {x}"


def sizes(x):
    note(x)
    misbehave(x)
    n = (8192, 3, 20000, 9000, 100)[x % 5]
    values = np.arange(n) + 1000.0 * x
    return values if x % 3 else (values, f"text {x}", values[: n // 2 + 1] * 2)


def named(x):
    note(x)
    misbehave(x)
    n = (3, 8192, 100)[x % 3]  # some are placed, the second of each task or the last
    return {"text": f"text {x}", "large": np.arange(n) + x, "b": np.arange(8292 - n) - x, "a": None}


def row_and_more(x):
    note(x)
    misbehave(x)
    values = np.arange(9000.0) + 1000 * x
    return (values, values[: (9000, 10)[x % 2]] * 2) if x % 3 else values


def ragged_large(x):
    note(x)
    misbehave(x)
    return np.arange((8192, 3, 20000, 9000, 100)[x % 5]) + 1000.0 * x
"""
STORES: dict[str, tuple[str, ...]] = {
    "rank": ("f",),
    "computation": ("f", "--payload", "computation"),
    "single file": ("f", "--single-file"),
    "rank, rows": ("g", "--result-shape", "None,2"),
    "computation, rows": ("g", "--payload", "computation", "--result-shape", "None,2"),
    "single file, rows": ("g", "--single-file", "--result-shape", "None,2"),
    "single file, last axis": ("g", "--single-file", "--result-shape", "2,None"),
    "rank, large rows": ("large", "--result-shape", "None,100,200"),
    "single file, large": ("large", "--single-file"),
    "rank, ragged": ("ragged", "--result-shape", "None,inf"),
    "single file, ragged": ("ragged", "--single-file", "--result-shape", "None,inf"),
    "single file, more": ("more", "--single-file", "--result-shape", "None,2"),
}
# With results that are large enough for the runners to write them in place, or nearly so.
PLACING: dict[str, tuple[str, ...]] = {
    "rank": ("sizes",),
    "rank, rows": ("large", "--result-shape", "None,100,200"),
    "rank, more": ("row_and_more", "--result-shape", "None,9000"),
    "rank, middle axis": ("large", "--result-shape", "100,None,200"),
    "rank, ragged": ("ragged_large", "--result-shape", "None,inf"),
    "computation": ("sizes", "--payload", "computation"),
    "computation, rows": ("large", "--payload", "computation", "--result-shape", "None,100,200"),
    "computation, more": (
        "row_and_more",
        "--payload",
        "computation",
        "--result-shape",
        "None,9000",
    ),
    "single file": ("sizes", "--single-file"),
    "single file, rows": ("large", "--single-file", "--result-shape", "None,100,200"),
    "single file, more": ("row_and_more", "--single-file", "--result-shape", "None,9000"),
    "single file, last axis": ("large", "--single-file", "--result-shape", "100,200,None"),
    "single file, ragged": ("ragged_large", "--single-file", "--result-shape", "None,inf"),
}
FAILED, STOPPED = 1, 75


class Place:
    """A folder with the module, from which runs are started."""

    def __init__(self, path: Path, mpiexec: Any, n_tasks: int = N_TASKS) -> None:
        self.path, self._mpiexec = path, mpiexec
        (path / "mymod.py").write_text(MODULE)
        (path / "calls").mkdir()
        np.savez(path / "args.npz", x=np.arange(n_tasks))

    def order(self, **orders: str) -> None:
        """Tell tasks what to do: ``order(_3="fail")``."""
        found = {name.lstrip("_"): what for name, what in orders.items()}
        (self.path / "orders.json").write_text(json.dumps(found))

    def run(self, n: int, func: str, *options: str, timeout_s: float = 60, **more: Any) -> Any:
        """Run ``python -m acme_mpi mymod:FUNC args.npz OPTIONS`` on n ranks.

        Without a launcher, and nothing `more`, the imports are done once for all of them.
        """
        command = (f"mymod:{func}", "args.npz", *options)
        if n == 0 and not more:
            return self._mpiexec.fork_server.run(*command, cwd=self.path, timeout_s=timeout_s)
        command = ("-m", "acme_mpi", *command)
        return self._mpiexec(n, *command, cwd=self.path, timeout_s=timeout_s, **more)

    def script(self, n: int, text: str, **more: Any) -> Any:
        """Run a script on n ranks, each of them."""
        (self.path / "script.py").write_text(text)
        return self._mpiexec(n, "script.py", cwd=self.path, **more)

    def take_calls(self) -> Counter[int]:
        """Return how often each task was called since the last time."""
        names = os.listdir(self.path / "calls")
        for name in names:
            (self.path / "calls" / name).unlink()
        return Counter(int(name.split(".")[0]) for name in names)
