"""Calls from within: in a task they run right there, where user code is loaded they are refused."""

from __future__ import annotations

import multiprocessing
import os
import signal
import subprocess
import sys
import textwrap
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import h5py
import pytest
from conftest import by_stacks

import acme_mpi
from acme_mpi import standing
from acme_mpi.errors import LoadingError

ROOT = str(Path(acme_mpi.__file__).parents[1])

UNGUARDED = {
    "map": "acme_mpi.map(f, [1], write_worker_results=False)",
    "ParallelMap": "acme_mpi.ParallelMap(f, [1], write_worker_results=False).compute()",
    "local_cluster_setup": "acme_mpi.local_cluster_setup()",
    "launch": "acme_mpi.launch(1)",
    "connect": "acme_mpi.connect()",
}
HEAD = "import acme_mpi\n\ndef f(x):\n    return x\n\n"


@pytest.fixture
def unguarded(tmp_path):
    """Return a function that writes a module with a call of ours on its line 6."""

    def write(name: str = "map") -> Path:
        path = tmp_path / "unguarded.py"
        path.write_text(HEAD + UNGUARDED[name] + "\n")
        return path

    return write


def run_python(folder, *words, **more):
    environment = {**os.environ, "PYTHONPATH": ROOT}
    return subprocess.run(
        [sys.executable, *words],
        cwd=folder,
        env=environment,
        capture_output=True,
        text=True,
        timeout=60,
        **more,
    )


@pytest.mark.once
@pytest.mark.parametrize("name", UNGUARDED)
def test_a_module_that_calls_on_import_is_refused(unguarded, name):
    """A module that calls when it is imported is refused with its line."""
    path = unguarded(name)

    done = run_python(path.parent, "-m", "acme_mpi", "unguarded.py:f", "--set", "x=[1]")

    assert done.returncode == 2
    assert done.stderr.count(f"{path}:6 calls acme_mpi.{name}") == 1
    assert 'if __name__ == "__main__":' in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.once
@pytest.mark.parametrize("option", ["--plan", "--debug-task=0", "--dry-run", "--no-isolate"])
def test_it_is_refused_whatever_the_command_line_asks_for(unguarded, option):
    path = unguarded()

    done = run_python(path.parent, "-m", "acme_mpi", "unguarded.py:f", "--set", "x=[1]", option)

    assert done.returncode == 2
    assert done.stderr.count(f"{path}:6 calls acme_mpi.map") == 1


@pytest.mark.once
def test_a_command_line_started_on_import_starts_no_runs(tmp_path):
    """A module that starts the command line when it is imported starts no runs."""
    line = [sys.executable, "-m", "acme_mpi", "starts.py:f", "--set", "x=[1]", "--no-write", "-q"]
    (tmp_path / "starts.py").write_text(
        f"import subprocess\n\ndef f(x):\n    return x\n\nsubprocess.run({line})\n"
    )

    done = run_python(tmp_path, *line[1:])

    assert (done.returncode, done.stdout) == (0, "1\n")
    assert done.stderr.count("this command was started by a module that is imported") >= 1


@pytest.mark.parametrize("is_served", [True, False], ids=["script", "spmd"])
def test_a_scripts_module_that_calls_on_import_is_refused_once(unguarded, mpiexec, is_served):
    """The script may import it; a runner that needs a function of it may not."""
    path = unguarded()
    (path.parent / "script.py").write_text(
        "import acme_mpi, unguarded\n"
        "acme_mpi.map(unguarded.f, [1, 2], write_worker_results=False)\n"
    )
    served = ("-m", "acme_mpi") if is_served else ()

    done = mpiexec(2, *served, "script.py", cwd=path.parent, env={"PYTHONPATH": ROOT})

    assert done.returncode != 0
    n_ranks = 1 if is_served else 2  # each of them raises
    assert done.stderr.count(f"{path}:6 calls acme_mpi.map") == n_ranks


@pytest.mark.once
def test_multiprocessing_that_imports_a_main_is_refused(tmp_path):
    """A process of multiprocessing that imports a main module is refused."""
    (tmp_path / "script.py").write_text(
        textwrap.dedent(
            """\
            import multiprocessing
            import acme_mpi

            def f(x):
                return x

            acme_mpi.map(f, [1], write_worker_results=False)
            if __name__ == "__main__":
                child = multiprocessing.get_context("spawn").Process(target=f, args=(1,))
                child.start()
                child.join()
                print("status", child.exitcode)
            """
        )
    )

    done = run_python(tmp_path, "script.py")

    assert "status 1" in done.stdout
    assert "script.py:7 calls acme_mpi.map" in done.stderr


