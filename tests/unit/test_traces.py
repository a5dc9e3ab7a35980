"""What is told of an exception: all of it, in Python's words, without our frames."""

from __future__ import annotations

from pathlib import Path

import pytest

import acme_mpi
from acme_mpi.cli.status_text import status_text
from acme_mpi.history.status import read_status
from acme_mpi.runner.failure import describe_failure
from acme_mpi.runner.trace import MAX_CHARACTERS

pytestmark = pytest.mark.once


def trace_of(func, *args) -> str:
    try:
        func(*args)
    except BaseException as error:
        return describe_failure(error, 0, "f", None)["traceback"]
    raise AssertionError("nothing was raised")


def cause():
    try:
        {}["inner"]
    except KeyError as error:
        raise ValueError("outer") from error


def context():
    try:
        {}["inner"]
    except KeyError:
        raise ValueError("outer")  # noqa: B904


def suppressed():
    try:
        {}["inner"]
    except KeyError:
        raise ValueError("outer") from None


def notes():
    error = ValueError("outer")
    error.add_note("the first note")
    raise error


def group():
    raise ExceptionGroup("several", [ValueError("first member"), KeyError("second member")])


def syntax():
    compile("a = = 1", "given.py", "exec")


@pytest.mark.parametrize(
    ("func", "there"),
    [
        (cause, ["KeyError: 'inner'", "direct cause of the following", "ValueError: outer"]),
        (context, ["KeyError: 'inner'", "another exception occurred", "ValueError: outer"]),
        (suppressed, ["ValueError: outer"]),
        (notes, ["ValueError: outer", "the first note"]),
        (group, ["several (2 sub-exceptions)", "first member", "second member"]),
        (syntax, ["given.py", "a = = 1", "^", "SyntaxError: invalid syntax"]),
    ],
)
def test_a_traceback_is_whole(func, there):
    text = trace_of(func)

    assert [each for each in there if each not in text] == []
    assert ("inner" in text) == ("KeyError: 'inner'" in there)


class Unspeakable(Exception):
    def __str__(self):
        raise RuntimeError("no words")


class Noteless(Exception):
    @property
    def __notes__(self):
        raise RuntimeError("no notes")


def circle():
    first, second = ValueError("first"), ValueError("second")
    first.__cause__, second.__cause__ = second, first
    raise first


def depth(n):
    error = None
    for k in range(n):
        try:
            raise ValueError(f"number {k}") from error
        except ValueError as raised:
            error = raised
    raise error


def endless():
    endless()


def throw(error):
    raise error


@pytest.mark.parametrize(
    ("func", "args"),
    [
        (throw, [Unspeakable()]),
        (throw, [Noteless()]),
        (circle, []),
        (depth, [3000]),
        (endless, []),
        (throw, [ValueError("x" * 10**6)]),
        (throw, [ExceptionGroup("g", [ValueError(str(k)) for k in range(1000)])]),
        (throw, [ValueError("\udc80")]),
    ],
)
def test_every_exception_has_a_bounded_traceback(func, args):
    """Whatever an exception does its traceback is had and bounded."""
    text = trace_of(func, *args)

    assert text
    assert len(text) < MAX_CHARACTERS + 100


def fail(x):
    try:
        {}[x]
    except KeyError as error:
        raise ValueError(f"bad {x % 2}") from error


def test_no_frame_of_ours_is_in_a_tasks_traceback():
    with pytest.raises(acme_mpi.TaskError) as caught:
        acme_mpi.map(fail, range(3), write_worker_results=False)

    own = str(Path(acme_mpi.__file__).parent)
    for failure in caught.value.failures:
        assert "direct cause" in failure.traceback
        assert own not in failure.traceback


def test_every_traceback_is_in_the_log_file_and_in_the_status(tmp_path):
    with pytest.raises(acme_mpi.TaskError):
        acme_mpi.map(fail, range(4), output_dir=str(tmp_path / "out"))

    (log,) = (tmp_path / "out").glob("*.log")
    text = log.read_text()
    for x in range(4):
        assert f"KeyError: {x}" in text
    status = read_status(tmp_path / "out" / ".acme_mpi" / "fail")
    assert "direct cause" in status.failures[0].traceback
    assert "traceback of task 0:\n    Traceback" in status_text(status)
    assert "direct cause" in status_text(status)


@pytest.mark.parametrize("words", [[], ["-v"]])
def test_the_command_line_shows_the_first_traceback_with_v(mpiexec, write_script, words, tmp_path):
    path = write_script("def f(x):\n    {}[f'key {x}']\n", "failing.py")

    ran = mpiexec(0, "-m", "acme_mpi", f"{path}:f", "--set", "x=[1, 2]", *words, cwd=tmp_path)

    assert ran.returncode == 1
    assert ran.stderr.count("Traceback (most recent call last)") == len(words)
    (log,) = tmp_path.glob("ACME_*/*.log")
    assert log.read_text().count("Traceback (most recent call last)") == 2
