"""The role of every rank that calls tasks: take chunks, run them, store results, report."""

from __future__ import annotations

import time
from collections import deque

from acme_mpi.comm import TAG_CHUNK, TAG_REPORT, World
from acme_mpi.errors import Failure, StoreError
from acme_mpi.master import ALIVE_EVERY_S, Report
from acme_mpi.runner.base import MEDIUM, Outcome, PlaceRequest, Ready, Runner, Unready
from acme_mpi.storage.base import Store

MAX_CALL_TEXTS = 1000


class Worker:
    """Connects one runner and one store with the master.

    Parameters
    ----------
    world : World
        This rank's.
    runner : Runner
        Has been given its assignment.
    store : Store
        Is open.
    """

    def __init__(self, world: World, runner: Runner, store: Store) -> None:
        self._world, self._runner, self._store = world, runner, store
        self._chunks: deque[_Open] = deque()
        self._is_ready = self._is_retired = False
        self.is_finished = False
        self.failures: list[Failure] = []
        self.retired_because = ""
        self.storage_error = ""
        self.unstorable: tuple[int, str] | None = None  # the first that was pickled instead
        self._tracebacks: dict[str, str] = {}
        self._told_s = time.monotonic()

    @property
    def has_reserve(self) -> bool:
        """Whether the runner has work beyond what it may finish at once."""
        return len(self._chunks) > 1

    def step(self) -> bool:
        """Handle all chunks and events that have arrived; return whether there were any."""
        progressed = False
        while not self.is_finished and (arrived := self._world.poll(TAG_CHUNK)) is not None:
            progressed = True
            _, message = arrived
            self._take(range(message[0], message[1]))
        # After the stop nothing may be reported: the master may have left, and the next run's
        # would take it for one of its own workers'.
        for event in [] if self._is_retired or self.is_finished else self._runner.poll():
            progressed = True
            self._handle(event)
        if time.monotonic() - self._told_s > ALIVE_EVERY_S and not self.is_finished:
            self._report(Report.ALIVE)
        return progressed

    def _take(self, chunk: range) -> None:
        if not chunk:
            self.is_finished = True
            if self._chunks:  # the run is cut short
                self._runner.stop()
            self._report(Report.BYE)
        elif self._is_retired:
            self._report(Report.RETURNED, chunk.start, chunk.stop, 1)
        else:
            self._chunks.append(_Open(chunk))
            self._runner.submit(chunk)

    def _handle(self, event: object) -> None:
        if self._is_retired:
            return
        if isinstance(event, Ready):
            if not self._is_ready:
                self._is_ready = True
                self._report(Report.READY)
        elif isinstance(event, Unready):
            self.retired_because = event.reason
            self._retire()
        elif isinstance(event, PlaceRequest):
            self._place(event)
        elif isinstance(event, Outcome):
            self._finish(event)

    def _place(self, request: PlaceRequest) -> None:
        try:
            site = self._store.place(request.index, request.k, request.shape, request.dtype)
        except StoreError as error:
            self._lose_storage(str(error))
            return
        self._runner.answer(site)

    def _finish(self, outcome: Outcome) -> None:
        lost = [f for f in outcome.failures if f["type"] == MEDIUM]
        try:
            if lost:
                raise StoreError(lost[0]["message"])
            self._store.write(outcome)
        except StoreError as error:
            self._lose_storage(str(error))
            return
        if (found := outcome.content.unstorable) is not None:
            self.unstorable = min(found, self.unstorable or found)
        for fields in outcome.failures:
            self.failures.append(self._failure(fields))
        chunk = next(chunk for chunk in self._chunks if outcome.start in chunk.tasks)
        chunk.end(outcome.start, outcome.stop)
        is_closed = not chunk.left
        if is_closed:
            self._chunks.remove(chunk)
        self._report(
            *(Report.DONE, outcome.start, outcome.stop, int(is_closed)),
            *(len(outcome.failures), outcome.busy_ns),
        )

    def _failure(self, fields: dict[str, object]) -> Failure:
        # A million equal tracebacks are one string, and a thousand calls as text are enough.
        text = str(fields.get("traceback", ""))
        fields = {**fields, "traceback": self._tracebacks.setdefault(text, text)}
        if len(self.failures) >= MAX_CALL_TEXTS:
            fields["call"] = ""
        return Failure(**fields, host=self._world.host, rank=self._world.rank)  # type: ignore[arg-type]

    def _lose_storage(self, message: str) -> None:
        self.storage_error = message
        self._report(Report.STORAGE)
        self._retire()

    def close(self) -> None:
        """End writing; what the store says last is remembered, not raised. Independent."""
        self._runner.forget()
        try:
            self._store.close()
        except StoreError as error:
            self.storage_error = self.storage_error or str(error)

    def _retire(self) -> None:
        """Take no more tasks, give back what is not done, and go on serving the protocol."""
        self._is_retired = True
        self._runner.stop()
        for chunk in self._chunks:
            for k, tasks in enumerate(chunk.left, 1):
                is_last = int(k == len(chunk.left))
                self._report(Report.RETURNED, tasks.start, tasks.stop, is_last)
        self._chunks.clear()
        self._report(Report.RETIRED)

    def _report(self, report: Report, *numbers: int) -> None:
        self._told_s = time.monotonic()
        self._world.send(0, TAG_REPORT, (report, *numbers))


class _Open:
    """A chunk that is not finished, and which of its tasks are left."""

    def __init__(self, tasks: range) -> None:
        self.tasks = tasks
        self.left = [tasks]

    def end(self, start: int, stop: int) -> None:
        """Take out tasks that have ended; after a crash they do not end in order."""
        remains = []
        for tasks in self.left:
            remains += [range(tasks.start, min(start, tasks.stop))]
            remains += [range(max(stop, tasks.start), tasks.stop)]
        self.left = [tasks for tasks in remains if tasks]
