"""A real Jupyter kernel, whose cells use ranks that the kernel starts."""

from __future__ import annotations

import os
import re
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from conftest import ENDING_S, MARKER, end_all, has_ended, processes_of, start_environment
from running import wait_until

from acme_mpi.linux.cores import n_busy_cores

manager = pytest.importorskip("jupyter_client.manager")
pytest.importorskip("ipykernel")

pytestmark = [pytest.mark.once, pytest.mark.slow]

ANSWERED_S = 60.0
README = Path(__file__).parents[2] / "README.md"
CURRENT = "from acme_mpi.session import current"
RANKS = "current().job_ranks(current().callers())"
FIRST = """\
import os, time
import acme_mpi

def f(x):
    print("task", x)
    return factor * x

factor = 2
with acme_mpi.ParallelMap(f, [1, 2, 3], write_worker_results=False) as pmap:
    values = pmap.compute()
values
"""


class Shown(NamedTuple):
    """What a cell shows.

    Attributes
    ----------
    text : dict of str to str
        By ``"stdout"`` and ``"stderr"``.
    value : str
        Of its last line.
    error : str
        Class and text of its exception.
    pictures : list of str
        The HTML that it has shown, also where it was replaced later.
    """

    text: dict[str, str]
    value: str
    error: str
    pictures: list[str]


class Kernel:
    """A kernel, as a notebook has it."""

    def __init__(self, folder: Any) -> None:
        self.start_id, self.folder = uuid.uuid4().hex, Path(folder)
        places = {name: str(folder) for name in ("IPYTHONDIR", "JUPYTER_CONFIG_DIR", "HOME")}
        own = {"ACME_MPI_LAUNCH": "", MARKER: self.start_id, "JUPYTER_PLATFORM_DIRS": "1"}
        self.manager = manager.KernelManager(kernel_name="python3")
        self.manager.start_kernel(env={**start_environment(), **places, **own}, cwd=str(folder))
        self.client = self.manager.client()
        self.client.start_channels()
        self.client.wait_for_ready(timeout=ANSWERED_S)

    def run(self, code: str, interrupt_at: str = "") -> Shown:
        """Run a cell to its end, and interrupt it once when it has printed some text."""
        cell = self.client.execute(code)
        text, value, error = {"stdout": "", "stderr": ""}, "", ""
        pictures: list[str] = []
        while True:
            message = self.client.get_iopub_msg(timeout=ANSWERED_S)
            kind, content = message["msg_type"], message["content"]
            if message["parent_header"].get("msg_id") != cell:
                continue
            if kind == "stream":
                text[content["name"]] += content["text"]
                if interrupt_at and interrupt_at in text["stdout"]:
                    self.manager.interrupt_kernel()
                    interrupt_at = ""
            elif kind == "execute_result":
                value = content["data"]["text/plain"]
                pictures += [content["data"].get("text/html", "")]
            elif kind in ("display_data", "update_display_data"):
                pictures += [content["data"]["text/html"]]
            elif kind == "error":
                error = f"{content['ename']}: {content['evalue']}"
            elif kind == "status" and content["execution_state"] == "idle":
                return Shown(text, value, error, pictures)

    def restart(self, now: bool = True) -> None:
        """Interrupt it, kill it or ask it to end (as the notebook's button does), start it."""
        self.manager.restart_kernel(now=now)
        self.client.wait_for_ready(timeout=ANSWERED_S)

    def end(self) -> None:
        self.client.stop_channels()
        self.manager.shutdown_kernel(now=True)


@pytest.fixture(scope="module")
def kernel(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Kernel]:
    """Return a kernel in which the first cell has run; nothing may stay of it."""
    kernel = Kernel(tmp_path_factory.mktemp("notebook"))
    try:
        yield kernel
    finally:
        kernel.end()
        left = end_all(kernel.start_id, ENDING_S)
    assert not left


@pytest.fixture(scope="module")
def first(kernel: Kernel) -> Shown:
    """Return what the first cell has shown."""
    return kernel.run(FIRST)


def test_a_cell_shows_values_prints_and_messages(first):
    assert (first.error, first.value) == ("", "[2, 4, 6]")
    assert sorted(first.text["stdout"].splitlines()) == ["task 1", "task 2", "task 3"]
    assert "Started" in first.text["stderr"]
    assert "SUCCESS! 3 tasks done" in first.text["stderr"]


def test_a_cell_that_is_changed_counts(kernel, first):
    kernel.run("factor = 10\nclass Point:\n    def __init__(self, x): self.x = x")
    code = "with acme_mpi.Pool() as pool: found = pool.map(lambda x: Point(f(x)), range(3))\n"

    shown = kernel.run(f"{code}[type(each) is Point and each.x for each in found]")

    assert (shown.error, shown.value) == ("", "[0, 10, 20]")
    assert sorted(shown.text["stdout"].splitlines()) == ["task 0", "task 1", "task 2"]


LONG_CALL = """\
import time

def wait(x):
    time.sleep(0.3)
    if x == 7:
        raise ValueError("<b>bad</b>")

try:
    acme_mpi.map(wait, range(30), write_worker_results=False)
except acme_mpi.TaskError:
    pass
"""


