"""The options of the command line, and the checks that refuse those that contradict each other."""

from __future__ import annotations

import argparse
import os
from collections.abc import Callable, Sequence
from typing import Any

from acme_mpi.api import store_kind
from acme_mpi.cli.command_parser import CommandParser, whole
from acme_mpi.cli.summaries import COMMANDS
from acme_mpi.comm import launched_rank_and_size
from acme_mpi.errors import InputError
from acme_mpi.history.stores import find_store, payload_names
from acme_mpi.results.spec import AUTO, called, make_row_spec
from acme_mpi.rules import SYNC_S, Rules
from acme_mpi.session.keywords import check_names, check_rules
from acme_mpi.session.only import FAILED, parse_tasks
from acme_mpi.spelling import did_you_mean, file_did_you_mean, whole_number
from acme_mpi.visible import say

SCRIPT_SUFFIXES = (".py", ".pyw", ".pyz")
ARGUMENT_SUFFIXES = (".npz", ".npy", ".h5", ".hdf5", ".json")

EXAMPLES = """\
examples:
  mpiexec -n 2 python -m acme_mpi mymod:f args.npz
  srun -n 64 python -m acme_mpi analysis.py:fit args.npz --single-file --result-shape None,3
  python -m acme_mpi mymod:f --set x=[2,4,6,8] --set y=4 --plan
  python -m acme_mpi mymod:f args.npz --debug-task 17
  mpiexec -n 2 python -m acme_mpi script.py --its-own option
  mpiexec -n 2 python -m acme_mpi -m pytest tests

commands on the directory of a run, from any shell, while it is running or later:
  python -m acme_mpi status DIR [--json | --joblog]   what is done, slow, and failed
  python -m acme_mpi report DIR [-o FILE]             one page of HTML with charts
  python -m acme_mpi watch DIR [--serve [PORT]]       the same live, in the terminal or a browser
  python -m acme_mpi stop DIR                         stop the run: running tasks finish
  python -m acme_mpi recover DIR                      link what a killed run has left
  python -m acme_mpi check DIR                        read all results and compare checksums
  python -m acme_mpi show DIR                         the table of results: its first rows
  python -m acme_mpi failed DIR [--json]              failed tasks: index, arguments, error
  python -m acme_mpi export DIR --netcdf FILE         or --csv, --parquet FILE, --zarr FOLDER

jobs, of Slurm, Grid Engine, or on this machine in the background; submit --help tells more:
  python -m acme_mpi submit -n 64 --time 2h mymod:f args.npz --output-dir DIR [--print]
  python -m acme_mpi wait DIR                         wait for the job, say how it has ended
  python -m acme_mpi cancel DIR                       end the job; submit it again to resume it

what is wrong here with MPI, HDF5, launchers and folders:
  python -m acme_mpi doctor [--log FILE]              look around, or into a log
  mpiexec -n 4 python -m acme_mpi doctor --output-dir DIR     all ranks look

completions for a shell, or the manual page:
  python -m acme_mpi shell {bash,zsh,man}

exit status: 0 all tasks done; 1 some failed; 2 usage or bad input, nothing was run;
  69 a rank was lost; 74 results could not be written; 75 stopped early. After these three the
  same command computes the rest. In script mode it is the script's own status, or 75 if the
  script ends by an uncaught StoppedError.
"""


