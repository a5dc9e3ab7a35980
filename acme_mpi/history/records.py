"""What the journals of all ranks and runs say together: which tasks are done, and where."""

from __future__ import annotations

import gc
from collections import defaultdict
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any, NamedTuple

import numpy as np

from acme_mpi.comm import World, share_bytes
from acme_mpi.errors import Failure
from acme_mpi.history.description import read_descriptions
from acme_mpi.history.journal import (
    AS_GROUPS,
    AS_PICKLES,
    AS_RAGGED,
    AS_ROWS,
    FINAL,
    RECORD,
    Block,
    JournalFile,
    Mask,
    Piece,
    Tell,
    ignore,
    journal_files,
    n_blocks_in,
    read_journal,
    texts_in,
)
from acme_mpi.history.layout import Layout
from acme_mpi.history.parsing import Damaged, parse_failures

Records = np.ndarray[Any, np.dtype[np.void]]
Record = np.void  # one of them
Indices = np.ndarray[Any, np.dtype[np.int64]]  # of tasks
TOLD_OF_FAILURES = ("type", "message", "location", "traceback", "call")
_UNTOLD = {"type": "unknown", "message": ""}
_TORN = {"message": "its record is torn"}
_DAMAGED = {"message": "its record is damaged"}
NUMBER = "number"
# What `History` keeps of blocks, besides the run and the rank: of files, and of results.
FILES = ("form", "attempt", "payload", "first", "checksum")
PLACED = (
    "kind",
    "form",
    "first",
    "count",
    "payload",
    "offset",
    "n_bytes",
    "checksum",
    "digest",
    "start_s",
)


class History(NamedTuple):
    """All that the runs on the same results have recorded.

    Attributes
    ----------
    done : (n,) ndarray of the columns `PLACED`, run and rank
        The records of durable results, in task order; no task is in two of them.
    failed : dict of int to Failure
        The tasks that were given up, by index.
    last_run : int
        The last run that has recorded results, or that some are lost; 0 if none has.
    damages : list of Damaged
        What could not be used, of journals and descriptions.
    files : (n,) ndarray of the columns `FILES`, run and rank
        How files of results looked when they were complete, the latest last.
    """

    done: Records
    failed: dict[int, Failure]
    last_run: int
    damages: list[Damaged]
    files: Records

    def is_done(self, n_tasks: int) -> Mask:
        """Return which tasks have durable results, (n_tasks,) ndarray of bool."""
        return _covered(self.done, n_tasks)

    def n_done(self, n_tasks: int) -> int:
        """Return how many of the tasks have durable results; of tasks there may be 1e12."""
        first = self.done["first"]
        stops = np.minimum(first + self.done["count"], n_tasks)
        return int((stops - np.minimum(first, n_tasks)).sum())


class Table:
    """Some columns of blocks, and the run and rank of each.

    Of blocks there may be as many as tasks, so nobody keeps more of them than it needs.

    Parameters
    ----------
    columns : sequence of str
        Fields of `RECORD`, and ``"number"`` for the place in the journal.
    n_most : int
        Blocks that will be added.
    """

    def __init__(self, columns: Sequence[str], n_most: int) -> None:
        kinds = [(name, "<i8" if name == NUMBER else RECORD[name]) for name in columns]
        # What is not written to takes no memory.
        self._rows = np.empty(n_most, [*kinds, ("run", "<i4"), ("rank", "<i4")])
        self._columns, self._n = columns, 0

    def add(self, place: JournalFile, piece: Piece, is_wanted: Mask) -> None:
        """Append blocks of one journal."""
        at = np.flatnonzero(is_wanted)[: len(self._rows) - self._n]
        rows = self._rows[self._n : self._n + len(at)]
        for name in self._columns:
            rows[name] = (piece.numbers if name == NUMBER else piece.blocks[name])[at]
        rows["run"], rows["rank"] = place.run, place.rank
        self._n += len(rows)

    @property
    def rows(self) -> Records:
        """What was added, (n,) ndarray."""
        return self._rows[: self._n]


