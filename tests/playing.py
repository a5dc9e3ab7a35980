"""Masters and workers on threads, with runners that follow a script."""

from __future__ import annotations

import math
import sys
import time
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from itertools import chain
from typing import Any

from acme_mpi.comm import ThreadWorld
from acme_mpi.engine.loop import Loop
from acme_mpi.engine.master import Master
from acme_mpi.engine.progress import Progress
from acme_mpi.engine.schedule import Factoring, FixedChunks
from acme_mpi.engine.worker import Worker
from acme_mpi.errors import Failure
from acme_mpi.results.content import Content
from acme_mpi.rules import Rules
from acme_mpi.runner.base import NotCalled, Outcome, PlaceRequest, Ready, Runner, Unready
from acme_mpi.runner.failure import DIED
from acme_mpi.storage import Layout, MemoryStore

LIMIT_S = 20.0

LONGEST_PAUSE_S = 0.001

SCHEDULES = {
    "one at a time": FixedChunks,
    "chunks of 4": lambda n_tasks, n_workers: FixedChunks(n_tasks, n_workers, 4),
    "factoring": Factoring,
}


@dataclass
class Script:
    """What the runner of one rank does; by default all goes well.

    Attributes
    ----------
    is_ready : bool
        False: its function cannot be loaded.
    is_held : callable
        As long as this is true the runner says nothing.
    failing : set of int
        Tasks that raise.
    failures_left : dict of int to int
        Tasks that raise so many times, and then no more.
    crashing : set of int
        Tasks that kill the process: reported before those in front of them in their chunk.
    deaths_left : dict of int to int
        Tasks that do so as many times, and then no more.
    unready_after : int or None
        Number of tasks after which the runner gives up.
    placing : set of int
        Tasks whose result asks for a place first.
    step : int
        Tasks per outcome.
    running : callable
        Returns the task that is running, and for how many seconds.
    """

    is_ready: bool = True
    is_held: Callable[[], bool] = lambda: False
    failing: set[int] = field(default_factory=set)
    failures_left: dict[int, int] = field(default_factory=dict)
    deaths_left: dict[int, int] = field(default_factory=dict)
    crashing: set[int] = field(default_factory=set)
    unready_after: int | None = None
    placing: set[int] = field(default_factory=set)
    step: int = 3
    running: Callable[[], tuple[int, float] | None] = lambda: None


class ScriptedRunner(Runner):
    """Follows its script; the "value" of a task is its index."""

    def __init__(self, script: Script) -> None:
        self.script = script
        self.chunks: deque[range] = deque()
        self.called: list[int] = []
        self.n_submitted = 0
        self.answers: list[Any] = []
        self.limits: list[tuple[float, int]] = []
        self.is_draining = False
        self.is_stopped = False
        self._has_started = False
        self._placing: int | None = None

    def prepare(self, assignment: Any) -> None:
        raise AssertionError("prepared by the test")

    def submit(self, chunk: range) -> None:
        assert not self.is_stopped, "a chunk for a runner that was stopped"
        assert chunk, "an empty chunk"
        self.n_submitted += len(chunk)
        self.chunks.append(chunk)

    def forget(self) -> None:
        """Nothing was prepared."""

    look_s = None

    def limit(self, seconds: float, n_bytes: int) -> None:
        self.limits.append((seconds, n_bytes))

    def look(self) -> None:
        """Nothing hangs."""

    def running(self) -> tuple[int, float] | None:
        return self.script.running()

    def drain(self) -> None:
        self.is_draining = True

    def poll(self) -> list[Any]:
        assert not self.is_stopped
        script = self.script
        if script.is_held():
            return []
        if not self._has_started:
            self._has_started = True
            return [Ready() if script.is_ready else Unready("no module named mymod")]
        if not self.chunks or self._placing is not None:
            return []
        if script.unready_after is not None and len(self.called) >= script.unready_after:
            return [Unready("again and again")]
        chunk = self.chunks.popleft()
        if self.is_draining:
            return [NotCalled(chunk.start, chunk.stop)]
        crashed = [index for index in chunk if index in script.crashing or self._dies(index)]
        if crashed:
            return [self._crash(chunk, crashed[0])]
        if chunk[0] in script.placing:
            script.placing.discard(chunk[0])
            self.chunks.appendleft(chunk)
            self._placing = chunk[0]
            return [PlaceRequest(1, chunk[0], 0, (3,), "<f8")]
        part, rest = chunk[: script.step], chunk[script.step :]
        if rest:
            self.chunks.appendleft(rest)
        return [self._outcome(part)]

    def _crash(self, chunk: range, index: int) -> Outcome:
        before, after = range(chunk.start, index), range(index + 1, chunk.stop)
        self.chunks.extendleft(each for each in (after, before) if each)
        self.called.append(index)
        fields = {"index": index, "type": "killed", "message": "9", DIED: True}
        fields["is_from_outside"] = False
        return Outcome(index, index + 1, [fields])

    def _dies(self, index: int) -> bool:
        left = self.script.deaths_left
        left[index] = left.get(index, 0) - 1
        return left[index] >= 0

    def _fails(self, index: int) -> bool:
        left = self.script.failures_left
        left[index] = left.get(index, 0) - 1
        return index in self.script.failing or left[index] >= 0

    def _outcome(self, part: range) -> Outcome:
        self.called += part
        failing = [index for index in part if self._fails(index)]
        failures: list[Any] = [
            {"index": index, "type": "ValueError", "message": f"bad {index}"} for index in failing
        ]
        values = [index for index in part if index not in failing]
        content = Content(values=values, buffers=[])  # type: ignore[arg-type]
        return Outcome(part.start, part.stop, failures, content, 1_000_000 * len(part))

    def descriptors(self) -> list[int]:
        return []

    def answer(self, request: PlaceRequest, site: tuple[str, int] | None) -> None:
        self.answers.append(site)
        self._placing = None

    def stop(self) -> None:
        self.is_stopped = True


