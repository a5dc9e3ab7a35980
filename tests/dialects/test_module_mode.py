"""``python -m acme_mpi -m MODULE``: rank 0 runs a module, as Python does; ranks serve its calls."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest

import acme_mpi

pytestmark = pytest.mark.slow

MAIN = """
import json
import os
import sys

import acme_mpi
from study import beside
from study.beside import scale

from . import beside as relative

OFFSET = 100
MEMORY = {"write_worker_results": False}


class Point:
    def __init__(self, x):
        self.x = x


def shift(i):
    return Point(i + OFFSET)


facts = {
    "argv": sys.argv,
    "path": sys.path[0],
    "name": __name__,
    "package": __package__,
    "is main": sys.modules["__main__"].__dict__ is globals(),
    "relative": relative is beside,
    "own function": [point.x for point in acme_mpi.map(shift, range(4), **MEMORY)],
    "lambda": acme_mpi.map(lambda i: -i * OFFSET, range(3), **MEMORY),
    "imported function": acme_mpi.map(scale, range(3), **MEMORY),
    "own process": os.getpid() in acme_mpi.map(lambda i: os.getpid(), range(9), **MEMORY),
}
with acme_mpi.ParallelMap(shift, [1, 2], **MEMORY) as pmap:
    facts["ParallelMap"] = [point.x for point in pmap.compute()]
with open("facts.json", "w") as file:
    json.dump(facts, file)
print("the module's output")
sys.exit(5)
"""
TESTS = """
import os

import pytest

from acme_mpi import ParallelMap


def double(x):
    return 2 * x, os.getpid()


def test_on_the_ranks():
    with ParallelMap(double, range(4), write_worker_results=False) as pmap:
        results = pmap.compute()

    assert [value for value, _ in results] == [0, 2, 4, 6]
    assert os.getpid() not in {process for _, process in results}


def test_a_failure():
    with pytest.raises(RuntimeError, match="1/3 tasks failed"):
        ParallelMap(lambda x: 1 / x, range(3), write_worker_results=False).compute()
