"""The call of the command line: rank 0's runner loads function and arguments, and shows values."""

from __future__ import annotations

import logging
import os
import shlex
import sys
import time
from argparse import Namespace
from functools import partial
from typing import Any, NamedTuple

from acme_mpi.comm import World, sleep_until, typed_command
from acme_mpi.engine.call import Call, Display, Options, Output, Result, Work
from acme_mpi.engine.run import run
from acme_mpi.engine.summary import error_of
from acme_mpi.errors import AcmeMpiError, InputError, StoppedError, StoreError, TaskError
from acme_mpi.linux.interrupts import INTERRUPTS, signal_name
from acme_mpi.linux.printing import print_lines, say_error
from acme_mpi.results.spec import on_grid
from acme_mpi.rules import LEAST_LOADING_S, Rules
from acme_mpi.runner.channel import Kind
from acme_mpi.runner.child import ChildRunner
from acme_mpi.runner.command import Command
from acme_mpi.runner.kept import take_child_runner
from acme_mpi.runner.surroundings import Surroundings
from acme_mpi.session import current
from acme_mpi.session.only import check_only
from acme_mpi.session.trial import announce, circumstances, forecast, measuring_options
from acme_mpi.session.values import values_of
from acme_mpi.storage import find_store
from acme_mpi.tasks.argument_files import STANDARD_INPUT
from acme_mpi.visible import say

logger = logging.getLogger("acme_mpi")


def command_of(options: Namespace) -> Command:
    """Return what the checked command line says of function and arguments."""
    path = list(sys.path)
    if os.getcwd() not in path:
        path.insert(0, os.getcwd())
    plan = _options_of(options)
    return Command(
        options.target,
        options.arguments,
        _standard_input() if options.arguments == STANDARD_INPUT else b"",
        options.allow_pickle,
        options.settings,
        options.split,
        options.share,
        options.grid,
        options.dtype,
        options.seed,
        "auto" if options.n_inputs is None else options.n_inputs,
        path,
        os.getcwd(),
        [*typed_command(sys.argv[1:]), *sys.argv[1:]],
        plan.shaping if plan.output.store.writes_files else None,
        circumstances(plan) if options.dry_run else None,
    )


def _standard_input() -> bytes:
    if sys.stdin is None or sys.stdin.isatty():
        raise InputError("ARGS is -, and nobody writes a table to standard input: cat x.csv | ...")
    try:
        return sys.stdin.buffer.read()
    except OSError as error:
        raise InputError(f"cannot read standard input: {error.strerror}") from None


def call_target(world: World, options: Namespace) -> None:
    """Have rank 0's runner load function and arguments, run, and show. Collective.

    Raises
    ------
    AcmeMpiError
        On every rank alike, whatever keeps the job from being a success.
    """
    runner = take_child_runner(world)
    assert runner is not None
    call, trial = Call(surroundings=None), _Trial(Call(surroundings=None))
    if world.is_master:
        call, trial = _load(runner, options)
    if options.dry_run and not _try_one(world, call, trial):
        return
    if world.is_master:
        sys_path = call.surroundings.sys_path if call.surroundings else []
        call.deliver = partial(_print_values, runner, sys_path)
    error = error_of(run(world, call))
    if error is not None:
        raise error


def _print_values(runner: ChildRunner, sys_path: list[str], world: World, result: Result) -> None:
    """Print what the tasks have returned. Independent; rank 0 only."""
    n_tasks, stored = result.options.work.n_tasks, result.stored
    if result.options.work.spec is None:
        pieces = [(runs, c.values, c.buffers) for runs, c in stored.pieces]
        asked = pieces, n_tasks, sys_path
        try:
            texts, unloadable = _ask(runner, Kind.SHOW, (*asked, False))
        except InputError:  # the process has ended in a method of one of them
            texts, unloadable = _ask(runner, Kind.SHOW, (*asked, True))
        stored.pieces.clear()
        result.fail_late(unloadable, world.host, world.rank)
    else:
        texts = [str(values_of(stored, result.options)[0])]
    try:
        print_lines(texts)
    except StoreError as error:
        result.storage_error = str(error)


class _Trial(NamedTuple):
    """The one task of a dry-run."""

    call: Call
    task: int = 0  # its index


