"""How a job of Slurm is told to have ended, by a Slurm that says what a test wants it to say."""

from __future__ import annotations

import subprocess
from collections.abc import Callable, Sequence
from typing import Any

import pytest

import acme_mpi
from acme_mpi import InputError, LaunchError, PlaceError
from acme_mpi.jobs.job import Job
from acme_mpi.launchers import queue as queue_module
from acme_mpi.launchers import slurm as slurm_module
from acme_mpi.symptoms import symptom

pytestmark = pytest.mark.once

Answers = dict[str, str]


def add(x, y):
    return x + y


@pytest.fixture
def answers(monkeypatch: pytest.MonkeyPatch, tmp_path: Any) -> Answers:
    """Return what the commands of Slurm print; a test may change it."""
    said = {"sbatch": "17\n", "squeue": "17|PENDING|Priority|N/A\n", "scancel": "", "sacct": ""}

    def call(command: Sequence[str], *more: Any) -> subprocess.CompletedProcess[str]:
        return subprocess.CompletedProcess(command, 0, said[command[0]], "")

    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(slurm_module, "call", call)
    monkeypatch.setattr(acme_mpi.Slurm, "pauses_s", (0.0, 0.0))
    monkeypatch.setattr(queue_module, "_QUEUES", {})
    return said


@pytest.fixture
def submit(answers: Answers) -> Callable[[], Job]:
    launch = acme_mpi.Slurm(2)
    return lambda: acme_mpi.submit(add, [1, 2], 3, output_dir="out", launch=launch)


@pytest.mark.parametrize("state", ["OUT_OF_MEMORY", "TIMEOUT", "NODE_FAIL", "CANCELLED", "FAILED"])
@pytest.mark.parametrize("who", ["squeue", "sacct"])
def test_an_end_without_results_names_the_state(answers, submit, state, who):
    job = submit()
    with open(job.log, "w") as log:
        log.write("first words\nlast words\n")
    answers["squeue"] = ""
    answers[who] = f"17|{state}\n"

    with pytest.raises(
        LaunchError, match=rf"job 17 on Slurm has ended before .*: {state}"
    ) as raised:
        job.result()
    assert "\n    last words\n" in str(raised.value)
    assert f"resume with: sbatch {job.log.removesuffix('log')}script.sh" in str(raised.value)
    answers["sacct"] = answers["squeue"] = ""  # they forget
    assert acme_mpi.attach("out").wait() == state


def test_what_the_log_tells_of_is_cured(answers, submit):
    """Also what stands above the lines that are shown."""
    job = submit()
    with open(job.log, "w") as log:
        log.write("srun: error: n1: task 0: Bus error\n" + "more\n" * 20)
    answers["squeue"] = "17|OUT_OF_MEMORY\n"

    with pytest.raises(LaunchError) as raised:
        job.result()

    for name in ("shared memory", "memory"):
        assert f"\n  {symptom(name).cure}\n" in str(raised.value)


def test_what_mpiexec_says_of_any_failure_is_left_out(answers, submit):
    job = submit()
    rule = "-" * 74
    with open(job.log, "w") as log:
        log.write(f"our words\n{rule}\nmpiexec detected\n\n  Exit code:    2\n{rule}\n")
    answers["squeue"] = "17|FAILED\n"

    with pytest.raises(LaunchError, match=r"log:\n    our words\n  resume with"):
        job.result()


def test_one_that_is_gone_is_unknown(answers, submit):
    job = submit()
    answers["squeue"] = ""

    assert job.wait() == "UNKNOWN"


def test_a_requeued_job_has_not_ended(answers, submit):
    job = submit()
    answers["squeue"] = "17|PENDING|BeginTime|2026-01-01T00:00:00\n"

    with pytest.raises(TimeoutError, match=r"PENDING \(BeginTime\), expected to begin at 2026"):
        job.wait(0)
    assert str(job.status()).startswith("job 17 on Slurm: PENDING (BeginTime)")


def test_a_second_job_is_refused_until_the_first_has_ended(answers, submit):
    submit()
    with pytest.raises(PlaceError, match=r"job 17 on Slurm: PENDING \(Priority\)"):
        submit()
    answers["squeue"] = "17|CANCELLED|None|N/A\n"
    answers["sbatch"] = "18\n"

    assert submit().id == "18"


def test_a_damaged_record_is_named(submit):
    job = submit()
    path = job.log.removesuffix("log") + "job.json"
    with open(path, "w") as file:
        file.write('{"name": 3}')

    with pytest.raises(InputError, match=r"job\.json, is damaged"):
        acme_mpi.attach("out")


@pytest.mark.parametrize("seconds", [-1, "2", True, float("nan")])
def test_a_timeout_is_a_number_of_seconds(submit, seconds):
    with pytest.raises(InputError, match="`timeout` has to be None or seconds >= 0"):
        submit().wait(seconds)
