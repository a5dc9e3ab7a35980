"""The runners of a rank's streams: a pool with an initializer has processes of its own.

An initializer sets what the tasks of its pool are to find, and no other's: neither those of a pool
that is open at the same time, nor of one that is made later.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable
from itertools import groupby

from acme_mpi.runner.calls import Begin, Calls, Given, Reply, Teach
from acme_mpi.runner.process import Child
from acme_mpi.runner.streaming import StreamRunner

_COMMON = 0  # in the place of a setup: of all those without an initializer


class StreamRunners:
    """Calls the functions of streams in child processes, which are started when they are needed.

    Parameters
    ----------
    n_threads : int
        Threads of the numerical libraries in a child, >= 1.
    child : Child, optional
        One that is there and has called nothing: the first pool's.
    """

    def __init__(self, n_threads: int, child: Child | None = None) -> None:
        self._n_threads, self._spare = n_threads, child
        self._runners: dict[int, StreamRunner] = {}  # by setup
        self._ended: list[StreamRunner] = []  # calls of them are being killed
        self._setups: dict[int, Begin] = {}
        self._functions: dict[int, Teach] = {}
        self._taught: set[tuple[int, int]] = set()  # pairs of a runner's key and a function

    def _key(self, setup: int) -> int:
        return setup if self._setups[setup].initializer else _COMMON

    def _all(self) -> list[StreamRunner]:
        return [*self._runners.values(), *self._ended]

    def begin(self, setup: Begin) -> None:
        """Learn a setup."""
        self._setups[setup.setup] = setup
        key = self._key(setup.setup)
        if key not in self._runners:
            self._runners[key] = StreamRunner(self._n_threads, self._spare)
            self._spare = None
        self._runners[key].begin(setup)

    def end(self, setup: int) -> None:
        """Forget one; its own process ends with it."""
        if setup not in self._setups:
            return
        key = self._key(setup)
        del self._setups[setup]
        self._runners[key].end(setup)
        if key != _COMMON:
            self._ended.append(self._runners.pop(key))
            self._taught = {pair for pair in self._taught if pair[0] != key}
            self._leave_ended()

    def _leave_ended(self) -> None:
        for runner in [each for each in self._ended if not each.n_open and not each.has_answers]:
            self._ended.remove(runner)
            runner.leave()

    def teach(self, function: Teach) -> None:
        """Learn a function."""
        self._functions[function.function] = function

    def forget(self, function: int) -> None:
        """Forget one."""
        self._functions.pop(function, None)
        for key in [key for key, known in self._taught if known == function]:
            self._taught.discard((key, function))
            self._runners[key].forget(function)

    def give(self, chunks: Iterable[Given]) -> None:
        """Have chunks called, after all others of their runner."""
        for key, theirs in groupby(chunks, lambda given: self._key(given.setup)):
            together = [*theirs]
            for function in {given.function for given in together}:
                self._introduce(key, function)
            self._runners[key].give(together)

    def _introduce(self, key: int, function: int) -> None:
        if (key, function) not in self._taught:
            self._taught.add((key, function))
            self._runners[key].teach(self._functions[function])

    def kill(self, calls: Collection[Calls]) -> None:
        """End calls, also one that runs; those that have not returned yet are lost."""
        for runner in self._all():
            runner.kill(calls)

    def descriptors(self) -> list[int]:
        """Return what to select on for reading."""
        return [each for runner in self._all() for each in runner.descriptors()]

    def waiting_for_room(self) -> list[int]:
        """Return what to select on for writing."""
        return [each for each in (runner.waits_for_room for runner in self._all()) if each >= 0]

    @property
    def look_s(self) -> float | None:
        """Longest time in seconds between two calls of `look`; None: it need not be called."""
        pauses_s = (runner.look_s for runner in self._all())
        return min((pause_s for pause_s in pauses_s if pause_s is not None), default=None)

    def look(self) -> None:
        """End calls that run and are over a limit, or that nobody wants."""
        for runner in self._all():
            if runner.look_s is not None:
                runner.look()

    @property
    def has_answers(self) -> bool:
        """Whether `poll` has something to return, whatever the children say."""
        return any(runner.has_answers for runner in self._all())

    def poll(self) -> list[Reply]:
        """Return what has been answered."""
        answers = [answer for runner in self._all() for answer in runner.poll()]
        self._leave_ended()
        return answers

    def leave(self) -> None:
        """End all children."""
        for runner in self._all():
            runner.leave()
        self._runners.clear()
        self._ended.clear()
        if self._spare is not None:
            self._spare.end()
            self._spare = None
