"""The dry-run: it calls one task and makes nothing, and what it says of all is about right."""

from __future__ import annotations

import itertools
import os
import re
import sys
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
from conftest import by_stacks

import acme_mpi
from acme_mpi.engine.call import Options, Output, Work
from acme_mpi.errors import InputError
from acme_mpi.history.layout import DOT_FOLDER
from acme_mpi.results.convert import ResultError
from acme_mpi.results.spec import RowSpec, make_row_spec
from acme_mpi.runner import measure
from acme_mpi.runner.measure import Measured
from acme_mpi.session.trial import Forecast, circumstances, pick

FUNCTIONS = """\
import os


def f(x, y, z=3):
    return (x + y) * z


def trace(x, path):
    with open(path, "a") as file:
        file.write(f"{x}\\n")
    return x


def fail(x):
    raise LookupError(f"no {x}")


def leave(x):
    os._exit(7)


def fail_later(x, path):
    if os.path.exists(path):
        raise LookupError(f"no {x}")
    open(path, "w").close()
    return x
"""
# Runs a command on a terminal of its own, on which an answer is typed, and shows what it shows.
TERMINAL = """
import os
import pty
import sys

answer, *command = sys.argv[1:]
pid, terminal = pty.fork()
if pid == 0:
    os.execvp(command[0], command)
os.write(terminal, answer.encode())
try:
    while shown := os.read(terminal, 4096):
        sys.stdout.buffer.write(shown)
except OSError:  # nobody has the terminal open any more
    pass
sys.exit(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]))
"""
END_OF_INPUT = "\x04"
QUESTION = "Do you want to run all 4 tasks? [Y/n]"


@pytest.fixture
def folder(module_folder: Path) -> Path:
    """Return a folder with the functions above in ``functions.py``, and ``args.npz``."""
    (module_folder / "functions.py").write_text(FUNCTIONS)
    return module_folder


@pytest.fixture
def try_one(mpiexec, folder) -> Any:
    """Return a function that runs ``python -m acme_mpi ... --dry-run`` and asserts what it made."""

    def run(n: int, *args: object, answer: str | None = None, makes: int = 0) -> Any:
        before = set(folder.iterdir())
        command = ["-m", "acme_mpi", *map(str, args), "--dry-run"]
        if answer is None:
            ran = mpiexec(n, *command, cwd=folder)
        elif n and mpiexec.program is None:
            pytest.skip("there is no mpiexec")
        else:
            launcher = [mpiexec.program, "-n", str(n)] if n else []
            words = [*launcher, sys.executable, *command]
            ran = mpiexec(0, "-c", TERMINAL, answer, *words, cwd=folder)
        made = {path for path in folder.iterdir() if path.name != "__pycache__"} - before
        assert len(made) == makes, made
        assert os.path.dirname(acme_mpi.__file__) not in ran.stdout + ran.stderr
        return ran

    return run


def forecast_for(**figures: Any) -> Forecast:
    """Return a forecast, by default for 4 scalars on 2 ranks."""
    defaults = {
        "index": 0,
        "elapsed_s": 1.0,
        "peak_bytes": 100_000_000,
        "agent_bytes": 50_000_000,
        "result_bytes": 8,
        "n_tasks": 4,
        "n_workers": 2,
        "kind": "rank",
        "is_stacked": False,
    }
    return Forecast(**{**defaults, **figures})


