"""One run, from the first index to the closed container.

The life of a task: every rank enters `run`; rank 0's arguments are broadcast as bytes that agents
do not unpickle. Rank 0's `Master` hands chunks of indices to the `Worker` of every rank; a worker
gives them to its `Runner`, normally a child process, which calls the function; what comes back is
written by the rank's `Store`, brought to the disk, recorded in the rank's `Journal`, and reported;
the report is the request for the next chunk. At the end the stores make one container together,
and every rank leaves with the same result or the same exception.

Imports go downwards only: ``__main__, __init__, script_main`` > ``parallel_map, foreground,
options`` > ``api, cluster, dry_run, in_process`` > ``client`` > ``submit`` > ``script`` > ``run`` >
``joblog, status_text`` > ``call, master, worker, status`` > ``storage, fingerprint, runner,
journal, progress`` > ``comm, messages, terminal`` > ``acme_arguments, keywords`` > ``tasks,
schedule, durations, rules, results, checksum, offsets, errors``.
"""

from __future__ import annotations

import atexit
import logging
import os
import select
import sys
import time
import traceback
from dataclasses import astuple
from typing import Any, NamedTuple

import numpy as np

from acme_mpi.call import Call, Options, Result
from acme_mpi.comm import Backoff, World, settle
from acme_mpi.errors import (
    AcmeMpiError,
    Failure,
    StoreError,
    summarize,
)
from acme_mpi.master import Master
from acme_mpi.messages import ANNOUNCE, log_path, run_messages
from acme_mpi.progress import Progress
from acme_mpi.runner.base import Assignment, Runner
from acme_mpi.runner.child import ChildRunner
from acme_mpi.runner.inline import InlineRunner
from acme_mpi.schedule import Factoring, FixedChunks, Schedule
from acme_mpi.storage import Layout, Store, Stored, ballast, make_store
from acme_mpi.storage.folders import make_folders, mark_finished, remove_folders
from acme_mpi.worker import Worker

logger = logging.getLogger("acme_mpi")

IDLE_PAUSE_S = 0.01
RESERVE_PAUSE_S = 1.0  # the master has nothing to say to a worker with a chunk in reserve


def run(world: World, call: Call) -> Result:
    """Run all tasks of rank 0's call. Collective.

    Raises
    ------
    InputError, LaunchError, StoreError
        On every rank alike, before any task has run.
    BaseException
        With `Call.own_tasks`: what a task has raised, or the user who interrupts it.
    """
    world.barrier(_warn)
    options, layout = _agree_on_call(world, call)
    try:
        return _run_agreed(world, call, options, layout)
    except AcmeMpiError:
        raise
    except BaseException:
        if call.own_tasks is not None:
            raise
        # Leaving alone would make the others wait for ever.
        stop_runner()
        if world.size > 1:
            traceback.print_exc()
            sys.stderr.flush()
            world.abort(1)
        raise


def _warn(text: str) -> None:
    logger.warning("%s", text)


def _agree_on_call(world: World, call: Call) -> tuple[Options, Layout]:
    """Check all ranks' calls and make the directories; all ranks raise alike."""

    def decide(digests: list[dict[str, str]]) -> tuple[Any, Any]:
        _warn_of_differences(digests)
        assert call.options is not None
        wanted, (_, base) = call.options, call.place
        layout = make_folders(wanted.kind, wanted.name, wanted.output_dir, base)
        return astuple(wanted), astuple(layout)

    options, layout = settle(world, call.error, dict(call.digests), decide)
    return Options(*options), Layout(*layout)


def _warn_of_differences(digests: list[dict[str, str]]) -> None:
    for label, digest in digests[0].items():
        others = [r for r, each in enumerate(digests) if each and each.get(label) != digest]
        if others:
            shown = ", ".join(map(str, others[:5])) + (", ..." if len(others) > 5 else "")
            logger.warning(
                "argument `%s` differs on rank(s) %s; the value of rank 0 is used", label, shown
            )


