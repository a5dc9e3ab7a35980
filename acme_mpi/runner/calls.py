"""What travels in a stream: setups, functions, calls and what became of them.

The same messages go from the client to rank 0, from there to the other ranks, and to the runners;
the answers go back. Agents do not unpickle what users give or get.
"""

from __future__ import annotations

import pickle
from collections.abc import Iterable
from itertools import pairwise
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


class Calls(NamedTuple):
    """Some calls of a chunk: those with numbers in [first, stop)."""

    chunk: int
    first: int
    stop: int

    def has_some_of(self, other: Calls) -> bool:
        """Tell whether one of the calls is among others."""
        is_same = self.chunk == other.chunk
        return is_same and self.first < other.stop and other.first < self.stop

    def parted(self, at: Iterable[int]) -> list[Calls]:
        """Return the calls in parts, which begin before some of the chunk's calls."""
        cuts = sorted({k for k in at if self.first < k < self.stop})
        return [Calls(self.chunk, *part) for part in pairwise([self.first, *cuts, self.stop])]


class Meant:
    """Which calls of which chunks a kill means.

    Parameters
    ----------
    calls : iterable of Calls
        All of them.
    """

    def __init__(self, calls: Iterable[Calls]) -> None:
        self._calls: dict[int, list[Calls]] = {}  # by chunk
        for each in calls:
            self._calls.setdefault(each.chunk, []).append(each)

    def bounds(self, chunk: int) -> list[int]:
        """Return where a chunk has to part so that each part is meant as a whole, or not at all."""
        return [k for each in self._calls.get(chunk, ()) for k in each[1:]]

    def has_some_of(self, calls: Calls) -> bool:
        """Tell whether one of some calls is meant."""
        return any(map(calls.has_some_of, self._calls.get(calls.chunk, ())))


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
    body, buffers : bytes or list of bytes, list of buffers
        Pickle of the list of arguments, and what lies beside it. Or one of each call's: these are
        calls of their own that travel together, and part when one of them takes long.
    first : int
        Number of the first of its calls; > 0 in a chunk that has parted.
    """

    chunk: int
    setup: int
    function: int
    form: int
    n: int
    body: bytes | list[bytes]
    buffers: list[Any]
    first: int = 0

    @property
    def calls(self) -> Calls:
        """Which calls these are."""
        return Calls(self.chunk, self.first, self.first + self.n)

    @property
    def may_part(self) -> bool:
        """Whether its calls are calls of their own."""
        return isinstance(self.body, list)

    @property
    def n_bytes(self) -> int:
        """Size of the arguments."""
        bodies = self.body if isinstance(self.body, list) else [self.body]
        return sum(map(len, bodies)) + sum(int(each.nbytes) for each in self.buffers)

    def arguments(self, first: int, stop: int) -> list[Any]:
        """Load the arguments of the calls [first, stop)."""
        if isinstance(self.body, list):
            bodies = self.body[first - self.first : stop - self.first]
            return [argument for body in bodies for argument in pickle.loads(body)]
        loaded: list[Any] = pickle.loads(self.body, buffers=self.buffers)
        return loaded[first:stop]

    def part(self, first: int, stop: int) -> Given:
        """Return the chunk with the calls [first, stop) alone; all of them, unless it may part."""
        if (first, stop) == self.calls[1:]:
            return self
        assert isinstance(self.body, list)
        bodies = self.body[first - self.first : stop - self.first]
        return self._replace(first=first, n=stop - first, body=bodies)


class Kill(NamedTuple):
    """Calls that nobody wants any more, not even to the end of the one that runs."""

    calls: list[Calls]


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

    @property
    def calls(self) -> Calls:
        """Which calls of their chunk."""
        return Calls(self.given.chunk, self.first, self.stop)


class Got(NamedTuple):
    """What calls of a chunk have returned.

    Attributes
    ----------
    chunk : int
        Of which chunk.
    first, n : int
        Number of the first of the calls in the chunk, and how many.
    body, buffers : bytes or list of bytes, list of buffers
        Pickled list of values, each its own or a `NoValue`, and what lies beside it; or such a list
        for each call.
    busy_ns : int
        How long they took, in nanoseconds.
    """

    chunk: int
    first: int
    n: int
    body: bytes | list[bytes]
    buffers: list[Any]
    busy_ns: int

    def is_before(self, other: Got) -> bool:
        """Tell whether another call of the chunk stands behind these, and each has its body."""
        is_next = (self.chunk, self.first + self.n) == (other.chunk, other.first)
        is_each = len(_bodies(self)) == self.n and other.n == 1
        return is_next and is_each and not (self.buffers or other.buffers)

    def with_next(self, other: Got) -> Got:
        """Return what is told of these calls and of the one behind them."""
        body = [*_bodies(self), *_bodies(other)]
        busy_ns = self.busy_ns + other.busy_ns
        return Got(self.chunk, self.first, self.n + other.n, body, [], busy_ns)

    def parted(self, n: int) -> tuple[Got, Got | None]:
        """Return what is told of the first `n` calls, and of the others if there are any.

        Raises
        ------
        ValueError
            It is told of all together.
        """
        if n == self.n:
            return self, None
        if not isinstance(self.body, list) or not 0 < n < len(self.body) == self.n:
            raise ValueError(f"{self.n} values that cannot part after {n}")
        ns = self.busy_ns * n // self.n
        rest = Got(self.chunk, self.first + n, self.n - n, self.body[n:], [], self.busy_ns - ns)
        return Got(self.chunk, self.first, n, self.body[:n], [], ns), rest


def _bodies(got: Got) -> list[bytes]:
    return got.body if isinstance(got.body, list) else [got.body]


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
    number, n : int
        Of the first, in the runner's counting, and how many.
    """

    number: int
    n: int


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
    """How many chunks of a function the ranks want to have at the same time.

    Attributes
    ----------
    function, n_chunks : int
        Which function, and how many; calls of their own count as chunks.
    call_s : float
        What one of its calls takes, in seconds.
    """

    function: int
    n_chunks: int
    call_s: float


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
