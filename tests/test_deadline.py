"""When a run has to be over: what the user allows, and what Slurm tells."""

from __future__ import annotations

import math
import time

import pytest

from acme_mpi import deadline
from acme_mpi.deadline import deadline_s, job_left_s, parse_left


@pytest.fixture(autouse=True)
def outside_slurm(monkeypatch):
    for name in ("SLURM_JOB_ID", "SLURM_JOB_END_TIME"):
        monkeypatch.delenv(name, raising=False)
    deadline._job_end_s.cache_clear()


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


@pytest.mark.parametrize(
    ("text", "expected_s"),
    [
        ("12:34", 754),
        ("1:02:03", 3723),
        ("2-03:04:05", 183845),
        ("UNLIMITED", math.inf),
        ("NOT_SET", math.inf),
        ("", math.inf),
        ("0:00", 0),
        ("INVALID", 0),
    ],
)
def test_squeue_is_understood(text, expected_s):
    assert parse_left(text) == expected_s


class TestSlurm:
    def test_the_end_of_the_job_is_taken_where_it_is_told(self):
        environ = {"SLURM_JOB_ID": "7", "SLURM_JOB_END_TIME": str(int(time.time()) + 300)}

        assert job_left_s(environ) == pytest.approx(300, abs=2)

    def test_a_script_with_many_runs_asks_once(self, tmp_path, monkeypatch):
        program = tmp_path / "squeue"
        program.write_text(f'#!/bin/sh\necho "$@" >>{tmp_path}/asked\necho 10:00\n')
        program.chmod(0o755)
        monkeypatch.setenv("PATH", str(tmp_path), prepend=":")
        monkeypatch.setattr(deadline, "ASKED_ANEW_S", 1e9)

        found = [job_left_s({"SLURM_JOB_ID": "7"}) for _ in range(3)]

        assert found == [pytest.approx(600, abs=5)] * 3
        assert (tmp_path / "asked").read_text() == "--noheader --jobs=7 --format=%L\n"

    def test_the_earlier_of_both_counts(self, monkeypatch):
        monkeypatch.setenv("SLURM_JOB_ID", "7")
        monkeypatch.setenv("SLURM_JOB_END_TIME", str(int(time.time()) + 100))

        assert left_s(1000) == pytest.approx(95, abs=3)
        assert left_s(10) == pytest.approx(9, abs=0.5)

    def test_without_an_answer_there_is_no_limit(self, monkeypatch, caplog):
        monkeypatch.setenv("PATH", "/nonexistent")

        assert job_left_s({"SLURM_JOB_ID": "7"}) == math.inf
        assert "the time limit of job 7 is not known" in caplog.text
