"""The command line: ``python -m acme_mpi TARGET [ARGS] [options]``.

What few command lines need is imported where it is needed: all ranks start with these imports.
"""

from __future__ import annotations

import logging
import os
import shlex
import signal
import sys
import time
import traceback
from collections.abc import Sequence
from functools import partial
from typing import Any, NamedTuple

from acme_mpi.runner.threads import limited_threads

with limited_threads():
    import numpy  # noqa: F401

from acme_mpi.call import Call, Display, Options, Output, Result, Work
from acme_mpi.comm import (
    World,
    finalize,
    how_to_silence,
    launched_rank_and_size,
    make_world,
    outlast_other_ranks,
    sleep_until,
    typed_command,
)
from acme_mpi.cores import n_cores
from acme_mpi.errors import (
    EXIT_DONE,
    EXIT_INTERNAL,
    EXIT_USAGE,
    AcmeMpiError,
    InputError,
    StoppedError,
    StoreError,
    TaskError,
)
from acme_mpi.interrupts import INTERRUPTS, signal_name
from acme_mpi.messages import ConsoleFormatter
from acme_mpi.options import check_options, make_parser, split_script
from acme_mpi.printing import print_lines, standard_output
from acme_mpi.rules import LEAST_LOADING_S, Rules
from acme_mpi.run import run
from acme_mpi.runner.channel import Kind
from acme_mpi.runner.child import ChildRunner
from acme_mpi.runner.descriptors import occupy_standard_descriptors
from acme_mpi.runner.kept import fork_child_runner, stop_runner, take_child_runner
from acme_mpi.runner.streams import flush_standard_streams
from acme_mpi.runner.surroundings import Surroundings
from acme_mpi.session import current
from acme_mpi.session.serving import serve_script
from acme_mpi.session.trial import announce, circumstances, forecast, measuring_options
from acme_mpi.session.values import values_of
from acme_mpi.standing import leave_task
from acme_mpi.storage import find_store
from acme_mpi.ulimits import fault_of_limits
from acme_mpi.visible import say

logger = logging.getLogger("acme_mpi")


def main(argv: Sequence[str] | None = None) -> None:
    """Run the command line and end this process with the job's exit status."""
    occupy_standard_descriptors()
    argv = sys.argv[1:] if argv is None else argv
    try:
        leave_task()
        rank, size = launched_rank_and_size()
    except AcmeMpiError as error:
        sys.exit(_say(error))
    if argv and argv[0].isidentifier():
        from acme_mpi.commands import COMMANDS, run_command

        if argv[0] in COMMANDS:
            sys.exit(run_command(argv) if rank == 0 else 0)
    own, scripts = split_script(argv)
    # Every rank finds the same mistake; one of them says it.
    if rank > 0:
        silent = os.open(os.devnull, os.O_WRONLY)
        saved = [os.dup(1), os.dup(2)]
        os.dup2(silent, 1), os.dup2(silent, 2)
    status = 0
    options: Any = None
    try:
        options = make_parser().parse_args(own)
        check_options(options)
        if (fault := fault_of_limits()) is not None:
            raise fault
        if not options.script and (options.plan or options.debug_task is not None):
            status = _in_foreground(options, size) if rank == 0 else 0
            options = None
    except (InputError, StoreError) as error:
        status, options = _say(error), None
    except SystemExit as end:
        status, options = int(end.code or 0), None
    sys.stdout.flush()
    sys.stderr.flush()
    if rank > 0:
        os.dup2(saved[0], 1), os.dup2(saved[1], 2)
    if options is None:
        sys.exit(_last_words(status) if rank == 0 else 0)
    fork_child_runner()
    _set_up_logging(options)
    leave(_with_ranks(options, scripts, rank))


def leave(status: int) -> None:
    """End this process: rank 0 with the job's status, all others with 0."""
    stop_runner()
    finalize()
    _last_words(status)
    # srun -K ends the step with SIGTERM when rank 0 leaves with an error; the job's status is
    # rank 0's, whatever the others are hit by afterwards.
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    flush_standard_streams()
    sys.exit(status)


