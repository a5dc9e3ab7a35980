"""Whatever stands in a dot folder: what is damaged is named and skipped, and the rest is used."""

from __future__ import annotations

import contextlib
import json
import os
import random
import resource
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from acme_mpi.cli.commands import run_command
from acme_mpi.cli.status_text import status_text
from acme_mpi.errors import AcmeMpiError
from acme_mpi.history import journal
from acme_mpi.history.description import Description, read_description
from acme_mpi.history.joblog import joblog_lines
from acme_mpi.history.journal import (
    RECORD,
    Block,
    Journal,
    pack_failure,
    pack_record,
    pack_synced,
    read_journal,
)
from acme_mpi.history.layout import journal_name
from acme_mpi.history.lease import Lease, holder
from acme_mpi.history.parsing import (
    CRC_FIELD,
    REDO_CRC,
    REDO_HEADER,
    REDO_MAGIC,
    REDO_PIECE,
    Damaged,
    New,
    pack_section,
    parse_description,
    parse_redo,
    read_file,
)
from acme_mpi.history.records import read_history
from acme_mpi.history.status import read_status
from acme_mpi.results.checksum import checksum
from acme_mpi.storage.redo import redo

pytestmark = pytest.mark.once

N_TASKS = 10
MOST_BYTES = 200 * 1024**2  # of memory that any of this may take
TOLD = {"type": "E", "message": "m", "location": "f.py:1", "traceback": "t", "call": "f(1)"}


def record(first: int = 0, count: int = 1, **fields: Any) -> bytes:
    return pack_record(range(first, first + count), start_s=1e9, busy_s=1.0, host="node", **fields)


def forged(**fields: Any) -> bytes:
    """Return a block that says what nobody has recorded, with the right checksum."""
    block = np.frombuffer(record(5), RECORD).copy()
    for name, value in fields.items():
        block[name] = value
    return resealed(block.tobytes())


def resealed(block: bytes) -> bytes:
    return block[:-4] + zlib.crc32(block[:-4]).to_bytes(4, "little")


def failure(text: str | bytes, index: int = 5) -> bytes:
    """Return the blocks of a failure of which just this is told."""
    return pack_failure(index, text if isinstance(text, str) else text.decode("latin-1"), True)


@pytest.fixture
def folder(tmp_path) -> Path:
    """Return a dot folder of a run of ten tasks, whose rank 1 has done the first three."""
    folder = tmp_path / ".acme_mpi" / "f"
    folder.mkdir(parents=True)
    described = Description("f", N_TASKS, "rank", debug="d {index}", fingerprint={"a": "b"})
    described.write(str(folder), 0)
    write_journal(folder / journal_name(0, 1), record(0, 3))
    return folder


def write_journal(path: Path, *blocks: bytes) -> None:
    journal = Journal(str(path))
    journal.append(blocks)
    journal.close()


def use(folder: Path) -> None:
    """Let everything look at a folder; raise unless it copes."""
    try:
        status_text(read_status(str(folder)))
        list(joblog_lines(str(folder)))
        holder(str(folder))
    except AcmeMpiError as error:
        assert "damaged: " in str(error)  # noqa: PT017


WRONG_RECORDS = [
    {"kind": 99},
    {"first": -1},
    {"first": -(2**63)},
    {"first": 2**63 - 1},
    {"first": N_TASKS},
    {"count": 0},
    {"count": -5},
    {"count": 10**9},
    {"count": 2**63 - 1},
    {"first": 5, "count": N_TASKS - 4},
    {"attempt": 0},
    {"payload": -2},
    {"offset": -1},
    {"offset": 2**60},
    {"n_bytes": -1},
    {"n_bytes": 2**62},
    {"start_s": np.nan},
    {"start_s": np.inf},
    {"start_s": -1.0},
    {"start_s": 1e300},
    {"busy_s": np.nan},
    {"busy_s": -np.inf},
    {"peak_bytes": -1},
    {"kind": Block.FAILED, "count": 2},
    {"kind": Block.FAILED, "n_bytes": 2**62},
    {"kind": Block.LONG, "count": 3},
    {"kind": Block.LOST, "count": 2**40},
]


