"""The commands that show a run: ``report`` and ``watch``."""

from __future__ import annotations

import os
from collections.abc import Sequence

from acme_mpi.cli.command_parser import CommandParser
from acme_mpi.cli.summaries import OF_VIEWS
from acme_mpi.errors import EXIT_DONE
from acme_mpi.history.layout import Layout
from acme_mpi.history.status import layouts_in
from acme_mpi.report.written import write_report
from acme_mpi.visible import say


def run_view_command(name: str, arguments: Sequence[str]) -> int:
    """Carry out a command; return the exit status.

    Raises
    ------
    AcmeMpiError
        It cannot be done.
    """
    return _report(arguments)


def _parser(name: str) -> CommandParser:
    parser = CommandParser(
        prog=f"python -m acme_mpi {name}", description=f"{OF_VIEWS[name].capitalize()}."
    )
    parser.add_argument("directory", metavar="DIR", help="output directory of the run")
    return parser


def _report(arguments: Sequence[str]) -> int:
    parser = _parser("report")
    parser.add_argument(
        "-o",
        "--output",
        metavar="FILE",
        help="the page; default DIR/NAME_report.html, for each function whose runs are there",
    )
    options = parser.parse_args(arguments)
    layouts = layouts_in(options.directory)
    if options.output is not None:
        _write(layouts, os.path.abspath(os.path.expanduser(options.output)))
    else:
        for each in layouts:
            _write([each], each.report)
    return EXIT_DONE


def _write(layouts: Sequence[Layout], path: str) -> None:
    write_report(layouts, path)
    say(f"{', '.join(each.name for each in layouts)}: {path}")
