"""The dialect of MPI-aware scripts: `map`; and `submit`, which has a job make the same call."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from acme_mpi.engine.call import Call, Display, Options, Output, Work
from acme_mpi.errors import InputError, InputTypeError, StoreError
from acme_mpi.history.stores import RANK, chosen_kind, find_store
from acme_mpi.results.spec import RowSpec, called, make_row_spec, on_grid
from acme_mpi.rules import Rules
from acme_mpi.session import current
from acme_mpi.session.keywords import (
    check,
    check_names,
    check_place,
    check_rules,
    refuse_unlimited,
    resume_policy,
)
from acme_mpi.session.only import chosen_tasks
from acme_mpi.session.request import Request
from acme_mpi.session.values import finish
from acme_mpi.tasks.distributing import distribute
from acme_mpi.tasks.signature import own_or_ours
from acme_mpi.tasks.taskset import TaskSet, function_name

if TYPE_CHECKING:
    from acme_mpi.jobs.job import Job
    from acme_mpi.launchers.base import Launcher


def map(
    func: Callable[..., Any],
    *args: Any,
    arguments: Mapping[str, Any] | None = None,
    n_inputs: int | str = "auto",
    write_worker_results: bool = True,
    output_dir: str | os.PathLike[str] | None = None,
    result_shape: tuple[Any, ...] | dict[str, tuple[Any, ...]] | str | None = None,
    result_dtype: Any = "float",
    result_names: Sequence[str] | None = None,
    single_file: bool = False,
    payload: str = "rank",
    isolate: bool = True,
    resume: bool | str = False,
    only: int | str | Iterable[int] | None = None,
    rules: Rules | None = None,
    comm: Any = None,
    root: int | None = None,
    seed: int | None = None,
    launch: Launcher | str | None = None,
    **kwargs: Any,
) -> Any:
    """Call `func` for many inputs on all ranks and return file names (values only if asked).

    Collective: every rank of `comm` makes the same call and gets the same return value or the same
    exception. In a script started by ``python -m acme_mpi script.py`` only the script calls it.

    Parameters
    ----------
    func : callable
        Called once per task. A parameter named ``taskID`` gets the task's index.
    *args, **kwargs
        Arguments of `func`. Lists, tuples, ranges and one-dimensional arrays of one common length
        are split, one item per task; all else is shared. Rank 0's arguments count. `PerTask` and
        `Shared` overrule the guess. Every combination of some is ``Grid(x=[1, 2], y=[3, 4])``.
    arguments : mapping, optional
        More keyword arguments of `func`, for parameters that are called like one of `map`'s own.
    n_inputs : int or "auto"
        Number of tasks, >= 1; arguments of that length are split. Without any the same call is
        made `n_inputs` times.
    write_worker_results : bool
        True: results go to HDF5 files. False: they are returned, on every rank.
    output_dir : str or path, optional
        Directory of the files; default a new ``ACME_YYYYMMDD-hhmmss-ffffff`` in the working
        directory. A container of the same function in it is never overwritten.
    result_shape : tuple, dict of str to tuple, or "auto", optional
        Shape of one array for all results, with None in the place of the task axis:
        ``(None, 3)`` stacks results of shape (3,). One axis may be ``numpy.inf``: results differ in
        that axis and are padded with NaN (integers: zero). Without it every task keeps a result of
        its own form. A dict of shapes, ``{"power": (None, 512), "peak": (None,)}``, gives an array
        for each named result: `func` returns a dict, a named tuple or a dataclass with these names,
        or a tuple in their order. ``"auto"``: the first result that ends decides on shapes, dtypes
        and names; a task whose result differs has failed.
    result_dtype : str or dtype
        dtype of that array, default float64; for several a dict by name.
    result_names : tuple of str, optional
        What the datasets of the results of a task are called, one name for each value that `func`
        returns; a dict, a named tuple or a dataclass that it returns must have these names. By
        default they bring their own.
    single_file : bool
        One file for everything instead of payload files with links.
    payload : {"rank", "computation"}
        One payload file per rank, or one per task (ACME's layout).
    isolate : bool
        True: `func` is called in a child process of each rank; whatever it does costs at most its
        task. False: in the rank itself, for functions that need its state; with several ranks
        rank 0 then only hands out tasks.
    resume : bool or {"failed", "force"}
        What to do where an earlier call has left results. False: refuse. True: resume it, if it was
        the same call: of the same function, by its source, with the same arguments; only the tasks
        that have not ended are called, and `output_dir` may be left out: the newest unfinished run
        of this call in the working directory is meant. ``"failed"``: call the tasks that have
        failed, and only those. ``"force"``: resume a call that was not the same.
    only : int, sequence of int, or str, optional
        Indices of the tasks that may be called, also as ``"17,402-410"``; those that have results
        are not called again, failed ones are, and all others stay as they are. With `output_dir`
        an earlier call is resumed, if it was the same. ``"failed"`` is ``resume="failed"``.
    rules : Rules, optional
        When to call a task again, to give it up, and to end the run.
    comm : mpi4py.MPI.Intracomm, optional
        Ranks that take part, default all; duplicated inside.
    root : int, optional
        With ``write_worker_results=False``: the only rank that gets the results, the others get
        None.
    seed : int, optional
        Give a parameter of `func` called ``rng`` a `numpy.random.Generator`, a new one for each
        task: the same numbers for any number of ranks, and after a resume. If `func` has a
        parameter called ``seed``, it is an argument as any other.
    launch : Local, Slurm, SGE or str, optional
        Submit the call as a job, show its progress, and wait for its end, as `submit` and
        `Job.result` do; for a process that is no rank. Results have to go to files.

    Returns
    -------
    list or ndarray
        Files: with ``payload="computation"`` the n payload paths in task order, else
        ``[results_container]``. In memory: the n return values in task order, or with
        `result_shape` the stacked array (and, if `func` returns several values, a list of that
        array and then all further values in task order; with a dict of shapes a dict of arrays).

    Raises
    ------
    InputError
        A mistake in the call; found before any task runs, raised on every rank.
    TaskError
        Tasks failed. All others were run and their results are safe; see `TaskError.failures` and
        `TaskError.results`.
    StoreError
        Results could not be written.
    StoppedError
        A signal, the time limit, or ``python -m acme_mpi stop`` has ended the run early.
    LaunchError
        Launcher and MPI do not belong together.

    Examples
    --------
    >>> import acme_mpi
    >>> def f(x, y, z=3):
    ...     return (x + y) * z
    >>> acme_mpi.map(f, [2, 4, 6, 8], 4, write_worker_results=False)
    [18, 24, 30, 36]
    """
    if launch is not None:
        _refuse_beside_launch(write_worker_results, comm, root)
        job = submit(
            func,
            *args,
            launch=launch,
            arguments=_merge(kwargs, arguments),
            n_inputs=n_inputs,
            output_dir=output_dir,
            result_shape=result_shape,
            result_dtype=result_dtype,
            result_names=result_names,
            single_file=single_file,
            payload=payload,
            isolate=isolate,
            resume=resume,
            only=only,
            rules=rules,
            seed=seed,
        )
        return job.show()
    if comm is not None and not hasattr(comm, "Get_attr"):
        raise InputTypeError(
            f"`comm` has to be None, or a communicator such as MPI.COMM_WORLD, not {comm!r:.80}"
        )
    session = current()
    if isolate is True:
        session.get_ready()
    world = session.callers(comm)
    try:
        named = _merge(kwargs, arguments)
        kind = store_kind(write_worker_results, single_file, payload)
        spec = make_row_spec(result_shape, result_dtype)
        _check_in_memory(kind, spec, root, world.size)
        check("isolate", isolate)
        output_dir = check_place(output_dir)
        named, seed = own_or_ours(func, named, seed)
        tasks = distribute(func, args, named, n_inputs, caller=map, seed=seed)
        names = check_names(result_names, kind, spec)
        work = _work(func, tasks, called(spec, names), isolate, rules)
        output = _output(kind, output_dir, root, resume, names)
        output = _with_only(output, only, tasks.n_tasks)
        if tasks.n_tasks > 1 and isolate and comm is None:
            session = session.with_ranks()  # last: a mistake starts none
        request = Request(func, tasks, Options(work, output, Display(session.bar)))
        call = request.to_call(session, world)
    except (InputError, StoreError) as error:
        call = Call(error=error)
    return finish(session.run(world, call, wants_values=root is None or world.rank == root))


def submit(
    func: Callable[..., Any],
    *args: Any,
    launch: Launcher | str | None = None,
    arguments: Mapping[str, Any] | None = None,
    n_inputs: int | str = "auto",
    output_dir: str | os.PathLike[str] | None = None,
    result_shape: tuple[Any, ...] | dict[str, tuple[Any, ...]] | str | None = None,
    result_dtype: Any = "float",
    result_names: Sequence[str] | None = None,
    single_file: bool = False,
    payload: str = "rank",
    isolate: bool = True,
    resume: bool | str = False,
    only: int | str | Iterable[int] | None = None,
    rules: Rules | None = None,
    seed: int | None = None,
    **kwargs: Any,
) -> Job:
    """Have a job call `func` for many inputs, and return at once.

    Independent, for a process that is no rank: a notebook, a login node. The job is known by its
    files alone, so this process may end; `attach` finds the job again. A job that is started anew,
    by Slurm or by hand, calls only what is left.

    Parameters
    ----------
    func : callable
        As for `map`. Function and arguments are written to a file in `output_dir`, which only you
        can read.
    *args, **kwargs
        Arguments of `func`, as for `map`.
    launch : Local, Slurm, SGE or str, optional
        What starts the ranks: a launcher, ``"local"``, ``"slurm"``, ``"sge"``, or a name from the
        site's files, see docs/sites.md. Default what these say, else ``Local()``: this machine, a
        rank for each core.
    arguments, n_inputs, output_dir, result_shape, result_dtype, result_names
        As for `map`.
    single_file, payload, isolate, resume, only, rules, seed
        As for `map`.

    Returns
    -------
    Job
        It was submitted; it may have to wait.

    Raises
    ------
    InputError
        A mistake in the call.
    PlaceError
        `output_dir` holds results already, or another job is at work there.
    StoreError
        The call could not be written.
    LaunchError
        The job was refused, in the launcher's own words.

    Examples
    --------
    >>> import acme_mpi
    >>> def f(x, y, z=3):
    ...     return (x + y) * z
    >>> job = acme_mpi.submit(f, [2, 4, 6, 8], 4, output_dir="out", launch=acme_mpi.Local(1))
    >>> files = job.result()
    >>> [int(value[0]) for value in acme_mpi.open("out")]
    [18, 24, 30, 36]
    """
    # All ranks import this module, and few of them submit jobs.
    from acme_mpi.jobs.submitting import check_caller, submit_call
    from acme_mpi.launchers.named import launcher_of

    check_caller()
    launcher = launcher_of(launch)
    named = _merge(kwargs, arguments)
    kind = store_kind(True, single_file, payload)
    spec = make_row_spec(result_shape, result_dtype)
    check("isolate", isolate)
    output_dir = check_place(output_dir)
    named, seed = own_or_ours(func, named, seed)
    tasks = distribute(func, args, named, n_inputs, caller=submit, seed=seed)
    names = check_names(result_names, kind, spec)
    work = _work(func, tasks, called(spec, names), isolate, rules)
    output = _output(kind, output_dir, None, resume, names)
    options = Options(work, _with_only(output, only, tasks.n_tasks))
    request = Request(func, tasks, options)
    layout = request.free_layout()
    packed, said = request.to_packed(), (request.fingerprint(), request.labels())
    return submit_call(layout, options, packed, *said, launcher)


def _refuse_beside_launch(write: Any, comm: Any, root: Any) -> None:
    from acme_mpi.jobs.submitting import refuse_in_memory  # few ranks submit jobs

    refuse_in_memory(write)
    if comm is not None or root is not None:
        raise InputError("`comm` and `root` are for calls by ranks; leave them out with `launch`")


def _work(
    func: Callable[..., Any], tasks: TaskSet, spec: RowSpec | None, isolate: bool, rules: Any
) -> Work:
    rules = check_rules(rules, isolate)
    form = on_grid(spec, tasks.grid)
    return Work(function_name(func), tasks.n_tasks, form, isolate, rules=rules)


def _output(
    kind: str, output_dir: str | None, root: int | None, resume: Any, names: tuple[str, ...]
) -> Output:
    return Output(
        kind,
        output_dir,
        root,
        policy=resume_policy(resume, kind),
        retry_failed=resume == "failed",
        names=names,
    )


def _with_only(output: Output, only: Any, n_tasks: int) -> Output:
    """Return the output of a run that calls some tasks only, as the command line would."""
    ranges = chosen_tasks(only, n_tasks, output.kind)
    if only is None:
        return output
    if output.retry_failed:
        raise InputError("`only` and resume='failed': give one of them")
    is_resumed = ranges is None or output.output_dir is not None
    policy = "resume" if is_resumed and output.policy == "refuse" else output.policy
    return output._replace(only=ranges, policy=policy, retry_failed=ranges is None)


def _merge(kwargs: Mapping[str, Any], arguments: Mapping[str, Any] | None) -> dict[str, Any]:
    if arguments is not None and not isinstance(arguments, Mapping):
        raise InputError(f"`arguments` has to be a dict of keyword arguments, not {arguments!r}")
    twice = sorted(set(kwargs) & set(arguments or {}))
    if twice:
        raise InputError(f"given twice, by keyword and in `arguments`: {', '.join(twice)}")
    return {**kwargs, **(arguments or {})}


def store_kind(write_worker_results: bool, single_file: bool, payload: str) -> str:
    """Return the kind of store that three of the user's options ask for.

    Raises
    ------
    InputError
        They contradict each other, or one has a wrong value.
    """
    check("write_worker_results", write_worker_results)
    check("single_file", single_file)
    check("payload", payload)
    if not write_worker_results:
        if single_file:
            raise InputError(
                "`single_file` needs results in files; leave it out, or write_worker_results=False "
                "(--no-write)"
            )
    elif single_file and payload != RANK.name:  # which is the default
        raise InputError(f"`single_file` has no payload files; leave out payload={payload!r}")
    return chosen_kind(payload, write_worker_results, single_file)


def _check_in_memory(kind: str, spec: RowSpec | None, root: int | None, size: int) -> None:
    refuse_unlimited(spec, kind)
    if root is None:
        return
    if isinstance(root, bool) or not isinstance(root, int) or not 0 <= root < size:
        raise InputError(f"`root` has to be None or a rank in [0, {size}), not {root!r}")
    if find_store(kind).writes_files:
        raise InputError(
            "`root` says who gets results in memory; it needs write_worker_results=False"
        )
