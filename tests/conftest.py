"""Real starts: `mpiexec` runs a command on n ranks, under a timeout, and leaves nothing behind."""

from __future__ import annotations

import functools
import os
import re
import select
import shutil
import signal
import subprocess
import sys
import tempfile
import textwrap
import uuid
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
from forked import ForkServer
from playing import FakeClock
from sandbox import Slurm, running_slurm
from streaming import StreamSession, ThreadStream

from acme_mpi import local_cluster_setup
from acme_mpi.engine import master as master_module
from acme_mpi.engine import worker as worker_module
from acme_mpi.pools import executor as executor_module
from acme_mpi.pools import pool as pool_module
from acme_mpi.runner.base import Runner
from acme_mpi.runner.child import ChildRunner
from acme_mpi.runner.inline import InlineRunner

MARKER = "ACME_MPI_TEST_START"  # environment variable by which a start's processes are known
SPREAD = "test_kills.py::test_nothing_recorded_is_lost["
# The files that take longest begin first: at the end no worker shall be left alone with one.
FIRST = (
    "test_slurm_faults",
    "test_media",
    "test_resume",
    "test_slurm",
    "test_storage",
    "test_containers",
)
ENDING_S = 10.0  # killed processes are gone by then, also on a machine that is busy
# What a file says that has no test for what `scripts/test` asks for on its further stacks.
IS_WITHOUT: dict[str, Callable[[str], object]] = {
    "every": lambda text: not re.search(r"\bmark\.every\b|\bevery=", text),
    "not once": lambda text: re.search(r"^pytestmark = .*\bmark\.once\b", text, re.MULTILINE),
}
LAUNCHER_SETTINGS = {
    # More ranks than cores, Open MPI 4 and 5; unbound, so that every rank may use every core.
    "OMPI_MCA_rmaps_base_oversubscribe": "1",
    "OMPI_MCA_hwloc_base_binding_policy": "none",
    "PRTE_MCA_rmaps_default_mapping_policy": ":oversubscribe",
    "PRTE_MCA_hwloc_default_binding_policy": "none",
}
ROOT_SETTINGS = {
    f"{prefix}_ALLOW_RUN_AS_ROOT{suffix}": "1"
    for prefix in ("OMPI", "PRTE")
    for suffix in ("", "_CONFIRM")
}
# What a launcher around pytest itself, or a developer's shell, would put into every start.
FOREIGN_PREFIXES = ("OMPI_", "PMIX_", "PMI_", "PRTE_", "HYDI_", "MPI_LOCAL", "SLURM_", "PYTHON")
FOREIGN_SUFFIX = "_NUM_THREADS"
# Tests of what one process does, here and in starts without a launcher, need no ranks, which cost a
# second each. `test_local_ranks` and `test_notebook` take this back.
ALONE = {"ACME_MPI_LAUNCH": "none"}
os.environ.update(ALONE)
MODULE = """\
def f(x, y, z=3):
    return (x + y) * z
"""


