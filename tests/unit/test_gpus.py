"""Which GPUs a rank takes, by what its launcher and its user say in the environment."""

from __future__ import annotations

import pytest

from acme_mpi.errors import InputError
from acme_mpi.linux.gpus import PER_RANK, VISIBLE, refuse_too_few_gpus, take_gpus

pytestmark = pytest.mark.once

RANK = "OMPI_COMM_WORLD_LOCAL_RANK"


@pytest.mark.parametrize(
    ("given", "seen"),
    [
        ({PER_RANK: "1", RANK: "0"}, "0"),
        ({PER_RANK: "1", RANK: "3"}, "3"),
        ({PER_RANK: "2", RANK: "1"}, "2,3"),
        ({PER_RANK: "1", "MPI_LOCALRANKID": "2", "SLURM_LOCALID": "0"}, "2"),
        ({PER_RANK: "1", "SLURM_LOCALID": "1"}, "1"),
        ({PER_RANK: "1"}, None),  # nobody tells which rank it is
        ({PER_RANK: "", RANK: "1"}, None),
        ({RANK: "1"}, None),
        ({RANK: "1", VISIBLE: "2,3"}, "2,3"),
        # A list for all ranks is shared out, and one that is no longer than a share is kept.
        ({PER_RANK: "1", RANK: "1", VISIBLE: "2, 3"}, "3"),
        ({PER_RANK: "2", RANK: "1", VISIBLE: "GPU-a,GPU-b,GPU-c,GPU-d"}, "GPU-c,GPU-d"),
        ({PER_RANK: "1", RANK: "2", VISIBLE: "2,3"}, ""),
        ({PER_RANK: "1", RANK: "1", VISIBLE: "5"}, "5"),
        ({PER_RANK: "2", RANK: "1", VISIBLE: "5,6"}, "5,6"),
        ({PER_RANK: "1", RANK: "1", VISIBLE: ""}, ""),
    ],
)
def test_a_rank_takes_its_share(given, seen):
    environ = dict(given)
    for _ in range(2):  # what a rank starts finds the same again
        take_gpus(environ)
        assert environ.get(VISIBLE) == seen


@pytest.mark.parametrize("text", ["0", "-1", "one", "1.0"])
def test_what_is_no_number_of_gpus_is_refused(text):
    with pytest.raises(InputError, match=f"{PER_RANK} has to be a whole number >= 1, not '{text}'"):
        take_gpus({PER_RANK: text})


def test_ranks_that_would_find_too_few_gpus_are_refused():
    refuse_too_few_gpus(8, 2, {})  # there may be any number
    refuse_too_few_gpus(2, 1, {VISIBLE: "2,3"})
    for listed, n in (("2,3", 2), ("", 0)):
        with pytest.raises(InputError, match=f"2 need 4 GPUs, and {VISIBLE}={listed} lists {n}"):
            refuse_too_few_gpus(2, 2, {VISIBLE: listed})
