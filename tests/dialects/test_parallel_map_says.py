"""What `ParallelMap` asks and says: dry runs, messages, log files."""

from __future__ import annotations

import contextlib
import io
import json
import os
import re
import sys
from pathlib import Path
from typing import Any

import pytest
from computing import CALL, LOG, VALUES, failure_of
from conftest import by_stacks
from parallel_map_program import MEMORY, fail_at

from acme_mpi import ParallelMap, TaskError

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("module_runner", "folder")]


class Terminal(io.StringIO):
    """Standard input at which somebody sits and has typed something."""

    def isatty(self) -> bool:
        return True


def test_a_dry_run_says_what_one_task_has_taken(said):
    ParallelMap(*CALL, dryrun=True)

    first, second, third = [text for _, text in said()]
    assert re.fullmatch(
        r"Performing a single dry-run of f simulating randomly picked worker #[0-3] with "
        r"automatically distributed arguments",
        first,
    )
    assert re.fullmatch(
        r"Dry-run completed\. Elapsed time is \d+\.\d+ seconds, estimated memory consumption was "
        r"\d+\.\d\d MB\.",
        second,
    )
    assert re.fullmatch(
        r"All 4 calls on 1 worker.* would take .+; .+ in files; .+ of memory per rank\.", third
    )


def test_a_dry_run_calls_one_task_and_leaves_nothing(folder):
    calls = folder / "calls"
    calls.mkdir()

    ParallelMap(lambda i: (calls / str(i)).touch(), range(50), dryrun=True, output_dir="out")

    assert len(list(calls.iterdir())) == 1
    assert not Path("out").exists()


def test_without_a_terminal_a_dry_run_goes_on():
    assert ParallelMap(*CALL, dryrun=True, **MEMORY).compute() == VALUES


@pytest.mark.parametrize("answer", ["", "y", "Yes"])
def test_a_dry_run_that_is_answered_by_yes_goes_on(monkeypatch, answer):
    monkeypatch.setattr("sys.stdin", Terminal(f"{answer}\n"))

    assert ParallelMap(*CALL, dryrun=True, **MEMORY).compute() == VALUES


@pytest.mark.parametrize("answer", ["n", "No"])
def test_a_dry_run_that_is_answered_by_no_is_the_end(monkeypatch, folder, answer):
    monkeypatch.setattr("sys.stdin", Terminal(f"{answer}\n"))

    with ParallelMap(*CALL, dryrun=True) as pmap:
        assert pmap.compute() is None

    assert list(folder.iterdir()) == []


def test_a_dry_run_asks_nothing_if_it_is_not_to(monkeypatch):
    monkeypatch.setattr("sys.stdin", Terminal("n\n"))

    pmap = ParallelMap(*CALL, dryrun=True, setup_interactive=False, **MEMORY)

    assert sys.stdin.read() == "n\n"
    assert pmap.compute() == VALUES


def test_a_failed_dry_run_is_a_task_error_and_leaves_nothing(folder):
    with pytest.raises(TaskError) as caught:
        ParallelMap(fail_at, [7, 7, 7], {7}, dryrun=True)

    [failure] = caught.value.failures
    assert failure.index in range(3)
    assert failure.type == "KeyError"
    assert str(caught.value).startswith(f"the dry-run of fail_at failed: task {failure.index} on ")
    assert 'raise KeyError(f"bad {i}")' in str(caught.value)
    assert list(folder.iterdir()) == []


CONVERSATION = """
import json, os, pty, sys

lines, command = json.loads(sys.argv[1]), sys.argv[2:]
pid, terminal = pty.fork()
if pid == 0:
    os.execvp(command[0], command)
said = ""
while True:
    try:
        new = os.read(terminal, 4096).decode(errors="replace")
    except OSError:  # nobody holds the other end any more
        break
    sys.stdout.write(new)
    sys.stdout.flush()
    said += new
    if lines and lines[0][0] in said:
        said = said.partition(lines[0][0])[2]
        os.write(terminal, (lines.pop(0)[1] + "\\n").encode())
sys.exit(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]))
"""

