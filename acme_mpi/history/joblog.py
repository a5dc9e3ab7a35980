"""A log of every call of a task, as GNU parallel's ``--joblog`` has it."""

from __future__ import annotations

import re
import signal
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import numpy as np

from acme_mpi.history.calls import Calls, calls_in
from acme_mpi.history.description import Description
from acme_mpi.history.journal import Block, Tell, ignore, n_blocks_in
from acme_mpi.history.records import Records, Table, read_pieces, said_of_failures
from acme_mpi.history.told import described, is_end, readable
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
        n_most = n_blocks_in(folder)
        ends, slow = Table(COLUMNS, n_most), Table(COLUMNS, n_most)
        failed: list[tuple[int, int]] = []
        for place, piece in read_pieces(folder, tell):
            blocks = piece.blocks
            ends.add(place, piece, is_end(blocks))
            slow.add(place, piece, (blocks["kind"] == Block.SLOW) & (blocks["count"] == 1))
            failed += [exit_codes(said) for _, said in said_of_failures(place, piece, tell)]
    ended, named = ends.rows, slow.rows
    codes = np.zeros((len(ended), 2), np.int64)
    is_failed = ended["kind"] == Block.FAILED
    codes[is_failed] = np.reshape(failed, (-1, 2))[: is_failed.sum()]
    return _lines(ended, codes, calls_in(ended, named), _command(description))


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


def _lines(
    ended: Records, codes: Any, calls: Calls, command: Callable[[int], str]
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
