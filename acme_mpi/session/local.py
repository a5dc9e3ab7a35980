"""The session of a process that has started ranks for itself: it is their client."""

from __future__ import annotations

import contextlib
import logging
import os
import select
from enum import IntEnum
from typing import TYPE_CHECKING, Any

from acme_mpi.comm import World
from acme_mpi.engine.call import Call, Result
from acme_mpi.engine.messages import ANNOUNCE, tell_once
from acme_mpi.engine.summary import is_only_success
from acme_mpi.linux.interrupts import INTERRUPTS, signal_name
from acme_mpi.linux.terminal import ask
from acme_mpi.runner.channel import Kind
from acme_mpi.session.base import Session
from acme_mpi.session.kernel import is_in_notebook
from acme_mpi.session.ranks import Ranks
from acme_mpi.session.script import ScriptSession

if TYPE_CHECKING:
    from acme_mpi.report.cell import Cell

logger = logging.getLogger("acme_mpi")


# For tasks that wait. Words for a cluster ask for hundreds, which would take this machine's memory.
MOST_PER_CORE = 2


class Hold(IntEnum):
    """Who has asked for ranks, and so how long they stay at most."""

    BY_CALL = 0  # until a call wants more of them
    BY_SET_UP = 1  # until the client that was set up is closed
    BY_USER = 2  # until `stop`


