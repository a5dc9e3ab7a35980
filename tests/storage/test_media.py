"""Media that refuse, vanish or are changed by others: exit 74 that names the path, and a cure."""

from __future__ import annotations

import contextlib
import ctypes
import errno
import functools
import json
import os
import re
import shutil
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from conftest import by_stacks, read_content
from resume_runs import N_TASKS, PLACING, Place
from watching import Watch

from acme_mpi.cli.commands import run_command
from acme_mpi.history.records import indices_of, read_history
from acme_mpi.linux.offsets import reason
from acme_mpi.storage import Layout

pytestmark = [pytest.mark.once, pytest.mark.slow]

STORAGE = 74
STORES: dict[str, tuple[str, ...]] = {
    "rank": ("large",),
    "rank, rows": ("large", "--result-shape", "None,100,200"),
    "computation": ("large", "--payload", "computation"),
    "single file": ("large", "--single-file"),
    "single file, rows": ("large", "--single-file", "--result-shape", "None,100,200"),
}
SMALL: dict[str, tuple[str, ...]] = {
    "rank": ("f",),
    "rank, rows": ("g", "--result-shape", "None,2"),
    "computation": ("f", "--payload", "computation"),
    "single file": ("f", "--single-file"),
    "single file, rows": ("g", "--single-file", "--result-shape", "None,2"),
}
OFTEN_ALIKE = ("rank, rows", "single file")  # their files are those of others, in another order


