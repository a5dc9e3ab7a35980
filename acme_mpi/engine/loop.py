"""Step a rank's roles until they are finished, asleep whenever nothing has happened."""

from __future__ import annotations

import logging
import os
import select
import time
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from acme_mpi.comm import Backoff, World, leave_if_orphaned
from acme_mpi.engine.worker import Worker
from acme_mpi.linux.interrupts import INTERRUPTS, signal_name
from acme_mpi.runner.base import Runner
from acme_mpi.runner.inline import InlineRunner
from acme_mpi.standing import is_in_task

if TYPE_CHECKING:
    from acme_mpi.engine.master import Master

logger = logging.getLogger("acme_mpi")

IDLE_PAUSE_S = 0.1  # where ranks wake each other: what a lost ring costs
IDLE_SHARE = 1 / 32  # a rank notices so much later what comes after it has waited for long
RESERVE_PAUSE_S = 1.0  # the master has nothing to say to a worker with a chunk in reserve
LOOK_EVERY_S = 1.0


def wait_for_readable(descriptors: Sequence[int], longest_s: float) -> list[int]:
    """Sleep until a descriptor is readable, or for `longest_s` seconds; return those that are."""
    return select.select(descriptors, [], [], longest_s)[0]


class Loop:
    """What one rank does during a run. Collective: all ranks play to the end together.

    Parameters
    ----------
    world : World
        This rank's.
    worker : Worker or None
        The role of this rank that calls tasks, if it has that.
    master : Master or None
        The role that hands out chunks; on rank 0 only.
    runner : Runner or None
        The runner of `worker`.
    client : list of int
        Descriptors that become readable when nobody waits for the result any more.
    sleep : callable
        Sleeps as `wait_for_readable` does.
    """

    def __init__(
        self,
        world: World,
        worker: Worker | None,
        master: Master | None,
        runner: Runner | None,
        client: Sequence[int] = (),
        sleep: Callable[[Sequence[int], float], list[int]] = wait_for_readable,
    ) -> None:
        self._world, self._worker, self._master = world, worker, master
        self._runner, self._client, self._sleep = runner, list(client), sleep
        self._backoff = Backoff(share=IDLE_SHARE)
        self._parent, self._looked_s = os.getppid(), time.monotonic()
        # In a task, signals are for the run that calls it.
        self._is_told = is_in_task()

    def play(self) -> None:
        """Step both roles until they are finished."""
        worker, master, runner = self._worker, self._master, self._runner
        while True:
            progressed = master.step() if master is not None else False
            if worker is not None:
                progressed = worker.step() or progressed
            if (worker is None or worker.is_finished) and (master is None or master.is_finished):
                return
            if INTERRUPTS.number and not self._is_told:
                self._is_told = progressed = True
                self._stop_for(INTERRUPTS.number)
            self._look()
            if progressed:
                self._backoff.reset()
            elif not (isinstance(runner, InlineRunner) and runner.has_work):
                self._wait()

    def _stop_for(self, number: int) -> None:
        if self._master is not None:
            self._master.drain(f"rank 0 was asked to by {signal_name(number)}")
        elif self._worker is not None:
            self._worker.ask_to_drain(number)

    def _look(self) -> None:
        """See once a second whether the launcher and the other ranks are still there."""
        now_s = time.monotonic()
        if now_s - self._looked_s < LOOK_EVERY_S:
            return
        self._looked_s = now_s
        leave_if_orphaned(self._parent)
        self._world.abort_if_neighbour_is_gone()

    def _wait(self) -> None:
        bells = self._world.bells()
        ready = self._sleep([*self._descriptors(), *bells], self._pause_s())
        if set(bells) & set(ready):
            self._world.hush()
            self._backoff.reset()
        if self._master is not None and set(self._client) & set(ready):
            self._master.cut_short("nobody waits for the results any more")
            self._client.clear()

    def _descriptors(self) -> list[int]:
        descriptors = [*self._client]
        if self._runner is not None:
            descriptors += self._runner.descriptors()
        if INTERRUPTS.fileno() >= 0 and not self._is_told:
            descriptors.append(INTERRUPTS.fileno())
        return descriptors

    def _pause_s(self) -> float:
        is_woken = self._world.is_woken
        pause_s = self._pause_of_woken_s() if is_woken else self._pause_of_looking_s()
        look_s = None if self._runner is None else self._runner.look_s
        bounds = (look_s, self._world.forward_every_s)
        return min([pause_s, *(bound for bound in bounds if bound is not None)])

    def _pause_of_woken_s(self) -> float:
        """Return how long to sleep where whoever sends rings a bell, and the runner as well."""
        if self._world.expects_message:  # MPI may be slower than the bell
            self._backoff.longest_s = IDLE_PAUSE_S
            return self._backoff.pause()
        is_fed = self._master is None or self._master.has_fed_all
        longest_s = RESERVE_PAUSE_S if is_fed and not self._is_waited_for() else IDLE_PAUSE_S
        return longest_s if self._master is None else min(longest_s, self._master.time_left_s)

    def _pause_of_looking_s(self) -> float:
        """Return how long to sleep where messages of other nodes come without a sound."""
        longest_s = IDLE_PAUSE_S if self._master is None else self._master.longest_pause_s
        self._backoff.longest_s = longest_s
        if self._is_waited_for():
            return self._backoff.pause()
        # The runner wakes this rank by itself.
        return RESERVE_PAUSE_S if self._master is None else longest_s

    def _is_waited_for(self) -> bool:
        """Whether this rank, or one that it hands chunks to, has no work or soon has none."""
        if self._worker is not None:
            return not self._worker.has_reserve
        return self._master is not None and not self._master.has_fed_all
