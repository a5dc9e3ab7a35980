"""A log of every call of a task, as GNU parallel's ``--joblog`` has it."""

from __future__ import annotations

import re
import signal
from collections.abc import Callable, Iterator, Mapping
from typing import Any, NamedTuple

import numpy as np

from acme_mpi.history.description import Description
from acme_mpi.history.journal import Block, Tell, ignore
from acme_mpi.history.records import Records, Table, read_pieces, said_of_failures
from acme_mpi.history.status import described, is_end, readable
from acme_mpi.visible import visible

JOBLOG_HEADER = "Seq\tHost\tStarttime\tJobRuntime\tSend\tReceive\tExitval\tSignal\tCommand"
COLUMNS = ("kind", "attempt", "first", "count", "n_bytes", "start_s", "busy_s", "host")
JOBLOG_BATCH = 4096  # lines made at a time
BY_RULE = ("timeout", "memory")  # failures of tasks that were ended because they broke a rule
BY_RULE_EXITVAL = -1  # as GNU parallel


def joblog_lines(folder: str, tell: Tell = ignore) -> Iterator[str]:
    """Return the lines of a log as GNU parallel's ``--joblog``, header first. Independent.

    A line for each time that a task has ended, by all runs, in the order of their ends; Seq is the
    index + 1. Short tasks have the mean duration of those that were measured with them. Exitval
    is 0 for a result, -1 for a task that was ended because of its time or memory, the exit code
    where one is known, else 1; a task that died of a signal has Exitval 0 and Signal, as there.

    Parameters
    ----------
    folder : str
        The dot folder of a run, ``DIR/.acme_mpi/NAME``.
    tell : callable
        Gets what is damaged, and is left out.

    Raises
    ------
    InputError
        Nothing is there, or it cannot be read; at once, before the first line.
    """
    with readable(folder):
        description = described(folder)
        ends, slow = Table(COLUMNS, folder), Table(COLUMNS, folder)
        failed: list[tuple[int, int]] = []
        for place, piece in read_pieces(folder, tell):
            blocks = piece.blocks
            ends.add(place, blocks[is_end(blocks)])
            slow.add(place, blocks[(blocks["kind"] == Block.SLOW) & (blocks["count"] == 1)])
            failed += [exit_codes(said) for _, said in said_of_failures(place, piece, tell)]
    ended, named = ends.rows, slow.rows
    codes = np.zeros((len(ended), 2), np.int64)
    is_failed = ended["kind"] == Block.FAILED
    codes[is_failed] = np.reshape(failed, (-1, 2))[: is_failed.sum()]
    return _lines(ended, codes, _calls(ended, named), _command(description))


def exit_codes(said: Mapping[str, Any]) -> tuple[int, int]:
    """Return GNU parallel's Exitval and Signal for what is recorded of a failure."""
    kind, message = said["type"], said["message"]
    if kind in BY_RULE:
        return BY_RULE_EXITVAL, 0
    if kind == "killed" and (number := _signal_number(message)):
        return 0, number
    if kind == "exit" and (code := re.search(r"(?:exit code |sys\.exit\()(-?\d{1,18})", message)):
        # What ends with 0 in the middle of a task has failed all the same.
        return int(code[1]) & 0xFF or 1, 0
    return 1, 0


def _signal_number(message: str) -> int:
    """Return the signal that a message names, 0 for none."""
    if named := re.search(r"\bSIG[A-Z0-9]+\b", message):
        return int(getattr(signal, named[0], 0))
    numbered = re.search(r"\bsignal (\d{1,9})", message)
    return int(numbered[1]) if numbered else 0


def _command(described: Description) -> Callable[[int], str]:
    # A line is a task, and a tab a new column.
    debug = visible(described.debug.translate(dict.fromkeys(map(ord, "\t\n\r"), " ")))
    if debug:
        return lambda index: debug.format(index=index)
    name = visible(described.name, kept="")
    return lambda index: f"{name}(task {index})"


