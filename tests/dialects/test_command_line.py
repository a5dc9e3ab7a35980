"""``python -m acme_mpi TARGET [ARGS] [options]``: what it reads, calls, writes and says."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
from conftest import by_stacks

import acme_mpi
from acme_mpi.linux.cores import n_cores

pytestmark = pytest.mark.slow

EXPECTED = [18, 24, 30, 36]
FUNCTIONS = """\
import os
import sys


def f(x, y, z=3):
    return (x + y) * z


def count(taskID, folder):
    '''Leave a trace of every call.'''
    with open(os.path.join(folder, "calls"), "a") as file:
        file.write(f"{taskID}\\n")
    return taskID


def trace(x):
    with open("traces", "a") as file:
        file.write(f"{x}\\n")
    return x


def column_sum(a, b=0):
    return float(a.sum() + b)


def length(x, words):
    return len(words) + x


def kind(x):
    return type(x).__name__


def only_even(x, y=0):
    if x % 2:
        raise ValueError(f"{x} is odd")
    return x + y


def tell(x):
    print(f"<task {x} says hello>")
    return x


def surroundings(x):
    with open("/proc/self/cmdline", "rb") as file:
        is_copy = b"acme_mpi" in file.read().split(b"\\0")
    launcher = [name for name in os.environ if name.startswith(("OMPI_COMM", "PMI", "PRTE_LAU"))]
    return [is_copy, launcher, "mpi4py" in sys.modules, os.environ["OMP_NUM_THREADS"]]


class Tools:
    class Inner:
        @staticmethod
        def double(x):
            return 2 * x


