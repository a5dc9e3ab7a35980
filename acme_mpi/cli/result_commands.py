"""The commands on results: ``show``, ``export`` and ``failed``; see `commands`."""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable, Iterator, Sequence
from typing import Any

from acme_mpi.cli.command_parser import CommandParser, whole
from acme_mpi.cli.summaries import OF_RESULTS
from acme_mpi.errors import EXIT_DONE, InputError
from acme_mpi.history.told import runs_in
from acme_mpi.reading.export import FORMATS, STANDARD_OUTPUT, export
from acme_mpi.reading.opening import open as open_results
from acme_mpi.reading.results import Results
from acme_mpi.reading.shown import N_ROWS, text_of
from acme_mpi.visible import say, visible

_HELP = {
    "csv": "the table: a row for each task, with arguments, scalar results, time and error; "
    "-: print it",
    "parquet": "the same table, with types; needs the extra `tables`",
    "netcdf": "all arrays, with dimensions and coordinates; needs the extra `labels`",
    "zarr": "the same arrays in a new folder; needs the extra `zarr`",
}


def run_result_command(name: str, arguments: Sequence[str]) -> int:
    """Carry out one command on results; return the exit status.

    Raises
    ------
    AcmeMpiError
        It cannot be done.
    """
    parser = CommandParser(
        prog=f"python -m acme_mpi {name}", description=f"{OF_RESULTS[name].capitalize()}."
    )
    parser.add_argument("directory", metavar="DIR", help="output directory, or the container in it")
    parser.add_argument(
        "--name", metavar="FUNCTION", help="whose results, where DIR has those of several"
    )
    _ADD[name](parser)
    options = parser.parse_args(arguments)
    for results in _results(options, several=name != "export"):
        with results:
            _ACT[name](results, options)
    return EXIT_DONE


def _results(options: argparse.Namespace, several: bool) -> Iterator[Results]:
    """Yield the results that are named, or those of all functions."""
    names: list[Any] = [options.name]
    if several and options.name is None:
        names = runs_in(options.directory) or names
    for name in names:
        yield open_results(options.directory, name)


def _add_show(parser: CommandParser) -> None:
    parser.add_argument(
        "-n", metavar="N", type=whole, default=N_ROWS, dest="n_rows", help="rows; default 10"
    )


def _add_export(parser: CommandParser) -> None:
    group = parser.add_mutually_exclusive_group(required=True)
    for form in FORMATS:
        place = "FOLDER" if form == "zarr" else "FILE"
        group.add_argument(f"--{form}", metavar=place, help=_HELP[form])


def _add_failed(parser: CommandParser) -> None:
    parser.add_argument("--json", action="store_true", help="as JSON, for programs")


def _show(results: Results, options: argparse.Namespace) -> None:
    if options.n_rows < 0:
        raise InputError(f"-n has to be a number of rows >= 0, not {options.n_rows}")
    say(text_of(results, options.n_rows))


def _export(results: Results, options: argparse.Namespace) -> None:
    form, path = next((f, p) for f in FORMATS if (p := getattr(options, f)) is not None)
    export(results, form, path)
    if path != STANDARD_OUTPUT:
        say(f"{results.name}: {results.counts_text()}; written to {path}")


def _failed(results: Results, options: argparse.Namespace) -> None:
    if options.json:
        print(json.dumps([each._asdict() for each in results.failed], default=str))
        return
    for each in results.failed:
        arguments = ", ".join(f"{name}={value!r}" for name, value in each.arguments.items())
        say(visible(f"{each.task}\t{arguments}\t{each.error}", kept="\t"))


_ADD: dict[str, Callable[[CommandParser], None]] = {
    "show": _add_show,
    "export": _add_export,
    "failed": _add_failed,
}
_ACT: dict[str, Callable[[Results, argparse.Namespace], None]] = {
    "show": _show,
    "export": _export,
    "failed": _failed,
}
