"""The parent side of a runner in a child process: user code cannot crash or stall the agent."""

from __future__ import annotations

import contextlib
import os
import select
import time
from collections import deque
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

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
from acme_mpi.runner.channel import Kind
from acme_mpi.runner.failure import DIED
from acme_mpi.runner.guard import Gone, Guard, Limits
from acme_mpi.runner.process import Child, Ending, child_environment
from acme_mpi.runner.surroundings import changes, need_a_new_process
from acme_mpi.runner.words import DRAIN

MAX_IDLE_DEATHS = 3
OF_A_RUN = {Kind.READY, Kind.UNREADY, Kind.PLACE, Kind.OUTCOME, Kind.NOT_CALLED}
FORGETTING_S = 5.0


class ChildRunner(Runner):
    """Calls tasks in a child process and replaces the child when it dies.

    A child that ends, is killed, or writes garbage costs the task that it was running; the other
    tasks of its chunks go to its successor.

    Parameters
    ----------
    n_threads : int
        Threads of the numerical libraries in the child, >= 1.
    is_forked : bool
        Whether the first child is a copy of this process; its successors are not.
    """

    def __init__(self, n_threads: int = 1, is_forked: bool = False) -> None:
        self._n_threads = n_threads
        self._environment = child_environment(n_threads)
        self._adapted_to: object = None  # environment of this process, and changes of the caller's
        self._limits = Limits()
        self._assignment: Assignment | None = None
        self._pending: deque[range] = deque()  # submitted, not yet reported; oldest first
        self._events: deque[Event] = deque()
        self._is_prepared = False
        self._is_draining = False
        self._holds_files = False  # arguments that the child has opened
        self._is_used = False  # the child has called functions of an earlier run
        self._n_assignments = 0
        self._n_children = 0
        self._has_reported = False  # the child, since it was started
        self._habits: set[str] = set()  # what tasks have changed of their processes
        self._n_idle_deaths = 0
        self.other_messages: deque[tuple[Kind, Any]] = deque()
        self._asked: tuple[Kind, Any] | None = None  # between two runs, and not yet answered
        self._child: Child | None = None
        self.unstartable = ""  # why there is no child; it is tried again with the next message
        self._start_child(is_forked)

    def _start_child(self, is_forked: bool = False) -> Child | None:
        module = "acme_mpi.runner.child_main"
        try:
            child = Child(module, (), self._environment, is_forked=is_forked)
        except OSError as error:
            self.unstartable = (
                f"no process for tasks can be started: {error.strerror}; is a limit too small "
                "(ulimit -u, -n, -v)?"
            )
            return None
        self._child, self.unstartable = child, ""
        self._n_children += 1
        self._has_reported = False
        self._guard = Guard(child)  # outlives it
        child.words[DRAIN] = self._is_draining
        self._is_used = False
        return child

    def prepare(self, assignment: Assignment) -> None:
        """Send function and arguments to the child."""
        # A child that was slow to load the last run's function still says so.
        self._n_assignments += 1
        self._assignment = replace(
            assignment,
            number=self._n_assignments,
            variables=self._adapt(assignment.surroundings.variables),
            habits=[*self._habits],
        )
        self._pending.clear()
        self._events.clear()
        self._is_prepared = self._is_draining = False
        self._n_idle_deaths = 0
        self._limits = Limits()
        self.changed = frozenset()
        if self._child is not None:
            self._child.words[DRAIN] = 0
        self._send_tasks()

    def _send_tasks(self) -> None:
        assert self._assignment is not None
        self.send(Kind.TASKS, self._assignment)
        if self._child is None:
            self._events.append(Unready(self.unstartable))

    def _adapt(self, variables: Mapping[str, str | None]) -> dict[str, str | None]:
        """Take the caller's environment of now; return how the child's has to be changed."""
        # As it is kept: to make texts of all of it takes longer than all else of a small run here.
        found = dict(vars(os.environ)["_data"]), dict(variables)
        if found == self._adapted_to:
            return {}
        self._adapted_to = found
        before = self._environment
        self._environment = child_environment(self._n_threads, variables)
        altered = changes(before, self._environment)
        if need_a_new_process(altered):
            self.leave()
        return altered

    def send(self, kind: Kind, content: Any) -> None:
        """Send a message to the child; a child that is gone is noticed by `poll`."""
        child = self._child or self._start_child()
        if child is None:
            return
        with contextlib.suppress(BrokenPipeError, ConnectionError):
            child.channel.send(kind, content)

    def ask(self, kind: Kind, content: Any) -> None:
        """Send a message between two runs, whose answer comes among `other_messages`."""
        self._asked = (kind, content)
        self.send(kind, content)

    def submit(self, chunk: range) -> None:
        """Queue the tasks of `chunk` in the child."""
        self._pending.append(chunk)
        if self._is_draining and self._child is None:
            self._return_all()
        else:
            self.send(Kind.CHUNK, (chunk.start, chunk.stop))

    def drain(self) -> None:
        """Have the child start no further task; a child that dies now is not replaced."""
        self._is_draining = True
        if self._child is not None:
            self._child.words[DRAIN] = 1

    def limit(self, seconds: float, n_bytes: int) -> None:
        """Set what a task may take; see `Runner`."""
        if self.look_s is None and self._child is not None:
            self._guard.begin_looks()
        self._limits = Limits(seconds, n_bytes)

    @property
    def look_s(self) -> float | None:
        """Longest time in seconds between two calls of `look`."""
        return self._limits.look_s

    def look(self) -> None:
        """Kill the child if its task is over a limit; `poll` then fails that task alone."""
        if self._child is not None:
            self._guard.look(self._limits)

    def running(self) -> tuple[int, float] | None:
        """Return the task that runs and for how many seconds this was seen."""
        return None if self._child is None else self._guard.running()

    def descriptors(self) -> list[int]:
        """Return the channel and the child's process descriptor."""
        return [] if self._child is None else self._guard.descriptors()

    def poll(self) -> list[Event]:
        """Return what the child has said of the current run since the last call."""
        while self._child is not None:
            found = self._guard.listen(self._take)
            if isinstance(found, Gone):
                self._replace_dead(found.misdeed)
            if found is not True:
                break
        events, self._events = list(self._events), deque()
        return events

    def _take(self, kind: Kind, content: Any) -> None:
        if kind in OF_A_RUN and self._assignment is None:
            return  # its run has ended without waiting for this
        if kind == Kind.READY:
            number, self._holds_files = content
            if number == self._n_assignments:
                self._is_prepared = True
                self._events.append(Ready())
        elif kind == Kind.UNREADY:
            number, reason = content
            if number == self._n_assignments:
                self._events.append(Unready(str(reason)))
        elif kind == Kind.PLACE:
            index, k, shape, dtype = content
            self._events.append(PlaceRequest(self._n_children, index, k, tuple(shape), dtype))
        elif kind == Kind.OUTCOME:
            if not isinstance(content, Outcome):
                raise TypeError(f"no outcome: {type(content).__name__}")
            self._finish(content)
        elif kind == Kind.NOT_CALLED:
            self._take_back(*content)
        elif kind == Kind.CHANGED:
            names, may_be_habits = content
            self._replace_changed([str(name) for name in names], may_be_habits)
        else:
            self._asked = None
            self.other_messages.append((kind, content))

    def _take_back(self, start: int, stop: int) -> None:
        if not self._pending or self._pending[0] != range(start, stop):
            raise ValueError(f"tasks come back that are not left: {start}")
        self._pending.popleft()
        self._events.append(NotCalled(start, stop))

    def _finish(self, outcome: Outcome) -> None:
        chunk = self._pending[0] if self._pending else range(0)
        if outcome.start != chunk.start or not chunk.start < outcome.stop <= chunk.stop:
            raise ValueError(f"an outcome for tasks that were not asked for: {outcome.start}")
        self._pending.popleft()
        if outcome.stop < chunk.stop:
            self._pending.appendleft(range(outcome.stop, chunk.stop))
        self._n_idle_deaths = 0
        self._has_reported = True
        self._guard.note_memory(outcome.peak_bytes)
        self._events.append(outcome)

    def _replace_dead(self, misdeed: str | None) -> None:
        """Replace the dead (or misbehaving) child and fail the task it was running."""
        assert self._child is not None
        child, self._child = self._child, None
        # Nobody waits for these answers any more.
        self._events = deque(each for each in self._events if not isinstance(each, PlaceRequest))
        index, ending = self._guard.ending(child.kill(), misdeed)
        if not self._is_prepared:
            self._prepare_again(ending)
        elif self._fail_running(index, ending):
            self._restart()
        else:
            self._events.append(Unready(f"{ending.message}, again and again, between two tasks"))

    def _replace_changed(self, names: list[str], may_be_habits: bool) -> None:
        """Give the tasks that are left to a process that no task has changed."""
        assert self._child is not None
        child, self._child = self._child, None
        child.end()
        if may_be_habits:
            self._habits.update(names)
        if self._assignment is None:
            if self._asked is not None:  # by an agent that did not know yet
                self.send(*self._asked)
            return  # else the next run starts another one
        self._assignment.habits = [*self._habits]
        if self._is_prepared:
            self.changed |= set(names)
            self._restart()
        else:
            self._send_again()

    def _prepare_again(self, ending: Ending) -> None:
        """Replace a child that has died before it was ready, if an earlier run may be to blame."""
        if self._assignment is None:
            return
        if self._is_used:
            self._send_again()
        else:
            self._events.append(Unready(f"{ending.message} while the function was loaded"))

    def _fail_running(self, index: int, ending: Ending) -> bool:
        """Fail the task that a dead child was running; return whether to start another."""
        running = self._pending.popleft() if self._pending else range(0)
        if not running:
            self._n_idle_deaths += 1
        elif index in running:
            self._fail_one(running, index, ending)
        elif self._is_draining:
            self._pending.appendleft(running)  # nothing is tried again now
        elif self._has_reported:
            # Earlier tasks may have made this process unfit: none of these is to blame yet.
            self._pending.appendleft(running)
        elif len(running) == 1:
            self._fail_one(running, running.start, ending)
        else:
            # Which task of the chunk it was is not known: what a task has done to its process
            # may show only later. Halving the chunk finds it.
            middle = running.start + len(running) // 2
            self._pending.extendleft([range(middle, running.stop), range(running.start, middle)])
        return self._n_idle_deaths <= MAX_IDLE_DEATHS

    def _fail_one(self, running: range, index: int, ending: Ending) -> None:
        """Fail one task of the oldest chunk and put the others back."""
        if index + 1 < running.stop:
            self._pending.appendleft(range(index + 1, running.stop))
        # The tasks before it had returned, but their results died with the child.
        if running.start < index:
            self._pending.appendleft(range(running.start, index))
        died = self._guard.over_limit is None  # otherwise it was killed for its task
        outcome = Outcome(index, index + 1, [{"index": index, DIED: died, **ending._asdict()}])
        outcome.start_s = self._guard.task_start_s
        outcome.peak_bytes = self._guard.task_peak_bytes
        self._events.append(outcome)

    def _restart(self) -> None:
        if self._is_draining:
            self._return_all()
            return
        self._is_prepared = True
        self._send_again()

    def _return_all(self) -> None:
        """Give back what no child has any more."""
        self._events.extend(NotCalled(chunk.start, chunk.stop) for chunk in self._pending)
        self._pending.clear()

    def _send_again(self) -> None:
        """Give a new child what its predecessor had."""
        self._send_tasks()
        if self._child is None:
            return
        pending, self._pending = list(self._pending), deque()
        for chunk in pending:
            self.submit(chunk)

    def answer(self, request: PlaceRequest, site: tuple[str, int] | None) -> None:
        """Tell the child that has asked where its array goes, if it is still there."""
        if self._child is not None and request.child == self._n_children:
            self._guard.note_answer()
            self.send(Kind.SITE, site)

    def forget(self) -> None:
        """Have the child drop function and arguments; wait for that if they hold files open."""
        self._assignment = None
        self._is_prepared = False  # a child that dies now is not replaced
        self._pending.clear()
        self._events.clear()
        self.other_messages.clear()
        self._asked = None
        if self._child is None:
            return
        self._is_used = True
        self.send(Kind.FORGET, self._holds_files)
        give_up_s = time.monotonic() + FORGETTING_S
        while self._holds_files and self._child is not None and not self.other_messages:
            left_s = give_up_s - time.monotonic()
            if left_s <= 0:
                return self.stop()
            select.select(self.descriptors(), [], [], left_s)
            self.poll()
        self.other_messages.clear()

    def lend(self) -> Child | None:
        """Give a child away that has called nothing yet; None: there is none."""
        if self._child is None or self._n_assignments or self._n_children != 1:
            return None
        child, self._child = self._child, None
        return child

    def leave(self) -> None:
        """Let the child end as Python does if it has nothing to do, else kill it.

        What it has started ends with it.
        """
        is_idle = self._assignment is None or (self._is_prepared and not self._pending)
        if self._child is not None and is_idle:
            self._child.end()
            self._child = None
        self.stop()

    def stop(self) -> None:
        """Kill the child and everything it has started."""
        if self._child is not None:
            self._child.kill()
            self._child = None

    @property
    def pid(self) -> int:
        """The child's process id, 0 if there is none."""
        return 0 if self._child is None else self._child.pid
