"""The manual page, from the table of options."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import acme_mpi
from acme_mpi.cli.option_table import Entry, Option


def manual_text(table: Sequence[Entry]) -> str:
    """Return the page in the language of man(7).

    Parameters
    ----------
    table : sequence of Entry
        The call of a function first.
    """
    return "\n".join(_lines(table)) + "\n"


def _lines(table: Sequence[Entry]) -> Iterator[str]:
    call, *commands = table
    yield f'.TH ACME-MPI 1 "" "acme_mpi {acme_mpi.__version__}" "User commands"'
    yield from (
        ".SH NAME",
        r"acme-mpi \- call a function for many inputs on the ranks of an MPI job",
    )
    yield from (".SH SYNOPSIS", ".B acme-mpi", r".I TARGET \fR[\fIARGS\fR] [\fIoptions\fR]", ".br")
    yield from (".B acme-mpi", r".I COMMAND \fR[\fIoptions\fR]")
    yield from (".SH DESCRIPTION", _escaped(call.summary), ".PP")
    yield r"\fBpython \-m acme_mpi\fR is the same program."
    yield ".SH OPTIONS"
    yield from _option_lines(call.options)
    yield ".SH COMMANDS"
    for entry in commands:
        yield f".SS {_escaped(entry.name)}"
        yield _escaped(f"{entry.summary[:1].upper()}{entry.summary[1:]}.")
        own = [each for each in entry.options if each not in call.options]
        yield from _option_lines(own)
        if len(own) < len(entry.options) - 1:
            yield from (".PP", "All options of a run are taken, too.")
    yield from (".SH EXAMPLES", ".nf", *map(_escaped, call.epilog.splitlines()), ".fi")


def _option_lines(options: Sequence[Option]) -> Iterator[str]:
    group = ""
    for each in options:
        if each.group != group:
            group = each.group
            yield f".SS {_escaped(group[:1].upper() + group[1:])}"
        yield ".TP"
        value = rf" \fI{_escaped(each.value)}\fR" if each.value else ""
        names = ", ".join(rf"\fB{_escaped(name)}\fR" for name in each.names)
        yield f"{names}{value}".strip()
        choices = f" ({', '.join(each.choices)})" if each.choices else ""
        yield _escaped(f"{each.text}{choices}")


def _escaped(text: str) -> str:
    text = text.replace("\\", r"\e").replace("-", r"\-").replace("\n", " ")
    return rf"\&{text}" if text.startswith((".", "'")) else text
