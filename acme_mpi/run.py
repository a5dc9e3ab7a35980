"""One run, from the first index to the closed container.

The life of a task: every rank enters `run`; rank 0's arguments go to every node as one segment of
shared memory, which agents do not unpickle. Rank 0's `Master` hands chunks of indices to the
`Worker` of every rank; a worker gives them to its `Runner`, normally a child process, which calls
the function; what comes back is written by the rank's `Store`, brought to the disk, recorded in the
rank's `Journal`, and reported; the report is the request for the next chunk. At the end the stores
make one container together, and every rank leaves with the same result or the same exception.

Imports go downwards only: ``__main__, __init__, script_main`` > ``parallel_map, foreground,
options`` > ``commands, command_call, api, cluster, out_files`` > ``client`` > ``session`` >
``run`` > ``loop, joblog, status_text`` > ``call, keywords, master, worker, status`` > ``storage,
fingerprint, runner, journal, progress, protocol`` > ``comm, interrupts, deadline, messages,
terminal, ulimits`` > ``segment, standing, acme_arguments, command_parser, meant`` >
``tasks, schedule, durations, rules, results, parsing, checksum, offsets, cgroup, cores, printing,
errors`` > ``convert, processes, spelling, uncaught, visible``.
"""

from __future__ import annotations

import contextlib
import logging
import os
import sys
import time
import traceback
from collections.abc import Iterator, Sequence
from itertools import islice
from typing import Any, NamedTuple, NoReturn

from acme_mpi.call import Call, Options, Result
from acme_mpi.comm import World, settle, share
from acme_mpi.deadline import deadline_s
from acme_mpi.errors import EXIT_STORAGE, AcmeMpiError, Failure, StoreError, summarize
from acme_mpi.interrupts import INTERRUPTS
from acme_mpi.loop import Loop
from acme_mpi.master import Master
from acme_mpi.messages import ANNOUNCE, FILED, ONLY_FILED, Said, collected, log_path, run_messages
from acme_mpi.progress import Progress
from acme_mpi.runner.base import Assignment, Runner
from acme_mpi.runner.inline import InlineRunner
from acme_mpi.runner.kept import stop_runner, take_child_runner
from acme_mpi.runner.surroundings import Surroundings
from acme_mpi.schedule import Factoring, FixedChunks, Schedule
from acme_mpi.standing import is_in_task
from acme_mpi.storage import Layout, Store, Stored, ballast, make_store
from acme_mpi.storage.beginning import Beginning, Wanted, begin
from acme_mpi.storage.description import Description
from acme_mpi.storage.folders import mark_finished, remove_results
from acme_mpi.storage.lease import Lease
from acme_mpi.storage.remaining import Remaining, all_remaining, remaining_tasks
from acme_mpi.ulimits import fault_of_limits
from acme_mpi.worker import Worker

logger = logging.getLogger("acme_mpi")

N_FILED = 1000  # tracebacks in a log file


def run(world: World, call: Call) -> Result:
    """Run all tasks of rank 0's call that are not done yet. Collective.

    Raises
    ------
    InputError, LaunchError, StoreError
        On every rank alike, before any task has run.
    BaseException
        With `Call.own_tasks`: what a task has raised, or the user who interrupts it.
    """
    said: list[Said] = []
    with collected(said):
        world.barrier(_warn)
        start = _agree_on_call(world, call)
    # A debugger gets the user's interrupts itself, and in a task they are for whoever calls it.
    is_caught = call.own_tasks is None and not is_in_task()
    caught = INTERRUPTS.caught() if is_caught else contextlib.nullcontext()
    try:
        with caught, _released(start.lease):
            result = _run_agreed(world, call, start, said)
    except AcmeMpiError:
        raise
    except MemoryError:
        if not is_caught:
            raise
        _end_without_memory(world)
    except BaseException:
        if not is_caught:
            raise
        # Leaving alone would make the others wait for ever.
        stop_runner()
        if world.size > 1:
            traceback.print_exc()
            sys.stderr.flush()
            world.abort(1)
        raise
    if not start.options.output.store.writes_files:
        _deliver(world, call, start, result)
    return result


def _end_without_memory(world: World) -> NoReturn:
    """End a run, and the job if others wait, for which a rank has too little memory."""
    stop_runner()
    text = (
        f"rank {world.rank} ({world.host}) has run out of memory, not in a task: results that are "
        "not written must fit into the ranks that get them; have them written into files, or raise "
        "the limit (ulimit -v, srun --mem)"
    )
    if world.size > 1:
        logger.error("%s; the job ends", text)
        world.abort(EXIT_STORAGE)
    raise StoreError(text) from None


