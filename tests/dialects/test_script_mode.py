"""``python -m acme_mpi script.py``: rank 0 runs a script, and all ranks serve its `map` calls."""

from __future__ import annotations

import json
import os
import signal
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from conftest import by_stacks

import acme_mpi

pytestmark = pytest.mark.slow

MANY = """
import json
import os
import sys

import numpy as np

import acme_mpi
from helper import scale  # beside the script

facts = {"argv": sys.argv, "name": __name__, "file": __file__}
# Open MPI 5 passes lines on, but never their end.
facts["stdin"] = sys.stdin.readline() + sys.stdin.readline()
PLACES = ("OMPI_COMM", "PMIX_", "PMI_", "HYDI_", "MPI_LOCAL")
facts["launcher"] = [name for name in os.environ if name.startswith(PLACES)]
MEMORY = {"write_worker_results": False}


def f(x, y, z=3):
    return (x + y) * z


class Point:
    def __init__(self, x):
        self.x = x

    def __add__(self, other):
        return Point(self.x + other)

    def __call__(self, y):
        return self.x * y


def make_adder(n):
    def add(x):
        return x + n

    return add


def fail_at(i, bad):
    if i == bad:
        raise ValueError(f"bad {i}")
    return i


facts["function"] = acme_mpi.map(f, [2, 4, 6, 8], 4, **MEMORY)
facts["lambda"] = acme_mpi.map(lambda x: x**2, range(4), **MEMORY)
facts["closure"] = acme_mpi.map(make_adder(10), range(4), **MEMORY)
facts["method"] = acme_mpi.map(Point(3).__add__, range(2), **MEMORY)[1].x
facts["callable"] = acme_mpi.map(Point(3), [1, 2], **MEMORY)
facts["instances"] = [p.x for p in acme_mpi.map(lambda p: p + 1, [Point(1), Point(2)], **MEMORY)]
facts["helper"] = acme_mpi.map(scale, [1, 2], **MEMORY)
facts["rows"] = acme_mpi.map(f, [2, 4], 4, result_shape=(None,), **MEMORY).tolist()
facts["processes"] = len(set(acme_mpi.map(lambda i: os.getpid(), range(200), **MEMORY)))
facts["own process"] = os.getpid() in acme_mpi.map(lambda i: os.getpid(), range(9), **MEMORY)
stores = {"rank": {}, "computation": {"payload": "computation"}, "single": {"single_file": True}}
for name, options in stores.items():
    facts[name] = acme_mpi.map(f, [2, 4, 6, 8], 4, output_dir=name, **options)
    acme_mpi.map(f, [2, 4, 6, 8], 4, output_dir=name + "-rows", result_shape=(None,), **options)
large = np.arange(300_000.0)

def total(i, big):
    return float(big.sum()) + i


sums = acme_mpi.map(total, range(3), big=acme_mpi.Shared(large), **MEMORY)
facts["large"] = sums == [float(large.sum()) + i for i in range(3)]
back = acme_mpi.map(lambda i: np.full(200_000, i), range(3), **MEMORY)
facts["large back"] = [int(a.sum()) for a in back]
try:
    acme_mpi.map(fail_at, range(4), 2, **MEMORY)
except acme_mpi.TaskError as error:
    facts["failures"] = [str(error).split(" on ")[0], error.results, error.failures[0].index]
try:
    acme_mpi.map(f, 1, 2)
except acme_mpi.InputError as error:
    facts["input error"] = str(error).splitlines()[0]
open("file", "w").close()
try:
    acme_mpi.map(f, [1], 2, output_dir="file/below")
except acme_mpi.PlaceError as error:
    facts["place error"] = "file/below" in str(error)
try:
    acme_mpi.map(f, [1], 2, output_dir="/proc/out")
except acme_mpi.StoreError as error:
    facts["store error"] = "/proc/out" in str(error)
try:
    acme_mpi.map(f, [1], 2, output_dir="rank")
except acme_mpi.InputError as error:
    facts["exists"] = "exists" in str(error)
facts["after errors"] = acme_mpi.map(f, [2], 4, **MEMORY)
os.mkdir("sub")
os.chdir("sub")
acme_mpi.map(f, [2, 4], 4, output_dir="relative")
facts["seen from"] = acme_mpi.map(lambda i: os.getcwd(), range(1), **MEMORY)
os.chdir("..")
with open("facts.json", "w") as file:
    json.dump(facts, file)
print("the script's output")
print("the script's errors", file=sys.stderr)
sys.exit(3)
"""


@pytest.fixture
def acme(mpiexec, tmp_path) -> Any:
    """Return a function that runs ``python -m acme_mpi`` in `tmp_path` on n ranks."""

    def run(n: int, *args: object, **options: Any) -> Any:
        return mpiexec(n, "-m", "acme_mpi", *args, **{"cwd": tmp_path, **options})

    return run