@pytest.mark.once
def test_what_is_pickled_cannot_make_calls():
    class Calls:
        def __reduce__(self):
            acme_mpi.map(abs, [1], write_worker_results=False)

    with pytest.raises(LoadingError, match=r"test_standing\.py:.* calls acme_mpi\.map"):
        acme_mpi.map(abs, acme_mpi.Shared(Calls()), n_inputs=1, write_worker_results=False)


HANGS = """\
import os, signal, sys, time

def f(x):
    return x

if "ACME_MPI_TASK" in os.environ:
    os.write(2, b"loading\\n")
    time.sleep(1000)
"""


@pytest.mark.once
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
@pytest.mark.parametrize("line", ["-m acme_mpi hangs:f --set x=[1]", "script.py"])
def test_a_run_that_only_loads_ends_at_the_first_signal(tmp_path, number, line):
    (tmp_path / "hangs.py").write_text(HANGS)
    (tmp_path / "script.py").write_text("import acme_mpi, hangs\nacme_mpi.map(hangs.f, [1])\n")
    with subprocess.Popen(
        [sys.executable, *line.split()],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": ROOT},
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        try:
            assert any("loading" in text for text in process.stderr)
            process.send_signal(number)
            error = process.communicate(timeout=30)[1]
        finally:
            process.kill()

    assert process.returncode in (75, 1)
    assert signal.Signals(number).name in error


@pytest.mark.once
def test_a_run_that_only_loads_ends_by_its_time_limit(tmp_path):
    (tmp_path / "hangs.py").write_text(HANGS)

    words = ("-m", "acme_mpi", "hangs:f", "--set", "x=[1]", "--time-limit", "1s")
    done = run_python(tmp_path, *words)

    assert done.returncode == 75
    assert "--time-limit" in done.stderr


@pytest.mark.once
def test_the_limit_of_a_task_leaves_loading_some_time():
    """The limit of a task limits loading but leaves it some time."""
    assert acme_mpi.Rules(timeout="1s").loading_s == 30
    assert acme_mpi.Rules(timeout="1h").loading_s == 3600
    assert acme_mpi.Rules().loading_s == float("inf")


NESTED = """\
import os, sys, threading
import acme_mpi

def ten_times(y):
    return y * 10

def where(depth):
    if not depth:
        return os.getpid()
    return acme_mpi.map(where, [depth - 1], write_worker_results=False)[0]

def f(x):
    values = acme_mpi.map(ten_times, [x, x + 1], write_worker_results=False)
    path, = acme_mpi.map(ten_times, [1.0, x], output_dir=f"nested{x}")
    with acme_mpi.ParallelMap(ten_times, [x, 2], write_worker_results=False, n_workers=4) as pmap:
        again = pmap.compute()
        same = pmap.compute(debug=True)
    acme_mpi.local_cluster_setup(n_workers=2)
    acme_mpi.cluster_cleanup()
    try:
        acme_mpi.map(len, [0, 1], write_worker_results=False)
    except acme_mpi.TaskError as error:
        n_failed = len(error.failures)
    is_here = where(5) == os.getpid()
    return values, os.path.basename(path), again == same, n_failed, is_here

if __name__ == "__main__":
    isolate = "inline" not in sys.argv
    found = acme_mpi.map(f, [1, 2, 3, 4], write_worker_results=False, isolate=isolate)
    wanted = [([10 * x, 10 * x + 10], "ten_times.h5", True, 2, True) for x in (1, 2, 3, 4)]
    sys.stdout.write("right\\n" if found == wanted else f"wrong: {found}\\n")
"""


STARTS = ["plain isolated", "plain inline", "spmd isolated", "spmd inline", "script inline"]


@pytest.mark.parametrize(
    "start_and_how", by_stacks(STARTS, twice=["spmd isolated", "script inline"])
)
def test_calls_of_a_task_run_right_there(tmp_path, mpiexec, start_and_how):
    start, how = start_and_how.split()
    (tmp_path / "nested.py").write_text(NESTED)
    served = ("-m", "acme_mpi") if start == "script" else ()
    n = 0 if start == "plain" else 2

    done = mpiexec(n, *served, "nested.py", how, cwd=tmp_path, env={"PYTHONPATH": ROOT})

    assert (done.returncode, done.stdout) == (0, "right\n" * (2 if start == "spmd" else 1))
    for x in (1, 2, 3, 4):
        with h5py.File(tmp_path / f"nested{x}" / "ten_times.h5") as file:
            assert file["comp_1/result_0"][()].item() == 10 * x
        assert any(path.suffix == ".log" for path in (tmp_path / f"nested{x}").iterdir())


def test_calls_of_a_task_of_the_command_line_run_right_there(tmp_path, mpiexec):
    (tmp_path / "nested.py").write_text(NESTED)
    words = ("-m", "acme_mpi", "nested.py:f", "--set", "x=[1,2]", "--no-isolate", "--no-write")

    done = mpiexec(2, *words, cwd=tmp_path, env={"PYTHONPATH": ROOT})

    assert done.returncode == 0
    assert done.stdout.count("'ten_times.h5', True, 2, True") == 2


def nest(x: int, folder: str) -> list[int]:
    return acme_mpi.map(divide, [x, x + 1], output_dir=folder, resume=True)


def divide(x: int) -> float:
    return 10 / x


@pytest.mark.once
@pytest.mark.parametrize("isolate", [True, False])
def test_a_failed_call_inside_a_task_can_be_resumed(tmp_path, isolate):
    """A task whose own call fails fails and its own call can be resumed."""
    for _ in range(2):
        with pytest.raises(acme_mpi.TaskError) as caught:
            acme_mpi.map(
                nest, [0], str(tmp_path / "inner"), write_worker_results=False, isolate=isolate
            )

        [failure] = caught.value.failures
        assert failure.type == "TaskError"
        assert "1 of 2 tasks failed" in failure.message


def in_thread(x: int) -> list[int]:
    with ThreadPoolExecutor(1) as pool:
        return pool.submit(acme_mpi.map, abs, [-x], write_worker_results=False).result()


def in_processes(x: int) -> list[list[int]]:
    found = []
    for way in ("fork", "spawn"):
        with multiprocessing.get_context(way).Pool(1) as pool:
            found += pool.apply(pid_and_parent, (x,))
    return found


def pid_and_parent(x: int) -> list[bool]:
    return [pid == os.getpid() for pid in acme_mpi.map(pid_of, [x], write_worker_results=False)]


def pid_of(x: int) -> int:
    return os.getpid()


@pytest.mark.once
@pytest.mark.parametrize("isolate", [True, False])
def test_threads_and_processes_of_a_task_are_in_the_task(isolate):
    options = {"write_worker_results": False, "isolate": isolate}

    assert acme_mpi.map(in_thread, [1, 2], **options) == [[1], [2]]
    assert acme_mpi.map(in_processes, [1], **options) == [[True, True]]
    assert not standing.is_in_task()


@pytest.mark.once
def test_a_job_that_a_task_launches_is_none_of_the_task(monkeypatch):
    monkeypatch.setenv(standing.VARIABLE, standing.mark_of(os.environ))
    assert standing.is_in_task()

    monkeypatch.setenv("PMIX_RANK", "0")
    assert not standing.is_in_task()


def test_what_a_rank_has_forked_calls_alone(tmp_path, mpiexec):
    (tmp_path / "script.py").write_text(
        textwrap.dedent(
            """\
            import os
            import acme_mpi

            acme_mpi.map(abs, [-1], write_worker_results=False)
            pid = os.fork()
            if not pid:
                os.write(1, repr(acme_mpi.map(abs, [-2], write_worker_results=False)).encode())
                os._exit(0)
            os.waitpid(pid, 0)
            acme_mpi.map(abs, [-1], write_worker_results=False)
            """
        )
    )

    done = mpiexec(2, "script.py", cwd=tmp_path, env={"PYTHONPATH": ROOT})

    assert (done.returncode, done.stdout.count("[2]")) == (0, 2)


@pytest.mark.once
def test_limits_of_a_call_in_a_task_are_said_to_be_nothing_once(caplog):
    def outer(x):
        rules = acme_mpi.Rules(timeout=x)
        return acme_mpi.map(abs, [-x], rules=rules, write_worker_results=False)

    found = acme_mpi.map(outer, [1, 2], write_worker_results=False, isolate=False)

    assert found == [[1], [2]]
    assert caplog.text.count("`timeout` and `memory` of a call inside of a task are not kept") == 1


LAUNCHES = """
import subprocess, sys

def f(x):
    code = "from mpi4py import MPI; print(MPI.COMM_WORLD.size, MPI.COMM_WORLD.rank)"
    line = [x, "-n", "1", sys.executable, "-c", code]
    return subprocess.run(line, capture_output=True, text=True, check=True).stdout.split()
"""


def test_a_task_can_launch_a_job_of_its_own(mpiexec, tmp_path):
    (tmp_path / "launches.py").write_text(LAUNCHES)

    done = mpiexec(
        2,
        "-m",
        "acme_mpi",
        "launches.py:f",
        "--set",
        f"x={mpiexec.program}",
        "--n-inputs",
        "2",
        "--no-write",
        "-q",
        cwd=tmp_path,
    )

    assert done.stdout.splitlines() == ["['1', '0']"] * 2, done.stderr