def _deliver(world: World, call: Call, start: _Start, result: Result) -> None:
    """Bring values to the caller, and only then say how the run has ended. Collective.

    The signals are the caller's again: loading values calls user code, which may take for ever.
    """
    if call.deliver is not None:
        call.deliver(world, result)
    if world.is_master and not _has_come_to_nothing(result):
        options = start.options
        path = _log_path(options, start.layout)
        with run_messages(path, options.display.dialect, options.display.level):
            _log_end(result)


def _has_come_to_nothing(result: Result) -> bool:
    return bool(not result.n_ready and result.n_unfinished and not result.stopped_because)


def _warn(text: str) -> None:
    logger.warning("%s", text)


class _Start(NamedTuple):
    """What the ranks have agreed on before a run."""

    options: Options
    layout: Layout
    lease: Lease | None  # on rank 0, of runs that write files
    is_resumed: bool


def _agree_on_call(world: World, call: Call) -> _Start:
    """Check all ranks' calls and take the place of the files; all ranks raise alike."""
    begun: list[Beginning] = []

    def decide(digests: list[dict[str, str]]) -> tuple[Any, ...]:
        _warn_of_differences(digests)
        assert call.options is not None
        begun.append(_begin(call, call.options, world.size))
        return call.options, begun[0].layout, begun[0].earlier is not None

    error = call.error or fault_of_limits()
    options, layout, is_resumed = settle(world, error, dict(call.digests), decide)
    lease = begun[0].lease if begun else None
    return _Start(options, layout, lease, is_resumed)


def _begin(call: Call, options: Options, n_ranks: int) -> Beginning:
    try:
        return begin(wanted(call, n_ranks), _warn)
    except StoreError as error:
        if options.output.output_dir is None:
            raise
        path = os.path.join(call.directory, os.path.expanduser(options.output.output_dir))
        raise StoreError(f"{error}{options.how_to_resume(path)}") from None


def wanted(call: Call, n_ranks: int) -> Wanted:
    """Return what a call asks for, whose options are known. Independent."""
    options = call.options
    assert options is not None
    described = Description(
        options.work.name,
        options.work.n_tasks,
        options.output.kind,
        options.work.spec,
        n_ranks,
        time.time(),
        options.display.resume_command,
        options.display.reproduce,
        call.fingerprint,
    )
    return Wanted(
        described,
        options.output.output_dir,
        call.directory,
        options.output.policy,
        bool(options.display.resume_command),
        options.output.retry_failed,
    )


@contextlib.contextmanager
def _released(lease: Lease | None) -> Iterator[None]:
    """Context at whose end others may have the folder."""
    try:
        yield
    finally:
        if lease is not None:
            lease.release()


def _warn_of_differences(digests: list[dict[str, str]]) -> None:
    for label, digest in digests[0].items():
        others = [r for r, each in enumerate(digests) if each and each.get(label) != digest]
        if others:
            shown = ", ".join(map(str, others[:5])) + (", ..." if len(others) > 5 else "")
            logger.warning(
                "argument `%s` differs on rank(s) %s; the value of rank 0 is used", label, shown
            )


def _run_agreed(world: World, call: Call, start: _Start, said: list[Said]) -> Result:
    options, layout = start.options, start.layout
    path = _log_path(options, layout) if world.is_master else ""
    new_log = "" if os.path.lexists(path) else path
    try:
        earlier = [*options.display.said, *said]
        messages = run_messages(path, options.display.dialect, options.display.level, earlier)
        with messages, ballast.held(world, layout):
            store = make_store(
                options.output.kind, world, layout, options.work.spec, options.work.n_tasks
            )
            remaining = all_remaining(options.work.n_tasks)
            if start.is_resumed:
                remaining = remaining_tasks(
                    world, store, options.work.n_tasks, options.output.retry_failed
                )
            if remaining.failures and world.is_master:
                _tell_old_failures(options, layout, len(remaining.failures))
            if remaining.stored is not None:
                result = _nothing_left(options, layout, remaining)
            else:
                result = _call_tasks(world, call, start, store, remaining)
            if world.is_master and options.output.store.writes_files:
                _log_end(result)
    except StoreError as error:
        # Nothing has run: leave nothing that would be taken for an unfinished run.
        _forget(world, start, new_log)
        raise StoreError(f"{error}{options.how_to_resume(layout.directory)}") from None
    except BaseException:
        if call.own_tasks is not None and not os.path.exists(layout.journal(0)):
            _forget(world, start, new_log)
        raise
    if _has_come_to_nothing(result):
        _forget(world, start, new_log)
    elif world.is_master and layout.directory and result.is_complete:
        mark_finished(layout)
    return result