def read_pieces(folder: str, tell: Tell = ignore) -> Iterator[tuple[JournalFile, Piece]]:
    """Yield what the journals in a dot folder say, in pieces, by run and rank. Independent.

    Parameters
    ----------
    folder : str
        The folder.
    tell : callable
        Gets what is damaged, of descriptions, too.
    """
    sizes = [each.n_tasks for each in read_descriptions(folder, tell)]
    for each in journal_files(folder, tell):
        for piece in read_journal(each.path, max(sizes, default=None), tell):
            yield each, piece


def read_history(folder: str, told: Table | None = None, has_texts: bool = True) -> History:
    """Read the journals in a run's dot folder. Independent; it may be in use.

    Parameters
    ----------
    folder : str
        The folder.
    told : Table, optional
        All that is read is added to it, too, without texts.
    has_texts : bool
        False leaves out what is said of failures; `History.failed` is empty then.
    """
    n_most = n_blocks_in(folder)
    changing, files = Table(PLACED, n_most), Table(FILES, n_most)
    failed: dict[int, Failure] = {}
    tracebacks = defaultdict[tuple[int, int], dict[int, str]](dict)
    damages: list[Damaged] = []
    with _collecting_no_garbage():
        for place, piece in read_pieces(folder, damages.append):
            kinds = piece.blocks["kind"]
            changing.add(place, piece, _are_changes(kinds))
            files.add(place, piece, kinds == Block.FILE)
            if told is not None:
                told.add(place, piece, kinds != Block.TEXT)
            if has_texts:
                told_here = tracebacks[place.run, place.rank]
                _add_failed(failed, told_here, place, piece, damages.append)
    found = _history(changing.rows, files.rows, damages)
    indices = sorted(failed)
    is_done = speak_of(found.done, np.array(indices, np.int64)).tolist()
    open_ones = {
        index: failed[index] for index, ended in zip(indices, is_done, strict=True) if not ended
    }
    return found._replace(failed=open_ones)


def history_of(blocks: Records, damages: list[Damaged]) -> History:
    """Return what blocks say, without failures.

    Parameters
    ----------
    blocks : (n,) ndarray
        All but texts, by run, rank and place in the journal, with run and rank.
    damages : list of Damaged
        What could not be read.
    """
    kinds = blocks["kind"]
    return _history(blocks[_are_changes(kinds)], blocks[kinds == Block.FILE], damages)


def _are_changes(kinds: Any) -> Mask:
    found: Mask = (kinds == Block.DONE) | (kinds == Block.LOST)
    return found


def _history(changing: Records, files: Records, damages: list[Damaged]) -> History:
    """Return what blocks say, without failures; the memory of `changing` is used for it."""
    last_run = int(changing["run"].max(initial=0))
    return History(_valid(changing), {}, last_run, damages, files)


@contextmanager
def _collecting_no_garbage() -> Iterator[None]:
    """Context without a search for cycles: of a million failures none refers to another."""
    was_enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_enabled:
            gc.enable()


def share_records(world: World, layout: Layout) -> Records:
    """Return the records of results of all ranks and runs, in task order. Collective."""
    done = read_history(layout.dot_folder).done if world.is_master else None
    # As bytes: a pickle of them would be one more copy.
    shared = share_bytes(world, None if done is None else done.view(np.uint8))
    kind = world.bcast(None if done is None else done.dtype)
    records: Records = shared.view(kind)
    return records


def _valid(said: Records) -> Records:
    """Return the records that count: what a later run says of a task replaces what was said.

    The memory of `said` is used for them.
    """
    order = np.argsort(said["first"], kind="stable")
    said = _taken(said, order)
    reach = np.maximum.accumulate(said["first"] + said["count"])
    is_apart = np.ones(len(said) + 1, bool)  # from all before it
    is_apart[1:-1] = said["first"][1:] >= reach[:-1]
    is_alone = is_apart[:-1] & is_apart[1:]
    counts = is_alone & (said["kind"] == Block.DONE)
    if counts.all():
        return said
    shared = np.flatnonzero(~is_alone)
    last = _last_words(said[shared[np.argsort(order[shared])]])
    found = np.concatenate([_taken(said, np.flatnonzero(counts)), last])
    return _taken(found, np.argsort(found["first"], kind="stable"))


