"""What a runner is, and the loop in which every runner calls the user's function."""

from __future__ import annotations

import heapq
import pickle
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from time import monotonic_ns, time
from typing import Any, NamedTuple

from acme_mpi.errors import LoadingError
from acme_mpi.linux.memory import forget_peak, peak_bytes
from acme_mpi.linux.offsets import reason
from acme_mpi.linux.segment import Segment
from acme_mpi.results.content import Content
from acme_mpi.results.convert import ResultError
from acme_mpi.results.encoder import Encoder, Place, Ways, encoder_of
from acme_mpi.results.spec import RowSpec
from acme_mpi.runner import forked
from acme_mpi.runner.surroundings import Surroundings
from acme_mpi.runner.trace import traceback_text
from acme_mpi.tasks.frames import innermost_line, user_frames
from acme_mpi.tasks.packing import unpack
from acme_mpi.tasks.pickling import Frozen, dump_values, pickle_result, text_of
from acme_mpi.tasks.taskset import TaskSet

REPORT_NS = 100_000_000  # results leave the runner at least this often between two tasks
REPORT_BYTES = 8 * 1024 * 1024
CLOCK_NS = 200_000  # the start of a task is known this well
SLOW_NS = 10_000_000  # tasks from here on are listed with their times
# The slowest tasks of a runner, if they take so long, are told with their arguments.
N_SLOWEST, TOLD_NS = 20, 100_000_000
DRAIN = 2  # number of the word by which the agent wishes that no further task is started
N_RUNNING = 3  # of the word that says how many calls of a stream the first word stands for
SKIP_FROM, SKIP_TO = 4, 5  # of the words with the numbers of the calls that are taken back
N_WORDS = 6

FailureFields = dict[str, Any]

# Type of a failure that is the storage medium's; no exception class can have this name.
MEDIUM = "<medium>"
_TEXTS = ("message", "location", "traceback", "call")  # of a failure
DIED = "died"  # field of a failure by which the runner has ended


class MediumError(Exception):
    """The storage medium refused an array that a runner was to put in its place."""


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


def load_assignment(assignment: Assignment) -> tuple[Callable[..., Any], TaskSet]:
    """Return function and tasks, loaded where the caller is.

    Raises
    ------
    BaseException
        Whatever the user's modules and objects raise.
    """
    assignment.surroundings.take_on()
    assert assignment.packed is not None
    func, tasks = unpack(assignment.packed)
    if assignment.func is not None:
        func = pickle.loads(assignment.func)
    assert func is not None
    return func, tasks


def load_tasks(assignment: Assignment) -> TaskSet:
    """Return the tasks alone, for a process that has the function itself.

    Raises
    ------
    BaseException
        Whatever the user's objects raise.
    """
    assert assignment.packed is not None
    return unpack(assignment.packed)[1]


def reason_unready(error: BaseException, host: str = "") -> str:
    """Return why a function could not be loaded, on which host only where that matters."""
    if isinstance(error, LoadingError):
        return str(error)
    where = f"{host}: " if host else ""
    return f"{where}{type(error).__name__}: {text_of(error)}"


def make_encoder(assignment: Assignment, place: Place | None = None) -> Encoder:
    """Return what takes the return values of an assignment's tasks."""
    folder = assignment.folder
    return encoder_of(
        assignment.spec,
        assignment.in_memory,
        Ways(place, dump_values, Frozen, pickle_result, assignment.may_pickle),
        as_pickles=assignment.as_pickles,
        names=assignment.names,
        agree=partial(_agreed_names, folder) if folder else None,
        agree_on_form=partial(_agreed_form, folder) if folder else None,
    )


def _agreed_names(folder: str, names: tuple[str, ...]) -> tuple[str, ...]:
    """Return the names that the results of a run have."""
    from acme_mpi.results.form import NAMES, agreed  # results in memory have none

    with _saying(folder):
        return tuple(agreed(folder, {NAMES: names})[NAMES])