def _call_tasks(
    world: World, call: Call, start: _Start, store: Store, remaining: Remaining
) -> Result:
    """Run what is left to do. Collective."""
    assignment = _share_assignment(world, call, start.options)
    assignment.can_place = store.can_place and start.options.work.isolate
    store.open()
    if world.is_master:
        _log_start(world, start, remaining)
    runner = _take_runner(world, call, start.options)
    return _work(world, call, start, store, runner, assignment, remaining)


def _tell_old_failures(options: Options, layout: Layout, n_failed: int) -> None:
    logger.warning(
        "%d failure(s) are of an earlier run, and these tasks are not called again%s",
        n_failed,
        options.how_to_resume(layout.directory, only_failed=True).replace(
            "resume with:", "to call them again, also after the function was mended:"
        ),
    )


def _nothing_left(options: Options, layout: Layout, remaining: Remaining) -> Result:
    """Return the result of a run that finds all its work done."""
    assert remaining.stored is not None
    return Result(
        options,
        remaining.stored,
        remaining.failures,
        remaining.n_open,
        n_ready=1,
        output_dir=layout.directory,
    )


def _log_path(options: Options, layout: Layout) -> str:
    if options.display.log_file is not None:
        return options.display.log_file
    return log_path(layout.directory, options.work.name) if layout.directory else ""


def _forget(world: World, start: _Start, log_file: str) -> None:
    """Remove what a run has made of which nothing came; what earlier ones have left stays."""
    if not world.is_master or not start.layout.directory:
        return
    with contextlib.suppress(OSError):
        os.unlink(log_file)
    if start.lease is not None and not start.is_resumed:
        remove_results(start.layout, also=(start.layout.dot_folder,))


def _share_assignment(world: World, call: Call, options: Options) -> Assignment:
    """Bring rank 0's arguments to every node, as bytes. Collective."""
    packed = share(world, call.packed) if call.own_tasks is None else None
    return Assignment(
        call.func,
        packed,
        _share_surroundings(world, call),
        options.work.spec,
        in_memory=not options.output.store.writes_files,
        as_pickles=options.output.store.is_pickled,
        may_pickle=options.output.may_pickle,
    )


def _share_surroundings(world: World, call: Call) -> Surroundings:
    """Return the caller's: this rank's own, but those of rank 0 where all share them. Collective.

    The files of a script have its umask, whoever writes them.
    """
    first = world.bcast(call.surroundings)
    assert first is not None  # rank 0 has a call
    if call.surroundings is not None:
        return call.surroundings._replace(sys_path=first.sys_path, directory=first.directory)
    if first.umask is not None:
        os.umask(first.umask)
    return first


def _take_runner(world: World, call: Call, options: Options) -> Runner | None:
    is_worker = world.rank in options.work.worker_ranks(world.size)
    if call.own_tasks is not None:
        return InlineRunner(call.own_func, call.own_tasks, swallow=())
    if options.work.isolate:
        return take_child_runner(world, is_worker)
    return InlineRunner(call.own_func) if is_worker else None


def _work(
    world: World,
    call: Call,
    start: _Start,
    store: Store,
    runner: Runner | None,
    assignment: Assignment,
    remaining: Remaining,
) -> Result:
    """Play master and worker to the end, close the store, and gather what happened. Collective."""
    options = start.options
    world.is_relaying = options.work.isolate
    worker = master = progress = None
    if runner is not None:
        runner.prepare(assignment)
        worker = Worker(world, runner, store, options.work.rules)
    if world.is_master:
        progress = Progress(options.work.n_tasks, options.display.bar, remaining.n_kept)
        master = _make_master(world, call, start, progress, remaining)
    raised: BaseException | None = None
    try:
        Loop(world, worker, master, runner, call.client).play()
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
    if world.is_master:
        _warn_of_changes({name for each in brought for name in each.changed})
    # Who has lost the folder must not write into it: somebody else does.
    lost = world.bcast(start.lease.lost if start.lease is not None else "")
    stored = Stored()
    try:
        stored = Stored() if lost else store.commit(options.output.root)
    except StoreError as error:
        storage_error = storage_error or str(error)
    if raised is not None:
        raise raised
    ended = (master.n_ready, master.n_not_done, master.stopped_because) if master else None
    n_ready, n_left, stopped_because = world.bcast(ended)
    failures = [failure for each in brought for failure in each.failures]
    return Result(
        options,
        stored,
        sorted([*remaining.failures, *failures], key=lambda failure: failure.index),
        n_left,
        lost or storage_error,
        [each.retired_because for each in brought if each.retired_because],
        n_ready,
        min((each.unstorable for each in brought if each.unstorable), default=None),
        stopped_because,
        start.layout.directory,
    )


