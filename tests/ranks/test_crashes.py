"""Whatever a function does costs its task alone, and leaves nothing behind."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
from conftest import by_stacks

import acme_mpi

pytestmark = pytest.mark.slow

MISBEHAVE = """
import ctypes
import faulthandler
import json
import os
import resource
import signal
import socket
import stat
import subprocess
import sys
import threading

import numpy as np

import acme_mpi

resource.setrlimit(resource.RLIMIT_CORE, (0, 0))


class Silent(Exception):
    def __str__(self):
        raise RuntimeError("no text")


class Stuck(Exception):
    def __reduce__(self):
        raise TypeError("cannot be pickled")


def sockets():
    for name in os.listdir("/proc/self/fd"):
        try:
            if int(name) > 2 and stat.S_ISSOCK(os.fstat(int(name)).st_mode):
                yield int(name)
        except OSError:
            pass


def recurse():
    return recurse()


def misbehave(kind):
    if kind == "segfault":
        ctypes.string_at(0)
    elif kind == "stack overflow":
        faulthandler._stack_overflow()
    elif kind == "SIGKILL":
        os.kill(os.getpid(), signal.SIGKILL)
    elif kind == "SIGTERM":
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
        os.kill(os.getpid(), signal.SIGTERM)
    elif kind == "os._exit":
        os._exit(7)
    elif kind == "os._exit(0)":
        os._exit(0)
    elif kind == "sys.exit":
        sys.exit(3)
    elif kind == "garbage":
        for descriptor in sockets():
            os.write(descriptor, b"garbage")
    elif kind == "closed descriptors":
        os.closerange(3, 1024)
    elif kind == "closed streams":
        os.closerange(0, 3)
    elif kind == "silent exception":
        raise Silent
    elif kind == "unpicklable exception":
        raise Stuck("stuck")
    elif kind == "unpicklable result":
        return threading.Lock()
    elif kind == "recursion":
        recurse()
    elif kind == "memory":
        return np.empty(2**55)
    elif kind == "MemoryError":
        raise MemoryError
    elif kind == "KeyboardInterrupt":
        raise KeyboardInterrupt
    elif kind == "GeneratorExit":
        raise GeneratorExit
    elif kind == "StopIteration":
        raise StopIteration("over")
    elif kind == "chdir":
        os.chdir("/")
    elif kind == "threads":
        threading.Thread(target=threading.Event().wait, daemon=False).start()
    elif kind == "children":
        subprocess.Popen([sys.executable, "-c", "import signal; signal.pause()"])
    elif kind == "fork":
        if os.fork() == 0:
            signal.pause()
    elif kind == "stdout":
        sys.stdout = None
    elif kind == "environment":
        os.environ.clear()
        sys.path.clear()
    elif kind == "printing":
        os.close(1)
        # An earlier task of this process may have put something else in the place of stdout.
        print("nobody reads this", file=sys.__stdout__, flush=True)
    elif kind == "large":
        return np.full(n_large, float(len(kind)))
    elif kind == "handlers":
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        signal.alarm(0)
    return float(len(kind))


def first_of(result):
    if not isinstance(result, np.ndarray):
        return result
    assert result.shape == (n_large,) and (result == result[0]).all()
    return float(result[0])


n_large = 2**21  # 16 MiB
# Good tasks stand between the bad ones: they share chunks with them.
kinds = json.loads(sys.argv[1])
tasks = [kind for pair in zip(kinds, [f"good {k}" for k in range(len(kinds))]) for kind in pair]
"""
CRASHES = (
    MISBEHAVE
    + """
from mpi4py import MPI

world = MPI.COMM_WORLD
STORES = {
    "rank": {},
    "computation": {"payload": "computation"},
    "single_file": {"single_file": True},
    "memory": {"write_worker_results": False},
}
reports = {}
for store, n_large in json.loads(sys.argv[2]).items():
    try:
        results = acme_mpi.map(misbehave, tasks, output_dir=store, **STORES[store])
        failures = []
    except acme_mpi.TaskError as error:
        results, failures = error.results, error.failures
    got = {
        "failures": {tasks[f.index]: [f.type, f.message] for f in failures},
        "results": [first_of(each) for each in results] if store == "memory" else None,
    }
    everybody = world.gather(got)
    if everybody is not None:
        same = [each == got for each in everybody]
        reports[store] = {**got, "same": same, "n_large": n_large}