def make_parser() -> CommandParser:
    """Return the parser of the command line."""
    parser = CommandParser(
        prog="python -m acme_mpi",
        usage="%(prog)s TARGET [ARGS] [options]",
        description="Call a function for many inputs on the ranks of an MPI job; the results go "
        "into HDF5.",
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    parser.add_argument(
        "target",
        metavar="TARGET",
        nargs="?",
        help="module:function, path/to/file.py:function, or script.py [its own arguments]",
    )
    parser.add_argument(
        "-m",
        metavar="MODULE",
        dest="module",
        help="instead of TARGET: run a module as a script, for example pytest [its own arguments]",
    )
    parser.add_argument(
        "--call",
        metavar="FILE",
        help="instead of TARGET: run the call that acme_mpi.submit has saved; scripts of its jobs "
        "say so",
    )
    parser.add_argument(
        "arguments",
        metavar="ARGS",
        nargs="?",
        help="arguments of the function: .npz (names are parameter names, arr_0, arr_1 ... are "
        "positional, 0-d arrays become scalars), .npy, .h5[:/group] (or .mat, .nc) or .json; or a "
        "table with a row for each task: .csv, .tsv, .parquet, or - for a .csv on standard input",
    )
    _add_input_options(parser.add_argument_group("input"))
    _add_output_options(parser.add_argument_group("output"))
    _add_run_options(parser.add_argument_group("run"))
    _add_resume_options(parser.add_argument_group("resume an earlier run"))
    _add_rules(parser.add_argument_group("trouble"))
    return parser


def _add_input_options(group: Any) -> None:
    group.add_argument(
        "--set",
        metavar="NAME=VALUE",
        action="append",
        default=[],
        dest="settings",
        help="add or replace one argument; VALUE is JSON, else a string; quote a string that looks "
        "like a number: 'x=\"1\"'",
    )
    group.add_argument(
        "--split",
        metavar="NAME[:AXIS]",
        action="append",
        default=[],
        help="one item of this argument per task (along AXIS, default 0)",
    )
    group.add_argument(
        "--share",
        metavar="NAME",
        action="append",
        default=[],
        help="the whole argument for every task",
    )
    group.add_argument(
        "--grid",
        metavar="NAME",
        action="append",
        default=[],
        help="every combination of the values of all arguments that are named so is a task; the "
        "last one changes fastest",
    )
    group.add_argument(
        "--dtype",
        metavar="NAME=TYPE",
        action="append",
        default=[],
        help="what a column of a table holds: int, float, bool, str, or a type of NumPy's; default "
        "what pandas finds",
    )
    group.add_argument(
        "--seed",
        metavar="N",
        type=whole,
        help="give a parameter called rng a numpy.random.Generator: each task its own, the same "
        "for any number of ranks, after a resume, and with --debug-task",
    )
    group.add_argument(
        "--n-inputs",
        metavar="N",
        type=whole,
        help="number of tasks; arguments of that length are split; without any, N equal calls",
    )
    group.add_argument(
        "--allow-pickle",
        action="store_true",
        help="read object arrays; a pickle can run any code: only for files that you trust",
    )


def _add_output_options(group: Any) -> None:
    group.add_argument(
        "--output-dir", metavar="DIR", help="default: a new ACME_YYYYMMDD-hhmmss-ffffff"
    )
    group.add_argument("--single-file", action="store_true", help="one file for everything")
    group.add_argument(
        "--payload",
        choices=payload_names(),
        default="rank",
        help="payload files per rank (default) or per computation",
    )
    group.add_argument(
        "--result-shape",
        metavar="[NAME=]None,M,N",
        action="append",
        help="stack all results in one dataset; None is the axis of the tasks, inf an axis whose "
        "length differs; with NAME=, repeatedly: one for each named result; auto: as the first "
        "result",
    )
    group.add_argument(
        "--result-dtype",
        metavar="[NAME=]DTYPE",
        action="append",
        help="default float64",
    )
    group.add_argument(
        "--result-names",
        metavar="A,B",
        help="what the datasets of the results of a task are called, instead of result_0, "
        "result_1; a dict that the function returns brings its own names",
    )
    group.add_argument(
        "--no-report",
        action="store_true",
        help="do not write NAME_report.html beside the results of a run that took long enough",
    )
    group.add_argument("--no-write", action="store_true", help="print the results, write no file")


def _add_run_options(group: Any) -> None:
    group.add_argument(
        "--dry-run",
        action="store_true",
        help="call one random task first, say what time and memory it took, and forecast all "
        "tasks; the others are called only if somebody agrees on a terminal",
    )
    group.add_argument("--plan", action="store_true", help="say what would be done; call nothing")
    group.add_argument(
        "--debug-task",
        metavar="I",
        type=whole,
        help="run one task in the foreground, in this process, with pdb on an error",
    )
    group.add_argument(
        "--no-isolate",
        action="store_true",
        help="call the function in the ranks themselves; rank 0 then only hands out tasks",
    )
    group.add_argument(
        "--bar",
        action=argparse.BooleanOptionalAction,
        help="progress bar; default: on a terminal, else a line now and then",
    )
    group.add_argument("-v", "--verbose", action="count", default=0, help="say more")
    group.add_argument("-q", "--quiet", action="store_true", help="only warnings and errors")
    group.add_argument(
        "--version",
        action=_Versions,
        nargs=0,
        default=argparse.SUPPRESS,
        help="print the versions of MPI, HDF5, and more",
    )


class _Versions(argparse.Action):
    """Prints all versions, and ends."""

    def __call__(self, parser: argparse.ArgumentParser, *values: Any) -> None:
        from acme_mpi.doctor.versions import versions_text

        # Of several ranks one says it.
        if launched_rank_and_size()[0] == 0:
            say(versions_text())
        parser.exit()


def _add_resume_options(group: Any) -> None:
    group.add_argument(
        "--resume",
        action="store_true",
        help="resume the newest unfinished run of this command in the working directory; with "
        "--output-dir its run is resumed anyway",
    )
    group.add_argument(
        "--retry-failed",
        action="store_true",
        help="call the tasks that have failed, and only those, also after you have mended the "
        "function or what it calls",
    )
    group.add_argument(
        "--only",
        metavar="17,402-410|failed",
        help="call these tasks only, by their indices, if they have no result; failed ones are "
        "called again; failed: as --retry-failed",
    )
    group.add_argument(
        "--force-resume",
        action="store_true",
        help="resume even if the function, your functions and classes that it names, or its "
        "arguments have changed; changes are not seen in names reached by getattr, imports inside "
        "functions, methods of arguments, data in globals and closures, and installed packages",
    )
    group.add_argument(
        "--overwrite",
        action="store_true",
        help="remove what earlier runs of the function have left in --output-dir, and start again",
    )


def _add_rules(group: Any) -> None:
    group.add_argument(
        "--retries",
        metavar="N",
        type=whole,
        default=0,
        help="call a failed task up to N times again (default 0), at the end of the run",
    )
    group.add_argument(
        "--crash-limit",
        metavar="N",
        type=whole,
        help="give a task up when its process has died N times (default 1; 2 after a SIGKILL from "
        "outside, which may not be the fault of the task)",
    )
    group.add_argument(
        "--halt",
        metavar="now|soon,fail=N|N%",
        help="stop when N tasks, or N%% of all, have failed; soon: running tasks finish, now: they "
        "are killed; default: never stop",
    )
    group.add_argument(
        "--timeout",
        metavar="TIME",
        help="fail a task that runs longer: 30s, 5m, 1h30m, or 200%% of the median task; loading "
        "the function may take as long, or 30 s if that is longer",
    )
    group.add_argument(
        "--memory", metavar="SIZE", help="fail a task that takes more memory: 500M, 2G"
    )
    group.add_argument(
        "--time-limit",
        metavar="TIME",
        help="stop the run in good order after this time; under Slurm the job's limit counts, too",
    )
    group.add_argument(
        "--sync",
        metavar="TIME",
        default=f"{SYNC_S:g}s",
        help="bring results to the disk so often (default %(default)s): what came since is called "
        "again after a loss of power; 0: each time before the next one is recorded",
    )


def split_script(argv: Sequence[str]) -> tuple[list[str], list[str]]:
    """Return (our arguments, the script's): those behind ``script.py`` or ``-m MODULE``."""
    takes_value = {
        text
        for action in make_parser()._actions
        if action.option_strings and action.nargs is None
        for text in action.option_strings
    }
    k = 0
    while k < len(argv):
        text = argv[k]
        k += 2 if text in takes_value else 1
        is_module = text.startswith("-m")  # or -mMODULE, as for Python itself
        if is_module or (not text.startswith("-") and _is_script(text)):
            return list(argv[:k]), list(argv[k:])
        if not text.startswith("-"):
            break
    return list(argv), []


def _is_script(text: str) -> bool:
    """Tell whether a word is what Python itself would run: a file, a folder, or an archive."""
    if text.endswith(SCRIPT_SUFFIXES):
        return True
    if ":" in text or text.endswith(ARGUMENT_SUFFIXES):
        return False
    return os.path.isfile(text) or os.path.isfile(os.path.join(text, "__main__.py"))


def check_options(options: Any) -> None:
    """Raise InputError for what makes no sense together; fill `script`, `kind` and `spec`."""
    if options.call is not None:
        _check_call(options)
        return
    options.script = _script_of(options)
    if options.script:
        _refuse_function_options(options, _OF_SCRIPTS)
        return
    if ":" not in options.target:
        raise InputError(
            f"target {options.target!r} has to be module:function, path/to/file.py:function, or "
            f"script.py{_target_meant(options)}"
        )
    options.kind = store_kind(not options.no_write, options.single_file, options.payload)
    shape = _parse_named("--result-shape", options.result_shape, parse_shape)
    dtype = _parse_named("--result-dtype", options.result_dtype, str)
    if dtype is not None and shape in (None, AUTO):
        raise InputError(
            "--result-dtype is for arrays whose shape is given: name it by "
            "--result-shape None,M,N, or leave out --result-dtype"
        )
    options.spec = make_row_spec(shape, "float" if dtype is None else dtype)
    is_ragged = options.spec is not None and options.spec.is_ragged
    if options.no_write and options.spec is not None and options.spec.is_open:
        raise InputError("--result-shape auto needs files; leave out --no-write")
    if is_ragged and not find_store(options.kind).holds_ragged:
        raise InputError("an axis `inf` in --result-shape needs files; leave out --no-write")
    options.names = check_names(parse_names(options.result_names), options.kind, options.spec)
    options.spec = called(options.spec, options.names)
    options.rules = _rules_of(options)
    _take_only(options)
    options.policy = _policy_of(options)
    if options.seed is not None and options.seed < 0:
        raise InputError(f"--seed has to be an integer >= 0, not {options.seed}")
    if options.n_inputs is not None and options.n_inputs < 1:
        raise InputError(f"--n-inputs has to be an integer >= 1, not {options.n_inputs}")


def _target_meant(options: Any) -> str:
    """Return what a target without a colon is likely to be instead."""
    if meant := did_you_mean(options.target, COMMANDS):
        return meant
    if options.arguments is not None and options.arguments.isidentifier():
        return f" (did you mean '{options.target}:{options.arguments}'?)"
    module, dot, function = options.target.rpartition(".")
    return f" (did you mean '{module}:{function}'?)" if dot and function.isidentifier() else ""


def _rules_of(options: Any) -> Rules:
    names = ("retries", "crash_limit", "halt", "timeout", "memory", "time_limit", "sync")
    rules = Rules(**{name: getattr(options, name) for name in names})
    return check_rules(rules, not options.no_isolate)


def _take_only(options: Any) -> None:
    """Check ``--only``, and turn it into ranges of tasks."""
    if options.only is None:
        return
    if not find_store(options.kind).writes_files:
        raise InputError("--only needs results in files; leave out --no-write")
    if options.only == FAILED:
        options.retry_failed, options.only = True, None
    elif options.retry_failed:
        raise InputError(f"--only {options.only} and --retry-failed: give one of them")
    else:
        options.only = parse_tasks(options.only)


def _policy_of(options: Any) -> str:
    """Return what to do where there are results already: see `beginning.POLICIES`."""
    resuming = ("resume", "retry_failed", "force_resume")
    given = [f"--{name.replace('_', '-')}" for name in resuming if getattr(options, name)]
    if options.overwrite and given:
        raise InputError(f"--overwrite begins anew, and {given[0]} resumes: give one of them")
    if (given or options.overwrite) and not find_store(options.kind).writes_files:
        raise InputError(
            f"{(given or ['--overwrite'])[0]} needs results in files; leave out --no-write"
        )
    if options.overwrite:
        return "overwrite"
    if options.force_resume:
        return "force"
    return "resume" if given or options.output_dir is not None else "refuse"


def _script_of(options: Any) -> list[str]:
    """Return the start of the command of a script or module, empty for a function."""
    if options.module is not None:
        if options.target is not None:
            raise InputError(f"-m {options.module} and {options.target!r}: give one of them")
        return ["-m", options.module]
    if options.target is None:
        raise InputError("TARGET is missing: module:function, file.py:function, or script.py")
    if not _is_script(options.target):
        return []
    if not os.path.exists(options.target):
        raise InputError(
            f"there is no script {options.target!r} (working directory {os.getcwd()})"
            + file_did_you_mean(options.target, ".py")
        )
    return [options.target]


# What counts where the command line names a script, or a saved call.
_SHOWN = {"bar", "verbose", "quiet"}
_OF_SCRIPTS = (
    {"target", "module", *_SHOWN},
    "cannot be used with a script; the script's own calls of acme_mpi.map say such things (or give "
    "the script's options behind its name)",
)
_OF_CALLS = (
    {"call", "resume", "retry_failed", "force_resume", *_SHOWN},
    "cannot be used with --call: the saved call says all of that",
)


def _check_call(options: Any) -> None:
    """Check what is given besides a saved call; its run is resumed in any case."""
    if options.target is not None or options.module is not None:
        raise InputError(f"--call {options.call} names what is run; leave out the target")
    _refuse_function_options(options, _OF_CALLS)
    options.script = []
    options.plan, options.debug_task = False, None


def _refuse_function_options(options: Any, allowed: tuple[set[str], str]) -> None:
    """Raise for options that would be silently ignored."""
    parser = make_parser()
    taken, why = allowed
    given = [
        action.option_strings[0]
        for action in parser._actions
        if action.option_strings
        and action.dest in vars(options)
        and action.dest not in taken
        and getattr(options, action.dest) != parser.get_default(action.dest)
    ]
    if given:
        raise InputError(f"{', '.join(given)} {why}")


def parse_names(text: str | None) -> list[str] | None:
    """Return the names of ``A,B``."""
    return None if text is None else [name.strip() for name in text.split(",")]


def _parse_named(option: str, texts: list[str] | None, parse: Callable[[str], Any]) -> Any:
    """Return the value of an option, or several by name if it was given as ``NAME=...``.

    Raises
    ------
    InputError
        It was given twice, or with and without a name.
    """
    if not texts:
        return None
    named = [text.partition("=") for text in texts]
    if len(texts) == 1 and not named[0][1]:
        return parse(texts[0])
    found: dict[str, Any] = {}
    for name, sign, value in named:
        if not sign or name in found:
            fault = f"names {name} twice" if sign else f"was given {len(texts)} times"
            raise InputError(
                f"{option} {fault}; give it once, or once for each name: {option} a=..."
            )
        found[name] = parse(value)
    return found


def parse_shape(text: str) -> Any:
    """Return the shape of ``None,M,N``; parentheses, ``inf``, and ``auto`` alone are allowed.

    Raises
    ------
    InputError
        An entry is none of these.
    """
    if text.strip() == AUTO:
        return AUTO
    entries: list[Any] = []
    for entry in text.strip("()[] ").split(","):
        name = entry.strip()
        if name == "None":
            entries.append(None)
        elif name in ("inf", "np.inf"):
            entries.append(float("inf"))
        elif (number := whole_number(name)) is not None:
            entries.append(number)
        elif name:
            raise InputError(
                f"--result-shape has to look like None,M,N with integers, or be auto, not {text!r}"
            )
    return tuple(entries)
