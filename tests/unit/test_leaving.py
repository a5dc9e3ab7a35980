"""How runners end: what users have registered is done, and who does not leave is killed."""

from __future__ import annotations

import atexit
import os
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import cloudpickle
import pytest
from running import (
    LIMIT_S,
    is_gone,
    make_assignment,
    run_tasks,
    start_sleepers,
    values_by_index,
    wait_until,
)

from acme_mpi.runner import process
from acme_mpi.runner.child import ChildRunner

pytestmark = pytest.mark.once
cloudpickle.register_pickle_by_value(sys.modules[__name__])

TASK = """\
import atexit
import os
import tempfile
from concurrent.futures import ThreadPoolExecutor
from multiprocessing.shared_memory import SharedMemory
from pathlib import Path

kept = []


def leave_things(folder):
    \"\"\"Begin what Python ends at its own end; nothing of it is ended here.\"\"\"
    folder = Path(folder)
    if kept:
        return
    memory = SharedMemory(create=True, size=64)
    directory = tempfile.TemporaryDirectory(dir=folder)
    named = tempfile.NamedTemporaryFile(dir=folder)
    text = open(folder / "text", "w")
    text.write("not flushed")
    pool = ThreadPoolExecutor(1)
    pool.submit(int).result()
    kept.extend([memory, directory, named, text, pool])
    (folder / "memory").write_text(memory.name)
    atexit.register(lambda: (folder / "registered").touch())
    atexit.register(print, "last words")
    print("first words")
"""


def check_all_is_ended(folder: Path) -> None:
    assert sorted(os.listdir(folder)) == ["memory", "registered", "text"]
    assert (folder / "text").read_text() == "not flushed"
    assert not Path("/dev/shm", (folder / "memory").read_text()).exists()


@pytest.fixture
def folder(tmp_path) -> Path:
    path = tmp_path / "left"
    path.mkdir()
    return path


@pytest.fixture
def start_runner() -> Iterator[Callable[[], ChildRunner]]:
    runners: list[ChildRunner] = []

    def start() -> ChildRunner:
        runners.append(ChildRunner())
        return runners[-1]

    yield start
    for runner in runners:
        runner.stop()


class TestOfOneRunner:
    @pytest.fixture(autouse=True)
    def patience(self, monkeypatch):
        monkeypatch.setattr(process, "LEAVING_S", LIMIT_S)

    def run(self, runner, func, *args):
        runner.prepare(make_assignment(func, *args))
        return values_by_index(run_tasks(runner, [range(1)]))[0]

    def test_all_that_a_task_has_left_is_ended(self, start_runner, folder, capfd):
        space: dict = {}
        exec(TASK, space)
        runner = start_runner()
        self.run(runner, space["leave_things"], [str(folder)])
        runner.leave()

        check_all_is_ended(folder)
        assert capfd.readouterr().out == "first words\nlast words\n"

    def test_its_successor_leaves_as_well(self, start_runner, tmp_path):
        def f(path):
            atexit.register(Path(path).touch)

        runner = start_runner()
        runner.prepare(make_assignment(lambda x: os._exit(1), [1]))
        run_tasks(runner, [range(1)])
        self.run(runner, f, [str(tmp_path / "registered")])
        runner.leave()

        assert (tmp_path / "registered").exists()

    def test_what_stays_is_killed_and_delays_nothing_else(
        self, start_runner, tmp_path, monkeypatch
    ):
        """What stays is killed and keeps nothing else from being done."""

        def f(path):
            atexit.register(threading.Event().wait)
            atexit.register(Path(path).touch)
            threading.Thread(target=threading.Event().wait).start()
            return [os.getpid(), *start_sleepers()]

        runner = start_runner()
        pids = self.run(runner, f, [str(tmp_path / "registered")])
        monkeypatch.setattr(process, "LEAVING_S", 2.0)
        runner.leave()

        assert all(is_gone(pid) for pid in pids)
        assert (tmp_path / "registered").exists()
        assert not runner.pid

    def test_one_that_is_busy_is_killed_at_once(self, start_runner, tmp_path):
        def f(path):
            Path(path).touch()
            threading.Event().wait()

        runner = start_runner()
        runner.prepare(make_assignment(f, [str(tmp_path / "begun")]))
        runner.submit(range(1))
        wait_until((tmp_path / "begun").exists)
        begin_s = time.monotonic()
        runner.leave()

        assert time.monotonic() - begin_s < LIMIT_S

    def test_one_that_was_never_used_leaves(self, start_runner):
        runner = start_runner()
        pid = runner.pid
        runner.leave()

        assert is_gone(pid)


COMMANDS = {
    "command line": (
        2,
        ["-m", "acme_mpi", "left.py:leave_things", "--set", 'folder="left"', "--n-inputs", "1"],
    ),
    "script mode": (2, ["-m", "acme_mpi", "script.py"]),
    "SPMD": (2, ["script.py"]),
    "plain": (0, ["script.py"]),
}


@pytest.mark.parametrize(("n", "command"), COMMANDS.values(), ids=COMMANDS)
def test_at_the_end_of_a_program(mpiexec, tmp_path, folder, n, command):
    """That of `mpiexec`, the fixture, finds no process left."""
    (tmp_path / "left.py").write_text(TASK)
    (tmp_path / "script.py").write_text(
        "import acme_mpi, left\n"
        f"acme_mpi.map(left.leave_things, {str(folder)!r}, n_inputs=1, output_dir='out')\n"
    )
    wanted = [word.replace('"left"', f'"{folder}"') for word in command]

    ran = mpiexec(n, *wanted, cwd=tmp_path)

    assert ran.returncode == 0, ran.stderr
    check_all_is_ended(folder)
    assert ran.stdout == "first words\nlast words\n"