@pytest.fixture(scope="module", params=by_stacks([0, 1, 3], every=[3]))
def many(request, mpiexec, tmp_path_factory) -> tuple[Path, dict[str, Any], Any]:
    """Run a script that does many things; return its folder, its facts and the ended process."""
    folder = tmp_path_factory.mktemp(f"many{request.param}")
    (folder / "scripts").mkdir()
    (folder / "scripts" / "many.py").write_text(MANY)
    (folder / "scripts" / "helper.py").write_text("def scale(x):\n    return 5 * x\n")
    command = ["-m", "acme_mpi", "-q", "scripts/many.py", "--plan", "-n", "two words", "mymod:f"]
    ran = mpiexec(request.param, *command, cwd=folder, input="line 1\nline 2\n")
    if not (folder / "facts.json").exists():
        pytest.fail(ran.stderr)
    return folder, json.loads((folder / "facts.json").read_text()), ran


def test_the_exit_status_is_the_scripts(many):
    assert many[2].returncode == 3


def test_output_and_errors_are_the_scripts(many):
    _, _, ran = many

    assert ran.stdout == "the script's output\n"
    assert ran.stderr.count("the script's errors\n") == 1
    assert "Traceback" not in ran.stderr


def test_what_follows_the_script_is_its_own(many):
    folder, facts, _ = many

    assert facts["argv"] == ["scripts/many.py", "--plan", "-n", "two words", "mymod:f"]
    assert facts["name"] == "__main__"
    assert os.path.join(folder, facts["file"]) == str(folder / "scripts" / "many.py")
    assert facts["launcher"] == []


def test_the_script_has_standard_input(many):
    assert many[1]["stdin"] == "line 1\nline 2\n"


@pytest.mark.parametrize(
    ("fact", "expected"),
    [
        ("function", [18, 24, 30, 36]),
        ("lambda", [0, 1, 4, 9]),
        ("closure", [10, 11, 12, 13]),
        ("method", 4),
        ("callable", [3, 6]),
        ("instances", [2, 3]),
        ("helper", [5, 10]),
        ("rows", [18.0, 24.0]),
        ("large", True),
        ("large back", [0, 200_000, 400_000]),
    ],
)
def test_what_is_defined_in_the_script_can_be_called(many, fact, expected):
    assert many[1][fact] == expected


def test_tasks_run_in_the_runners(many):
    facts = many[1]

    assert facts["own process"] is False
    assert 1 <= facts["processes"] <= 3


def test_errors_can_be_caught_and_calls_continue(many):
    facts = many[1]

    assert facts["failures"] == ["1 of 4 tasks failed, first: task 2", [0, 1, None, 3], 2]
    assert "found 0 objects" in facts["input error"]
    assert facts["place error"] is True
    assert facts["store error"] is True
    assert facts["exists"] is True
    assert facts["after errors"] == [18]


@pytest.mark.parametrize("store", ["rank", "computation", "single"])
def test_files_are_written_in_every_mode(many, content_of, store):
    folder, facts, _ = many

    content = content_of(folder / store / "f.h5")
    rows = content_of(folder / f"{store}-rows" / "f.h5")

    assert list(content) == [f"comp_{i}/result_0" for i in range(4)]
    values = [np.frombuffer(data, "i8").item() for _, _, data in content.values()]
    assert values == [18, 24, 30, 36]
    expected = np.array([18, 24, 30, 36.0])
    assert rows == {"result_0": ("<f8", (4,), expected.tobytes())}
    paths = [str(folder / store / "f.h5")]
    if store == "computation":
        paths = [str(folder / store / "f_payload" / f"f_{i}.h5") for i in range(4)]
    assert facts[store] == paths


def test_the_working_directory_is_the_scripts(many, content_of):
    folder, facts, _ = many

    assert len(content_of(folder / "sub" / "relative" / "f.h5")) == 2
    assert facts["seen from"] == [str(folder / "sub")]


def test_a_script_without_a_call(acme, write_script):
    write_script("import sys\nprint('hello', sys.argv[1:])\n")

    ran = acme(2, "script.py", "-x")

    assert (ran.returncode, ran.stdout, ran.stderr) == (0, "hello ['-x']\n", "")


@pytest.mark.once
def test_a_space_instead_of_the_colon_is_told(acme, write_script):
    """The script may have done what it was to do, or can have done nothing."""
    write_script("def f(x):\n    return x\n", "only.py")
    write_script("def f(x):\n    return x\n\n\nprint('done')\n", "acts.py")

    only = acme(0, "only.py", "f", "args.npz")
    acts = acme(0, "acts.py", "f")

    assert (only.returncode, only.stdout) == (2, "")
    assert only.stderr.endswith("by a colon: python -m acme_mpi only.py:f args.npz\n")
    assert (acts.returncode, acts.stdout) == (0, "done\n")
    assert acts.stderr.count("by a colon: python -m acme_mpi acts.py:f\n") == 1


