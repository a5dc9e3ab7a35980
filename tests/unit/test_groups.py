"""Failures in groups of those that are alike, as a report wants them of a million."""

from __future__ import annotations

import random
import sys
from collections import Counter

import pytest
from journalling import Folder, done, failed
from storing import FAILED, Case, open_store

from acme_mpi.comm import SerialWorld
from acme_mpi.errors import group_failures
from acme_mpi.history.groups import MOST_GROUPS, N_INDICES, groups_of
from acme_mpi.history.records import read_history
from acme_mpi.history.told import read_told
from acme_mpi.runner.base import Outcome

pytestmark = pytest.mark.once
N_TASKS = 60


@pytest.fixture
def folder(tmp_path) -> Folder:
    folder = Folder(tmp_path)
    folder.describe(n_tasks=N_TASKS)
    return folder


def blocks_of(chosen: random.Random, rank: int, is_numbered: bool) -> list[bytes]:
    """Return what a rank may have recorded of its tasks."""
    blocks, with_text = [], []
    for index in range(rank, N_TASKS + 4, 3):
        what = chosen.choice(["done", "failed", "failed", "failed", "tried", "again"])
        said = {
            "type": chosen.choice(["ValueError", "killed"]),
            "location": chosen.choice(["f.py:3", "f.py:4", ""]),
            "message": chosen.choice(["no", "never", "é"]),
            "call": f"f({index})",
            "traceback": chosen.choice([f"at {index}", *with_text]),
        }
        if not is_numbered:
            said["offset"] = 0
        if what in ("tried", "again"):
            blocks.append(failed(index, False, **said))
        if what in ("failed", "again"):
            blocks.append(failed(index, attempt=2 if what == "again" else 1, **said))
        if what == "done":
            blocks.append(done(index, index + 1))
        if isinstance(said["traceback"], str) and what in ("failed", "tried"):
            with_text.append(index)
    return blocks


@pytest.mark.parametrize("is_numbered", [True, False])
@pytest.mark.parametrize("seed", range(8))
def test_groups_are_those_of_all_failures(folder, seed, is_numbered):
    chosen = random.Random(seed)
    folder.describe(1, N_TASKS)
    for run in range(2):
        for rank in range(3):
            folder.write(*blocks_of(chosen, rank, is_numbered), run=run, rank=rank)

    found = groups_of(read_told(str(folder.path)))

    failures = read_history(str(folder.path)).failed
    expected = group_failures(each for i, each in failures.items() if i < N_TASKS)
    assert (found.n_failed, found.n_groups) == (
        sum(map(len, expected.values())),
        len(expected),
    )
    for group, alike in zip(found.largest, expected.values(), strict=True):
        assert (group.type, group.location, group.message, group.traceback, group.reproduce) == (
            alike[0].type,
            alike[0].location,
            alike[0].message,
            alike[0].traceback,
            alike[0].call,
        )
        assert group.n_tasks == len(alike)
        assert group.first_indices == [each.index for each in alike[:N_INDICES]]


@pytest.mark.slow
def test_of_a_million_kinds_few_are_read(folder):
    """Counted are calls of functions, which depend on no clock."""
    n_failed, calls = 20_000, Counter()
    folder.describe(n_tasks=n_failed)
    folder.write(*(failed(i, location=f"f.py:{i}", traceback=f"{i}") for i in range(n_failed)))
    groups_of(read_told(str(folder.path)))  # what is imported and kept at the first call

    sys.setprofile(lambda frame, event, argument: calls.update([event]))
    try:
        found = groups_of(read_told(str(folder.path)))
    finally:
        sys.setprofile(None)

    assert (found.n_failed, found.n_groups, len(found.largest)) == (n_failed, n_failed, MOST_GROUPS)
    assert [each.traceback for each in found.largest[:3]] == ["0", "1", "2"]
    assert calls["call"] + calls["c_call"] < n_failed


def test_a_failure_whose_text_is_torn_is_counted_with_its_like(folder):
    path = folder.write(failed(3), failed(5, traceback="t" * 500))
    path.write_bytes(path.read_bytes()[:-130])

    (group,) = groups_of(read_told(str(folder.path))).largest

    assert (group.n_tasks, group.message) == (2, "no")


def test_a_journal_that_is_gone_meanwhile_costs_texts_alone(folder):
    path = folder.write(failed(3), failed(5))
    told = read_told(str(folder.path))
    path.unlink()

    (group,) = groups_of(told).largest

    assert (group.n_tasks, group.type, group.message) == (2, "unknown", "its record is gone")


def test_the_traceback_of_a_second_attempt_is_not_that_of_the_first(tmp_path):
    store = open_store(SerialWorld(), "rank", tmp_path, Case([FAILED] * 3))
    for index, attempt, text in [(0, 1, "a"), (0, 2, "b"), (1, 1, "b"), (2, 1, "a")]:
        said = {"index": index, "type": "E", "message": "m", "traceback": text}
        store.note(Outcome(index, index + 1, [said], attempt=attempt))
    store.close()

    found = read_history(store.layout.dot_folder).failed

    assert {index: each.traceback for index, each in found.items()} == {0: "b", 1: "b", 2: "a"}
