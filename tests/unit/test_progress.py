"""What is seen of a run: a bar where it can move, else lines, soon at first and rarely later."""

from __future__ import annotations

import logging
import re
import sys
from pathlib import Path

import pytest

from acme_mpi.comm import passes_on_whole_lines
from acme_mpi.engine import progress
from acme_mpi.engine.progress import Progress

once = pytest.mark.once


class Clock:
    """A time that goes on when it is told to."""

    def __init__(self):
        self.now_s = 1000.0

    def __call__(self):
        return self.now_s


@pytest.fixture
def show(monkeypatch, caplog):
    """Return a function that shows a run of 100 tasks, one a second, and returns its lines."""

    def show(bar, is_watched, whole_lines, n_seconds=100):
        # Another test's `ParallelMap` may have left one that writes to the console.
        for name in ("acme_mpi", "ACME"):
            monkeypatch.setattr(logging.getLogger(name), "handlers", [])
        monkeypatch.setattr(progress, "is_watched", lambda: is_watched)
        monkeypatch.setattr(progress, "passes_on_whole_lines", lambda: whole_lines)
        clock = Clock()
        shown = Progress(n_seconds, bar, clock=clock)
        with caplog.at_level(logging.INFO, "acme_mpi"):
            for _ in range(n_seconds):
                clock.now_s += 1
                shown.add(1, 0)
                shown.look()
            shown.close()
        return caplog.messages

    return show


@once
def test_a_launcher_that_passes_on_lines_gets_lines(show, capsys):
    """A watched launcher that passes on lines gets lines every few seconds."""
    lines = show(None, is_watched=True, whole_lines=True)

    assert lines[0] == "5 of 100 tasks done, 5 s, 1 tasks/s, about 95 s left"
    assert lines[1].startswith("10 of 100 tasks done, 10 s")
    assert lines[-1] == "100 of 100 tasks done, 100 s, 1 tasks/s"
    assert len(lines) == 21
    assert capsys.readouterr() == ("", "")


@once
def test_a_short_run_that_is_watched_tells_its_end(show):
    assert len(show(None, is_watched=True, whole_lines=True, n_seconds=2)) == 1


@once
def test_where_nobody_watches_a_short_run_is_silent(show):
    """Where nobody watches lines come and a short run is silent."""
    assert show(None, is_watched=False, whole_lines=False, n_seconds=4) == []
    assert len(show(None, is_watched=False, whole_lines=False)) == 21


@once
def test_a_long_run_is_told_once_a_minute_in_the_end(show):
    lines = show(None, is_watched=False, whole_lines=False, n_seconds=36_000)

    assert len(lines) < 36_000 / 60 + 60
    assert int(lines[-2].split()[0]) - int(lines[-3].split()[0]) == 60


@once
def test_a_bar_where_it_can_move(show, capsys):
    assert show(None, is_watched=True, whole_lines=False) == []
    assert "100%" in capsys.readouterr().err


@once
def test_a_bar_that_cannot_move_is_shown_at_the_end(show, capsys):
    """A bar that is wanted where it cannot move is shown at the end."""
    lines = show(True, is_watched=False, whole_lines=True)

    assert lines[0].startswith("5 of 100 tasks done")
    assert re.fullmatch(r"tasks: 100% \|#+\| 100/100 \[01:40<00:00\]\n", capsys.readouterr().err)


@once
def test_without_a_bar_a_line_comes_once_a_minute(show):
    lines = show(False, is_watched=True, whole_lines=False)

    assert [line.split()[0] for line in lines] == ["60", "100"]


@once
def test_a_line_comes_while_the_first_tasks_run(caplog):
    clock = Clock()
    shown = Progress(8, clock=clock)
    clock.now_s += 6
    with caplog.at_level(logging.INFO, "acme_mpi"):
        shown.look()

    assert caplog.messages == ["0 of 8 tasks done, 6 s"]


@pytest.mark.parametrize(
    ("environ", "expected"),
    [
        ({}, False),
        ({"OMPI_COMM_WORLD_SIZE": "2", "PRTE_LAUNCHED": "1"}, True),
        ({"OMPI_COMM_WORLD_SIZE": "2", "OMPI_VERSION": "4.1"}, False),
        ({"SLURM_STEP_NUM_TASKS": "2"}, False),
        ({"SLURM_STEP_NUM_TASKS": "2", "SLURM_LABELIO": "1"}, True),
    ],
)
@once
def test_who_passes_on_whole_lines(environ, expected):
    assert passes_on_whole_lines(environ) is expected


@pytest.mark.every
def test_the_launcher_of_these_tests_is_known(mpiexec):
    """Of those that are tested, Open MPI 5 alone waits for the end of a line."""
    program = (
        "import os; from acme_mpi.comm import passes_on_whole_lines; "
        "print(passes_on_whole_lines(), os.environ.get('OMPI_VERSION', '').startswith('5'))"
    )
    environment = {"PYTHONPATH": str(Path(__file__).parents[2])}

    ran = mpiexec(1, "-c", program, env=environment)
    assert ran.returncode == 0, ran.stderr
    found, is_fifth = ran.stdout.split()

    assert found == is_fifth


@once
@pytest.mark.parametrize(("option", "expected"), [("-l", True), ("-q", False)])
def test_a_launcher_that_labels_lines_passes_on_whole_ones(tmp_path, mpiexec, option, expected):
    """Seen in its command line: a shell by the name of mpiexec stands in for MPICH's."""
    program = "from acme_mpi.comm import passes_on_whole_lines as p; print(p())"
    (tmp_path / "probe.py").write_text(program)
    (tmp_path / "mpiexec").write_text('shift\n"$@"\nexit\n')
    ran = mpiexec(
        0,
        "-c",
        f"import os; os.execv('/bin/sh', ['mpiexec', 'mpiexec', '{option}', "
        f"{sys.executable!r}, 'probe.py'])",
        cwd=tmp_path,
        env={"PYTHONPATH": str(Path(__file__).parents[2])},
    )

    assert ran.stdout.split() == [str(expected)], ran.stderr


@once
def test_who_draws_a_picture_is_told_and_nothing_is_said(caplog):
    clock = Clock()
    told: list[tuple[int, int]] = []
    shown = Progress(1000, True, clock=clock, tell=lambda *counts: told.append(counts))

    for _ in range(600):
        clock.now_s += 1.0
        shown.add(1, 0)
        shown.look()
    shown.close()

    assert told[:3] == [(1, 0), (2, 0), (3, 0)]
    assert 120 <= len(told) < 250  # at least every 5 s
    assert caplog.records == []
