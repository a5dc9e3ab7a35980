"""What a site, or a user, says once for all jobs: two files, and variables that overrule them.

They are read when a job is described, and never by its ranks.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from acme_mpi.errors import InputError, InputTypeError
from acme_mpi.launchers.words import check_lines
from acme_mpi.spelling import did_you_mean

SYSTEM_FILE = "/etc/acme_mpi.toml"
NAME = "acme_mpi.toml"  # in the user's own folder of settings
LAUNCHERS, KIND = "launchers", "kind"
RESERVED = ("local", "slurm", "sge", "none")
VARIABLES = {
    "launch": "ACME_MPI_LAUNCH",
    "prologue": "ACME_MPI_PROLOGUE",
    "ports": "ACME_MPI_PORTS",
}
# That word keeps calls from starting ranks by themselves, and does not say what else starts them.
_NO_LAUNCHER = "none"
_NAME = re.compile("[A-Za-z0-9_][A-Za-z0-9_.+-]*")
_PORTS = re.compile(r"\s*([0-9]{1,5})\s*(?:-\s*([0-9]{1,5})\s*)?")
MAX_PORT = 65535


class Said(NamedTuple):
    """A value, and where it stands: a file or a variable, as it is named in messages."""

    value: Any
    source: str


@dataclass(frozen=True)
class Site:
    """What all files and variables say together.

    Attributes
    ----------
    launch : Said, optional
        Name of the launcher that is used where none is named.
    prologue : tuple of str
        Lines of shell before the ranks of jobs that have none of their own.
    ports : range, optional
        On which rank 0 may listen for its client; None: any.
    launchers : mapping of str to mapping of str to Said
        Named launchers: their words, ``kind`` among them.
    read, missing : tuple of str
        The files that are there, and those that are not.
    """

    launch: Said | None = None
    prologue: tuple[str, ...] = ()
    ports: range | None = None
    launchers: Mapping[str, Mapping[str, Said]] = field(default_factory=dict)
    read: tuple[str, ...] = ()
    missing: tuple[str, ...] = ()

    def __str__(self) -> str:
        """Return which files were read."""
        read = f"read: {', '.join(self.read)}" if self.read else "no site file was found"
        return f"{read}; not there: {', '.join(self.missing)}" if self.missing else read


def read_site(environ: Mapping[str, str] = os.environ) -> Site:
    """Read the files and variables anew.

    Raises
    ------
    InputTypeError, InputError
        A file cannot be read, or something in it, or in a variable, is wrong.
    """
    found: dict[str, Any] = {}
    launchers: dict[str, dict[str, Said]] = {}
    read: list[str] = []
    missing: list[str] = []
    for path in _paths(environ):
        content = _content(path)
        if content is None:
            missing.append(path)
            continue
        read.append(path)
        for name, value in _checked(path, content).items():
            if name == LAUNCHERS:
                for launcher, words in value.items():
                    launchers.setdefault(launcher, {}).update(words)
            else:
                found[name] = value
    found.update(_variables(environ))
    return Site(**found, launchers=launchers, read=tuple(read), missing=tuple(missing))


def own_or_site_prologue(prologue: Any) -> tuple[str, ...]:
    """Return the lines of shell before the ranks of a job, the site's if it says none (None).

    Raises
    ------
    InputTypeError, InputError
        They are no lines, or something is wrong in the site's files.
    """
    return read_site().prologue if prologue is None else check_lines("prologue", prologue)


def _paths(environ: Mapping[str, str]) -> Iterator[str]:
    """Yield where files may be; what comes later overrules what comes first."""
    yield SYSTEM_FILE
    folder = environ.get("XDG_CONFIG_HOME", "")
    if not os.path.isabs(folder):  # also by the XDG specification
        folder = os.path.expanduser("~/.config")
    yield os.path.join(folder, NAME)


def _content(path: str) -> dict[str, Any] | None:
    try:
        with open(path, "rb") as file:
            import tomllib  # for who has such a file

            return tomllib.load(file)
    except (FileNotFoundError, NotADirectoryError):
        return None
    except OSError as error:
        raise InputError(f"cannot read {path}: {error.strerror}") from None
    except ValueError as error:  # no TOML, or no UTF-8
        raise InputError(f"{path} is no TOML file: {error}") from None


def _variables(environ: Mapping[str, str]) -> Iterator[tuple[str, Any]]:
    for name, variable in VARIABLES.items():
        text = environ.get(variable, "")
        if text and not (name == "launch" and text == _NO_LAUNCHER):
            value = text.splitlines() if name == "prologue" else text
            yield name, _CHECKS[name](f"the variable {variable}", name, value)


def _checked(path: str, content: Mapping[str, Any]) -> dict[str, Any]:
    checked = {}
    for name, value in content.items():
        if name not in _CHECKS:
            raise InputError(
                f"{path}: there is no `{name}`{did_you_mean(name, _CHECKS)}; there are "
                f"{', '.join(_CHECKS)}"
            )
        checked[name] = _CHECKS[name](path, name, value)
    return checked


def _check_launch(source: str, name: str, value: Any) -> Said:
    if not isinstance(value, str):
        raise InputTypeError(
            f"{source}: `{name}` has to be the name of a launcher in quotes, not {value!r}"
        )
    return Said(value, source)


def _check_prologue(source: str, name: str, value: Any) -> tuple[str, ...]:
    try:
        return check_lines(name, value)
    except InputError as error:
        raise type(error)(f"{source}: {error}") from None


def _check_ports(source: str, name: str, value: Any) -> range:
    allowed = f"`{name}` has to be '60001-63000', or one number in quotes, from 1 to {MAX_PORT}"
    if not isinstance(value, str):
        raise InputTypeError(f"{source}: {allowed}, not {value!r}")
    match = _PORTS.fullmatch(value)
    first, last = (int(match[1]), int(match[2] or match[1])) if match else (0, 0)
    if not 1 <= first <= last <= MAX_PORT:
        raise InputError(f"{source}: {allowed}, not {value!r}")
    return range(first, last + 1)


def _check_launchers(source: str, name: str, value: Any) -> dict[str, dict[str, Said]]:
    tables = value if isinstance(value, dict) else {"NAME": value}
    checked = {}
    for launcher, words in tables.items():
        if not isinstance(words, dict):
            raise InputTypeError(
                f"{source}: `{name}.{launcher}` has to be a table, [{name}.{launcher}] and the "
                f"launcher's words below it, not {words!r}"
            )
        if launcher in RESERVED or not _NAME.fullmatch(launcher):
            raise InputError(
                f"{source}: `{name}.{launcher}`: a name has letters, digits and any of _.+- inside "
                f"of it, and is none of {', '.join(RESERVED)}"
            )
        checked[launcher] = {word: Said(each, source) for word, each in words.items()}
    return checked


_CHECKS = {
    "launch": _check_launch,
    "prologue": _check_prologue,
    "ports": _check_ports,
    LAUNCHERS: _check_launchers,
}
