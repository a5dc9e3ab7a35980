"""What a session has to know and to do for the calls of its process."""

from __future__ import annotations

import logging
import os
import weakref
from abc import ABC, abstractmethod
from typing import TYPE_CHECKING, Any

from acme_mpi.comm import World, settle
from acme_mpi.engine.call import Call, Result
from acme_mpi.errors import AcmeMpiError

if TYPE_CHECKING:
    from acme_mpi.session.stream import Stream

logger = logging.getLogger("acme_mpi")


class Session(ABC):
    """Where the calls of this process go.

    Attributes
    ----------
    is_nested : bool
        Its calls are made inside of another run, whose caller owns console, terminal and ranks.
    starts_ranks : bool
        It has started its ranks, and says so if they are fewer than a call wants.
    bar : bool or None
        Whether `map` shows a progress bar; None: if somebody watches.
    level : int or None
        Lowest level of messages that the command line asks for; None: it asks for none.
    client : object or None
        The client that was set up and not closed.
    users : list of weakref.ref
        What has begun to use a client, and not ended it; the last one that began comes last.
    """

    is_nested = False
    starts_ranks = False
    bar: bool | None = False
    level: int | None = None

    def __init__(self) -> None:
        self.client: object | None = None
        self.users: list[weakref.ref[object]] = []

    def of_call(self) -> Session:
        """Return the session of a call that is made now, of which this one knows."""
        return self

    def with_ranks(self, n_wanted: int | None = None, is_set_up: bool = False) -> Session:
        """Return the session for a call that is to use ranks; it may start them.

        Parameters
        ----------
        n_wanted : int, optional
            At most so many can be used, >= 1; default as many as there are cores.
        is_set_up : bool
            So many and no more are to stay for later calls, until the client is closed.
        """
        return self

    def get_ready(self) -> None:  # noqa: B027 - few have anything to do
        """Begin what isolated tasks need and takes a while, before `callers`. Independent."""

    @abstractmethod
    def callers(self, comm: Any = None) -> World:
        """Return the processes that make a call together, `comm` or all. Collective."""

    def job_ranks(self, world: World, error: AcmeMpiError | None = None) -> list[tuple[str, int]]:
        """Return host and process id of every rank of the job. Collective over `callers`.

        Raises
        ------
        AcmeMpiError
            On every rank alike, if any brings an `error`.
        """
        return settle(world, error, (world.host, os.getpid()), lambda brought: brought, tell)

    @property
    @abstractmethod
    def is_speaker(self) -> bool:
        """Whether this process says what concerns the whole job."""

    @abstractmethod
    def ask(self, question: str) -> bool | None:
        """Ask whoever watches the job a yes-or-no question; None: nobody is there. Independent."""

    @abstractmethod
    def needs_pickles(self, isolate: bool) -> bool:
        """Tell whether a function has to be pickled that is, or is not, to be isolated."""

    @abstractmethod
    def run(self, world: World, call: Call, wants_values: bool = True) -> Result:
        """Have all tasks of a call run and return what became of them. Collective.

        Parameters
        ----------
        world : World
            From `callers`.
        call : Call
            Of this process; that of rank 0 is used.
        wants_values : bool
            This rank gets what a run in memory returns.

        Raises
        ------
        InputError, LaunchError, StoreError
            On every rank alike, before any task has run.
        """

    @abstractmethod
    def stream(self) -> Stream | None:
        """Return where pools send their tasks.

        None: this rank has served the pools of rank 0, which are closed now. Collective where all
        ranks make the calls.
        """

    @abstractmethod
    def release(self) -> None:
        """End the runners; the next run starts new ones. Independent."""


def tell(text: str) -> None:
    """Warn of something, such as ranks that do not come."""
    logger.warning("%s", text)
