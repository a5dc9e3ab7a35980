"""Completion of the command line for bash and zsh, from the table of options."""

from __future__ import annotations

import shlex
from collections.abc import Sequence

from acme_mpi.cli.option_table import Entry, Option

_BASH = """\
# Completion of acme-mpi for bash:  eval "$(acme-mpi shell bash)"
_acme_mpi() {{
    local word=$2 before=$3 words values=
    case $before in
{values}
    esac
    case ${{COMP_WORDS[1]}} in
{commands}
    esac
    if [[ -n $values ]]; then
        words=$values
    elif ((COMP_CWORD == 1)); then
        words="$words {names}"
    elif [[ $word != -* ]]; then
        return
    fi
    mapfile -t COMPREPLY < <(compgen -W "$words" -- "$word")
}}
complete -o bashdefault -o default -F _acme_mpi acme-mpi
"""

_ZSH = """\
#compdef acme-mpi
# Completion of acme-mpi for zsh:  eval "$(acme-mpi shell zsh)"
_acme_mpi() {{
    local -a commands
    commands=(
{names}
    )
    if ((CURRENT == 2)); then
        _describe command commands
    fi
    case $words[2] in
{commands}
    esac
}}
if [[ $funcstack[1] == _acme_mpi ]]; then
    _acme_mpi "$@"
else
    compdef _acme_mpi acme-mpi
fi
"""


def bash_text(table: Sequence[Entry]) -> str:
    """Return the completion for bash.

    Parameters
    ----------
    table : sequence of Entry
        The call of a function first.
    """
    chosen = {
        "|".join(option.names): " ".join(option.choices)
        for entry in table
        for option in entry.options
        if option.names and option.choices
    }
    return _BASH.format(
        values="\n".join(map(_bash_values, chosen.items())),
        commands="\n".join(map(_bash_case, [*table[1:], table[0]])),
        names=" ".join(entry.name for entry in table[1:]),
    )


def _bash_values(chosen: tuple[str, str]) -> str:
    names, values = chosen
    return f"        {names}) values={shlex.quote(values)} ;;"


def _bash_case(entry: Entry) -> str:
    words = " ".join(name for option in entry.options for name in option.names)
    chosen = [each for option in entry.options if not option.names for each in option.choices]
    values = f" values={shlex.quote(' '.join(chosen))}" if chosen else ""
    return f"        {entry.name or '*'}) words={shlex.quote(words)}{values} ;;"


def zsh_text(table: Sequence[Entry]) -> str:
    """Return the completion for zsh; see `bash_text`."""
    names = [
        f"        {shlex.quote(f'{entry.name}:{_plain(entry.summary)}')}" for entry in table[1:]
    ]
    commands = [_zsh_case(entry) for entry in [*table[1:], table[0]]]
    return _ZSH.format(names="\n".join(names), commands="\n".join(commands))


def _zsh_case(entry: Entry) -> str:
    specs = [spec for option in entry.options if option.names for spec in _zsh_specs(option)]
    words_alone = [option for option in entry.options if not option.names]
    if words_alone:
        values = _plain(" ".join(option.value for option in words_alone))
        specs.append(f"*:{values}:{_zsh_action(words_alone[0])}")  # of these zsh takes one
    if entry.name:
        specs.insert(0, "1: :")  # the command itself
    words = [f"            {shlex.quote(spec)}" for spec in specs]
    arguments = " \\\n".join(["_arguments", *words])
    return f"        {entry.name or '*'})\n            {arguments}\n            ;;"


def _zsh_action(option: Option) -> str:
    return f"({' '.join(option.choices)})" if option.choices else "_files"


def _zsh_specs(option: Option) -> list[str]:
    text = f"[{_plain(option.text)}]"
    if not option.value and not option.choices:
        return [f"*{name}{text}" for name in option.names]
    value = f":{_plain(option.value) or 'value'}:{_zsh_action(option)}"
    signs = ["=" if name.startswith("--") else "" for name in option.names]
    return [f"*{name}{sign}{text}{value}" for name, sign in zip(option.names, signs, strict=True)]


def _plain(text: str) -> str:
    """Return a text with what zsh would take for its own."""
    return text.replace("\\", "\\\\").replace("[", r"\[").replace("]", r"\]").replace(":", r"\:")
