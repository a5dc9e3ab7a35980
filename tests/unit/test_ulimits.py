"""Limits of the process that are too small for a run: one message before anything runs."""

from __future__ import annotations

import re
import resource
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

pytestmark = [pytest.mark.once, pytest.mark.slow]

SCRIPT = """\
import acme_mpi

def f(x):
    return x

try:
    acme_mpi.map(f, [1, 2], output_dir="out")
except acme_mpi.InputError as error:
    print(error)
"""
SMALL = [
    ("RLIMIT_FSIZE", 1024, "ulimit -f"),
    ("RLIMIT_AS", 200_000 * 1024, "ulimit -v"),
    ("RLIMIT_NOFILE", 20, "ulimit -n"),
]


def run_limited(path: Path, name: str, n_bytes: int, *command: str) -> Any:
    def limit() -> None:
        resource.setrlimit(getattr(resource, name), (n_bytes, n_bytes))

    return subprocess.run(
        [sys.executable, *command],
        cwd=path,
        preexec_fn=limit,
        capture_output=True,
        text=True,
        timeout=60,
    )


@pytest.mark.parametrize(("name", "n_bytes", "words"), SMALL)
def test_the_command_line_says_which(name, n_bytes, words, module_folder):
    ran = run_limited(module_folder, name, n_bytes, "-m", "acme_mpi", "mymod:f", "args.npz")

    assert ran.returncode == 2, ran.stderr
    assert re.search(rf"is limited to {n_bytes} \w+ here \({words}\), and a run needs", ran.stderr)
    assert "Traceback" not in ran.stderr
    assert sorted(path.name for path in module_folder.iterdir()) == ["args.npz", "mymod.py"]


@pytest.mark.parametrize(("name", "n_bytes", "words"), SMALL)
def test_a_script_gets_an_error(name, n_bytes, words, write_script):
    path = write_script(SCRIPT)
    ran = run_limited(path.parent, name, n_bytes, path.name)

    assert ran.returncode == 0, ran.stderr
    assert words in ran.stdout
    assert not (path.parent / "out").exists()


def test_ranks_are_not_started_where_they_cannot_run(write_script):
    path = write_script(SCRIPT)
    for script in (SCRIPT, SCRIPT.replace("acme_mpi.map", "acme_mpi.launch(2) or acme_mpi.map")):
        path.write_text(f"import os\nos.environ.pop('ACME_MPI_LAUNCH', None)\n{script}")
        ran = run_limited(path.parent, "RLIMIT_FSIZE", 1024, path.name)

        assert (ran.returncode, ran.stderr) == (0, "")
        assert "ulimit -f" in ran.stdout


LARGE = """\
import numpy as np


def f(x):
    return np.full((3 << 20) // 8, float(x))
"""


@pytest.mark.parametrize(
    "options",
    [(), ("--single-file",), ("--payload", "computation"), ("--result-shape", "None,393216")],
)
def test_a_file_that_may_not_grow_is_the_mediums_fault(options, module_folder):
    (module_folder / "large.py").write_text(LARGE)
    ran = run_limited(
        module_folder,
        "RLIMIT_FSIZE",
        2 << 20,
        "-m",
        "acme_mpi",
        "large:f",
        "--set",
        "x=[1,2,3]",
        "--output-dir",
        "out",
        *options,
    )

    assert ran.returncode == 74, ran.stderr
    assert "File too large" in ran.stderr
    assert "Traceback" not in ran.stderr


def test_a_result_without_memory_fails_its_task(module_folder):
    """A result for which there is no memory fails its task in these words."""
    (module_folder / "large.py").write_text(
        "import numpy as np\ndef f(x):\n    return np.zeros(x << 20, 'u1')\n"
    )
    ran = run_limited(
        module_folder,
        "RLIMIT_AS",
        600 << 20,
        "-m",
        "acme_mpi",
        "large:f",
        "--set",
        f"x={[60] * 12}",  # more than the rank has room for; a few fit into its runner
        "--no-write",
        "-q",
    )

    assert ran.returncode == 1, ran.stderr
    assert "returned more than its rank has memory for" in ran.stderr
    assert "Traceback" not in ran.stderr
