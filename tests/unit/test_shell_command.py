"""Completions and the manual page have all commands with all their options."""

from __future__ import annotations

import shutil
import subprocess

import pytest

from acme_mpi.cli.completion import bash_text, zsh_text
from acme_mpi.cli.manual import manual_text
from acme_mpi.cli.option_table import option_table
from acme_mpi.cli.options import make_parser
from acme_mpi.cli.shell_command import run_shell_command, shell_parser
from acme_mpi.cli.summaries import COMMANDS

pytestmark = pytest.mark.once

TABLE = option_table(shell_parser())
TEXTS = {"bash": bash_text(TABLE), "zsh": zsh_text(TABLE), "man": manual_text(TABLE)}


def names_of(command: str) -> set[str]:
    (entry,) = [each for each in TABLE if each.name == command]
    return {name for option in entry.options for name in option.names}


def completed(*words: str) -> set[str]:
    """Return what bash offers for the last of some words."""
    quoted = " ".join(f"'{word}'" for word in ("acme-mpi", *words))
    script = (
        f"{TEXTS['bash']}\nCOMP_WORDS=({quoted}) COMP_CWORD={len(words)}\n"
        f"_acme_mpi acme-mpi '{words[-1]}' '{words[-2] if len(words) > 1 else 'acme-mpi'}'\n"
        'printf "%s\\n" "${COMPREPLY[@]}"\n'
    )
    ran = subprocess.run(["bash", "-c", script], capture_output=True, text=True)
    assert ran.stderr == ""
    return set(ran.stdout.split())


def test_the_table_has_all_commands_with_all_options():
    of_runs = {name for action in make_parser()._actions for name in action.option_strings}

    assert [each.name for each in TABLE] == ["", *COMMANDS]
    assert names_of("") == of_runs
    assert of_runs < names_of("submit")
    assert {"--partition", "--again"} <= names_of("submit")
    assert {"--log", "--output-dir"} <= names_of("doctor")
    assert "--joblog" in names_of("status")


@pytest.mark.parametrize("kind", TEXTS)
def test_every_option_is_there(kind):
    text = TEXTS[kind].replace("\\-", "-")

    for entry in TABLE:
        assert entry.name in text
        for option in entry.options:
            for name in option.names:
                assert name in text


@pytest.mark.parametrize(
    ("words", "offered"),
    [
        (["st"], {"status", "stop"}),
        (["doctor", "--lo"], {"--log"}),
        (["mymod:f", "--retr"], {"--retries", "--retry-failed"}),
        (["submit", "--par"], {"--partition"}),
        (["mymod:f", "--payload", "r"], {"rank"}),
        (["shell", ""], {"bash", "zsh", "man"}),
        (["status", "ou"], set()),  # a file: bash's own
    ],
)
def test_bash_completes(words, offered):
    assert completed(*words) == offered


def test_zsh_has_one_place_for_words_without_names():
    """It refuses a second one."""
    for part in TEXTS["zsh"].split("_arguments")[1:]:
        assert part.count("'*:") <= 1


@pytest.mark.skipif(shutil.which("zsh") is None, reason="there is no zsh")
def test_zsh_understands_its_text():
    ran = subprocess.run(["zsh", "-n"], input=TEXTS["zsh"], capture_output=True, text=True)

    assert (ran.returncode, ran.stderr) == (0, "")


@pytest.mark.skipif(shutil.which("groff") is None, reason="there is no groff")
def test_the_manual_page_is_well_formed():
    words = ["groff", "-man", "-ww", "-Tutf8", "-z"]

    ran = subprocess.run(words, input=TEXTS["man"], capture_output=True, text=True)

    assert (ran.returncode, ran.stderr) == (0, "")


@pytest.mark.parametrize("kind", TEXTS)
def test_the_command_prints_them(kind, capsys):
    assert run_shell_command([kind]) == 0
    assert capsys.readouterr().out == TEXTS[kind]
