"""The command line: ``python -m acme_mpi TARGET [ARGS] [options]``."""

from __future__ import annotations

import argparse
import logging
import os
import select
import shlex
import signal
import sys
import traceback
from collections.abc import Sequence
from typing import Any

from acme_mpi import __version__
from acme_mpi.api import PAYLOADS, finish, store_kind
from acme_mpi.call import Call, Options
from acme_mpi.comm import World, finalize, launched_rank_and_size, make_world
from acme_mpi.errors import EXIT_DONE, EXIT_INTERNAL, AcmeMpiError, InputError, TaskError
from acme_mpi.foreground import debug_task, plan_text
from acme_mpi.results import make_row_spec
from acme_mpi.run import run, stop_runner, take_child_runner
from acme_mpi.runner.channel import Kind
from acme_mpi.runner.child import ChildRunner
from acme_mpi.script import serve_script

logger = logging.getLogger("acme_mpi")

EXAMPLES = """\
examples:
  mpiexec -n 4 python -m acme_mpi mymod:f args.npz
  srun -n 64 python -m acme_mpi analysis.py:fit args.npz --single-file --result-shape None,3
  python -m acme_mpi mymod:f --set x=[2,4,6,8] --set y=4 --plan
  python -m acme_mpi mymod:f args.npz --debug-task 17
  mpiexec -n 4 python -m acme_mpi script.py --its-own option

exit status: 0 all tasks done; 1 some failed; 2 usage or bad input, nothing was run;
  74 results could not be written; 75 stopped early. In script mode the script's.
"""


