"""What the journals of several ranks and runs say together."""

from __future__ import annotations

import json
import sys
from collections import Counter
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from acme_mpi.comm import SerialWorld
from acme_mpi.history.journal import (
    AS_ROWS,
    Block,
    Journal,
    pack_failure,
    pack_record,
)
from acme_mpi.history.layout import journal_name
from acme_mpi.history.parsing import Damaged, parse_failures
from acme_mpi.history.records import TOLD_OF_FAILURES, ranges_of, read_history, share_of
from acme_mpi.results.checksum import MASK, SUM, XXH3, checksum, new_digest

pytestmark = pytest.mark.once


def write(folder, run: int, rank: int, *blocks: bytes) -> None:
    journal = Journal(str(folder / journal_name(run, rank)))
    journal.append(blocks)
    journal.close()


def done(start: int, stop: int, **fields) -> bytes:
    return pack_record(range(start, stop), **fields)


def lost(start: int, stop: int) -> bytes:
    return pack_record(range(start, stop), Block.LOST)


def failed(index: int, is_final: bool = True, **said) -> bytes:
    text = {"type": "ValueError", "message": "bad", "location": "", "traceback": "", "call": ""}
    return pack_failure(index, json.dumps({**text, **said}), is_final, attempt=1, host="node1")


def ranges(folder) -> list[tuple[int, ...]]:
    names = ["first", "count", "run", "rank", "offset"]
    return [tuple(record[names].tolist()) for record in read_history(str(folder)).done]


def test_an_empty_folder_says_nothing(tmp_path):
    history = read_history(str(tmp_path))

    assert (len(history.done), history.failed) == (0, {})
    assert history.is_done(3).tolist() == [False] * 3


def test_records_of_all_ranks_and_runs_come_in_task_order(tmp_path):
    write(tmp_path, 0, 0, done(4, 6), done(0, 2))
    write(tmp_path, 0, 3, done(2, 4))
    write(tmp_path, 1, 0, done(7, 8))

    assert ranges(tmp_path) == [
        (0, 2, 0, 0, 0),
        (2, 2, 0, 3, 0),
        (4, 2, 0, 0, 0),
        (7, 1, 1, 0, 0),
    ]
    assert read_history(str(tmp_path)).is_done(9).tolist() == [True] * 6 + [False, True, False]


def test_runs_are_ordered_by_number_and_not_by_name(tmp_path):
    write(tmp_path, 9, 0, done(0, 1, offset=9))
    write(tmp_path, 10, 0, done(0, 1, offset=10))

    assert ranges(tmp_path) == [(0, 1, 10, 0, 10)]


def test_a_later_run_replaces_what_an_earlier_one_has_said(tmp_path):
    write(tmp_path, 0, 0, done(0, 6, form=AS_ROWS, offset=20))
    write(tmp_path, 1, 1, done(2, 4, form=AS_ROWS, offset=7))

    assert ranges(tmp_path) == [(0, 2, 0, 0, 20), (2, 2, 1, 1, 7), (4, 2, 0, 0, 24)]
    # What is left of a record cannot be measured against the whole.
    assert read_history(str(tmp_path)).done["n_bytes"].tolist() == [-1, 0, -1]


def test_what_is_lost_is_not_done_until_it_is_done_again(tmp_path):
    write(tmp_path, 0, 0, done(0, 6))
    write(tmp_path, 1, 0, lost(0, 6), done(3, 4))

    assert ranges(tmp_path) == [(3, 1, 1, 0, 0)]


def test_a_failure_counts_until_the_task_is_done(tmp_path):
    write(tmp_path, 0, 0, failed(1), failed(2), failed(5, is_final=False))
    write(tmp_path, 1, 0, done(2, 3), failed(1, message="worse"))

    history = read_history(str(tmp_path))
    assert list(history.failed) == [1]
    assert history.failed[1].message == "worse"
    assert (history.failed[1].host, history.failed[1].rank) == ("node1", 0)


def test_equal_tracebacks_are_kept_once_and_read_everywhere(tmp_path):
    write(tmp_path, 0, 0, failed(4, traceback="at length"), failed(9, traceback=4))
    write(tmp_path, 0, 1, failed(6, traceback="another"))

    found = read_history(str(tmp_path)).failed
    assert {i: each.traceback for i, each in found.items()} == {
        4: "at length",
        6: "another",
        9: "at length",
    }