@pytest.mark.parametrize("fields", WRONG_RECORDS, ids=str)
def test_an_impossible_record_is_named_and_others_are_used(folder, fields, capsys):
    """A record that cannot be is named and the others are used."""
    path = folder / journal_name(0, 0)
    write_journal(path, record(7), forged(**fields), record(8))

    history = read_history(str(folder))

    assert history.is_done(N_TASKS).tolist() == [True] * 3 + [False] * 4 + [True] * 2 + [False]
    (damage,) = history.damages
    name = list(fields)[-1]
    assert str(damage) == f"damaged: {path}, record 1: `{name}` is {np.array([fields[name]])[0]}"
    assert str(damage) in status_text(read_status(str(folder)))
    assert run_command(["check", str(folder.parent.parent)]) == 74
    assert str(damage) in capsys.readouterr().out
    use(folder)


@pytest.mark.parametrize(
    "text",
    [
        "no JSON",
        "[1]",
        "7",
        "null",
        '"x"',
        "[" * 10**5,
        '{"a":' * 10**5,
        "\x00\xff",
        "{}x",
        json.dumps({**TOLD, "unknown": 1}),
        json.dumps({**TOLD, "type": 7}),
        json.dumps({**TOLD, "message": None}),
        json.dumps({**TOLD, "traceback": -1}),
        json.dumps({**TOLD, "traceback": 1.5}),
        '{"type": NaN}',
    ],
    ids=lambda text: text[:20],
)
def test_what_is_told_of_a_failure_need_not_make_sense(folder, text):
    path = folder / journal_name(0, 0)
    write_journal(path, record(7), failure(text), failure(json.dumps(TOLD), 6))

    history = read_history(str(folder))

    assert history.failed[6].message == "m"
    assert (history.failed[5].type, history.failed[5].message) == (
        "unknown",
        "its record is damaged",
    )
    assert str(history.damages[0]).startswith(f"damaged: {path}, record 1: ")
    use(folder)


@pytest.mark.parametrize("left_out", TOLD)
def test_what_is_not_told_of_a_failure_is_unknown(folder, left_out):
    said = {name: text for name, text in TOLD.items() if name != left_out}
    write_journal(folder / journal_name(0, 0), failure(json.dumps(said)))

    assert read_history(str(folder)).failed[5].index == 5
    use(folder)


def make_folder(path: Path) -> None:
    path.mkdir()


def make_dangling(path: Path) -> None:
    path.symlink_to("nowhere")


def make_loop(path: Path) -> None:
    path.symlink_to(path.name)


def make_pipe(path: Path) -> None:
    os.mkfifo(path)


FOREIGN = {
    make_folder: "Is a directory",
    make_dangling: "it is a link that leads nowhere",
    make_loop: "it is a link that leads to itself",
    make_pipe: "it is no regular file",
}


@pytest.mark.parametrize("make", FOREIGN)
def test_a_journal_may_be_anything(folder, make):
    path = folder / journal_name(0, 0)
    make(path)

    history = read_history(str(folder))

    assert [str(each) for each in history.damages] == [f"damaged: {path}: {FOREIGN[make]}"]
    assert history.is_done(N_TASKS).sum() == 3
    use(folder)


@pytest.mark.parametrize("name", ["run0_rank99999999999.journal", "run9999999_rank0.journal"])
def test_a_journal_of_no_rank_is_named(folder, name):
    write_journal(folder / name, record(7))

    assert [each.path for each in read_history(str(folder)).damages] == [str(folder / name)]
    use(folder)


def test_torn_blocks_are_damage_only_where_others_follow(folder):
    path = folder / journal_name(0, 0)
    torn = b"x" * RECORD.itemsize
    write_journal(path, record(7), torn, torn, record(8), torn, record(9), torn, torn[:9])

    damages: list[Damaged] = []
    pieces = list(read_journal(str(path), N_TASKS, damages.append))

    assert [each.record for each in damages] == [1, 4]
    assert pieces[0].numbers.tolist() == [0, 3, 5]


def test_zeros_are_damage_only_where_they_were_on_the_disk(folder, monkeypatch):
    """A loss of power leaves them of what was not, also in the middle."""
    monkeypatch.setattr(journal, "PIECE_BLOCKS", 2)
    path = folder / journal_name(0, 0)
    lost = bytes(RECORD.itemsize)
    write_journal(path, record(7), lost, lost, record(8), pack_synced(0.0, 0.0), lost, record(9))

    damages: list[Damaged] = []
    pieces = list(read_journal(str(path), N_TASKS, damages.append))

    assert [each.record for each in damages] == [1]
    assert np.concatenate([each.numbers for each in pieces]).tolist() == [0, 3, 4, 6]


@pytest.mark.parametrize("make", FOREIGN)
def test_a_description_may_be_anything(folder, make):
    (folder / "run0.json").unlink()
    make(folder / "run0.json")

    with pytest.raises(AcmeMpiError, match=f"damaged: .*run0.json: {FOREIGN[make]}"):
        read_status(str(folder))