def make_parser() -> argparse.ArgumentParser:
    """Return the parser of the command line."""
    parser = argparse.ArgumentParser(
        prog="python -m acme_mpi",
        usage="%(prog)s TARGET [ARGS] [options]",
        description="Call a function for many inputs on the ranks of an MPI job; the results go "
        "into HDF5.",
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    parser.add_argument(
        "target", metavar="TARGET",
        help="module:function, path/to/file.py:function, or script.py [its own arguments]",
    )  # fmt: skip
    parser.add_argument(
        "arguments", metavar="ARGS", nargs="?",
        help="arguments of the function: .npz (names are parameter names, arr_0, arr_1 ... are "
        "positional, 0-d arrays become scalars) or .npy",
    )  # fmt: skip
    _add_input_options(parser.add_argument_group("input"))
    _add_output_options(parser.add_argument_group("output"))
    _add_run_options(parser.add_argument_group("run"))
    return parser


def _add_input_options(group: Any) -> None:
    group.add_argument(
        "--set", metavar="NAME=VALUE", action="append", default=[], dest="settings",
        help="add or override one argument; VALUE is JSON, else a string",
    )  # fmt: skip
    group.add_argument(
        "--split", metavar="NAME[:AXIS]", action="append", default=[],
        help="one item of this argument per task (along AXIS, default 0)",
    )  # fmt: skip
    group.add_argument(
        "--share", metavar="NAME", action="append", default=[],
        help="the whole argument for every task",
    )  # fmt: skip
    group.add_argument(
        "--n-inputs", metavar="N", type=int,
        help="number of tasks; arguments of that length are split, without any N equal calls",
    )  # fmt: skip
    group.add_argument(
        "--allow-pickle", action="store_true",
        help="read object arrays; a pickle can run any code: only for files you trust",
    )  # fmt: skip


def _add_output_options(group: Any) -> None:
    group.add_argument(
        "--output-dir", metavar="DIR", help="default: a new ACME_YYYYMMDD-hhmmss-ffffff"
    )
    group.add_argument("--single-file", action="store_true", help="one file for everything")
    group.add_argument(
        "--payload", choices=PAYLOADS, default="rank",
        help="payload files per rank (default) or per computation",
    )  # fmt: skip
    group.add_argument(
        "--result-shape", metavar="None,M,N",
        help="stack all results in one dataset; None is the axis of the tasks, inf an axis whose "
        "length differs",
    )  # fmt: skip
    group.add_argument("--result-dtype", metavar="DTYPE", default="float", help="default float64")
    group.add_argument("--no-write", action="store_true", help="print the results, write no file")


def _add_run_options(group: Any) -> None:
    group.add_argument("--plan", action="store_true", help="say what would be done; call nothing")
    group.add_argument(
        "--debug-task", metavar="I", type=int,
        help="run one task in the foreground, in this process, with pdb on an error",
    )  # fmt: skip
    group.add_argument(
        "--no-isolate", action="store_true",
        help="call the function in the ranks themselves; rank 0 then only hands out tasks",
    )  # fmt: skip
    group.add_argument(
        "--bar", action=argparse.BooleanOptionalAction,
        help="progress bar; default: on a terminal, else one line a minute",
    )  # fmt: skip
    group.add_argument("-v", "--verbose", action="count", default=0, help="tell more")
    group.add_argument("-q", "--quiet", action="store_true", help="only warnings and errors")
    group.add_argument("--version", action="version", version=f"acme_mpi {__version__}")


def split_script(argv: Sequence[str]) -> tuple[list[str], list[str]]:
    """Return (our arguments, the script's): all behind ``script.py`` is the script's own."""
    takes_value = {
        text
        for action in make_parser()._actions
        if action.option_strings and action.nargs is None
        for text in action.option_strings
    }
    skip = False
    for k, text in enumerate(argv):
        if skip:
            skip = False
        elif text in takes_value:
            skip = True
        elif not text.startswith("-"):
            return (
                (list(argv[: k + 1]), list(argv[k + 1 :]))
                if text.endswith(".py")
                else (list(argv), [])
            )
    return list(argv), []


def main(argv: Sequence[str] | None = None) -> None:
    """Run the command line and end this process with the job's exit status."""
    own, scripts = split_script(sys.argv[1:] if argv is None else argv)
    rank, size = launched_rank_and_size()
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
        if not options.target.endswith(".py") and (options.plan or options.debug_task is not None):
            status = _in_foreground(options, size) if rank == 0 else 0
            options = None
    except InputError as error:
        status, options = _say(error), None
    except SystemExit as end:
        status, options = int(end.code or 0), None
    sys.stdout.flush()
    sys.stderr.flush()
    if rank > 0:
        os.dup2(saved[0], 1), os.dup2(saved[1], 2)
    if options is None:
        sys.exit(status if rank == 0 else 0)
    _set_up_logging(options)
    leave(_with_ranks(options, scripts, rank))


def leave(status: int) -> None:
    """End this process: rank 0 with the job's status, all others with 0."""
    stop_runner()
    finalize()
    # srun -K ends the step with SIGTERM when rank 0 leaves with an error; the job's status is
    # rank 0's, whatever the others are hit by afterwards.
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    sys.stdout.flush()
    sys.stderr.flush()
    sys.exit(status)


def _with_ranks(options: Any, scripts: Sequence[str], launched_rank: int) -> int:
    try:
        world = make_world(notify=lambda text: logger.warning("%s", text))
    except AcmeMpiError as error:
        return _say(error) if launched_rank == 0 else 0
    status = EXIT_DONE
    try:
        if world.is_master and world.size == 1 and launched_rank == 0:
            _suggest_launcher()
        if options.target.endswith(".py"):
            status = serve_script(world, options.target, scripts, Options("", 0, bar=options.bar))
        else:
            _run_command(world, options)
    except KeyboardInterrupt:
        # Only without a launcher: under one, the launcher ends the ranks.
        print("acme_mpi: interrupted", file=sys.stderr)
        status = 128 + signal.SIGINT
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
    print(f"acme_mpi: {error}", file=sys.stderr, flush=True)
    return error.exit_code


def _set_up_logging(options: Any) -> None:
    level = logging.WARNING if options.quiet else logging.INFO
    handler = logging.StreamHandler()
    handler.setLevel(logging.DEBUG if options.verbose else level)
    handler.setFormatter(logging.Formatter("%(message)s"))
    logger.addHandler(handler)
    logger.setLevel(logging.DEBUG if options.verbose else logging.INFO)
    logger.propagate = False


def _suggest_launcher() -> None:
    n_cores = len(os.sched_getaffinity(0))
    if n_cores > 1:
        command = shlex.join(["python", "-m", "acme_mpi", *sys.argv[1:]])
        logger.info("one rank; for all cores: mpiexec -n %d %s", n_cores, command)


def check_options(options: Any) -> None:
    """Raise InputError for options that cannot be meant; fill `kind` and `spec`."""
    if options.target.endswith(".py"):
        if not os.path.isfile(options.target):
            raise InputError(
                f"there is no script {options.target!r} (working directory {os.getcwd()})"
            )
        _refuse_function_options(options)
        return
    if ":" not in options.target:
        raise InputError(
            f"target {options.target!r} has to be module:function, path/to/file.py:function, or "
            "script.py"
        )
    options.kind = store_kind(not options.no_write, options.single_file, options.payload)
    shape = parse_shape(options.result_shape)
    options.spec = make_row_spec(shape, options.result_dtype)
    if options.kind == "memory" and options.spec is not None and options.spec.is_ragged:
        raise InputError("an axis `inf` in --result-shape needs files; leave out --no-write")
    if options.n_inputs is not None and options.n_inputs < 1:
        raise InputError(f"--n-inputs has to be an integer >= 1, not {options.n_inputs}")


def _refuse_function_options(options: Any) -> None:
    """Raise for options that a script gives to `map` itself, before they are silently ignored."""
    parser = make_parser()
    taken = {"target", "bar", "verbose", "quiet"}
    given = [
        action.option_strings[0]
        for action in parser._actions
        if action.option_strings
        and action.dest in vars(options)
        and action.dest not in taken
        and getattr(options, action.dest) != parser.get_default(action.dest)
    ]
    if given:
        raise InputError(
            f"{', '.join(given)} cannot be used with a script; the script's own calls of "
            "acme_mpi.map say such things (or give the script's options behind its name)"
        )


def parse_shape(text: str | None) -> tuple[Any, ...] | None:
    """Return the shape of ``None,M,N``; parentheses and ``inf`` are allowed.

    Raises
    ------
    InputError
        An entry is none of these.
    """
    if text is None:
        return None
    entries: list[Any] = []
    for entry in text.strip("()[] ").split(","):
        name = entry.strip()
        if name == "None":
            entries.append(None)
        elif name in ("inf", "np.inf"):
            entries.append(float("inf"))
        elif name.lstrip("-").isdigit():
            entries.append(int(name))
        elif name:
            raise InputError(
                f"--result-shape has to look like None,M,N with integers, not {text!r}"
            )
    return tuple(entries)


def _request(options: Any) -> dict[str, Any]:
    path = list(sys.path)
    if os.getcwd() not in path:
        path.insert(0, os.getcwd())
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
    }