def _make_master(
    world: World, call: Call, start: _Start, progress: Progress, remaining: Remaining
) -> Master:
    options, rules = start.options, start.options.work.rules
    workers = options.work.worker_ranks(world.size)
    schedule: Schedule = Factoring(remaining.ranges, len(workers))
    if call.own_tasks is not None:
        schedule = FixedChunks(remaining.ranges, 1)  # what was done before an exception is kept
    # The end of the batch job is seen to by the run that a task belongs to.
    environ = {} if is_in_task() else os.environ
    deadline = deadline_s(rules.time_limit_s, options.work.n_tasks, environ)
    is_stop_asked = StopFile(start.layout, start.lease).look if start.lease is not None else str
    return Master(world, schedule, progress, workers, rules, deadline, is_stop_asked)


class StopFile:
    """What asks a run to end from any shell; rank 0 looks for it once a second.

    Parameters
    ----------
    layout : Layout
        Of the run; what an earlier one has left is removed.
    lease : Lease
        The run's right to its folder: without it the run ends, too.
    """

    def __init__(self, layout: Layout, lease: Lease) -> None:
        self._path, self._lease = layout.stop_file, lease
        with contextlib.suppress(OSError):
            os.unlink(self._path)

    def look(self) -> str:
        """Return why the run has to end, empty if it need not."""
        if self._lease.lost:
            return self._lease.lost
        return "it was asked to by `stop`" if os.path.exists(self._path) else ""


def _warn_of_changes(names: set[str]) -> None:
    if names:
        logger.warning(
            "tasks have changed what others in their processes depend on, which were replaced "
            "therefore: %s",
            ", ".join(sorted(names)[:8]) + (", ..." if len(names) > 8 else ""),
        )


class _Brought(NamedTuple):
    """What a rank tells all others at the end."""

    failures: list[Failure]
    retired_because: str = ""
    storage_error: str = ""
    unstorable: tuple[int, str] | None = None
    changed: tuple[str, ...] = ()


def _brought(worker: Worker | None) -> _Brought:
    if worker is None:
        return _Brought([])
    return _Brought(
        worker.failures,
        worker.retired_because,
        worker.storage_error,
        worker.unstorable,
        worker.changed,
    )


def _log_start(world: World, start: _Start, remaining: Remaining) -> None:
    options, layout = start.options, start.layout
    n_left = options.work.n_tasks - remaining.n_kept - remaining.n_open
    logger.info(
        "Preparing %d parallel calls of `%s` using %d workers",
        n_left,
        options.work.name,
        len(options.work.worker_ranks(world.size)),
    )
    if start.is_resumed:
        logger.info(
            "Resuming an earlier run: %d of %d tasks have ended",
            remaining.n_kept,
            options.work.n_tasks,
        )
    if layout.directory:
        logger.info("Results go to %s", options.output.store.what_to_open(layout))


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
            len(pickles),
            shown,
            *result.unstorable,
        )
    if result.failures:
        text = summarize(
            *(result.failures, options.work.n_tasks, container, options.display.reproduce),
            result.n_unfinished,
        )
        if result.n_unfinished and result.has_halted:
            text += (
                f"\n  {result.n_unfinished} tasks were not run, because {result.stopped_because}"
            )
        # Who raises this as an exception says it there.
        is_last = options.display.resume_command and not (
            result.n_unfinished and not result.has_halted
        )
        logger.error(
            "%s", text + (result.how_to_resume() if is_last and not result.storage_error else "")
        )
        _log_tracebacks(result.failures)
    elif result.is_complete:
        where = stored.where
        end = f"Results have been saved to {where}" if where else "Finished parallel computation"
        if pickles:
            end += f", {len(pickles)} of them as pickles to {os.path.dirname(pickles[0])}"
        logger.log(ANNOUNCE, "SUCCESS! %d tasks done. %s", options.work.n_tasks, end)


def _log_tracebacks(failures: Sequence[Failure]) -> None:
    """Have the log file show all tracebacks, equal ones once, and the console the first at most."""
    first: dict[str, Failure] = {}
    for failure in failures:
        first.setdefault(failure.traceback, failure)
    first.pop("", None)
    level = logging.DEBUG
    for text, failure in islice(first.items(), N_FILED):
        logger.log(level, "Traceback of task %d:\n%s", failure.index, text.rstrip(), extra=FILED)
        level = ONLY_FILED
    if len(first) > N_FILED:
        text = "... and %d more tracebacks; `status --json` has one of each kind"
        logger.log(level, text, len(first) - N_FILED, extra=FILED)
