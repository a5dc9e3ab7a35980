"""Starts of ``python -m acme_mpi`` without a launcher that cost a fork, and no imports.

A server, which is this file as a script, has imported what runs need. For each start it forks
itself; the copy becomes ``__main__`` of the package, with a directory, arguments and files of its
own, and ends as any Python does. Two thirds of the processor time of a small run are imports.
"""

from __future__ import annotations

import contextlib
import ctypes
import importlib
import json
import os
import runpy
import select
import signal
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from acme_mpi.linux.processes import children_of

ENDING_S = 10.0  # processes of a start that has ended are gone by then
PR_SET_CHILD_SUBREAPER = 36
IMPORTED = (
    "h5py",
    "acme_mpi.cli.main",
    "acme_mpi.engine.new_run",
    "acme_mpi.storage.linked",
    "acme_mpi.storage.single_file",
)


class ForkServer:
    """Runs the command line in copies of a process, one at a time.

    Parameters
    ----------
    environment : mapping
        Of the server and of all starts.
    """

    def __init__(self, environment: Mapping[str, str]) -> None:
        self._server = subprocess.Popen(
            [sys.executable, __file__],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            bufsize=0,
            env=environment,
            start_new_session=True,
        )

    def run(
        self, *arguments: str, cwd: Path | str, timeout_s: float
    ) -> subprocess.CompletedProcess[str]:
        """Do ``python -m acme_mpi ARGUMENTS``; late or left processes fail the test."""
        with tempfile.TemporaryDirectory() as folder:
            paths = [os.path.join(folder, name) for name in ("stdout", "stderr")]
            order = {"arguments": arguments, "cwd": str(cwd), "paths": paths}
            assert self._server.stdin is not None
            self._server.stdin.write(json.dumps(order).encode() + b"\n")
            self._server.stdin.flush()
            status, left = self._answer(timeout_s), None
            if status is not None:
                left = self._answer(ENDING_S)
            texts = [Path(path).read_text(errors="replace") for path in paths]
        shown = f"{' '.join(arguments)}\n--- stdout\n{texts[0]}\n--- stderr\n{texts[1]}"
        if status is None:
            pytest.fail(f"not finished after {timeout_s} s: {shown}")
        if left is None:
            pytest.fail(f"processes left behind: {shown}")
        return subprocess.CompletedProcess([*arguments], status, *texts)

    def _answer(self, wait_s: float) -> Any:
        """Return what the server says next; None if that is not in time, and all was ended."""
        assert self._server.stdout is not None
        if select.select([self._server.stdout], [], [], wait_s)[0]:
            return json.loads(self._server.stdout.readline())
        self.close()
        return None

    def close(self) -> None:
        """End the server, and what it has started."""
        while started := children_of(self._server.pid):
            for pid in started:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
        self._server.kill()
        self._server.communicate()


def wait_for_order() -> dict[str, Any]:
    """Return the next order, in a copy of this process that is made for it."""
    # Whoever loses its parent becomes a child of this process, which so knows who has stayed.
    ctypes.CDLL(None).prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)
    while line := sys.stdin.readline():
        if not (pid := os.fork()):
            return dict(json.loads(line))
        status = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
        print(status, flush=True)
        with contextlib.suppress(ChildProcessError):
            while True:
                os.wait()
        print(json.dumps("nobody is left"), flush=True)
    sys.exit()


def main() -> None:
    for name in IMPORTED:
        importlib.import_module(name)
    order = wait_for_order()
    os.setsid()
    os.chdir(order["cwd"])
    flags = os.O_WRONLY | os.O_CREAT
    for number, path in enumerate([os.devnull, *order["paths"]]):
        os.dup2(os.open(path, flags if number else os.O_RDONLY), number)
    os.closerange(3, 16)
    sys.path[0] = order["cwd"]
    sys.argv[1:] = order["arguments"]
    sys.orig_argv[1:] = ["-m", "acme_mpi", *order["arguments"]]
    runpy.run_module("acme_mpi", run_name="__main__", alter_sys=True)


if __name__ == "__main__":
    main()