def _load(runner: ChildRunner, options: Namespace) -> tuple[Call, _Trial]:
    # All ranks are on their way into the run: what is wrong is told there, to all of them.
    try:
        loaded = _ask(runner, Kind.LOAD, command_of(options), options.rules)
        if isinstance(loaded, str):
            raise InputError(loaded)
        check_only(options.only, loaded.n_tasks)
    except AcmeMpiError as error:
        return Call(error=error), _Trial(Call(error=error))
    # What else the target's module has changed in its runner stays as it is.
    here = Surroundings(loaded.sys_path, os.getcwd())
    plan = _options_of(options, loaded.name, loaded.n_tasks, loaded.grid)
    call = Call(
        plan,
        packed=loaded.packed,
        surroundings=here,
        fingerprint=loaded.fingerprint,
        labels=loaded.labels,
    )
    if loaded.trial is None:
        return call, _Trial(Call())
    index, packed = loaded.trial
    return call, _Trial(Call(measuring_options(plan), packed=packed, surroundings=here), index)


def _options_of(
    options: Namespace, name: str = "", n_tasks: int = 0, grid: tuple[int, ...] = ()
) -> Options:
    spec = on_grid(options.spec, grid)
    return Options(
        Work(name, n_tasks, spec, not options.no_isolate, rules=options.rules),
        Output(
            options.kind,
            options.output_dir,
            root=None if find_store(options.kind).writes_files else 0,
            policy=options.policy,
            retry_failed=options.retry_failed,
            names=options.names,
            only=options.only,
            has_report=not options.no_report,
        ),
        Display(options.bar, reproduce=_reproduce(), resume_command=_resume_command()),
    )


def _try_one(world: World, call: Call, trial: _Trial) -> bool:
    """Call one task, print what it took, and return whether to call the others. Collective."""
    options = call.options
    if world.is_master and options is not None:
        logger.info("%s", announce(options.work.name, trial.task))
    result = run(world, trial.call)
    try:
        found = forecast(result, trial.task, options or result.options, world.size)
    except TaskError as error:
        if world.is_master:
            say_error(error)
        raise
    answer: bool | None = None
    if world.is_master:
        say("\n".join(found.lines()))
        sys.stdout.flush()
        answer = current().ask(f"Do you want to run all {found.n_tasks} tasks?")
        if answer is None:
            print("Only tried, as nobody is here to answer; without --dry-run all tasks are run.")
    return bool(world.bcast(answer))


def _reproduce() -> str:
    words = [word for word in sys.argv[1:] if word != "--dry-run"]
    command = shlex.join(["python", "-m", "acme_mpi", *words])
    return command.replace("{", "{{").replace("}", "}}") + " --debug-task {index}"


# What a command that resumes a run says in another way, or not again; and with a word behind it.
_ONCE = ("--dry-run", "--resume", "--retry-failed", "--force-resume", "--overwrite")
_ONCE_WITH_WORD = ("--output-dir", "--only")


def _resume_command() -> str:
    """Return the command that resumes this one's run, with ``{directory}`` in it."""
    arguments = sys.argv[1:]
    kept: list[str] = []
    words = iter(arguments)
    for word in words:
        if word in _ONCE_WITH_WORD:
            next(words, None)
        elif word not in _ONCE and word.partition("=")[0] not in _ONCE_WITH_WORD:
            kept.append(word)
    line = shlex.join([*typed_command(arguments), *kept])
    return f"{line} --output-dir {{directory}}"


def _ask(runner: ChildRunner, kind: Kind, content: Any, rules: Rules | None = None) -> Any:
    """Send a message to the runner and wait for its answer, until a signal or a limit.

    Raises
    ------
    StoppedError
        It does not come in time.
    """
    is_stopping = bool(INTERRUPTS.number)  # which has ended the run: what there is is shown
    runner.ask(kind, content)
    end_s = time.monotonic() + (rules or Rules()).loading_s
    while True:
        runner.poll()
        if runner.other_messages:
            return runner.other_messages.popleft()[1]
        if not runner.descriptors():
            raise InputError(
                runner.unstartable
                or "the process that loaded the target and its arguments has died; a crash on "
                "import, or a damaged file? --plan loads them in the foreground"
            )
        if INTERRUPTS.number and not is_stopping:
            why = f"rank 0 was asked to by {signal_name(INTERRUPTS.number)}"
            raise StoppedError(f"stopped while the user's code was at work outside tasks: {why}")
        if (left_s := end_s - time.monotonic()) <= 0:
            raise StoppedError(
                "the function and its arguments were not loaded in the time that --time-limit, or "
                f"--timeout with {LEAST_LOADING_S:g} s at least, allows; no task was called"
            )
        sleep_until([*runner.descriptors(), INTERRUPTS.fileno()], left_s)
