"""Calls of all kinds that are cancelled, killed and late, as chance will have it."""

from __future__ import annotations

import os
import signal
import sys
import time
from collections import Counter
from collections.abc import Callable
from concurrent.futures import CancelledError
from itertools import count
from pathlib import Path
from random import Random
from threading import Timer
from typing import Any

import cloudpickle
import pytest
from late_letters import late_stream
from running import LIMIT_S
from streaming import StreamSession

import acme_mpi
from acme_mpi.pools import executor as executor_module
from acme_mpi.runner import recall
from acme_mpi.runner.streaming import StreamRunner

pytestmark = [pytest.mark.once, pytest.mark.slow]

cloudpickle.register_pickle_by_value(sys.modules[__name__])

N_CALLS, N_KILLS = 3000, 12  # a kill costs a process


def called(number: int, folder: str, seconds: float = 0.0) -> int:
    """Note that a call is made, which takes so long: the sleep is the task, no test waits by it."""
    with open(f"{folder}/{os.getpid()}", "a") as file:
        file.write(f"{number}\n")
    if seconds:
        time.sleep(seconds)
    return number


def quick(number: int, folder: str) -> int:
    return number


def raises(number: int, folder: str) -> int:
    raise LookupError(number)


def dies(number: int, folder: str) -> int:
    os.kill(os.getpid(), signal.SIGKILL)
    return number


class Script:
    """Submits calls, and takes what has become of them.

    Parameters
    ----------
    executor : Executor
        Where.
    folder : Path
        Where calls note that they are made.
    random : Random
        Which ones.
    """

    def __init__(self, executor: acme_mpi.Executor, folder: Path, random: Random) -> None:
        self._executor, self._folder, self._random = executor, str(folder), random
        self._numbers, self._n_kills = count(), N_KILLS
        self.futures: list[tuple[int, str, acme_mpi.pools.future.TaskFuture]] = []

    def run(self) -> None:
        while len(self.futures) < N_CALLS:
            for _ in range(self._random.choice([1, 5, 50, 300])):
                self._submit()
            if self._random.random() < 0.5:
                self._wait(self._random.choice([1, 20, 500]))

    def _submit(self) -> None:
        kind = self._random.choices(
            ["quick", "called", "pause", "long", "raises", "dies", "ended"],
            [50, 30, 3, 0.3, 1, 0.2, 0.2],
        )[0]
        if kind in ("dies", "ended") and not self._may_kill():
            kind = "quick"
        future = self._call(kind)
        if self._random.random() < 0.01:
            self._some_late_one().cancel()
        if self._random.random() < 0.003 and self._may_kill():
            self._some_late_one().kill()
        if kind == "ended":
            timer = Timer(self._random.choice([0.0, 0.001, 0.02, 0.15]), future.kill)
            timer.daemon = True
            timer.start()

    def _call(self, kind: str) -> Any:
        number = next(self._numbers)
        function: Callable[..., int] = {"quick": quick, "raises": raises, "dies": dies}.get(
            kind, called
        )
        seconds = {"pause": 0.001, "long": 0.05, "ended": 1e6}.get(kind)
        arguments = () if seconds is None else (seconds,)
        future = self._executor.submit(function, number, self._folder, *arguments)
        self.futures.append((number, kind, future))
        return future

    def _may_kill(self) -> bool:
        self._n_kills -= 1
        return self._n_kills >= 0

    def _some_late_one(self) -> Any:
        return self._random.choice(self.futures[-60:])[2]

    def _wait(self, n: int) -> None:
        for _, _, future in self.futures[-n:]:
            end_of(future)

    def wrong_ends(self) -> list[tuple[int, str, Any]]:
        return [
            (number, kind, end)
            for number, kind, future in self.futures
            if not is_right(number, kind, end := end_of(future))
        ]


def end_of(future: Any) -> Any:
    try:
        return future.result(LIMIT_S)
    except (CancelledError, Exception) as error:
        return error


def is_right(number: int, kind: str, end: Any) -> bool:
    """Tell whether a call may have such an end; any of them may have been cancelled or killed."""
    if isinstance(end, (CancelledError, acme_mpi.WorkerDied)):
        return True
    if kind == "raises":
        return isinstance(end, LookupError)
    return kind not in ("dies", "ended") and end == number


def play(seed: int, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    random = Random(seed)
    monkeypatch.setattr(recall, "LONG_CALL_S", random.choice([0.01, 0.03, 0.1]))
    misdeeds = list[str]()
    replace_dead = StreamRunner._replace_dead

    def note_misdeed(runner: StreamRunner, misdeed: str | None) -> None:
        if misdeed is not None:
            misdeeds.append(misdeed)
        replace_dead(runner, misdeed)

    monkeypatch.setattr(StreamRunner, "_replace_dead", note_misdeed)
    size, delay_s = random.choice([2, 3]), random.choice([0.0, 0.0005, 0.005, 0.03])
    with late_stream(size, delay_s, random, monkeypatch) as stream:
        monkeypatch.setattr(executor_module, "current", lambda: StreamSession(stream))
        with acme_mpi.Executor() as executor:
            script = Script(executor, folder, random)
            script.run()
            wrong = script.wrong_ends()
    noted = Counter(line for path in folder.iterdir() for line in path.read_text().split())
    assert not wrong
    assert not misdeeds
    assert [line for line, n in noted.items() if n > 1] == []


@pytest.mark.parametrize("seed", [1, 2])
def test_every_call_has_its_end_and_none_is_called_twice(seed, tmp_path, monkeypatch):
    play(seed, tmp_path, monkeypatch)


@pytest.mark.many
@pytest.mark.parametrize("seed", range(100, 300))
def test_many_times_every_call_has_its_end(seed, tmp_path, monkeypatch):
    play(seed, tmp_path, monkeypatch)
