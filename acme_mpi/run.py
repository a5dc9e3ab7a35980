"""One run, from the first index to the closed container.

The life of a task: every rank enters `run`; rank 0's arguments are broadcast as bytes that agents
do not unpickle. Rank 0's `Master` hands chunks of indices to the `Worker` of every rank; a worker
gives them to its `Runner`, normally a child process, which calls the function; what comes back is
written by the rank's `Store`, brought to the disk, recorded in the rank's `Journal`, and reported;
the report is the request for the next chunk. At the end the stores make one container together,
and every rank leaves with the same result or the same exception.

Imports go downwards only: ``__main__, __init__, script_main`` > ``api, foreground`` > ``script`` >
``run`` > ``call, master, worker`` > ``storage, runner, journal, progress`` > ``comm`` > ``tasks,
schedule, results, offsets, errors``.
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
from typing import Any

import numpy as np

from acme_mpi.call import Call, Options, Result
from acme_mpi.comm import Backoff, World
from acme_mpi.errors import (
    AcmeMpiError,
    Failure,
    InputError,
    StoreError,
    summarize,
)
from acme_mpi.master import Master
from acme_mpi.progress import LogFile, Progress
from acme_mpi.runner.base import Assignment, Runner
from acme_mpi.runner.child import ChildRunner
from acme_mpi.runner.inline import InlineRunner
from acme_mpi.schedule import Factoring
from acme_mpi.storage import Layout, Store, Stored, ballast, make_store
from acme_mpi.storage.folders import make_folders, remove_folders
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
    """
    world.barrier(_warn)
    options, layout = _agree_on_call(world, call)
    try:
        return _run_agreed(world, call, options, layout)
    except AcmeMpiError:
        raise
    except BaseException:
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
    brought = world.gather((call.error, dict(call.digests)))
    verdict: tuple[str, Any, Any] = ("", None, None)
    if brought is not None:
        errors = [f"rank {rank}: {error}" for rank, (error, _) in enumerate(brought) if error]
        if call.error:
            errors = [call.error]
        _warn_of_differences([digests for _, digests in brought])
        try:
            if errors:
                raise InputError("\n".join(errors))
            assert call.options is not None
            wanted, (_, base) = call.options, call.place
            layout = make_folders(wanted.kind, wanted.name, wanted.output_dir, base)
            verdict = ("", astuple(wanted), astuple(layout))
        except InputError as error:
            verdict = ("input", str(error), None)
        except StoreError as error:
            verdict = ("store", str(error), None)
    kind, first, second = world.bcast(verdict)
    if kind:
        raise (InputError if kind == "input" else StoreError)(first)
    return Options(*first), Layout(*second)


def _warn_of_differences(digests: list[dict[str, str]]) -> None:
    for label, digest in digests[0].items():
        others = [r for r, each in enumerate(digests) if each and each.get(label) != digest]
        if others:
            shown = ", ".join(map(str, others[:5])) + (", ..." if len(others) > 5 else "")
            logger.warning(
                "argument `%s` differs on rank(s) %s; the value of rank 0 is used", label, shown
            )


def _run_agreed(world: World, call: Call, options: Options, layout: Layout) -> Result:
    try:
        with (
            LogFile(layout.directory if world.is_master else "", options.name),
            ballast.held(world, layout),
        ):
            assignment = _share_assignment(world, call, options)
            store = make_store(options.kind, world, layout, options.row_spec, options.n_tasks)
            assignment.can_place = store.can_place and options.isolate
            store.open()
            if world.is_master:
                _log_start(world, options, layout)
            runner = _take_runner(world, call, options)
            result = _work(world, options, store, runner, assignment)
            if world.is_master:
                _log_end(result)
    except StoreError:
        # Nothing has run: leave nothing that would be taken for an unfinished run.
        _remove_folders(world, layout)
        raise
    if not result.n_ready and result.n_unfinished:
        _remove_folders(world, layout)
    return result


def _remove_folders(world: World, layout: Layout) -> None:
    if world.is_master:
        remove_folders(layout)


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
        own_func, tasks, buffers, path, directory, options.spec, options.kind == "memory"
    )


_RUNNER: list[ChildRunner] = []


def take_child_runner(world: World) -> ChildRunner:
    """Return this process's child runner, started at its first use. Collective."""
    n_threads = _threads_per_rank(world)
    if not _RUNNER:
        _RUNNER.append(ChildRunner(n_threads))
        atexit.register(stop_runner)
    return _RUNNER[0]


def stop_runner() -> None:
    """Stop this process's child runner. Independent."""
    while _RUNNER:
        _RUNNER.pop().stop()


def _threads_per_rank(world: World) -> int:
    """Return this rank's share of the cores that it may run on."""
    mask = sorted(os.sched_getaffinity(0))
    ranks = world.allgather((world.host, mask))
    return max(1, len(mask) // ranks.count((world.host, mask)))


def _take_runner(world: World, call: Call, options: Options) -> Runner | None:
    if options.isolate:
        return take_child_runner(world)
    # In this process the function would keep rank 0 from handing out chunks.
    return None if world.is_master and world.size > 1 else InlineRunner(call.inline)


def _work(
    world: World, options: Options, store: Store, runner: Runner | None, assignment: Assignment
) -> Result:
    """Play master and worker to the end, close the store, and gather what happened. Collective."""
    worker = master = progress = None
    if runner is not None:
        runner.prepare(assignment)
        worker = Worker(world, runner, store)
    first_worker = 1 if not options.isolate and world.size > 1 else 0
    workers = set(range(first_worker, world.size))
    schedule = Factoring(options.n_tasks, len(workers))
    if world.is_master:
        progress = Progress(options.n_tasks, options.bar)
        master = Master(world, schedule, progress, workers)
    try:
        _play(worker, master, runner)
    finally:
        if progress is not None:
            progress.close()
    if worker is not None:
        worker.close()
    # A barrier before the container is made: everybody's records are on the disk.
    brought = world.allgather(_brought(worker))
    storage_error = next((each[2] for each in brought if each[2]), "")
    stored = Stored()
    try:
        stored = store.commit(options.root)
    except StoreError as error:
        storage_error = storage_error or str(error)
    n_ready, n_left = world.bcast((master.n_ready, schedule.n_left) if master else None)
    failures = [Failure(*fields) for each in brought for fields in each[0]]
    return Result(
        options,
        stored,
        sorted(failures, key=lambda failure: failure.index),
        n_left,
        storage_error,
        [each[1] for each in brought if each[1]],
        n_ready,
    )


def _brought(worker: Worker | None) -> tuple[list[tuple[Any, ...]], str, str]:
    if worker is None:
        return [], "", ""
    failures = [astuple(failure) for failure in worker.failures]
    return failures, worker.retired_because, worker.storage_error


def _play(worker: Worker | None, master: Master | None, runner: Runner | None) -> None:
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
        select.select(descriptors, [], [], pause_s)
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
        "Preparing %d parallel calls of `%s` using %d ranks",
        *(options.n_tasks, options.name, world.size),
    )
    if layout.directory:
        logger.info("Results go to %s", layout.container)


def _log_end(result: Result) -> None:
    options, stored = result.options, result.stored
    for reason in dict.fromkeys(result.unready):
        if result.n_ready:
            logger.warning("a rank takes no part, it could not load the function: %s", reason)
    if result.failures:
        where = stored.container or ""
        logger.error("%s", summarize(result.failures, options.n_tasks, where, options.reproduce))
    elif not result.n_unfinished:
        where = f"; results are in {stored.container}" if stored.container else ""
        logger.info("SUCCESS! %d tasks done%s", options.n_tasks, where)
