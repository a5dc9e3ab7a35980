"""``--only`` and ``only=``: some tasks are called, and all others stay as they are."""

from __future__ import annotations

import numpy as np
import pytest
from resume_runs import N_TASKS, Place

import acme_mpi
from acme_mpi import InputError
from acme_mpi.cli.options import check_options, make_parser
from acme_mpi.session.only import chosen_tasks, parse_tasks

pytestmark = pytest.mark.once

OUT = ("--output-dir", "out")


@pytest.fixture
def place(tmp_path, mpiexec):
    return Place(tmp_path, mpiexec)


def done_in(place):
    return [task for task, _ in acme_mpi.open(place.path / "out").items()]


@pytest.mark.parametrize(
    "layout", [(), ("--single-file",), ("--payload", "computation"), ("--result-shape", "None,2")]
)
def test_only_these_are_called_and_the_rest_later(place, layout):
    ran = place.run(2, "g", *OUT, *layout, "--only", "3,7-9")

    assert ran.returncode == 0, ran.stderr
    assert "4 of 40 tasks are" in ran.stderr
    assert "--only" not in ran.stderr.splitlines()[-1]
    assert sorted(place.take_calls()) == done_in(place) == [3, 7, 8, 9]
    assert place.run(0, "g", *OUT, *layout, "--only", "8-10").returncode == 0
    assert sorted(place.take_calls()) == [10]
    assert place.run(0, "g", *OUT, *layout).returncode == 0
    assert len(place.take_calls()) == N_TASKS - 5
    assert done_in(place) == list(range(N_TASKS))
    assert all(np.array_equal(v, [x, -x]) for x, v in enumerate(acme_mpi.open(place.path / "out")))


def test_failed_ones_are_called_again_and_others_stay_failed(place):
    place.order(_3="fail", _5="fail")
    assert place.run(0, "f", *OUT).returncode == 1
    place.order(_5="fail")
    place.take_calls()

    ran = place.run(0, "f", *OUT, "--only", "3,4")
    assert ran.returncode == 0, ran.stderr
    assert "39 of 40 tasks are" in ran.stderr
    assert sorted(place.take_calls()) == [3]
    assert place.run(0, "f", *OUT, "--only", "3,4").returncode == 0
    assert place.run(0, "f", *OUT, "--only", "4-5").returncode == 1
    assert sorted(place.take_calls()) == [5]
    assert [each.task for each in acme_mpi.open(place.path / "out").failed] == [5]
    place.order()
    assert place.run(0, "f", *OUT, "--only", "failed").returncode == 0
    assert sorted(place.take_calls()) == [5]


def test_what_is_done_already_is_success(place):
    assert place.run(0, "f", *OUT, "--only", "0-2").returncode == 0
    place.take_calls()

    assert place.run(0, "f", *OUT, "--only", "0-2").returncode == 0
    assert not place.take_calls()


def test_tasks_that_do_not_exist_are_refused(place):
    ran = place.run(0, "f", *OUT, "--only", "3,40")

    assert ran.returncode == 2
    assert "--only names task 40, and there are 40" in ran.stderr
    assert not (place.path / "out").exists()


@pytest.mark.parametrize(
    ("text", "ranges"),
    [("17", ((17, 18),)), ("17,402-410", ((17, 18), (402, 411))), ("3-3", ((3, 4),))],
)
def test_ranges_include_both_ends(text, ranges):
    assert parse_tasks(text) == ranges


@pytest.mark.parametrize("text", ["", "a", "3,", "4-3", "-3", "3-", "1-2-3", "1.5", "3 4", "all"])
def test_what_is_no_range_is_refused(text):
    with pytest.raises(InputError, match="--only needs indices"):
        parse_tasks(text)


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--only", "3", "--no-write"], "needs results in files"),
        (["--only", "3", "--retry-failed"], "give one of them"),
        (["--only", "failed", "--overwrite"], "--overwrite begins anew"),
    ],
)
def test_what_contradicts_it_is_refused(words, said):
    with pytest.raises(InputError, match=said):
        check_options(make_parser().parse_args(["mymod:f", "args.npz", *words]))


def square(x):
    if x == 3:
        raise ValueError("three")
    return x * x


@pytest.mark.parametrize("layout", [{}, {"single_file": True}, {"result_shape": (None,)}])
def test_in_python_only_these_are_called(tmp_path, layout):
    words = {"output_dir": str(tmp_path), **layout}
    acme_mpi.map(square, range(6), only=[1, 4, 5], **words)
    assert [task for task, _ in acme_mpi.open(tmp_path).items()] == [1, 4, 5]

    acme_mpi.map(square, range(6), only="0-2", **words)
    assert [task for task, _ in acme_mpi.open(tmp_path).items()] == [0, 1, 2, 4, 5]
    with pytest.raises(acme_mpi.TaskError):
        acme_mpi.map(square, range(6), resume=True, **words)
    with pytest.raises(acme_mpi.TaskError, match="task 3"):
        acme_mpi.map(square, range(6), only="failed", **words)
    assert acme_mpi.map(square, range(6), only=[2], **words)
    assert [int(np.ravel(v)[0]) for _, v in acme_mpi.open(tmp_path).items()] == [0, 1, 4, 16, 25]


def test_a_job_calls_only_these(tmp_path):
    words = {"output_dir": str(tmp_path), "launch": acme_mpi.Local(1)}
    acme_mpi.submit(square, range(6), only=range(4, 6), **words).result()
    assert [task for task, _ in acme_mpi.open(tmp_path).items()] == [4, 5]

    acme_mpi.map(square, range(6), only=[0], **words)
    assert [task for task, _ in acme_mpi.open(tmp_path).items()] == [0, 4, 5]


@pytest.mark.parametrize(
    ("only", "ranges"),
    [
        (17, ((17, 18),)),
        ([19, 17, 18, 17], ((17, 20),)),
        (np.array([1, 5, 6]), ((1, 2), (5, 7))),
        (range(8, 2, -2), ((4, 5), (6, 7), (8, 9))),
        ({3}, ((3, 4),)),
        ("2,4-5", ((2, 3), (4, 6))),
        ("failed", None),
        (None, None),
    ],
)
def test_in_python_tasks_are_named_in_many_ways(only, ranges):
    assert chosen_tasks(only, 20, "rank") == ranges


@pytest.mark.parametrize(
    ("only", "said"),
    [
        ([], "names no task"),
        ([20], "names task 20, and there are 20"),
        ([-1], "names task -1; indices begin with 0"),
        ([10**30], "names task 1000"),
        ([1.0], "holds 1.0"),
        ([True, False], "holds True"),
        (np.zeros((2, 2), int), "no index of a task"),
        (2.5, "has to be None, indices"),
        ("3-", "needs indices of tasks"),
        ({"a": 1}, "has to be None, indices"),
    ],
)
def test_in_python_what_names_no_tasks_is_refused(only, said):
    with pytest.raises(InputError, match=said):
        chosen_tasks(only, 20, "rank")


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ({"write_worker_results": False}, "needs results in files"),
        ({"resume": "failed"}, "give one of them"),
    ],
)
def test_in_python_what_contradicts_it_is_refused(words, said):
    with pytest.raises(InputError, match=said):
        acme_mpi.map(square, range(6), only=[1], **words)
