"""When a run has to be over: what the user allows, and what Slurm tells."""

from __future__ import annotations

import math
import time
from datetime import datetime

import pytest

from acme_mpi.comm.launcher import END_TIME
from acme_mpi.engine import deadline
from acme_mpi.engine.deadline import deadline_s, job_left_s, parse_end

pytestmark = pytest.mark.once


@pytest.fixture(autouse=True)
def outside_slurm(monkeypatch):
    for name in ("SLURM_JOB_ID", "SLURM_JOB_END_TIME"):
        monkeypatch.delenv(name, raising=False)
    deadline._job_end_s.cache_clear()


@pytest.fixture
def squeue(tmp_path, monkeypatch):
    """Return a function that has ``squeue`` answer with a text."""

    def answer(text: str) -> None:
        program = tmp_path / "squeue"
        program.write_text(f"#!/bin/sh\necho {text}\n")
        program.chmod(0o755)
        monkeypatch.setenv("PATH", str(tmp_path), prepend=":")

    return answer


def in_600_s() -> str:
    return datetime.fromtimestamp(time.time() + 600).isoformat(timespec="seconds")


def left_s(limit_s: float, n_tasks: int = 0) -> float:
    return deadline_s(limit_s, n_tasks) - time.monotonic()


def test_without_a_limit_there_is_no_deadline():
    assert deadline_s(0, 10) == math.inf


@pytest.mark.parametrize(
    ("limit_s", "expected_s"), [(1, 0.5), (10, 9), (100, 95), (1000, 950), (86400, 86340)]
)
def test_some_of_the_time_is_kept_for_the_end(limit_s, expected_s):
    assert left_s(limit_s) == pytest.approx(expected_s, abs=0.5 if limit_s > 1 else 0.1)


def test_many_results_take_time_to_be_linked():
    assert left_s(1000) - left_s(1000, 10**6) == pytest.approx(20, abs=0.5)


@pytest.mark.parametrize("text", ["NONE", "N/A", "Unknown", ""])
def test_without_a_limit_the_end_is_never(text):
    assert parse_end(text) == math.inf


def test_a_script_of_a_job_may_tell_its_end():
    assert job_left_s({END_TIME: str(int(time.time()) + 300)}) == pytest.approx(300, abs=2)
    assert job_left_s({END_TIME: "soon"}) == math.inf


class TestSlurm:
    def test_the_end_of_the_job_is_taken_where_it_is_told(self):
        environ = {"SLURM_JOB_ID": "7", "SLURM_JOB_END_TIME": str(int(time.time()) + 300)}

        assert job_left_s(environ) == pytest.approx(300, abs=2)

    def test_a_script_with_many_runs_asks_once(self, squeue, tmp_path, monkeypatch):
        squeue(f"{in_600_s()} && echo $@ >>{tmp_path}/asked")
        monkeypatch.setattr(deadline, "ASKED_ANEW_S", 1e9)

        found = [job_left_s({"SLURM_JOB_ID": "7"}) for _ in range(3)]

        assert found == [pytest.approx(600, abs=5)] * 3
        assert (tmp_path / "asked").read_text() == "--noheader --jobs=7 --format=%e\n"

    def test_a_job_past_its_end_has_nothing_left(self, squeue):
        squeue("2020-01-01T00:00:00")

        assert job_left_s({"SLURM_JOB_ID": "7"}) == 0

    def test_the_form_of_the_answer_is_not_the_users(self, squeue, monkeypatch):
        """Users may have squeue show times otherwise."""
        monkeypatch.setenv("SLURM_TIME_FORMAT", "relative")
        squeue(f"$(test $SLURM_TIME_FORMAT = standard && echo {in_600_s()})")

        assert job_left_s({"SLURM_JOB_ID": "7"}) == pytest.approx(600, abs=5)

    def test_the_earlier_of_both_counts(self, monkeypatch):
        monkeypatch.setenv("SLURM_JOB_ID", "7")
        monkeypatch.setenv("SLURM_JOB_END_TIME", str(int(time.time()) + 100))

        assert left_s(1000) == pytest.approx(95, abs=3)
        assert left_s(10) == pytest.approx(9, abs=0.5)

    def test_without_an_answer_there_is_no_limit(self, monkeypatch, caplog):
        monkeypatch.setenv("PATH", "/nonexistent")

        assert job_left_s({"SLURM_JOB_ID": "7"}) == math.inf
        assert "the time limit of job 7 is not known" in caplog.text