def after_ready(is_held: Callable[[], bool]) -> Callable[[], bool]:
    """Return an `is_held` that lets the runner say that it is ready, and holds it from then on."""
    n_looks = iter(range(sys.maxsize))
    return lambda: next(n_looks) > 0 and is_held()


@dataclass
class Seen:
    """What a run has led to, as rank 0 knows it, and what single ranks know."""

    done: list[int]
    failed: list[Failure]
    n_left: int
    n_ready: int
    n_reported: int
    n_reported_failed: int
    runners: list[ScriptedRunner]
    workers: list[Worker | None]
    stopped_because: str

    @property
    def called(self) -> list[list[int]]:
        return [runner.called for runner in self.runners]


def play(
    n_tasks: int = 20,
    size: int = 3,
    scripts: dict[int, Script] | None = None,
    make_schedule: Any = FixedChunks,
    make_stores: dict[int, Callable[..., MemoryStore]] | None = None,
    first_worker: int = 0,
    runners: list[ScriptedRunner] | None = None,
    rules: Rules = Rules(),  # noqa: B008 (immutable)
    deadline_s: float = math.inf,
    is_stop_asked: Callable[[], str] = str,
) -> Seen:
    """Play a whole run on threads; a run that does not end is an error."""
    scripts = scripts or {}
    if runners is None:
        runners = [ScriptedRunner(scripts.get(rank, Script())) for rank in range(size)]
    workers: list[Worker | None] = [None] * size
    deadline = time.monotonic() + LIMIT_S

    def be_rank(world: ThreadWorld) -> Any:
        master, schedule, progress = None, None, Progress(n_tasks, bar=False)
        make_store = (make_stores or {}).get(world.rank, MemoryStore)
        store = make_store(world, Layout("", "f"), None, n_tasks)
        if world.rank >= first_worker:
            workers[world.rank] = Worker(world, runners[world.rank], store, rules)
        worker = workers[world.rank]
        if world.is_master:
            members = set(range(first_worker, size))
            schedule = make_schedule(n_tasks, len(members))
            master = Master(world, schedule, progress, members, rules, deadline_s, is_stop_asked)

        def sleep(descriptors: Sequence[int], longest_s: float) -> list[int]:
            assert time.monotonic() < deadline, f"rank {world.rank} waits for ever"
            time.sleep(min(longest_s, LONGEST_PAUSE_S))
            return []

        Loop(world, worker, master, runners[world.rank] if worker else None, sleep=sleep).play()
        if worker:
            worker.close()
        failures = world.gather(worker.failures if worker else [])
        pieces = store.commit().pieces
        if master is None or schedule is None:
            return None
        assert failures is not None
        done = [i for runs, _ in pieces for start, stop in runs for i in range(start, stop)]
        values = [value for _, content in pieces for value in content.values or []]
        assert values == done, "values and their indices have come apart"
        return Seen(
            sorted(done),
            sorted(chain.from_iterable(failures), key=lambda failure: failure.index),
            master.n_not_done,
            master.n_ready,
            progress.n_done,
            progress.n_failed,
            runners,
            workers,
            master.stopped_because,
        )

    seen: Seen = ThreadWorld.run(size, be_rank, timeout_s=2 * LIMIT_S)[0]
    return seen


def assert_complete(seen: Seen, n_tasks: int) -> None:
    """Check that every task was done or has failed, exactly once."""
    assert sorted(seen.done + [f.index for f in seen.failed]) == list(range(n_tasks))
    assert seen.n_left == 0
    assert seen.n_reported == n_tasks
    assert seen.n_reported_failed == len(seen.failed)


class FakeClock:
    """A `time` whose clock the test moves."""

    def __init__(self) -> None:
        self.now_s = 1000.0

    def monotonic(self) -> float:
        return self.now_s
