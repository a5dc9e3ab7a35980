"""Checks of the words that say how a job is to be started; before anything is written."""

from __future__ import annotations

import numbers
import re
from collections.abc import Sequence
from typing import Any

from acme_mpi.errors import InputError, InputTypeError
from acme_mpi.rules import parse_bytes, parse_duration

_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.,+@:/=-]*")
_UNITS = ("K", "M", "G", "T")  # multiples of 1024, the first is 1 KiB
_TIMES = "'2h', '90min', '1h30m', '1-00:00:00' or '[D-]HH:MM:SS'"


def check_count(name: str, value: Any) -> int:
    """Return a whole number >= 1.

    Raises
    ------
    InputTypeError, InputError
        It is none.
    """
    if isinstance(value, bool) or not isinstance(value, numbers.Integral):
        raise InputTypeError(f"`{name}` has to be a whole number >= 1, not {value!r}")
    if value < 1:
        raise InputError(f"`{name}` has to be a whole number >= 1, not {value}")
    return int(value)


def check_name(name: str, value: Any) -> str | None:
    """Return the name of something of Slurm's, or None.

    Raises
    ------
    InputTypeError, InputError
        It is no text, or no name.
    """
    if value is None:
        return None
    if not isinstance(value, str):
        raise InputTypeError(f"`{name}` has to be None or a str, not {value!r}")
    if not _NAME.fullmatch(value):
        raise InputError(
            f"`{name}` has to be a name of letters, digits and any of _.,+@:/=- inside of it, not "
            f"{value!r}"
        )
    return value


def check_time(name: str, value: Any) -> str | None:
    """Return a duration as Slurm writes it, ``D-HH:MM:SS`` or ``HH:MM:SS``, or None.

    Raises
    ------
    InputTypeError, InputError
        It is no text, or no duration with a unit: for Slurm a plain number is minutes, for
        others seconds.
    """
    if value is None:
        return None
    if not isinstance(value, str):
        raise InputTypeError(f"`{name}` has to be a str such as {_TIMES}, not {value!r}")
    text = re.sub(r"(?<=[0-9. ])\s*min(?:ute)?s?(?![a-z])", "m", value.strip().lower())
    is_plain = re.fullmatch(r"[0-9.]*", text) is not None
    try:
        seconds = 0.0 if is_plain else parse_duration(text)
    except InputError:
        seconds = 0.0
    if seconds < 1:
        raise InputError(f"`{name}` has to be a duration such as {_TIMES}, not {value!r}")
    minutes, second = divmod(round(seconds), 60)
    hours, minute = divmod(minutes, 60)
    days, hour = divmod(hours, 24)
    return f"{days}-" * (days > 0) + f"{hour:02}:{minute:02}:{second:02}"


def check_memory(name: str, value: Any) -> str | None:
    """Return an amount of memory as Slurm writes it, ``8G``, or None.

    Raises
    ------
    InputTypeError, InputError
        It is no text, or no amount with a unit.
    """
    if value is None:
        return None
    allowed = "'500M', '8G' or '8GB'"
    if not isinstance(value, str):
        raise InputTypeError(f"`{name}` has to be a str such as {allowed}, not {value!r}")
    try:
        n_bytes = 0 if value.strip().isdigit() else parse_bytes(value)
    except InputError:
        n_bytes = 0
    n_units = -(-n_bytes // 1024)
    if n_units < 1:
        raise InputError(f"`{name}` has to be an amount of memory such as {allowed}, not {value!r}")
    exponent = 0
    while n_units % 1024 == 0 and exponent < len(_UNITS) - 1:
        n_units, exponent = n_units // 1024, exponent + 1
    return f"{n_units}{_UNITS[exponent]}"


def check_lines(name: str, value: Any, beginning: str = "") -> tuple[str, ...]:
    """Return lines of text, each in one line of a script; one of them may be given as a str.

    Parameters
    ----------
    name : str
        Of the keyword.
    value : object
        As the user gave it.
    beginning : str
        What each has to begin with.

    Raises
    ------
    InputTypeError, InputError
        They are no such lines.
    """
    lines = (value,) if isinstance(value, str) else value
    if not isinstance(lines, Sequence) or not all(isinstance(each, str) for each in lines):
        raise InputTypeError(f"`{name}` has to be a list of str, not {value!r}")
    for line in lines:
        if any(character in line for character in "\n\r\0"):
            raise InputError(f"`{name}` has to hold one line in each str, not {line!r}")
        if not line.startswith(beginning):
            raise InputError(f"`{name}`: each has to begin with {beginning!r}, not {line!r}")
    return tuple(lines)


def seconds_of(time: str) -> int:
    """Return the seconds of a duration from `check_time`."""
    return round(parse_duration(time))
