"""After a function was mended: one command calls again what has failed."""

from __future__ import annotations

import logging

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


def test_what_failed_is_called_again_with_the_mended_function(tmp_path, caplog):
    options = {"output_dir": str(tmp_path / "out"), "payload": "rank"}
    with pytest.raises(acme_mpi.TaskError):
        acme_mpi.map(load(tmp_path, BROKEN), [0, 1, 2], **options)

    with pytest.raises(acme_mpi.PlaceError, match="the source of `f` has changed"):
        acme_mpi.map(load(tmp_path, MENDED), [0, 1, 2], resume=True, **options)
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
