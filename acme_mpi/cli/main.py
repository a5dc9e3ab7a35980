"""The command line: ``python -m acme_mpi TARGET [ARGS] [options]``.

What few command lines need is imported where it is needed: all ranks start with these imports.
"""

from __future__ import annotations

import logging
import os
import shlex
import signal
import sys
import traceback
from collections.abc import Sequence
from typing import Any

from acme_mpi.linux.threads import limited_threads

with limited_threads():
    import numpy  # noqa: F401

from acme_mpi.cli.command_call import call_target, command_of
from acme_mpi.cli.options import check_options, make_parser, split_script
from acme_mpi.cli.summaries import COMMANDS, DOCTOR, SHELL
from acme_mpi.comm import (
    finalize,
    how_to_silence,
    launched_rank_and_size,
    make_world,
    outlast_other_ranks,
)
from acme_mpi.engine.call import Display
from acme_mpi.engine.messages import ConsoleFormatter
from acme_mpi.errors import (
    EXIT_DONE,
    EXIT_INTERNAL,
    EXIT_USAGE,
    AcmeMpiError,
    InputError,
    StoreError,
    TaskError,
)
from acme_mpi.linux.cores import n_cores
from acme_mpi.linux.descriptors import occupy_standard_descriptors
from acme_mpi.linux.gpus import take_gpus
from acme_mpi.linux.interrupts import INTERRUPTS
from acme_mpi.linux.printing import say_error, standard_output
from acme_mpi.linux.ulimits import fault_of_limits
from acme_mpi.runner.kept import fork_child_runner, stop_runner
from acme_mpi.runner.streams import flush_standard_streams
from acme_mpi.session.serving import serve_script
from acme_mpi.standing import leave_task
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
        sys.exit(say_error(error))
    if argv and argv[0] == DOCTOR:
        from acme_mpi.cli.doctor_command import run_doctor

        leave(run_doctor(argv[1:]))
    if argv and argv[0] == SHELL:
        from acme_mpi.cli.shell_command import run_shell_command

        sys.exit(run_shell_command(argv[1:]) if rank == 0 else 0)
    if argv and argv[0] in COMMANDS:
        from acme_mpi.cli.commands import run_command

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
        take_gpus()
        options = make_parser().parse_args(own)
        check_options(options)
        if (fault := fault_of_limits()) is not None:
            raise fault
        if not options.script and (options.plan or options.debug_task is not None):
            status = _in_foreground(options, size) if rank == 0 else 0
            options = None
    except (InputError, StoreError) as error:
        status, options = say_error(error), None
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
        return say_error(error) if launched_rank == 0 else 0
    status = EXIT_DONE
    INTERRUPTS.catch()
    try:
        if world.is_master and world.size == 1 and launched_rank == 0:
            _suggest_launcher()
        if options.script:
            defaults = Display(bar=options.bar, level=_level_asked_for(options))
            status = serve_script(world, [*options.script, *scripts], defaults)
        elif options.call is not None:
            _make_saved_call(world, options)
        else:
            call_target(world, options)
    except TaskError as error:
        status = error.exit_code  # the summary has been printed
    except AcmeMpiError as error:
        status = say_error(error) if world.is_master else 0
    except BaseException:
        # A mistake of ours. Leaving alone would make the other ranks wait for ever.
        traceback.print_exc()
        sys.stderr.flush()
        world.abort(EXIT_INTERNAL)
    return status if world.is_master else 0


def _make_saved_call(world: Any, options: Any) -> None:
    from acme_mpi.jobs.running import run_saved

    policy = "force" if options.force_resume else ""
    run_saved(world, options.call, policy, options.retry_failed)


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


def _in_foreground(options: Any, size: int) -> int:
    """Load the target in this process, for ``--plan`` and ``--debug-task``."""
    from acme_mpi.cli.foreground import debug_task, plan_text
    from acme_mpi.runner.loading import load_command

    func, tasks = load_command(command_of(options))
    if options.plan:
        with standard_output():
            say(plan_text(func, tasks, options, size))
        return EXIT_DONE
    return debug_task(func, tasks, options.debug_task)
