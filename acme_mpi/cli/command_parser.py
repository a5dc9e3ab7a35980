"""argparse, whose messages say what a wrong option may have been meant to be."""

from __future__ import annotations

import argparse
import re
import shlex
import sys
from collections.abc import Callable, Sequence
from typing import Any, NoReturn

from acme_mpi.errors import EXIT_USAGE, StoreError
from acme_mpi.linux.printing import say_error, standard_output
from acme_mpi.spelling import did_you_mean, shortened, whole_number
from acme_mpi.visible import say

# How other programs are told a number of processes; group 2 is the number where it is attached.
_N_RANKS = re.compile(
    "(-n|-np|-N|-j|--np|--n-?jobs|--n-?procs|--n-?workers|--ntasks|--jobs|--workers|--processes|--ranks)"
    "=?([0-9]*)"
)


def whole(text: str) -> int:
    """Return a whole number; for `add_argument`."""
    number = whole_number(text)
    if number is None:
        raise argparse.ArgumentTypeError(f"{text!r} is no whole number")
    return number


class _Seen(BaseException):
    """A parser is about to parse."""


_IS_LOOKED_FOR: list[bool] = []


def parser_made_by(run: Callable[[], object]) -> CommandParser:
    """Return the parser by which a command would read its arguments; it gets no further.

    Parameters
    ----------
    run : callable
        The command without arguments.
    """
    _IS_LOOKED_FOR.append(True)
    try:
        run()
    except _Seen as seen:
        parser: CommandParser = seen.args[0]
        return parser
    finally:
        _IS_LOOKED_FOR.pop()
    raise AssertionError(f"{run} parses nothing")


class CommandParser(argparse.ArgumentParser):
    """Parses a command line; a wrong one ends this process with `EXIT_USAGE` and one message."""

    def parse_args(self, args: Sequence[str], namespace: Any = None) -> Any:  # type: ignore[override]
        """Return the options that a command line gives."""
        options, unknown = self.parse_known_args(args, namespace)
        if unknown:
            self.error(f"unrecognized arguments: {shlex.join(unknown)}{self._meant(args, unknown)}")
        return options

    def parse_known_args(self, *words: Any, **more: Any) -> Any:
        """Return the options, and the words that are none."""
        if _IS_LOOKED_FOR:
            raise _Seen(self)
        return super().parse_known_args(*words, **more)

    def exit(self, status: int = 0, message: str | None = None) -> NoReturn:
        """End, when what was printed has been written, or its reader has seen enough."""
        try:
            with standard_output():
                pass
        except StoreError as error:
            status = say_error(error)
        super().exit(status, message)

    def error(self, message: str) -> NoReturn:
        """Say what is wrong, and end."""
        self.print_usage(sys.stderr)
        say(shortened(f"{self.prog}: error: {message}"), sys.stderr)
        self.exit(EXIT_USAGE)

    def _meant(self, args: Sequence[str], unknown: Sequence[str]) -> str:
        known = [text for action in self._actions for text in action.option_strings]
        for k, word in enumerate(args):
            if word not in unknown or not word.startswith("-"):
                continue
            if found := _N_RANKS.fullmatch(word):
                n_words = 1 if found[2] else 2
                number = found[2] or "".join(args[k + 1 : k + 2])
                if whole_number(number):
                    rest = shlex.join(["python", "-m", "acme_mpi", *args[:k], *args[k + n_words :]])
                    return f"\n  The number of ranks is the launcher's: mpiexec -n {number} {rest}"
            if meant := did_you_mean(word.partition("=")[0], known):
                return meant
        return ""
