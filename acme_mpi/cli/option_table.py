"""All commands with their options, read from the parsers that the commands themselves use."""

from __future__ import annotations

import argparse
from collections.abc import Callable, Iterator
from functools import partial
from typing import NamedTuple

from acme_mpi.cli.command_parser import CommandParser, parser_made_by
from acme_mpi.cli.commands import run_command
from acme_mpi.cli.doctor_command import run_doctor
from acme_mpi.cli.options import make_parser
from acme_mpi.cli.summaries import COMMANDS, DOCTOR, SHELL, SUBMIT


class Option(NamedTuple):
    """One option, or a word without a name.

    Attributes
    ----------
    names : tuple of str
        As they are typed; empty for a word without a name.
    value : str
        What it takes, as ``DIR``; empty if it takes nothing.
    choices : tuple of str
        What the value may be; empty for anything.
    text : str
        Its help.
    group : str
        Under which it is shown.
    """

    names: tuple[str, ...]
    value: str
    choices: tuple[str, ...]
    text: str
    group: str


class Entry(NamedTuple):
    """A command.

    Attributes
    ----------
    name : str
        Empty for what is done without a command: the call of a function.
    summary : str
        What it does.
    options : tuple of Option
        What it takes, in the order of its help.
    epilog : str
        What its help ends with.
    """

    name: str
    summary: str
    options: tuple[Option, ...]
    epilog: str


def option_table(shell: CommandParser) -> list[Entry]:
    """Return the call of a function, and all commands.

    Parameters
    ----------
    shell : CommandParser
        That of the command which prints the table.
    """
    runs: dict[str, Callable[[], object]] = {
        DOCTOR: lambda: run_doctor([]),
        SHELL: lambda: shell.parse_args([]),
    }
    parsers = {
        name: parser_made_by(runs.get(name, partial(run_command, [name]))) for name in COMMANDS
    }
    return [_entry("", make_parser()), *(_entry(*item) for item in parsers.items())]


def _entry(name: str, parser: CommandParser) -> Entry:
    options = [*_options(parser), *(_options_of_runs() if name == SUBMIT else ())]
    summary = COMMANDS[name] if name else parser.description or ""
    return Entry(name, summary, tuple(options), parser.epilog or "")


def _options(parser: CommandParser) -> Iterator[Option]:
    formatter = parser._get_formatter()
    for group in parser._action_groups:
        for action in group._group_actions:
            if action.help is argparse.SUPPRESS:
                continue
            text = formatter._expand_help(action) if action.help else ""
            choices = tuple(map(str, action.choices or ()))
            title = "" if group.title in ("options", "positional arguments") else group.title or ""
            yield Option(tuple(action.option_strings), _value(action), choices, text, title)


def _value(action: argparse.Action) -> str:
    if action.nargs == 0:
        return ""
    if action.metavar is not None:
        return str(action.metavar)
    return "" if isinstance(action, argparse.BooleanOptionalAction) else action.dest.upper()


def _options_of_runs() -> Iterator[Option]:
    """Yield what ``submit`` takes for the run."""
    yield from (each for each in _options(make_parser()) if "--help" not in each.names)