class LocalSession(ScriptSession):
    """A process whose calls are served by ranks that it has started.

    Parameters
    ----------
    local : Ranks
        The ranks.
    alone : Session
        Where calls go that are made in this very process.
    hold : Hold
        Who has asked for the ranks.
    """

    bar = False
    starts_ranks = True

    def __init__(self, local: Ranks, alone: Session, hold: Hold) -> None:
        super().__init__(local.channel, local.ranks, local.environment)
        self.local, self.hold = local, hold
        self._alone = alone
        self._got = 0  # the signal that has ended the present call
        self._cell: Cell | None = None

    @property
    def size(self) -> int:
        """Number of ranks."""
        return len(self._ranks)

    @property
    def is_idle(self) -> bool:
        """Whether no call is being served, and no pool is open."""
        return not self.is_waiting and (self._stream is None or not self._stream.has_pools)

    @property
    def has_lost_stream(self) -> bool:
        """Whether pools have found the ranks gone, whose processes may take a while to end."""
        return self._stream is not None and self._stream.is_lost

    @property
    def may_be_replaced(self) -> bool:
        """Whether other ranks can take the place of these: nobody has asked for just them."""
        return self.hold is Hold.BY_CALL and self.is_idle

    def with_ranks(self, n_wanted: int | None = None, is_set_up: bool = False) -> Session:
        """Return the session for a call that is to use ranks, mostly this one."""
        return self._alone.with_ranks(n_wanted, is_set_up)

    def tell_of_fewer(self, n_wanted: int, n_allowed: int) -> None:
        """Say, once, why there are fewer ranks than a call wants.

        Parameters
        ----------
        n_wanted : int
            Ranks that the call wants.
        n_allowed : int
            So many could be started for it.
        """
        why = "they are in use, or `launch` or a set-up function has started just so many"
        if n_wanted > n_allowed == self.size:
            why = f"that is {MOST_PER_CORE} for each core; acme_mpi.launch({n_wanted}) starts all"
        if n_wanted > self.size:
            text = "%d ranks were asked for, and %d are used: %s"
            tell_once(text, n_wanted, self.size, why, dialect="", level=logging.WARNING)

    def ask(self, question: str) -> bool | None:
        """Ask where this process was started."""
        return ask(question)

    def needs_pickles(self, isolate: bool) -> bool:
        """Tell whether the function goes to ranks: if it is not isolated it is called here."""
        return isolate

    def run(self, world: World, call: Call, wants_values: bool = True) -> Result:
        """Have the ranks run the call, and load its values here. Independent.

        A function that is not isolated needs the state of its process: it is called here.

        Raises
        ------
        AcmeMpiError
            What is wrong with the call, or with the ranks.
        """
        if call.error is not None:
            raise call.error
        assert call.options is not None
        if not call.options.work.isolate:
            return self._alone.run(world, call, wants_values)
        display, work = call.options.display, call.options.work
        if display.level is None:
            display = display._replace(level=logger.getEffectiveLevel())
        display = display._replace(is_told=is_in_notebook())
        call.options = call.options._replace(display=display)
        with self._lock:
            self._got, self._cell = 0, _cell(work.name, work.n_tasks) if display.is_told else None
            result = super().run(world, call, wants_values)
            if self._cell is not None:
                self._cell.end(result.n_unfinished, result.failures, result.stored.where)
            if self._got and result.n_unfinished:
                result.stopped_because = f"this process got {signal_name(self._got)}"
            return result

    def _take_values(self, world: World, result: Result) -> None:
        if not self._got:
            super()._take_values(world, result)
        elif not result.n_unfinished:
            # All is done, but nobody has told rank 0 so: the signal has its usual meaning.
            os.kill(os.getpid(), self._got)

    def _tell_taken(self, result: Result, reasons: dict[int, str] | None) -> None:
        level = result.options.display.level or 0
        is_quiet = reasons == {} and is_only_success(result) and level > ANNOUNCE
        if not (is_quiet and self.local.is_direct):
            super()._tell_taken(result, reasons)
            return
        # Nothing will be said, so this waits for nothing. The answer is dropped when it comes.
        with contextlib.suppress(OSError):  # they have gone; the values are here
            self._channel.send(Kind.TAKEN, (next(self._numbers), reasons))

    def release(self) -> None:
        """End the ranks, or only their runners if the user has asked for these ranks."""
        if self.hold is Hold.BY_USER or not self.is_idle:
            super().release()
        else:
            self.local.stop()

    def _ask_agent(self, kind: Kind, wanted: Any) -> Any:
        # From before the ranks can know of it: a task may be the one that sends the signal.
        with INTERRUPTS.caught():
            answer = super()._ask_agent(kind, wanted)
        self.local.show_printed()
        return answer

    def _answer(self, number: int | None) -> Any:
        """Wait for an answer; the first signal cancels the request, whose answer comes soon.

        Raises
        ------
        GoesOnError
            The ranks stay, and this process does not: nothing is cancelled.
        """
        is_cancelled = False
        while True:
            heard = [INTERRUPTS.fileno()] if INTERRUPTS.fileno() >= 0 and not is_cancelled else []
            ready, _, _ = select.select([self._channel.fileno(), *heard], [], [])
            if set(heard) & set(ready):
                is_cancelled, self._got = True, INTERRUPTS.number
                self.local.hear_signal()
                self._cancel()
            message = self._channel.receive(wait=False)
            if message is not None and message[0] == Kind.SAID:
                say_again(*message[1])
            elif message is not None and message[0] == Kind.PROGRESS:
                if self._cell is not None:  # else it is of a call of an earlier client
                    self._cell.news(*message[1])
            elif message is not None and number in (None, message[1][0]):
                return message[1][1]

    def _have_gone(self) -> str:
        self.local.show_printed()
        last_words = self._last_words()
        if not self.local.is_missed:
            self.local.stop()
        return f"{self.local.title} have gone{last_words}"

    def _last_words(self) -> str:
        return f"; {self.local.what_next}{self.local.said()}"


def say_again(level: int, text: str, dialect: str | None) -> None:
    """Say here what rank 0 has said."""
    if not logger.isEnabledFor(level):
        return
    fields: dict[str, Any] = {"name": logger.name, "levelno": level, "msg": text}
    if dialect is not None:
        fields["dialect"] = dialect
    logger.handle(logging.makeLogRecord({**fields, "levelname": logging.getLevelName(level)}))


def _cell(name: str, n_tasks: int) -> Cell:
    from acme_mpi.report.cell import Cell  # scripts have none

    return Cell(name, n_tasks)
