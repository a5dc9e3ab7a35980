"""The command ``shell``: completions for bash and zsh, and the manual page."""

from __future__ import annotations

from collections.abc import Sequence

from acme_mpi.cli.command_parser import CommandParser
from acme_mpi.cli.completion import bash_text, zsh_text
from acme_mpi.cli.manual import manual_text
from acme_mpi.cli.option_table import option_table
from acme_mpi.cli.summaries import COMMANDS, SHELL
from acme_mpi.errors import EXIT_DONE, StoreError
from acme_mpi.linux.printing import say_error, standard_output
from acme_mpi.visible import say

_TEXTS = {"bash": bash_text, "zsh": zsh_text, "man": manual_text}


def run_shell_command(arguments: Sequence[str]) -> int:
    """Print what was asked for; return the exit status."""
    parser = shell_parser()
    options = parser.parse_args(arguments)
    try:
        with standard_output():
            say(_TEXTS[options.kind](option_table(parser)).rstrip("\n"))
    except StoreError as error:
        return say_error(error)
    return EXIT_DONE


def shell_parser() -> CommandParser:
    """Return the parser of ``shell``."""
    parser = CommandParser(
        prog=f"python -m acme_mpi {SHELL}",
        description=f"{COMMANDS[SHELL].capitalize()}.",
        epilog='in ~/.bashrc: eval "$(acme-mpi shell bash)"; read the page: acme-mpi shell man | '
        "man -l -",
    )
    parser.add_argument("kind", choices=_TEXTS, help="for which of them")
    return parser