if world.rank == 0:
    with open("reports.json", "w") as file:
        json.dump({"tasks": tasks, "stores": reports}, file)
"""
)
SUBMITS = (
    MISBEHAVE
    + """
with acme_mpi.Executor() as executor:
    futures = [executor.submit(misbehave, task) for task in tasks]
    errors = [future.exception(timeout=90) for future in futures]
report = {"tasks": tasks, "results": [], "errors": {}}
for task, future, error in zip(tasks, futures, errors):
    report["results"].append(None if error else first_of(future.result()))
    if error is not None:
        try:
            text = str(error)
        except RuntimeError:
            text = "no text"
        report["errors"][task] = [type(error).__name__, text]
with open("reports.json", "w") as file:
    json.dump(report, file)
"""
)
# What happens, and the failure's type and a part of its message; None: the task is done.
KINDS: dict[str, tuple[str, str] | None] = {
    "segfault": ("killed", "SIGSEGV"),
    "stack overflow": ("killed", "SIGSEGV"),
    "SIGKILL": ("killed", "SIGKILL"),
    "SIGTERM": ("killed", "SIGTERM"),
    "os._exit": ("exit", "exit code 7"),
    "os._exit(0)": ("exit", "exit code 0"),
    "sys.exit": ("exit", "sys.exit(3)"),
    "garbage": ("protocol", "garbage"),
    "closed descriptors": ("protocol", "channel"),
    "silent exception": ("Silent", "RuntimeError"),
    "unpicklable exception": ("Stuck", "stuck"),
    "unpicklable result": ("ResultError", ""),
    "recursion": ("RecursionError", "maximum recursion depth"),
    "memory": ("MemoryError", "Unable to allocate"),
    "MemoryError": ("MemoryError", ""),
    "KeyboardInterrupt": ("KeyboardInterrupt", ""),
    "GeneratorExit": ("GeneratorExit", ""),
    "StopIteration": ("StopIteration", "over"),
    "chdir": None,
    "threads": None,
    "children": None,
    "fork": None,
    "closed streams": None,
    "stdout": None,
    "environment": None,
    "printing": ("OSError", "Bad file descriptor"),
    "large": None,
    "handlers": None,
}
# What a future gets instead, where that is not the exception itself or a `WorkerDied`.
OF_FUTURES = {
    "silent exception": ("Silent", "no text"),
    "unpicklable exception": ("MaybeEncodingError", "stuck"),
    "unpicklable result": ("MaybeEncodingError", "lock"),
    "KeyboardInterrupt": ("WorkerDied", "KeyboardInterrupt"),
    "GeneratorExit": ("WorkerDied", "GeneratorExit"),
}
# Values of the large result: 16 MiB, 256 MiB and 1 GiB. Fresh memory is dear: once in memory and
# once in files it is more; how MPI moves it in slices is said in `test_comm`.
LARGE, LARGER, LARGEST = 2**21, 2**25, 2**27
IN_FILES = {"rank": LARGER, "computation": LARGE, "single_file": LARGE}


def own_shared_memory() -> set[str]:
    """Return our entries in /dev/shm; MPI's own may be left by jobs that were killed."""
    folder = Path("/dev/shm")
    return (
        {path.name for path in folder.iterdir() if "acm" in path.name} if folder.exists() else set()
    )


@pytest.fixture(
    scope="module",
    params=[
        pytest.param((0, {"memory": LARGER}), marks=pytest.mark.once, id="alone"),
        pytest.param((2, {"memory": LARGE}), id="2"),
        pytest.param((2, IN_FILES), marks=pytest.mark.once, id="2, files"),
        pytest.param((2, {"memory": LARGEST, "rank": LARGEST}), marks=pytest.mark.many, id="1 GiB"),
    ],
)
def crashes(request, mpiexec, tmp_path_factory) -> Iterator[tuple[Path, dict[str, Any], Any]]:
    """Run every kind of crash in every kind of store."""
    n, stores = request.param
    folder = tmp_path_factory.mktemp("crashes")
    (folder / "crashes.py").write_text(CRASHES)
    before = own_shared_memory()
    # The fixture fails if a process is left behind.
    words = json.dumps(list(KINDS)), json.dumps(stores)
    ran = mpiexec(n, "crashes.py", *words, cwd=folder, timeout_s=120)
    assert ran.returncode == 0, ran.stderr
    assert own_shared_memory() <= before
    yield folder, json.loads((folder / "reports.json").read_text()), ran
    shutil.rmtree(folder)  # a quarter of a gigabyte