def test_a_failure_is_read_by_few_calls(tmp_path):
    """There may be a million; counted are calls of functions, which depend on no clock."""
    n_failed, calls = 500, Counter()
    write(tmp_path, 0, 0, failed(0, traceback="at length"))
    write(tmp_path, 0, 1, *(failed(i, traceback=0, call=f"f({i})") for i in range(1, n_failed)))
    read_history(str(tmp_path))  # what is imported and kept at the first call

    sys.setprofile(lambda frame, event, argument: calls.update([event]))
    try:
        history = read_history(str(tmp_path))
    finally:
        sys.setprofile(None)

    assert len(history.failed) == n_failed
    assert calls["call"] + calls["c_call"] < 45 * n_failed


@pytest.mark.parametrize("n_cut", [1, 130])
def test_a_failure_whose_text_is_torn_is_still_one(tmp_path, n_cut):
    write(tmp_path, 0, 0, failed(4, traceback="x" * 300))
    path = tmp_path / journal_name(0, 0)
    path.write_bytes(path.read_bytes()[:-n_cut])

    assert list(read_history(str(tmp_path)).failed) == [4]


def test_texts_of_any_length_and_script_are_kept(tmp_path):
    texts = {i: "é" * n for i, n in enumerate([0, 1, 59, 60, 61, 119, 120, 121, 1000])}
    write(tmp_path, 0, 0, *(failed(i, message=text) for i, text in texts.items()))

    found = read_history(str(tmp_path)).failed
    assert {i: each.message for i, each in found.items()} == texts


spans = st.tuples(st.integers(0, 30), st.integers(1, 8)).map(lambda pair: (pair[0], sum(pair)))
says = st.tuples(st.booleans(), spans)


@settings(deadline=None, max_examples=40)
@given(st.lists(st.lists(says, max_size=6), max_size=4))
def test_the_last_word_about_each_task_counts(tmp_path_factory, runs):
    folder = tmp_path_factory.mktemp("history")
    expected: dict[int, int] = {}
    for run, said in enumerate(runs):
        for is_done, span in said:
            for index in range(*span):
                expected.pop(index, None)
                if is_done:
                    expected[index] = run
        write(folder, run, 0, *((done if is_done else lost)(*span) for is_done, span in said))

    found: dict[int, int] = {}
    for record in read_history(str(folder)).done:
        for index in range(record["first"], record["first"] + record["count"]):
            assert index not in found
            found[index] = int(record["run"])
    assert found == expected


@given(st.lists(st.booleans(), max_size=50))
def test_ranges_are_the_runs_of_what_is_wanted(wanted):
    found = ranges_of(np.array(wanted, bool))

    assert [i for start, stop in found for i in range(start, stop)] == [
        i for i, is_wanted in enumerate(wanted) if is_wanted
    ]
    assert all(a[1] < b[0] for a, b in pairwise(found.tolist()))


def test_every_rank_of_an_earlier_run_is_somebodys(tmp_path):
    for rank in range(5):
        write(tmp_path, 0, rank, done(rank, rank + 1))
    records = read_history(str(tmp_path)).done

    shares = []
    for rank in range(2):
        world = SerialWorld()
        world.rank, world.size = rank, 2
        shares.append(share_of(records, world)["rank"].tolist())
    assert shares == [[0, 2, 4], [1, 3]]


HARD = st.sampled_from(['", "call": "x', "\\", '"', "}", "{", ', "call": ', "\n", "\u20ac", ""])
TEXTS = st.lists(HARD, max_size=4).map("".join)


def parsed(*texts):
    return [*parse_failures(texts, TOLD_OF_FAILURES, "a journal", range(len(texts)))]


@given(TEXTS, st.one_of(TEXTS, st.integers(0, 9)), TEXTS)
def test_a_failure_is_read_as_json_is_whatever_it_tells(message, traceback, call):
    said = {"type": "E", "message": message, "location": "", "traceback": traceback, "call": call}

    assert parsed(json.dumps(said), json.dumps(said)) == [said, said]


@pytest.mark.parametrize(
    "text",
    [
        '{"type": "E", "call": 3}',
        '{"type": "E", "call": "f(2)"',
        '{"type": "E", "call": "f(2)"} {}',
        '{"type": "E"}, {"call": "f(2)"}',
        '{"type": "E", "call": ["f(2)"]}',
        '{"type": 3, "call": "f(2)"}',
        '{"type": "E", "traceback": -1}',
        '{"other": "E", "call": "f(2)"}',
        '{"type": {"type": "E", "call": "f(2)"}',
        "3",
        "",
    ],
)
def test_a_failure_that_is_damaged_costs_no_other(text):
    before, bad, after = parsed('{"call": "f(2)"}', text, '{"type": "E"}')

    assert (before, after) == ({"call": "f(2)"}, {"type": "E"})
    assert isinstance(bad, Damaged)
    assert str(bad).startswith("damaged: a journal, record 1: ")


