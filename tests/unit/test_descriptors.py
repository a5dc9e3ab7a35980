"""Closed standard streams and the C locale cost neither results nor a traceback of ours."""

from __future__ import annotations

import subprocess
import sys

import h5py
import pytest
from conftest import start_environment

from acme_mpi.history.description import Description

pytestmark = pytest.mark.once

MODULE = """
import acme_mpi


def f(größe):
    print("hello")
    return größe


if __name__ == "__main__":
    own = open("own", "w")  # has the number of a stream that is closed
    acme_mpi.map(f, [1, 2], output_dir="out")
    print("after")
    own.write("own")
"""


def run(folder, line, **env):
    (folder / "m.py").write_text(MODULE, encoding="utf-8")
    command = ["bash", "-c", line.replace("PYTHON", sys.executable)]
    return subprocess.run(
        command, cwd=folder, env={**start_environment(), **env}, capture_output=True, timeout=60
    )


@pytest.mark.parametrize("closed", [">&-", "2>&-", ">&- 2>&-", "<&- >&- 2>&-"])
@pytest.mark.parametrize(
    "command", ["-m acme_mpi m:f --set größe=[1,2] --output-dir out -q", "m.py"]
)
def test_closed_streams_are_nothing(tmp_path, command, closed):
    ran = run(tmp_path, f"PYTHON {command} {closed}", PYTHONUTF8="1")

    assert (ran.returncode, ran.stderr) == (0, b"")
    with h5py.File(tmp_path / "out/f.h5") as file:
        assert len(file) == 2
    if command == "m.py":
        assert (tmp_path / "own").read_text() == "own"


@pytest.mark.parametrize(("where", "status"), [("| :", 0), (">/dev/full", 74)])
@pytest.mark.parametrize(
    "command",
    ["status .", "status --help", "doctor --help", "--version", "m:f --set größe=[1,2] --plan"],
)
def test_output_that_cannot_be_written_costs_no_traceback(tmp_path, command, where, status):
    folder = tmp_path / ".acme_mpi" / "f"
    folder.mkdir(parents=True)
    Description("f", 2, "rank").write(str(folder), 0)

    ran = run(tmp_path, f"set -o pipefail; PYTHON -m acme_mpi {command} {where}", PYTHONUTF8="1")

    assert ran.returncode == status
    assert b"Traceback" not in ran.stderr
    assert b"Exception ignored" not in ran.stderr
    assert ran.stderr.count(b"standard output: No space left") == (status == 74)


C_LOCALE = {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}


@pytest.mark.parametrize(("options", "status"), [("--no-write", 0), ("--output-dir out", 2)])
def test_names_are_found_in_the_c_locale(tmp_path, options, status):
    line = f"PYTHON -m acme_mpi m:größer --set größe=[1,2] --split größe {options} -q"

    ran = run(tmp_path, f"sed -i 's/def f/def größer/' m.py; {line}", **C_LOCALE)

    assert ran.returncode == status, ran.stderr
    assert b"Traceback" not in ran.stderr
    assert (b"set LC_ALL=C.UTF-8" in ran.stderr) == (status == 2)


def test_a_run_that_the_locale_cannot_name_is_not_called_damaged(tmp_path):
    folder = tmp_path / ".acme_mpi" / "größer"
    folder.mkdir(parents=True)
    Description("größer", 2, "rank").write(str(folder), 0)

    ran = run(tmp_path, "PYTHON -m acme_mpi status .", **C_LOCALE)

    assert ran.returncode == 2
    assert b"set LC_ALL=C.UTF-8" in ran.stderr
    assert b"damaged" not in ran.stderr


@pytest.mark.parametrize("command", ["-m acme_mpi m:f --set größe=[1] --no-write", "m.py"])
def test_a_launchers_variable_that_is_no_number_is_one_message(tmp_path, command):
    env = {"PMI_RANK": "abc", "PMI_SIZE": "2"}

    ran = run(tmp_path, f"PYTHON {command}", PYTHONUTF8="1", **env)

    assert ran.returncode in (1, 2), "of Python, where a script does not catch it"
    assert ran.stderr.count(b"PMI_") >= 1
    assert b"ValueError" not in ran.stderr


CALLS = """
import acme_mpi
def größer(x): return x
for call in (
    lambda: acme_mpi.map(größer, [1]),
    lambda: acme_mpi.map(größer, [1], resume=True),
    lambda: acme_mpi.map(abs, [1], output_dir="größer"),
    lambda: acme_mpi.ParallelMap(größer, [1]),
    lambda: acme_mpi.ParallelMap(größer, [1], write_pickle=True, output_dir="out"),
):
    try:
        call()
    except acme_mpi.PlaceError as error:
        assert "set LC_ALL=C.UTF-8" in str(error), error
    else:
        raise AssertionError("not refused")
print(acme_mpi.map(größer, [1], write_worker_results=False))
"""


def test_names_without_a_file_name_are_refused_in_the_c_locale(tmp_path):
    (tmp_path / "calls.py").write_text(CALLS, encoding="utf-8")
    env = {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}

    ran = run(tmp_path, "PYTHON calls.py", **env)

    assert (ran.returncode, ran.stdout) == (0, b"[1]\n"), ran.stderr
    assert {each.name for each in tmp_path.iterdir()} <= {"calls.py", "m.py"}