@pytest.mark.slow
@pytest.mark.once
class TestWithoutTerminal:
    @pytest.mark.parametrize(
        ("n", "options", "n_workers", "where"),
        [
            (0, ["--no-write"], 1, "in memory"),
            (1, ["--payload", "computation"], 1, "in files"),
            (2, ["--result-shape", "None", "--result-dtype", "float32"], 2, "in files"),
            (2, ["--no-isolate"], 1, "in files"),
            (3, ["--single-file"], 3, "in files"),
            (2, ["--no-write", "--result-shape", "None"], 2, "in memory"),
        ],
    )
    def test_the_forecast_is_printed_and_nothing_made(self, try_one, n, options, n_workers, where):
        ran = try_one(n, "functions:f", "args.npz", *options)

        assert ran.returncode == 0, ran.stderr
        first, second, last = ran.stdout.splitlines()
        assert last.startswith("Only tried, as nobody is here to answer")
        assert first.startswith("Dry-run completed. Elapsed time is 0.0")
        assert second.startswith(f"All 4 calls on {n_workers} worker(s) would take ")
        assert f" {where}; " in second

    def test_without_isolation_a_rank_is_one_process(self, try_one):
        ran = try_one(0, "functions:f", "args.npz", "--no-isolate")

        peak_mb, rank_mb = re.findall(r"(\d+\.\d+) MB", ran.stdout)
        assert float(rank_mb) == pytest.approx(float(peak_mb), abs=0.1)

    def test_one_random_task_is_called_and_named(self, try_one, tmp_path_factory):
        path = tmp_path_factory.mktemp("trace") / "calls"

        ran = try_one(2, "functions:trace", "--set", "x=[0, 1, 2, 3]", "--set", f"path={path}")

        (index,) = path.read_text().split()
        text = f"simulating randomly picked worker #{index} with automatically distributed"
        assert ran.stderr.count(text) == 1
        assert "SUCCESS" not in ran.stderr

    def test_a_failing_task_is_told_with_its_traceback(self, try_one):
        ran = try_one(2, "functions:fail", "--set", "x=[5]")

        assert (ran.returncode, ran.stdout) == (1, "")
        assert ran.stderr.count("acme_mpi: the dry-run of fail failed: task 0 on rank ") == 1
        assert ran.stderr.count('functions.py", line 15, in fail') == 1
        assert ran.stderr.count("LookupError: no 5") == 2  # in the line, and below the traceback

    @pytest.mark.parametrize(
        ("args", "said"),
        [
            (["functions:leave", "--set", "x=[5]"], "exit code 7"),
            (["functions:f", "args.npz", "--result-shape", "None,2"], "expected shape (2,)"),
        ],
    )
    def test_what_would_fail_in_a_run_fails(self, try_one, args, said):
        ran = try_one(0, *args)

        assert (ran.returncode, ran.stdout) == (1, "")
        assert ran.stderr.count(said) == 1

    def test_no_tasks_are_a_mistake(self, try_one):
        ran = try_one(2, "functions:fail", "--set", "x=[]")

        assert (ran.returncode, ran.stdout) == (2, "")
        assert ran.stderr.count("--dry-run needs a task, and there are none") == 1


@pytest.mark.slow
class TestOnTerminal:
    @pytest.mark.parametrize("n", by_stacks([0, 2], every=[2]))
    def test_yes_goes_on(self, try_one, folder, content_of, n):
        options = ["--output-dir", "out"]

        ran = try_one(n, "functions:f", "args.npz", *options, answer="y\n", makes=1)

        assert ran.returncode == 0, ran.stdout
        assert ran.stdout.count(QUESTION) == 1
        assert ran.stdout.count("SUCCESS! 4 tasks done") == 1
        assert len(content_of(folder / "out" / "f.h5")) == 4

    @pytest.mark.parametrize(
        ("n", "answer"), [(0, END_OF_INPUT), pytest.param(2, "n\n", marks=pytest.mark.every)]
    )
    def test_no_stops_and_makes_nothing(self, try_one, n, answer):
        ran = try_one(n, "functions:f", "args.npz", answer=answer)

        assert ran.returncode == 0, ran.stdout
        assert ran.stdout.count(QUESTION) == 1
        assert "SUCCESS" not in ran.stdout

    @pytest.mark.once
    def test_a_later_failure_is_reproduced_without_a_dry_run(self, try_one, tmp_path_factory):
        """A task that fails later is reproduced without a dry run."""
        path = tmp_path_factory.mktemp("later") / "called"
        args = ["functions:fail_later", "--set", "x=[5]", "--set", f"path={path}", "--no-write"]

        ran = try_one(0, *args, answer="y\n")

        assert ran.returncode == 1
        command = f"python -m acme_mpi functions:fail_later --set 'x=[5]' --set path={path}"
        assert f"reproduce: {command} --no-write --debug-task 0" in ran.stdout