def test_a_long_call_shows_how_far_it_is(kernel, first):
    shown = kernel.run(LONG_CALL)

    *earlier, last = shown.pictures
    assert shown.error == ""
    assert "wait: running" in earlier[0]
    assert "wait: finished</b> 29 of 30 tasks done, 1 failed" in last
    assert "ValueError at" in last
    assert "&lt;b&gt;bad&lt;/b&gt; (tasks 7)" in last


def test_a_short_call_shows_nothing_of_that(kernel, first):
    assert first.pictures == [""]  # of the list that is its value


def test_objects_show_themselves(kernel, first):
    code = "pmap = acme_mpi.ParallelMap(f, [1, 2]); pmap.compute(); pmap"

    shown = kernel.run(f"{code.rpartition(';')[0]}\npmap")

    assert "f: finished</b> 2 of 2 tasks done" in shown.pictures[-1]
    assert "2 ranks: running" in kernel.run("own = acme_mpi.launch(2)\nown").pictures[-1]
    assert kernel.run("own.stop()").error == ""


def test_an_error_of_a_task_ends_the_cell(kernel, first):
    shown = kernel.run("acme_mpi.map(lambda x: 1 / x, [0, 1], write_worker_results=False)\n")

    assert shown.error.startswith("TaskError: 1 of 2 tasks failed, first: task 0 on rank")


@pytest.mark.parametrize(
    ("call", "error"),
    [
        ("acme_mpi.map(hang, range(2), write_worker_results=False)", "StoppedError: "),
        ("with acme_mpi.Pool() as pool: pool.map(hang, range(2))", "KeyboardInterrupt: "),
    ],
)
def test_an_interrupt_ends_the_cell_and_keeps_the_ranks(kernel, first, call, error):
    before = kernel.run(f"{CURRENT}; {RANKS}")
    hang = "def hang(x):\n    print('begun', flush=True)\n    time.sleep(100)\n"

    shown = kernel.run(hang + call, interrupt_at="begun")
    after = kernel.run(f"acme_mpi.map(abs, range(8), write_worker_results=False)\n{RANKS}")

    assert shown.error.startswith(error)
    assert (after.error, after.value) == ("", before.value)


def test_a_restart_leaves_no_rank(kernel, first):
    def others() -> set[int]:
        return set(processes_of(kernel.start_id)) - {kernel.manager.provisioner.pid}

    before = others()
    kernel.restart()

    assert before
    assert all(has_ended(pid, ENDING_S) for pid in before)
    again = kernel.run("import acme_mpi; acme_mpi.map(abs, [-1, 2], write_worker_results=False)")
    assert (again.error, again.value) == ("", "[1, 2]")


def test_the_first_code_of_the_readme_takes_all_cores(kernel):
    kernel.restart()
    code = re.search(r"^```python\n(.*?)^```$", README.read_text(), re.MULTILINE | re.DOTALL)[1]
    promised = re.search(r"write_worker_results=False\)  # (\[.*\])$", code, re.MULTILINE)[1]

    shown = kernel.run(f"{code}\nvalues")

    assert (shown.error, shown.value) == ("", promised)
    assert kernel.run(f"{CURRENT}; len({RANKS})").value == str(n_busy_cores())


KEPT = """\
import os
import acme_mpi

ranks = acme_mpi.launch(2, idle="2min", directory="{kept}")
factor = 3

def f(x):
    return factor * x

def waits(x):
    if x == 1:
        open("{begun}", "w").close()
        open("{allowed}").close()
    return factor * x

with acme_mpi.Pool() as pool:
    found = pool.map(f, [1, 2])
with acme_mpi.ParallelMap(f, [3, 4], write_worker_results=False) as pmap:
    found += pmap.compute()
found + acme_mpi.map(f, [5, 6], write_worker_results=False)
"""
LATER = """\
import acme_mpi

with acme_mpi.connect("{kept}") as ranks:
    found = ranks.last_result()
    found += acme_mpi.map(lambda x: -x, [3], write_worker_results=False)
found, ranks.status()
"""


@pytest.mark.parametrize("now", [True, False], ids=["killed", "asked"])
def test_ranks_that_stay_outlive_a_restart_within_a_call(kernel, now):
    paths = {name: kernel.folder / f"{name}{now}" for name in ("kept", "begun", "allowed")}
    os.mkfifo(paths["begun"])
    os.mkfifo(paths["allowed"])
    shown = kernel.run(KEPT.format(**paths))
    kernel.client.execute("acme_mpi.map(waits, [0, 1], write_worker_results=False)")
    paths["begun"].read_bytes()
    kernel.restart(now)
    wait_until(lambda: is_read(paths["allowed"]))

    again = kernel.run(LATER.format(**paths))

    assert (shown.error, shown.value) == ("", "[3, 6, 9, 12, 15, 18]")
    assert (again.error, again.value) == ("", "([0, 3, -3], 'ended')")
    assert not paths["kept"].exists()


def is_read(fifo: Path) -> bool:
    """Have whoever waits for a pipe go on; tell whether there is somebody."""
    try:
        os.close(os.open(fifo, os.O_WRONLY | os.O_NONBLOCK))
    except OSError:
        return False
    return True
