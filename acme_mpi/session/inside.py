"""Calls from inside of a run: a task's are run there and then, those of an import are refused."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Any, NoReturn

from acme_mpi.comm import SerialWorld, World
from acme_mpi.engine.call import Call, Result
from acme_mpi.session.base import Session
from acme_mpi.session.values import deliver
from acme_mpi.standing import refuse_while_loading

if TYPE_CHECKING:
    from acme_mpi.session.stream import Stream


class TaskSession(Session):
    """A task, whose calls are run in its own process, one task after the other."""

    is_nested = True
    is_speaker = False

    def callers(self, comm: Any = None) -> World:
        """Return the task's process alone."""
        return SerialWorld()

    def ask(self, question: str) -> bool | None:
        """Ask nobody: there may be many tasks at once."""
        return None

    def needs_pickles(self, isolate: bool) -> bool:
        """Tell that the function stays here."""
        return False

    def run(self, world: World, call: Call, wants_values: bool = True) -> Result:
        """Run the call right here. Independent."""
        from acme_mpi.engine.run import run  # few tasks make calls
        from acme_mpi.session.stream_here import warn_of_limits

        call.deliver = partial(deliver, wants_values=wants_values)
        if call.options is not None:
            warn_of_limits(call.options.work.rules)
            call.options = call.options.in_one_process()
        return run(world, call)

    def stream(self) -> Stream:
        """Return a stream that calls in this process. Independent."""
        from acme_mpi.session.stream_here import HereStream

        return HereStream()

    def release(self) -> None:
        """End no runner: this task may be called by one of them."""


class LoadingSession(TaskSession):
    """A process, or a thread, that loads or takes apart user code, whose calls are refused."""

    def callers(self, comm: Any = None) -> NoReturn:
        """Refuse the call.

        Raises
        ------
        LoadingError
            With file and line of the user's call.
        """
        refuse_while_loading()

    def stream(self) -> NoReturn:
        """Refuse the pool.

        Raises
        ------
        LoadingError
            With file and line of the user's call.
        """
        refuse_while_loading()
