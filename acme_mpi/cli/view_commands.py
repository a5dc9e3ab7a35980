"""The commands that show a run: ``report`` and ``watch``."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence

from acme_mpi.cli.command_parser import CommandParser
from acme_mpi.cli.summaries import OF_VIEWS
from acme_mpi.errors import EXIT_DONE
from acme_mpi.history.layout import Layout
from acme_mpi.history.told import layouts_in
from acme_mpi.report.looking import Watch
from acme_mpi.report.written import write_report
from acme_mpi.visible import say


def run_view_command(name: str, arguments: Sequence[str]) -> int:
    """Carry out a command; return the exit status.

    Raises
    ------
    AcmeMpiError
        It cannot be done.
    """
    return _report(arguments) if name == "report" else _watch(arguments)


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


def _watch(arguments: Sequence[str]) -> int:
    parser = _parser("watch")
    parser.add_argument(
        "--serve",
        metavar="PORT",
        nargs="?",
        const="0",
        help="not in this terminal but in a browser, at a port of this machine alone, default any "
        "that is free, or at a Unix socket whose path has a slash; who has the address that is "
        "printed may look, and nobody can do more",
    )
    parser.add_argument(
        "--behind",
        metavar="HOST",
        action="append",
        default=[],
        help="with --serve: a name by which a proxy is called, such as that of a JupyterHub",
    )
    options = parser.parse_args(arguments)
    try:
        watch = Watch(options.directory)
        if options.serve is not None:
            _serve(watch, options.serve, options.behind)
        else:
            from acme_mpi.report.terminal import show

            show(watch)
    except KeyboardInterrupt:
        pass  # the run does not depend on who looks at it
    return EXIT_DONE


def _serve(watch: Watch, where: str, hosts: Sequence[str]) -> None:
    from acme_mpi.report.server import Serving

    with Serving(watch, where, hosts) as serving:
        for line in serving.ways():
            say(line)
        say("Ctrl-C ends this page, not the run")
        sys.stdout.flush()
        serving.serve()