def _run_command(world: World, options: Any) -> None:
    """Have rank 0's runner load function and arguments, run, and show. Collective."""
    runner = take_child_runner(world)
    call = _load(runner, options) if world.is_master else Call()
    result = run(world, call)
    if options.kind == "memory" and world.is_master and result.options.spec is None:
        pieces = [(runs, c.values, c.buffers) for runs, c in result.stored.pieces]
        _ask(runner, Kind.SHOW, (pieces, result.options.n_tasks))
        result.stored.pieces.clear()
    values = finish(result, wants_values=world.is_master and result.options.spec is not None)
    if options.kind == "memory" and world.is_master and result.options.spec is not None:
        print(values)


def _load(runner: ChildRunner, options: Any) -> Call:
    # All ranks are on their way into the run: what is wrong is told there, to all of them.
    try:
        loaded = _ask(runner, Kind.LOAD, _request(options))
    except InputError as error:
        return Call(error=str(error))
    if "error" in loaded:
        return Call(error=loaded["error"])
    spec = options.spec
    return Call(
        Options(
            loaded["name"], loaded["n_tasks"], options.kind, options.output_dir,
            None if spec is None else (spec.shape, spec.axis, spec.dtype),
            not options.no_isolate, 0 if options.kind == "memory" else None, options.bar,
            _reproduce(),
        ),
        loaded["func"], loaded["tasks"], loaded["buffers"],
        place=(loaded["sys_path"], os.getcwd()),
    )  # fmt: skip


def _reproduce() -> str:
    command = shlex.join(["python", "-m", "acme_mpi", *sys.argv[1:]])
    return command.replace("{", "{{").replace("}", "}}") + " --debug-task {index}"


def _ask(runner: ChildRunner, kind: Kind, content: Any) -> Any:
    """Send a message to the runner and wait for its answer."""
    runner.send(kind, content)
    while True:
        for event in runner.poll():
            raise InputError(f"the target could not be loaded: {getattr(event, 'reason', event)}")
        if runner.other_messages:
            return runner.other_messages.popleft()[1]
        if not runner.descriptors():
            raise InputError(
                "the process that loaded the target has died; a crash on import? "
                "--plan loads it in the foreground"
            )
        select.select(runner.descriptors(), [], [])


def _in_foreground(options: Any, size: int) -> int:
    """Load the target in this process, for ``--plan`` and ``--debug-task``."""
    from acme_mpi.runner.loading import load_command

    func, tasks = load_command(_request(options))
    if options.plan:
        print(plan_text(func, tasks, options, size))
        return EXIT_DONE
    return debug_task(func, tasks, options.debug_task)


__all__ = ["main"]

if __name__ == "__main__":
    main()
