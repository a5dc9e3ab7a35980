"""What a stream is to whoever gives it calls: tasks that are added while others run.

A stream takes chunks, each some calls of one function, and hands back what they return as it comes.
Sources of chunks are drawn in the stream's own thread, only as fast as the ranks take them.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from enum import IntEnum
from typing import Any

from acme_mpi.rules import Rules


class Form(IntEnum):
    """How a function is called with one of a chunk's arguments."""

    EACH = 0  # f(argument)
    STAR = 1  # f(*argument)
    ONCE = 2  # args, kwargs = argument; f(*args, **kwargs)


@dataclass
class Setup:
    """How the tasks of one pool are called, wherever they are.

    Attributes
    ----------
    initializer : callable or None
        Called once in each process that calls tasks, before the first of them.
    initargs : tuple
        With these arguments.
    rules : Rules
        Of its options `retries`, `crash_limit`, `timeout` and `memory` count, for each call.
    max_chunks : int or None
        After so many chunks a process is replaced by a new one.
    n_ranks : int or None
        Its tasks are called by at most so many ranks at the same time, >= 1; None: by all.
    on_broken : callable
        Told, in the stream's thread, what the initializer has raised: no task will be called. The
        chunks that are out end with the same error.
    """

    initializer: Callable[..., object] | None = None
    initargs: tuple[Any, ...] = ()
    rules: Rules = field(default_factory=Rules)
    max_chunks: int | None = None
    n_ranks: int | None = None
    on_broken: Callable[[BaseException], None] = lambda error: None


@dataclass(slots=True)
class Raised:
    """Stands among the values of a chunk for a call that has none.

    Attributes
    ----------
    error : BaseException
        What it has raised, with the remote traceback as its cause, a `WorkerDied`, or what says why
        its value cannot be had.
    where : str
        Which rank has called it, such as ``"rank 3 (node05)"``; empty: none has.
    """

    error: BaseException
    where: str = ""


class Chunk(ABC):
    """Some calls of one function, which one rank gets at once.

    The stream calls its methods from its own thread; they may neither wait nor raise.

    Attributes
    ----------
    setup : int
        From `Stream.begin`.
    function : object
        From `Stream.function`.
    form : Form
        How the function is called.
    arguments : sequence
        One for each call, >= 1; pickled by the stream right after `begin`.
    """

    __slots__ = ("__weakref__", "arguments", "form", "function", "setup")

    def __init__(self, setup: int, function: Any, form: Form, arguments: Sequence[Any]) -> None:
        self.setup, self.function, self.form = setup, function, form
        self.arguments: Sequence[Any] | None = arguments  # None once they are sent

    @abstractmethod
    def begin(self) -> bool:
        """Hear that it goes to the ranks now; False: nobody wants it any more."""

    @abstractmethod
    def receive(self, first: int, values: list[Any]) -> None:
        """Take what the calls number `first` and following have returned.

        Each call of the chunk comes once, mostly in order. An entry is a value or a `Raised`.
        """


class Stream(ABC):
    """Where chunks go. All methods may be called from any thread; Independent.

    Attributes
    ----------
    size : int
        Processes that call tasks at the same time, >= 1.
    is_followed : bool
        Other ranks serve each of its pools in one of their own, and go on when it has ended.
    """

    size: int
    is_followed = False

    @abstractmethod
    def begin(self, setup: Setup) -> int:
        """Return the number of a new pool's setup."""

    @abstractmethod
    def end(self, number: int) -> None:
        """Forget a setup, of which no chunk is out. A second call does nothing."""

    @abstractmethod
    def function(self, func: Callable[..., Any]) -> Any:
        """Pickle a function; what is returned goes into chunks. It travels once, if at all.

        Raises
        ------
        Exception
            It cannot be pickled.
        """

    @abstractmethod
    def add(self, source: Iterator[Chunk | None]) -> None:
        """Draw chunks from an iterator, in the stream's thread, until it ends.

        It may wait for nothing and raise nothing. None: there is nothing for now, but there will
        be, and `wake` will be called. Sources take turns.
        """

    @abstractmethod
    def wake(self, source: Iterator[Chunk | None] | None = None) -> None:
        """Have a source drawn again that had nothing; None: all of them."""

    @abstractmethod
    def kill(self, chunks: Iterable[Chunk]) -> None:
        """End chunks that are out, also what runs of them: the rest of their values are `Raised`.

        It does not wait for that.
        """
