"""A node loses its power: what a sync point has covered is there, and nothing wrong is believed.

Recorded are runs with several sync points, and several batches between two of them: see `power`.
"""

from __future__ import annotations

import random
import shutil
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
from power import Call, Disk, is_traceable, moments, read_calls, traced
from resume_runs import MODULE
from test_kills import Killed, compare_with_holes

from acme_mpi.cli.commands import run_command
from acme_mpi.history.description import read_description
from acme_mpi.history.journal import RECORD, Block, journal_files
from acme_mpi.history.records import indices_of, read_history
from acme_mpi.storage import Layout

pytestmark = [
    pytest.mark.slow,
    pytest.mark.once,
    pytest.mark.skipif(not is_traceable(), reason="strace may not be used here"),
]
N_TASKS = 60
SYNC = "0.1"
# So that there are several batches.
SLOW = {
    "import os\n": "import os\nimport time\n",
    "(index):\n": "(index):\n    time.sleep(0.008)\n",
}
STORES: dict[str, tuple[str, ...]] = {
    "rank": ("f",),
    "rank, rows": ("g", "--result-shape", "None,2"),
    "rank, large": ("large",),
    "rank, large rows": ("large", "--result-shape", "None,100,200"),
    "computation": ("f", "--payload", "computation"),
    "computation, large": ("large", "--payload", "computation"),
    "single file": ("f", "--single-file"),
    "single file, rows": ("g", "--single-file", "--result-shape", "None,2"),
    "single file, large": ("large", "--single-file"),
    "single file, sizes": ("sizes", "--single-file"),
    "single file, more": ("more", "--single-file", "--result-shape", "None,2"),
    "single file, last axis": ("g", "--single-file", "--result-shape", "2,None"),
}
OFTEN = ("rank", "rank, large rows", "computation", "single file, more", "single file, large")


class Powered:
    """A run of one store, call by call, and what the disk may hold when the power goes."""

    def __init__(self, path: Path, mpiexec: Any, store: str) -> None:
        self.killed = Killed(path, mpiexec, store, STORES[store], N_TASKS)
        self.killed.options += ["--sync", SYNC]
        module = MODULE
        for old, new in SLOW.items():
            module = module.replace(old, new, 1)
        (path / "mymod.py").write_text(module)
        self.path, self.root = path, str(self.killed.out.resolve())
        self.calls = self.record(lambda under: self.killed.run(2, under=under))
        self.expected = self.killed.content()
        shutil.rmtree(self.killed.out)

    def record(self, run: Callable[[Sequence[str]], Any]) -> list[Call]:
        """Return the calls of a run that is started under strace."""
        log = self.path / "log"
        ran = run(traced(log))
        assert ran.returncode == 0, ran.stderr
        return read_calls(log)

    def lose_power(
        self, draw: random.Random, calls: Sequence[Call], before: Path | None = None
    ) -> set[int]:
        """Leave in the output directory what may be there then; return what has to be done."""
        disk = Disk(self.root, calls[: draw.choice(moments(self.root, calls, ".journal"))], before)
        synced = self.path / "synced"
        for folder in (synced, self.killed.out):
            shutil.rmtree(folder, ignore_errors=True)
            folder.mkdir()
        disk.write_synced(synced)
        disk.write_torn(self.killed.out, draw)
        # That of a job that has gone with its node is waited for, for half a minute.
        for lease in self.killed.out.glob(".acme_mpi/*/*lease*"):
            lease.unlink()
        return covered(Layout(str(synced), self.killed.func))

    def check(self, must: set[int]) -> None:
        """Recover what is there: all that must be is, and all that is is right."""
        if read_description(self.killed.layout.dot_folder) is None:
            assert not must
            return
        assert run_command(["recover", str(self.killed.out)]) == 0
        done = self.killed.done()
        assert must <= done
        assert run_command(["check", str(self.killed.out)]) == 0
        compare_with_holes(self.killed.content(), self.expected, done, N_TASKS)


