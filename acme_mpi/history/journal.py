"""The record of what has become of tasks: append-only files, one per run and rank.

A run that resumes an earlier one writes files of its own, so the number of ranks may
change. Nothing else says which tasks are done: the container, a resumed run, and all views are
derived from these files. They consist of blocks of one size, each with a checksum of its own; a
block torn by a kill is ignored, and what cannot be true is told and ignored.

====== ==================================================================================
DONE   the results of tasks are written: which tasks, where they lie, how to know them again
SLOW   how long tasks of 10 ms and more took; TEXT blocks with the call of the slowest follow
LONG   a task has been running for seconds, and may still be
FAILED a task has failed, for good or to be called again; TEXT blocks with what is said of it follow
LOST   what was recorded of these tasks before is not there any more
FILE   a file of results is complete and on the disk, and what the file system says of it
SYNCED all that this journal has said before is on the disk; and for how long the rank was writing
DEATH  another rank is lost, which this one has watched: all ranks will be ended
====== ==================================================================================
"""

from __future__ import annotations

import contextlib
import os
import re
import struct
import time
import zlib
from collections.abc import Callable, Iterator, Sequence
from enum import IntEnum
from typing import Any, NamedTuple

import numpy as np

from acme_mpi.history.parsing import MOST_RANKS, MOST_RUNS, Damaged, faults_of_records, open_file
from acme_mpi.results.checksum import XXH3
from acme_mpi.results.checksum import checksum as checksum_of

# Bits of `form`: packed rows of result_0; groups comp_i that belong into the container; rows of
# differing length, each in a dataset of its own; pickles, each in a file of its own.
AS_ROWS, AS_GROUPS, AS_RAGGED, AS_PICKLES = 1, 2, 4, 8
FINAL = 1  # `form` of a failure after which the task is given up


class Block(IntEnum):
    """What a block is."""

    DONE = 1
    SLOW = 2
    LONG = 3
    FAILED = 4
    TEXT = 5
    LOST = 6
    FILE = 7
    SYNCED = 8
    DEATH = 9


HOST_BYTES, TEXT_BYTES = 44, 120
PIECE_BLOCKS = 8192  # read at once
RECORD = np.dtype(
    [
        ("kind", "<u2"),
        ("form", "<u2"),
        ("attempt", "<u4"),  # 1 for the first
        ("first", "<i8"),
        ("count", "<i8"),
        ("payload", "<i4"),  # the rank's payload file; -1: the shared one; the rank that is lost
        ("digest", "<i4"),  # what `checksum` is, see `new_digest`
        ("offset", "<i8"),  # first row inside the payload; of failures what like ones share
        ("n_bytes", "<i8"),  # of the results; of the text that follows a failure
        ("checksum", "<u8"),
        ("start_s", "<f8"),  # Unix time of the first call
        ("busy_s", "<f8"),
        ("peak_bytes", "<i8"),  # resident memory of the process that called
        ("host", f"S{HOST_BYTES}"),
        ("crc32", "<u4"),  # of the bytes before it
    ]
)
_RECORD = struct.Struct(f"<HHIqqiiqqQddq{HOST_BYTES}s")
_TEXT = struct.Struct(f"<HH{TEXT_BYTES}s")
_CRC = struct.Struct("<I")
_TEXT_START = 4
_INODE = 2**63 - 1
_NAME = re.compile(r"run(\d{1,8})_rank(\d{1,8})\.journal")

Records = np.ndarray[Any, np.dtype[np.void]]
Mask = np.ndarray[Any, np.dtype[np.bool_]]  # which of some records
Tell = Callable[[Damaged], None]


def ignore(damage: Damaged) -> None:
    """Tell nobody of what is damaged."""


class JournalFile(NamedTuple):
    """One journal in a folder, known by its name."""

    run: int
    rank: int
    path: str


def journal_files(folder: str, tell: Tell = ignore) -> list[JournalFile]:
    """Return all journals in a folder, by run and rank; tell of those whose names cannot be."""
    found, names = [], list[str]()
    with contextlib.suppress(OSError):
        names = os.listdir(folder)
    # There may be ten thousand, which are listed every few seconds.
    for name in names:
        if not (name.startswith("run") and name.endswith(".journal") and "_rank" in name):
            continue
        path, match = os.path.join(folder, name), _NAME.fullmatch(name)
        if match and int(match[1]) < MOST_RUNS and int(match[2]) < MOST_RANKS:
            found.append(JournalFile(int(match[1]), int(match[2]), path))
        else:
            tell(Damaged(path, "its name is that of no run and rank"))
    return sorted(found)


