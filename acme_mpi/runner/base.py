"""What a runner is: what it is given, and what it says."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass, field
from typing import NamedTuple

from acme_mpi.linux.segment import Segment
from acme_mpi.results.content import Content
from acme_mpi.results.spec import RowSpec
from acme_mpi.runner.failure import FailureFields
from acme_mpi.runner.surroundings import Surroundings


@dataclass
class Outcome:
    """What became of the tasks in [start, stop), which lie in one chunk.

    Attributes
    ----------
    start, stop : int
        Half-open range of task indices.
    failures : list of dict
        Fields of a `Failure` for each failed task.
    content : Content
        The results of all other tasks of the range, in index order.
    busy_ns : int
        Time from the first call to the last return, in nanoseconds.
    start_s : float
        Unix time of the first call in seconds.
    peak_bytes : int
        Peak resident memory of the process that called the tasks, meanwhile; 0 if unknown.
    slow : list of (int, int, float, float)
        First task, number of tasks, Unix time of the start and duration, both in seconds, of what
        took `SLOW_NS` or longer, failed or not. Several tasks stand together where short ones
        shared a look at the clock.
    calls : dict of int to str
        Those of them, by their indices, that were among the slowest so far: the call as text.
    attempt : int
        1 for the first attempt at these tasks; the agent knows.
    """

    start: int
    stop: int
    failures: list[FailureFields] = field(default_factory=list)
    content: Content = field(default_factory=Content)
    busy_ns: int = 0
    start_s: float = 0.0
    peak_bytes: int = 0
    slow: list[tuple[int, int, float, float]] = field(default_factory=list)
    calls: dict[int, str] = field(default_factory=dict)
    attempt: int = 1

    def succeeded(self) -> list[range]:
        """Return the tasks that have a result, as runs of consecutive indices."""
        runs, begin = [], self.start
        for index in sorted(fields["index"] for fields in self.failures):
            if begin < index:
                runs.append(range(begin, index))
            begin = index + 1
        if begin < self.stop:
            runs.append(range(begin, self.stop))
        return runs


@dataclass
class Assignment:
    """What a runner needs to know of a run.

    Attributes
    ----------
    func : bytes or None
        The pickled function of this rank; None: that of `packed`.
    packed : Segment or None
        What `pack` has packed; None: this process has the tasks themselves.
    surroundings : Surroundings
        The caller's.
    spec : RowSpec or None
        The form of the results.
    in_memory : bool
        Results stay in memory.
    can_place : bool
        The store can tell where a large array goes.
    number : int
        Tells the assignments of one runner apart; set by the runner.
    habits : list of str
        What tasks are known to change of their process, see `Baseline`; set by the runner.
    variables : dict
        How the child's environment has to be changed; set by the runner.
    as_pickles : bool
        Results become pickles.
    may_pickle : bool
        Those that HDF5 cannot hold become pickles.
    names : tuple of str
        What the user calls the results of a task; empty: what the function calls them.
    folder : str
        Where the run keeps the form that all results have, see `results.form`; empty: nowhere.
    """

    func: bytes | None
    packed: Segment | None
    surroundings: Surroundings
    spec: RowSpec | None = None
    in_memory: bool = False
    can_place: bool = False
    number: int = 0
    as_pickles: bool = False
    may_pickle: bool = False
    names: tuple[str, ...] = ()
    folder: str = ""
    variables: dict[str, str | None] = field(default_factory=dict)
    habits: list[str] = field(default_factory=list)


class Runner(ABC):
    """Calls tasks for one agent; takes chunks and returns outcomes, in order.

    The agent submits a few chunks ahead, waits for `descriptors` to become readable, and calls
    `poll`.
    """

    # What tasks of this run have changed of their processes, which were replaced for it.
    changed: frozenset[str] = frozenset()

    @abstractmethod
    def prepare(self, assignment: Assignment) -> None:
        """Start to load function and arguments; `poll` tells when that is done."""

    @abstractmethod
    def submit(self, chunk: range) -> None:
        """Queue the tasks of `chunk`; never waits."""

    @abstractmethod
    def drain(self) -> None:
        """Start no further task until the next `prepare`; never waits.

        What runs goes on to its end. What was submitted and is not started, or is submitted from
        now on, comes back as `NotCalled`, in order with the outcomes.
        """

    def limit(self, seconds: float, n_bytes: int) -> None:
        """Set what a task may take, until the next call or `prepare`; 0 stands for no limit.

        A task that takes more fails, with the type ``"timeout"`` or ``"memory"``. What the agent
        itself calls cannot be stopped.

        Parameters
        ----------
        seconds : float
            Wall time.
        n_bytes : int
            Memory of the process that calls the task, and of those that it has started, without
            what they share with others.
        """
        return None

    @property
    def look_s(self) -> float | None:
        """Longest time in seconds between two calls of `look`; None: it need not be called."""
        return None

    def look(self) -> None:
        """Check that the running task keeps its limits; `poll` tells if it does not."""
        return None

    def running(self) -> tuple[int, float] | None:
        """Return the task that runs and for how many seconds this was seen by calls of this.

        None if none does, or if the agent itself calls tasks.
        """
        return None

    @abstractmethod
    def poll(self) -> list[Event]:
        """Return what has happened."""

    @abstractmethod
    def descriptors(self) -> list[int]:
        """Return what to select on; empty if `poll` itself does the work."""

    @abstractmethod
    def answer(self, request: PlaceRequest, site: tuple[str, int] | None) -> None:
        """Answer a request with path and offset, or None: send the data.

        If the process that has asked is gone, nobody gets the answer.
        """

    @abstractmethod
    def forget(self) -> None:
        """Drop function and arguments; the files that they held open are closed afterwards."""

    @abstractmethod
    def stop(self) -> None:
        """End at once, with everything that the user's code has started."""


class Ready(NamedTuple):
    """The function is loaded."""


class Unready(NamedTuple):
    """The function cannot be loaded here.

    Attributes
    ----------
    reason : str
        What went wrong, in one or a few lines.
    """

    reason: str


class NotCalled(NamedTuple):
    """Tasks that have not been called, as the runner is drained.

    Attributes
    ----------
    start, stop : int
        Half-open range of task indices, the end of one chunk.
    """

    start: int
    stop: int


@dataclass
class PlaceRequest:
    """A runner asks where to write a large array.

    Attributes
    ----------
    child : int
        Which of the runner's processes asks, one after the other.
    index, k : int
        Task, and number of the part.
    shape, dtype : tuple of int, str
        Of the array.
    """

    child: int
    index: int
    k: int
    shape: tuple[int, ...]
    dtype: str


Event = Ready | Unready | PlaceRequest | Outcome | NotCalled
