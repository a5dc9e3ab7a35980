"""SIGKILL at any moment, of one rank or of all processes: nothing that was recorded is lost.

The moments are counted in changes of files, not in seconds: a run is killed after so many.
"""

from __future__ import annotations

import functools
import os
import random
import shutil
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from conftest import by_stacks, read_content
from resume_runs import Place
from watching import Watch, kill_all, kill_rank, wait_for_processes

from acme_mpi.cli.commands import run_command
from acme_mpi.comm import SerialWorld
from acme_mpi.history.description import read_description
from acme_mpi.history.records import indices_of, read_history
from acme_mpi.storage import Layout, make_store
from acme_mpi.storage.verify import damaged_bytes

pytestmark = pytest.mark.slow

N_TASKS = 80
N_KILLS = int(os.environ.get("ACME_MPI_TEST_KILLS", "2"))  # of each kind of store
N_KILLS_MORE = 1  # of other forms of results in it
N_LINKED = 4  # runs that are killed one after the other in the same directory, at most
PICKLES = """
from acme_mpi import ParallelMap
from mymod import f

with ParallelMap(
    f, range({n}), write_pickle=True, output_dir="out", resume=True, logfile=False
) as pmap:
    pmap.compute()
"""
STORES: dict[str, tuple[str, ...]] = {
    "rank": ("f",),
    "rank, rows": ("g", "--result-shape", "None,2"),
    "rank, named": ("named",),
    "rank, large": ("large",),
    "rank, large rows": ("large", "--result-shape", "None,100,200"),
    "computation": ("f", "--payload", "computation"),
    "computation, rows": ("g", "--payload", "computation", "--result-shape", "None,2"),
    "single file": ("f", "--single-file"),
    "single file, rows": ("g", "--single-file", "--result-shape", "None,2"),
    "single file, large": ("large", "--single-file"),
    "single file, sizes": ("sizes", "--single-file"),
    "single file, more": ("more", "--single-file", "--result-shape", "None,2"),
    "pickles": ("f",),
}
# What may be left in a dot folder when nothing is left to be done.
OF_RUNS = ("run", "finished", "linked", "labels", "form")
KINDS = ("rank", "computation", "single file", "pickles")
EVERY = ("rank, rows", "single file, rows")  # on every stack
N_OF = dict.fromkeys(
    ("rank, large", "rank, large rows", "single file, large", "single file, sizes"), 24
)


class Killed:
    """Runs of one store that are killed, and what has to be true after each of them."""

    def __init__(
        self, path: Path, mpiexec: Any, store: str, command: Sequence[str] = (), n_tasks: int = 0
    ) -> None:
        self.store, self.out = store, path / "out"
        self.func, *self.options = command or STORES[store]
        self.n_tasks = n_tasks or N_OF.get(store, N_TASKS)
        self.n_ranks = 3 if store in KINDS else 2
        self.place = Place(path, mpiexec, self.n_tasks)
        self.layout = Layout(str(self.out), self.func)

    def run(self, n: int, **more: Any) -> Any:
        if self.store == "pickles":
            return self.place.script(n, PICKLES.format(n=self.n_tasks), **more)
        return self.place.run(n, self.func, *self.options, "--output-dir", "out", **more)

    def run_until(self, n: int, is_time: Callable[[str, Watch], None]) -> Any:
        """Run on n ranks, and have something done to it."""
        watch = Watch(self.place.path)
        try:
            return self.run(n, during=lambda start_id: is_time(start_id, watch))
        finally:
            watch.close()

    def n_changes(self) -> int:
        """Return how often a run changes files that is not disturbed."""
        seen: list[Path] = []
        ran = self.run_until(
            self.n_ranks, lambda start_id, watch: seen.extend(watch.changes(start_id))
        )
        assert ran.returncode == 0, ran.stderr
        return len(seen)

    def content(self, layout: Layout | None = None) -> Any:
        """Return all results of a finished or recovered run."""
        layout = layout or self.layout
        if self.store == "pickles":
            paths = [Path(layout.pickle(index)) for index in range(self.n_tasks)]
            return {path.name: path.read_bytes() for path in paths if path.exists()}
        return read_content(layout.container)

    def done(self) -> set[int]:
        """Return the tasks whose results are recorded."""
        return set(indices_of(read_history(self.layout.dot_folder).done))

    def verify_what_is_there(self, expected: Any) -> None:
        """Check that all that is recorded reads back bit by bit, also in a recovered container."""
        aside = self.place.path / "aside"
        shutil.rmtree(aside, ignore_errors=True)
        shutil.copytree(self.out, aside)
        layout = Layout(str(aside), self.func)
        described = read_description(layout.dot_folder)
        if described is None:
            assert not self.done()
            return
        store = make_store(described.kind, SerialWorld(), layout, described.spec, described.n_tasks)
        store.restore()
        assert list(damaged_bytes(store, read_history(layout.dot_folder).done)) == []
        assert run_command(["recover", str(aside)]) == 0
        assert run_command(["check", str(aside)]) == 0
        found = self.content(layout)
        if self.store == "pickles":  # more of them may be there than are recorded
            names = {f"{self.func}_{index}.pickle" for index in self.done()}
            assert {name: found[name] for name in names} == {name: expected[name] for name in names}
        else:
            compare_with_holes(found, expected, self.done(), self.n_tasks)

    def finish(self, n: int, expected: Any, note: str) -> None:
        """Go on to the end: what is recorded is not called again, and the result is whole."""
        done = self.done() if self.out.exists() else set()
        self.place.take_calls()
        ran = self.run(n)
        assert ran.returncode == 0, f"{note}\n{ran.stderr}"
        assert self.place.take_calls() == dict.fromkeys(set(range(self.n_tasks)) - done, 1), note
        assert self.content() == expected, note
        assert run_command(["check", str(self.out)]) == 0, note
        left = {path.name for path in Path(self.layout.dot_folder).iterdir()}
        assert not [name for name in left if not name.startswith(OF_RUNS)], note


