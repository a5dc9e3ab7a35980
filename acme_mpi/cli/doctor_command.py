"""The command ``doctor``: what is wrong here, in words or as JSON."""

from __future__ import annotations

import argparse
import contextlib
import io
import json
import sys
from collections.abc import Sequence

import acme_mpi
from acme_mpi.cli.command_parser import CommandParser
from acme_mpi.cli.summaries import COMMANDS, DOCTOR
from acme_mpi.comm import is_launched, launched_rank_and_size
from acme_mpi.doctor.examination import examine
from acme_mpi.doctor.launched import examine_ranks
from acme_mpi.doctor.logs import check_log, read_log
from acme_mpi.doctor.report import Report, text_of
from acme_mpi.errors import EXIT_DONE, AcmeMpiError, StoppedError
from acme_mpi.linux.printing import say_error, standard_output
from acme_mpi.rules import parse_duration
from acme_mpi.visible import say

EPILOG = """\
without a launcher this process looks around, and loads no MPI; on ranks all look:
  python -m acme_mpi doctor
  mpiexec -n 4 python -m acme_mpi doctor --output-dir DIR
  python -m acme_mpi doctor --log slurm-123.out

exit status: 0 nothing is wrong; 1 something is; 2 usage; 75 interrupted
"""


def doctor_parser() -> CommandParser:
    """Return the parser of ``doctor``."""
    parser = CommandParser(
        prog=f"python -m acme_mpi {DOCTOR}",
        description=f"{COMMANDS[DOCTOR].capitalize().replace('mpi, hdf5', 'MPI, HDF5')}.",
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    parser.add_argument(
        "--output-dir",
        metavar="DIR",
        default=".",
        help="where results are to go; default: the working directory; a file is written there, "
        "and removed",
    )
    parser.add_argument(
        "--log", metavar="FILE", help="only say what this log tells of; - is standard input"
    )
    parser.add_argument("--json", action="store_true", help="as JSON, for programs")
    parser.add_argument(
        "--time-limit",
        metavar="TIME",
        default="60s",
        help="how long ranks may take to start, and to answer: 30s, 5m; default 60s",
    )
    return parser


def run_doctor(arguments: Sequence[str]) -> int:
    """Look for what is wrong; return the exit status. Collective where a launcher has started it.

    Parameters
    ----------
    arguments : sequence of str
        Behind ``doctor``.
    """
    rank, size = launched_rank_and_size()
    if rank > 0:
        return _follow(arguments, rank, size)
    options = doctor_parser().parse_args(arguments)
    try:
        limit_s = parse_duration(options.time_limit)
        with standard_output():
            if options.log is not None:
                return _show(_of_log(options.log), options.json)
            if not is_launched():
                return _show(examine(options.output_dir, is_rank=False), options.json)
    except AcmeMpiError as error:
        return say_error(error)
    except KeyboardInterrupt:
        return say_error(StoppedError("interrupted; what was asked until now was ended"))
    return examine_ranks(
        rank, size, options.output_dir, limit_s, lambda report: _show(report, options.json)
    )


def _follow(arguments: Sequence[str], rank: int, size: int) -> int:
    """Take part as another rank than 0, which alone says what is wrong with the arguments."""
    try:
        with contextlib.redirect_stderr(io.StringIO()), contextlib.redirect_stdout(io.StringIO()):
            options = doctor_parser().parse_args(arguments)
            limit_s = parse_duration(options.time_limit)
    except (AcmeMpiError, SystemExit):
        return EXIT_DONE
    if options.log is not None:
        return EXIT_DONE
    return examine_ranks(rank, size, options.output_dir, limit_s, lambda report: None)


def _of_log(path: str) -> Report:
    findings = check_log(read_log(path), path)
    return Report(tuple(findings), {"acme_mpi": acme_mpi.__version__, "log": path})


def _show(report: Report, as_json: bool) -> int:
    say(json.dumps(report.as_json()) if as_json else text_of(report))
    sys.stdout.flush()
    return report.exit_code
