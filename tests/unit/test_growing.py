"""Journals that grow are read on, and say the same as when they are read anew."""

from __future__ import annotations

import os
import random

import pytest
from journalling import Folder, done, failed, slow

from acme_mpi.history.groups import groups_of
from acme_mpi.history.growing import GrowingJournals
from acme_mpi.history.journal import RECORD
from acme_mpi.history.status import slowest_of
from acme_mpi.history.told import Told, read_told

pytestmark = pytest.mark.once


@pytest.fixture
def folder(tmp_path) -> Folder:
    folder = Folder(tmp_path)
    folder.describe(n_tasks=1000)
    return folder


def known(told: Told) -> object:
    return (
        told.blocks.tolist(),
        told.history.done.tolist(),
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
        told = read_told(str(folder.path), growing.pieces)
        assert told.history.damages == []

    assert known(told) == known(read_told(str(folder.path)))
    assert [each.message for each in groups_of(told).largest] == [text]
    assert [each.call for each in slowest_of(told)] == [text]


def test_only_what_was_added_is_read(folder, monkeypatch):
    folder.write(*[done(k, k + 1) for k in range(500)], rank=0)
    path = folder.write(done(500, 501), rank=1)
    growing = GrowingJournals()
    read_told(str(folder.path), growing.pieces)
    n_before = read_bytes()

    with path.open("ab") as file:
        file.write(done(501, 502))
    told = read_told(str(folder.path), growing.pieces)

    assert told.history.is_done(1000).sum() == 502
    assert read_bytes() - n_before < 100 * RECORD.itemsize


def read_bytes() -> int:
    """Return how many bytes this process has read."""
    with open("/proc/self/io") as file:
        return int(file.read().split()[1])


def test_results_that_were_begun_anew_are_not_mixed_with_the_old(folder):
    path = folder.write(done(0, 5), failed(7))
    growing = GrowingJournals()
    read_told(str(folder.path), growing.pieces)

    path.unlink()
    os.unlink(folder.path / "run0.json")
    folder.describe(n_tasks=1000)
    folder.write(*[done(k, k + 1) for k in range(10, 40)])

    told = read_told(str(folder.path), growing.pieces)
    assert known(told) == known(read_told(str(folder.path)))
    assert told.history.is_done(1000).sum() == 30


def test_damage_is_told_each_time_and_once(folder):
    path = folder.write(done(0, 1), done(1, 2), done(2, 3))
    data = bytearray(path.read_bytes())
    data[RECORD.itemsize + 20] ^= 1
    path.write_bytes(data)
    growing = GrowingJournals()

    for _ in range(3):
        told = read_told(str(folder.path), growing.pieces)
        assert len(told.history.damages) == 1
        with path.open("ab") as file:
            file.write(done(3, 4))
