"""The commands of jobs: ``submit``, ``wait`` and ``cancel``."""

from __future__ import annotations

import argparse
import logging
import shlex
import shutil
import sys
from collections.abc import Mapping, Sequence
from dataclasses import fields
from typing import Any

from acme_mpi.cli.command_call import command_of
from acme_mpi.cli.command_parser import CommandParser, whole
from acme_mpi.cli.options import check_options, make_parser, split_script
from acme_mpi.cli.summaries import OF_JOBS
from acme_mpi.engine.call import Display, Options, Output, Work
from acme_mpi.errors import EXIT_DONE, AcmeMpiError, InputError, StoppedError
from acme_mpi.jobs.job import Job, attach
from acme_mpi.jobs.record import new_number
from acme_mpi.jobs.submitting import Submission, check_caller
from acme_mpi.launchers.base import Launcher
from acme_mpi.launchers.local import Local
from acme_mpi.launchers.named import KINDS, launcher_of
from acme_mpi.launchers.sge import SGE
from acme_mpi.launchers.site import read_site
from acme_mpi.launchers.slurm import Slurm
from acme_mpi.linux.printing import say_error
from acme_mpi.results.spec import on_grid
from acme_mpi.runner.loading import load_command
from acme_mpi.session.only import check_only
from acme_mpi.session.request import Request
from acme_mpi.tasks.argument_files import STANDARD_INPUT
from acme_mpi.tasks.taskset import function_name
from acme_mpi.visible import say

logger = logging.getLogger("acme_mpi")


def run_job_command(name: str, arguments: Sequence[str]) -> int:
    """Carry out a command; return the exit status.

    Raises
    ------
    AcmeMpiError
        It cannot be done.
    """
    if name == "submit":
        return _submit(arguments)
    parser = CommandParser(prog=f"python -m acme_mpi {name}", description=_sentence(name))
    parser.add_argument("directory", metavar="DIR", help="output directory of the job")
    job = attach(parser.parse_args(arguments).directory)
    return _wait(job) if name == "wait" else _cancel(job)


def _wait(job: Job) -> int:
    logger.setLevel(logging.INFO)
    try:
        job.wait(bar=True)
    except KeyboardInterrupt:
        raise StoppedError(f"interrupted; job {job.id} goes on") from None
    say(str(job.status()))
    try:
        job.result()
    except AcmeMpiError as error:
        return say_error(error)
    return EXIT_DONE


def _cancel(job: Job) -> int:
    job.cancel()
    say(str(job.status()))
    return EXIT_DONE


def _submit(arguments: Sequence[str]) -> int:
    words, rest = submit_parser().parse_known_args(arguments)
    launcher = launcher_of_words(words)
    submission = _submission(rest)
    if words.print:
        say(submission.script(launcher, new_number(submission.layout)).rstrip("\n"))
        return EXIT_DONE
    check_caller()
    job = submission.submit(launcher)
    say(str(job.status()))
    say(f"  {submission.layout.name}: {submission.n_tasks} tasks, results go to {job.files[0]}")
    say(f"  wait for it with: python -m acme_mpi wait {shlex.quote(job.directory)}")
    return EXIT_DONE


def submit_parser() -> CommandParser:
    """Return the parser of what ``submit`` knows beside the options of a run."""
    parser = CommandParser(
        prog="python -m acme_mpi submit",
        usage="%(prog)s [-n N] [options of the job] TARGET [ARGS] [options of the run]",
        description=f"{_sentence('submit')} The function is loaded, and its "
        "arguments are checked, before anything is submitted.",
        epilog="TARGET, ARGS and the options of the run are those of python -m acme_mpi --help",
        allow_abbrev=False,
    )
    parser.add_argument("-n", metavar="N", type=whole, help="number of ranks")
    parser.add_argument(
        "--launch",
        metavar="NAME",
        help="local, slurm, sge, or a name from the site's files (/etc/acme_mpi.toml, "
        "~/.config/acme_mpi.toml), whose words the options below overrule; default what these say, "
        "else slurm where there is sbatch",
    )
    parser.add_argument(
        "--local",
        action="store_true",
        help="on this machine, in the background; default where there is no sbatch",
    )
    parser.add_argument("--sge", action="store_true", help="by qsub of Grid Engine")
    for name, metavar, text in (
        ("pe", "NAME", "with --sge: parallel environment; default: mpi"),
        ("queue", "NAME", "with --sge: as for qsub -q"),
        ("project", "NAME", "with --sge: as for qsub -P"),
        ("partition", "NAME", "as for sbatch"),
        ("account", "NAME", "as for sbatch"),
        ("qos", "NAME", "as for sbatch"),
        ("time", "TIME", "limit of the job's time: 2h, 90min, 1-00:00:00"),
        ("mem", "SIZE", "memory on each node: 8G; also said to srun; with --sge: of each rank"),
    ):
        parser.add_argument(f"--{name}", metavar=metavar, help=text)
    parser.add_argument("--nodes", metavar="N", type=whole, help="number of nodes")
    parser.add_argument(
        "--cpus-per-task", metavar="N", type=whole, help="cores of each rank; also said to srun"
    )
    parser.add_argument(
        "--gpus-per-rank",
        metavar="N",
        type=whole,
        help="GPUs of each rank: --gpus-per-task of Slurm; with --local by CUDA_VISIBLE_DEVICES",
    )
    parser.add_argument(
        "--again",
        action="store_true",
        help="go on after the end of the time, a preemption, or the loss of a node",
    )
    parser.add_argument(
        "--extra",
        metavar="OPTION",
        action="append",
        help="of sbatch or qsub: --extra=--constraint=ib",
    )
    parser.add_argument(
        "--prologue", metavar="LINE", action="append", help="of shell, before the ranks start"
    )
    parser.add_argument("--print", action="store_true", help="print the script, and submit nothing")
    return parser


