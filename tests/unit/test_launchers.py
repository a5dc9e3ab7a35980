"""Launchers: their words, their scripts, and what is made of the answers of Slurm's commands."""

from __future__ import annotations

import os
import socket
import subprocess
from itertools import pairwise
from pathlib import Path

import pytest

from acme_mpi import SGE, InputError, Local, Slurm
from acme_mpi.errors import LaunchError
from acme_mpi.launchers import local as local_module
from acme_mpi.launchers import slurm as slurm_module
from acme_mpi.launchers.base import Order, State
from acme_mpi.launchers.environment import clean_environment
from acme_mpi.launchers.queue import Queue
from acme_mpi.launchers.slurm import job_number, parse_sacct, parse_squeue

pytestmark = pytest.mark.once

JOB_SBATCH = Path(__file__).parents[2] / "scripts" / "job.sbatch"
ORDER = Order("f", "/o/.acme_mpi/f/job0", "/my dir", ("python", "-m", "acme_mpi"), "/o")


def lines_of(launcher: Slurm | Local) -> list[str]:
    return launcher.script(ORDER).splitlines()


@pytest.mark.parametrize(
    ("text", "time"),
    [
        ("2h", "02:00:00"),
        ("90min", "01:30:00"),
        ("90 min", "01:30:00"),
        ("1h30m", "01:30:00"),
        ("1-00:00:00", "1-00:00:00"),
        ("36h", "1-12:00:00"),
        ("10:00", "00:10:00"),
    ],
)
def test_times_are_written_as_slurm_does(text, time):
    assert Slurm(1, time=text).time == time


@pytest.mark.parametrize(
    ("text", "mem"), [("8G", "8G"), ("8GB", "8G"), ("1536M", "1536M"), ("1.5g", "1536M")]
)
def test_memory_is_written_as_slurm_does(text, mem):
    assert Slurm(1, mem=text).mem == mem


@pytest.mark.parametrize(
    ("words", "named"),
    [
        ({"n": 0}, "`n` has to be a whole number >= 1, not 0"),
        ({"n": True}, "not True"),
        ({"n": 2.0}, "not 2.0"),
        ({"time": "2"}, "'2'"),
        ({"time": 7200}, "7200"),
        ({"time": "soon"}, "'soon'"),
        ({"mem": "8"}, "'8'"),
        ({"mem": "much"}, "'much'"),
        ({"partition": "a b"}, "'a b'"),
        ({"partition": "-p"}, "'-p'"),
        ({"account": "a\nsrun rm"}, "account"),
        ({"nodes": 0}, "`nodes`"),
        ({"cpus_per_task": -1}, "`cpus_per_task`"),
        ({"gpus_per_rank": 0}, "`gpus_per_rank`"),
        ({"extra": ["rm"]}, "'rm'"),
        ({"extra": ["--a\n--b"]}, "one line"),
        ({"prologue": 3}, "`prologue`"),
        ({"again": 1}, "`again`"),
    ],
)
def test_wrong_words_are_refused(words, named):
    with pytest.raises(InputError, match=named.replace("'", ".").replace("`", ".")):
        Slurm(**{"n": 1, **words})


def test_only_what_was_said_is_said_to_slurm():
    options = [line for line in lines_of(Slurm(4)) if line.startswith("#SBATCH")]

    assert options == [
        "#SBATCH --job-name=f",
        "#SBATCH --ntasks=4",
        "#SBATCH --output=/o/.acme_mpi/f/job0/log",
        "#SBATCH --open-mode=append",
        "#SBATCH --signal=USR2@120",
    ]
    assert 'srun --kill-on-bad-exit=1 --ntasks=4 python -m acme_mpi "$@"' in lines_of(Slurm(4))


def test_what_each_rank_has_is_said_to_srun_too():
    extra = ["--x=a b"]
    lines = lines_of(
        Slurm(4, mem="2G", cpus_per_task=3, gpus_per_rank=1, time="10min", extra=extra)
    )
    of_ranks = "--cpus-per-task=3 --mem=2G --gpus-per-task=1"

    for option in (*of_ranks.split(), "--time=00:10:00", "--signal=USR2@60"):
        assert f"#SBATCH {option}" in lines
    assert '#SBATCH "--x=a b"' in lines
    assert any("srun" in line and of_ranks in line for line in lines)
    assert "cd '/my dir' || exit" in lines


@pytest.mark.parametrize("launcher", [Slurm(4), Slurm(4, again=True), Local(2), Local(1000)])
def test_scripts_are_bash(launcher):
    bash = subprocess.run(
        ["bash", "-n"], input=launcher.script(ORDER), text=True, capture_output=True
    )

    assert not bash.stderr


def test_a_job_that_goes_on_does_as_the_one_to_copy():
    """Its loop is that of scripts/job.sbatch."""
    said = lines_of(Slurm(4, again=True))
    copied = JOB_SBATCH.read_text()
    loop = copied[copied.index("    status=$?") : copied.index("\ndone\n")]

    assert loop in "\n".join(said)
    assert {"#SBATCH --no-kill", "#SBATCH --requeue"} <= set(said)