def _last_words(status: int) -> int:
    """Have the launcher add as little as it can to what was said of an error; return the status."""
    if status == EXIT_USAGE and (text := how_to_silence()):
        say(text, sys.stderr)
    if status:
        outlast_other_ranks()
    return status


def _with_ranks(options: Any, scripts: Sequence[str], launched_rank: int) -> int:
    try:
        world = make_world(notify=lambda text: logger.warning("%s", text))
    except AcmeMpiError as error:
        return _say(error) if launched_rank == 0 else 0
    status = EXIT_DONE
    INTERRUPTS.catch()
    try:
        if world.is_master and world.size == 1 and launched_rank == 0:
            _suggest_launcher()
        if options.script:
            defaults = Display(bar=options.bar, level=_level_asked_for(options))
            status = serve_script(world, [*options.script, *scripts], defaults)
        else:
            _run_command(world, options)
    except TaskError as error:
        status = error.exit_code  # the summary has been printed
    except AcmeMpiError as error:
        status = _say(error) if world.is_master else 0
    except BaseException:
        # A mistake of ours. Leaving alone would make the other ranks wait for ever.
        traceback.print_exc()
        sys.stderr.flush()
        world.abort(EXIT_INTERNAL)
    return status if world.is_master else 0


def _say(error: AcmeMpiError) -> int:
    say(f"acme_mpi: {error}", sys.stderr)
    sys.stderr.flush()
    return error.exit_code


def _level_asked_for(options: Any) -> int | None:
    if options.verbose:
        return logging.DEBUG
    return logging.WARNING if options.quiet else None


def _set_up_logging(options: Any) -> None:
    handler = logging.StreamHandler()
    # The log file of a run has more than what is quiet here.
    handler.setLevel(_level_asked_for(options) or logging.DEBUG)
    handler.setFormatter(ConsoleFormatter())
    logger.addHandler(handler)
    logger.setLevel(logging.DEBUG if options.verbose else logging.INFO)
    logger.propagate = False


def _suggest_launcher() -> None:
    command = shlex.join(["python", "-m", "acme_mpi", *sys.argv[1:]])
    if "SLURM_JOB_ID" in os.environ:
        if os.environ.get("SLURM_NTASKS", "1") != "1":
            logger.info("one rank; for all tasks of this job: srun %s", command)
        return
    n_threads = len(os.sched_getaffinity(0))
    more = "more ranks than cores: with Open MPI by --oversubscribe"
    if n_threads > n_cores():
        more += f", or, up to {n_threads}, by --use-hwthread-cpus"
    if n_threads > 1:
        logger.info("one rank; for all cores: mpiexec -n %d %s\n  %s", n_cores(), command, more)


def _request(options: Any) -> dict[str, Any]:
    path = list(sys.path)
    if os.getcwd() not in path:
        path.insert(0, os.getcwd())
    writes_files = find_store(options.kind).writes_files
    return {
        "target": options.target,
        "arguments": options.arguments,
        "allow_pickle": options.allow_pickle,
        "settings": options.settings,
        "split": options.split,
        "share": options.share,
        "n_inputs": "auto" if options.n_inputs is None else options.n_inputs,
        "sys_path": path,
        "directory": os.getcwd(),
        "shaping": _run_options(options).shaping if writes_files else None,
        "trial": circumstances(_run_options(options)) if options.dry_run else None,
    }


def _run_command(world: World, options: Any) -> None:
    """Have rank 0's runner load function and arguments, run, and show. Collective."""
    runner = take_child_runner(world)
    assert runner is not None
    loaded = _Loaded(Call(surroundings=None), Call(surroundings=None))
    if world.is_master:
        loaded = _load(runner, options)
    if options.dry_run and not _try_one(world, loaded):
        return
    if world.is_master:
        loaded.call.deliver = partial(_print_values, runner)
    result = run(world, loaded.call)
    error = result.error()
    if error is not None:
        raise error