@pytest.mark.once
class TestForecast:
    @pytest.mark.parametrize(
        ("n_tasks", "n_workers", "wall_s"), [(4, 2, 1.0), (5, 2, 1.5), (1, 8, 0.5), (8, 1, 4.0)]
    )
    def test_the_ranks_work_side_by_side(self, n_tasks, n_workers, wall_s):
        found = forecast_for(elapsed_s=0.5, n_tasks=n_tasks, n_workers=n_workers)

        assert found.wall_s == wall_s

    def test_a_rank_needs_memory_for_its_two_processes(self):
        assert forecast_for(peak_bytes=200, agent_bytes=50).rank_bytes == 250

    @pytest.mark.parametrize(
        ("kind", "is_stacked"),
        [("memory", False), ("pickle", False), ("rank", True), ("single_file", True)],
    )
    def test_rows_pickles_and_values_take_their_own_bytes(self, kind, is_stacked):
        found = forecast_for(kind=kind, is_stacked=is_stacked, result_bytes=80, n_tasks=100)

        assert found.stored_bytes == 8000

    def test_the_lines_say_it_all(self):
        found = forecast_for(elapsed_s=0.25, result_bytes=8_000_000, is_stacked=True)

        assert found.lines() == [
            "Dry-run completed. Elapsed time is 0.250000 seconds, estimated memory consumption "
            "was 100.00 MB.",
            "All 4 calls on 2 worker(s) would take about 0.5 s; 32.0 MB in files; 150.0 MB of "
            "memory per rank.",
        ]

    @pytest.mark.parametrize(
        ("elapsed_s", "text"),
        [
            (0, "less than 0.1 s"),
            (0.1, "about 0.2 s"),
            (10, "about 20 s"),
            (30, "about 1 min 00 s"),
            (1799.9, "about 1 h 00 min"),
            (2 * 86400, "about 96 h 00 min"),
        ],
    )
    def test_durations_are_readable(self, elapsed_s, text):
        assert f"would take {text};" in forecast_for(elapsed_s=elapsed_s).lines()[1]

    @pytest.mark.parametrize(
        ("result_bytes", "text"),
        [(0, "0 bytes"), (8, "32 bytes"), (250, "1.0 kB"), (3e8, "1.2 GB"), (1e15, "4000.0 TB")],
    )
    def test_sizes_are_readable(self, result_bytes, text):
        found = forecast_for(result_bytes=result_bytes, kind="memory")

        assert f"; {text} in memory; " in found.lines()[1]


@pytest.mark.once
def test_every_task_may_be_picked():
    picked = (pick(3) for _ in itertools.count())

    seen = set[int]()
    while len(seen) < 3:
        seen.add(next(picked))
    assert seen == {0, 1, 2}


@pytest.mark.once
def test_nothing_can_be_picked_of_nothing():
    with pytest.raises(InputError, match="there are none"):
        pick(0)


def make_measured(func: Any, **fields: Any) -> Measured:
    """Return what measures `func` in a runner, by default in memory."""
    defaults = {"spec": None, "as_pickles": True, "may_pickle": False, "has_agent": True}
    return Measured(func, **{**defaults, **fields})


def result_bytes(value: Any, spec: RowSpec | None = None, as_pickles: bool = False) -> int:
    """Return the bytes of a result, as a dry-run measures them."""
    return int(make_measured(lambda: value, spec=spec, as_pickles=as_pickles)()[3])


@pytest.mark.once
class TestMeasured:
    def test_only_the_call_is_timed(self, monkeypatch):
        clock = iter([10.0, 12.5])
        monkeypatch.setattr(measure.time, "perf_counter", lambda: next(clock))

        assert make_measured(lambda x: x)(3)[0] == 2.5

    @pytest.mark.skipif(
        not os.access("/proc/self/clear_refs", os.W_OK), reason="the kernel keeps the peak"
    )
    def test_a_tasks_peak_memory_is_seen_and_forgotten_by_the_next(self):
        task = make_measured(lambda n: float(np.ones(n).sum()))

        large, small = task(25_000_000)[1], task(1)[1]

        assert large > 200e6
        assert small < large - 150e6

    def test_the_agents_memory_is_seen_if_there_is_one(self):
        assert make_measured(int)()[2] > 0
        assert make_measured(int, has_agent=False)()[2] == 0

    @pytest.mark.parametrize(
        ("value", "spec", "n_bytes"),
        [
            (7, make_row_spec((None,), "float32"), 4),
            (np.ones(3, "i2"), make_row_spec((None, 3), "float64"), 24),
            ((np.ones((2, 3)), 1.5, "abc"), make_row_spec((2, None, 3), "float"), 48 + 8 + 3 + 16),
            (np.ones(5), make_row_spec((None, np.inf), "float32"), 20),
        ],
    )
    def test_a_row_has_the_bytes_of_the_results_dtype(self, value, spec, n_bytes):
        assert result_bytes(value, spec) == n_bytes

    @pytest.mark.parametrize("kind", ["memory", "pickle"])
    def test_in_memory_and_as_a_pickle_a_result_is_pickled(self, kind):
        _, as_pickles, _, _ = circumstances(Options(Work("f", 1), Output(kind)))

        assert 8000 < result_bytes({"x": np.ones(1000)}, as_pickles=as_pickles) < 8500

    def test_what_hdf5_cannot_hold_is_measured_as_its_pickle(self):
        """What HDF5 cannot hold is measured as its pickle if it may be one."""
        value = {"y" * 1000}

        with pytest.raises(ResultError, match="set"):
            result_bytes(value)
        task = make_measured(lambda: value, as_pickles=False, may_pickle=True)
        assert 1000 < task()[3] < 1100