class Launcher:
    """Starts Python on n ranks; see `mpiexec`."""

    def __init__(self, make_folder: Callable[[], Path]) -> None:
        self._make_folder = make_folder
        beside = Path(sys.executable).with_name("mpiexec")
        self.program = str(beside) if beside.exists() else shutil.which("mpiexec")

    @functools.cached_property
    def is_hydra(self) -> bool:
        """Whether this is MPICH's mpiexec."""
        command = [str(self.program), "--version"]
        return "HYDRA" in subprocess.run(command, capture_output=True, text=True).stdout

    @functools.cached_property
    def fork_server(self) -> ForkServer:
        """What runs the command line without a launcher, and without imports."""
        return ForkServer(start_environment())

    def close(self) -> None:
        """End what serves many starts."""
        if "fork_server" in vars(self):
            self.fork_server.close()

    def __call__(
        self,
        n: int,
        *command: object,
        timeout_s: float = 60,
        env: Mapping[str, str] | None = None,
        cwd: Path | str | None = None,
        input: str | None = None,
        during: Callable[[str], None] | None = None,
        under: Sequence[str] = (),
    ) -> subprocess.CompletedProcess[str]:
        """Run ``python COMMAND`` on `n` ranks and return its output.

        Parameters
        ----------
        n : int
            Ranks; 0 starts Python without a launcher.
        command : object
            Arguments of the interpreter, made strings.
        timeout_s : float
            All its processes are killed then, and the test fails.
        env : mapping, optional
            Variables that are added to the environment.
        cwd : path, optional
            Working directory, default a new one.
        input : str, optional
            Standard input, default nothing.
        during : callable, optional
            Called while it runs, with what `processes_of` knows the start by.
        under : sequence of str, optional
            Start of a command that runs the launcher.
        """
        line = [sys.executable, *map(str, command)]
        if n > 0:
            if self.program is None:
                pytest.skip("there is no mpiexec")
            line = [self.program, "-n", str(n), *line]
        start_id = uuid.uuid4().hex
        with ExitStack() as stack:
            # What a launcher that was killed has left in the directory for temporary files is in
            # the way of a later one that gets the same process id.
            place = stack.enter_context(_removed_folder())
            # Files and not pipes: a process left behind cannot keep the reader waiting.
            stdin, stdout, stderr = (
                stack.enter_context(tempfile.TemporaryFile()) for _ in range(3)
            )
            stdin.write((input or "").encode())
            stdin.seek(0)
            process = subprocess.Popen(
                [*under, *line],
                stdin=stdin,
                stdout=stdout,
                stderr=stderr,
                cwd=cwd or self._make_folder(),
                env={**start_environment(), "TMPDIR": place, **(env or {}), MARKER: start_id},
                start_new_session=True,
            )
            try:
                if during is not None:
                    during(start_id)
                process.wait(timeout_s)
                is_late = False
            except subprocess.TimeoutExpired:
                is_late = True
            finally:
                left = end_all(start_id, wait_s=0 if process.poll() is None else ENDING_S)
                process.wait()
            texts = []
            for file in (stdout, stderr):
                file.seek(0)
                texts.append(file.read().decode(errors="replace"))
        shown = f"{' '.join(line)}\n--- stdout\n{texts[0]}\n--- stderr\n{texts[1]}"
        if is_late:
            pytest.fail(f"not finished after {timeout_s} s: {shown}")
        if left:
            pytest.fail(f"processes left behind: {left}\n{shown}")
        return subprocess.CompletedProcess(line, process.returncode, *texts)


@contextmanager
def _removed_folder() -> Iterator[str]:
    """Context with a folder whose path is short, as paths of sockets have to be."""
    with tempfile.TemporaryDirectory(prefix="acme", ignore_cleanup_errors=True) as folder:
        yield folder


def start_environment() -> dict[str, str]:
    """Return the environment of a start, the same whoever runs pytest."""
    inherited = {
        name: value
        for name, value in os.environ.items()
        if not name.startswith(FOREIGN_PREFIXES) and not name.endswith(FOREIGN_SUFFIX)
    }
    own = {**LAUNCHER_SETTINGS, **(ROOT_SETTINGS if os.geteuid() == 0 else {}), **ALONE}
    return {**inherited, **own}


def end_all(start_id: str, wait_s: float) -> list[str]:
    """Wait for all processes of a start; kill those that stay, and return their command lines."""
    stayed = [pid for pid in processes_of(start_id) if not has_ended(pid, wait_s)]
    lines = [command_line(pid) for pid in stayed]
    while left := processes_of(start_id):
        for pid in left:
            try:
                os.kill(pid, signal.SIGKILL)
            except ProcessLookupError:
                continue
            has_ended(pid, ENDING_S)
    return lines


def processes_of(start_id: str) -> list[int]:
    """Return the ids of all processes that have a start's marker in their environment."""
    marker = f"{MARKER}={start_id}".encode()
    found = []
    for folder in Path("/proc").iterdir():
        if folder.name.isdigit():
            try:
                if marker in (folder / "environ").read_bytes():
                    found.append(int(folder.name))
            except OSError:
                continue  # gone, or somebody else's
    return found


def has_ended(pid: int, wait_s: float) -> bool:
    """Tell whether a process ends within `wait_s` seconds."""
    try:
        descriptor = os.pidfd_open(pid)
    except ProcessLookupError:
        return True
    try:
        return bool(select.select([descriptor], [], [], wait_s)[0])
    finally:
        os.close(descriptor)