def _print_values(runner: ChildRunner, world: World, result: Result) -> None:
    """Print what the tasks have returned. Independent; rank 0 only."""
    n_tasks, stored = result.options.work.n_tasks, result.stored
    if result.options.work.spec is None:
        pieces = [(runs, c.values, c.buffers) for runs, c in stored.pieces]
        texts, unloadable = _ask(runner, Kind.SHOW, (pieces, n_tasks))
        stored.pieces.clear()
        result.fail_unloadable(unloadable, world.host, world.rank)
    else:
        texts = [str(values_of(stored, result.options)[0])]
    try:
        print_lines(texts)
    except StoreError as error:
        result.storage_error = str(error)


class _Loaded(NamedTuple):
    """What rank 0's runner has made of the command line."""

    call: Call
    trial: Call  # of one task, for a dry-run
    task: int = 0  # its index


def _load(runner: ChildRunner, options: Any) -> _Loaded:
    # All ranks are on their way into the run: what is wrong is told there, to all of them.
    try:
        loaded = _ask(runner, Kind.LOAD, _request(options), options.rules)
        if "error" in loaded:
            raise InputError(loaded["error"])
    except AcmeMpiError as error:
        return _Loaded(Call(error=error), Call(error=error))
    wanted = _run_options(options, loaded["name"], loaded["n_tasks"])
    # What else the target's module has changed in its runner stays as it is.
    here = Surroundings(loaded["sys_path"], os.getcwd())
    call = Call(
        wanted, packed=loaded["packed"], surroundings=here, fingerprint=loaded["fingerprint"]
    )
    if loaded["trial"] is None:
        return _Loaded(call, Call())
    index, packed = loaded["trial"]
    trial = Call(measuring_options(wanted), packed=packed, surroundings=here)
    return _Loaded(call, trial, index)


def _run_options(options: Any, name: str = "", n_tasks: int = 0) -> Options:
    return Options(
        Work(name, n_tasks, options.spec, not options.no_isolate, rules=options.rules),
        Output(
            options.kind,
            options.output_dir,
            root=None if find_store(options.kind).writes_files else 0,
            policy=options.policy,
            retry_failed=options.retry_failed,
        ),
        Display(options.bar, reproduce=_reproduce(), resume_command=_resume_command()),
    )


def _try_one(world: World, loaded: _Loaded) -> bool:
    """Call one task, print what it took, and return whether to go on. Collective."""
    options = loaded.call.options
    if world.is_master and options is not None:
        logger.info("%s", announce(options.work.name, loaded.task))
    result = run(world, loaded.trial)
    try:
        found = forecast(result, loaded.task, options or result.options, world.size)
    except TaskError as error:
        if world.is_master:
            _say(error)
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


# What a command that resumes a run says in another way, or not again.
_ONCE = ("--dry-run", "--resume", "--retry-failed", "--force-resume", "--overwrite")


def _resume_command() -> str:
    """Return the command that resumes this one's run, with ``{directory}`` in it."""
    arguments = sys.argv[1:]
    kept: list[str] = []
    words = iter(arguments)
    for word in words:
        if word == "--output-dir":
            next(words, None)
        elif word not in _ONCE and not word.startswith("--output-dir="):
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
    runner.send(kind, content)
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


def _in_foreground(options: Any, size: int) -> int:
    """Load the target in this process, for ``--plan`` and ``--debug-task``."""
    from acme_mpi.foreground import debug_task, plan_text
    from acme_mpi.runner.loading import load_command

    func, tasks = load_command(_request(options))
    if options.plan:
        with standard_output():
            say(plan_text(func, tasks, options, size))
        return EXIT_DONE
    return debug_task(func, tasks, options.debug_task)


__all__ = ["main"]

if __name__ == "__main__":
    main()