class Journal:
    """The journal of one rank, open for writing.

    Parameters
    ----------
    path : str
        A new file.

    Raises
    ------
    OSError
        The file exists or cannot be made.
    """

    def __init__(self, path: str) -> None:
        self.path = path
        flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_APPEND | os.O_CLOEXEC
        self._descriptor = os.open(path, flags, 0o666)

    def append(self, blocks: Sequence[bytes]) -> None:
        """Append blocks. They survive the death of all processes, and from `sync` on more.

        Parameters
        ----------
        blocks : sequence of bytes
            From `pack_record` and `pack_failure`.

        Raises
        ------
        OSError
            The medium refused them, or the file has been deleted.
        """
        data = b"".join(blocks)
        while data:
            data = data[os.write(self._descriptor, data) :]
        refuse_deleted(self._descriptor, self.path)

    def sync(self) -> None:
        """Wait until all that was appended is on the disk.

        Raises
        ------
        OSError
            The medium refused it.
        """
        os.fdatasync(self._descriptor)

    def close(self) -> None:
        """Close the file.

        Raises
        ------
        OSError
            It has been deleted since.
        """
        try:
            refuse_deleted(self._descriptor, self.path)
        finally:
            os.close(self._descriptor)


def refuse_deleted(descriptor: int, path: str) -> None:
    """Raise FileNotFoundError if an open file has lost its name: what it holds will be lost."""
    if os.fstat(descriptor).st_nlink == 0:
        raise FileNotFoundError(2, "it was deleted while it was in use", path)


def write_whole(path: str, content: str | bytes | memoryview) -> None:
    """Write a file durably, whole or not at all; its folder is not synchronised.

    Raises
    ------
    OSError
        The medium refused it.
    """
    partial = f"{path}.{os.urandom(8).hex()}"
    with open(partial, "xb") as file:
        file.write(content.encode() if isinstance(content, str) else content)
        file.flush()
        os.fsync(file.fileno())
    os.replace(partial, path)


def rename(path: str, name: str) -> None:
    """Give a file that is on the disk another name, durably.

    Raises
    ------
    OSError
        The medium refused it.
    """
    os.replace(path, name)
    for folder in {os.path.dirname(path), os.path.dirname(name)}:
        sync_folder(folder)


def sync_folder(folder: str) -> None:
    """Make the names of new files durable."""
    descriptor = os.open(folder or ".", os.O_RDONLY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def pack_record(
    tasks: range,
    kind: Block = Block.DONE,
    *,
    form: int = 0,
    attempt: int = 1,
    payload: int = 0,
    offset: int = 0,
    n_bytes: int = 0,
    checksum: int = 0,
    digest: int = XXH3,
    start_s: float = 0.0,
    busy_s: float = 0.0,
    peak_bytes: int = 0,
    host: str = "",
) -> bytes:
    """Return the block that says something of consecutive `tasks`; fields as in `RECORD`."""
    body = _RECORD.pack(
        kind,
        form,
        attempt,
        tasks.start,
        len(tasks),
        payload,
        digest,
        offset,
        n_bytes,
        checksum,
        start_s,
        busy_s,
        peak_bytes,
        host.encode()[:HOST_BYTES],
    )
    return body + _CRC.pack(zlib.crc32(body))


_ANY_WHOLE = pack_record(range(1))


def pack_synced(start_s: float, written_s: float) -> bytes:
    """Return the block that says that all before it is on the disk.

    Parameters
    ----------
    start_s : float
        Unix time of the last such block, or of the first result.
    written_s : float
        How long since then the rank was busy with results, in seconds.
    """
    return pack_record(range(1), Block.SYNCED, start_s=start_s, busy_s=written_s)


def pack_death(rank: int, host: str) -> bytes:
    """Return the block that says that another rank, on `host`, is lost, as is seen now."""
    return pack_record(range(1), Block.DEATH, payload=rank, start_s=time.time(), host=host)


def append_at_once(path: str, block: bytes) -> None:
    """Append a block to a journal which others may be writing, or make it. Independent.

    Raises
    ------
    OSError
        The medium refused it.
    """
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o666)
    try:
        os.write(descriptor, block)  # one write lies behind or before those of others
    finally:
        os.close(descriptor)


class FileKey(NamedTuple):
    """Which file of results, by the fields of the records of what lies in it.

    Attributes
    ----------
    form : int
        `AS_PICKLES` for a pickle, else 0.
    rank, payload : int
        Who has written it, and which of that rank's payload files it is.
    first : int
        The task, of a file with the results of one.
    """

    form: int = 0
    rank: int = 0
    payload: int = 0
    first: int = 0


