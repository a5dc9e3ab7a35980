"""What travels in a stream: setups, functions, calls and what became of them.

The same messages go from the client to rank 0, from there to the other ranks, and to the runners;
the answers go back. Agents do not unpickle what users give or get.
"""

from __future__ import annotations

from typing import Any, NamedTuple

from acme_mpi.linux.segment import Segment
from acme_mpi.rules import Rules
from acme_mpi.runner.surroundings import Surroundings


class Begin(NamedTuple):
    """A pool's setup, before any of its calls.

    Attributes
    ----------
    setup : int
        Its number.
    initializer : bytes
        Pickled pair of the function and its arguments; empty: there is none.
    rules : Rules
        For each call.
    max_chunks : int
        After how many chunks a process is replaced; 0: never.
    n_ranks : int
        How many ranks may work for it at the same time; 0: all.
    surroundings : Surroundings
        Of the client.
    """

    setup: int
    initializer: bytes
    rules: Rules
    max_chunks: int
    n_ranks: int
    surroundings: Surroundings


class End(NamedTuple):
    """A setup is not needed any more."""

    setup: int


class Teach(NamedTuple):
    """A function, before any of its calls.

    Attributes
    ----------
    function : int
        Its number.
    body : bytes
        Its pickle; empty: it stands in the segment.
    places : list of (int, int)
        Offset and size in bytes of the pickle and of each of its buffers in the segment.
    segment : Segment or None
        Where there are large arrays in it.
    modules : str
        The state of the caller's modules, see `reloaded`.
    """

    function: int
    body: bytes
    places: list[tuple[int, int]]
    segment: Segment | None
    modules: str = ""


class Forget(NamedTuple):
    """A function is not needed any more."""

    function: int


class Given(NamedTuple):
    """A chunk: calls of one function.

    Attributes
    ----------
    chunk : int
        Its number.
    setup, function : int
        Those of its `Begin` and `Teach`.
    form : int
        A `Form`.
    n : int
        Number of calls, >= 1.
    body, buffers : bytes, list of buffers
        Pickle of the list of arguments, and what lies beside it.
    """

    chunk: int
    setup: int
    function: int
    form: int
    n: int
    body: bytes
    buffers: list[Any]


class Kill(NamedTuple):
    """Chunks that nobody wants any more, not even to the end of the call that runs."""

    chunks: list[int]


class CallNow(NamedTuple):
    """An agent's order to its runner: calls of one chunk.

    Attributes
    ----------
    number : int
        Of the first call of the whole chunk, in this runner's counting.
    given : Given
        The chunk.
    first, stop : int
        Which of its calls.
    is_careful : bool
        The agent has to know at any time which of them runs.
    """

    number: int
    given: Given
    first: int
    stop: int
    is_careful: bool


class Got(NamedTuple):
    """What calls of a chunk have returned.

    Attributes
    ----------
    chunk : int
        Of which chunk.
    first, n : int
        Number of the first of the calls in the chunk, and how many.
    body, buffers : bytes, list of buffers
        Pickled list of values, each its own or a `NoValue`, and what lies beside it.
    busy_ns : int
        How long they took, in nanoseconds.
    """

    chunk: int
    first: int
    n: int
    body: bytes
    buffers: list[Any]
    busy_ns: int


class Lost(NamedTuple):
    """Calls whose process has ended.

    Attributes
    ----------
    chunk, first, n : int
        As of `Got`.
    kind, message : str
        Type and text, as of a `Failure`.
    """

    chunk: int
    first: int
    n: int
    kind: str
    message: str


class Broken(NamedTuple):
    """The initializer of a setup has raised.

    Attributes
    ----------
    setup : int
        Its number.
    body : bytes
        A pickled `NoValue`.
    """

    setup: int
    body: bytes


class Skipped(NamedTuple):
    """Calls that a runner was given and has not made, as its agent took them back.

    Attributes
    ----------
    number : int
        Of the first, in the runner's counting.
    """

    number: int


class Back(NamedTuple):
    """Chunks that stood behind a long call, and are for whoever has time."""

    given: list[Given]


Answer = Got | Lost | Broken
Reply = Answer | Back  # of a rank to rank 0


class Answers(NamedTuple):
    """What a rank has to say."""

    rank: int
    answers: list[Answer]


class Window(NamedTuple):
    """How many chunks of a function the ranks want to have at the same time."""

    function: int
    n_chunks: int


class NoValue(NamedTuple):
    """Stands for the value of a call that has none.

    Attributes
    ----------
    error : bytes
        The pickled exception; empty: it cannot be pickled, or loaded again, and is told in words.
    kind : str
        ``"raised"``; ``"result"``: it has returned what cannot be pickled; ``"exit"``: it has
        ended its process, as far as it is concerned.
    message : str
        What has ended the process, or why something cannot be pickled.
    value : str
        What that is, as text.
    traceback : str
        As it was in the runner.
    """

    error: bytes
    kind: str
    message: str
    value: str
    traceback: str
