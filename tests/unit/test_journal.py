"""The journal: what was appended is read back, what a kill has torn is not."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from acme_mpi.history.journal import AS_GROUPS, AS_ROWS, RECORD, Journal, pack_record, read_journal
from acme_mpi.results.checksum import SUM, XXH3

pytestmark = pytest.mark.once


@pytest.fixture
def path(tmp_path) -> str:
    return str(tmp_path / "run0_rank0.journal")


def write_journal(path, *records) -> None:
    """Write records given as (first, last + 1) or as keyword arguments of `pack_record`."""
    journal = Journal(path)
    for record in records:
        fields = {"tasks": range(*record)} if isinstance(record, tuple) else record
        journal.append([pack_record(**fields)])
    journal.close()


def whole(path):
    return np.concatenate([np.zeros(0, RECORD), *(piece.blocks for piece in read_journal(path))])


def ranges(path) -> list[tuple[int, int]]:
    return [(int(r["first"]), int(r["first"] + r["count"])) for r in whole(path)]


def test_records_come_back_in_order_with_every_field(path):
    write_journal(
        path,
        dict(
            tasks=range(5, 9),
            payload=2,
            form=AS_ROWS | AS_GROUPS,
            offset=17,
            busy_s=0.25,
            attempt=3,
            n_bytes=32,
            checksum=2**64 - 1,
            digest=SUM,
            start_s=1e9,
            peak_bytes=2**33,
            host="node7",
        ),
        dict(tasks=range(1)),
    )

    records = whole(path)

    names = [name for name in RECORD.names if name not in ("kind", "crc32")]
    assert names == [
        "form",
        "attempt",
        "first",
        "count",
        "payload",
        "digest",
        "offset",
        "n_bytes",
        "checksum",
        "start_s",
        "busy_s",
        "peak_bytes",
        "host",
    ]
    assert [tuple(record[names].tolist()) for record in records] == [
        (3, 3, 5, 4, 2, SUM, 17, 32, 2**64 - 1, 1e9, 0.25, 2**33, b"node7"),
        (0, 1, 0, 1, 0, XXH3, 0, 0, 0, 0.0, 0.0, 0, b""),
    ]


def test_indices_beyond_32_bits_are_kept(path):
    write_journal(path, (2**40, 2**40 + 3))

    assert ranges(path) == [(2**40, 2**40 + 3)]


def test_no_file_is_no_records(path):
    assert len(whole(path)) == 0


def test_an_empty_journal_is_no_records(path):
    write_journal(path)

    assert len(whole(path)) == 0


def test_an_existing_journal_is_never_overwritten(path):
    write_journal(path, (0, 3))

    with pytest.raises(FileExistsError):
        Journal(path)
    assert ranges(path) == [(0, 3)]


def test_a_record_is_in_the_file_as_soon_as_append_returns(path):
    """A killed process loses nothing that it had appended."""
    journal = Journal(path)
    journal.append([pack_record(range(3)), pack_record(range(5, 6))])

    assert ranges(path) == [(0, 3), (5, 6)]
    journal.close()


def test_records_of_differing_places_of_one_call_stay_apart(path):
    journal = Journal(path)
    journal.append([])
    journal.append([pack_record(range(3), offset=5), pack_record(range(3, 4), payload=1)])
    journal.close()

    assert whole(path)[["offset", "payload"]].tolist() == [(5, 0), (0, 1)]


@pytest.mark.parametrize("n_kept", [1, RECORD.itemsize // 2, RECORD.itemsize - 1])
def test_a_torn_last_record_is_ignored(path, n_kept):
    write_journal(path, (0, 3), (3, 5))
    data = Path(path).read_bytes()
    Path(path).write_bytes(data[: RECORD.itemsize + n_kept])

    assert ranges(path) == [(0, 3)]


@pytest.mark.parametrize("position", range(RECORD.itemsize))
def test_a_record_with_any_wrong_byte_is_ignored_alone(path, position):
    """A record with any wrong byte is ignored and the others count."""
    write_journal(path, (0, 3), (3, 5), (5, 9))
    data = bytearray(Path(path).read_bytes())
    data[RECORD.itemsize + position] ^= 0x10
    Path(path).write_bytes(data)

    assert ranges(path) == [(0, 3), (5, 9)]


def test_a_record_of_zeros_is_ignored(path):
    """What a file system leaves after a power failure."""
    write_journal(path, (0, 3))
    with open(path, "ab") as file:
        file.write(bytes(2 * RECORD.itemsize))

    assert ranges(path) == [(0, 3)]


@settings(deadline=None, max_examples=50)
@given(
    st.lists(st.tuples(st.integers(0, 2**60), st.integers(1, 2**31)), max_size=20),
    st.integers(0, 10_000),
)
def test_whatever_is_cut_off_the_whole_records_before_it_count(tmp_path_factory, tasks, n_kept):
    path = tmp_path_factory.mktemp("journal") / "j"
    write_journal(path, *[(first, first + count) for first, count in tasks])
    data = path.read_bytes()
    path.write_bytes(data[:n_kept])

    expected = [(first, first + count) for first, count in tasks]
    assert ranges(path) == expected[: n_kept // RECORD.itemsize]