def test_no_changed_byte_of_a_description_is_believed(folder):
    path = folder / "run0.json"
    data, told = path.read_bytes(), read_description(str(folder))
    unseen = 0
    for at in range(len(data)):
        for bit in range(8):
            changed = data[:at] + bytes([data[at] ^ 1 << bit]) + data[at + 1 :]
            try:
                assert Description(**parse_description(changed, "x")) == told
                unseen += 1  # white space between two words
            except Damaged:
                pass
    assert unseen < 8 * data.count(b" ")


def test_a_description_of_before_has_no_checksum(folder):
    path = folder / "run0.json"
    told = read_description(str(folder))
    said = json.loads(path.read_text())
    del said[CRC_FIELD]
    path.write_text(json.dumps(said))

    assert read_description(str(folder)) == told


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("name", "g"),
        ("name", 7),
        ("n_tasks", -1),
        ("n_tasks", 2**70),
        ("n_tasks", 1.5),
        ("n_tasks", True),
        ("kind", "tape"),
        ("kind", []),
        ("spec", 1),
        ("spec", [[1], 5, "f8"]),
        ("spec", [[-1], 0, "f8"]),
        ("spec", [[1], 0, "no dtype"]),
        ("spec", [[2**80], 0, "f8"]),
        ("n_ranks", 0),
        ("start_s", -1),
        ("start_s", "x"),
        ("start_s", 1e300),
        ("command", None),
        ("debug", "{"),
        ("debug", "{0}"),
        ("debug", "{index:>9999999999}"),
        ("debug", "{index.x}"),
        ("fingerprint", [1]),
        ("fingerprint", {"a": 1}),
        ("unknown", 1),
    ],
)
def test_a_description_without_a_checksum_is_checked(folder, name, value):
    """A description without a checksum is checked all the same."""
    path = folder / "run0.json"
    said = json.loads(path.read_text())
    del said[CRC_FIELD]
    path.write_text(json.dumps({**said, name: value}))

    with pytest.raises(Damaged, match=f"damaged: {path}: .*{value if name == 'name' else name}"):
        read_description(str(folder))
    use(folder)


def test_the_last_description_that_is_whole_counts(folder, capsys):
    Description("f", 12, "rank").write(str(folder), 1)
    (folder / "run1.json").write_text("{")

    assert read_status(str(folder)).n_tasks == N_TASKS
    assert "run1.json" in status_text(read_status(str(folder)))
    assert run_command(["check", str(folder.parent.parent)]) == 74


def test_other_functions_do_not_depend_on_a_damaged_one(folder, capsys):
    other = folder.with_name("g")
    other.mkdir()
    Description("g", 5, "rank").write(str(other), 0)
    (folder / "run0.json").write_text("{")

    assert run_command(["status", str(folder.parent.parent)]) == 2
    told = capsys.readouterr()
    assert "0 of 5 tasks" in told.out
    assert "damaged: " in told.err


def redo_log(n_bytes: int, *pieces: tuple[int, int, bytes], n_pieces: int | None = None) -> bytes:
    text = REDO_HEADER.pack(REDO_MAGIC, n_bytes, len(pieces) if n_pieces is None else n_pieces)
    text += b"".join(REDO_PIECE.pack(offset, length) + data for offset, length, data in pieces)
    return text + REDO_CRC.pack(zlib.crc32(text))


@pytest.mark.parametrize(
    "log",
    [
        redo_log(2**60, (0, 1, b"x")),
        redo_log(16, (2**63, 1, b"x")),
        redo_log(16, (16, 1, b"x")),
        redo_log(16, (0, 2**63, b"x")),
        redo_log(16, *[(0, 0, b"")] * 9),
        redo_log(16, n_pieces=2**63),
    ],
)
def test_a_log_that_says_what_cannot_be_changes_nothing(tmp_path, log):
    (tmp_path / "log").write_bytes(log)
    (tmp_path / "file").write_bytes(bytes(16))

    try:
        redo(str(tmp_path / "log"), str(tmp_path / "file"))
    except Damaged as damage:
        assert str(damage).startswith(f"damaged: {tmp_path}/log")  # noqa: PT017
    assert (tmp_path / "file").read_bytes() == bytes(16)


def test_a_log_of_very_many_pieces_takes_a_moment(tmp_path):
    """Of 2e5: half a minute if what follows were copied for each."""
    log = redo_log(16, *[(0, 1, b"x")] * 200_000)

    (section,) = parse_redo(log, "log", 16).sections

    assert len(section.pieces) == 200_000