def _taken(records: Records, positions: Any) -> Records:
    """Return ``records[positions]`` in the memory of `records`, at most as many."""
    for name in records.dtype.names or ():
        records[name][: len(positions)] = records[name][positions]
    return records[: len(positions)]


def _last_words(said: Records) -> Records:
    """Return what is left of records that speak of the same tasks, when the last of them counts."""
    stops = said["first"] + said["count"]
    edges = np.unique([said["first"], stops])
    begins = np.searchsorted(edges, said["first"])
    counts = np.searchsorted(edges, stops) - begins
    # Between two edges, the record that says the last word.
    last = np.full(len(edges), -1)
    spans = np.repeat(begins - (np.cumsum(counts) - counts), counts) + np.arange(counts.sum())
    # Assignments are carried out in order, so that of the last record stays.
    last[spans] = np.repeat(np.arange(len(said)), counts)
    n_owned = np.bincount(last[last >= 0], minlength=len(said))
    is_done = said["kind"] == Block.DONE
    left = [said[is_done & (n_owned == counts)]]
    for at in np.flatnonzero(is_done & (n_owned > 0) & (n_owned < counts)).tolist():
        span = slice(begins[at], begins[at] + counts[at])
        left.append(_parts(said[at], edges[ranges_of(last[span] == at) + begins[at]]))
    return np.concatenate(left)


def _parts(record: Record, ranges: Any) -> Records:
    """Return a record for each of some ranges of its tasks, (n, 2) ndarray: start, stop."""
    parts = np.repeat(np.array([record]), len(ranges))
    parts["first"], parts["count"] = ranges[:, 0], ranges[:, 1] - ranges[:, 0]
    if record["form"] & AS_ROWS:
        parts["offset"] = record["offset"] + ranges[:, 0] - record["first"]
    parts["n_bytes"] = -1  # of the whole; a part cannot be measured against it
    return parts


def _add_failed(
    failed: dict[int, Failure],
    tracebacks: dict[int, str],
    place: JournalFile,
    piece: Piece,
    tell: Tell,
) -> None:
    """Take note of the tasks that were given up, and of the first task of each traceback."""
    blocks = piece.blocks[piece.blocks["kind"] == Block.FAILED]
    columns = (blocks[name].tolist() for name in ("first", "attempt", "form", "host"))
    # Not by numpy.unique, which imports numpy.ma, at the end of each run.
    hosts = {host: host.decode(errors="replace") for host in {*blocks["host"].tolist()}}
    for (_, said), *fields in zip(said_of_failures(place, piece, tell), *columns, strict=True):
        index, attempt, form, host = fields
        traceback = said.pop("traceback", "")
        if isinstance(traceback, int):  # that of another task of the same rank
            traceback = tracebacks.get(traceback, "")
        else:
            tracebacks.setdefault(index, traceback)
        if form & FINAL:
            failed[index] = Failure(
                index,
                **said,
                traceback=traceback,
                host=hosts[host],
                rank=place.rank,
                attempt=attempt,
            )


def said_of_failures(
    place: JournalFile, piece: Piece, tell: Tell = ignore
) -> Iterator[tuple[int, dict[str, Any]]]:
    """Yield (position of the block, what is said of the failure) of each failure in a piece.

    Keys are of `TOLD_OF_FAILURES`; the traceback may be the index of a task that has the same one.
    """
    found = [*texts_in(piece.blocks, Block.FAILED)]
    whole = [(text, int(piece.numbers[at])) for at, text in found if text]
    texts, numbers = [text for text, _ in whole], [number for _, number in whole]
    parsed = parse_failures(texts, TOLD_OF_FAILURES, place.path, numbers)
    for at, text in found:
        said = next(parsed) if text else _TORN
        if isinstance(said, Damaged):
            tell(said)
            said = _DAMAGED
        yield at, said if len(said) == len(TOLD_OF_FAILURES) else {**_UNTOLD, **said}


