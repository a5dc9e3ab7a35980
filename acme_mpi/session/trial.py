"""Try one task before all of them run, and forecast what all of them take."""

from __future__ import annotations

import logging
import math
import random
from dataclasses import dataclass, replace

import numpy as np

from acme_mpi.comm import World
from acme_mpi.engine.call import Call, Options, Output, Result
from acme_mpi.engine.summary import error_of
from acme_mpi.errors import InputError, StoreError, TaskError
from acme_mpi.history.stores import MEMORY, find_store
from acme_mpi.linux.memory import size_text
from acme_mpi.results.spec import RowSpec
from acme_mpi.runner.measure import N_FIGURES, Measured
from acme_mpi.session.current import current
from acme_mpi.session.request import Request

logger = logging.getLogger("acme_mpi")

LEAST_S = 0.1  # a run takes some time to begin and to end


@dataclass(frozen=True)
class Forecast:
    """What one task took, and what all tasks will.

    Attributes
    ----------
    index : int
        The task that was called.
    elapsed_s : float
        Its duration in seconds.
    peak_bytes : int
        Peak memory of the process that called it.
    agent_bytes : int
        Memory of its rank besides.
    result_bytes : int
        Size of its result as it is stored.
    n_tasks, n_workers : int
        Of the run to come.
    kind : str
        Its store.
    is_stacked : bool
        Results are rows of one dataset.
    """

    index: int
    elapsed_s: float
    peak_bytes: int
    agent_bytes: int
    result_bytes: int
    n_tasks: int
    n_workers: int
    kind: str
    is_stacked: bool

    @property
    def wall_s(self) -> float:
        """Wall time of all tasks in seconds, if each takes as long as this one did."""
        return self.elapsed_s * math.ceil(self.n_tasks / self.n_workers)

    @property
    def stored_bytes(self) -> int:
        """Bytes of all results, in files or in the caller's memory."""
        overhead = find_store(self.kind).overhead_bytes(self.is_stacked)
        return self.n_tasks * (self.result_bytes + overhead)

    @property
    def rank_bytes(self) -> int:
        """Memory that each rank needs."""
        return self.peak_bytes + self.agent_bytes

    def lines(self) -> list[str]:
        """Return what a person wants to know, two lines."""
        where = "in files" if find_store(self.kind).writes_files else "in memory"
        return [
            f"Dry-run completed. Elapsed time is {self.elapsed_s:f} seconds, estimated memory "
            f"consumption was {self.peak_bytes / 1e6:3.2f} MB.",
            f"All {self.n_tasks} calls on {self.n_workers} worker(s) would take "
            f"{_duration_text(self.wall_s)}; {size_text(self.stored_bytes)} {where}; "
            f"{size_text(self.rank_bytes)} of memory per rank.",
        ]


def _duration_text(seconds: float) -> str:
    if seconds < LEAST_S:
        return f"less than {LEAST_S} s"
    if seconds < 60:
        return f"about {seconds:.3g} s"
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"about {hours} h {minutes:02} min" if hours else f"about {minutes} min {rest:02} s"


def announce(name: str, index: int) -> str:
    """Return the line that says which task is tried."""
    return (
        f"Performing a single dry-run of {name} simulating randomly picked worker #{index} with "
        "automatically distributed arguments"
    )


def pick(n_tasks: int) -> int:
    """Return the index of the task to try.

    Raises
    ------
    InputError
        There is none.
    """
    if n_tasks == 0:
        raise InputError("a dry-run needs a task, and there are none")
    return random.randrange(n_tasks)


def trial_of(request: Request, index: int) -> Request:
    """Return the request for one of its tasks, which is measured."""
    options = request.options
    measured = Measured(request.func, *circumstances(options))
    return Request(measured, request.tasks.only(index), measuring_options(options))


def circumstances(options: Options) -> tuple[RowSpec | None, bool, bool, bool]:
    """Return what `Measured` needs besides the function."""
    store = options.output.store
    as_pickles = store.is_pickled or not store.writes_files
    return options.work.spec, as_pickles, options.output.may_pickle, options.work.isolate


def measuring_options(options: Options) -> Options:
    """Return the options of the run of the one task: it leaves nothing behind and says nothing."""
    return Options(
        options.work._replace(n_tasks=1, spec=RowSpec((N_FIGURES,), 0, "<f8")),
        Output(MEMORY.name),
        options.display._replace(bar=False, level=logging.CRITICAL, log_file=""),
    )


def forecast(result: Result, index: int, options: Options, size: int) -> Forecast:
    """Return what the figures of a measured task say of a whole run.

    Parameters
    ----------
    result : Result
        Of the run of the one task.
    index : int
        Its index.
    options : Options
        Of the run to come.
    size : int
        Ranks of the job.

    Raises
    ------
    TaskError
        The task failed.
    LaunchError, InputError
        It could not be called.
    """
    if result.failures:
        failure = replace(result.failures[0], index=index)
        trace = f"\n{failure.traceback.rstrip()}" if failure.traceback else ""
        raise TaskError(f"the dry-run of {options.work.name} failed: {failure}{trace}", [failure])
    error = error_of(result)
    if error is not None:
        raise error
    rows = result.stored.pieces[0][1].rows
    assert isinstance(rows, np.ndarray)  # nothing is placed in memory
    elapsed_s, peak, agent, n_bytes = rows[0].tolist()
    spec = options.work.spec
    is_stacked = spec is not None and not spec.is_ragged
    n_workers = max(1, len(options.work.worker_ranks(size)))
    return Forecast(
        index,
        elapsed_s,
        int(peak),
        int(agent),
        int(n_bytes),
        options.work.n_tasks,
        n_workers,
        options.output.kind,
        is_stacked,
    )


def dry_run(world: World, request: Request, size: int) -> Forecast:
    """Call one random task on a rank and return what that says of all. Collective.

    Parameters
    ----------
    world : World
        The callers.
    request : Request
        What would be run; that of rank 0 is used.
    size : int
        Ranks of the job.

    Raises
    ------
    TaskError, InputError, LaunchError
        On every rank alike.
    """
    session, call, index = current(), Call(), 0
    try:
        index = pick(request.tasks.n_tasks)
        call = trial_of(request, index).to_call(session, world)
        call.digests = {}  # each rank has picked a task of its own
    except (InputError, StoreError) as error:
        call.error = error
    index, options = world.bcast(index), request.options
    if world.is_master and call.error is None:
        logger.info("%s", announce(options.work.name, index))
    return forecast(session.run(world, call), index, options, size)
