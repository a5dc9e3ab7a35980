"""ACME's dialect: `ParallelMap`, with ACME's keywords, attributes and layout of files."""

from __future__ import annotations

import contextlib
import logging
import os
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from types import TracebackType
from typing import TYPE_CHECKING, Any, NamedTuple, Self

from acme_mpi.acme.arguments import ArgumentShape, rough_bytes, takes
from acme_mpi.acme.client import Client, begin_use, end_use
from acme_mpi.acme.out_files import NAME, chosen_log, hand_out, wanted_files
from acme_mpi.acme.workers import Workers
from acme_mpi.comm import settle
from acme_mpi.engine.call import Call, Display, Options, Output, Result, Work
from acme_mpi.engine.messages import (
    Said,
    acme_logger,
    add_console_handler,
    collected,
)
from acme_mpi.engine.summary import parallel_map_error
from acme_mpi.errors import (
    AcmeMpiError,
    InputError,
    InputTypeError,
    PlaceError,
    StoreError,
    TaskError,
)
from acme_mpi.history.folders import remove_old_runs
from acme_mpi.history.status import read_status
from acme_mpi.history.told import runs_in
from acme_mpi.results.spec import AUTO, RowSpec, on_grid
from acme_mpi.rules import Rules
from acme_mpi.session import current
from acme_mpi.session.debug import run_here
from acme_mpi.session.keywords import (
    ResultForm,
    check,
    check_results,
    check_rules,
    resume_policy,
)
from acme_mpi.session.request import Request
from acme_mpi.session.trial import dry_run
from acme_mpi.session.values import finish
from acme_mpi.storage import Layout
from acme_mpi.tasks.distributing import distribute
from acme_mpi.tasks.signature import own_or_ours
from acme_mpi.tasks.taskset import TaskSet, function_name

if TYPE_CHECKING:
    from acme_mpi.jobs.job import Job
    from acme_mpi.launchers.base import Launcher

logger = logging.getLogger("acme_mpi")

LARGE_ARGUMENT = (
    "argument size %4.2f MB exceeds recommended limit of %d MB. Distributing large variables "
    "across workers may result in poor performance. `%s` is sent to every node once; a file "
    "that the function opens needs not to be sent"
)
LEVELS = {None: logging.INFO, True: logging.DEBUG, False: logging.WARNING}


def _like_acme(spec: RowSpec | None) -> RowSpec | None:
    """Return a form whose container has nothing that ACME's would not have.

    ACME's documents show ``result_0`` as the only key. Grids and named results are not ACME's.
    """
    if spec is None or spec.grid or spec.names:
        return spec
    return replace(spec, has_coordinates=False)


class _Settled(NamedTuple):
    """What rank 0 has decided when a ParallelMap is constructed."""

    layout: Layout
    log_file: str | None
    work: Work
    is_tried: bool  # one task, before all of them


class ACMEdaemon:
    """What ``with ParallelMap(...)`` binds in ACME; here that is the `ParallelMap` itself.

    Parameters
    ----------
    *args, **kwargs
        None are allowed.

    Raises
    ------
    InputTypeError
        If it is called.

    Examples
    --------
    >>> import acme_mpi
    >>> with acme_mpi.ParallelMap(abs, [-1, 2], write_worker_results=False) as pmap:
    ...     isinstance(pmap.daemon, acme_mpi.ACMEdaemon)
    True
    """

    def __new__(cls, *args: Any, **kwargs: Any) -> Self:
        """Return a new object of a subclass."""
        if cls is ACMEdaemon:
            given = type(args[0]) if args else None
            raise InputTypeError(
                f"<ACMEdaemon> `pmap` has to be a `ParallelMap` instance, not {given}; ParallelMap "
                "makes its daemon itself: `pmap.daemon`"
            )
        return super().__new__(cls)


