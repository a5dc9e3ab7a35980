"""Ranks that all run a script do what rank 0's call says, though their own calls differ."""

from __future__ import annotations

import json
from typing import Any, NamedTuple

import pytest

pytestmark = [pytest.mark.every, pytest.mark.slow]

PROGRAM = """
import json
import logging
import os
import sys

from mpi4py import MPI

import acme_mpi.comm.mpi
from acme_mpi import LaunchError, ParallelMap

MEMORY = {"write_worker_results": False}
RANK = MPI.COMM_WORLD.rank
IS_FIRST = RANK == 0


def double(x):
    return 2 * x


def process(i):
    return os.getpid()


def n_threads(i):
    return int(os.environ["OMP_NUM_THREADS"])


def n_threads_by_one_rank():
    return ParallelMap(n_threads, [0], n_workers=1, **MEMORY).compute()


class Herald(logging.Handler):
    def emit(self, record):
        if "still waiting" in record.getMessage():
            open("missed", "w").close()


def come_late():
    acme_mpi.comm.mpi.ROLL_CALL_S = 0
    logging.getLogger("acme_mpi").addHandler(Herald())
    while RANK == 1 and not os.path.exists("missed"):
        os.sched_yield()
    return ParallelMap(double, [1, 2], **MEMORY).compute()


def debug_on_rank(rank):
    return ParallelMap(process, range(2), **MEMORY).compute(debug=RANK == rank)


def try_first_on_rank(rank):
    return ParallelMap(double, [1, 2], dryrun=RANK == rank, **MEMORY).compute()


def retire_all():
    pmap = ParallelMap(double, [1, 2], **MEMORY)
    if IS_FIRST:
        pmap.client.retire_workers([0, 1])
    try:
        return pmap.compute()
    except LaunchError as error:
        return str(error)


def n_inputs():
    pmap = ParallelMap(double, [1, 2] if IS_FIRST else [1, 2, 3], **MEMORY)
    return pmap.n_inputs, len(pmap.compute())


def shape():
    pmap = ParallelMap(double, [1, 2], result_shape=(None,) if IS_FIRST else None, **MEMORY)
    return pmap.result_shape, pmap.compute().tolist()


def log_file():
    return ParallelMap(double, [1], logfile="log" if IS_FIRST else "nowhere/log", **MEMORY).logfile


def nested(x):
    inner = ParallelMap(double, [x, x], **MEMORY).compute()
    return inner + acme_mpi.map(double, [x], **MEMORY)


def debug_nested():
    return ParallelMap(nested, [1, 2], **MEMORY).compute(debug=True)


class OwnError(Exception):
    pass


def fail(x):
    raise OwnError


def debug_failure():
    try:
        ParallelMap(fail, [1], **MEMORY).compute(debug=True)
    except Exception as error:
        return isinstance(error, OwnError)


acts = {
    "threads": n_threads_by_one_rank,
    "late": come_late,
    "debug on rank 0": lambda: debug_on_rank(0),
    "debug on rank 1": lambda: debug_on_rank(1),
    "try first on rank 0": lambda: try_first_on_rank(0),
    "try first on rank 1": lambda: try_first_on_rank(1),
    "retired": retire_all,
    "inputs": n_inputs,
    "shape": shape,
    "log": log_file,
    "nested": debug_nested,
    "failure": debug_failure,
}
facts = {name: acts[name]() for name in sys.argv[1:] or acts}
facts |= {"process": os.getpid(), "cores": len(os.sched_getaffinity(0))}
with open(f"facts{RANK}.json", "w") as file:
    json.dump(facts, file)
"""


class Ranks(NamedTuple):
    """What both ranks have found, and what was said."""

    facts: list[dict[str, Any]]
    stderr: str

    def same(self, name: str) -> Any:
        """Return what both ranks have found alike."""
        first, second = (facts[name] for facts in self.facts)
        assert first == second
        return first


@pytest.fixture(scope="module")
def ranks(mpiexec, tmp_path_factory) -> Ranks:
    """Run the program once."""
    folder = tmp_path_factory.mktemp("ranks")
    (folder / "program.py").write_text(PROGRAM)
    ran = mpiexec(2, "program.py", cwd=folder)
    assert ran.returncode == 0, ran.stderr
    facts = [json.loads((folder / f"facts{rank}.json").read_text()) for rank in range(2)]
    return Ranks(facts, ran.stderr)


def test_a_rank_that_does_not_come_to_a_map_is_named(ranks):
    assert ranks.stderr.count("still waiting: rank(s) 1 of 2 have not made this call") == 1
    assert ranks.same("late") == [2, 4]


def test_debugging_is_what_rank_0_says(ranks):
    agents = [facts["process"] for facts in ranks.facts]

    assert ranks.same("debug on rank 0") == agents[:1] * 2
    assert not set(ranks.same("debug on rank 1")) & set(agents)


@pytest.mark.parametrize("rank", [0, 1])
def test_one_task_is_tried_first_if_rank_0_says_so(ranks, rank):
    assert ranks.same(f"try first on rank {rank}") == [2, 4]


def test_workers_that_rank_0_alone_has_retired_are_retired(ranks):
    assert ranks.same("retired").startswith("<ParallelMap> no active workers found")


def test_the_shape_of_results_is_that_of_rank_0(ranks):
    assert ranks.same("shape") == [[2], [2, 4]]


def test_the_number_of_inputs_is_that_of_rank_0(ranks):
    assert ranks.same("inputs") == [2, 2]


def test_the_log_file_is_that_of_rank_0(ranks):
    """It alone writes to it."""
    assert ranks.same("log").endswith("/log")


def test_calls_of_a_function_that_is_debugged_are_its_own(ranks):
    assert ranks.same("nested") == [[2, 2, 2], [4, 4, 4]]


def test_an_exception_of_the_script_can_be_caught_on_every_rank(ranks):
    assert ranks.same("failure") is True


def test_threads_of_a_rank_are_its_share_of_the_cores(ranks):
    """Threads of a rank are its share also while others have nothing to do."""
    facts = ranks.facts[0]

    assert facts["threads"] == [max(1, facts["cores"] // 2)]