def is_runner(pid: int) -> bool:
    """Tell whether a process is a runner; a forked one has the words and marks of its agent."""
    try:
        return Path(f"/proc/{pid}/comm").read_text().strip() == "acme_mpi runner"
    except OSError:
        return False


def command_line(pid: int) -> str:
    """Return the command line of a process."""
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ").decode()
    except OSError:
        return f"process {pid}"


def by_stacks(
    values: Iterable[Any],
    twice: Collection[Any] = (),
    every: Collection[Any] = (),
    many: Collection[Any] = (),
) -> list[Any]:
    """Return values as parameters of tests, marked by the stacks on which they run.

    Parameters
    ----------
    values : iterable
        All of them run on the first stack.
    twice : collection
        Which run on the second, too, as everything does that has no mark.
    every : collection
        Which run on every stack (the mark `every`).
    many : collection
        Which run only where the mark `many` is asked for.
    """
    marks = {
        value: pytest.mark.every if value in every else pytest.mark.once
        for value in values
        if value not in twice or value in every
    }
    marks |= dict.fromkeys(many, pytest.mark.many)
    return [pytest.param(value, marks=marks.get(value, ())) for value in values]


def read_content(path: Path | str) -> dict[str, tuple[Any, ...]]:
    """Return all results that a container holds, read by plain h5py, comparable bit by bit.

    Names and coordinates of arrays, which `scales` adds, are left out.

    Returns
    -------
    dict
        ``(dtype, shape, content)`` by dataset, in the order of the file; strings are a tuple of
        str, an empty dataset has the shape None. Attributes are found as ``name@attribute``.
    """
    content: dict[str, tuple[Any, ...]] = {}

    def visit(group: Any, prefix: str) -> None:
        for name in group:
            entry = group[name]  # KeyError: a link into nowhere
            if not prefix and not re.fullmatch(r"(comp|result)_\d+", name):
                continue
            if isinstance(entry, h5py.Group):
                visit(entry, f"{prefix}{name}/")
            else:
                content[prefix + name] = describe(entry)
            for key, value in entry.attrs.items():
                if key in ("DIMENSION_LIST", "coordinates"):
                    continue
                array = np.asarray(value)
                content[f"{prefix}{name}@{key}"] = (array.dtype.str, array.shape, array.tolist())

    with h5py.File(path, "r") as file:
        visit(file, "")
    return content


def describe(dataset: Any) -> tuple[Any, ...]:
    """Return ``(dtype, shape, content)`` of a dataset."""
    if dataset.shape is None:
        return dataset.dtype.str, None, b""
    if h5py.check_string_dtype(dataset.dtype) is not None and dataset.dtype.kind == "O":
        return "str", dataset.shape, tuple(np.ravel(dataset.asstr()[()]).tolist())
    kind = dataset.dtype.descr if dataset.dtype.names else dataset.dtype.str
    array = np.asarray(dataset[()])
    # Of an 80-bit number the bytes that fill it up are anything.
    bits = repr(array.tolist()) if array.dtype.char in "gG" else array.tobytes()
    return kind, dataset.shape, bits


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> Any:
    """Give the tests of a file to one worker, for the sake of its fixtures; some to any, as told.

    `SPREAD` are tests that take many seconds each and share nothing. Files are begun in the order
    in which they were collected, see `FIRST`, and not by their numbers of tests.
    """
    from xdist.scheduler import LoadFileScheduling

    config.option.loadscopereorder = False

    class Scheduling(LoadFileScheduling):  # type: ignore[misc]
        def _split_scope(self, nodeid: str) -> str:
            scope: str = nodeid if SPREAD in nodeid else super()._split_scope(nodeid)
            return scope

    return Scheduling(config, log)


def pytest_configure() -> None:
    """Take interrupts again where a shell has started the tests in its background, without them."""
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)


