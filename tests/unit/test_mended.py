"""After a function was mended: one command calls again what has failed."""

from __future__ import annotations

import logging
import re
import shlex

import h5py
import pytest

import acme_mpi

pytestmark = pytest.mark.once
BROKEN = "def f(x):\n    return 1 / x\n"
MENDED = "def f(x):\n    return 1 / (x or 1)\n"


def load(folder, source):
    path = folder / "mended.py"
    path.write_text(source)
    names: dict = {"__name__": "mended"}
    exec(compile(source, str(path), "exec"), names)
    # By byte code, as its source is looked up no more once it has been.
    names["f"].__code__ = names["f"].__code__.replace(co_filename="<mended>")
    names["f"].__module__ = "__main__"
    return names["f"]


def in_parallel_map(func, *args, **kwargs):
    with acme_mpi.ParallelMap(func, *args, **kwargs) as pmap:
        return pmap.compute()


def test_what_failed_is_called_again_with_the_mended_function(tmp_path, caplog):
    options = {"output_dir": str(tmp_path / "out"), "payload": "rank"}
    with pytest.raises(acme_mpi.TaskError):
        acme_mpi.map(load(tmp_path, BROKEN), [0, 1, 2], **options)

    with pytest.raises(acme_mpi.PlaceError, match="the source of `f` has changed") as refused:
        acme_mpi.map(load(tmp_path, MENDED), [0, 1, 2], resume=True, **options)
    how = f"resume with: resume='failed', output_dir={options['output_dir']!r}\n"
    assert how in str(refused.value)
    with pytest.raises(acme_mpi.PlaceError, match="argument"):
        acme_mpi.map(load(tmp_path, MENDED), [0, 1, 3], resume="failed", **options)
    acme_mpi.map(load(tmp_path, MENDED), [0, 1, 2], resume="failed", **options)


def test_failures_of_an_earlier_run_are_said_to_be_old(tmp_path, caplog):
    options = {"output_dir": str(tmp_path / "out")}
    with pytest.raises(acme_mpi.TaskError):
        acme_mpi.map(load(tmp_path, BROKEN), [0, 1, 2], **options)

    with caplog.at_level(logging.WARNING, "acme_mpi"), pytest.raises(acme_mpi.TaskError):
        acme_mpi.map(load(tmp_path, BROKEN), [0, 1, 2], resume=True, **options)

    assert "1 failure(s) are of an earlier run" in caplog.text
    assert "resume='failed'" in caplog.text


HELPER = "def g(x):\n    return 1 / {}\n"


def test_the_printed_command_uses_the_mended_helper(mpiexec, tmp_path):
    """The printed command calls what failed with the mended helper."""
    (tmp_path / "helpers.py").write_text(HELPER.format("x"))
    (tmp_path / "target.py").write_text("import helpers\ndef f(x):\n    return helpers.g(x)\n")
    line = ["-m", "acme_mpi", "target.py:f", "--set", "x=[0, 1, 2]", "--output-dir", "out"]
    assert mpiexec(0, *line, cwd=tmp_path).returncode == 1
    (tmp_path / "helpers.py").write_text(HELPER.format("((x or 1) + 1)"))

    refused = mpiexec(0, *line, cwd=tmp_path)
    (printed,) = re.findall("resume with: (.*)", refused.stderr)
    _, *command = shlex.split(printed)
    ran = mpiexec(0, *command, cwd=tmp_path)

    assert refused.returncode == 2
    assert "the source of `helpers.g` has changed" in refused.stderr
    assert "1 task(s) that failed" in refused.stderr
    assert ran.returncode == 0, ran.stderr
    with h5py.File(tmp_path / "out" / "f.h5") as file:
        values = [file[f"comp_{k}/result_0"][0] for k in range(3)]
    assert values == [0.5, 1.0, 0.5], "what was done stays"
    assert mpiexec(0, *line, cwd=tmp_path).returncode == 0


def test_nothing_failed_so_nothing_is_to_be_mended(tmp_path):
    options = {"output_dir": str(tmp_path / "out")}
    acme_mpi.map(load(tmp_path, BROKEN), [1, 2], **options)

    with pytest.raises(acme_mpi.PlaceError, match="the source of `f` has changed") as caught:
        acme_mpi.map(load(tmp_path, MENDED), [1, 2], resume=True, **options)

    assert "resume='failed'" not in str(caught.value)


@pytest.mark.parametrize("call", [acme_mpi.map, in_parallel_map])
def test_a_run_that_is_not_resumed_is_named(tmp_path, monkeypatch, caplog, call):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(acme_mpi.TaskError):
        call(load(tmp_path, BROKEN), [0, 1, 2])
    (first,) = tmp_path.glob("ACME_*")

    with caplog.at_level(logging.WARNING, "acme_mpi"):
        call(load(tmp_path, MENDED), [0, 1, 2], resume=True)

    (said,) = [
        each.getMessage() for each in caplog.records if "is not resumed" in each.getMessage()
    ]
    assert "the source of `f` has changed" in said
    assert f"resume with: resume='failed', output_dir={str(first)!r}" in said
    assert len([*tmp_path.glob("ACME_*")]) == 2
