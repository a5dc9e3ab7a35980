"""Worlds of many ranks, with six real ranks that take themselves for those of several nodes.

This file is also the script that real ranks run: it prints what they have seen.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from test_comm import CHECKS, expected, run_check

from acme_mpi.comm import mpi, relay, start

pytestmark = pytest.mark.slow

SIZE, N_TASKS = 6, 100
NODES = {"in a row": [0, 0, 0, 1, 1, 2], "in turn": [0, 1, 2, 0, 1, 2], "one": [0] * 6}
# Who exchanges messages with rank 0.
PEERS = {"in a row": [1, 2, 3, 5], "in turn": [1, 2, 3], "one": [1, 2, 3, 4, 5]}


def fail_once(i: int, folder: str) -> int:
    """Every second task fails at its first attempt."""
    mark = Path(folder) / str(i)
    if i % 2 and not mark.exists():
        mark.touch()
        raise ValueError("not yet")
    return i


class Watched(relay.RelayedWorld):
    """Remembers whom it sends messages to."""

    def _isend(self, buffer: Any, dest: int, tag: int) -> None:
        self.told.add(dest)
        super()._isend(buffer, dest, tag)


def main(nodes: str, folder: str) -> None:
    """Do what a test wants to know as one rank; rank 0 prints what all ranks have seen."""
    from mpi4py import MPI

    import acme_mpi
    from acme_mpi.comm import finalize, make_world
    from acme_mpi.rules import Rules

    comm = MPI.COMM_WORLD
    seen: dict[str, Any] = {"plain": comm.gather(type(make_world()).__name__, 0)}
    world = Watched(comm.Dup(), f"node{NODES[nodes][comm.rank]}")
    world.told = set()
    mpi.SLICE_BYTES = 100
    for name in CHECKS:
        seen[name] = comm.gather(run_check(name, world, Path(folder) / name), 0)
    comm.Set_attr(start._keyval(MPI), world)

    for isolate in (True, False):
        marks = Path(folder) / f"marks-{isolate}"
        marks.mkdir(exist_ok=True)
        world.told.clear()
        values = acme_mpi.map(
            fail_once,
            range(N_TASKS),
            folder=str(marks),
            rules=Rules(retries=1),
            isolate=isolate,
            write_worker_results=False,
        )
        seen[f"map {isolate}"] = [list(values), comm.gather(sorted(world.told), 0)]
    if world.is_master:
        print(json.dumps(seen))
    finalize()


@pytest.fixture(scope="module")
def seen_by_real_ranks(mpiexec, tmp_path_factory) -> Callable[[str], dict[str, Any]]:
    """Return a function that gives what ranks have seen on some nodes; each start happens once."""
    seen: dict[str, dict[str, Any]] = {}

    def get(nodes: str) -> dict[str, Any]:
        if nodes not in seen:
            done = mpiexec(SIZE, __file__, nodes, tmp_path_factory.mktemp("real"))
            assert done.returncode == 0, done.stderr
            seen[nodes] = json.loads(done.stdout.splitlines()[-1])
        return seen[nodes]

    return get


# Which ranks pass on what does not depend on the kind of MPI: on a second one they do it once.
@pytest.mark.parametrize(
    "nodes", [pytest.param(n, marks=() if n == "in turn" else pytest.mark.once) for n in NODES]
)
class TestRealRanks:
    @pytest.mark.parametrize("name", CHECKS)
    def test_the_contract_holds(self, name, nodes, seen_by_real_ranks):
        assert seen_by_real_ranks(nodes)[name] == expected(name, SIZE)

    def test_a_run_ends_with_all_results(self, nodes, seen_by_real_ranks):
        """A repeated task is told before the report that ends its chunk, on any way."""
        values, _ = seen_by_real_ranks(nodes)["map True"]

        assert values == list(range(N_TASKS))

    def test_rank_0_talks_to_its_own_node_and_the_first_of_each(self, nodes, seen_by_real_ranks):
        _, told = seen_by_real_ranks(nodes)["map True"]

        assert told[0] == PEERS[nodes]
        assert [rank for rank in range(SIZE) if 0 in told[rank]] == PEERS[nodes]

    def test_agents_that_call_tasks_themselves_pass_nothing_on(self, nodes, seen_by_real_ranks):
        values, told = seen_by_real_ranks(nodes)["map False"]

        assert values == list(range(N_TASKS))
        assert told == [[1, 2, 3, 4, 5]] + [[0]] * (SIZE - 1)

    def test_few_ranks_need_none_of_this(self, nodes, seen_by_real_ranks):
        assert seen_by_real_ranks(nodes)["plain"] == ["MpiWorld"] * SIZE


if __name__ == "__main__":
    main(*sys.argv[1:])
