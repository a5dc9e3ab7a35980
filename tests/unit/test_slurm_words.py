"""ACME's words for workers that Slurm has to start."""

from __future__ import annotations

import pytest

from acme_mpi import InputError, Slurm
from acme_mpi.acme import batch
from acme_mpi.acme.batch import may_submit, slurm_of

pytestmark = pytest.mark.once

NAMES = ["16GBS", "8GBL", "8GBXS", "debug", "64GBXL"]


@pytest.fixture(autouse=True)
def sinfo(monkeypatch):
    monkeypatch.setattr(batch, "partitions", lambda: NAMES)


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        ({}, Slurm(4)),
        ({"partition": "partition_name", "mem_per_worker": "1GB", "n_cores": 1}, Slurm(4)),
        ({"partition": "debug"}, Slurm(4, partition="debug")),
        ({"n_cores": 2}, Slurm(4, cpus_per_task=2)),
        (
            {"partition": "x", "mem_per_worker": " 8GB "},
            Slurm(4, partition="x", extra=("--mem-per-cpu=8000M",)),
        ),
        (
            {"partition": "x", "mem_per_worker": "1.5GB", "n_cores": 4},
            Slurm(4, partition="x", cpus_per_task=4, extra=("--mem-per-cpu=375M",)),
        ),
        (
            {"job_extra": ["--time=2:00:00", "--constraint=ib"]},
            Slurm(4, time="2:00:00", extra=("--constraint=ib",)),
        ),
    ],
)
def test_words_of_acme_become_slurms(words, expected):
    assert slurm_of(4, **words) == expected


@pytest.mark.parametrize(
    ("memory", "partition"),
    [("1000MB", "8GBL"), ("8GB", "8GBL"), ("8001MB", "16GBS"), ("40GB", "64GBXL")],
)
def test_auto_takes_the_smallest_partition_with_the_memory(memory, partition):
    assert slurm_of(1, mem_per_worker=memory).partition == partition


def test_a_memory_that_no_partition_has_is_refused_with_their_names():
    with pytest.raises(InputError, match=r"none has 65000 MB; name one of 16GBS, 8GBL"):
        slurm_of(1, mem_per_worker="65GB")


@pytest.mark.parametrize("variable", ["SLURM_JOB_ID", "OMPI_COMM_WORLD_SIZE", "PMI_RANK"])
def test_nothing_is_submitted_inside_of_a_job(monkeypatch, variable):
    monkeypatch.setattr(batch.shutil, "which", lambda name: f"/usr/bin/{name}")
    assert may_submit()

    monkeypatch.setenv(variable, "1")

    assert not may_submit()


def test_nothing_is_submitted_without_slurm(monkeypatch):
    monkeypatch.setattr(batch.shutil, "which", lambda name: None)

    assert not may_submit()


def test_nothing_is_submitted_to_a_slurm_that_does_not_answer(monkeypatch):
    monkeypatch.setattr(batch.shutil, "which", lambda name: f"/usr/bin/{name}")
    monkeypatch.setattr(batch, "partitions", list)

    assert not may_submit()


def test_a_script_that_ranks_serve_submits_nothing(monkeypatch):
    monkeypatch.setattr(batch.shutil, "which", lambda name: f"/usr/bin/{name}")
    monkeypatch.setattr(batch, "outside", lambda: object())

    assert not may_submit()