def pack_file(key: FileKey, status: os.stat_result) -> bytes:
    """Return the block that says how a file of results looks that is complete and whole."""
    return pack_record(
        range(key.first, key.first + 1),
        Block.FILE,
        form=key.form,
        payload=key.payload,
        attempt=key.rank + 1,  # a later run says it of files of other ranks
        n_bytes=status.st_size,
        checksum=stamp_of(status),
    )


def key_of(block: np.void) -> FileKey:
    """Return which file a FILE block speaks of."""
    form, attempt, payload, first = (
        int(block[name]) for name in ("form", "attempt", "payload", "first")
    )
    return FileKey(form, attempt - 1, payload, first)


def stamp_of(status: os.stat_result) -> int:
    """Return a number that differs once a file has been written, replaced or copied."""
    times = status.st_mtime_ns, status.st_ctime_ns
    return checksum_of(struct.pack("<4q", status.st_size, *times, status.st_ino & _INODE))


def pack_failure(index: int, text: str, is_final: bool, **fields: Any) -> bytes:
    """Return the blocks that say that a task has failed.

    Parameters
    ----------
    index : int
        The task.
    text : str
        What is to be known of it.
    is_final : bool
        The task is given up; otherwise it will be called again.
    **fields
        ``attempt, start_s, busy_s, peak_bytes, host``, and as ``offset`` a number that failures
        which are alike share.
    """
    form = FINAL if is_final else 0
    return _pack_with_text(text, range(index, index + 1), Block.FAILED, form=form, **fields)


def pack_slow(tasks: range, call: str = "", **fields: Any) -> bytes:
    """Return the blocks that say how long consecutive tasks took; `call` is that of a single one.

    Further fields are as of `pack_failure`.
    """
    return _pack_with_text(call, tasks, Block.SLOW, **fields)


def _pack_with_text(text: str, tasks: range, kind: Block, **fields: Any) -> bytes:
    data = text.encode(errors="replace")
    crc = zlib.crc32(data)
    blocks = [pack_record(tasks, kind, n_bytes=len(data), checksum=crc, **fields)]
    for start in range(0, len(data), TEXT_BYTES):
        piece = data[start : start + TEXT_BYTES]
        body = _TEXT.pack(Block.TEXT, len(piece), piece)
        blocks.append(body + _CRC.pack(zlib.crc32(body)))
    return b"".join(blocks)


def n_blocks(path: str) -> int:
    """Return how many blocks a journal has room for."""
    try:
        return os.path.getsize(path) // RECORD.itemsize
    except OSError:
        return 0  # `read_journal` says why


def n_blocks_in(folder: str) -> int:
    """Return how many blocks all journals in a folder have room for."""
    return sum(n_blocks(each.path) for each in journal_files(folder))


class Piece(NamedTuple):
    """Consecutive blocks of a journal that may be relied on.

    Attributes
    ----------
    blocks : (n,) ndarray of `RECORD`
        The text of a failure is in the same piece as the failure.
    numbers : (n,) ndarray of int64
        Their places in the file, in blocks.
    """

    blocks: Records
    numbers: np.ndarray[Any, np.dtype[np.int64]]