def _agreed_form(folder: str, form: RowSpec) -> RowSpec:
    """Return the form that the first result of a run has, wherever it ended."""
    from acme_mpi.results.form import ROWS, agreed  # most runs know it before

    with _saying(folder):
        return RowSpec.from_listed(agreed(folder, {ROWS: form.listed()})[ROWS])


@contextmanager
def _saying(folder: str) -> Iterator[None]:
    """Context in which the medium may refuse to say, or to note, the form of results.

    Raises
    ------
    MediumError
        It did.
    """
    try:
        yield
    except (OSError, ValueError, KeyError, TypeError) as error:
        text = reason(error, folder) if isinstance(error, OSError) else error
        raise MediumError(f"cannot read or write the form of results in {folder}: {text}") from None


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

# `N_WORDS` signed 64-bit words that runner and agent share.
Words = memoryview | list[int]


def run_chunk(
    func: Callable[..., Any],
    name: str,
    tasks: TaskSet,
    encoder: Encoder,
    chunk: range,
    words: Words,
    swallow: tuple[type[BaseException], ...] = (BaseException,),
    is_changed: Callable[[], bool] = bool,
    slowest: list[int] | None = None,
    report_ns: int | None = None,
) -> Iterator[Outcome]:
    """Call the tasks of one chunk and yield their outcomes.

    They reach to the end of the chunk, or less far if the agent wishes it or this is no place to
    call more tasks. A process that a task forks ends where it would come back here.

    Parameters
    ----------
    func, name : callable, str
        The user's function and what it is called.
    tasks : TaskSet
        Its arguments.
    encoder : Encoder
        Takes the return values.
    chunk : range
        Indices of the tasks.
    words : memoryview or list of int
        What the agent sees: the index of the running task (-1:
        none); its start in nanoseconds of `time.monotonic_ns`, or that of the tasks that share a
        look at the clock with it; and, written by the agent, whether no further task is to be
        started (`DRAIN`).
    swallow : tuple of exception types
        What a task may raise without ending this process.
    is_changed : callable
        Tells whether tasks have changed this process since the last outcome. A task that fails
        after others in such a process is left out: it is to be called in another one.
    slowest : list of int, optional
        How long the slowest tasks of earlier chunks took, a heap; it is changed.
    report_ns : int, optional
        An outcome is yielded at least so often between two tasks, in nanoseconds.
    """
    report_ns = REPORT_NS if report_ns is None else report_ns
    slowest = [] if slowest is None else slowest
    clock, own = monotonic_ns, forked.this_process
    plain, append = encoder.plain
    outcome, begin_ns = _begin(chunk.start), clock()
    now_ns = begin_ns
    call, rows = tasks.bound(func), tasks.rows(chunk.start, chunk.stop)
    index, n_between, is_over = chunk.start, 1, False
    while not is_over and index < chunk.stop and not words[DRAIN]:
        # Tasks of a few microseconds share one look at the clock.
        block = range(index, min(index + n_between, chunk.stop))
        to_call = [*block]
        words[1] = block_ns = now_ns
        index -= 1
        forked.being_called.append(to_call)
        # The only places where exceptions of user code are caught: the call and the check of what
        # it returned, and around them the arguments, which may be read from a file.
        try:
            for index, row in zip(to_call, rows, strict=False):
                words[0] = index
                try:
                    value = call(row)
                    if type(value) in plain:
                        append(value)
                    elif forked.this_process is own:
                        encoder.add(index, value)
                        plain, append = encoder.plain
                except swallow as error:
                    if forked.this_process is not own:
                        raise
                    if index > outcome.start and is_changed():
                        is_over = True
                        break
                    outcome.failures.append(describe_failure(error, index, name, tasks))
            else:
                index = block.stop
            if forked.this_process is not own:
                forked.leave()
        except BaseException as error:
            if forked.this_process is not own:
                forked.leave(error)
            if not isinstance(error, swallow) or index + 1 not in block:
                raise
            outcome.failures.append(describe_failure(error, index + 1, name, None))
            index += 2
            rows = tasks.rows(index, chunk.stop)
        finally:
            forked.being_called.pop()
        now_ns = clock()
        if now_ns - block_ns >= SLOW_NS:
            start_s = outcome.start_s + (block_ns - begin_ns) / 1e9
            n_called = index - block.start
            outcome.slow.append((block.start, n_called, start_s, (now_ns - block_ns) / 1e9))
            if n_called == 1 and _is_among(slowest, now_ns - block_ns):
                words[0] = -1  # the task has ended: its limits do not count any more
                outcome.calls[block.start] = _call_text(block.start, name, tasks)
                now_ns = clock()
        n_between = max(1, min(2 * len(block), CLOCK_NS * len(block) // (now_ns - block_ns + 1)))
        if now_ns - begin_ns > report_ns or encoder.n_bytes > REPORT_BYTES:
            words[0] = -1
            yield _end(outcome, index, encoder.take(), now_ns - begin_ns)
            plain, append = encoder.plain
            outcome, begin_ns = _begin(index), clock()
            now_ns = begin_ns
    words[0] = -1
    if outcome.start < index:
        yield _end(outcome, index, encoder.take(), now_ns - begin_ns)


def _begin(start: int) -> Outcome:
    """Return the outcome of tasks that are about to be called."""
    forget_peak()
    return Outcome(start, start, start_s=time())


def _is_among(slowest: list[int], took_ns: int) -> bool:
    """Tell whether a task is among the slowest of all so far, of which it then is one."""
    if took_ns < TOLD_NS or (len(slowest) == N_SLOWEST and took_ns <= slowest[0]):
        return False
    heapq.heappush(slowest, took_ns)
    if len(slowest) > N_SLOWEST:
        heapq.heappop(slowest)
    return True


def _call_text(index: int, name: str, tasks: TaskSet | None) -> str:
    """Return a call as text, whatever its arguments do to that; empty if it cannot be had."""
    try:
        return tasks.call_text(name, index) if tasks is not None else ""
    except (Exception, SystemExit):
        return ""


def _end(outcome: Outcome, stop: int, content: Content, busy_ns: int) -> Outcome:
    """Complete the outcome of tasks that have been called."""
    outcome.stop, outcome.content, outcome.busy_ns = stop, content, busy_ns
    outcome.peak_bytes = peak_bytes()
    return outcome


def describe_failure(
    error: BaseException, index: int, name: str, tasks: TaskSet | None
) -> FailureFields:
    """Return the fields of a `Failure`; never raises, whatever the exception does.

    Else the task would count as done, and what was raised here as the fault of the next one.
    """
    try:
        return _described(error, index, name, tasks)
    except BaseException:  # there may be no memory
        kind = type(error).__name__
        return dict.fromkeys(_TEXTS, "") | {"index": index, "type": kind}


def _described(error: BaseException, index: int, name: str, tasks: TaskSet | None) -> FailureFields:
    frames = user_frames(error)
    location = innermost_line(frames)
    if isinstance(error, SystemExit):
        kind, message = "exit", f"the function called sys.exit({text_of(error.code, repr)})"
    elif isinstance(error, MediumError):
        kind, message, frames = MEDIUM, text_of(error), []
    elif isinstance(error, ResultError):
        text = text_of(error)
        lead = "" if text.startswith("expected") else "the function returned "
        kind, message, location, frames = "ResultError", lead + text, "", []
    else:
        kind, message = type(error).__name__, text_of(error)
        if kind == "ValueError" and message.endswith("is read-only"):
            message += " (arrays among the arguments are shared by all tasks: write into a copy)"
    return {
        "index": index,
        "type": kind,
        "message": message,
        "location": location,
        "traceback": traceback_text(error) if frames else "",
        "call": _call_text(index, name, tasks),
    }