class _Calls(NamedTuple):
    """Calls of tasks that have ended, one by one.

    Attributes
    ----------
    block : (n,) ndarray of int64
        Position of the block that says so.
    index : (n,) ndarray of int64
        The task.
    start_s, busy_s : (n,) ndarray of float64
        Unix time of the start, and duration.
    """

    block: Any
    index: Any
    start_s: Any
    busy_s: Any


def _calls(ended: Records, named: Records) -> _Calls:
    """Return the calls of the tasks in `ended`, with the durations in `named` where they fit.

    What the named ones leave of the time of a block is shared by its other tasks.
    """
    counts = ended["count"]
    begins = np.cumsum(counts) - counts
    block = np.repeat(np.arange(len(ended)), counts)
    index = np.arange(len(block)) + (ended["first"] - begins)[block]
    at, named = _positions(ended, named, begins)
    n_named = np.bincount(block[at], minlength=len(ended))
    named_s = np.bincount(block[at], weights=named["busy_s"], minlength=len(ended))
    mean_s = (ended["busy_s"] - named_s).clip(0) / (counts - n_named).clip(1)
    busy_s = mean_s[block]
    busy_s[at] = named["busy_s"]
    before_s = np.cumsum(busy_s) - busy_s
    start_s = ended["start_s"][block] + before_s - before_s[begins][block]
    start_s[at] = named["start_s"]
    return _Calls(block, index, start_s, busy_s)


def _positions(ended: Records, named: Records, begins: Any) -> tuple[Any, Records]:
    """Return where the named tasks stand among all tasks of `ended`, and those that are there."""
    if not (len(ended) and len(named)):
        return np.zeros(0, np.int64), named[:0]
    both = np.concatenate([ended, named])
    key = _distinct(_distinct(both["run"], both["rank"]), both["attempt"])
    key = key * int((both["first"] + both["count"]).max()) + both["first"]
    order = np.argsort(key[: len(ended)])
    found = np.searchsorted(key[order], key[len(ended) :], side="right") - 1
    block = order[found.clip(0)]
    distance = key[len(ended) :] - key[block]
    is_there = (distance >= 0) & (distance < ended["count"][block])
    return (begins[block] + distance)[is_there], named[is_there]


def _distinct(first: Any, second: Any) -> Any:
    """Return numbers from 0 on, equal where both are equal."""
    pairs = first.astype(np.int64) * (int(second.max()) + 1) + second
    return np.unique(pairs, return_inverse=True)[1]


def _lines(
    ended: Records, codes: Any, calls: _Calls, command: Callable[[int], str]
) -> Iterator[str]:
    yield JOBLOG_HEADER
    names = {
        raw: visible(raw.decode(errors="replace"), kept="") for raw in set(ended["host"].tolist())
    }
    hosts = np.array([names[raw] for raw in ended["host"].tolist()], object)
    result_bytes = np.where(
        ended["kind"] == Block.DONE, ended["n_bytes"].clip(0) // ended["count"], 0
    )
    order = np.argsort(calls.start_s + calls.busy_s, kind="stable")
    for begin in range(0, len(order), JOBLOG_BATCH):
        chosen = order[begin : begin + JOBLOG_BATCH]
        block = calls.block[chosen]
        columns = (
            calls.index[chosen],
            hosts[block],
            calls.start_s[chosen],
            calls.busy_s[chosen],
            result_bytes[block],
            codes[block, 0],
            codes[block, 1],
        )
        for index, host, start_s, busy_s, n_bytes, exitval, number in zip(
            *(column.tolist() for column in columns), strict=True
        ):
            yield (
                f"{index + 1}\t{host}\t{start_s:.3f}\t{busy_s:10.3f}\t0\t{n_bytes}\t{exitval}\t"
                f"{number}\t{command(index)}"
            )