def test_every_rank_is_told_the_same(crashes):
    _, report, _ = crashes

    assert [store for store, found in report["stores"].items() if not all(found["same"])] == []


@pytest.mark.parametrize("kind", KINDS)
def test_a_crash_costs_its_task_alone_and_is_named(crashes, kind):
    _, report, _ = crashes
    for store, found in report["stores"].items():
        failure = found["failures"].get(kind)
        expected = KINDS[kind]
        if expected is None:
            assert failure is None, store
        else:
            assert failure is not None, store
            assert failure[0] == expected[0], (store, failure)
            assert expected[1] in failure[1], (store, failure)


def test_all_other_tasks_are_done(crashes):
    _, report, _ = crashes
    bad = {kind for kind, expected in KINDS.items() if expected is not None}

    for store, found in report["stores"].items():
        assert set(found["failures"]) == bad, store
    expected = [None if task in bad else float(len(task)) for task in report["tasks"]]
    in_memory = report["stores"].get("memory", {"results": expected})
    assert in_memory["results"] == expected


def test_results_beside_the_crashes_are_stored(crashes):
    folder, report, _ = crashes
    bad = {kind for kind, expected in KINDS.items() if expected is not None}
    good = {
        index: float(len(task)) for index, task in enumerate(report["tasks"]) if task not in bad
    }
    for store, found in report["stores"].items():
        if store == "memory":
            continue
        with h5py.File(folder / store / "misbehave.h5") as file:
            assert list(file) == [f"comp_{i}" for i in good]
            for name, value in zip(file, good.values(), strict=True):
                result = file[name]["result_0"]
                is_large = report["tasks"][int(name.removeprefix("comp_"))] == "large"
                assert result.shape == ((found["n_large"],) if is_large else (1,))
                for begin in range(0, len(result), 2**21):
                    assert (result[begin : begin + 2**21] == value).all()


def test_the_summary_names_every_ending(crashes):
    for ending in ("SIGSEGV", "SIGKILL", "SIGTERM", "exit code 7", "exit code 0"):
        assert ending in crashes[2].stderr


def test_our_own_frames_are_not_shown(crashes):
    assert os.path.dirname(acme_mpi.__file__) not in crashes[2].stderr


@pytest.fixture(
    scope="module",
    params=[
        pytest.param(0, marks=pytest.mark.once, id="alone"),
        pytest.param(3, marks=pytest.mark.every, id="3"),
    ],
)
def submitted(request, mpiexec, tmp_path_factory) -> tuple[dict[str, Any], Any]:
    """Submit every kind of crash, in plain Python and in a script that ranks serve."""
    n, folder = request.param, tmp_path_factory.mktemp("submits")
    (folder / "submits.py").write_text(SUBMITS)
    before = own_shared_memory()
    command = [*(["-m", "acme_mpi"] if n else []), "submits.py", json.dumps(list(KINDS))]
    ran = mpiexec(n, *command, cwd=folder, timeout_s=120)
    assert ran.returncode == 0, ran.stderr
    assert own_shared_memory() <= before
    return json.loads((folder / "reports.json").read_text()), ran


@pytest.mark.parametrize("kind", KINDS)
def test_a_crash_costs_its_future_alone_and_is_named(submitted, kind):
    report, _ = submitted
    error, expected = report["errors"].get(kind), KINDS[kind]

    if expected is None:
        assert error is None
        return
    name, text = expected
    if name in ("killed", "exit", "protocol"):
        name = "WorkerDied"
    name, text = OF_FUTURES.get(kind, (name, text))
    assert error is not None
    assert error[0] == name, error
    assert text in error[1], error


def test_all_other_futures_have_their_results(submitted):
    report, _ = submitted
    bad = {kind for kind, expected in KINDS.items() if expected is not None}

    assert set(report["errors"]) == bad
    expected = [None if task in bad else float(len(task)) for task in report["tasks"]]
    assert report["results"] == expected