def read_journal(
    path: str, n_tasks: int | None = None, tell: Tell = ignore, n_read: int = 0
) -> Iterator[Piece]:
    """Yield the blocks of a journal that no kill has torn and that say what can be; in pieces.

    None without a file.

    Parameters
    ----------
    path : str
        The file.
    n_tasks : int, optional
        The most tasks that any run had which has written into the folder.
    tell : callable
        Gets what is damaged. The last blocks of a file may be torn by a kill, and of what was not
        yet synchronised a loss of power may leave zeros; that is no damage.
    n_read : int
        The blocks at the begin that are left out, as they are known.

    Raises
    ------
    OSError
        The file is there and cannot be read.
    """
    try:
        file = open(open_file(path), "rb")  # noqa: SIM115
    except FileNotFoundError:
        return
    except Damaged as damage:
        tell(damage)
        return
    with file:
        kept = Piece(np.zeros(0, RECORD), np.zeros(0, np.int64))
        file.seek(n_read * RECORD.itemsize)
        is_torn = False
        torn: dict[int, bool] = {}  # the first of each row of them, and whether it is blank
        is_more = True
        while is_more:
            data = file.read(PIECE_BLOCKS * RECORD.itemsize)
            # Of a file that grows, what comes after this is no whole block.
            is_more = len(data) == PIECE_BLOCKS * RECORD.itemsize
            blocks = np.frombuffer(data, RECORD, len(data) // RECORD.itemsize)
            is_good = _is_whole(blocks)
            for at in _first_torn(is_good, is_torn).tolist():
                torn[n_read + at] = not any(blocks[at].tobytes())
            is_torn = is_torn if not len(blocks) else not is_good[-1]
            n_whole = _n_until(is_good, n_read)
            n_synced = _n_until(is_good & (blocks["kind"] == Block.SYNCED), n_read)
            for number, is_blank in list(torn.items()):
                if number < (n_synced if is_blank else n_whole):
                    tell(Damaged(path, "its checksum differs", number))
                    del torn[number]
            at = np.flatnonzero(is_good & (blocks["kind"] != Block.TEXT))
            for wrong, what in faults_of_records(blocks[at], n_tasks).items():
                is_good[at[wrong]] = False
                tell(Damaged(path, what, n_read + int(at[wrong])))
            good = np.flatnonzero(is_good)
            new = blocks if len(good) == len(blocks) else blocks[good]  # a copy takes its time
            kept = Piece(
                np.concatenate([kept.blocks, new]) if len(kept.blocks) else new,
                np.concatenate([kept.numbers, good + n_read]),
            )
            n_read += len(blocks)
            cut = _last_begin(kept.blocks) if is_more else len(kept.blocks)
            yield Piece(kept.blocks[:cut], kept.numbers[:cut])
            kept = Piece(kept.blocks[cut:], kept.numbers[cut:])


def read_piece(path: str, number: int) -> Piece:
    """Return a block of a journal, by its place in the file, and those of its text.

    None of those that are torn, and no blocks of a file that cannot be read any more.
    """
    size, data = RECORD.itemsize, b""
    with contextlib.suppress(OSError, Damaged), open(open_file(path), "rb") as file:
        n_left = os.fstat(file.fileno()).st_size // size - number
        file.seek(number * size)
        if n_left > 0:
            data = file.read(size)
            n_texts = -(-int(np.frombuffer(data, RECORD)["n_bytes"][0]) // TEXT_BYTES)
            data += file.read(max(0, min(n_texts, n_left - 1)) * size)
    blocks = np.frombuffer(data, RECORD, len(data) // size)
    is_good = _is_whole(blocks)
    return Piece(blocks[is_good], np.flatnonzero(is_good) + number)


def _last_begin(blocks: Records) -> int:
    """Return the position of the last block that is no text: text of it may follow."""
    begins = np.flatnonzero(blocks["kind"] != Block.TEXT)
    return int(begins[-1]) if len(begins) else 0


def _is_whole(blocks: Records) -> Mask:
    """Return which blocks are as they were written, (n,) ndarray of bool."""
    # A CRC alone would take zeros that a file system has left for a block.
    is_whole: Mask = blocks["kind"] != 0
    data = blocks.tobytes()
    # The CRC of what ends with its own CRC does not depend on what it is. So whole blocks have
    # all the same one together, and what is hardly ever damaged is looked at in one go.
    if zlib.crc32(data) != zlib.crc32(_ANY_WHOLE * len(blocks)):
        size, view = RECORD.itemsize, memoryview(data)
        crcs = [zlib.crc32(view[at : at + size - 4]) for at in range(0, len(data), size)]
        is_whole &= blocks["crc32"] == np.array(crcs, np.uint32)
    return is_whole


def _first_torn(is_good: Mask, is_torn_before: bool) -> np.ndarray[Any, np.dtype[np.intp]]:
    """Return the positions of torn blocks, of those that follow each other only the first."""
    return np.flatnonzero(np.diff(~is_good, prepend=is_torn_before) & ~is_good)


def _n_until(is_wanted: Mask, n_before: int) -> int:
    """Return how many blocks there are up to the last that is wanted; 0 without any."""
    found = np.flatnonzero(is_wanted)
    return n_before + int(found[-1]) + 1 if len(found) else 0


def texts_in(blocks: Records, kind: Block) -> Iterator[tuple[int, str]]:
    """Yield (position, text) of each block of one kind; the text is empty if it was torn."""
    # A failure always has one, other blocks may.
    has_text = (blocks["kind"] == kind) & ((blocks["n_bytes"] > 0) | (kind == Block.FAILED))
    if not has_text.any():
        return
    # There may be a million failures: all texts are put together at once, and each is one slice.
    is_text = blocks["kind"] == Block.TEXT
    raw = np.frombuffer(blocks[is_text].tobytes(), np.uint8).reshape(-1, RECORD.itemsize)
    texts = raw[:, _TEXT_START : _TEXT_START + TEXT_BYTES].tobytes()
    starts = np.cumsum(is_text)[has_text] * TEXT_BYTES
    columns = (
        np.flatnonzero(has_text),
        starts,
        *(blocks[x][has_text] for x in ("n_bytes", "checksum")),
    )
    for at, start, n_bytes, crc in zip(*(each.tolist() for each in columns), strict=True):
        data = texts[start : start + n_bytes]
        yield at, data.decode(errors="replace") if zlib.crc32(data) == crc else ""
