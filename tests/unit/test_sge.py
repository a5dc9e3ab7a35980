"""The launcher of Grid Engine: its words, its script, and what is made of the answers of 8.1.9."""

from __future__ import annotations

import subprocess

import pytest

from acme_mpi import SGE, InputError
from acme_mpi.cli.job_commands import launcher_of_words, submit_parser
from acme_mpi.comm.launcher import END_TIME
from acme_mpi.errors import LaunchError
from acme_mpi.launchers import sge as sge_module
from acme_mpi.launchers.base import Order, State
from acme_mpi.launchers.environment import clean_environment
from acme_mpi.launchers.sge import parse_qacct, parse_qstat, parse_reasons

pytestmark = pytest.mark.once

ORDER = Order("<lambda>", "/o/.acme_mpi/f/job0", "/my dir", ("python", "-m", "acme_mpi"), "/o")

QSTAT = """\
<?xml version='1.0'?>
<job_info  xmlns:xsd="http://arc.liv.ac.uk/repos/darcs/sge/source/dist/util/resources/schemas/qstat\
/qstat.xsd">
  <queue_info>
    <job_list state="running">
      <JB_job_number>11</JB_job_number>
      <JAT_prio>0.25000</JAT_prio>
      <JB_name>my_%+f</JB_name>
      <JB_owner>root</JB_owner>
      <state>{}</state>
      <JAT_start_time>2026-11-29T13:34:03</JAT_start_time>
      <queue_name>all.q@grid</queue_name>
      <slots>1</slots>
    </job_list>
  </queue_info>
  <job_info>
    <job_list state="pending">
      <JB_job_number>8</JB_job_number>
      <JAT_prio>0.25000</JAT_prio>
      <JB_name>a.sh</JB_name>
      <JB_owner>root</JB_owner>
      <state>Eqw</state>
      <JB_submission_time>2026-11-29T13:34:03</JB_submission_time>
      <queue_name></queue_name>
      <slots>1</slots>
    </job_list>
  </job_info>
</job_info>
"""
QSTAT_J = """\
==============================================================
job_number:                 5
exec_file:                  job_scripts/5
job_name:                   a.sh
env_list:                   TERM=NONE
parallel environment:  mpi range: 65
scheduling info:            cannot run in PE "mpi" because it only offers 0 slots
                            a second line
==============================================================
job_number:                 8
stdout_path_list:           NONE:NONE:/nonexistent/x
error reason          1:      11/29/2026 13:34:03 [0:635]: error: can't open output file "/x": No
scheduling info:            Job is in error state
"""
QACCT = """\
==============================================================
start_time   Sun Nov 29 13:34:03 2026
failed       {}
exit_status  {}
ru_wallclock 6s
category     -l h_rt=3
"""


def lines_of(launcher: SGE, order: Order = ORDER) -> list[str]:
    return launcher.script(order).splitlines()


def options_of(launcher: SGE) -> list[str]:
    return [line.removeprefix("#$ ") for line in lines_of(launcher) if line.startswith("#$")]


@pytest.mark.parametrize(
    ("words", "named"),
    [
        ({"n": 0}, "`n` has to be a whole number >= 1, not 0"),
        ({"pe": None}, "`pe` has to be the name of a parallel environment"),
        ({"pe": "a b"}, "'a b'"),
        ({"queue": "-q"}, "'-q'"),
        ({"time": "2"}, "'2'"),
        ({"mem": "much"}, "'much'"),
        ({"extra": ["rm"]}, "'rm'"),
        ({"prologue": ["a\nb"]}, "one line"),
    ],
)
def test_wrong_words_are_refused(words, named):
    with pytest.raises(InputError, match=named.replace("'", ".").replace("`", ".")):
        SGE(**{"n": 1, **words})


def test_only_what_was_said_is_said_to_grid_engine():
    own = ["-S /bin/bash", "-V", "-N _lambda_", "-pe mpi 4"]
    log = ["-wd /o/.acme_mpi/f/job0", "-o log", "-j y"]

    assert options_of(SGE(4)) == [*own, *log]
    launcher = SGE(4, "orte", "all.q", "p", "1-12:00:00", "1536M", ["-l gpu=1"], "module load mpi")
    assert options_of(launcher) == [
        *own[:3],
        "-pe orte 4",
        "-q all.q",
        "-P p",
        "-l h_rt=36:00:00",
        "-l h_vmem=1536M",
        *log,
        "-l gpu=1",
    ]
    lines = lines_of(launcher)
    assert "export ACME_MPI_JOB_END_TIME=$(($(date +%s) + 129600))  # for rank 0" in lines
    assert lines.index("module load mpi") < next(
        i for i, line in enumerate(lines) if line.endswith('mpiexec -n 4 python -m acme_mpi "$@"')
    )
    bash = subprocess.run(["bash", "-n"], input="\n".join(lines), text=True, capture_output=True)
    assert not bash.stderr


