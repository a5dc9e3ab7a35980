"""One run, from the first index to the closed container.

The life of a task: every rank enters `run`; rank 0's arguments go to every node as one segment of
shared memory, little ones to every rank; agents do not unpickle them. Rank 0's `Master` hands
chunks of indices to the `Worker` of every rank; a worker gives them to its `Runner`, normally a
child process, which calls the function; what comes back is written by the rank's `Store`, recorded
in the rank's `Journal`, and reported; the report is the request for the next chunk. At the end,
when all is on the disk, the stores make one container together, and every rank leaves with the same
result or the same exception.
"""

from __future__ import annotations

import contextlib
import logging
import os
import sys
import time
import traceback
from collections.abc import Iterator, Sequence
from dataclasses import replace
from functools import cached_property
from typing import TYPE_CHECKING, NoReturn

from acme_mpi.comm import World, little_of, settle, share
from acme_mpi.engine.call import Call, Options, Result
from acme_mpi.engine.loop import Loop
from acme_mpi.engine.messages import Said, collected, log_path, run_messages
from acme_mpi.engine.rank_end import RankEnd
from acme_mpi.engine.summary import log_end, resume_line
from acme_mpi.engine.worker import Worker
from acme_mpi.errors import EXIT_STORAGE, AcmeMpiError, StoreError
from acme_mpi.linux.interrupts import INTERRUPTS
from acme_mpi.linux.ulimits import fault_of_limits
from acme_mpi.results.spec import RowSpec
from acme_mpi.runner.base import Assignment, Runner
from acme_mpi.runner.inline import InlineRunner
from acme_mpi.runner.kept import stop_runner, take_child_runner
from acme_mpi.runner.surroundings import Surroundings
from acme_mpi.standing import is_in_task
from acme_mpi.storage import Layout, Store, Stored, ballast, make_store
from acme_mpi.storage.left import Remaining, Which, all_remaining

if TYPE_CHECKING:
    from acme_mpi.engine.master import Master
    from acme_mpi.history.beginning import Beginning
    from acme_mpi.history.lease import Lease

logger = logging.getLogger("acme_mpi")

SHORT_S = 10.0  # a run that has no report unless somebody asks for it


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
        agreed = Run.agreed(world, call)
    with _ending_together(world, call), agreed.released():
        result = agreed.play(said)
    if not result.options.output.store.writes_files:
        agreed.deliver(result)
    return result


@contextlib.contextmanager
def _ending_together(world: World, call: Call) -> Iterator[None]:
    """Context in which no rank leaves alone: the others would wait for it for ever."""
    # A debugger gets the user's interrupts itself, and in a task they are for whoever calls it.
    if call.own_tasks is not None or is_in_task():
        yield
        return
    try:
        with INTERRUPTS.caught():
            yield
    except AcmeMpiError:
        raise
    except MemoryError:
        _end_without_memory(world)
    except BaseException:
        stop_runner()
        if world.size > 1:
            traceback.print_exc()
            sys.stderr.flush()
            world.abort(1)
        raise


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


def _warn(text: str) -> None:
    logger.warning("%s", text)


