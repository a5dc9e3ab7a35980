"""SIGKILL of single runners at any moment: all other results are right, bit by bit.

The results are large enough for the runners to write them in place, or nearly so.
"""

from __future__ import annotations

import os
import random
import shutil
from typing import Any

import pytest
from resume_runs import PLACING
from test_kills import Killed, compare_with_holes
from watching import Watch, kill_runner

from acme_mpi.cli.commands import run_command

pytestmark = [pytest.mark.slow, pytest.mark.once]

N_TASKS = 60
N_RUNS = int(os.environ.get("ACME_MPI_TEST_RUNNER_KILLS", "50"))  # of each layout
OFTEN = ("rank", "computation, rows", "single file, rows", "single file, ragged")
DONE, SOME_FAILED = 0, 1
N_KILLS = 10  # in one run, at most


def run_with_kills(killed: Killed, chosen: random.Random) -> Any:
    """Run on 2 or 3 ranks and kill runners after random numbers of changes of files."""

    def kill(start_id: str, watch: Watch) -> None:
        n_left, n_kills, has_begun = chosen.randrange(1, 20), 0, False
        for path in watch.changes(start_id):
            # Not while the function is loaded: a rank that cannot do that takes no tasks.
            has_begun = has_begun or path.parent.name == "calls"
            n_left -= has_begun
            if n_left <= 0 and n_kills < N_KILLS:
                kill_runner(start_id, chosen)
                n_left, n_kills = chosen.randrange(1, 20), n_kills + 1

    return killed.run_until(chosen.choice([2, 3]), kill)


def check_all(killed: Killed, expected: Any) -> None:
    """Check that what is recorded is right, and that nothing else is in the container."""
    compare_with_holes(killed.content(), expected, killed.done(), N_TASKS)
    assert run_command(["check", str(killed.out)]) == 0
    killed.verify_what_is_there(expected)


def kill_runners(killed: Killed, n_runs: int, seed: int, capsys: Any) -> None:
    ran = killed.run(0)
    assert ran.returncode == DONE, ran.stderr
    expected = killed.content()
    options = killed.options
    for k in range(n_runs):
        chosen = random.Random(f"{seed} {k}")
        shutil.rmtree(killed.out)
        try:
            # Tasks whose runner was killed are given up, or called again, perhaps elsewhere.
            killed.options = [*options, "--crash-limit", str(chosen.choice([1, 2, 9]))]
            ran = run_with_kills(killed, chosen)
            assert ran.returncode in (DONE, SOME_FAILED), ran.stderr
            check_all(killed, expected)
            if ran.returncode == SOME_FAILED:
                killed.options.append("--retry-failed")
                killed.finish(chosen.choice([0, 2]), expected, ran.stderr)
        except BaseException as error:
            said = f"{ran.stderr}\n{capsys.readouterr()}"
            error.add_note(f"{killed.store}, seed {seed}, run {k}\n{said}")
            raise


@pytest.fixture
def killed(request, tmp_path, mpiexec) -> Killed:
    return Killed(tmp_path, mpiexec, request.param, PLACING[request.param], N_TASKS)


@pytest.mark.parametrize("killed", OFTEN, indirect=True)
def test_killed_runners_spoil_nothing(killed, capsys):
    kill_runners(killed, 1, random.randrange(10**6), capsys)


@pytest.mark.many
@pytest.mark.timeout(3000)
@pytest.mark.parametrize("killed", PLACING, indirect=True)
def test_many_killed_runners_spoil_nothing(killed, capsys):
    kill_runners(killed, N_RUNS, random.randrange(10**6), capsys)