def speak_of(records: Records, indices: Indices) -> Mask:
    """Return of which tasks records in task order, none of them of the same tasks, speak."""
    if not len(records):
        return np.zeros(len(indices), bool)
    # All at once: each search in a column of records copies it.
    at = np.searchsorted(records["first"], indices, side="right") - 1
    stops = (records["first"] + records["count"])[at]
    found: Mask = (at >= 0) & (indices < stops)
    return found


def _covered(records: Records, n_tasks: int) -> Mask:
    """Return which tasks the records speak of, none of them twice, (n_tasks,) ndarray of bool."""
    # One byte per task, and no other array of that length: of tasks there may be 1e7.
    edges = np.zeros(n_tasks + 1, np.int8)
    edges[np.minimum(records["first"], n_tasks)] += 1
    edges[np.minimum(records["first"] + records["count"], n_tasks)] -= 1
    return np.cumsum(edges, dtype=np.int8, out=edges)[:-1].view(bool)


def ranges_of(is_wanted: Mask) -> np.ndarray[Any, np.dtype[np.int64]]:
    """Return the runs of consecutive tasks that are wanted, (n, 2) ndarray: start, stop.

    Parameters
    ----------
    is_wanted : (n_tasks,) ndarray of bool
        By task.
    """
    padded = np.concatenate([[False], is_wanted, [False]])
    return np.flatnonzero(np.diff(padded)).reshape(-1, 2)


def share_of(records: Records, world: World) -> Records:
    """Return the records whose results this rank takes care of at the end. Independent.

    Those that it has written itself, and those of ranks that are not there any more.
    """
    share: Records = records[records["rank"] % world.size == world.rank]
    return share


def by_payload(records: Records, *columns: str) -> list[Any]:
    """Return the positions of the records of each payload file, ordered by some columns.

    Parameters
    ----------
    records : ndarray
        In any order.
    *columns : str
        The first one counts most.

    Returns
    -------
    list of (n,) ndarray of int64
        By rank and payload.
    """
    order = np.lexsort([records[name] for name in reversed(("rank", "payload", *columns))])
    ranks, payloads = records["rank"][order], records["payload"][order]
    edges = np.flatnonzero(np.diff(ranks) | np.diff(payloads)) + 1
    return np.split(order, edges) if len(order) else []


def n_sources(records: Records) -> int:
    """Return how many payload files hold rows."""
    in_rows = AS_ROWS | AS_RAGGED
    return sum(bool((records["form"][at] & in_rows).any()) for at in by_payload(records))


def indices_of(records: Records) -> Iterator[int]:
    """Yield the tasks that the records speak of."""
    for first, count in zip(records["first"].tolist(), records["count"].tolist(), strict=True):
        yield from range(first, first + count)


def tasks_of(record: Record) -> range:
    """Return the tasks that one record speaks of."""
    first = int(record["first"])
    return range(first, first + int(record["count"]))


def missing_tasks(records: Records, n_tasks: int) -> np.ndarray[Any, np.dtype[np.int64]]:
    """Return the indices of tasks without a record, (n,) ndarray of int64."""
    return np.flatnonzero(is_missing(records, n_tasks))


def without_pickles(records: Records) -> Records:
    """Return the records of results that HDF5 holds."""
    chosen: Records = records[records["form"] & AS_PICKLES == 0]
    return chosen


def is_missing(records: Records, n_tasks: int) -> Mask:
    """Return which tasks have no record, (n_tasks,) ndarray of bool."""
    return ~_covered(records, n_tasks)


class Place(NamedTuple):
    """Where a rank has put the groups of some tasks."""

    rank: int
    payload: int


def places(records: Records) -> list[Place]:
    """Return where the records' results lie, each place once, by rank and payload."""
    firsts = [records[at[0]] for at in by_payload(records)]
    return [Place(int(each["rank"]), int(each["payload"])) for each in firsts]


def tasks_with_groups(records: Records) -> Iterator[tuple[Place, int]]:
    """Yield (place, task) for every task that has a group in the container."""
    chosen = records[records["form"] & AS_GROUPS != 0]
    columns = (chosen[name].tolist() for name in ("rank", "payload", "first", "count"))
    for rank, payload, first, count in zip(*columns, strict=True):
        place = Place(rank, payload)
        for index in range(first, first + count):
            yield place, index