def _run_agreed(world: World, call: Call, options: Options, layout: Layout) -> Result:
    path = _log_path(options, layout) if world.is_master else ""
    new_log = "" if os.path.lexists(path) else path
    try:
        with run_messages(path, options.dialect, options.level), ballast.held(world, layout):
            assignment = _share_assignment(world, call, options)
            store = make_store(options.kind, world, layout, options.row_spec, options.n_tasks)
            assignment.can_place = store.can_place and options.isolate
            store.open()
            if world.is_master:
                _log_start(world, options, layout)
            runner = _take_runner(world, call, options)
            result = _work(world, call, options, store, runner, assignment)
            if world.is_master:
                _log_end(result)
    except StoreError:
        # Nothing has run: leave nothing that would be taken for an unfinished run.
        _remove_folders(world, layout, new_log)
        raise
    except BaseException:
        if call.own_tasks is not None and not os.path.exists(layout.journal(0)):
            _remove_folders(world, layout, new_log)
        raise
    if not result.n_ready and result.n_unfinished:
        _remove_folders(world, layout, new_log)
    elif world.is_master and layout.directory and result.is_complete:
        mark_finished(layout)
    return result


def _log_path(options: Options, layout: Layout) -> str:
    if options.log_file is not None:
        return options.log_file
    return log_path(layout.directory, options.name) if layout.directory else ""


def _remove_folders(world: World, layout: Layout, log_file: str) -> None:
    if world.is_master:
        remove_folders(layout, log_file)


def _share_assignment(world: World, call: Call, options: Options) -> Assignment:
    """Bring rank 0's arguments to every rank, as bytes. Collective."""
    everything = None
    if world.is_master:
        common = np.frombuffer(call.func or b"", np.uint8)
        everything = [common, call.tasks, *call.buffers]
    func, tasks, *buffers = world.bcast_buffers(everything)
    path, directory = world.bcast(call.place)
    own_func = bytes(func) if call.func is None else call.func
    return Assignment(
        *(own_func, tasks, buffers, path, directory, options.spec),
        in_memory=options.kind == "memory",
        as_pickles=options.kind == "pickle",
        may_pickle=options.may_pickle,
    )


_RUNNER: list[ChildRunner] = []


def take_child_runner(world: World, is_worker: bool = True) -> ChildRunner | None:
    """Return this process's child runner, started at its first use. Collective.

    Parameters
    ----------
    world : World
        The ranks.
    is_worker : bool
        Whether this rank calls tasks; None is returned if not.
    """
    n_threads = _threads_per_rank(world)
    if not is_worker:
        return None
    if not _RUNNER:
        _RUNNER.append(ChildRunner(n_threads))
        atexit.register(stop_runner)
    return _RUNNER[0]


def stop_runner() -> None:
    """Stop this process's child runner. Independent."""
    while _RUNNER:
        _RUNNER.pop().stop()


