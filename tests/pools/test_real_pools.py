"""Pools and executors on real ranks, of scripts that these serve, and in plain Python.

Starts are dear: `pool_program` checks all facts in one, and each test looks at one of them.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
from collections.abc import Callable
from typing import Any

import pool_program
import pytest
from conftest import by_stacks
from pool_program import FACTS, MANY, OF_MEMORY
from running import wait_until
from watching import kill_rank

pytestmark = pytest.mark.slow

SIZES = [0, 1, 2, 4]  # 0: plain Python
FULL_SIZES = [0, 2]
USUAL = [name for name in FACTS if name not in MANY + OF_MEMORY]
# Those that the number of ranks may change: who gets which call, and who waits for whom.
OF_RANKS = [
    "values_come_in_order",
    "every_rank_calls",
    "few_processes_call_for_a_small_pool",
    "an_initializer_is_called_once_per_process",
    "the_processes_of_an_initializer_end_with_its_pool",
    "kill_ends_one_call_of_many",
    "short_calls_do_not_wait_behind_a_long_one",
    "one_of_many_short_calls_takes_long",
    "one_of_many_short_calls_dies",
    "terminate_ends_what_runs_soon",
    "close_and_join_finish_all",
    "pools_and_maps_are_open_at_the_same_time",
    "a_map_comes_between_calls_that_never_end",
    "many_functions_take_turns",
    "threads_submit_new_functions",
    "a_generator_is_drawn_as_values_are_taken",
    "what_tasks_print_appears",
]
EACH_SIZE = by_stacks(SIZES, every=[2])
SCRIPT_MODE = ["-m", "acme_mpi"]


@pytest.fixture(scope="module")
def facts(mpiexec, tmp_path_factory) -> Callable[..., tuple[dict[str, str], str]]:
    """Return the function that checks facts on `n` ranks: what is wrong, and what was printed."""
    done: dict[Any, Any] = {}

    def check(n: int, *names: str) -> tuple[dict[str, str], str]:
        names = names or ((*USUAL, *OF_MEMORY) if n in FULL_SIZES else (*OF_RANKS,))
        if (n, names) not in done:
            folder = tmp_path_factory.mktemp(f"pools{n}")
            command = [*(SCRIPT_MODE if n else []), pool_program.__file__, "report.json", *names]
            ran = mpiexec(n, *command, timeout_s=280, cwd=folder)
            report = json.loads((folder / "report.json").read_text())
            done[n, names] = report, ran.stdout + ran.stderr
        return done[n, names]

    return check


@pytest.mark.parametrize("name", OF_RANKS)
@pytest.mark.parametrize("n", EACH_SIZE)
def test_fact_of_ranks(facts, n, name):
    report, said = facts(n)

    assert report.get(name, "not begun: " + said[-3000:]) == "", said[-2000:]


@pytest.mark.parametrize("name", [name for name in (*USUAL, *OF_MEMORY) if name not in OF_RANKS])
@pytest.mark.parametrize("n", by_stacks(FULL_SIZES, every=[2]))
def test_fact(facts, n, name):
    report, said = facts(n)

    assert report.get(name, "not begun: " + said[-3000:]) == "", said[-2000:]


@pytest.mark.many
@pytest.mark.parametrize("n", SIZES)
def test_three_gib_travel(facts, n):
    report, said = facts(n, *MANY)

    assert report == dict.fromkeys(MANY, ""), said


@pytest.mark.parametrize("n", EACH_SIZE)
def test_what_tasks_print_appears_once(facts, n):
    _, said = facts(n)

    for x in range(6):
        assert said.count(f"<said by task {x}>") == 1
        assert said.count(f"<warned by task {x}>") == 1


WORKS = """\
import os
import signal

import acme_mpi


def f(x):
    open(f"begun/{x}", "w").close()
    while True:
        signal.pause()


open("pid", "w").write(str(os.getpid()))
pool = acme_mpi.Pool()
results = [pool.apply_async(f, (x,)) for x in range(20)]
"""


@pytest.fixture
def works(mpiexec, tmp_path) -> Callable[..., subprocess.CompletedProcess[str]]:
    """Return the function that has n ranks serve a script whose pool works.

    Nothing may be left behind; `then` is called once so many tasks run.
    """
    (tmp_path / "begun").mkdir()

    def run(n: int, text: str, n_tasks: int = 0, then: Any = None) -> Any:
        (tmp_path / "script.py").write_text(WORKS + text)

        def during(start_id: str) -> None:
            if then is not None:
                wait_until(lambda: len(os.listdir(tmp_path / "begun")) >= n_tasks)
                then(start_id)

        command = [*SCRIPT_MODE, "script.py"]
        return mpiexec(n, *command, cwd=tmp_path, timeout_s=30, during=during)

    return run


ENDS = 'executor = acme_mpi.Executor()\nwhile not os.listdir("begun"):\n    os.sched_yield()\n'


@pytest.mark.parametrize("n", by_stacks([0, 1, 3], every=[3]))
def test_a_script_ends_without_closing_its_pool(works, n):
    ran = works(n, ENDS)

    assert ran.returncode == 0, ran.stderr


@pytest.mark.once
def test_plain_python_ends_without_closing_its_pool(mpiexec, tmp_path):
    (tmp_path / "begun").mkdir()
    (tmp_path / "script.py").write_text(WORKS + ENDS)

    ran = mpiexec(0, "script.py", cwd=tmp_path, timeout_s=30)

    assert ran.returncode == 0, ran.stderr


@pytest.mark.parametrize("n", by_stacks([0, 3], every=[3]))
def test_a_script_is_killed_while_its_pool_works(works, tmp_path, n):
    def kill_script(start_id: str) -> None:
        os.kill(int((tmp_path / "pid").read_text()), signal.SIGKILL)

    assert works(n, "results[0].get()\n", max(n, 1), kill_script).returncode != 0


@pytest.mark.parametrize("rank", by_stacks([0, 1], every=[1]))
def test_a_rank_is_killed_while_a_pool_works(works, rank):
    def kill_it(start_id: str) -> None:
        assert kill_rank(start_id, rank)

    assert works(3, "results[0].get()\n", 3, kill_it).returncode != 0
