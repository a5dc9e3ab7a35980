"""A single file with large arrays, whose bytes are written where they stay."""

from __future__ import annotations

import errno
import os
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
from conftest import read_content
from resume_runs import FAILED, Place

import acme_mpi
from acme_mpi.cli.commands import run_command

N_TASKS = 12
LARGE = np.arange(10_000.0)


def large(x):
    return LARGE + x


def odd(x):
    """Return what is often, but not always, of the form of the first result."""
    if x % 4 == 2:
        return np.arange(9000 + x)
    return (LARGE + x, f"text {x}") if x % 4 == 3 else LARGE + x


def first_is_large(x):
    return 0 if x else LARGE


def late_names(x):
    return {"b": LARGE + x, "a": x} if x % 3 else (LARGE + x, x)


def failing(x):
    if x == 7 and not os.path.exists("mended"):
        raise ValueError("bad")
    return LARGE + x


def run(func: Any, folder: Path, **options: Any) -> Path:
    acme_mpi.map(func, range(N_TASKS), output_dir=str(folder), single_file=True, **options)
    return folder / f"{func.__name__}.h5"


def verify(path: Path, func: Any) -> None:
    """Check that a container has what the function returns, and that nothing else is left."""
    with h5py.File(path, "r") as file:
        assert list(file) == [f"comp_{x}" for x in range(N_TASKS)]
        for x in range(N_TASKS):
            verify_task(file[f"comp_{x}"], func(x))
    assert run_command(["check", str(path.parent)]) == 0
    assert not [left for left in dot_folder(path.parent).iterdir() if left.name[:2] in ("sl", "sp")]


def verify_task(group: h5py.Group, value: Any) -> None:
    names = list(value) if isinstance(value, dict) else []
    parts = list(value.values()) if names else value
    parts = parts if isinstance(parts, (tuple, list)) else [parts]
    numbered = [f"result_{k}" for k in range(len(parts))]
    assert list(group) == [
        name
        for pair in zip(names or numbered, numbered, strict=True)
        for name in dict.fromkeys(pair)
    ]
    for name, part in zip(numbered, parts, strict=True):
        assert not group[name].external
        found = group[name].asstr()[()] if isinstance(part, str) else group[name][()]
        np.testing.assert_array_equal(np.squeeze(found), part)


@pytest.fixture
def stopped(tmp_path, monkeypatch) -> Path:
    """Return the folder of a run with a task that has failed."""
    monkeypatch.chdir(tmp_path)
    with pytest.raises(acme_mpi.TaskError):
        run(failing, tmp_path / "out")
    Path("mended").touch()
    return tmp_path / "out"


def dot_folder(folder: Path) -> Path:
    return next(folder.glob(".acme_mpi/*/"))


@pytest.mark.parametrize("func", [large, odd, late_names])
def test_any_mixture_of_forms_is_kept(func, tmp_path):
    verify(run(func, tmp_path / "out"), func)


def test_inputs_can_be_added(tmp_path, monkeypatch):
    path = run(large, tmp_path / "out")
    monkeypatch.setattr("test_slots.N_TASKS", N_TASKS + 4)

    verify(run(large, tmp_path / "out", resume="force"), large)
    assert path.stat().st_size < (N_TASKS + 2) * 1.2 * LARGE.nbytes


def test_few_large_results_make_no_large_file(tmp_path):
    path = run(first_is_large, tmp_path / "out")

    assert path.stat().st_size < 2 * LARGE.nbytes
    verify(path, first_is_large)


def test_equal_runs_write_equal_files(tmp_path):
    first, second = (run(odd, tmp_path / name).read_bytes() for name in "ab")

    assert first == second


def test_where_no_file_has_two_names_it_is_copied(tmp_path, monkeypatch):
    def refuse(*names: str) -> None:
        raise OSError(errno.EPERM, os.strerror(errno.EPERM))

    monkeypatch.setattr(os, "link", refuse)
    verify(run(large, tmp_path / "out"), large)


def test_the_bytes_are_not_written_again(stopped):
    spool = sum(path.stat().st_size for path in dot_folder(stopped).glob("spool/*"))

    assert spool < 2 * LARGE.nbytes
    assert (stopped / "failing.h5").samefile(dot_folder(stopped) / "slots.taken.h5")


def test_a_container_is_not_changed_by_a_later_run(stopped):
    before = (stopped / "failing.h5").read_bytes()
    with open(stopped / "failing.h5", "rb") as old:
        path = run(failing, stopped, resume="failed")

        assert old.read() == before
    verify(path, large)


def test_results_are_read_without_a_container(stopped):
    (stopped / "failing.h5").unlink()

    with acme_mpi.open(stopped) as results:
        np.testing.assert_array_equal(results[3], LARGE + 3)


@pytest.mark.parametrize("n_bytes", [None, 0, 300_000])
def test_what_is_gone_is_computed_again(n_bytes, stopped):
    (stopped / "failing.h5").unlink()
    slots = dot_folder(stopped) / "slots.taken.h5"
    if n_bytes is None:
        slots.unlink()
    else:
        os.truncate(slots, n_bytes)

    with pytest.raises(acme_mpi.TaskError):  # of the task that has failed
        run(failing, stopped, resume=True)
    verify(run(failing, stopped, resume="failed"), large)


def test_slots_that_cannot_be_read_take_nothing(stopped):
    """The bytes in them are known by offsets, whatever HDF5 says."""
    (stopped / "failing.h5").unlink()
    taken = dot_folder(stopped) / "slots.taken.h5"
    with open(taken, "r+b") as file:
        file.write(bytes(48))
    taken.rename(dot_folder(stopped) / "slots.h5")

    verify(run(failing, stopped, resume="failed"), large)


@pytest.mark.slow
@pytest.mark.parametrize("n", [1, 3])
def test_ranks_share_them(n, tmp_path, mpiexec):
    place = Place(tmp_path, mpiexec, 24)
    command = ("large", "--single-file", "--output-dir", "out")
    os.mkfifo(tmp_path / "gate")
    # Neither rank calls all tasks: one of them waits in the first for the other in the last.
    place.order(_0="wait", _20="fail", _23="open")
    ran = place.run(2, *command)
    assert ran.returncode == FAILED, ran.stderr
    folder = tmp_path / "out"
    assert (folder / "large.h5").samefile(dot_folder(folder) / "slots.taken.h5")
    place.order()
    place.take_calls()

    ran = place.run(n, *command, "--retry-failed")

    assert ran.returncode == 0, ran.stderr
    assert place.take_calls() == {20: 1}
    content = read_content(folder / "large.h5")
    assert len([name for name in content if name.endswith("result_0")]) == 24
    with h5py.File(folder / "large.h5") as file:
        for x in range(24):
            assert (file[f"comp_{x}/result_0"][()] == x).all()