def compare_with_holes(found: Any, expected: Any, done: set[int], n_tasks: int) -> None:
    """Check that a container has what is done, and nothing else."""
    missing = sorted(set(range(n_tasks)) - done)
    found, expected = dict(found), dict(expected)
    if "result_0" in expected:
        kind, shape, text = expected.pop("result_0")
        rows = np.frombuffer(text, kind).reshape(shape).copy()
        np.moveaxis(rows, shape.index(n_tasks), 0)[missing] = np.nan
        assert found.pop("result_0") == (kind, shape, rows.tobytes())
        assert found.pop("result_0@missing", ("", (0,), []))[2] == missing
    assert found == {
        name: value
        for name, value in expected.items()
        if int("".join(filter(str.isdigit, name.split("/")[0]))) in done
    }


def kill_somewhere(killed: Killed, n_changes: int, chosen: random.Random, is_alone: bool) -> None:
    """Run and kill one rank, or everything, at a random moment of its life."""
    moment, rank = chosen.randrange(-3, n_changes), chosen.randrange(killed.n_ranks)

    def kill(start_id: str, watch: Watch) -> None:
        if moment < 0:  # while it starts: the launcher, the agents, the runners
            wait_for_processes(start_id, (2, 4, 1 + 2 * killed.n_ranks)[moment])
        else:
            changes = watch.changes(start_id)
            for _ in zip(range(moment + 1), changes, strict=False):
                pass
        if is_alone:
            kill_rank(start_id, rank)
        else:
            kill_all(start_id)

    # It fails if a process is left behind.
    killed.run_until(killed.n_ranks, kill)


@pytest.fixture
def killed(request, tmp_path, mpiexec) -> Killed:
    return Killed(tmp_path, mpiexec, request.param)


def kill_often(killed: Killed, n_kills: int, seed: int, capsys: Any) -> None:
    n_changes = killed.n_changes()
    expected = killed.content()
    shutil.rmtree(killed.out)
    chosen = random.Random(seed)
    n_done = 0
    while n_done < n_kills:
        n_linked = min(n_kills - n_done, chosen.randint(1, N_LINKED))
        for k in range(n_linked):
            note = f"{killed.store}, seed {seed}, kill {n_done + k} of a chain of {n_linked}"
            kill_somewhere(killed, n_changes // n_linked, chosen, chosen.random() < 0.5)
            if killed.out.exists():
                try:
                    killed.verify_what_is_there(expected)
                except BaseException as error:
                    error.add_note(f"{note}\n{capsys.readouterr()}")
                    raise
        n_done += n_linked
        killed.finish(chosen.choice([0, 2]), expected, note)
        shutil.rmtree(killed.out)


@pytest.mark.parametrize("killed", by_stacks(STORES, every=EVERY), indirect=True)
def test_nothing_recorded_is_lost(killed, capsys):
    n_kills = N_KILLS if killed.store in KINDS else min(N_KILLS, N_KILLS_MORE)
    kill_often(killed, n_kills, random.randrange(10**6), capsys)


@pytest.mark.many
@pytest.mark.timeout(1200)
@pytest.mark.parametrize("killed", STORES, indirect=True)
def test_nothing_recorded_is_lost_in_many_kills(killed, capsys):
    kill_often(killed, 50, random.randrange(10**6), capsys)


COMMITS = ("rank", "computation, rows", "single file", "single file, more")  # that differ most
CONTAINERS = [store for store in STORES if store not in ("pickles", "rank, large")]
MOMENTS = {
    "when it begins": lambda path: path.name.endswith(".h5.partial"),
    "when the container has its name": lambda path: (
        path.suffix == ".h5" and path.parent.name == "out"
    ),
}


@pytest.mark.parametrize("moment", MOMENTS)
@pytest.mark.parametrize(
    "killed",
    by_stacks(CONTAINERS, many=[store for store in CONTAINERS if store not in COMMITS]),
    indirect=True,
)
def test_a_commit_that_is_killed_is_repeated(killed, moment, undisturbed):
    """In a run that resumes one that was stopped, whose container has holes."""
    hang = dict.fromkeys((f"_{index}" for index in range(10, killed.n_tasks)), "fail")
    killed.place.order(_5="fail", **hang)
    ran = killed.run(0)
    assert ran.returncode == 1, ran.stderr
    assert killed.done() == set(range(10)) - {5}
    killed.place.order()

    def kill(start_id: str, watch: Watch) -> None:
        for path in watch.changes(start_id):
            if MOMENTS[moment](path) and len(killed.done()) == killed.n_tasks:
                break
        kill_all(start_id)

    killed.options += ["--retry-failed"]
    killed.run_until(0, kill)
    killed.options.pop()
    assert killed.done() == set(range(killed.n_tasks))

    expected = undisturbed(killed.store)
    killed.verify_what_is_there(expected)
    killed.finish(0, expected, moment)


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory, mpiexec) -> Callable[[str], Any]:
    """Return the function that gives the container's content of a run of a store in peace."""

    @functools.cache
    def content(store: str) -> Any:
        killed = Killed(tmp_path_factory.mktemp("undisturbed"), mpiexec, store)
        ran = killed.run(0)
        assert ran.returncode == 0, ran.stderr
        return killed.content()

    return content