class Faulty:
    """A place whose output folder has something happen to it."""

    def __init__(self, path: Path, mpiexec: Any, command: tuple[str, ...]) -> None:
        self.place = Place(path, mpiexec)
        self.out = path / "out"
        self.func, *self.options = command
        self.layout = Layout(str(self.out), self.func)

    def run(self, n: int = 2, **more: Any) -> Any:
        return self.place.run(n, self.func, *self.options, "--output-dir", str(self.out), **more)

    def done(self) -> set[int]:
        return set(indices_of(read_history(self.layout.dot_folder).done))

    def run_and_meanwhile(self, action: Callable[[], object]) -> Any:
        """Run on 2 ranks; half of the tasks wait until `action` has been taken."""
        gate = self.place.path / "gate"
        os.mkfifo(gate)
        self.place.order(**dict.fromkeys((f"_{k}" for k in range(N_TASKS // 2, N_TASKS)), "wait"))
        watch = Watch(self.place.path)
        with contextlib.ExitStack() as stack:
            stack.callback(watch.close)

            def act(start_id: str) -> None:
                for _ in watch.changes(start_id):
                    if self.done():
                        break
                action()
                stack.callback(os.close, os.open(gate, os.O_RDWR))

            ran = self.run(during=act)
        gate.unlink()
        self.place.order()
        return ran


def assert_refused(ran: Any, path: Path | str) -> None:
    """Check that a run has ended as one whose medium refused something."""
    assert ran.returncode == STORAGE, ran.stderr
    assert str(path) in ran.stderr
    assert "Traceback" not in ran.stderr


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory, mpiexec) -> Callable[[tuple[str, ...]], Any]:
    """Return the function that gives the container's content of a command's run in peace."""

    @functools.cache
    def content(command: tuple[str, ...]) -> Any:
        faulty = Faulty(tmp_path_factory.mktemp("undisturbed"), mpiexec, command)
        ran = faulty.run(0)
        assert ran.returncode == 0, ran.stderr
        return read_content(faulty.layout.container)

    return content


def mount(*arguments: str) -> None:
    """Mount something, or skip the test."""
    try:
        ran = subprocess.run(["mount", *arguments], capture_output=True, text=True, timeout=10)
    except FileNotFoundError:
        pytest.skip("there is no mount command")
    if ran.returncode:
        pytest.skip(f"cannot mount: {ran.stderr.strip()}")


@pytest.fixture
def disk(tmp_path) -> Iterator[Path]:
    """Return a disk of 5 MiB, of which two ranks hold 2 back."""
    path = tmp_path / "disk"
    path.mkdir()
    mount("-t", "tmpfs", "-o", "size=5m", "tmpfs", str(path))
    yield path
    subprocess.run(["umount", "--lazy", str(path)], check=True, timeout=10)


@pytest.mark.parametrize("store", STORES)
def test_a_full_disk_costs_nothing_recorded(store, tmp_path, mpiexec, disk, undisturbed):
    faulty = Faulty(tmp_path, mpiexec, STORES[store])
    faulty.out = disk / "out"
    faulty.layout = Layout(str(faulty.out), faulty.func)

    ran = faulty.run()

    assert_refused(ran, faulty.out)
    assert "No space left on device; " in ran.stderr
    assert "bytes are free there" in ran.stderr
    done = faulty.done()
    assert len(done) < N_TASKS
    assert store == "single file, rows" or done  # its space is reserved before the first task
    faulty.place.take_calls()

    mount("-o", "remount,size=60m", str(disk))
    ran = faulty.run(0)

    assert ran.returncode == 0, ran.stderr
    assert set(faulty.place.take_calls()) == set(range(N_TASKS)) - done
    assert read_content(faulty.layout.container) == undisturbed(STORES[store])
    assert run_command(["check", str(faulty.out)]) == 0


def fill_disk(store: str, n_kib: int, path: Path, disk: Path, mpiexec: Any, expected: Any) -> None:
    """Run on a disk of some size; if that is too small, go on when there is room."""
    faulty = Faulty(path, mpiexec, PLACING[store])
    faulty.out = disk / "out"
    faulty.layout = Layout(str(faulty.out), faulty.func)
    mount("-o", f"remount,size={n_kib}k", str(disk))

    ran = faulty.run()

    note = f"{store}, {n_kib} KiB\n{ran.stderr}"
    assert ran.returncode in (0, STORAGE), note
    assert not any(word in ran.stderr for word in ("Traceback", "HDF5-DIAG", "ignored")), note
    if ran.returncode == STORAGE:
        assert ran.stderr.count("acme_mpi: ") == 1, note
        assert "No space left on device; " in ran.stderr, note
        mount("-o", "remount,size=60m", str(disk))
        ran = faulty.run(0)
        assert ran.returncode == 0, f"{note}\n{ran.stderr}"
    assert read_content(faulty.layout.container) == expected, note
    assert run_command(["check", str(faulty.out)]) == 0, note


@pytest.fixture
def expected(store, tmp_path, mpiexec) -> Any:
    """Return the content of the container of a run with room enough."""
    (tmp_path / "roomy").mkdir()
    roomy = Faulty(tmp_path / "roomy", mpiexec, PLACING[store])
    assert roomy.run(0).returncode == 0
    return read_content(roomy.layout.container)


@pytest.mark.parametrize(
    ("store", "n_kib"), [("single file", 3500), ("single file, more", 7000), ("computation", 3000)]
)
def test_a_disk_that_fills_up(store, n_kib, tmp_path, mpiexec, disk, expected):
    (tmp_path / "small").mkdir()
    fill_disk(store, n_kib, tmp_path / "small", disk, mpiexec, expected)


@pytest.mark.many
@pytest.mark.timeout(3000)
@pytest.mark.parametrize("store", PLACING)
def test_disks_of_any_size(store, tmp_path, mpiexec, disk, expected):
    for k, n_kib in enumerate([64, 128, 256, 512, *range(1000, 12_000, 700)]):
        path = tmp_path / str(k)
        path.mkdir()
        fill_disk(store, n_kib, path, disk, mpiexec, expected)
        shutil.rmtree(disk / "out", ignore_errors=True)
        mount("-o", "remount,size=5m", str(disk))


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EDQUOT])
def test_a_quota_is_told_like_a_full_disk(number, tmp_path):
    text = reason(OSError(number, os.strerror(number)), str(tmp_path / "not yet there"))

    assert text.startswith(f"{os.strerror(number)}; ")
    assert text.endswith(" bytes are free there")


@pytest.mark.parametrize("is_resumed", [False, True], ids=["new", "resumed"])
def test_a_disk_that_cannot_be_written(is_resumed, tmp_path, mpiexec, disk, undisturbed):
    faulty = Faulty(tmp_path, mpiexec, SMALL["rank"])
    faulty.out = disk / "out"
    faulty.layout = Layout(str(faulty.out), faulty.func)
    if is_resumed:
        faulty.place.order(_3="fail")
        assert faulty.run(0).returncode == 1
        faulty.place.order()
        faulty.options.append("--retry-failed")
    mount("-o", "remount,ro", str(disk))

    ran = faulty.run()

    assert_refused(ran, faulty.out)
    assert "Read-only file system" in ran.stderr
    mount("-o", "remount,rw", str(disk))
    ran = faulty.run(0)
    assert ran.returncode == 0, ran.stderr
    assert read_content(faulty.layout.container) == undisturbed(SMALL["rank"])


def newest_payload(faulty: Faulty) -> Path:
    files = [path for path in faulty.out.rglob("*.h5*") if path.is_file()]
    return max(files, key=lambda path: path.stat().st_mtime_ns)


def remove_all(folder: Path) -> None:
    """Remove a folder in which others make files meanwhile."""
    while folder.exists():
        shutil.rmtree(folder, ignore_errors=True)


def a_journal(faulty: Faulty) -> Path:
    return max(faulty.out.rglob("*.journal"), key=lambda path: path.stat().st_size)


class TestMeanwhile:
    def go_on(self, faulty: Faulty, expected: Any) -> None:
        """Check that the same command ends well, and that everything is there."""
        ran = faulty.run(0)
        assert ran.returncode == 0, ran.stderr
        assert read_content(faulty.layout.container) == expected
        assert run_command(["check", str(faulty.out)]) == 0

    @pytest.mark.parametrize("store", by_stacks(SMALL, many=OFTEN_ALIKE))
    def test_a_folder_that_is_removed(self, store, tmp_path, mpiexec, undisturbed):
        faulty = Faulty(tmp_path, mpiexec, SMALL[store])

        ran = faulty.run_and_meanwhile(lambda: remove_all(faulty.out))

        assert_refused(ran, faulty.out)
        self.go_on(faulty, undisturbed(SMALL[store]))

    @pytest.mark.parametrize("choose", [newest_payload, a_journal])
    @pytest.mark.parametrize("store", by_stacks(SMALL, many=OFTEN_ALIKE))
    def test_a_file_that_is_removed(self, store, choose, tmp_path, mpiexec, undisturbed):
        faulty, gone = Faulty(tmp_path, mpiexec, SMALL[store]), []

        def remove() -> None:
            gone.append(choose(faulty))
            gone[0].unlink()

        ran = faulty.run_and_meanwhile(remove)

        assert_refused(ran, gone[0])
        self.go_on(faulty, undisturbed(SMALL[store]))

    def test_a_second_run_is_refused_and_the_first_goes_on(self, tmp_path, mpiexec, undisturbed):
        faulty, refused = Faulty(tmp_path, mpiexec, SMALL["rank"]), []

        ran = faulty.run_and_meanwhile(lambda: refused.append(faulty.run(2)))

        assert_refused(refused[0], faulty.layout.dot_folder)
        host = re.escape(os.uname().nodename)
        assert re.search(rf"is being written by process \d+ on {host} \(since", refused[0].stderr)
        assert ran.returncode == 0, ran.stderr
        assert faulty.place.take_calls() == dict.fromkeys(range(N_TASKS), 1)
        assert read_content(faulty.layout.container) == undisturbed(SMALL["rank"])

    def test_the_lease_of_a_silent_run_elsewhere_is_taken_at_once(
        self, tmp_path, mpiexec, undisturbed
    ):
        faulty = Faulty(tmp_path, mpiexec, SMALL["rank"])
        faulty.place.order(_3="fail")
        assert faulty.run(0).returncode == 1
        faulty.place.order()
        path = Path(faulty.layout.dot_folder) / "lease"
        claim = {
            "host": "elsewhere",
            "boot_id": "another",
            "pid_namespace": 1,
            "pid": os.getpid(),
            "started": 1,
            "token": "0" * 32,
            "taken_s": 1e9,
        }
        path.write_text(json.dumps(claim))
        os.utime(path, (1e9, 1e9))
        faulty.options.append("--retry-failed")

        ran = faulty.run(0)

        assert ran.returncode == 0, ran.stderr
        assert "waiting" not in ran.stderr
        assert not path.exists()
        assert read_content(faulty.layout.container) == undisturbed(SMALL["rank"])


def test_another_job_with_a_file_of_that_name_is_not_waited_for(mpiexec, tmp_path):
    """Open MPI's MPI-IO names a semaphore of the whole node by the file's name alone."""
    name = f"f{os.getpid()}_{time.monotonic_ns()}"
    libc = ctypes.CDLL(None)
    libc.sem_open.restype = ctypes.c_void_p
    semaphore = f"/OMPIO_{name}.h5.partial"
    assert libc.sem_open(semaphore.encode(), os.O_CREAT, 0o600, 0)  # nobody will ever post it
    (tmp_path / "mymod.py").write_text(f"def {name}(x):\n    return x\n")
    options = ["--set", "x=[1,2,3]", "--single-file", "--result-shape", "None", "-q"]
    try:
        ran = mpiexec(2, "-m", "acme_mpi", f"mymod:{name}", *options, cwd=tmp_path, timeout_s=30)
    finally:
        libc.sem_unlink(semaphore.encode())

    assert ran.returncode == 0, ran.stderr
    [folder] = tmp_path.glob("ACME_*")
    assert [path.name for path in folder.glob("*.h5*")] == [f"{name}.h5"]
