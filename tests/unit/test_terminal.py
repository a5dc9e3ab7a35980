"""Who sees and who answers: terminals of this process and of its launcher."""

from __future__ import annotations

import io
import json
import os
import pty
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from acme_mpi.linux.terminal import ask

pytestmark = pytest.mark.once


def closed(file: io.StringIO) -> io.StringIO:
    file.close()
    return file


@pytest.fixture
def type_in(monkeypatch) -> Iterator[Callable[[str], None]]:
    """Make standard input a terminal; return the function that types on it."""
    ours, theirs = pty.openpty()
    with open(theirs) as stdin:
        monkeypatch.setattr(sys, "stdin", stdin)
        yield lambda text: os.write(ours, text.encode())
    os.close(ours)


class TestAsk:
    @pytest.mark.parametrize(
        ("typed", "answer"),
        [
            ("y\n", True),
            ("Yes\n", True),
            ("\n", True),
            ("n\n", False),
            (" No \n", False),
            ("\x04", None),
        ],
    )
    def test_the_answer_on_a_terminal(self, type_in, capsys, typed, answer):
        type_in(typed)

        assert ask("Go on?") is answer
        assert capsys.readouterr() == ("", "Go on? [Y/n] ")

    def test_what_is_no_answer_is_asked_again(self, type_in, capsys):
        type_in("what?\nn\n")

        assert ask("Go on?") is False
        assert capsys.readouterr().err.count("Go on?") == 2

    @pytest.mark.parametrize("stdin", [None, io.StringIO("y\n"), closed(io.StringIO())])
    def test_without_a_terminal_nothing_is_asked(self, monkeypatch, capsys, stdin):
        monkeypatch.setattr(sys, "stdin", stdin)

        assert ask("Go on?") is None
        assert capsys.readouterr().err == ""

    def test_a_notebook_asks_in_its_own_way(self, monkeypatch, capsys):
        asked: list[str] = []

        def answer(prompt=""):
            asked.append(prompt)
            return ["what?", "n"][len(asked) - 1]

        monkeypatch.setattr(sys, "stdin", io.StringIO())
        monkeypatch.setattr("builtins.input", answer)

        assert ask("Go on?") is False
        assert asked == ["Go on? [Y/n] "] * 2
        assert capsys.readouterr() == ("", "")

    @pytest.mark.parametrize("error", [NotImplementedError, EOFError, OSError])
    def test_a_notebook_that_nobody_looks_at_is_no_answer(self, monkeypatch, error):
        def answer(prompt=""):
            raise error("raw_input was called, but this frontend does not support input requests")

        monkeypatch.setattr("builtins.input", answer)

        assert ask("Go on?") is None


class Unreadable(io.StringIO):
    """Standard input as pytest and kernels leave it, below a launcher with a terminal."""

    def fileno(self) -> int:
        raise io.UnsupportedOperation("fileno")

    def readline(self, *args: object) -> str:
        raise OSError("reading from stdin while output is captured")


def test_captured_input_has_no_answer(monkeypatch):
    monkeypatch.setattr(sys, "stdin", Unreadable())
    monkeypatch.setattr("acme_mpi.linux.terminal._is_terminal", lambda pid, descriptor: True)

    assert ask("Go on?", 1) is None


# On a terminal; `echo` puts a pipe before standard input, as a launcher does.
FAMILY = """
echo n | $PYTHON talk.py parent 1
echo n | $PYTHON talk.py no-launcher 0
echo n | sh -c '$PYTHON talk.py grandparent 2; true'
echo n | sh -c '$PYTHON talk.py uncle 1; true'
ln -s "$(command -v sh)" hydra_pmi_proxy
echo n | ./hydra_pmi_proxy -c '$PYTHON talk.py proxy 1; true' 2> pipe
(exec $PYTHON talk.py parents-stderr 0 2> /dev/null < /dev/null)
sh -c '$PYTHON talk.py no-stderr 0; true' 2> /dev/null < /dev/null
"""
TALK = """
import json
import sys

from acme_mpi.linux.terminal import ask, is_watched

name, n_above = sys.argv[1:]
with open(f"{name}.json", "w") as file:
    json.dump([ask("Go on?", int(n_above)), is_watched()], file)
"""


@pytest.fixture(scope="module")
def family(mpiexec, tmp_path_factory) -> Path:
    """Return the folder with what processes know whose parents have a terminal."""
    folder = tmp_path_factory.mktemp("family")
    (folder / "talk.py").write_text(TALK)
    (folder / "family.sh").write_text(FAMILY)
    program = "import pty, sys; sys.exit(pty.spawn(['sh', 'family.sh'], stdin_read=lambda _: b''))"
    environment = {
        "PYTHON": sys.executable,
        "PYTHONPATH": str(Path(__file__).parents[2]),
    }
    ran = mpiexec(0, "-c", program, cwd=folder, env=environment)
    assert ran.returncode == 0, ran.stdout
    return folder


@pytest.mark.slow
class TestFamily:
    @pytest.mark.parametrize(
        ("name", "answer"),
        [
            ("parent", False),
            ("no-launcher", None),
            ("grandparent", False),
            ("uncle", None),
            ("proxy", False),
        ],
    )
    def test_a_launchers_terminal_is_asked(self, family, name, answer):
        assert json.loads((family / f"{name}.json").read_text())[0] is answer

    @pytest.mark.parametrize(
        ("name", "is_watched"),
        [("parent", True), ("parents-stderr", True), ("no-stderr", False), ("proxy", True)],
    )
    def test_a_launchers_terminal_is_watched(self, family, name, is_watched):
        assert json.loads((family / f"{name}.json").read_text())[1] is is_watched