number = 3
"""


@pytest.fixture
def folder(module_folder: Path) -> Path:
    """Return a folder with the functions above in ``functions.py``, and ``args.npz``."""
    (module_folder / "functions.py").write_text(FUNCTIONS)
    return module_folder


@pytest.fixture
def acme(mpiexec, folder) -> Any:
    """Return a function that runs ``python -m acme_mpi`` in `folder` on n ranks."""

    def run(n: int, *args: object, **options: Any) -> Any:
        return mpiexec(n, "-m", "acme_mpi", *args, **{"cwd": folder, **options})

    return run


def assert_is_told(ran: Any, status: int, *texts: str) -> None:
    """Assert the exit status, that each text is said exactly once, and that we show no frames."""
    assert ran.returncode == status, ran.stderr
    for text in texts:
        assert ran.stderr.count(text) == 1, ran.stderr
    assert os.path.dirname(acme_mpi.__file__) not in ran.stderr


def numbers(content: dict[str, Any], dtype: str = "<i8") -> list[Any]:
    """Return the numbers in a container of scalars."""
    return [np.frombuffer(data, dtype).item() for _, _, data in content.values()]


# --- The main job


RANKS_AND_OPTIONS = [
    "1 --single-file",
    "2 --payload computation",
    "2 --payload rank",
    "3 --no-isolate",
]


# On stacks that differ in MPI alone: with runners and without.
@pytest.mark.parametrize(
    "ranks_and_options", by_stacks(RANKS_AND_OPTIONS, every=RANKS_AND_OPTIONS[1::2])
)
def test_the_four_results(acme, folder, content_of, ranks_and_options):
    n, *options = ranks_and_options.split()

    ran = acme(int(n), "mymod:f", "args.npz", "--output-dir", "out", *options)

    assert_is_told(ran, 0, "SUCCESS! 4 tasks done")
    assert ran.stdout == ""
    content = content_of(folder / "out" / "f.h5")
    assert list(content) == [f"comp_{i}/result_0" for i in range(4)]
    assert numbers(content) == EXPECTED


ROWS = ["0", "2 --single-file", "3 --payload computation"]


@pytest.mark.parametrize("ranks_and_options", by_stacks(ROWS, twice=["2 --single-file"]))
def test_the_four_results_in_one_dataset(acme, folder, content_of, ranks_and_options):
    n, *options = ranks_and_options.split()
    shape = ["--result-shape", "None", "--result-dtype", "int32"]

    ran = acme(int(n), "mymod:f", "args.npz", "--output-dir", "out", *shape, *options)

    assert_is_told(ran, 0, "SUCCESS! 4 tasks done")
    rows = np.array(EXPECTED, "i4")
    assert content_of(folder / "out" / "f.h5") == {"result_0": ("<i4", (4,), rows.tobytes())}


@pytest.mark.parametrize("option", ["--payload=rank", "--payload=computation", "--single-file"])
def test_named_results_have_arrays_of_their_own(acme, folder, content_of, option):
    (folder / "named.py").write_text("def f(x, y):\n    return {'b': x, 'a': [x * y, x + y]}\n")
    shapes = ["--result-shape", "a=None,2", "--result-shape", "b=None", "--result-dtype", "b=i4"]

    for n in (2, 0):  # the second run finds everything done
        ran = acme(n, "named.py:f", "args.npz", "--output-dir", "out", option, *shapes)
        assert_is_told(ran, 0, "SUCCESS! ")
        x, y = np.load(folder / "args.npz").values()
        a = np.stack([x * y, x + y], axis=-1).astype(float)
        assert content_of(folder / "out" / "f.h5") == {
            "result_0": ("<f8", (4, 2), a.tobytes()),
            "result_1": ("<i4", (4,), x.astype("i4").tobytes()),
        }


@pytest.mark.parametrize("n", [0, 2])
@pytest.mark.once
def test_no_write_prints_the_results_and_writes_nothing(acme, folder, n):
    before = sorted(folder.iterdir())

    ran = acme(n, "mymod:f", "args.npz", "--no-write", "-q", env={"PYTHONDONTWRITEBYTECODE": "1"})

    assert (ran.returncode, ran.stdout) == (0, "18\n24\n30\n36\n")
    assert ran.stderr == ""
    assert sorted(folder.iterdir()) == before


@pytest.mark.once
def test_no_tasks_are_no_mistake(acme):
    """The run is over before the runner has said that it has loaded the function."""
    ran = acme(0, "mymod:f", "--set", "x=[]", "--set", "y=1", "--no-write", "-q")

    assert (ran.returncode, ran.stdout, ran.stderr) == (0, "", "")


@pytest.mark.once
def test_only_what_is_done_is_counted_as_a_result(acme):
    """Of a run that ends early; neither the failed tasks nor those that were not called are."""
    numbers = json.dumps(list(range(1, 200)))
    words = ("--set", f"x={numbers}", "--set", "y=[[]]", "--share", "y", "--halt", "now,fail=1")

    ran = acme(0, "mymod:f", *words, "--output-dir", "out", "-q")

    assert ran.returncode == 1
    assert "198 tasks were not run" in ran.stderr
    assert "results are in" not in ran.stderr


@pytest.mark.once
def test_no_write_prints_the_stacked_array(acme):
    ran = acme(2, "mymod:f", "args.npz", "--no-write", "--result-shape", "(None,)", "-q")

    assert (ran.returncode, ran.stdout) == (0, "[18. 24. 30. 36.]\n")


@pytest.mark.once
def test_results_go_to_a_directory_named_after_the_time(acme, folder, content_of):
    ran = acme(2, "mymod:f", "args.npz")

    (made,) = folder.glob("ACME_*")
    assert re.fullmatch(r"ACME_\d{8}-\d{6}-\d{6}", made.name)
    assert numbers(content_of(made / "f.h5")) == EXPECTED
    assert str(made / "f.h5") in ran.stderr
    (log,) = made.glob("*.log")
    assert "SUCCESS! 4 tasks done" in log.read_text()


# --- What is called


def printed(acme: Any, *args: object) -> list[str]:
    """Return the results that one process prints for a command."""
    ran = acme(0, *args, "--no-write", "-q")
    assert ran.returncode == 0, ran.stderr
    return ran.stdout.splitlines()


@pytest.mark.once
def test_a_function_of_a_file_with_positional_arguments(acme, folder, tmp_path_factory):
    """Modules beside the file can be imported, wherever the command is given."""
    elsewhere = tmp_path_factory.mktemp("elsewhere")
    (folder / "analysis.py").write_text("import functions\n\n\nfit = functions.f\n")
    np.savez(folder / "args.npz", [2, 4, 6, 8], 4)

    ran = acme(
        2, folder / "analysis.py:fit", folder / "args.npz", "--no-write", "-q", cwd=elsewhere
    )

    assert ran.returncode == 0, ran.stderr
    assert ran.stdout.split() == ["18", "24", "30", "36"]


@pytest.mark.once
def test_positional_and_named_arrays(acme, folder):
    np.savez(folder / "args.npz", np.array([2, 4]), z=10, arr_1=np.array(1))

    assert printed(acme, "mymod:f", "args.npz") == ["30", "50"]


@pytest.mark.once
def test_an_npy_file_is_the_first_argument(acme, folder):
    np.save(folder / "x.npy", np.array([2, 4]))

    assert printed(acme, "mymod:f", "x.npy", "--set", "y=4") == ["18", "24"]


@pytest.mark.once
def test_zero_dimensional_arrays_become_scalars(acme, folder):
    np.savez(folder / "args.npz", x=np.array("text"))

    assert printed(acme, "functions:kind", "args.npz", "--n-inputs", "2") == ["str", "str"]


@pytest.mark.once
def test_arguments_can_be_set(acme):
    """As JSON, else as a string; --set overrides the file."""
    assert printed(acme, "mymod:f", "args.npz", "--set", "y=6") == ["24", "30", "36", "42"]
    assert printed(acme, "functions:kind", "--set", "x=[1, 2.5, null]") == [
        "int",
        "float",
        "NoneType",
    ]
    assert printed(acme, "functions:kind", "--set", "x=no json", "--n-inputs", "1") == ["str"]


@pytest.mark.once
def test_a_nested_attribute(acme):
    target = "functions:Tools.Inner.double"

    assert printed(acme, target, "--set", "x=[1, 2]") == ["2", "4"]


@pytest.mark.parametrize(
    ("target", "arrays", "expected"),
    [
        ("builtins:max", [[1, 5, 2], 3], ["3", "5", "3"]),
        ("math:hypot", [[3.0, 6.0], [4.0, 8.0]], ["5.0", "10.0"]),
    ],
)
@pytest.mark.once
def test_without_a_signature_arguments_arrive_as_given(acme, folder, target, arrays, expected):
    """Functions without a signature get the arguments as given."""
    np.savez(folder / "args.npz", *arrays)

    assert printed(acme, target, "args.npz") == expected


@pytest.mark.once
def test_an_array_is_split_along_the_axis_that_is_named(acme, folder):
    np.savez(folder / "args.npz", a=np.arange(6).reshape(2, 3), b=[10, 20])

    split = ["--split", "a:1", "--share", "b"]
    (folder / "functions.py").write_text(FUNCTIONS.replace("a.sum() + b", "a.sum() + b.sum()"))
    assert printed(acme, "functions:column_sum", "args.npz", *split) == ["33.0", "35.0", "37.0"]


@pytest.mark.once
def test_a_shared_list_comes_whole(acme, folder):
    np.savez(folder / "args.npz", x=[1, 2, 3], words=["a", "b", "c"])

    assert printed(acme, "functions:length", "args.npz", "--share", "words") == ["4", "5", "6"]


@pytest.mark.once
def test_n_inputs_chooses_what_is_split(acme, folder):
    np.savez(folder / "args.npz", x=[1, 2, 3], words=["a", "b"])

    assert printed(acme, "functions:length", "args.npz", "--n-inputs", "3") == ["3", "4", "5"]


@pytest.mark.parametrize("n", [0, 3])
@pytest.mark.once
def test_n_equal_calls_are_made_n_times(acme, folder, n):
    """And a parameter called taskID gets the task's index."""
    options = ["--n-inputs", "5", "--set", f"folder={folder}", "--no-write", "-q"]

    ran = acme(n, "functions:count", *options)

    assert ran.stdout.split() == ["0", "1", "2", "3", "4"]
    calls = (folder / "calls").read_text().split()
    assert sorted(calls) == ["0", "1", "2", "3", "4"]