class ParallelMap(ACMEdaemon):
    """Call a function for many inputs, ACME's way; a context manager and a plain object.

    Collective in scripts that run on every rank (all construct it, rank 0's arguments count); in a
    script started by ``python -m acme_mpi script.py`` only the script does. Keywords and the
    distribution of arguments are checked here; nothing is written before `compute`.

    Parameters
    ----------
    func : callable
        Called once per task. A parameter named ``taskID`` gets the task's index.
    *args, **kwargs
        Its arguments, as in `acme_mpi.map`.
    n_inputs : int or "auto"
        Number of calls, >= 1.
    write_worker_results : bool
        True: results go to files. False: `compute` returns them.
    output_dir : path-like, optional
        Directory of the files; default a new ``ACME_YYYYMMDD-hhmmss-ffffff`` in the working
        directory.
    result_shape : tuple, optional
        Shape of one array for all results, None in the place of the task axis; one axis may be
        ``numpy.inf``. A dict of shapes: an array for each named result; ``"auto"``: as the first
        result; both as in `map`.
    result_dtype : str
        dtype of that array, default float64; for several a dict by name.
    single_file : bool
        One container instead of payload files with links.
    write_pickle : bool
        Pickles instead of HDF5.
    payload : {"computation", "rank"}
        One payload file per task, or one per rank, which is faster with many small results.
    result_names, resume, rules
        As in `acme_mpi.map`.
    partition, mem_per_worker, setup_timeout
        Decided by the launcher; checked only.
    n_workers : int or "auto"
        Use so many of the ranks, >= 1; default all.
    setup_interactive : bool
        Ask whether to go on after a dry-run, if somebody is there to answer.
    stop_client : bool or "auto"
        False: later runs use the same ranks as this one. True: a client that was set up is closed
        at the end. "auto": neither.
    verbose : bool or None
        None: messages from INFO on; True: from DEBUG; False: from WARNING.
    dryrun : bool
        First call one random task, tell what it took, and forecast the rest.
    logfile : bool or str, optional
        Log file; None: in the output directory if there is one.
    cleanup_threshold_days : int, optional
        Remove directories ``ACME_*`` in the working directory, >= 0 days after their last run has
        ended. Only those which carry the mark of a finished run of this package.
    seed : int, optional
        As in `acme_mpi.map`.
    launch : acme_mpi.Local, acme_mpi.Slurm, acme_mpi.SGE or str, optional
        `compute` submits a job, and waits for its end, as ``acme_mpi.map(..., launch=...)``; for a
        process that is no rank. Results have to go to files.

    Attributes
    ----------
    results_container : str or None
        The main file; None in memory and with pickles.
    n_inputs, n_calls : int
        Number of calls.
    argv, kwargv : list, dict
        One entry per argument: a sequence of `n_calls` values, or of one that is shared. Also
        ``kwargv["outFile"]``, if results go to files: the files that `compute` returns. Changes
        before `compute` count; a file that is wanted elsewhere gets a second name there.
    client : Client or None
        The ranks. If None is put in its place, `compute` calls nothing and returns None.
    job : Job or None
        With `launch`, once it is submitted.
    config, daemon : ParallelMap
        This object: ACME keeps some attributes there.

    Raises
    ------
    InputError
        A keyword or argument has a wrong value, also a TypeError where ACME raises one.
    PlaceError
        There are results of this function in `output_dir`; also an OSError.
    TaskError
        The dry-run failed.

    Examples
    --------
    >>> from acme_mpi import ParallelMap
    >>> def f(x, y, z=3):
    ...     return (x + y) * z
    >>> with ParallelMap(f, [2, 4, 6, 8], 4, write_worker_results=False) as pmap:
    ...     results = pmap.compute()
    >>> results
    [18, 24, 30, 36]
    """

    objName = "<ParallelMap>"
    _maxArgSize = 1024  # MB; ACME's name for the size from which an argument is warned of

    def __init__(
        self,
        func: Callable[..., Any],
        *args: Any,
        n_inputs: int | str = "auto",
        write_worker_results: bool = True,
        output_dir: str | os.PathLike[str] | None = None,
        result_shape: tuple[Any, ...] | dict[str, tuple[Any, ...]] | str | None = None,
        result_dtype: Any = "float",
        result_names: Sequence[str] | None = None,
        single_file: bool = False,
        write_pickle: bool = False,
        payload: str = "computation",
        resume: bool | str = False,
        rules: Rules | None = None,
        partition: str = "auto",
        n_workers: int | str = "auto",
        mem_per_worker: str = "auto",
        setup_timeout: int = 60,
        setup_interactive: bool = True,
        stop_client: bool | str = "auto",
        verbose: bool | None = None,
        dryrun: bool = False,
        logfile: bool | str | None = None,
        cleanup_threshold_days: int | None = None,
        launch: Launcher | str | None = None,
        seed: int | None = None,
        **kwargs: Any,
    ) -> None:
        session = current()
        session.get_ready()
        self._world = session.callers()
        self.func = func
        if self._world.is_master:
            add_console_handler()
        self._said: list[Said] = []  # for the log file, which a run makes
        with collected(self._said):
            error: AcmeMpiError | None = None
            try:
                self._set_messages(verbose, logfile)
                self._set_arguments(func, args, kwargs, n_inputs, seed)
                form = check_results(
                    write_worker_results,
                    output_dir,
                    result_shape,
                    result_dtype,
                    single_file,
                    write_pickle,
                    payload,
                    result_names,
                )
                self._set_results(form, resume)
                spec = _like_acme(on_grid(form.spec, self._grid))
                self._work = Work(
                    function_name(func), self.n_inputs, spec, rules=check_rules(rules)
                )
                self._workers = Workers(
                    n_workers, stop_client, partition, mem_per_worker, setup_timeout
                )
                self._workers.set_launcher(launch, form.store.writes_files)
                self.stop_client = stop_client
                self.job: Job | None = None
                check("dryrun", dryrun)
                check("setup_interactive", setup_interactive)
                check("cleanup_threshold_days", cleanup_threshold_days)
            except InputError as caught:
                error = self._prefixed(caught)
            if error is None:
                with self._prefixing():
                    self._workers.start(self.n_inputs, setup_interactive)
                session = self._workers.session_of(session, self._world)
            ranks = session.job_ranks(self._world, error)
            self._workers.take(ranks, self._world)
            self._is_declined = False
            if self._settle_place(cleanup_threshold_days, dryrun):
                self._is_declined = not self._try_one(len(ranks), setup_interactive)
        begin_use(self)

    def _prefixed(self, error: AcmeMpiError) -> AcmeMpiError:
        return type(error)(f"{self.objName} {error}")

    @contextlib.contextmanager
    def _prefixing(self) -> Iterator[None]:
        """Context whose errors say that they are this object's."""
        try:
            yield
        except AcmeMpiError as error:
            raise self._prefixed(error) from None

    def _say(self, level: int, text: str, *values: object) -> None:
        """Say something once per job."""
        if self._world.is_master:
            logger.log(level, text, *values)

    def _set_messages(self, verbose: Any, logfile: Any) -> None:
        session = current()
        level = LEVELS[check("verbose", verbose)]
        self._level = level if session.level is None else session.level
        if self._world.is_master and not session.is_nested:
            acme_logger.setLevel(self._level)
        self.logfile = check("logfile", logfile)

    def _set_arguments(
        self, func: Any, args: Any, kwargs: dict[str, Any], n_inputs: Any, seed: Any
    ) -> None:
        if not callable(func):
            raise InputTypeError(f"first input has to be a callable function, not {type(func)}")
        n_wanted = check("n_inputs", n_inputs)
        named, seed = own_or_ours(func, kwargs, seed)
        tasks = distribute(func, args, named, n_wanted or "auto", True, type(self), seed)
        self.n_inputs, self._grid = tasks.n_tasks, tasks.grid
        self._shape = ArgumentShape.of(func, tasks)
        self.argv, self.kwargv = self._shape.split(tasks)
        self._own_files: list[str] = []  # none among the arguments yet
        for line in tasks.describe():
            self._say(logging.DEBUG, "argument %s", line)
        for each in tasks.arguments:
            megabytes, limit = rough_bytes(each.value) / 1024**2, self._maxArgSize
            if megabytes > limit:
                self._say(logging.WARNING, LARGE_ARGUMENT, megabytes, limit, each.label)

    def _tasks(self) -> TaskSet:
        given = self.kwargv
        if self._own_files:
            given = {name: value for name, value in given.items() if name != NAME}
        return self._shape.join(self.func, self.argv, given)

    def _set_results(self, form: ResultForm, resume: Any) -> None:
        for text in form.warnings:
            self._say(logging.WARNING, text)
        self._output = Output(
            form.kind,
            form.output_dir,
            may_pickle=form.store.may_pickle,
            policy=resume_policy(resume, form.kind),
            retry_failed=resume == "failed",
            names=form.names,
        )
        store = form.store
        self.collect_results, self.write_pickle = not store.writes_files, store.is_pickled
        self.single_file = store.has_container and not store.has_payloads

    def _settle_place(self, cleanup_days: int | None, dryrun: bool) -> bool:
        """Have rank 0 decide where files go, and whether one task is tried first. Collective."""

        def decide(_: list[None]) -> _Settled:
            with self._prefixing():
                layout = self._free_layout()
                if cleanup_days is not None:
                    for path in remove_old_runs(os.getcwd(), cleanup_days, layout.directory):
                        logger.info("Removed %s", path)
                if dryrun:
                    self._workers.refuse_none()
                return _Settled(layout, chosen_log(self.logfile, layout), self._work, dryrun)

        settled = settle(self._world, None, None, decide)
        self.logfile, self._work = settled.log_file, settled.work
        self.n_inputs = self._work.n_tasks
        self._set_files(settled.layout)
        return settled.is_tried

    def _set_files(self, layout: Layout) -> None:
        """Tell where files go, unless ``outFile`` is a parameter of the function."""
        self.output_dir = layout.directory or None
        self.results_container = layout.container if self._output.store.has_container else None
        if self.output_dir and not takes(self.func, NAME) and NAME not in self.kwargv:
            self._own_files = self._output.store.own_files(layout, self.n_inputs)
            self.kwargv[NAME] = list(self._own_files)

    def _free_layout(self) -> Layout:
        try:
            return self._request(self._output.output_dir).free_layout()
        except PlaceError as error:
            raise self._existing(error) from None

    def _existing(self, error: PlaceError) -> PlaceError:
        folder = self._output.output_dir or getattr(self, "output_dir", None)
        name = f" {folder}" if folder else ""  # there is none yet
        return PlaceError(f"automatic creation of output folder{name} failed: {error}")

    def _request(self, output_dir: str | None) -> Request:
        """Return what is asked for now: much of it may be changed before `compute`."""
        name, log = function_name(self.func), self.logfile
        options = Options(
            self._work._replace(name=name, n_tasks=self.n_inputs, workers=self._workers.ranks),
            self._output._replace(output_dir=output_dir),
            Display(
                dialect="ParallelMap",
                level=self._level,
                log_file=log if isinstance(log, str) else "",
                said=tuple(self._said),
            ),
        )
        return Request(self.func, self._tasks(), options)

    def _try_one(self, size: int, may_ask: bool) -> bool:
        """Call one task, say what it took, and return whether to go on. Collective."""
        try:
            found = dry_run(self._world, self._request(self.output_dir), size)
        except InputError as error:
            raise self._prefixed(error) from None
        answer: bool | None = None
        if self._world.is_master:
            for line in found.lines():
                logger.info("%s", line)
            if may_ask:
                name = function_name(self.func)
                answer = current().ask(
                    f"Do you want to continue executing {name} with the provided arguments?"
                )
        return self._world.bcast(answer) is not False

    def compute(self, debug: bool = False) -> Any:
        """Call the function for all inputs. Collective where the constructor was.

        Parameters
        ----------
        debug : bool
            Call it in this very process and thread (of rank 0), one task after the other, so that
            breakpoints and post-mortem debuggers work; the first exception is raised as it is.

        Returns
        -------
        list or ndarray or None
            Paths of the payload files (or pickles) in task order; with one container
            ``[results_container]``; in memory the return values, with `result_shape` the stacked
            array. None after a dry-run that was answered by no.

        Raises
        ------
        TaskError
            Tasks failed; see its `failures` and `results`.
        PlaceError
            There are results already.
        LaunchError
            All ranks have been retired.
        StoreError
            Results could not be written.
        """
        decided = settle(self._world, None, None, lambda _: self._decide(debug))
        is_debug, is_declined, wanted = decided
        if is_declined:
            self._say(logging.INFO, "%s is not executed", function_name(self.func))
            return None
        if self._workers.launcher is not None and not is_debug:
            return self._compute_by_job(self._workers.launcher, wanted)
        try:
            result = self._run(is_debug)
        except PlaceError as error:
            raise self._prefixed(self._existing(error)) from None
        finally:
            if self._workers.are_ours:
                self.cleanup()
        self._said.clear()
        if isinstance(result, BaseException):
            raise result
        if wanted is not None:
            stored = result.stored
            stored.paths = settle(
                self._world, None, None, lambda _: hand_out(stored.paths or [], wanted)
            )
        return self._finish(result)

    def _decide(self, debug: Any) -> tuple[bool, bool, list[str] | None]:
        """Return what decides about the way of all ranks; that of rank 0 is used.

        That is whether to debug, whether to call nothing, and changed names of files.
        """
        with self._prefixing():
            check("debug", debug)
            if self.client is None:  # who takes the client away wants nothing to be called
                return debug, True, None
            self._workers.refuse_none()
            return debug, self._is_declined, self._changed_files()

    def _changed_files(self) -> list[str] | None:
        """Return where the user wants the files that are returned, None if as they are."""
        if not self._own_files or NAME not in self.kwargv:
            return None
        given, may_exist = self.kwargv[NAME], self._output.policy != "refuse"
        wanted = wanted_files(given, self._own_files, self._output.store, may_exist)
        return None if wanted == self._own_files else wanted

    def _run(self, is_debug: bool) -> Result | BaseException:
        """Run all tasks; return what the exception is that ends a run in this process."""
        world, session = self._world, current()
        if not is_debug and len(workers := self._workers.ranks) > 1:
            session = session.with_ranks(max(workers) + 1)  # those of then may have ended
        try:
            request = self._request(self.output_dir)
            call = request.to_debug_call(world) if is_debug else request.to_call(session, world)
        except (InputError, StoreError) as error:
            call = Call(error=self._prefixed(error))
        return run_here(world, call) if is_debug else session.run(world, call)

    def _compute_by_job(self, launcher: Launcher, wanted: list[str] | None) -> Any:
        """Submit a job, show its progress, and return what it returns, or raise what it raises."""
        from acme_mpi.jobs.submitting import submit_call

        with self._prefixing():
            request = self._request(self.output_dir)
            options = request.options._replace(work=request.options.work._replace(workers=None))
            request = request._replace(options=options)
            layout, packed = request.free_layout(), request.to_packed()
            said = request.fingerprint(), request.labels()
            self.job = submit_call(layout, options, packed, *said, launcher)
        paths = self.job.show()
        return paths if wanted is None else hand_out(paths, wanted)

    def _finish(self, result: Result) -> Any:
        try:
            return finish(result)
        except TaskError as error:
            raise parallel_map_error(result, error, str(self.logfile or "")) from None

    def cleanup(self) -> None:
        """End the use of the ranks as `stop_client` says; `with` does it at its end."""
        end_use(self)
        self._workers.end()

    def __enter__(self) -> ParallelMap:
        begin_use(self)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.cleanup()

    def __repr__(self) -> str:
        name = function_name(self.func)
        return f"<ParallelMap of {name}: {self.n_calls} calls, {self.n_workers} workers>"

    def _repr_html_(self) -> str:
        from acme_mpi.report.cell import lines_html, status_html

        name = function_name(self.func)
        if self.output_dir is not None and name in runs_in(self.output_dir):
            return status_html(read_status(Layout(self.output_dir, name).dot_folder))
        shown = f"{self.n_calls} calls, {self.n_workers} workers"
        return lines_html(f"ParallelMap of {name}", [shown])

    @property
    def client(self) -> Client | None:
        """The ranks; None is put in its place by who wants nothing to be called."""
        return self._workers.client

    @client.setter
    def client(self, client: Client | None) -> None:
        self._workers.client = client

    @property
    def daemon(self) -> ParallelMap:
        """The object itself."""
        return self

    @property
    def config(self) -> ParallelMap:
        """The object itself."""
        return self

    @property
    def n_calls(self) -> int:
        """Number of calls."""
        return self.n_inputs

    @property
    def task_ids(self) -> range:
        """The tasks' indices."""
        return range(self.n_inputs)

    @property
    def n_workers(self) -> int:
        """Number of ranks that call the function."""
        return len(self._workers.ranks)

    @property
    def out_dir(self) -> str | None:
        """The output directory; None in memory."""
        return self.output_dir

    @property
    def result_shape(self) -> Any:
        """Shape of the stacked array, `numpy.inf` in the place of an unlimited axis.

        A dict by name if there are several, as `result_dtype` and `stacking_dim`.
        """
        return self._by_name(lambda column: column.stacked_shape(self.n_inputs, column.shape))

    @property
    def result_dtype(self) -> Any:
        """Type of the numbers in the stacked array."""
        return self._by_name(lambda column: column.dtype)

    @property
    def stacking_dim(self) -> Any:
        """Axis of the tasks in the stacked array."""
        return self._by_name(lambda column: column.axis)

    def _by_name(self, what: Callable[[RowSpec], Any]) -> Any:
        spec = self._work.spec
        if spec is not None and spec.is_open:
            return AUTO
        if spec is None or not spec.names:
            return None if spec is None else what(spec)
        return {column.name: what(column) for column in spec.columns}

    @property
    def has_slurm(self) -> bool:
        """Whether this is a job of Slurm's."""
        return "SLURM_JOB_ID" in os.environ
