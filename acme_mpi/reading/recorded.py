"""What the journals say of each task: whether it is done, how long it took, where, and why not."""

from __future__ import annotations

import os
from functools import cached_property
from typing import Any

import numpy as np

from acme_mpi.errors import Failure
from acme_mpi.history.calls import calls_in
from acme_mpi.history.journal import Block, n_blocks_in
from acme_mpi.history.layout import Layout
from acme_mpi.history.lease import holder
from acme_mpi.history.records import Table, read_history
from acme_mpi.history.stores import find_store
from acme_mpi.history.told import described, is_end, readable

Array = np.ndarray[Any, np.dtype[Any]]

COLUMNS = ("kind", "attempt", "first", "count", "start_s", "busy_s", "peak_bytes", "host")


class Recorded:
    """What has been recorded of the runs of one function, up to now.

    Parameters
    ----------
    directory : str
        The output directory.
    name : str
        The function's name.

    Attributes
    ----------
    layout : Layout
        Where files lie.
    description : Description
        Of the last run.
    history : History
        What is done, and what has failed.

    Raises
    ------
    InputError
        Nothing is there, or it cannot be read.
    """

    def __init__(self, directory: str, name: str) -> None:
        layout = Layout(directory, name)
        with readable(layout.dot_folder):
            told = Table(COLUMNS, n_blocks_in(layout.dot_folder))
            self.description = described(layout.dot_folder)
            self.history = read_history(layout.dot_folder, told)
        store = find_store(self.description.kind)
        self.layout = Layout(directory, name, suffix=store.suffix)
        self._told = told.rows

    def is_running(self) -> bool:
        """Tell whether a run is at work."""
        found = holder(self.layout.dot_folder)
        return found is not None and found.is_alive

    @cached_property
    def is_done(self) -> Array:
        """Which tasks have results, (n_tasks,) ndarray of bool."""
        return self.history.is_done(self.description.n_tasks)

    @cached_property
    def failures(self) -> list[Failure]:
        """The tasks that were given up, in order."""
        n_tasks = self.description.n_tasks
        return [each for index, each in self.history.failed.items() if index < n_tasks]

    @cached_property
    def _last_calls(self) -> tuple[Array, Array, Array]:
        """Tasks, their last calls' blocks, and durations in seconds."""
        told, n_tasks = self._told, self.description.n_tasks
        ended = told[is_end(told)]
        calls = calls_in(ended, told[(told["kind"] == Block.SLOW) & (told["count"] == 1)])
        order = np.lexsort(
            [calls.start_s, ended["attempt"][calls.block], ended["run"][calls.block]]
        )
        order = order[calls.index[order] < n_tasks]
        last = np.full(n_tasks, -1)
        last[calls.index[order]] = order  # assigned in order, so that of the last call stays
        tasks = np.flatnonzero(last >= 0)
        return tasks, ended[calls.block[last[tasks]]], calls.busy_s[last[tasks]]

    @cached_property
    def durations(self) -> Array:
        """Seconds that each task took in its last call, NaN where that is not recorded.

        Short tasks have the mean of those that were measured together.
        """
        tasks, blocks, busy_s = self._last_calls
        found = np.full(self.description.n_tasks, np.nan)
        # Of a task that has failed among others, or with its process, nobody knows it.
        is_known = (blocks["kind"] != Block.FAILED) | (busy_s > 0)
        found[tasks[is_known]] = busy_s[is_known]
        return found

    @cached_property
    def ranks(self) -> Array:
        """The rank of each task's last call, (n_tasks,) ndarray of int64; -1 for none."""
        tasks, blocks, _ = self._last_calls
        found = np.full(self.description.n_tasks, -1)
        found[tasks] = blocks["rank"]
        return found

    @cached_property
    def peak_bytes(self) -> Array:
        """The most memory of the process that called each task, meanwhile; 0 where not known."""
        tasks, blocks, _ = self._last_calls
        found = np.zeros(self.description.n_tasks, np.int64)
        found[tasks] = blocks["peak_bytes"]
        return found

    @cached_property
    def hosts(self) -> Array:
        """The host of each task's last call, (n_tasks,) ndarray of str; empty for none."""
        tasks, blocks, _ = self._last_calls
        names, numbers = np.unique(blocks["host"], return_inverse=True)
        texts = np.array([name.decode(errors="replace") for name in names.tolist()], object)
        found = np.full(self.description.n_tasks, "", object)
        found[tasks] = texts[numbers] if len(tasks) else ""
        return found

    @property
    def directory(self) -> str:
        """Of the results."""
        return os.path.dirname(os.path.dirname(self.layout.dot_folder))