INTERACTIVE = """
import json
import os
import sys
from pathlib import Path

from acme_mpi import ParallelMap


def f(x, y, z=3):
    return (x + y) * z


def stop(x):
    inner = 1000 * x
    breakpoint()
    return inner


declined = ParallelMap(f, [2, 4], 4, dryrun=True, output_dir="out").compute(), os.listdir()
accepted = ParallelMap(f, [2, 4], 4, dryrun=True, write_worker_results=False).compute()
debugged = ParallelMap(stop, [7, 8], write_worker_results=False).compute(debug=True)
Path(sys.argv[1]).write_text(json.dumps([declined, accepted, debugged]))
"""

# What is waited for, and what is typed then. A launcher may keep back a prompt, but no line.
TYPED = [("[Y/n]", "n"), ("[Y/n]", ""), *(2 * [("-> return inner", "inner += 5\nc")])]

# Ways to start a script: ranks, and what stands before its name.
STARTS = {"plain": (0, []), "SPMD": (2, []), "script mode": (2, ["-m", "acme_mpi"])}


@pytest.fixture(scope="module", params=by_stacks(STARTS, every=["SPMD", "script mode"]))
def conversation(request, mpiexec, tmp_path_factory) -> tuple[str, Any, Any, Any]:
    """Return what is said on a terminal from which a script is started, and what that gets."""
    n, options = STARTS[request.param]
    if n and mpiexec.program is None:
        pytest.skip("there is no mpiexec")
    base = tmp_path_factory.mktemp("terminal")
    script, report = base / "script.py", base / "report.json"
    script.write_text(INTERACTIVE)
    launcher = [mpiexec.program, "-n", str(n)] if n else []
    command = [*launcher, sys.executable, *options, script, report]
    ran = mpiexec(0, "-c", CONVERSATION, json.dumps(TYPED), *command, timeout_s=30)
    assert ran.returncode == 0, ran.stdout
    return ran.stdout, *json.loads(report.read_text())


def test_a_dry_run_asks_on_the_terminal(conversation):
    question = "Do you want to continue executing f with the provided arguments? [Y/n]"

    assert conversation[0].count(question) == 2


def test_what_is_answered_on_the_terminal_counts(conversation):
    _, declined, accepted, _ = conversation

    assert declined == [None, []]
    assert accepted == [18, 24]


def test_a_breakpoint_opens_the_debugger_in_every_task(conversation):
    """There the user has added 5 to a variable of the function."""
    assert conversation[-1] == [7005, 8005]


@pytest.mark.parametrize(
    ("verbose", "levels"),
    [
        (None, {"INFO", "ANNOUNCE", "WARNING"}),
        (True, {"DEBUG", "INFO", "ANNOUNCE", "WARNING"}),
        (False, {"WARNING"}),
    ],
)
def test_verbose_is_the_least_level(said, verbose, levels):
    ParallelMap(*CALL, verbose=verbose, output_dir="out", **MEMORY).compute()

    assert {level for level, _ in said()} == levels


def test_a_run_says_what_it_does_and_where_results_are(said):
    pmap = ParallelMap(*CALL)
    pmap.compute()

    (_, start), *_, (level, end) = said()
    assert start == "Preparing 4 parallel calls of `f` using 1 workers"
    assert level == "ANNOUNCE"
    assert end.startswith("SUCCESS!")
    assert end.endswith(f"Results have been saved to {pmap.results_container}")


def test_a_run_says_where_pickled_results_are(said):
    """A run says where results are that the container cannot hold."""
    ParallelMap(lambda i: {i}, range(2), output_dir="out").compute()

    end = said()[-1][1]
    assert end.endswith(f", 2 of them as pickles to {os.path.abspath('out/lambda_payload')}")


def test_a_run_in_memory_says_that_it_is_finished(said):
    ParallelMap(*CALL, **MEMORY).compute()

    assert said()[-1][1].startswith("SUCCESS!")
    assert said()[-1][1].endswith("Finished parallel computation")


