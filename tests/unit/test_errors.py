"""Exceptions and the summary of failures."""

from __future__ import annotations

import pickle

import pytest

from acme_mpi.engine.summary import failures_text
from acme_mpi.errors import (
    AcmeMpiError,
    Failure,
    InputError,
    LaunchError,
    StoreError,
    TaskError,
)

pytestmark = pytest.mark.once


def make_failure(index=0, type="ValueError", message="negative width", **fields) -> Failure:
    return Failure(index, type, message, **{"location": "mymod.py:7", "host": "node05", **fields})


@pytest.mark.parametrize(
    ("error", "builtin", "exit_code"),
    [
        (InputError, ValueError, 2),
        (LaunchError, RuntimeError, 2),
        (StoreError, OSError, 74),
        (TaskError, RuntimeError, 1),
    ],
)
def test_every_error_is_also_a_builtin_and_has_its_exit_code(error, builtin, exit_code):
    assert issubclass(error, AcmeMpiError)
    assert issubclass(error, builtin)
    assert error.exit_code == exit_code
    assert str(error("what was wrong")) == "what was wrong"


@pytest.mark.parametrize("error", [InputError, LaunchError, StoreError])
def test_errors_survive_pickling(error):
    copy = pickle.loads(pickle.dumps(error("text")))

    assert type(copy) is error
    assert str(copy) == "text"


def test_a_task_error_survives_pickling():
    """A task error survives pickling with failures and results."""
    error = TaskError("1 of 3 tasks failed", [make_failure(1)], [10, None, 30])

    copy = pickle.loads(pickle.dumps(error))

    assert str(copy) == "1 of 3 tasks failed"
    assert copy.failures == [make_failure(1)]
    assert copy.results == [10, None, 30]


def test_a_failure_in_one_line_says_what_and_where():
    text = str(make_failure(17, rank=3))

    assert text == "task 17 on rank 3 (node05) at mymod.py:7: ValueError: negative width"


def test_a_failure_without_a_location_leaves_it_out():
    assert " at " not in str(make_failure(location=""))


class TestFailuresText:
    def test_the_first_line_counts_and_shows_the_first_failure(self):
        lines = failures_text([make_failure(17, rank=3), make_failure(20)], 1000).splitlines()

        assert lines[0].startswith("2 of 1000 tasks failed, first: task 17 on rank 3 (node05)")

    def test_failures_of_one_type_and_line_are_one_group(self):
        """Failures of one type and line are one group with three ids."""
        failures = [make_failure(index, message=f"width {index}") for index in (3, 5, 8, 9)]

        lines = failures_text(failures, 10).splitlines()

        assert lines[1:] == ["  4 x ValueError at mymod.py:7: width 3 (tasks 3, 5, 8, ...)"]

    def test_the_largest_group_of_failures_comes_first(self):
        """Other types and other lines are other groups and the largest comes first."""
        failures = [
            make_failure(0, type="KeyError"),
            make_failure(1),
            make_failure(2, location="mymod.py:9"),
            make_failure(3),
        ]

        lines = failures_text(failures, 10).splitlines()[1:]

        assert [line.split(":")[0] for line in lines] == [
            "  2 x ValueError at mymod.py",
            "  1 x KeyError at mymod.py",
            "  1 x ValueError at mymod.py",
        ]
        assert "(tasks 1, 3)" in lines[0]

    def test_each_group_has_the_command_of_its_first_task(self):
        """Each group has the command that reproduces its first task."""
        failures = [make_failure(4), make_failure(6, type="KeyError")]

        text = failures_text(failures, 10, reproduce="python -m acme_mpi m:f --debug-task {index}")

        assert "reproduce: python -m acme_mpi m:f --debug-task 4" in text
        assert "reproduce: python -m acme_mpi m:f --debug-task 6" in text

    def test_without_a_command_the_call_is_shown(self):
        assert "reproduce: f(3, y=4)" in failures_text([make_failure(call="f(3, y=4)")], 10)

    def test_braces_in_a_message_are_only_text(self):
        text = failures_text([make_failure(message="{index} {}")], 10, reproduce="run {index}")

        assert "{index} {}" in text

    def test_it_says_where_the_others_are(self):
        text = failures_text([make_failure()], 10, where="/out/f.h5")

        assert text.splitlines()[-1].strip() == "The other 9 results are in /out/f.h5"

    def test_without_files_it_says_nothing_about_them(self):
        assert "other" not in failures_text([make_failure()], 10)


def test_what_has_not_been_run_is_not_counted_as_a_result():
    text = failures_text([make_failure()], 100, where="/out/f.h5", n_unfinished=82)

    assert "17 tasks are done, their results are in /out/f.h5" in text
    assert "99" not in text
