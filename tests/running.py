"""Runners that tests start, and what they ask of them."""

from __future__ import annotations

import select
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np

from acme_mpi.results.parts import PLACED_BYTES
from acme_mpi.results.spec import RowSpec
from acme_mpi.runner.base import Assignment, Outcome, PlaceRequest, Ready, Runner
from acme_mpi.runner.surroundings import Surroundings
from acme_mpi.tasks.distributing import distribute
from acme_mpi.tasks.packing import pack
from acme_mpi.tasks.pickling import load_values, pickle_given

LIMIT_S = 30.0  # far more than any of these runs takes, also on a busy machine

LARGE = np.arange(PLACED_BYTES // 8, dtype=np.float64)


def make_assignment(
    func: Callable[..., Any],
    *args: Any,
    spec: RowSpec | None = None,
    in_memory: bool = True,
    can_place: bool = False,
    **kwargs: Any,
) -> Assignment:
    """Return the assignment of a run; results stay in memory unless said otherwise."""
    tasks = distribute(func, args, kwargs)
    return Assignment(
        pickle_given(func),
        pack(None, tasks),
        Surroundings.here(),
        spec,
        in_memory,
        can_place,
    )


def next_events(runner: Runner) -> list[Any]:
    """Return all that one look finds, asleep before; a silence of `LIMIT_S` fails the test."""
    deadline = time.monotonic() + LIMIT_S
    while not (events := runner.poll()):
        left_s = deadline - time.monotonic()
        descriptors = runner.descriptors()
        assert left_s > 0, f"nothing has happened for {LIMIT_S} s"
        assert descriptors, "nothing will ever happen"
        select.select(descriptors, [], [], left_s)
    return events


def events_of(runner: Runner) -> Iterator[Any]:
    """Yield what happens, see `next_events`."""
    while True:
        yield from next_events(runner)


def run_tasks(
    runner: Runner,
    chunks: list[range],
    answer: Callable[[PlaceRequest], Any] = lambda request: None,
) -> list[Outcome]:
    """Submit all chunks at once and return the outcomes of all their tasks, as they came."""
    for chunk in chunks:
        runner.submit(chunk)
    outcomes, n_left = list[Outcome](), sum(map(len, chunks))
    if not n_left:
        return outcomes
    for event in events_of(runner):
        if isinstance(event, PlaceRequest):
            runner.answer(event, answer(event))
        elif isinstance(event, Outcome):
            outcomes.append(event)
            n_left -= event.stop - event.start
            if n_left <= 0:
                break
        else:
            assert isinstance(event, Ready), event
    return outcomes


def only_event(runner: Runner) -> Any:
    """Return what happens next, alone: nobody would ever see what was found beside it."""
    (event,) = next_events(runner)
    return event


def values_by_index(outcomes: list[Outcome]) -> dict[int, Any]:
    """Return the values of all tasks that have one."""
    values: dict[int, Any] = {}
    for outcome in outcomes:
        if outcome.content.values is not None:
            loaded, _ = load_values(outcome.content.values, outcome.content.buffers or [])
            indices = [index for run in outcome.succeeded() for index in run]
            values.update(zip(indices, loaded, strict=True))
    return values


def failures_by_index(outcomes: list[Outcome]) -> dict[int, dict[str, Any]]:
    return {fields["index"]: fields for outcome in outcomes for fields in outcome.failures}


def indices_of(outcomes: list[Outcome]) -> list[int]:
    return sorted(index for each in outcomes for index in range(each.start, each.stop))


def wait_until(is_true: Callable[[], Any]) -> None:
    """Look again and again, at most `LIMIT_S`."""
    deadline = time.monotonic() + LIMIT_S
    while not is_true():
        assert time.monotonic() < deadline, "it has not happened"
        select.select([], [], [], 0.002)


def is_gone(pid: int) -> bool:
    """Wait until a process has ended (a zombie has); False if it does not."""

    def has_ended() -> bool:
        try:
            state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
        except (FileNotFoundError, ProcessLookupError):
            return True
        return state in "ZX"

    try:
        wait_until(has_ended)
    except AssertionError:
        return False
    return True


def start_sleepers() -> list[int]:
    """Start a process and one that leads a process group of its own; return their ids."""
    command = [sys.executable, "-c", "import signal; print(flush=True); signal.pause()"]
    sleepers = [subprocess.Popen(command, stdout=subprocess.PIPE) for _ in range(2)]
    for sleeper in sleepers:
        assert sleeper.stdout is not None
        sleeper.stdout.readline()
    return [sleeper.pid for sleeper in sleepers]