def _threads_per_rank(world: World) -> int:
    """Return this rank's share of the cores that it may run on.

    All ranks count, also those that have nothing to do now: the runner is kept for later runs.
    """
    mask = sorted(os.sched_getaffinity(0))
    ranks = world.allgather((world.host, mask))
    return max(1, len(mask) // ranks.count((world.host, mask)))


def _take_runner(world: World, call: Call, options: Options) -> Runner | None:
    is_worker = world.rank in options.worker_ranks(world.size)
    if call.own_tasks is not None:
        return InlineRunner(call.own_func, call.own_tasks, swallow=())
    if options.isolate:
        return take_child_runner(world, is_worker)
    return InlineRunner(call.own_func) if is_worker else None


def _work(
    world: World,
    call: Call,
    options: Options,
    store: Store,
    runner: Runner | None,
    assignment: Assignment,
) -> Result:
    """Play master and worker to the end, close the store, and gather what happened. Collective."""
    worker = master = progress = None
    if runner is not None:
        runner.prepare(assignment)
        worker = Worker(world, runner, store)
    workers = options.worker_ranks(world.size)
    schedule: Schedule = Factoring(options.n_tasks, len(workers))
    if call.own_tasks is not None:
        schedule = FixedChunks(options.n_tasks, 1)  # what was done before an exception is kept
    if world.is_master:
        progress = Progress(options.n_tasks, options.bar)
        master = Master(world, schedule, progress, workers)
    raised: BaseException | None = None
    try:
        _play(worker, master, runner, call.client)
    except BaseException as error:
        if call.own_tasks is None:
            raise
        raised = error
    finally:
        if progress is not None:
            progress.close()
    if worker is not None:
        worker.close()
    # A barrier before the container is made: everybody's records are on the disk.
    brought = world.allgather(_brought(worker))
    storage_error = next((each.storage_error for each in brought if each.storage_error), "")
    stored = Stored()
    try:
        stored = store.commit(options.root)
    except StoreError as error:
        storage_error = storage_error or str(error)
    if raised is not None:
        raise raised
    n_ready, n_left = world.bcast(_left(master, schedule) if master else None)
    failures = [Failure(*fields) for each in brought for fields in each.failures]
    return Result(
        options,
        stored,
        sorted(failures, key=lambda failure: failure.index),
        n_left,
        storage_error,
        [each.retired_because for each in brought if each.retired_because],
        n_ready,
        min((each.unstorable for each in brought if each.unstorable), default=None),
    )


def _left(master: Master, schedule: Schedule) -> tuple[int, int]:
    """Return how many ranks could work, and how many tasks were not run to their end."""
    return master.n_ready, master.n_not_done if master.is_cut_short else schedule.n_left


class _Brought(NamedTuple):
    """What a rank tells all others at the end, plain values."""

    failures: list[tuple[Any, ...]]
    retired_because: str = ""
    storage_error: str = ""
    unstorable: tuple[int, str] | None = None


def _brought(worker: Worker | None) -> _Brought:
    if worker is None:
        return _Brought([])
    return _Brought(
        [astuple(failure) for failure in worker.failures],
        worker.retired_because,
        worker.storage_error,
        worker.unstorable,
    )


def _play(
    worker: Worker | None, master: Master | None, runner: Runner | None, client: list[int]
) -> None:
    """Step both roles until they are finished, asleep whenever nothing has happened."""
    backoff = Backoff()
    parent, looked_s = os.getppid(), time.monotonic()
    while True:
        progressed = master.step() if master is not None else False
        if worker is not None:
            progressed = worker.step() or progressed
        if (worker is None or worker.is_finished) and (master is None or master.is_finished):
            return
        if progressed:
            backoff.reset()
            continue
        if isinstance(runner, InlineRunner) and runner.has_work:
            continue
        longest_s = IDLE_PAUSE_S if master is None else master.longest_pause_s
        backoff.longest_s = longest_s
        if worker is not None and worker.has_reserve:
            # Nothing is in a hurry, and the runner wakes this rank by itself.
            pause_s = RESERVE_PAUSE_S if master is None else longest_s
        else:
            pause_s = backoff.pause()
        descriptors = runner.descriptors() if runner is not None else []
        ready = select.select([*descriptors, *client], [], [], pause_s)[0]
        if master is not None and set(client) & set(ready):
            logger.warning("nobody waits for the results any more: the run is ended")
            master.cut_short()
            client = []
        if time.monotonic() - looked_s > 1.0:
            looked_s = time.monotonic()
            _leave_if_orphaned(parent)


def _leave_if_orphaned(parent: int) -> None:
    """End if the launcher has gone: Open MPI 5 leaves ranks behind when mpiexec is killed."""
    is_launched = "OMPI_COMM_WORLD_SIZE" in os.environ or "PMI_SIZE" in os.environ
    if is_launched and os.getppid() != parent:
        stop_runner()
        os._exit(1)


def _log_start(world: World, options: Options, layout: Layout) -> None:
    logger.info(
        "Preparing %d parallel calls of `%s` using %d workers",
        *(options.n_tasks, options.name, len(options.worker_ranks(world.size))),
    )
    if layout.directory:
        logger.info("Results go to %s", _place_of(options, layout))


def _place_of(options: Options, layout: Layout) -> str:
    return layout.directory if options.kind == "pickle" else layout.container


def _log_end(result: Result) -> None:
    options, stored = result.options, result.stored
    pickles, container = stored.pickle_paths, stored.container or ""
    for reason in dict.fromkeys(result.unready):
        if result.n_ready:
            logger.warning("a rank takes no part, it could not load the function: %s", reason)
    if pickles and result.unstorable is not None:
        shown = pickles[0] + (", ..." if len(pickles) > 1 else "")
        logger.warning(
            "%d results have been pickled, because HDF5 cannot hold them: %s\n"
            "  That of task %d was %s",
            *(len(pickles), shown, *result.unstorable),
        )
    if result.failures:
        text = summarize(result.failures, options.n_tasks, container, options.reproduce)
        logger.error("%s", text)
    elif result.is_complete:
        where = stored.where
        end = f"Results have been saved to {where}" if where else "Finished parallel computation"
        if pickles:
            end += f", {len(pickles)} of them as pickles to {os.path.dirname(pickles[0])}"
        logger.log(ANNOUNCE, "SUCCESS! %d tasks done. %s", options.n_tasks, end)