@pytest.mark.parametrize("make", FOREIGN)
def test_a_lease_may_be_anything(folder, make):
    make(folder / "lease")

    with pytest.raises(AcmeMpiError, match=f"damaged: .*lease: {FOREIGN[make]}"):
        Lease.take(str(folder), lambda text: None)
    use(folder)


@pytest.mark.parametrize(
    ("name", "value"),
    [("pid", 2**70), ("pid", -1), ("taken_s", 1e300), ("started", -1), ("host", 1), ("new", 1)],
)
def test_a_lease_is_checked(folder, name, value):
    lease = Lease.take(str(folder), lambda text: None)
    said = json.loads((folder / "lease").read_text())
    lease.release()
    (folder / "lease").write_text(json.dumps({**said, name: value}))

    found = holder(str(folder))

    assert found is not None
    assert found.host == "?"
    use(folder)


def test_a_file_larger_than_any_is_not_read(tmp_path):
    path = tmp_path / "run0.json"
    path.touch()
    os.truncate(path, 2**40)

    with pytest.raises(Damaged, match="more than"):
        read_file(str(path))


# Random changes.


def mutated(data: bytes, draw: random.Random) -> bytes:
    """Return bytes that differ a little, or much, from others."""
    changed = bytearray(data)
    for _ in range(draw.choice([1, 1, 1, 2, 5])):
        at = draw.randrange(len(changed) + 1)
        n_bytes = min(draw.choice([1, 1, 4, 8, 50]), len(changed) - at)
        match draw.randrange(6):
            case 0:
                changed[at : at + n_bytes] = draw.randbytes(n_bytes)
            case 1:
                changed[at : at + n_bytes] = draw.choice([b"\xff", b"\x00", b"\x7f"]) * n_bytes
            case 2:
                del changed[at : at + n_bytes]
            case 3:
                changed[at:at] = draw.choice([b"[", b"{", b"9" * 30, b"\xff\xfe", b"\x1b", b"-1,"])
            case 4:
                del changed[at:]
            case _ if n_bytes:
                changed[at] ^= 1 << draw.randrange(8)
    return bytes(changed)


def mutated_journal(data: bytes, draw: random.Random) -> bytes:
    """Half of the changes are such that every checksum is right."""
    changed = mutated(data, draw)
    if draw.random() < 0.5:
        return changed
    size = RECORD.itemsize
    whole = [changed[at : at + size] for at in range(0, len(changed) - size + 1, size)]
    return b"".join(map(resealed, whole))


def mutate_and_use(folder: Path, seed: int, n_times: int) -> None:
    draw = random.Random(seed)
    lease = Lease.take(str(folder), lambda text: None)
    claim = (folder / "lease").read_bytes()
    lease.release()
    journal = b"".join(
        [
            record(3, 2, form=2, n_bytes=16),
            pack_record(range(3, 4), Block.SLOW, start_s=1e9, busy_s=2.0),
            failure(json.dumps({**TOLD, "traceback": "t" * 300})),
            pack_record(range(6, 7), Block.LONG, start_s=1e9),
            pack_record(range(0, 1), Block.LOST),
            failure(json.dumps({**TOLD, "traceback": 5}), 7),
        ]
    )
    whole = {
        "run0.json": (folder / "run0.json").read_bytes(),
        journal_name(0, 0): journal,
        "lease": claim,
        "log": redo_log(64, (3, 5, b"abcde"), (40, 2, b"xy")),
        "log2": pack_section(64, [(3, b"abcde")], [New(8, 4, checksum(bytes(4)))])
        + pack_section(64, [(40, b"xy")], []),
    }
    for name, data in whole.items():
        (folder / name).write_bytes(data)
    for _ in range(n_times):
        name = draw.choice(list(whole))
        change = mutated_journal if "journal" in name else mutated
        (folder / name).write_bytes(change(whole[name], draw))
        if name.startswith("log"):
            (folder / "file").write_bytes(bytes(64))
            with contextlib.suppress(Damaged):
                redo(str(folder / name), str(folder / "file"))
            assert (folder / "file").stat().st_size == 64
        else:
            use(folder)
        (folder / name).write_bytes(whole[name])
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 < 20 * MOST_BYTES


def test_random_changes_are_coped_with(folder):
    mutate_and_use(folder, seed=0, n_times=150)


@pytest.mark.many
@pytest.mark.parametrize("seed", range(10))
@pytest.mark.timeout(900)
def test_many_random_changes_are_coped_with(folder, seed):
    mutate_and_use(folder, seed=seed + 1, n_times=10_000)
