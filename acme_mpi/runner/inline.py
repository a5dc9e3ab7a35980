"""The runner without a process of its own: the agent calls the function itself."""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Callable, Iterator
from typing import Any

from acme_mpi.runner.assigned import load_assignment, load_tasks, make_encoder, reason_unready
from acme_mpi.runner.base import (
    Assignment,
    Event,
    NotCalled,
    Outcome,
    PlaceRequest,
    Ready,
    Runner,
    Unready,
)
from acme_mpi.runner.chunk import run_chunk
from acme_mpi.runner.surroundings import change_environment
from acme_mpi.runner.words import DRAIN, N_WORDS
from acme_mpi.standing import calling, loading
from acme_mpi.tasks.taskset import TaskSet, function_name

REPORT_NS = 50_000_000  # so long do other ranks wait for a rank 0 that calls tasks itself


class InlineRunner(Runner):
    """Calls tasks in this process, for functions that communicate or need its state.

    A task that ends the process ends the rank; an exception costs its task alone.

    Parameters
    ----------
    func : callable, optional
        This rank's own function; None: the one of the assignment.
    tasks : TaskSet, optional
        The tasks themselves; None: those of the assignment.
    swallow : tuple of exception types
        What costs a task and not the run.
    """

    def __init__(
        self,
        func: Callable[..., Any] | None = None,
        tasks: TaskSet | None = None,
        swallow: tuple[type[BaseException], ...] = (Exception, SystemExit),
    ) -> None:
        self._own, self._own_tasks, self._swallow = func, tasks, swallow
        self._chunks: deque[range] = deque()
        self._loaded: tuple[Callable[..., Any], str, TaskSet] | None = None
        self._running: Iterator[Outcome] | None = None
        self._left = range(0)  # of the chunk that runs
        self._start: Ready | Unready | None = None
        self._undo: dict[str, str | None] = {}  # what a script has changed in its environment
        self._words = [-1] + [0] * (N_WORDS - 1)

    def prepare(self, assignment: Assignment) -> None:
        """Load the arguments at once."""
        self._encoder, self._slowest = make_encoder(assignment), list[int]()
        self._start = Ready()
        self._words[DRAIN] = 0
        try:
            with loading():
                func, tasks = self._load(assignment)
            self._loaded = func, function_name(func), tasks
        except Exception as error:
            self._start = Unready(reason_unready(error))

    def _load(self, assignment: Assignment) -> tuple[Callable[..., Any], TaskSet]:
        if self._own is not None:
            return self._own, self._own_tasks or load_tasks(assignment)
        variables = assignment.surroundings.variables
        self._undo = {name: os.environ.get(name) for name in variables}
        change_environment(variables)
        return load_assignment(assignment)

    def submit(self, chunk: range) -> None:
        """Queue a chunk."""
        self._chunks.append(chunk)

    def drain(self) -> None:
        """Call no further task; a task may ask for that, too."""
        self._words[DRAIN] = 1

    def poll(self) -> list[Event]:
        """Call tasks for about 50 ms and return their outcome."""
        if self._start is not None:
            start, self._start = self._start, None
            return [start]
        if self._running is None and self._chunks:
            assert self._loaded is not None
            self._left = self._chunks.popleft()
            self._running = run_chunk(
                *self._loaded,
                self._encoder,
                self._left,
                self._words,
                self._swallow,
                slowest=self._slowest,
                report_ns=REPORT_NS,
            )
        if self._running is None:
            return []
        with calling():
            outcome = next(self._running, None)
        if outcome is not None:
            self._left = range(outcome.stop, self._left.stop)
            return [outcome]
        self._running = None
        return [NotCalled(self._left.start, self._left.stop)] if self._left else self.poll()

    def descriptors(self) -> list[int]:
        """Return nothing to select on."""
        return []

    @property
    def has_work(self) -> bool:
        """Whether `poll` would call a task."""
        return self._running is not None or bool(self._chunks) or self._start is not None

    def answer(self, request: PlaceRequest, site: tuple[str, int] | None) -> None:
        """Never asked: the values are in this process already."""
        raise AssertionError("an inline runner asks for no offset")

    def forget(self) -> None:
        """Drop what `prepare` has loaded."""
        change_environment(self._undo)
        self._loaded = self._own = self._own_tasks = None

    def stop(self) -> None:
        """Forget what is queued."""
        self._chunks.clear()
        self._running = None