VALUES: list[Any] = [
    18,
    True,
    2 - 1j,
    np.float32(2),
    np.arange(1000.0),
    np.zeros((10, 20), "i2"),
    [1, 2, 3],
    (np.arange(5, dtype="i1"), 2.5, np.ones((2, 2))),
    None,
    np.empty((0, 3)),
    np.zeros(4, [("a", "i4"), ("b", "f8")]),
]
N_FEW, N_MANY, N_ROWS = 200, 3000, 200_000
SHAPED = {"result_shape": (None,)}
# (kind, tasks, keywords)
RUNS: dict[str, tuple[str, int, dict[str, Any]]] = {
    "computation": ("computation", N_FEW, {"payload": "computation"}),
    "computation-rows": ("computation", N_FEW, {"payload": "computation", **SHAPED}),
    "rank": ("rank", N_MANY, {"payload": "rank"}),
    "rank-rows": ("rank", N_ROWS, {"payload": "rank", **SHAPED}),
    "single_file": ("single_file", N_MANY, {"single_file": True}),
    "single_file-rows": ("single_file", N_ROWS, {"single_file": True, **SHAPED}),
    "pickle": ("pickle", N_FEW, {"write_pickle": True}),
}
# Of this file, and of what it imports.
PATH = os.pathsep.join(str(folder) for folder in Path(__file__).parents[:2])
WRITE = """
import test_dry_run as cases
from acme_mpi import ParallelMap


def half(i):
    return i / 2


def value(taskID):
    return cases.VALUES[taskID]


for name, (_, n_tasks, keywords) in cases.RUNS.items():
    ParallelMap(half, range(n_tasks), output_dir=name, logfile=False, **keywords).compute()
ParallelMap(value, n_inputs=len(cases.VALUES), output_dir="values", single_file=True).compute()
"""


@pytest.fixture(scope="module")
def written(mpiexec, tmp_path_factory) -> Path:
    """Return a folder with the results of all `RUNS`, and of a task for each of `VALUES`."""
    folder = tmp_path_factory.mktemp("written")
    (folder / "write.py").write_text(WRITE)
    ran = mpiexec(1, "write.py", cwd=folder, env={"PYTHONPATH": PATH})
    assert ran.returncode == 0, ran.stderr
    return folder


def size_of(folder: Path) -> int:
    """Return the bytes of all files that a user sees."""
    shown = (path for path in folder.rglob("*") if DOT_FOLDER not in path.parts)
    return sum(path.stat().st_size for path in shown if path.is_file())


@pytest.mark.slow
class TestWritten:
    @pytest.mark.parametrize("name", RUNS)
    def test_files_of_scalars_are_about_as_large_as_forecast(self, written, name):
        kind, n_tasks, keywords = RUNS[name]
        spec = (
            make_row_spec(keywords["result_shape"], "float") if "result_shape" in keywords else None
        )
        figures = {
            "result_bytes": result_bytes(0.5, spec, "pickle" if kind == "pickle" else "hdf5"),
            "is_stacked": spec is not None,
        }

        found = forecast_for(kind=kind, n_tasks=n_tasks, **figures).stored_bytes

        assert found == pytest.approx(size_of(written / name), rel=0.5)

    @pytest.mark.parametrize("index", range(len(VALUES)))
    def test_a_result_has_the_bytes_that_are_stored(self, written, index):
        with h5py.File(written / "values" / "value.h5") as file:
            results = file[f"comp_{index}"].values()
            n_stored = sum(dataset.id.get_storage_size() for dataset in results)

        assert result_bytes(VALUES[index]) == n_stored
