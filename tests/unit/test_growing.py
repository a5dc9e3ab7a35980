"""Journals that grow are read on, and say the same as when they are read anew."""

from __future__ import annotations

import os
import random
import sys
from collections import Counter

import pytest
from journalling import Folder, done, failed, slow

from acme_mpi.history.groups import groups_of
from acme_mpi.history.growing import GrowingJournals
from acme_mpi.history.journal import RECORD
from acme_mpi.history.records import PLACED
from acme_mpi.history.status import slowest_of
from acme_mpi.history.told import TOLD, Told, read_told

pytestmark = pytest.mark.once


@pytest.fixture
def folder(tmp_path) -> Folder:
    folder = Folder(tmp_path)
    folder.describe(n_tasks=1000)
    return folder


def known(told: Told) -> object:
    return (
        told.blocks[[*TOLD, "run", "rank"]].tolist(),
        told.history.done[[*PLACED, "run", "rank"]].tolist(),
        groups_of(told),
        [str(each) for each in told.history.damages],
    )


def test_whatever_has_arrived_is_what_a_new_reader_sees(folder):
    text = "long " * 100
    blocks = [
        done(0, 5),
        slow(3, 0, 1, call=text),
        failed(5, message=text),
        done(6, 9),
        failed(9, message=text),
    ]
    data = b"".join(blocks)
    path = folder.write()
    growing = GrowingJournals()
    chosen = random.Random(1)
    cuts = sorted(chosen.sample(range(len(data)), 40))

    for begin, end in zip([0, *cuts], [*cuts, len(data)], strict=True):
        with path.open("ab") as file:
            file.write(data[begin:end])
        told = read_told(str(folder.path), growing.blocks)
        assert told.history.damages == []

    assert known(told) == known(read_told(str(folder.path)))
    assert [each.message for each in groups_of(told).largest] == [text]
    assert [each.call for each in slowest_of(told)] == [text]


def test_only_what_was_added_is_read(folder, monkeypatch):
    folder.write(*[done(k, k + 1) for k in range(500)], rank=0)
    path = folder.write(done(500, 501), rank=1)
    growing = GrowingJournals()
    read_told(str(folder.path), growing.blocks)
    n_before = read_bytes()

    with path.open("ab") as file:
        file.write(done(501, 502))
    told = read_told(str(folder.path), growing.blocks)

    assert told.history.is_done(1000).sum() == 502
    assert read_bytes() - n_before < 100 * RECORD.itemsize


def test_whoever_records_first_the_order_is_that_of_runs_and_ranks(folder):
    paths = [folder.write(done(rank, rank + 1), rank=rank) for rank in range(3)]
    growing = GrowingJournals()

    for k, rank in enumerate([2, 0, 1, 0, 2]):
        with paths[rank].open("ab") as file:
            file.write(done(10 + k, 11 + k) + failed(1))
        told = read_told(str(folder.path), growing.blocks)

        assert known(told) == known(read_told(str(folder.path)))


def test_a_journal_that_has_not_grown_costs_little(folder):
    """There may be ten thousand; counted are calls of functions, which depend on no clock."""
    n_ranks, calls = 300, Counter()
    for rank in range(n_ranks):
        folder.write(done(rank, rank + 1), rank=rank)
    growing = GrowingJournals()
    read_told(str(folder.path), growing.blocks)

    sys.setprofile(lambda frame, event, argument: calls.update([event]))
    try:
        told = read_told(str(folder.path), growing.blocks)
    finally:
        sys.setprofile(None)

    assert told.history.is_done(1000).sum() == n_ranks
    assert calls["call"] + calls["c_call"] < 40 * n_ranks


def read_bytes() -> int:
    """Return how many bytes this process has read."""
    with open("/proc/self/io") as file:
        return int(file.read().split()[1])


def test_results_that_were_begun_anew_are_not_mixed_with_the_old(folder):
    path = folder.write(done(0, 5), failed(7))
    growing = GrowingJournals()
    read_told(str(folder.path), growing.blocks)

    path.unlink()
    os.unlink(folder.path / "run0.json")
    folder.describe(n_tasks=1000)
    folder.write(*[done(k, k + 1) for k in range(10, 40)])

    told = read_told(str(folder.path), growing.blocks)
    assert known(told) == known(read_told(str(folder.path)))
    assert told.history.is_done(1000).sum() == 30


def test_damage_is_told_each_time_and_once(folder):
    path = folder.write(done(0, 1), done(1, 2), done(2, 3))
    data = bytearray(path.read_bytes())
    data[RECORD.itemsize + 20] ^= 1
    path.write_bytes(data)
    growing = GrowingJournals()

    for _ in range(3):
        told = read_told(str(folder.path), growing.blocks)
        assert len(told.history.damages) == 1
        with path.open("ab") as file:
            file.write(done(3, 4))