class Run:
    """One call on which the ranks have agreed, and the steps that it takes.

    All public methods are Collective.

    Parameters
    ----------
    world : World
        The ranks.
    call : Call
        This rank's.
    options : Options
        Rank 0's.
    layout : Layout
        Where the files lie; the directories exist.
    lease : Lease, optional
        The right to write there; on rank 0, of runs that write files.
    is_resumed : bool
        There are results of earlier runs.
    surroundings : Surroundings, optional
        Those of rank 0's caller, where tasks are to be called.
    little : bytes, optional
        Rank 0's packed arguments, if they are little.
    """

    def __init__(
        self,
        world: World,
        call: Call,
        options: Options,
        layout: Layout,
        lease: Lease | None = None,
        is_resumed: bool = False,
        surroundings: Surroundings | None = None,
        little: bytes | None = None,
    ) -> None:
        self._world, self._call, self._options, self._layout = world, call, options, layout
        self._lease, self._is_resumed = lease, is_resumed
        self._surroundings, self._little = surroundings, little
        self._began_s = time.monotonic()
        self._work, self._output, self._display = options.work, options.output, options.display

    @classmethod
    def agreed(cls, world: World, call: Call) -> Run:
        """Check all ranks' calls, and take the place of the files; all ranks raise alike."""
        begun: list[Beginning] = []

        def decide(
            digests: list[dict[str, str]],
        ) -> tuple[Options, Layout, bool, Surroundings | None, bytes | None]:
            _warn_of_differences(digests)
            assert call.options is not None
            begun.append(_begin(call, call.options, world.size))
            is_resumed = begun[0].earlier is not None
            little = little_of(call.packed)
            return call.options, begun[0].layout, is_resumed, call.surroundings, little

        error = call.error or fault_of_limits()
        agreed = settle(world, error, dict(call.digests), decide, _warn)
        options, layout, is_resumed, surroundings, little = agreed
        lease = begun[0].lease if begun else None
        return cls(world, call, options, layout, lease, is_resumed, surroundings, little)

    @contextlib.contextmanager
    def released(self) -> Iterator[None]:
        """Context at whose end others may have the folder."""
        try:
            yield
        finally:
            if self._lease is not None:
                self._lease.release()

    @cached_property
    def store(self) -> Store:
        """Where this rank keeps results."""
        work = self._work
        store = make_store(self._output.kind, self._world, self._layout, work.spec, work.n_tasks)
        store.sync_every(work.rules.sync_s)
        return store

    def play(self, said: Sequence[Said]) -> Result:
        """Call what is left to do, link all results, and say how it has ended.

        Parameters
        ----------
        said : sequence of Said
            What the log file begins with, after `Display.said`.
        """
        path = self._log_path() if self._world.is_master else ""
        new_log = "" if os.path.lexists(path) else path
        display = self._display
        messages = run_messages(path, display.dialect, display.level, [*display.said, *said])
        try:
            with messages, ballast.held(self._world, self._layout):
                result = self._result()
                if self._world.is_master and self._output.store.writes_files:
                    log_end(result)
        except StoreError as error:
            # Nothing has run: leave nothing that would be taken for an unfinished run.
            self._forget(new_log)
            line = resume_line(self._options, self._layout.directory)
            raise StoreError(f"{error}{line}") from None
        except BaseException:
            if self._call.own_tasks is not None and not os.path.exists(self._layout.journal(0)):
                self._forget(new_log)
            raise
        if result.has_come_to_nothing:
            self._forget(new_log)
        elif self._world.is_master and self._layout.directory:
            if result.is_complete:
                from acme_mpi.history.folders import mark_finished

                mark_finished(self._layout)
            self._report()
        return result

    def _report(self) -> None:
        took_s = time.monotonic() - self._began_s
        if self._output.has_report and took_s > SHORT_S:
            # Not on every rank, and not for short runs: an import that takes a while.
            from acme_mpi.report.written import report_at_end

            report_at_end(self._layout, self._world.size, took_s)

    def deliver(self, result: Result) -> None:
        """Bring values in memory to the caller, and only then say how the run has ended.

        The signals are the caller's again: loading values calls user code, which may take for ever.
        """
        if self._call.deliver is not None:
            self._call.deliver(self._world, result)
        if self._world.is_master and not result.has_come_to_nothing:
            with run_messages(self._log_path(), self._display.dialect, self._display.level):
                log_end(result)

    def find_remaining(self, calls_tasks: bool = True) -> Remaining:
        """Find what earlier runs have left to do.

        Parameters
        ----------
        calls_tasks : bool
            False: no task will be called; what is left to do is to link the results.

        Raises
        ------
        StoreError
            As `remaining_tasks`.
        """
        n_tasks = self._work.n_tasks
        if not self._is_resumed:
            return all_remaining(n_tasks, self._output.only)
        which: Which = "failed" if self._output.retry_failed else "open"
        if not calls_tasks:
            which = "none"
        from acme_mpi.storage.remaining import remaining_tasks  # what new runs do not load

        return remaining_tasks(self._world, self.store, n_tasks, which, self._output.only)

    def link(self) -> Stored:
        """Make the container from all that is durable on any rank.

        Raises
        ------
        StoreError
            On every rank alike.
        """
        return self.store.commit(self._output.root)

    def _result(self) -> Result:
        remaining = self.find_remaining()
        if remaining.failures and self._world.is_master:
            self._warn_of_old_failures(len(remaining.failures))
        if remaining.stored is not None:
            failures, n_open = remaining.failures, remaining.n_open
            directory = self._layout.directory
            stored = remaining.stored
            n_left_out = 0 if self._output.only is None else n_open
            return Result(
                self._options,
                stored,
                failures,
                n_open - n_left_out,
                n_ready=1,
                output_dir=directory,
                n_left_out=n_left_out,
            )
        assignment = self._share_assignment()
        if self._world.is_master and self._layout.directory:
            self._label()
        self.store.open()
        if self._world.is_master:
            self._log_start(remaining)
        runner = self._take_runner()
        return self._call_tasks(runner, assignment, remaining)

    def _label(self) -> None:
        """Write what the tasks are known by, once for all runs on the same results."""
        # Rank 0 alone describes runs, and h5py is not there for those in memory.
        from acme_mpi.engine.new_run import new_run
        from acme_mpi.storage import labels

        folder, given = self._layout.dot_folder, self._call.labels
        if given is None or (labels.has_labels(folder) and self._output.policy != "force"):
            return
        try:
            facts = labels.facts_of(new_run(self._call, 1).description, self._world.host)
            labels.write_labels(folder, replace(given, facts={**facts, **given.facts}))
        except Exception as error:  # results do without them
            logger.warning("the labels of the tasks could not be written: %s", error)

    def _call_tasks(
        self, runner: Runner | None, assignment: Assignment, remaining: Remaining
    ) -> Result:
        """Play master and worker to the end, link the results, and gather what happened."""
        world = self._world
        world.is_relaying, world.on_death = self._work.isolate, self.store.note_death
        worker: Worker | None = None
        if runner is not None:
            runner.prepare(assignment)
            worker = Worker(world, runner, self.store, self._work.rules)
        master = self._make_master(remaining) if world.is_master else None
        raised = self._play_roles(worker, master, runner)
        if worker is not None:
            worker.close()
        # A barrier before the container is made: everybody's records are on the disk.
        ends = self.store.meet(RankEnd.of(worker, master, self._lease))
        world.on_death = None
        storage_error = next((each.storage_error for each in ends if each.storage_error), "")
        if world.is_master:
            _warn_of_changes({name for each in ends for name in each.changed})
        # Who has lost the folder must not write into it: somebody else does.
        lost = ends[0].lost
        stored = Stored()
        try:
            stored = Stored() if lost else self.link()
        except StoreError as error:
            storage_error = storage_error or str(error)
        if raised is not None:
            raise raised
        failures = [*remaining.failures, *(failure for each in ends for failure in each.failures)]
        n_left_out = 0 if self._output.only is None else remaining.n_open
        return Result(
            self._options,
            stored,
            sorted(failures, key=lambda failure: failure.index),
            ends[0].n_unfinished - n_left_out,
            lost or storage_error,
            [each.retired_because for each in ends if each.retired_because],
            ends[0].n_ready,
            min((each.unstorable for each in ends if each.unstorable), default=None),
            ends[0].stopped_because,
            self._layout.directory,
            n_left_out=n_left_out,
        )

    def _play_roles(
        self, worker: Worker | None, master: Master | None, runner: Runner | None
    ) -> BaseException | None:
        """Return what a task has raised that is called for the user to debug it."""
        try:
            Loop(self._world, worker, master, runner, self._call.client).play()
        except BaseException as error:
            if self._call.own_tasks is None:
                raise
            return error
        finally:
            if master is not None:
                master.close()
        return None

    def _make_master(self, remaining: Remaining) -> Master:
        # What rank 0 alone needs is not loaded by all others, of which there may be hundreds.
        from acme_mpi.engine.deadline import deadline_s
        from acme_mpi.engine.master import Master
        from acme_mpi.engine.progress import Progress
        from acme_mpi.engine.schedule import Factoring, FixedChunks, Schedule
        from acme_mpi.engine.stop_file import StopFile

        work, rules = self._work, self._work.rules
        bar, tell = self._display.bar, self._call.tell
        progress = Progress(work.n_tasks, bar, remaining.n_kept, tell=tell)
        workers = work.worker_ranks(self._world.size)
        schedule: Schedule = Factoring(remaining.ranges, len(workers))
        if self._call.own_tasks is not None:
            schedule = FixedChunks(remaining.ranges, 1)  # what was done before an exception is kept
        # The end of the batch job is seen to by the run that a task belongs to.
        environ = {} if is_in_task() else os.environ
        deadline = deadline_s(rules.time_limit_s, work.n_tasks, environ)
        is_stop_asked = str if self._lease is None else StopFile(self._layout, self._lease).look
        return Master(self._world, schedule, progress, workers, rules, deadline, is_stop_asked)

    def _share_assignment(self) -> Assignment:
        """Bring rank 0's arguments to every node, as bytes."""
        call, store = self._call, self._output.store
        packed = None
        if call.own_tasks is None:
            packed = share(self._world, call.packed, self._little)
        return Assignment(
            call.func,
            packed,
            self._callers_surroundings(),
            self._form_to_encode(),
            in_memory=not store.writes_files,
            as_pickles=store.is_pickled,
            may_pickle=self._output.may_pickle,
            names=self._output.names,
            folder=self._layout.dot_folder if store.writes_files else "",
            can_place=self.store.can_place and self._work.isolate,
        )

    def _form_to_encode(self) -> RowSpec | None:
        """Return the form that runners give results: one that is open is found later in memory."""
        spec = self._work.spec
        is_late = spec is not None and spec.is_auto and not self._output.store.writes_files
        return None if is_late else spec

    def _callers_surroundings(self) -> Surroundings:
        """Return the caller's: this rank's own, but those of rank 0 where all share them.

        The files of a script have its umask, whoever writes them.
        """
        own, first = self._call.surroundings, self._surroundings
        assert first is not None  # rank 0 has a call
        if own is not None:
            return own._replace(sys_path=first.sys_path, directory=first.directory)
        if first.umask is not None:
            os.umask(first.umask)
        return first

    def _take_runner(self) -> Runner | None:
        call = self._call
        is_worker = self._world.rank in self._work.worker_ranks(self._world.size)
        if call.own_tasks is not None:
            return InlineRunner(call.own_func, call.own_tasks, swallow=())
        if self._work.isolate:
            return take_child_runner(self._world, is_worker)
        return InlineRunner(call.own_func) if is_worker else None

    def _log_path(self) -> str:
        if self._display.log_file is not None:
            return self._display.log_file
        directory = self._layout.directory
        return log_path(directory, self._work.name) if directory else ""

    def _log_start(self, remaining: Remaining) -> None:
        work, layout = self._work, self._layout
        n_left = work.n_tasks - remaining.n_kept - remaining.n_open
        n_workers = len(work.worker_ranks(self._world.size))
        text = "Preparing %d parallel calls of `%s` using %d workers"
        logger.info(text, n_left, work.name, n_workers)
        if self._is_resumed:
            text = "Resuming an earlier run: %d of %d tasks have ended"
            logger.info(text, remaining.n_kept, work.n_tasks)
        if layout.directory:
            logger.info("Results go to %s", self._output.store.what_to_open(layout))

    def _warn_of_old_failures(self, n_failed: int) -> None:
        from acme_mpi.history.description import how_to_resume

        command, directory = self._display.resume_command, self._layout.directory
        logger.warning(
            "%d failure(s) are of an earlier run, and these tasks are not called again\n  to call "
            "them again, also after the function was mended: %s",
            n_failed,
            how_to_resume(command, directory, only_failed=True),
        )

    def _forget(self, log_file: str) -> None:
        """Remove what a run has made of which nothing came; what earlier ones have left stays."""
        if not self._world.is_master or not self._layout.directory:
            return
        with contextlib.suppress(OSError):
            os.unlink(log_file)
        if self._lease is not None and not self._is_resumed:
            from acme_mpi.history.folders import remove_results

            remove_results(self._layout, also=(self._layout.dot_folder,))


def _begin(call: Call, options: Options, n_ranks: int) -> Beginning:
    # Of all ranks for rank 0 alone.
    from acme_mpi.engine.new_run import new_run
    from acme_mpi.history.beginning import begin

    try:
        return begin(new_run(call, n_ranks), _warn)
    except StoreError as error:
        if options.output.output_dir is None:
            raise
        path = os.path.join(call.directory, os.path.expanduser(options.output.output_dir))
        raise StoreError(f"{error}{resume_line(options, path)}") from None


def _warn_of_differences(digests: list[dict[str, str]]) -> None:
    for label, digest in digests[0].items():
        others = [r for r, each in enumerate(digests) if each and each.get(label) != digest]
        if others:
            shown = ", ".join(map(str, others[:5])) + (", ..." if len(others) > 5 else "")
            logger.warning(
                "argument `%s` differs on rank(s) %s; the value of rank 0 is used", label, shown
            )


def _warn_of_changes(names: set[str]) -> None:
    if names:
        logger.warning(
            "tasks have changed what others in their processes depend on, so these were replaced: "
            "%s",
            ", ".join(sorted(names)[:8]) + (", ..." if len(names) > 8 else ""),
        )