def _sentence(name: str) -> str:
    text = OF_JOBS[name]
    return f"{text[0].upper()}{text[1:]}."


def launcher_of_words(words: argparse.Namespace) -> Launcher:
    """Return the launcher that the words of ``submit`` describe.

    Raises
    ------
    InputError
        A word is another launcher's, or has a wrong value.
    """
    given = {
        name: value
        for name, value in vars(words).items()
        if value is not None and value is not False
    }
    given.pop("print", None)
    is_local, is_sge = given.pop("local", False), given.pop("sge", False)
    name = given.pop("launch", None)
    if is_local + is_sge + (name is not None) > 1:
        raise InputError("--launch, --local and --sge: give one of them")
    if is_local or is_sge:
        name = Local.kind if is_local else SGE.kind
        _refuse_foreign(given, KINDS[name], "with --local" if is_local else "with --sge")
    elif name is None and read_site().launch is None:
        is_slurm = shutil.which("sbatch") or words.print
        name = Slurm.kind if is_slurm else Local.kind
        why = "with Slurm" if is_slurm else "where there is no sbatch"
        _refuse_foreign(given, KINDS[name], why)
    return launcher_of(name, **given)


def _refuse_foreign(given: Mapping[str, Any], kind: type[Launcher], why: str) -> None:
    """Raise for words that another launcher has, and this one has not."""
    for other in (Slurm, SGE):
        if foreign := sorted(given.keys() & _words_of(other) - _words_of(kind)):
            options = ", ".join(f"--{name.replace('_', '-')}" for name in foreign)
            raise InputError(f"{options} cannot be used {why}: it is for {other.title}")


def _words_of(kind: type[Launcher]) -> set[str]:
    return {field.name for field in fields(kind)}


_ALONE = ("plan", "debug_task", "dry_run", "no_write")


def _submission(words: Sequence[str]) -> Submission:
    own, _ = split_script(words)
    options = make_parser().parse_args(own)
    values = {f"--{name.replace('_', '-')}": getattr(options, name) for name in _ALONE}
    # Not by equality: task 0 equals False.
    given = [name for name, value in values.items() if value is not None and value is not False]
    if given:
        raise InputError(
            f"{', '.join(given)} cannot be used with submit: no job is needed for that"
        )
    if options.overwrite:
        raise InputError(
            "--overwrite cannot be used with submit: a job that is started again, after the loss "
            "of a node for example, would begin anew; remove the results, or give another "
            "--output-dir"
        )
    check_options(options)
    if options.arguments == STANDARD_INPUT:
        raise InputError("the job reads ARGS itself, and has no standard input; give it a file")
    if options.script or options.call is not None:
        raise InputError(
            "submit takes a function, module:function or path/to/file.py:function; a script that "
            "calls acme_mpi is submitted by sbatch, see docs/clusters.md"
        )
    layout, n_tasks = _checked(options)
    command = [sys.executable, "-m", "acme_mpi", *_without_output_dir(own)]
    command += ["--output-dir", layout.directory]
    return Submission(layout, options.kind, n_tasks, lambda folder: command)


def _checked(options: Any) -> tuple[Any, int]:
    """Load function and arguments, as ``--plan`` does; return where files go, and how many tasks.

    Raises
    ------
    AcmeMpiError
        The job would find the same mistake, but later.
    """
    func, tasks = load_command(command_of(options))
    check_only(options.only, tasks.n_tasks)
    spec = on_grid(options.spec, tasks.grid)
    work = Work(function_name(func), tasks.n_tasks, spec, rules=options.rules)
    output = Output(
        options.kind,
        options.output_dir,
        policy=options.policy,
        retry_failed=options.retry_failed,
        names=options.names,
        only=options.only,
    )
    request = Request(func, tasks, Options(work, output, Display(resume_command="submit")))
    return request.free_layout(), tasks.n_tasks


def _without_output_dir(words: Sequence[str]) -> list[str]:
    kept: list[str] = []
    rest = iter(words)
    for word in rest:
        if word == "--output-dir":
            next(rest, None)
        elif not word.startswith("--output-dir="):
            kept.append(word)
    return kept