def test_messages_go_to_where_stderr_is_now():
    """A test runner or a notebook puts another one in its place."""
    ParallelMap(*CALL, **MEMORY)
    with contextlib.redirect_stderr(io.StringIO()) as stderr:
        ParallelMap(*CALL, **MEMORY).compute()

    assert "<ParallelMap> INFO: Preparing 4 parallel calls of `f`" in stderr.getvalue()


@pytest.mark.parametrize(
    ("keywords", "expected"),
    [
        ({"output_dir": "out"}, f"out/{LOG}"),
        ({"output_dir": "out", "logfile": True}, f"out/{LOG}"),
        ({"output_dir": "out", "logfile": False}, None),
        ({"output_dir": "out", "logfile": "my.log"}, r"my\.log"),
        (MEMORY, None),
        ({"logfile": True, **MEMORY}, LOG),
        ({"logfile": "~/my.log", **MEMORY}, r"home/my\.log"),
    ],
)
def test_where_the_log_file_is(folder, monkeypatch, keywords, expected):
    (folder / "home").mkdir()
    monkeypatch.setenv("HOME", str(folder / "home"))
    pmap = ParallelMap(*CALL, **keywords)
    pmap.compute()

    logs = [str(path) for path in folder.rglob("*.log")]

    assert logs == ([] if expected is None else [pmap.logfile])
    if expected is None:
        assert pmap.logfile is None
    else:
        assert re.fullmatch(expected, os.path.relpath(logs[0]))
        assert "INFO Preparing 4 parallel calls of `f`" in Path(logs[0]).read_text()


def test_the_log_file_is_written_continuously():
    """A task can read what was said before it."""
    path = os.path.abspath("log")

    def read(_: int) -> str:
        return Path(path).read_text()

    [text] = ParallelMap(read, [0], logfile=path, **MEMORY).compute()

    assert "Preparing 1 parallel calls" in text
    assert "SUCCESS!" not in text
    assert "SUCCESS!" in Path(path).read_text()


def test_an_existing_log_file_is_appended_to_with_a_warning(said):
    Path("log").write_text("first\n")

    ParallelMap(*CALL, logfile="log", **MEMORY).compute()

    warning = f"log-file {os.path.abspath('log')} already exists, appending to it"
    assert ("WARNING", warning) in said()
    assert Path("log").read_text().startswith("first\n")
    assert "SUCCESS!" in Path("log").read_text()


def test_a_log_file_is_of_one_run():
    ParallelMap(*CALL, logfile="first", **MEMORY).compute()
    before = Path("first").read_text()

    ParallelMap(*CALL, logfile=False, **MEMORY).compute()

    assert Path("first").read_text() == before


def test_a_failed_run_is_told_in_the_log_file():
    failure_of(ParallelMap(fail_at, range(3), {1}, logfile="log", **MEMORY))

    assert "ERROR 1 of 3 tasks failed, first: task 1" in Path("log").read_text()


@pytest.mark.once
def test_a_quiet_log_file_has_what_the_constructor_has_said(tmp_path):
    pmap = ParallelMap(
        abs,
        [1, 2],
        output_dir=str(tmp_path),
        verbose=False,
        write_pickle=True,
        result_shape=(None,),
    )
    pmap.compute()

    text = Path(pmap.logfile).read_text()
    assert "Pickling of results does not support output array shape specification." in text
    assert " INFO Preparing 2 parallel calls of `abs`" in text


@pytest.mark.once
def test_every_log_file_has_what_is_said_once(said):
    """Whichever run was the first that it was said of."""
    pmaps = [ParallelMap(*CALL, n_workers=8, output_dir=each) for each in ("first", "second")]
    for pmap in pmaps:
        pmap.compute()

    text = "`n_workers` is 8, but the job has 1 rank(s): all are used."
    assert [text in Path(pmap.logfile).read_text() for pmap in pmaps] == [True, True]
    assert [text in each for _, each in said()].count(True) == 1