def covered(layout: Layout) -> set[int]:
    """Return the tasks whose results journals say to be on the disk."""
    for each in journal_files(layout.dot_folder):
        path, size = Path(each.path), RECORD.itemsize
        text = path.read_bytes()
        synced = [at for at in range(0, len(text), size) if text[at] == Block.SYNCED]
        path.write_bytes(text[: synced[-1] + size if synced else 0])
    return set(indices_of(read_history(layout.dot_folder).done))


def lose_often(powered: Powered, n_cuts: int, seed: int, capsys: Any) -> None:
    for k in range(n_cuts):
        try:
            powered.check(powered.lose_power(random.Random(f"{seed} {k}"), powered.calls))
            # Without a description the user is asked, if there is a folder for payload files.
            if k == 0 and read_description(powered.killed.layout.dot_folder) is not None:
                powered.killed.finish(0, powered.expected, "after a loss of power")
        except BaseException as error:
            error.add_note(f"{powered.killed.store}, seed {seed}, cut {k}\n{capsys.readouterr()}")
            raise


@pytest.mark.parametrize("store", OFTEN)
def test_a_loss_of_power_costs_what_was_not_synced(store, tmp_path, mpiexec, capsys):
    lose_often(Powered(tmp_path, mpiexec, store), 3, random.randrange(10**6), capsys)


@pytest.mark.many
@pytest.mark.timeout(1200)
@pytest.mark.parametrize("store", STORES)
def test_many_losses_of_power(store, tmp_path, mpiexec, capsys):
    lose_often(Powered(tmp_path, mpiexec, store), 20, random.randrange(10**6), capsys)


@pytest.mark.many
@pytest.mark.timeout(1200)
@pytest.mark.parametrize("store", STORES)
def test_many_losses_of_power_in_a_resumed_run(store, tmp_path, mpiexec, capsys):
    """What the first loss has left may be repeated, sealed, and lost again in the midst of it."""
    powered, before = Powered(tmp_path, mpiexec, store), tmp_path / "before"
    seed = random.randrange(10**6)
    for k in range(4):
        draw = random.Random(f"{seed} {k}")
        must = powered.lose_power(draw, powered.calls)
        if read_description(powered.killed.layout.dot_folder) is None:
            continue
        shutil.rmtree(before, ignore_errors=True)
        shutil.copytree(powered.killed.out, before)
        calls = powered.record(lambda under: powered.killed.run(2, under=under))
        for cut in range(5):
            try:
                powered.check(powered.lose_power(draw, calls, before) | must)
            except BaseException as error:
                error.add_note(f"{store}, seed {seed}, {k}, cut {cut}\n{capsys.readouterr()}")
                raise


@pytest.mark.parametrize("store", ["rank", "computation", "single file, rows"])
def test_no_result_waits_for_the_disk(store, tmp_path, mpiexec):
    """Between the first record and the end of the tasks nothing is synchronised."""
    killed = Killed(tmp_path, mpiexec, store, STORES[store], N_TASKS)
    log = tmp_path / "log"
    ran = killed.run(2, under=traced(log))
    assert ran.returncode == 0, ran.stderr

    calls = read_calls(log)
    records = [k for k, call in enumerate(calls) if is_record(call)]
    synced = [k for k, call in enumerate(calls) if call.name in ("fsync", "fdatasync", "syncfs")]
    last = {calls[k].path: k for k in records if is_record(calls[k], Block.DONE)}
    at_work = range(records[0], min(last.values()))
    assert len(at_work) > 2
    assert not [calls[k] for k in synced if k in at_work]


def is_record(call: Call, kind: int | None = None) -> bool:
    """Tell whether a call writes into a journal, and a block of one kind."""
    if call.name != "write" or not call.path.endswith(".journal"):
        return False
    text = b"".join(call.strings)
    return kind is None or kind in text[:: RECORD.itemsize]