@pytest.mark.parametrize(
    ("ending", "status", "said"),
    [
        ("sys.exit()", 0, ""),
        ("sys.exit(0)", 0, ""),
        ("sys.exit('a reason')", 1, "a reason\n"),
        ("os._exit(7)", 7, ""),
        ("os.kill(os.getpid(), signal.SIGTERM)", 128 + signal.SIGTERM, ""),
        ("os.kill(os.getpid(), signal.SIGKILL)", 128 + signal.SIGKILL, ""),
        ("atexit.register(acme_mpi.map, str, [1], output_dir='late')", 0, None),
    ],
)
@pytest.mark.once
def test_how_a_script_ends_is_how_the_command_ends(acme, write_script, ending, status, said):
    write_script(f"""
        import atexit, os, signal, sys
        import acme_mpi

        assert acme_mpi.map(abs, [-1, -2], write_worker_results=False) == [1, 2]
        {ending}
    """)

    ran = acme(0, "-q", "script.py")

    assert ran.returncode == status, ran.stderr
    if said is not None:
        assert ran.stderr == said


@pytest.mark.every
def test_a_script_killed_by_a_signal_ends_all_ranks(acme, write_script):
    write_script("""
        import os, signal
        import acme_mpi

        acme_mpi.map(abs, [-1, -2], write_worker_results=False)
        os.kill(os.getpid(), signal.SIGSEGV)
    """)

    assert acme(3, "-q", "script.py").returncode == 128 + signal.SIGSEGV


@pytest.mark.parametrize("n", by_stacks([0, 2], every=[2]))
def test_an_uncaught_exception_is_shown_without_our_frames(acme, write_script, n):
    path = write_script("""
        import acme_mpi


        def inner():
            raise LookupError("not here")


        assert acme_mpi.map(abs, [-1, -2], write_worker_results=False) == [1, 2]
        inner()
    """)

    ran = acme(n, "-q", "script.py")

    assert ran.returncode == 1
    assert ran.stderr.count("Traceback (most recent call last)") == 1
    assert ran.stderr.count("LookupError: not here") == 1
    assert ran.stderr.count(f'File "{path.name}"') + ran.stderr.count(f'File "{path}"') == 2
    assert os.path.dirname(acme_mpi.__file__) not in ran.stderr
    assert "runpy" not in ran.stderr


@pytest.mark.once
def test_an_exception_with_many_causes_is_shown_as_by_python(acme, write_script):
    """An uncaught exception with very many causes is shown as by Python."""
    write_script("""
        error = None
        for i in range(3000):
            last = ValueError(i)
            last.__cause__ = error
            error = last
        raise error
    """)

    ran = acme(0, "-q", "script.py")

    assert ran.returncode == 1
    assert ran.stderr.count("direct cause") == 2999
    assert ran.stderr.endswith("ValueError: 2999\n")
    assert "RecursionError" not in ran.stderr


@pytest.mark.once
def test_code_that_cannot_be_parsed_is_shown_as_by_python(acme, write_script):
    path = write_script("x = (\n")

    ran = acme(0, "-q", str(path))

    assert ran.returncode == 1
    assert "importlib" not in ran.stderr
    assert ran.stderr.endswith("SyntaxError: '(' was never closed\n")


@pytest.mark.once
def test_an_uncaught_task_error_is_told(acme, write_script):
    write_script("""
        import acme_mpi

        acme_mpi.map(lambda i: 1 / i, [0, 1], output_dir="out")
    """)

    ran = acme(2, "script.py")

    assert ran.returncode == 1
    assert "1 of 2 tasks failed, first: task 0" in ran.stderr
    assert "ZeroDivisionError" in ran.stderr
    assert os.path.dirname(acme_mpi.__file__) not in ran.stderr


@pytest.mark.once
def test_a_syntax_error_is_shown_as_python_does(acme, write_script):
    write_script("x = = 3\n")

    ran = acme(2, "script.py")

    assert ran.returncode == 1
    assert ran.stderr.count("SyntaxError: invalid syntax") == 1
    assert os.path.dirname(acme_mpi.__file__) not in ran.stderr


@pytest.mark.once
def test_a_script_may_fork(acme, write_script):
    """A process that the script forks has no part in its conversation with the ranks."""
    write_script("""
        import os
        import acme_mpi

        acme_mpi.map(abs, [-1], write_worker_results=False)
        pid = os.fork()
        if pid == 0:
            os._exit(0)
        os.waitpid(pid, 0)
        print(acme_mpi.map(abs, [-1, -2], write_worker_results=False))
    """)

    ran = acme(2, "-q", "script.py")

    assert (ran.returncode, ran.stdout) == (0, "[1, 2]\n")


@pytest.mark.every
def test_a_script_may_import_mpi4py(acme, write_script):
    """And is a world of its own, as are the functions that it has called."""
    write_script("""
        from mpi4py import MPI
        import acme_mpi


        def world_size(i):
            from mpi4py import MPI

            return MPI.COMM_WORLD.size


        print(MPI.COMM_WORLD.size, acme_mpi.map(world_size, range(4), write_worker_results=False))
    """)

    ran = acme(2, "-q", "script.py")

    assert (ran.returncode, ran.stdout) == (0, "1 [1, 1, 1, 1]\n"), ran.stderr