PLACED = """
import os
import signal
import sys
import numpy as np
from mpi4py import MPI

import acme_mpi


def large(i):
    if i in (1, 4):
        os.kill(os.getpid(), signal.SIGKILL)
    return np.full((100, 200), float(i)), f"task {i}"


failed = {}
for store, options in {
    "rank": {}, "computation": {"payload": "computation"}, "single_file": {"single_file": True},
}.items():
    for rows in (False, True):
        kwargs = {**options, "output_dir": store + "-rows" * rows}
        if rows:
            kwargs["result_shape"] = (None, 100, 200)
        try:
            acme_mpi.map(large, list(range(6)), **kwargs)
        except acme_mpi.TaskError as error:
            failed[store, rows] = [f.index for f in error.failures]
if MPI.COMM_WORLD.rank == 0:
    print(set(map(tuple, failed.values())), len(failed))
"""


def test_large_results_survive_crashes_around_them(mpiexec, tmp_path, content_of, write_script):
    """They are written in place by the processes that die next."""
    write_script(PLACED)

    ran = mpiexec(2, "script.py", cwd=tmp_path)

    assert ran.stdout == "{(1, 4)} 6\n", ran.stderr
    for store in ("rank", "computation", "single_file"):
        content = content_of(tmp_path / store / "large.h5")
        for i in (0, 2, 3, 5):
            array = np.full((100, 200), float(i))
            assert content[f"comp_{i}/result_0"] == ("<f8", (100, 200), array.tobytes())
            assert content[f"comp_{i}/result_1"] == ("str", (), (f"task {i}",))
        rows = content_of(tmp_path / f"{store}-rows" / "large.h5")["result_0"]
        array = np.frombuffer(rows[2]).reshape(rows[1])
        expected = np.arange(6.0)
        expected[[1, 4]] = np.nan
        np.testing.assert_array_equal(array[:, 0, 0], expected)
        np.testing.assert_array_equal(array.min(axis=(1, 2)), expected)
        np.testing.assert_array_equal(array.max(axis=(1, 2)), expected)


SURROUNDINGS = """
import json
import os
import sys
from mpi4py import MPI

import acme_mpi

PLACES = ("OMPI_COMM", "PMIX_", "PMI_", "HYDI_", "MPI_LOCAL")
NAMES = ["OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "NUMEXPR_NUM_THREADS"]


def surroundings(i):
    from mpi4py import MPI

    print(f"<task {i}>")
    print(f"<error of task {i}>", file=sys.stderr)
    return {
        "threads": [os.environ.get(name) for name in NAMES],
        "world": [MPI.COMM_WORLD.size, MPI.COMM_WORLD.rank],
        "directory": os.getcwd(),
        "launcher": [n for n in os.environ if n.startswith(PLACES)],
        "custom": os.environ.get("CUSTOM"),
        "stdin": os.readlink("/proc/self/fd/0"),
        "argv": sys.argv,
    }


world = MPI.COMM_WORLD
found = acme_mpi.map(surroundings, range(12), write_worker_results=False)
masks = world.gather(sorted(os.sched_getaffinity(0)))
if world.rank == 0:
    shares = {str(max(1, len(m) // sum(m == other for other in masks))) for m in masks}
    with open("report.json", "w") as file:
        json.dump([found, sorted(shares)], file)
"""


@pytest.mark.parametrize("n", by_stacks([0, 1, 2], every=[1, 2]))
def test_what_surrounds_the_function(mpiexec, tmp_path, write_script, n):
    """A world of one rank, its share of the cores, the caller's directory and environment."""
    write_script(SURROUNDINGS)
    env = {"CUSTOM": "kept", "MKL_NUM_THREADS": "7"}

    ran = mpiexec(n, "script.py", cwd=tmp_path, env=env)

    assert ran.returncode == 0, ran.stderr
    found, shares = json.loads((tmp_path / "report.json").read_text())
    for each in found:
        share, blas, mkl, numexpr = each["threads"]
        assert share in shares
        assert (blas, mkl, numexpr) == (share, "7", share)
        assert each["world"] == [1, 0]
        assert each["directory"] == str(tmp_path)
        assert each["launcher"] == []
        assert each["custom"] == "kept"
        assert each["stdin"] == "/dev/null"
    for i in range(12):
        assert ran.stdout.count(f"<task {i}>") == 1
        assert ran.stderr.count(f"<error of task {i}>") == 1