"""


@pytest.fixture
def acme(mpiexec, tmp_path) -> Any:
    """Return a function that runs ``python -m acme_mpi`` in `tmp_path` on n ranks."""

    def run(n: int, *args: object, **options: Any) -> Any:
        return mpiexec(n, "-m", "acme_mpi", *args, **{"cwd": tmp_path, **options})

    return run


@pytest.fixture(
    scope="module",
    params=[
        pytest.param((0, "study"), marks=pytest.mark.once),
        pytest.param((3, "study.__main__"), marks=pytest.mark.every),
    ],
)
def study(request, mpiexec, tmp_path_factory) -> tuple[Path, dict[str, Any], Any]:
    """Run a package; return its folder, its facts and the ended process."""
    n, name = request.param
    folder = tmp_path_factory.mktemp("study")
    (folder / "study").mkdir()
    (folder / "study" / "__init__.py").touch()
    (folder / "study" / "__main__.py").write_text(MAIN)
    (folder / "study" / "beside.py").write_text("def scale(x):\n    return 5 * x\n")
    # What follows the module's name is its own, even if it looks like ours.
    args = ["-q", "-m", name, "mymod:f", "-m", "other", "--dry-run", "two words"]
    ran = mpiexec(n, "-m", "acme_mpi", *args, cwd=folder)
    if not (folder / "facts.json").exists():
        pytest.fail(ran.stderr)
    return folder, json.loads((folder / "facts.json").read_text()), ran


def test_the_exit_status_is_the_modules(study):
    assert study[2].returncode == 5


def test_the_output_is_the_modules(study):
    assert study[2].stdout == "the module's output\n"
    assert "Traceback" not in study[2].stderr


def test_the_arguments_are_pythons(study):
    folder, facts, _ = study

    path = str(folder / "study" / "__main__.py")
    assert facts["argv"] == [path, "mymod:f", "-m", "other", "--dry-run", "two words"]


def test_the_module_is_main_in_its_package(study):
    facts = study[1]

    assert (facts["name"], facts["package"], facts["is main"]) == ("__main__", "study", True)
    assert facts["relative"] is True


def test_modules_are_found_from_the_working_directory(study):
    folder, facts, _ = study

    assert facts["path"] == str(folder)


@pytest.mark.parametrize(
    ("fact", "expected"),
    [
        ("own function", [100, 101, 102, 103]),
        ("lambda", [0, -100, -200]),
        ("imported function", [0, 5, 10]),
        ("ParallelMap", [101, 102]),
        ("own process", False),
    ],
)
def test_what_is_defined_in_the_module_can_be_called(study, fact, expected):
    assert study[1][fact] == expected


def test_pytest_runs_on_rank_0_and_its_tests_call_the_ranks(acme, tmp_path):
    (tmp_path / "test_study.py").write_text(TESTS)

    ran = acme(2, "-q", "-m", "pytest", "-q", "-p", "no:cacheprovider", "test_study.py")

    assert ran.returncode == 0, ran.stdout + ran.stderr
    assert ran.stdout.count("2 passed") == 1


@pytest.mark.parametrize(
    ("n", "name"), [(2, "nosuchmodule"), (0, "package"), (0, "package.missing")]
)
@pytest.mark.once
def test_a_module_that_cannot_be_run_is_named_once(acme, tmp_path, n, name):
    (tmp_path / "package").mkdir()
    (tmp_path / "package" / "__init__.py").touch()

    ran = acme(n, "-q", "-m", name)

    assert (ran.returncode, ran.stdout) == (1, "")
    assert ran.stderr.count("No module named ") == 1
    assert name in ran.stderr
    assert os.path.dirname(acme_mpi.__file__) not in ran.stderr
    assert "runpy" not in ran.stderr


@pytest.mark.once
def test_an_uncaught_exception_is_shown_without_our_frames(acme, tmp_path):
    (tmp_path / "broken.py").write_text("def inner():\n    1 / 0\n\n\ninner()\n")

    ran = acme(0, "-q", "-m", "broken")

    assert ran.returncode == 1
    assert ran.stderr.count(f'File "{tmp_path / "broken.py"}"') == 2
    assert ran.stderr.count("ZeroDivisionError: division by zero") == 1
    assert os.path.dirname(acme_mpi.__file__) not in ran.stderr
    assert "runpy" not in ran.stderr


@pytest.mark.parametrize(
    ("args", "said"),
    [
        (["mymod:f", "-m", "study"], "-m study and 'mymod:f': give one of them"),
        (["-m"], "expected one argument"),
        (["--single-file", "-m", "study"], "--single-file cannot be used with a script"),
        (["--set", "x=1", "-m", "study"], "--set cannot be used with a script"),
        (["--dry-run", "--plan", "-m", "study"], "--dry-run, --plan cannot be used with a script"),
        (["--n-inputs", "3", "-m", "study"], "--n-inputs cannot be used with a script"),
    ],
)
@pytest.mark.once
def test_what_cannot_be_meant_is_refused(acme, tmp_path, args, said):
    (tmp_path / "study.py").write_text("print('runs')\n")

    ran = acme(0, *args)

    assert (ran.returncode, ran.stdout) == (2, "")
    assert ran.stderr.count(said) == 1
    assert "Traceback" not in ran.stderr


@pytest.mark.once
def test_the_name_may_follow_without_a_space(acme, tmp_path):
    (tmp_path / "study.py").write_text("import sys\nprint(sys.argv[1:])\n")

    ran = acme(0, "-q", "-mstudy", "x", "-v")

    assert (ran.returncode, ran.stdout) == (0, "['x', '-v']\n"), ran.stderr


@pytest.mark.once
def test_what_is_shown_may_be_chosen(acme, tmp_path):
    (tmp_path / "study.py").write_text(
        "import acme_mpi\nacme_mpi.map(abs, [-1], write_worker_results=False)\n"
    )

    ran = acme(1, "-q", "--bar", "-m", "study")

    assert (ran.returncode, ran.stdout) == (0, "")
    assert "100%" in ran.stderr
    assert "SUCCESS" not in ran.stderr