@pytest.mark.once
def test_object_arrays_need_a_permission(acme, folder):
    np.savez(folder / "args.npz", x=np.array([{"a": 1}, {1, 2}], object))

    assert_is_told(acme(0, "functions:kind", "args.npz", "--no-write"), 2, "--allow-pickle")
    assert printed(acme, "functions:kind", "args.npz", "--allow-pickle") == ["dict", "set"]


# --- What is said


@pytest.mark.every
def test_prints_of_the_function_are_passed_on(acme, folder):
    np.save(folder / "x.npy", np.arange(20))

    ran = acme(3, "functions:tell", "x.npy", "--output-dir", "out", "-q")

    # A launcher may cut the lines of several ranks into each other.
    assert [ran.stdout.count(f"<task {i} says hello>") for i in range(20)] == [1] * 20
    assert ran.stderr == ""


@pytest.mark.parametrize("n", by_stacks([0, 2], twice=[2]))
def test_the_first_runner_is_a_clean_copy_of_its_rank(acme, folder, n):
    np.save(folder / "x.npy", np.arange(3))
    n_threads = max(1, len(os.sched_getaffinity(0)) // max(1, n))

    ran = acme(n, "functions:surroundings", "x.npy", "--no-write", "-q")

    assert ran.stdout.splitlines() == [str([True, [], False, str(n_threads)])] * 3


@pytest.mark.once
def test_one_rank_hints_at_all_cores(acme):
    if len(os.sched_getaffinity(0)) == 1:
        pytest.skip("one core")
    ran = acme(0, "mymod:f", "args.npz", "--output-dir", "out")

    assert f"mpiexec -n {n_cores()} python -m acme_mpi mymod:f args.npz" in ran.stderr
    assert "--oversubscribe" in ran.stderr


@pytest.mark.every
def test_quiet_and_the_bar(acme):
    quiet = acme(2, "mymod:f", "args.npz", "--output-dir", "quiet", "-q", "--no-bar")
    bar = acme(2, "mymod:f", "args.npz", "--output-dir", "bar", "--bar", "-q")

    assert (quiet.returncode, quiet.stdout, quiet.stderr) == (0, "", "")
    assert bar.stderr.count("100%") == 1
    assert "4/4" in bar.stderr


@pytest.mark.once
def test_usual_and_verbose(acme):
    usual = acme(0, "mymod:f", "args.npz", "--no-write", "--no-bar")
    verbose = acme(0, "mymod:f", "args.npz", "--no-write", "--no-bar", "-v")

    assert "%" not in usual.stderr
    assert usual.stderr.count("Preparing 4 parallel calls of `f` using 1 workers") == 1
    assert verbose.returncode == 0
    assert len(verbose.stderr.splitlines()) >= len(usual.stderr.splitlines())


@pytest.mark.once
def test_failed_tasks_are_summed_up_with_a_command(acme, folder):
    """Failed tasks are summed up with the command that reproduces one."""
    np.save(folder / "x.npy", np.arange(6))

    ran = acme(3, "functions:only_even", "x.npy", "--set", "y=10", "--output-dir", "out")

    line = FUNCTIONS.splitlines().index('        raise ValueError(f"{x} is odd")') + 1
    assert_is_told(
        ran,
        1,
        "3 of 6 tasks failed, first: task 1 on rank ",
        f"3 x ValueError at {folder / 'functions.py'}:{line}: 1 is odd (tasks 1, 3, 5)",
        f"The other 3 results are in {folder / 'out' / 'only_even.h5'}",
    )
    (command,) = re.findall(r"reproduce: python -m acme_mpi (.*)", ran.stderr)
    again = acme(0, *command.split(), input="p x, y\nq\n")
    assert again.returncode == 1
    assert "ValueError: 1 is odd" in again.stderr
    assert "(1, 10)" in again.stdout.replace("np.int64(1)", "1")


@pytest.mark.once
def test_failed_tasks_leave_the_other_results(acme, folder, content_of):
    np.save(folder / "x.npy", np.arange(5))

    ran = acme(0, "functions:only_even", "x.npy", "--output-dir", "out", "-q")
    shown = acme(2, "functions:only_even", "x.npy", "--no-write")

    assert ran.returncode == 1
    content = content_of(folder / "out" / "only_even.h5")
    assert list(content) == [f"comp_{i}/result_0" for i in (0, 2, 4)]
    assert numbers(content) == [0, 2, 4]
    assert (shown.returncode, shown.stdout.split()) == (1, ["0", "None", "2", "None", "4"])
    assert "2 of 5 tasks failed" in shown.stderr


@pytest.mark.once
def test_version_and_help(mpiexec):
    version = mpiexec(2, "-m", "acme_mpi", "--version")
    shown = mpiexec(0, "-m", "acme_mpi", "--help")

    assert version.returncode == 0
    said = dict(line.split(None, 1) for line in version.stdout.splitlines())
    assert [*said] == ["acme_mpi", "Python", "system", "mpi4py", "MPI", "h5py", "HDF5", "numpy"]
    assert (said["acme_mpi"], said["h5py"].split()[0]) == (acme_mpi.__version__, h5py.__version__)
    assert said["HDF5"] == h5py.version.hdf5_version
    assert shown.returncode == 0
    for text in ("\ninput:", "\noutput:", "\nrun:", "\nexamples:", "srun -n 64", "exit status:"):
        assert text in shown.stdout
    assert all(len(line) <= 100 for line in shown.stdout.splitlines())


@pytest.mark.once
def test_the_installed_command(mpiexec):
    command = Path(sys.executable).with_name("acme-mpi")
    if not command.exists():
        pytest.skip("the package is not installed")

    said = mpiexec(0, command, "--version").stdout

    assert said.startswith(f"acme_mpi     {acme_mpi.__version__}\n")


# --- Without calling, or calling one


@pytest.mark.parametrize("n", [0, 2])
@pytest.mark.once
def test_a_plan_says_everything_and_calls_nothing(acme, folder, n):
    np.savez(folder / "args.npz", x=np.arange(3))
    options = ["--plan", "--result-shape", "None", "--output-dir", "out"]
    before = {path.name for path in folder.iterdir()}

    ran = acme(n, "functions:trace", "args.npz", *options)

    assert (ran.returncode, ran.stderr) == (0, "")
    for text in (
        "functions:trace",
        "trace(x)",
        "x: split",
        "array (3,) int64",
        "trace(0)",
        "trace(2)",
        "out/trace.h5",
        "24 in result_0",
    ):
        assert ran.stdout.count(text) == 1, ran.stdout
    assert re.search(rf"ranks: +{max(n, 1)}\b", ran.stdout)
    assert {path.name for path in folder.iterdir()} - before <= {"__pycache__"}


@pytest.mark.once
def test_a_plan_names_shared_arguments_and_the_task_id(acme, folder):
    ran = acme(0, "functions:count", "--set", "folder=.", "--n-inputs", "7", "--plan")

    assert "folder: shared by all tasks" in ran.stdout
    assert "taskID: the task's index" in ran.stdout
    assert re.search(r"tasks: +7", ran.stdout)
    assert "count(folder='.', taskID=6)" in ran.stdout


@pytest.mark.parametrize("n", by_stacks([0, 2], twice=[2]))
def test_one_task_can_be_debugged(acme, folder, n):
    """The debugger reads standard input, in the function's frame; nothing is written."""
    np.save(folder / "x.npy", np.arange(6))
    command = ["functions:only_even", "x.npy", "--set", "y=10", "--debug-task"]

    fails = acme(n, *command, 3, input="p y + 1000\nq\n")
    works = acme(n, *command, 4)

    assert fails.returncode == 1
    assert "1010" in fails.stdout
    assert fails.stderr.count("ValueError: 3 is odd") == 1
    assert os.path.dirname(acme_mpi.__file__) not in fails.stderr
    assert (works.returncode, works.stdout, works.stderr) == (0, "14\n", "")
    assert not list(folder.glob("ACME_*"))


# --- Mistakes

BEFORE_MPI: dict[str, tuple[list[str], str]] = {
    "no target": ([], "TARGET"),
    "no function": (["mymod"], "module:function"),
    "unknown option": (["mymod:f", "args.npz", "--no-such"], "--no-such"),
    "abbreviated option": (["mymod:f", "args.npz", "--output", "o"], "--output"),
    "payload": (["mymod:f", "args.npz", "--payload", "node"], "'node'"),
    "n-inputs": (["mymod:f", "args.npz", "--n-inputs", "0"], "not 0"),
    "n-inputs text": (["mymod:f", "args.npz", "--n-inputs", "x"], "'x'"),
    "shape text": (["mymod:f", "args.npz", "--result-shape", "None,x"], "'None,x'"),
    "shape without None": (["mymod:f", "args.npz", "--result-shape", "3"], "exactly one `None`"),
    "shapes without names": (
        ["mymod:f", "args.npz", "--result-shape", "None", "--result-shape", "None,2"],
        "given 2 times; give it once, or once for each name",
    ),
    "shapes named twice": (
        ["mymod:f", "args.npz", "--result-shape", "a=None", "--result-shape", "a=None,2"],
        "names a twice",
    ),
    "shape negative": (["mymod:f", "args.npz", "--result-shape=None,-1"], "-1"),
    "dtype": (
        ["mymod:f", "args.npz", "--result-shape", "None", "--result-dtype", "flaot"],
        "flaot",
    ),
    "dtype without a shape": (
        ["mymod:f", "args.npz", "--result-dtype", "float32"],
        "--result-shape None,M,N",
    ),
    "dtype of a shape that is found": (
        ["mymod:f", "args.npz", "--result-shape", "auto", "--result-dtype", "float32"],
        "leave out --result-dtype",
    ),
    "no-write and single-file": (
        ["mymod:f", "args.npz", "--no-write", "--single-file"],
        "--no-write",
    ),
    "single-file and payload": (
        ["mymod:f", "args.npz", "--single-file", "--payload", "computation"],
        "payload",
    ),
    "overwrite and resume": (
        ["mymod:f", "args.npz", "--overwrite", "--resume"],
        "give one of them",
    ),
    "no-write and resume": (
        ["mymod:f", "args.npz", "--no-write", "--resume"],
        "leave out --no-write",
    ),
    "retries": (["mymod:f", "args.npz", "--retries", "-1"], "`retries` has to be"),
    "crash-limit": (["mymod:f", "args.npz", "--crash-limit", "0"], "`crash_limit` has to be"),
    "timeout without a runner": (
        ["mymod:f", "args.npz", "--no-isolate", "--timeout", "5s"],
        "leave out isolate=False (--no-isolate)",
    ),
    "halt": (["mymod:f", "args.npz", "--halt", "later"], "`halt` has to be"),
    "timeout": (
        ["mymod:f", "args.npz", "--timeout", "soon"],
        "`timeout`: a duration has to be",
    ),
    "memory": (
        ["mymod:f", "args.npz", "--memory", "much"],
        "`memory`: an amount of memory has to be",
    ),
    "time-limit": (
        ["mymod:f", "args.npz", "--time-limit", "-3"],
        "`time_limit`: a duration has to be",
    ),
    "inf in memory": (["mymod:f", "args.npz", "--no-write", "--result-shape", "None,inf"], "inf"),
    "no script": (["missing.py", "--option"], "'missing.py'"),
    "script with our option": (["--single-file", "mymod.py"], "--single-file"),
    "debug-task": (["mymod:f", "args.npz", "--debug-task", "4"], "[0, 4)"),
    # The same is said by a run, whose runners load the target.
    "no module": (["nosuchmod:f", "args.npz", "--plan"], "'nosuchmod'"),
    "no attribute": (["functions:lenght", "args.npz", "--plan"], "length"),
    "not callable": (["functions:number", "args.npz", "--plan"], "not callable"),
    "no file": (["missing/file.py:f", "args.npz", "--plan"], "'missing/file.py'"),
    "no arguments file": (["mymod:f", "missing.npz", "--plan"], "'missing.npz'"),
    "not a NumPy file": (["mymod:f", "mymod.py.txt", "--plan"], "mymod.py.txt"),
    "setting without =": (["mymod:f", "args.npz", "--set", "y", "--plan"], "NAME=VALUE"),
    "setting twice": (
        ["mymod:f", "--set", "y=1", "--set", "y=2", "--plan"],
        "--set y is given twice: 1 and 2",
    ),
    "two colons": (["mymod::f", "args.npz", "--plan"], "'mymod::f' has to be module:function"),
    "setting unknown": (["mymod:f", "args.npz", "--set", "w=1", "--plan"], "'w'"),
    "split unknown": (["mymod:f", "args.npz", "--split", "w", "--plan"], "--split w"),
    "split axis text": (["mymod:f", "args.npz", "--split", "x:a", "--plan"], "'x:a'"),
    "split axis": (["mymod:f", "args.npz", "--split", "x:1", "--plan"], "axis 1"),
    "share unknown": (["mymod:f", "args.npz", "--share", "w", "--plan"], "--share w"),
    "split and share": (
        ["mymod:f", "args.npz", "--split", "x", "--share", "x", "--plan"],
        "named twice",
    ),
    "ambiguous": (["mymod:f", "args.npz", "--set", "y=[1, 2]", "--plan"], "'y' has 2"),
    "nothing to split": (["mymod:f", "--set", "x=1", "--set", "y=2", "--plan"], "--split NAME"),
    # What was meant instead.
    "option misspelt": (["mymod:f", "args.npz", "--ouput-dir", "o"], "did you mean '--output-dir'"),
    "option with value misspelt": (["mymod:f", "--split=x", "--sahre=y"], "did you mean '--share'"),
    "ranks": (
        ["mymod:f", "args.npz", "-n", "4"],
        "mpiexec -n 4 python -m acme_mpi mymod:f args.npz\n",
    ),
    "ranks first": (["-np", "2", "mymod:f"], "mpiexec -n 2 python -m acme_mpi mymod:f\n"),
    "ranks attached": (["mymod:f", "--ntasks=3"], "mpiexec -n 3 python -m acme_mpi mymod:f\n"),
    "command misspelt": (["stauts", "out"], "did you mean 'status'"),
    "option of a command": (["status", "out", "--jsn"], "did you mean '--json'"),
    "space for colon": (["mymod", "f"], "did you mean 'mymod:f'"),
    "dot for colon": (["mymod.f", "args.npz"], "did you mean 'mymod:f'"),
    "script misspelt": (["mymdo.py"], "did you mean 'mymod.py'"),
    "file misspelt": (["mymdo.py:f", "--plan"], "did you mean 'mymod.py'"),
    "module misspelt": (["mymdo:f", "--plan"], "did you mean 'mymod'"),
    "arguments file misspelt": (["mymod:f", "arg.npz", "--plan"], "did you mean 'args.npz'"),
    "setting without --set": (["mymod:f", "x=[1, 2]", "--plan"], "--set 'x=[1, 2]'"),
    "setting misspelt": (
        ["mymod:scaled", "--set", "x=[1]", "--set", "scal=2", "--plan"],
        "did you mean 'scale'",
    ),
    "wrong name and missing one": (
        ["mymod:scaled", "--set", "xs=[1]", "--plan"],
        "no parameter is called 'xs'",
    ),
    "split misspelt": (
        ["mymod:scaled", "--set", "scale=[1]", "--split", "scal", "--plan"],
        "did you mean 'scale'",
    ),
    "module missing inside": (["torchx_fit.py:fit", "--plan"], "No module named 'torchx'"),
    "module missing inside, by name": (["torchx_fit:fit", "--plan"], "No module named 'torchx'"),
    # Digits of other scripts, and more digits than a number has.
    "superscript shape": (["mymod:f", "args.npz", "--result-shape=None,\u00b2"], "'None,\u00b2'"),
    "superscript axis": (["mymod:f", "args.npz", "--split", "x:\u00b2", "--plan"], "x:\u00b2"),
    "two signs": (["mymod:f", "args.npz", "--split", "x:--1", "--plan"], "'x:--1'"),
    "arabic count": (["mymod:f", "args.npz", "--n-inputs", "\u0664"], "\u0664"),
    "underscored count": (["mymod:f", "args.npz", "--retries", "1_0"], "'1_0'"),
    "arabic time": (["mymod:f", "args.npz", "--timeout", "\u0665s"], "\u0665s"),
    "long time": (["mymod:f", "args.npz", "--time-limit", f"{'9' * 5000}:00"], "9[...]9"),
    "long count": (["mymod:f", "args.npz", "--n-inputs", "9" * 5000], "9[...]9"),
    "long size": (["mymod:f", "args.npz", "--memory", "9" * 5000], "9[...]9"),
    "arabic share": (["mymod:f", "args.npz", "--halt", "soon,fail=\u0661"], "\u0661"),
    # Nothing acts on a terminal, and nothing floods it.
    "escapes in an option": (["mymod:f", "--no\x1b[2Jsuch"], r"--no\x1b[2Jsuch"),
    "escapes in a target": (["mymod\x1b[2J:f", "--plan"], r"mymod\x1b[2J"),
    "long target": (["a" * 6000, "args.npz"], "a[...]a"),
    "long module": (["a" * 6000 + ":f", "--plan"], "a[...]a"),
    "long option": (["mymod:f", "--" + "a" * 6000], "a[...]a"),
    "long choice": (["mymod:f", "--payload", "a" * 6000], "a[...]a"),
    "long setting": (["mymod:f", "--set", "a" * 6000 + "=1", "--plan"], "a[...]a"),
    "many words": (["mymod:f", "--set", "a b " * 2000, "--plan"], "[...]"),
    "n-inputs fits nothing": (["mymod:f", "args.npz", "--n-inputs", "3", "--plan"], "'x' has 4"),
}
EACH_MISTAKE = """
import json
import os
import runpy
import sys
from pathlib import Path

import acme_mpi.api
import acme_mpi.cli.foreground
import acme_mpi.cli.main
from acme_mpi.comm import launched_rank_and_size


def run(args):
    # A copy of this process, which has imported everything, is a start without the waiting.
    pid = os.fork()
    if pid == 0:
        for descriptor, name in ((1, "stdout"), (2, "stderr")):
            os.dup2(os.open(f"{name}{rank}", os.O_RDWR | os.O_CREAT | os.O_TRUNC), descriptor)
        sys.argv[:] = ["acme_mpi", *args]
        sys.path[0] = os.getcwd()
        status = 99
        try:
            runpy.run_module("acme_mpi", run_name="__main__", alter_sys=True)
        except SystemExit as end:
            status = end.code
        finally:
            sys.stdout.flush()
            sys.stderr.flush()
            os._exit(status or 0)
    status = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
    return status, Path(f"stdout{rank}").read_text(), Path(f"stderr{rank}").read_text()


rank, _ = launched_rank_and_size()
mistakes = json.loads(Path("mistakes.json").read_text())
Path(f"found{rank}.json").write_text(json.dumps({n: run(args) for n, args in mistakes.items()}))
"""


@pytest.fixture(scope="module")
def mistakes(mpiexec, tmp_path_factory) -> tuple[list[Any], set[str]]:
    """Return what each of two ranks said to each mistake that is found before MPI starts."""
    folder = tmp_path_factory.mktemp("mistakes")
    (folder / "mymod.py").write_text(
        "def f(x, y, z=3):\n    return (x + y) * z\n\n\ndef scaled(x, scale=1):\n    return x\n"
    )
    (folder / "torchx_fit.py").write_text("import torchx\n\n\ndef fit(x):\n    return x\n")
    (folder / "functions.py").write_text(FUNCTIONS)
    (folder / "mymod.py.txt").write_text("this is no array")
    np.savez(folder / "args.npz", x=[2, 4, 6, 8], y=4)
    commands = {name: args for name, (args, _) in BEFORE_MPI.items()}
    (folder / "mistakes.json").write_text(json.dumps(commands))
    (folder / "each.py").write_text(EACH_MISTAKE)
    before = {path.name for path in folder.iterdir()}
    ran = mpiexec(2, "each.py", cwd=folder, timeout_s=120)
    assert ran.returncode == 0, ran.stderr
    found = [json.loads((folder / f"found{rank}.json").read_text()) for rank in range(2)]
    ours = {f"{name}{r}" for name in ("stdout", "stderr") for r in (0, 1)}
    made = {path.name for path in folder.iterdir()} - before - ours
    return found, made - {"__pycache__", "found0.json", "found1.json"}


@pytest.mark.parametrize("mistake", BEFORE_MPI)
@pytest.mark.every
def test_a_mistake_is_explained_once(mistakes, mistake):
    (first, second), _ = mistakes
    status, stdout, stderr = first[mistake]

    assert status == 2
    assert stdout == ""
    assert BEFORE_MPI[mistake][1] in stderr
    assert "acme_mpi/" not in stderr
    assert len(stderr) < 2500
    assert not re.search("[\x00-\x08\x0b-\x1f\x7f-\x9f]", stderr)
    assert second[mistake] == [0, "", ""]


@pytest.mark.every
def test_mistakes_create_nothing(mistakes):
    assert mistakes[1] == set()


@pytest.mark.parametrize(
    ("args", "text"),
    [
        (["nosuchmod:f", "args.npz"], "there is no module 'nosuchmod'"),
        (["mymod:f", "args.npz", "--set", "y=[1, 2]"], "found 2 objects containing 2 to 4"),
        (["broken:f", "args.npz"], "ZeroDivisionError: division by zero"),
    ],
)
@pytest.mark.once
def test_a_mistake_that_the_runner_finds_is_explained_once(acme, folder, args, text):
    (folder / "broken.py").write_text("1 / 0\n")
    before = {path.name for path in folder.iterdir()}

    ran = acme(2, *args)

    assert_is_told(ran, 2, text)
    assert ran.stdout == ""
    assert {path.name for path in folder.iterdir()} - before <= {"__pycache__"}


@pytest.mark.once
def test_a_module_that_ends_the_process_on_import_is_named(acme, folder):
    (folder / "fatal.py").write_text("import os\n\nos._exit(5)\n")

    ran = acme(2, "fatal:f", "args.npz", "--output-dir", "out")

    assert_is_told(ran, 2, "acme_mpi: ")
    assert "import" in ran.stderr
    assert not (folder / "out").exists()


@pytest.mark.once
def test_an_existing_container_is_not_touched(acme, folder):
    assert acme(0, "mymod:f", "args.npz", "--output-dir", "out", "-q").returncode == 0
    before = {
        p: (p.stat().st_mtime_ns, p.is_file() and p.read_bytes())
        for p in (folder / "out").rglob("*")
    }

    again = acme(3, "mymod:f", "args.npz", "--output-dir", "out", "--set", "z=5")

    assert_is_told(again, 2, "argument `z` is new")
    after = {
        p: (p.stat().st_mtime_ns, p.is_file() and p.read_bytes())
        for p in (folder / "out").rglob("*")
    }
    assert after == before


SINGLETONS = {
    "Open MPI": {"OMPI_COMM_WORLD_SIZE": "4", "OMPI_COMM_WORLD_RANK": "0"},
    "Slurm": {"SLURM_STEP_NUM_TASKS": "4", "SLURM_PROCID": "0"},
    "PMI": {"PMI_SIZE": "4", "PMI_RANK": "0"},
}


@pytest.mark.parametrize("launcher", SINGLETONS)
@pytest.mark.every
def test_singletons_are_refused(acme, folder, launcher):
    """Four processes that each believe to be rank 0 of 1 would all do all the work."""
    ran = acme(0, "mymod:f", "args.npz", "--output-dir", "out", env=SINGLETONS[launcher])

    assert_is_told(ran, 2, "rank 0 of 1")
    assert "=4" in ran.stderr
    assert not (folder / "out").exists()


@pytest.mark.every
def test_singletons_of_higher_rank_are_silent(acme, folder):
    env = {"OMPI_COMM_WORLD_SIZE": "4", "OMPI_COMM_WORLD_RANK": "2"}

    ran = acme(0, "mymod:f", "args.npz", "--output-dir", "out", env=env)

    assert (ran.stdout, ran.stderr) == ("", "")
    assert not (folder / "out").exists()


# --- Storage that refuses


@pytest.mark.parametrize("kind", ["file", "link"])
@pytest.mark.once
def test_an_output_directory_that_is_none_is_a_mistake(acme, folder, kind):
    if kind == "file":
        (folder / "out").write_text("not a directory")
    else:
        (folder / "out").symlink_to("nowhere")

    ran = acme(0, "mymod:f", "args.npz", "--output-dir", "out")

    assert_is_told(ran, 2, f"acme_mpi: {folder / 'out'} is there and is no directory")
    assert "resume with" not in ran.stderr


@pytest.mark.parametrize("name", ["long" * 100, "file/out", "taken"])
def test_a_directory_that_can_never_be_made_is_a_mistake(acme, folder, name):
    """It is no fault of the disk, and the same command would fail again."""
    for each in ("file", "taken/.acme_mpi"):
        (folder / each).parent.mkdir(exist_ok=True)
        (folder / each).write_text("not a directory")

    ran = acme(2, "mymod:f", "args.npz", "--output-dir", name)

    assert_is_told(ran, 2, "acme_mpi: cannot create ", "; name another output directory")
    assert "resume with" not in ran.stderr


@pytest.mark.every
def test_what_a_mistake_leaves_to_the_launcher_to_say(acme, folder):
    """Open MPI 5 and MPICH say nothing, and of Open MPI 4 it is told how to have it silent."""
    ran = acme(2, "nosuchmod:f", "args.npz")

    said = ran.stderr.splitlines()
    assert ran.returncode == 2
    assert said[0].startswith("acme_mpi: there is no module 'nosuchmod'")
    assert said[1:2] in ([], ["  (without the lines that mpiexec adds: mpiexec --quiet)"])
    assert len(said) == 1 or "mpiexec detected" in ran.stderr


LIMITED = """
import resource, runpy, sys
from mpi4py import MPI

# From here on, so that MPI has its own files.
resource.setrlimit(resource.RLIMIT_FSIZE, (2_000_000, resource.RLIM_INFINITY))
sys.argv[:] = ["acme_mpi", *sys.argv[1:]]
runpy.run_module("acme_mpi", run_name="__main__", alter_sys=True)
"""
OUTPUTS = {
    "rank": [],
    "computation": ["--payload", "computation"],
    "single_file": ["--single-file"],
    "single_file-rows": ["--single-file", "--result-shape", "None,100000"],
}


@pytest.mark.parametrize("output", ["rank", "single_file-rows"])
def test_a_file_that_cannot_grow_is_a_storage_error(mpiexec, folder, output):
    """Found while tasks run; every rank ends, and the command says so once."""
    (folder / "limited.py").write_text(LIMITED)
    (folder / "large.py").write_text(
        "import numpy as np\n\n\ndef large(x):\n    return np.full(100_000, float(x))\n"
    )
    np.save(folder / "x.npy", np.arange(12))

    command = ["limited.py", "large:large", "x.npy", "--output-dir", "out", *OUTPUTS[output]]
    ran = mpiexec(2, *command, cwd=folder)

    assert_is_told(ran, 74, "acme_mpi: ")
    assert "File too large" in ran.stderr
    assert not (folder / "out" / "large.h5").exists() or "tasks were not" in ran.stderr


@pytest.fixture
def small_disk(tmp_path):
    """Return a folder on a disk of 4 MB."""
    disk = tmp_path / "disk"
    disk.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=3m", "tmpfs", str(disk)]
    try:
        mounted = subprocess.run(mount, capture_output=True, text=True, timeout=10)
    except FileNotFoundError:
        pytest.skip("there is no mount command")
    if mounted.returncode:
        pytest.skip(f"cannot mount a small disk: {mounted.stderr.strip()}")
    yield disk
    subprocess.run(["umount", "--lazy", str(disk)], check=True, timeout=10)


@pytest.mark.once
@pytest.mark.parametrize("output", OUTPUTS)
def test_a_full_disk_is_a_storage_error(acme, folder, small_disk, output):
    (folder / "large.py").write_text(
        "import numpy as np\n\n\ndef large(x):\n    return np.full(10000, float(x))\n"
    )
    np.save(folder / "x.npy", np.arange(40))

    output_dir = ["--output-dir", small_disk / "out"]
    ran = acme(2, "large:large", "x.npy", *output_dir, *OUTPUTS[output])

    assert_is_told(ran, 74, "acme_mpi: cannot ")
    assert "No space left on device" in ran.stderr
