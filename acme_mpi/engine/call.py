"""What goes into a run and what comes out of it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from acme_mpi.comm import World
from acme_mpi.engine.messages import Said
from acme_mpi.errors import AcmeMpiError, Failure
from acme_mpi.history.stores import RANK
from acme_mpi.linux.segment import Segment
from acme_mpi.results.spec import AUTO, RowSpec
from acme_mpi.rules import Rules
from acme_mpi.runner.surroundings import Surroundings
from acme_mpi.storage import Stored, StoreKind, find_store
from acme_mpi.tasks.fingerprint import NAMES
from acme_mpi.tasks.taskset import TaskSet

if TYPE_CHECKING:
    from acme_mpi.tasks.labels import Labels


class Work(NamedTuple):
    """What a run computes.

    Attributes
    ----------
    name : str
        The function's name.
    n_tasks : int
        Number of calls, >= 0.
    spec : RowSpec or None
        The form of the results.
    isolate : bool
        Call the function in a child process.
    workers : tuple of int or None
        The ranks that call tasks; None: all.
    rules : Rules
        How to deal with tasks that fail.
    """

    name: str
    n_tasks: int
    spec: RowSpec | None = None
    isolate: bool = True
    workers: tuple[int, ...] | None = None
    rules: Rules = Rules()

    def worker_ranks(self, size: int) -> set[int]:
        """Return the ranks that call tasks, of a world of `size`."""
        everyone = set(range(size))
        # Ranks that were chosen may have ended, and not all be there again.
        chosen = everyone if self.workers is None else everyone.intersection(self.workers)
        # In its own process the function would keep rank 0 from handing out chunks.
        return chosen - {0} if not self.isolate and size > 1 else chosen


class Output(NamedTuple):
    """Where the results of a run go.

    Attributes
    ----------
    kind : str
        Name of a store, of the table in `history.stores`.
    output_dir : str or None
        Directory of the files; None: a new ``ACME_<time>`` in the working directory.
    root : int or None
        In memory the only rank that gets the results; None: all.
    may_pickle : bool
        Results that HDF5 cannot hold are pickled instead of failing their tasks.
    policy : str
        What to do where there are results already, see `beginning.POLICIES`.
    retry_failed : bool
        Of an earlier run, call the tasks that have failed, and only those.
    names : tuple of str
        What the user calls the results of a task; empty: what the function calls them, if it does.
    only : tuple of (int, int), or None
        Half-open ranges of the tasks that may be called; None: all.
    has_report : bool
        A page that shows the run is written beside results in files, if the run was long.
    """

    kind: str = RANK.name
    output_dir: str | None = None
    root: int | None = None
    may_pickle: bool = False
    policy: str = "refuse"
    retry_failed: bool = False
    names: tuple[str, ...] = ()
    only: tuple[tuple[int, int], ...] | None = None
    has_report: bool = True

    @property
    def store(self) -> StoreKind:
        """What is known of the store."""
        return find_store(self.kind)


class Display(NamedTuple):
    """What a run shows and says.

    Attributes
    ----------
    bar : bool or None
        Progress bar; None: if somebody watches.
    is_told : bool
        In the place of bar and lines, who has made the call is told what it needs to show them.
    dialect : str
        Name of the interface that the run belongs to, said in its messages.
    level : int or None
        Lowest level of the messages; None: as it is.
    log_file : str or None
        Where they go, too; None: into the output directory; empty: nowhere.
    said : tuple of Said
        What that file has to begin with.
    reproduce : str
        Command that runs one task, ``{index}`` in the task's place.
    resume_command : str
        Command that resumes the run, ``{directory}`` in the output directory's place; empty if a
        script knows it.
    """

    bar: bool | None = None
    is_told: bool = False
    dialect: str = ""
    level: int | None = None
    log_file: str | None = None
    said: tuple[Said, ...] = ()
    reproduce: str = ""
    resume_command: str = ""


class Options(NamedTuple):
    """What every rank has to know of a run.

    Attributes
    ----------
    work : Work
        What is computed.
    output : Output
        Where the results go.
    display : Display
        What is shown and said.
    """

    work: Work
    output: Output = Output()
    display: Display = Display()

    @property
    def shaping(self) -> dict[str, str]:
        """What of these options shapes the results, for the fingerprint."""
        spec, names = self.work.spec, self.output.names
        called = {NAMES: ", ".join(map(repr, names))} if names else {}
        asked = {"kind of files": self.output.kind, **called}
        if spec is None:
            return asked
        if spec.is_auto:
            return {**asked, "result_shape": AUTO}
        shapes = {each.name: each.stacked_shape(None, each.shape) for each in spec.columns}
        dtypes = {each.name: str(np.dtype(each.dtype)) for each in spec.columns}
        return {
            **asked,
            "result_shape": str(shapes if spec.names else shapes[""]),
            "result_dtype": str(dtypes if spec.names else dtypes[""]),
        }

    def in_one_process(self) -> Options:
        """Return the options of the same run in a process that calls all tasks itself."""
        work = self.work._replace(isolate=False, workers=(0,))
        return self._replace(work=work, display=self.display._replace(bar=False))


@dataclass
class Call:
    """What one rank brings into a run.

    Attributes
    ----------
    options : Options or None
        Those of rank 0 are used.
    func : bytes or None
        This rank's pickled function; None: that of `packed`.
    packed : Segment or None
        The packed arguments; those of rank 0 are used.
    own_func : callable or None
        The function itself, for ``isolate=False``.
    own_tasks : TaskSet or None
        The tasks themselves, to be called in this very process (``compute(debug=True)``); the
        first exception ends the run.
    surroundings : Surroundings or None
        Of this caller; None: the same as rank 0's. Search path, directory and changed variables of
        rank 0 count.
    digests : dict of str to str
        Fingerprint of each argument, to find ranks that were called differently.
    fingerprint : dict of str to str
        What makes it the same computation as another run; that of rank 0 is used.
    labels : Labels or None
        What the tasks are known by, to be written beside results in files; that of rank 0 is used.
    error : AcmeMpiError or None
        What is wrong with this rank's call.
    client : list of int
        Descriptors that become readable when nobody waits for the result any more.
    deliver : callable or None
        Brings the values of a run in memory to who has asked for them, before its success is said.
        Collective; tells the result of what went wrong.
    tell : callable or None
        On rank 0: is told now and then how many tasks have ended, and failed.
    """

    options: Options | None = None
    func: bytes | None = None
    packed: Segment | None = None
    own_func: Any = None
    own_tasks: TaskSet | None = None
    surroundings: Surroundings | None = field(default_factory=Surroundings.here)
    digests: Mapping[str, str] = field(default_factory=dict)
    fingerprint: Mapping[str, str] = field(default_factory=dict)
    labels: Labels | None = None
    error: AcmeMpiError | None = None
    client: list[int] = field(default_factory=list)
    deliver: Callable[[World, Result], object] | None = None
    tell: Callable[[int, int], object] | None = None

    @property
    def directory(self) -> str:
        """Rank 0's working directory."""
        assert self.surroundings is not None
        return self.surroundings.directory