def pytest_ignore_collect(collection_path: Path, config: pytest.Config) -> bool | None:
    """Leave out files without a test of this stack: each worker would import and collect them."""
    is_without = IS_WITHOUT.get(config.option.markexpr)
    if is_without is None or not collection_path.name.startswith("test_"):
        return None
    return True if is_without(collection_path.read_text()) else None


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Leave out what only ranks can run, for which `test_collective` starts ranks, and `many`.

    What is left is put in order: `FIRST`, then as collected.
    """
    left_out = set()
    if not config.getoption("--with-mpi", default=False):
        left_out.add("mpi")
    if "many" not in config.option.markexpr:
        left_out.add("many")
    outside = [item for item in items if any(map(item.get_closest_marker, left_out))]
    if outside:
        config.hook.pytest_deselected(items=outside)
        items[:] = [item for item in items if item not in outside]
    place = {name: k for k, name in enumerate(FIRST)}
    items.sort(key=lambda item: place.get(item.path.stem, len(FIRST)))


@pytest.fixture(scope="session")
def mpiexec(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Launcher]:
    """Return the function that runs ``python COMMAND`` on n ranks: `Launcher.__call__`.

    The mpiexec beside this Python is taken if there is one, else that on the PATH. A start that is
    not finished in time, or leaves a process behind, fails the test.
    """
    launcher = Launcher(lambda: tmp_path_factory.mktemp("start"))
    yield launcher
    launcher.close()


@pytest.fixture(scope="module")
def slurm(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Slurm]:
    """Start a Slurm of two nodes, and end it after the module."""
    # The nodes' own /tmp hides the rest of pytest's.
    with running_slurm(tmp_path_factory.mktemp("shared")) as started:
        yield started


@pytest.fixture
def stream(monkeypatch: pytest.MonkeyPatch) -> Iterator[ThreadStream]:
    """Return the stream of two threads that pools and executors of a test use."""
    stream = ThreadStream(2)
    session = StreamSession(stream)
    for module in (pool_module, executor_module):
        monkeypatch.setattr(module, "current", lambda: session)
    yield stream
    stream.close()


@pytest.fixture
def module_folder(tmp_path: Path) -> Path:
    """Return a folder with ``mymod.py`` (the function `f`) and ``args.npz`` (x and y)."""
    (tmp_path / "mymod.py").write_text(MODULE)
    np.savez(tmp_path / "args.npz", x=[2, 4, 6, 8], y=4)
    return tmp_path


@pytest.fixture(scope="session")
def content_of() -> Callable[[Path | str], dict[str, tuple[Any, ...]]]:
    """Return the function that reads a container: `read_content`."""
    return read_content


@pytest.fixture
def write_script(tmp_path: Path) -> Callable[..., Path]:
    """Return a function that writes a script and returns its path."""

    def write(text: str, name: str = "script.py") -> Path:
        path = tmp_path / name
        path.write_text(textwrap.dedent(text))
        return path

    return write


@pytest.fixture
def start_runner() -> Iterator[Callable[..., Any]]:
    """Return a function that makes a runner of a kind; all are stopped at the end."""
    runners: list[Runner] = []

    def start(kind: type[Runner] = ChildRunner, *args: Any) -> Runner:
        runners.append(kind(*args))
        return runners[-1]

    yield start
    for runner in runners:
        runner.stop()


@pytest.fixture(scope="module")
def lasting_child() -> Iterator[ChildRunner]:
    """Return a child that serves many tests, as it serves many runs of a script."""
    runner = ChildRunner()
    yield runner
    runner.stop()


@pytest.fixture(params=["inline", "child"])
def runner(request: pytest.FixtureRequest) -> Any:
    if request.param == "inline":
        return InlineRunner()
    return request.getfixturevalue("lasting_child")


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> FakeClock:
    """Let master and workers see a clock that the test moves."""
    clock = FakeClock()
    monkeypatch.setattr(master_module, "time", clock)
    monkeypatch.setattr(worker_module, "time", clock)
    return clock


@pytest.fixture(scope="module")
def module_runner() -> Iterator[None]:
    """Use one runner for all tests of this module, and end it."""
    yield
    local_cluster_setup().close()


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Work in a new directory."""
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture
def said(caplog: pytest.LogCaptureFixture) -> Callable[[], list[tuple[str, str]]]:
    """Return the function that returns (level, text) of every message so far."""
    return lambda: [(each.levelname, each.getMessage()) for each in caplog.records]