@pytest.mark.parametrize(
    ("folder", "said"),
    [("/a b:c,d", '-wd "/a b:c,d"'), ('/a "b"', "-wd '/a \"b\"'"), ("/a $b", None), ("/'\"", None)],
)
def test_a_path_is_said_so_that_grid_engine_takes_it_as_it_is(folder, said):
    order = ORDER._replace(folder=folder)

    if said is not None:
        assert f"#$ {said}" in lines_of(SGE(1), order)
        return
    with pytest.raises(LaunchError, match="cannot be said to Grid Engine"):
        SGE(1).script(order)


def test_the_command_line_has_the_same_words():
    words = "--sge -n 2 --pe orte --queue q --project p --time 2h --mem 8G --extra=-cwd"
    given, rest = submit_parser().parse_known_args([*words.split(), "mymod:f"])

    assert launcher_of_words(given) == SGE(2, "orte", "q", "p", "2h", "8G", ["-cwd"])
    assert rest == ["mymod:f"]


@pytest.mark.parametrize(
    ("letters", "state"),
    [
        ("r", State("RUNNING")),
        ("Rr", State("RUNNING")),
        ("t", State("RUNNING")),
        ("qw", State("PENDING")),
        ("hqw", State("PENDING")),
        ("S", State("SUSPENDED")),
        ("dr", State("COMPLETING", "it is being deleted")),
    ],
)
def test_states_are_read_from_qstat(letters, state):
    found = parse_qstat(QSTAT.format(letters))

    assert found == {"11": state, "8": State("PENDING")}
    assert not any(each.is_over for each in found.values())


def test_reasons_are_read_from_qstat():
    assert parse_reasons(QSTAT_J) == {
        "5": 'cannot run in PE "mpi" because it only offers 0 slots',
        "8": 'error: can\'t open output file "/x": No; when that is mended: qmod -cj 8',
    }


@pytest.mark.parametrize(
    ("failed", "status", "state"),
    [
        ("0    ", "0                   ", State("COMPLETED")),
        ("0    ", "3                   ", State("FAILED", "status 3")),
        (
            "37  : qmaster enforced h_rt, h_cpu, or h_vmem limit",
            "137                  (Killed)",
            State("TIMEOUT", "qmaster enforced h_rt, h_cpu, or h_vmem limit, status 137 (Killed)"),
        ),
        (
            "100 : assumedly after job",
            "137                  (Killed)",
            State("FAILED", "assumedly after job, status 137 (Killed)"),
        ),
        ("26  : opening input/output file", "0", State("FAILED", "opening input/output file")),
    ],
)
def test_the_last_job_of_a_number_is_read_from_qacct(failed, status, state):
    before = QACCT.format("1   : assumedly before job", "0")

    assert parse_qacct(before + QACCT.format(failed, status)) == state
    assert parse_qacct("") is None


def test_a_job_that_has_gone_is_over_once_the_accounting_had_its_time(monkeypatch, tmp_path):
    """Grid Engine writes it with a delay; what the job's own files say needs no accounting."""
    now_s = 0.0
    monkeypatch.setattr(sge_module, "_GONE_S", {})
    monkeypatch.setattr(sge_module.time, "monotonic", lambda: now_s)
    answers = {"qstat": (0, QSTAT.format("r")), "qacct": (1, "")}

    def call(command, *more):
        return subprocess.CompletedProcess(command, *answers[command[0]], "")

    monkeypatch.setattr(sge_module, "call", call)
    scripts = {"7": str(tmp_path / "script.sh")}
    missing = State("COMPLETING", "it is not in the accounting yet")

    assert SGE.states(scripts) == {"7": missing}
    now_s = 20.0
    assert SGE.states(scripts) == {"7": missing}
    answers["qacct"] = 0, QACCT.format("100 : assumedly after job", "137")
    assert SGE.states(scripts) == {"7": State("FAILED", "assumedly after job, status 137")}
    answers["qacct"] = 1, ""
    now_s = 31.0
    assert SGE.states(scripts) == {}
    now_s = 0.0
    (tmp_path / "cancelled").touch()
    assert SGE.states(scripts) == {}


def test_a_grid_engine_that_does_not_answer_ends_no_job(monkeypatch):
    monkeypatch.setenv("PATH", "/nowhere")

    with pytest.raises(LaunchError, match=r"cannot run qsub .* belongs to Grid Engine"):
        SGE(1).submit("script.sh", "log", "/")
    assert SGE.states({"17": "script.sh"}) is None


def test_where_grid_engine_is_stays_known():
    kept = dict.fromkeys(("SGE_ROOT", "SGE_CELL", "SGE_QMASTER_PORT", "PATH"), "x")
    foreign = dict.fromkeys(("SGE_TASK_ID", "SGE_O_HOST", "PE_HOSTFILE", END_TIME), "x")

    assert clean_environment(kept | foreign) == kept
