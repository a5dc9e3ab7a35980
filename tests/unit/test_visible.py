"""Nothing that others wrote acts on a terminal, whichever way it leaves."""

from __future__ import annotations

import io
import json
import logging
import re
import sys

import pytest

from acme_mpi.cli.commands import run_command
from acme_mpi.engine.messages import ConsoleFormatter, run_messages
from acme_mpi.engine.summary import failures_text, parallel_map_text
from acme_mpi.errors import Failure, InputError, PlaceError, TaskError
from acme_mpi.history.description import Description
from acme_mpi.history.journal import (
    AS_GROUPS,
    Block,
    Journal,
    pack_failure,
    pack_record,
)
from acme_mpi.history.layout import journal_name
from acme_mpi.linux.terminal import ask
from acme_mpi.visible import say, visible

pytestmark = pytest.mark.once

EVIL = "\x1b]0;owned\x07\x1b[2J\r\x7f\x9b31m\u202e\udc80"
SHOWN = r"\x1b]0;owned\x07\x1b[2J\r\x7f\x9b31m\u202e\udc80"
UNSEEN = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u202e\ud800-\udfff]")


def test_every_control_character_becomes_an_escape():
    controls = [chr(k) for k in (*range(32), *range(127, 160)) if chr(k) not in "\n\t"]

    assert [visible(c) for c in controls] == [repr(c)[1:-1] for c in controls]
    assert visible(EVIL) == SHOWN


def test_what_is_no_control_character_stays():
    plain = "Größe: 3 µm, 你好 🙂\u200d\n\tC:\\new\\x1b"

    assert visible(plain) == plain


def test_twice_is_once():
    assert visible(visible(EVIL)) == visible(EVIL)


def test_a_text_can_be_kept_in_its_line_or_in_its_column():
    assert visible("a\tb\nc", kept="\t") == "a\tb\\nc"
    assert visible("a\tb\nc", kept="") == "a\\tb\\nc"


@pytest.mark.parametrize("encoding", ["ascii", "utf-8", "latin-1"])
def test_any_stream_takes_any_text(encoding):
    raw = io.BytesIO()
    file = io.TextIOWrapper(raw, encoding)
    say(f"ü你{EVIL}", file)
    file.flush()

    assert UNSEEN.search(raw.getvalue().decode(encoding).rstrip("\n")) is None


FAILURES = [
    Failure(k, f"E{EVIL}", f"one\ntwo{EVIL}", f"a{EVIL}.py:1", f"File {EVIL}\n", EVIL, EVIL)
    for k in range(2)
]


@pytest.mark.parametrize("error", [InputError(EVIL), PlaceError(EVIL), TaskError(EVIL)])
def test_an_exception_shows_them_and_keeps_its_text(error):
    assert str(error) == SHOWN
    assert error.args == (EVIL,)


def test_failures_are_told_line_by_line():
    text = failures_text(FAILURES, 3, EVIL)

    assert UNSEEN.search(text) is None
    assert r"one\ntwo" in text
    assert len(text.splitlines()) == 4
    assert UNSEEN.search(str(TaskError(parallel_map_text(FAILURES, 3, EVIL)))) is None


def test_messages_show_them_on_the_console_and_in_the_log(tmp_path, monkeypatch):
    console = io.StringIO()
    handler = logging.StreamHandler(console)
    handler.setFormatter(ConsoleFormatter())
    logger = logging.getLogger("acme_mpi")
    logger.addHandler(handler)
    monkeypatch.setattr(logger, "propagate", False)  # pytest-xdist cannot tell of half characters
    try:
        with run_messages(str(tmp_path / "log")):
            logger.warning("from %s", EVIL)
    finally:
        logger.removeHandler(handler)

    assert console.getvalue() == f"from {SHOWN}\n"
    assert SHOWN in (tmp_path / "log").read_text()


def test_a_question_shows_them(monkeypatch, capsys):
    class Terminal(io.StringIO):
        def isatty(self) -> bool:
            return True

    monkeypatch.setattr(sys, "stdin", Terminal("y\n"))

    assert ask(f"remove {EVIL}?")
    assert f"remove {SHOWN}? [Y/n]" in capsys.readouterr().err


@pytest.fixture
def directory(tmp_path):
    """Return a directory with records in which every text is evil."""
    directory = tmp_path / "a\x1b[1mb"
    name = "f\x1b[2J\x9b31m"
    folder = directory / ".acme_mpi" / name
    folder.mkdir(parents=True)
    debug = f"reproduce {EVIL} {{index}}"
    Description(name, 9, "rank", start_s=1.0, command=EVIL, debug=debug).write(str(folder), 0)
    # Journals keep hosts as bytes, that of a host cannot have half a character.
    host = EVIL[:-1] + "\n\t"
    said = {"type": EVIL, "message": EVIL, "location": EVIL, "traceback": "", "call": EVIL}
    fields = {"start_s": 1.0, "busy_s": 2.0, "peak_bytes": 5, "host": host}
    journal = Journal(str(folder / journal_name(0, 0)))
    journal.append([pack_record(range(0, 2), form=AS_GROUPS, n_bytes=3, **fields)])
    journal.append([pack_record(range(1), Block.SLOW, **fields)])
    journal.append([pack_failure(5, json.dumps(said), True, **fields)])
    journal.close()
    lease = dict.fromkeys(("host", "boot_id", "token"), EVIL)
    lease |= {"pid_namespace": 1, "pid": 1, "started": 1, "taken_s": 1.0}
    (folder / "lease").write_text(json.dumps(lease))
    return directory


@pytest.mark.parametrize("words", ["status", "status --joblog", "status --json", "check", "stop"])
def test_commands_show_them(directory, capsys, words):
    run_command([*words.split(), str(directory)])

    told = capsys.readouterr()
    assert told.out
    assert UNSEEN.search(told.out + told.err) is None
    if "--joblog" in words:
        assert {line.count("\t") for line in told.out.splitlines()} == {8}


def test_a_command_line_shows_them(mpiexec, tmp_path):
    (tmp_path / "mod.py").write_text(
        f"def f(x):\n    class E(Exception): pass\n    E.__name__ = {EVIL[:-1]!r}\n"
        f"    raise E({EVIL!r})\n"
    )
    end = mpiexec(
        0, "-m", "acme_mpi", "mod:f", "--set", "x=[1, 2]", "--output-dir", "out", cwd=tmp_path
    )

    assert end.returncode == 1
    logs = list((tmp_path / "out").glob("*.log"))
    for text in (end.stdout, end.stderr, logs[0].read_text()):
        assert UNSEEN.search(text) is None
    assert SHOWN.removesuffix(r"\udc80") in end.stderr
    assert "Logging error" not in end.stderr