@dataclass
class Result:
    """What a run has led to; the same on every rank, except for `stored.pieces` with a root.

    Attributes
    ----------
    options : Options
        Of the run.
    stored : Stored
        Where the results are.
    failures : list of Failure
        In index order.
    n_unfinished : int
        Tasks that were not run to their end, and should have been.
    n_left_out : int
        Tasks without a result that were not to be called.
    storage_error : str
        Why results could not be written, or values not be delivered, empty if they were.
    unready : list of str
        Why ranks could not load the function.
    n_ready : int
        Ranks that could.
    unstorable : tuple of (int, str), or None
        The first task whose result was pickled, though HDF5 was asked for, and why.
    stopped_because : str
        Why the run was ended early, empty if it was not.
    output_dir : str
        Where its files are; empty in memory.
    values : object
        In memory, once they are delivered: what this rank's caller gets.
    """

    options: Options
    stored: Stored
    failures: list[Failure]
    n_unfinished: int
    storage_error: str = ""
    unready: list[str] = field(default_factory=list)
    n_ready: int = 0
    unstorable: tuple[int, str] | None = None
    stopped_because: str = ""
    output_dir: str = ""
    values: Any = None
    n_left_out: int = 0

    def fail_late(self, reasons: Mapping[int, str], host: str, rank: int) -> None:
        """Count tasks as failed whose values are of no use to the rank that wants them."""
        known = {failure.index for failure in self.failures}
        for index, reason in reasons.items():
            if index not in known:
                self.failures.append(Failure(index, "ResultError", reason, host=host, rank=rank))
        self.failures.sort(key=lambda failure: failure.index)

    @property
    def is_complete(self) -> bool:
        """Whether every task was run, and all that came of it is safe."""
        return not self.n_unfinished and not self.n_left_out and not self.storage_error

    @property
    def has_come_to_nothing(self) -> bool:
        """Whether no task was run, as no rank could load the function."""
        return bool(self.n_unfinished and not self.n_ready and not self.stopped_because)

    @property
    def has_halted(self) -> bool:
        """Whether so many tasks have failed that the run had to end."""
        return self.options.work.rules.must_halt(len(self.failures), self.options.work.n_tasks)
