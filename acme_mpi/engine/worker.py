"""The role of every rank that calls tasks: take chunks, run them, store results, report."""

from __future__ import annotations

import time
from collections import deque

from acme_mpi.comm import TAG_CHUNK, TAG_REPORT, World
from acme_mpi.engine.protocol import (
    Again,
    Alive,
    CallChunk,
    Drain,
    DrainAsked,
    Ended,
    GivenBack,
    Joined,
    Left,
    Limit,
    Order,
    Report,
    Retired,
    Stop,
    StorageLost,
    from_ints,
    to_ints,
)
from acme_mpi.engine.schedule import REPORTS_PER_S
from acme_mpi.errors import Failure, StoreError
from acme_mpi.rules import Rules
from acme_mpi.runner.base import NotCalled, Outcome, PlaceRequest, Ready, Runner, Unready
from acme_mpi.runner.failure import DIED, MEDIUM, FailureFields
from acme_mpi.storage.base import Store

MAX_CALL_TEXTS = 1000
RINGS_PER_S = 100  # of all workers that have work: rank 0 answers more reports than that at once
ALIVE_EVERY_S = 10.0
LONG_S = 10.0  # a task that has been running for so long is noted in the journal


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
    rules : Rules
        How to deal with tasks that fail, hang, or take too much memory.
    """

    def __init__(
        self,
        world: World,
        runner: Runner,
        store: Store,
        rules: Rules = Rules(),  # noqa: B008 (immutable)
    ) -> None:
        self._world, self._runner, self._store, self._rules = world, runner, store, rules
        runner.limit(rules.timeout_s, rules.memory_bytes)
        self._noted = -1  # the task that was last noted as long
        self._is_draining = False
        self._chunks: deque[_Open] = deque()
        self._events: deque[object] = deque()
        self._is_ready = self._is_retired = False
        self.is_finished = False
        self.failures: list[Failure] = []
        self.retired_because = ""
        self.storage_error = ""
        self.unstorable: tuple[int, str] | None = None  # the first that was pickled instead
        self._tracebacks: dict[str, str] = {}
        self._told_s = self._rung_s = time.monotonic()
        self._ring_every_s = world.size / RINGS_PER_S
        # With few ranks it is told at once, with many after a while, so that the master can hear
        # all of them.
        self._untold: Ended | None = None
        self._report_every_s = world.size / REPORTS_PER_S

    @property
    def has_reserve(self) -> bool:
        """Whether the runner has work beyond what it may finish at once."""
        return len(self._chunks) > 1

    @property
    def changed(self) -> tuple[str, ...]:
        """What tasks have changed of their processes, so that these were replaced."""
        return tuple(self._runner.changed)

    def step(self) -> bool:
        """Handle the chunks that have arrived and one event; return whether there were any."""
        progressed = False
        while not self.is_finished and (arrived := self._world.poll(TAG_CHUNK)) is not None:
            progressed = True
            _, message = arrived
            self._obey(from_ints(message))
        self._runner.look()
        self._note_long_task()
        # After the stop nothing may be reported: the master may have left, and the next run's
        # would take it for one of its own workers'.
        if not (self._is_retired or self.is_finished):
            self._events += [] if self._events else self._runner.poll()
            # One at a time: to write results takes long, and on rank 0 the master has to answer.
            if self._events:
                progressed = True
                self._handle(self._events.popleft())
        silent_s = time.monotonic() - self._told_s
        if silent_s > self._report_every_s:
            self._tell_ended()
        if silent_s > ALIVE_EVERY_S and not self.is_finished:
            self._report(Alive())
        return progressed

    def ask_to_drain(self, signal: int) -> None:
        """Have the run end, as this rank was asked to by a signal; once is enough."""
        if not (self._is_draining or self.is_finished):
            self._is_draining = True
            self._report(DrainAsked(signal))

    def _obey(self, order: Order) -> None:
        match order:
            case CallChunk():
                self._take(_Open(range(order.start, order.stop), order.n_raised, order.n_crashed))
            case Limit():
                self._runner.limit(order.ns / 1e9, self._rules.memory_bytes)
            case Drain():
                self._is_draining = True
                self._runner.drain()
            case Stop():
                self.is_finished = True
                if self._chunks:  # the run is cut short
                    self._runner.stop()
                self._report(Left())

    def _take(self, chunk: _Open) -> None:
        if self._is_retired:
            self._return(chunk, chunk.tasks, is_last=True)
        else:
            self._chunks.append(chunk)
            self._runner.submit(chunk.tasks)

    def _return(self, chunk: _Open, tasks: range, is_last: bool) -> None:
        self._store.let_go(tasks)
        failed = chunk.n_raised, chunk.n_crashed
        self._report(GivenBack(tasks.start, tasks.stop, int(is_last), *failed))

    def _note_long_task(self) -> None:
        running = self._runner.running()
        if running is None or running[1] < LONG_S or running[0] == self._noted:
            return
        self._noted = running[0]
        try:
            self._store.note_long(running[0], time.time() - running[1])
        except StoreError as error:
            self._lose_storage(str(error))

    def _handle(self, event: object) -> None:
        if self._is_retired:
            return
        if isinstance(event, Ready):
            if not self._is_ready:
                self._is_ready = True
                self._report(Joined())
        elif isinstance(event, Unready):
            self.retired_because = event.reason
            self._retire()
        elif isinstance(event, PlaceRequest):
            self._place(event)
        elif isinstance(event, Outcome):
            self._finish(event)
        elif isinstance(event, NotCalled):
            chunk = self._chunk_of(event.start)
            is_last = self._end(chunk, event.start, event.stop)
            self._return(chunk, range(event.start, event.stop), is_last)

    def _place(self, request: PlaceRequest) -> None:
        try:
            site = self._store.place(request.index, request.k, request.shape, request.dtype)
        except StoreError as error:
            self._lose_storage(str(error))
            return
        self._runner.answer(request, site)

    def _finish(self, outcome: Outcome) -> None:
        chunk = self._chunk_of(outcome.start)
        outcome.attempt = chunk.attempt
        for fields in outcome.failures:
            fields["is_final"] = self._is_given_up(chunk, fields)
            if fields.get(DIED) and fields["is_final"] and chunk.attempt > 1:
                fields["message"] += f"; it was tried {chunk.attempt} times"
        lost = [f for f in outcome.failures if f["type"] == MEDIUM]
        begin_s = time.monotonic()
        try:
            if lost:
                raise StoreError(lost[0]["message"])
            self._store.write(outcome)
            self._store.note(outcome)
        except StoreError as error:
            self._lose_storage(str(error))
            return
        written_s = time.monotonic() - begin_s
        self._store.note_written(written_s)
        # Runner and agent work at the same time: the slower one says how long a task takes here.
        busy_ns = max(outcome.busy_ns, int(written_s * 1e9))
        if (found := outcome.content.unstorable) is not None:
            self.unstorable = min(found, self.unstorable or found)
        n_again = 0
        for fields in outcome.failures:
            if fields["is_final"]:
                self.failures.append(self._failure(fields, chunk.attempt))
            else:
                n_again += 1
                self._store.let_go(range(fields["index"], fields["index"] + 1))
                # Before the report that ends the chunk, so that the master does not stop.
                self._report(Again(fields["index"], *chunk.counts_after(fields)))
        is_closed = self._end(chunk, outcome.start, outcome.stop)
        before = self._untold
        if before is not None and before.stop != outcome.start:
            self._tell_ended()
            before = None
        start = outcome.start
        if before is not None:
            start, busy_ns = before.start, before.busy_ns + busy_ns
        n_failed = len(outcome.failures) - n_again
        self._untold = Ended(start, outcome.stop, is_closed, n_failed, busy_ns, n_again)
        if is_closed or outcome.failures:
            self._tell_ended()

    def _tell_ended(self) -> None:
        if self._untold is not None:
            ended, self._untold = self._untold, None
            self._report(ended)

    def _chunk_of(self, index: int) -> _Open:
        return next(chunk for chunk in self._chunks if index in chunk.tasks)

    def _end(self, chunk: _Open, start: int, stop: int) -> bool:
        """Take tasks out of a chunk; return whether it is closed by that."""
        chunk.end(start, stop)
        if not chunk.left:
            self._chunks.remove(chunk)
        return not chunk.left

    def _is_given_up(self, chunk: _Open, fields: FailureFields) -> bool:
        n_raised, n_crashed = chunk.counts_after(fields)
        if fields.get(DIED):
            return self._rules.gives_up(n_crashed, fields["is_from_outside"])
        return n_raised > self._rules.retries

    def _failure(self, fields: FailureFields, attempt: int) -> Failure:
        known = {name: fields.get(name, "") for name in ("type", "message", "location", "call")}
        # A million equal tracebacks are one string, and a thousand calls as text are enough.
        text = str(fields.get("traceback", ""))
        if len(self.failures) >= MAX_CALL_TEXTS:
            known["call"] = ""
        return Failure(
            fields["index"],
            **known,
            traceback=self._tracebacks.setdefault(text, text),
            host=self._world.host,
            rank=self._world.rank,
            attempt=attempt,
        )

    def _lose_storage(self, message: str) -> None:
        self.storage_error = message
        self._report(StorageLost())
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
                self._return(chunk, tasks, is_last=k == len(chunk.left))
        self._chunks.clear()
        self._report(Retired())

    def _report(self, report: Report) -> None:
        self._tell_ended()  # nothing overtakes it
        self._told_s = time.monotonic()
        self._world.send(0, TAG_REPORT, to_ints(report))
        if self._is_pressing(report):
            self._rung_s = self._told_s
            self._world.wake(0)

    def _is_pressing(self, report: Report) -> bool:
        """Tell whether rank 0 is to look at once; others have to be heard as well."""
        if not self._chunks:  # there is nothing to do until there is an answer
            return True
        match report:
            case Ended():
                may_wait = not report.n_closed
            case Alive():
                may_wait = True
            case _:
                return True
        return not may_wait and self._told_s - self._rung_s >= self._ring_every_s


class _Open:
    """A chunk that is not finished, and which of its tasks are left.

    A chunk of a task that has failed before has that task alone.
    """

    def __init__(self, tasks: range, n_raised: int = 0, n_crashed: int = 0) -> None:
        self.tasks = tasks
        self.left = [tasks]
        self.n_raised, self.n_crashed = n_raised, n_crashed

    @property
    def attempt(self) -> int:
        """1 for the first attempt."""
        return 1 + self.n_raised + self.n_crashed

    def counts_after(self, fields: FailureFields) -> tuple[int, int]:
        """Return how often a task has raised, and killed its runner, with this failure."""
        is_death = bool(fields.get(DIED))
        return self.n_raised + (not is_death), self.n_crashed + is_death

    def end(self, start: int, stop: int) -> None:
        """Take out tasks that have ended; after a crash they do not end in order."""
        remains = []
        for tasks in self.left:
            remains += [range(tasks.start, min(start, tasks.stop))]
            remains += [range(max(stop, tasks.start), tasks.stop)]
        self.left = [tasks for tasks in remains if tasks]