@pytest.mark.parametrize(
    "texts",
    [
        ['{"type": "E", "call": "', '"}', '{"type": "E"}, {}'],
        ['{"type": [{}', '{}], "call": "x"}', "{}, {}"],
    ],
)
def test_texts_that_are_failures_only_together_are_damaged(texts):
    assert [type(each) for each in parsed(*texts)] == [Damaged] * 3


class TestChecksum:
    @pytest.mark.parametrize("n_bytes", [0, 1, 7, 8, 1000, 2**16 - 1, 2**16, 2**16 + 3, 10**6])
    def test_any_flipped_bit_is_seen(self, n_bytes):
        data = bytearray(np.random.default_rng(n_bytes).bytes(n_bytes))
        number = checksum(data)
        assert 0 <= number <= MASK
        for position in {0, n_bytes // 2, n_bytes - 1} if n_bytes else ():
            data[position] ^= 0x10
            assert checksum(data) != number
            data[position] ^= 0x10
        assert checksum(bytes(data)) == number

    def test_plain_arrays_differ(self):
        arrays = [f(n) for f in (np.zeros, np.ones) for n in (1, 8, 2**13, 2**16, 2**17)]
        arrays += [np.full(2**17, 3.0), np.repeat([1.0, 2.0], 2**16), np.repeat([2.0, 1.0], 2**16)]

        assert len({checksum(array) for array in arrays}) == len(arrays)

    def test_an_array_counts_by_its_bytes_in_c_order(self):
        array = np.arange(20_000.0).reshape(100, 200)

        assert checksum(array) == checksum(array.tobytes())
        assert checksum(array.T) == checksum(np.ascontiguousarray(array.T))
        assert checksum(array[1:3]) == checksum(array[1:3].tobytes())

    def test_strings_count_by_length_and_text(self):
        pairs = [["ab", "c"], ["a", "bc"], ["abc", ""], ["ab", "d"]]

        assert len({checksum(np.array(pair, object)) for pair in pairs}) == len(pairs)


def digest_of(*tasks, kind=XXH3):
    """Return (bytes, checksum) of a record of tasks given as (index, parts)."""
    digest = new_digest(kind)
    for index, parts in tasks:
        digest.add_parts(index, parts)
    return digest.n_bytes, digest.number


class TestDigest:
    def test_pieces_that_have_changed_places_are_seen(self):
        first, second = np.arange(3), np.arange(4)
        orders = [
            [(0, [first, second])],
            [(0, [second, first])],
            [(0, [first]), (1, [second])],
            [(0, [second]), (1, [first])],
            [(1, [second]), (0, [first])],
            [(0, [first]), (2, [second])],
        ]

        assert {digest_of(*order)[0] for order in orders} == {7 * 8}
        assert len({digest_of(*order) for order in orders}) == len(orders)

    def test_a_border_between_pieces_that_has_moved_is_seen(self):
        joined = np.arange(10, dtype="u1")

        found = {digest_of((0, [joined[:k], joined[k:]])) for k in range(11)}
        found |= {digest_of((0, [joined])), digest_of((0, [None, joined]))}
        assert len(found) == 13

    def test_a_part_may_be_known_by_its_checksum_alone(self):
        array = np.arange(100_000)

        known = (array.nbytes, checksum(array))
        assert digest_of((7, [known, None])) == digest_of((7, [array, None]))

    def test_a_kind_of_a_later_version_is_refused(self):
        with pytest.raises(ValueError, match="kind 9, which this version does not know"):
            new_digest(9)

    def test_sums_are_those_of_earlier_versions(self):
        """The numbers were computed by the version that wrote them."""
        parts = [np.arange(3), None, np.array(["x", "Größe"], object), np.arange(10_000.0)]
        whole = new_digest(SUM)
        whole.add(5, np.arange(10_000.0))
        whole.add(9, b"pickle")

        assert digest_of((5, parts), kind=SUM) == (80032, 596624024009310963)
        assert (whole.n_bytes, whole.number) == (80006, 1744718248169141262)