def test_states_are_read_from_squeue():
    text = "17|PENDING|Priority|2026-01-02T03:04:05\n18|RUNNING|None|2026-01-01T00:00:00\n?|\n"
    found = parse_squeue(text)

    assert found["17"] == State("PENDING", "Priority", "2026-01-02T03:04:05")
    assert str(found["17"]) == "PENDING (Priority), expected to begin at 2026-01-02T03:04:05"
    assert found["18"] == State("RUNNING")
    assert set(found) == {"17", "18"}


def test_states_are_read_from_sacct():
    found = parse_sacct("17|CANCELLED by 1000\n18|OUT_OF_MEMORY\n18.batch|FAILED\n")

    assert found == {"17": State("CANCELLED", "by 1000"), "18": State("OUT_OF_MEMORY")}
    assert all(state.is_over for state in found.values())


def test_a_slurm_that_is_not_there_is_named(monkeypatch):
    monkeypatch.setenv("PATH", "/nowhere")

    with pytest.raises(LaunchError, match="cannot run sbatch"):
        Slurm(1).submit("script.sh", "log", "/")
    assert Slurm.states({"17": "script.sh"}) is None


def test_a_script_that_has_just_begun_is_not_taken_for_gone(monkeypatch):
    """Between exec and the first instruction a process has no command line, nor has a zombie."""
    monkeypatch.setattr(local_module, "command_line", lambda pid: [])
    ended = subprocess.Popen(["true"])
    os.waitid(os.P_PID, ended.pid, os.WEXITED | os.WNOWAIT)
    jobs = {f"{socket.gethostname()} {pid}": "script.sh" for pid in (os.getpid(), ended.pid)}

    assert [*Local.states(jobs)] == [*jobs][:1]
    ended.wait()


def test_what_jobs_around_have_set_is_not_passed_on(monkeypatch):
    foreign = "SLURM_JOB_ID SBATCH_TIMELIMIT PMI_RANK PMIX_RANK OMPI_COMM_WORLD_RANK HYDRA_X PRTE_X"
    own = "PATH LD_LIBRARY_PATH SLURM_CONF OMPI_MCA_btl VIRTUAL_ENV"
    environment = dict.fromkeys([*foreign.split(), *own.split()], "x")

    assert set(clean_environment(environment)) == set(own.split())


class Asked(Slurm):
    """Counts how often it is asked."""

    n_asked = 0

    @classmethod
    def states(cls, scripts):
        cls.n_asked += 1
        return dict.fromkeys(scripts, State("PENDING"))


def test_slurm_is_asked_once_for_all_jobs_and_seldom():
    now_s = 0.0
    queue = Queue(Asked, lambda: now_s)
    queue.state("1", "a"), queue.state("2", "b")
    before = Asked.n_asked
    asked_s = []
    while now_s < 300:
        queue.state("1", "a"), queue.state("2", "b")
        if Asked.n_asked > before:
            before = Asked.n_asked
            asked_s.append(now_s)
        now_s += 0.5

    pauses_s = [after - first for first, after in pairwise(asked_s)]
    assert pauses_s == sorted(pauses_s)
    assert pauses_s[0] >= 2
    assert pauses_s[-1] == 60


def test_a_controller_that_does_not_answer_ends_no_job(monkeypatch):
    queue = Queue(Slurm, lambda: 0.0)
    monkeypatch.setattr(slurm_module, "call", lambda *a: subprocess.CompletedProcess(a, 1, "", ""))

    state = queue.state("1", "a")

    assert state is not None
    assert not state.is_over


@pytest.mark.parametrize("launcher", [Local(2), Slurm(2), SGE(2)], ids=lambda each: each.kind)
def test_nobody_reads_half_an_id(launcher, tmp_path):
    """A job whose id is empty for a moment would be taken for one that has gone."""
    script = launcher.script(ORDER._replace(folder=str(tmp_path)))
    [line] = [each for each in script.splitlines() if "job/id" in each]
    (tmp_path / "id").write_text("7\n")
    before = (tmp_path / "id").stat().st_ino
    words = {"job": str(tmp_path), "SLURM_JOB_ID": "8", "JOB_ID": "8", "HOSTNAME": "8"}

    subprocess.run(["bash", "-c", line], env={**os.environ, **words}, check=True)

    assert (tmp_path / "id").read_text().startswith("8")
    assert (tmp_path / "id").stat().st_ino != before
    assert [path.name for path in tmp_path.iterdir()] == ["id"]


@pytest.mark.parametrize(
    ("text", "number"),
    [
        ("123\n", "123"),
        ("123;alpha\n", "123"),
        ("Welcome to alpha\n123\n", "123"),
        ("Submitted batch job 123\n", "123"),
        ("Submitted batch job 123 on cluster alpha\n", "123"),
        ("", None),
        ("0 jobs of 123 are yours\n", None),
    ],
)
def test_a_submitted_job_has_the_number_that_sbatch_says(text, number):
    assert job_number(text) == number
