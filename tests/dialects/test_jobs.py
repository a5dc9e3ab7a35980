"""Jobs on this machine: submitted, found again, waited for, cancelled, resumed."""

from __future__ import annotations

import logging
import os
import shlex
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import h5py
import pytest
from conftest import start_environment
from running import wait_until

import acme_mpi
from acme_mpi.cli.commands import run_command
from acme_mpi.errors import (
    InputError,
    LaunchError,
    PlaceError,
    StoppedError,
    TaskError,
)
from acme_mpi.jobs.job import Job
from acme_mpi.jobs.saved_call import read_call

pytestmark = pytest.mark.slow

LIMIT_S = 120
CLIENT = """\
import os
import signal

import acme_mpi

def f(x, y):
    open(f"begun{x}", "w").close()
    while not os.path.exists("allowed"):
        pass
    return x + y

acme_mpi.submit(f, [1, 2, 3, 4], 10, output_dir="out", launch=acme_mpi.Local(2))
os.killpg(0, signal.SIGKILL)
"""


@pytest.fixture(autouse=True)
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


@contextmanager
def ended(job: Job) -> Iterator[Job]:
    """Context at whose end a job has ended."""
    try:
        yield job
    finally:
        job.cancel(grace_s=0)


def add(x, y):
    return x + y


def f(x, y):
    return x - y


def fail_once(x):
    """Fail for 2, as long as nobody allows it."""
    if x == 2 and not os.path.exists("allowed"):
        raise ValueError("two")
    return x


def wait_for_permission(x):
    Path(f"begun{x}").touch()
    while not os.path.exists("allowed"):
        pass
    return x


def gpus(x):
    """Return what this rank sees, once the other one has a task, too."""
    Path(f"begun{x}").touch()
    while not os.path.exists(f"begun{1 - x}"):
        pass
    return int(os.environ["CUDA_VISIBLE_DEVICES"])


def brief(x):
    Path(f"begun{x}").touch()
    time.sleep(0.1)
    return x


def values_in(path: str) -> list[float]:
    with h5py.File(path) as file:
        return [file[f"comp_{i}/result_0"][()].item() for i in range(len(file))]


def test_a_job_outlives_its_client(place):
    client = subprocess.run(
        [sys.executable, "-c", CLIENT], env=start_environment(), start_new_session=True
    )
    assert client.returncode == -signal.SIGKILL
    with ended(acme_mpi.attach("out")) as job:
        wait_until(lambda: list(place.glob("begun*")))
        assert job.status().state.name == "RUNNING"
        with pytest.raises(TimeoutError, match="has not ended: RUNNING"):
            job.wait(timeout=0)
        with pytest.raises(PlaceError, match="is being written by process"):
            acme_mpi.submit(f, [1], 1, output_dir="out", resume="force")
        (place / "allowed").touch()

        assert job.result(LIMIT_S) == [str(place / "out" / "f.h5")] == job.files
        assert job.wait() == "COMPLETED"
    assert values_in(job.files[0]) == [11, 12, 13, 14]
    assert "SUCCESS! 4 tasks done" in Path(job.log).read_text()
    assert "4 of 4 tasks done" in str(job.status())
    assert "mpiexec -n 2" in job.script()


@pytest.mark.once
def test_failed_tasks_are_raised_and_called_again(place):
    launch = acme_mpi.Local(1)
    job = acme_mpi.submit(fail_once, [1, 2, 3], output_dir="out", payload="computation")
    with ended(job), pytest.raises(TaskError, match=r"1 of 3 tasks failed.*two") as raised:
        job.result(LIMIT_S)
    assert [failure.index for failure in raised.value.failures] == [1]
    assert [path is None for path in raised.value.results] == [False, True, False]
    script = place / "out" / ".acme_mpi" / "fail_once" / "job0" / "script.sh"
    assert f"resume with: bash {script} --retry-failed" in str(raised.value)
    assert job.wait() == "FAILED"

    (place / "allowed").touch()
    again = acme_mpi.submit(
        fail_once,
        [1, 2, 3],
        output_dir="out",
        payload="computation",
        resume="failed",
        launch=launch,
    )
    with ended(again):
        assert again.result(LIMIT_S) == again.files
    assert acme_mpi.attach("out").id == again.id


@pytest.mark.once
def test_tasks_of_a_cancelled_job_may_end(place):
    job = acme_mpi.submit(brief, range(100), output_dir="out", launch=acme_mpi.Local(1))
    with ended(job):
        wait_until(lambda: list(place.glob("begun*")))
        job.cancel()
        assert job.wait() == "CANCELLED"
    n_done = job.status().run.n_done
    assert 0 < n_done < 100
    assert len(list(place.glob("begun*"))) == n_done
    with pytest.raises(StoppedError, match=f"{100 - n_done} of 100 tasks were not run"):
        job.result()
    assert len(values_in(job.files[0])) == n_done


@pytest.mark.once
def test_a_cancelled_job_can_be_resumed(place):
    job = acme_mpi.submit(wait_for_permission, range(4), output_dir="out", launch=acme_mpi.Local(1))
    with ended(job):
        wait_until(lambda: list(place.glob("begun*")))
        job.cancel(grace_s=0.01)
    with pytest.raises(StoppedError, match=r"4 of 4 tasks were not run, because job .*CANCELLED"):
        job.result(LIMIT_S)

    (place / "allowed").touch()
    files = acme_mpi.map(
        wait_for_permission,
        range(4),
        output_dir="out",
        launch=acme_mpi.Local(1),
        resume=True,
    )
    assert values_in(files[0]) == [0, 1, 2, 3]


@pytest.mark.once
def test_a_job_that_never_calls_a_task_says_so():
    launch = acme_mpi.Local(1, prologue=["echo no such module", "exit 3"])
    job = acme_mpi.submit(add, [1], 1, output_dir="out", launch=launch)

    with pytest.raises(LaunchError, match=r"before any task was called(?s:.)*no such module"):
        job.result(LIMIT_S)
    assert acme_mpi.submit(add, [1], 1, output_dir="out", launch=acme_mpi.Local(1)).result(LIMIT_S)


@pytest.mark.once
def test_a_parallel_map_may_be_a_job(place):
    launch = acme_mpi.Local(2)
    with acme_mpi.ParallelMap(f, [2, 4], 1, output_dir="out", launch=launch) as pmap:
        files = pmap.compute()

    assert files == [str(place / "out" / "f_payload" / f"f_{i}.h5") for i in range(2)]
    assert pmap.job is not None
    assert pmap.job.files == files
    assert "using 2 workers" in Path(pmap.job.log).read_text()
    assert values_in(str(pmap.results_container)) == [1, 3]


def test_each_rank_of_a_job_has_its_own_gpu(place, monkeypatch):
    launch = acme_mpi.Local(2, gpus_per_rank=1)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "5")
    with pytest.raises(InputError, match=r"2 ranks .* need 2 GPUs, and CUDA_VISIBLE_DEVICES=5"):
        acme_mpi.submit(gpus, [0, 1], launch=launch)
    assert not list(place.iterdir())
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "5,7")

    (path,) = acme_mpi.map(gpus, [0, 1], output_dir="out", launch=launch)

    assert sorted(values_in(path)) == [5, 7]


@pytest.mark.once
class TestSavedCalls:
    @pytest.fixture
    def path(self, place):
        launch = acme_mpi.Local(1, prologue=["exit"])
        job = acme_mpi.submit(add, [1], 1, output_dir="out", launch=launch)
        job.wait(LIMIT_S)
        return place / "out" / ".acme_mpi" / "add" / "job0" / "call"

    def test_they_are_for_their_user_alone(self, path):
        assert path.stat().st_mode & 0o777 == 0o600
        assert read_call(str(path)).options.work.name == "add"

    def test_one_that_others_can_write_is_refused(self, path):
        path.chmod(0o620)
        with pytest.raises(InputError, match="mode 620"):
            read_call(str(path))

    def test_one_that_is_a_link_is_refused(self, path):
        link = path.with_name("link")
        link.symlink_to(path)
        with pytest.raises(InputError, match="cannot read"):
            read_call(str(link))

    def test_one_that_was_cut_short_is_refused(self, path):
        content = path.read_bytes()
        for n in (0, 10, 30, 4096):
            path.write_bytes(content[:n])
            with pytest.raises(InputError, match="submit"):
                read_call(str(path))


@pytest.mark.once
@pytest.mark.parametrize(
    ("keywords", "text"),
    [
        ({"launch": "nowhere"}, "`launch` has to be"),
        ({"launch": acme_mpi.Local(1), "write_worker_results": False}, "needs results in files"),
        ({"launch": acme_mpi.Local(1), "root": 0}, "`root`"),
    ],
)
def test_calls_that_no_job_can_make_are_refused(place, keywords, text):
    with pytest.raises(InputError, match=text):
        acme_mpi.map(add, [1], 1, **keywords)
    assert not list(place.iterdir())


@pytest.mark.once
def test_there_may_be_no_job():
    with pytest.raises(InputError, match="no job was submitted"):
        acme_mpi.attach("out")


def command(*words: str) -> subprocess.CompletedProcess[str]:
    """Run a command of the package, which starts no ranks itself."""
    return subprocess.run(
        [sys.executable, "-m", "acme_mpi", *words],
        env=start_environment(),
        capture_output=True,
        text=True,
        timeout=LIMIT_S,
    )


@pytest.mark.once
class TestCommandLine:
    def test_it_submits_waits_and_says_how_it_ended(self, module_folder):
        call = ("mymod:f", "args.npz", "--output-dir", "out", "--single-file")
        submitted = command("submit", "--local", "-n", "2", *call)
        assert submitted.returncode == 0, submitted.stderr
        with ended(acme_mpi.attach("out")) as job:
            assert f"job {job.id} on this machine" in submitted.stdout
            assert f"f: 4 tasks, results go to {job.files[0]}" in submitted.stdout
            waited = command("wait", "out")
        assert waited.returncode == 0, waited.stderr
        assert "COMPLETED, 4 of 4 tasks done" in waited.stdout
        assert values_in(job.files[0]) == [18, 24, 30, 36]
        assert "--single-file --output-dir" in job.script()
        assert command("cancel", "out").returncode == 0

    def test_the_command_to_wait_can_be_typed_as_it_is(self, module_folder):
        call = ("mymod:f", "args.npz", "--output-dir", "it's out")
        submitted = command("submit", "--local", "-n", "1", *call)

        with ended(acme_mpi.attach("it's out")):
            typed = shlex.split(submitted.stdout.split("wait for it with: python -m acme_mpi ")[1])
            assert command(*typed).returncode == 0

    def test_an_interrupt_ends_the_wait_and_not_the_job(self, module_folder, monkeypatch, capsys):
        def interrupted(job: acme_mpi.Job, bar: bool) -> None:
            raise KeyboardInterrupt

        with ended(acme_mpi.submit(add, [1], 1, output_dir="out", launch=acme_mpi.Local(1))) as job:
            monkeypatch.setattr(acme_mpi.Job, "wait", interrupted)
            status = run_command(["wait", "out"])
            monkeypatch.undo()

        logging.getLogger("acme_mpi").setLevel(logging.NOTSET)
        assert status == 75
        assert capsys.readouterr().err == f"acme_mpi: interrupted; job {job.id} goes on\n"

    def test_it_prints_the_script_and_leaves_nothing(self, module_folder):
        words = ("-n", "64", "--partition", "8GBS", "--time", "2h", "mymod:f", "args.npz")
        printed = command("submit", *words, "--output-dir", "out", "--print")

        assert "#SBATCH --ntasks=64\n#SBATCH --partition=8GBS\n" in printed.stdout
        assert "#SBATCH --time=02:00:00\n" in printed.stdout
        assert "--ntasks=64 " in printed.stdout
        assert f"mymod:f args.npz --output-dir {module_folder}/out" in printed.stdout
        assert not Path("out").exists()

    @pytest.mark.parametrize(
        ("words", "text"),
        [
            (["-n", "0", "--print", "mymod:f"], "`n` has to be a whole number >= 1, not 0"),
            (["--local", "--time", "2h", "mymod:f"], "--time cannot be used with --local"),
            (["--sge", "-n", "2", "--nodes", "2", "mymod:f"], "--nodes cannot be used with --sge"),
            (["--print", "-n", "2", "--pe", "mpi", "mymod:f"], "--pe cannot be used with Slurm"),
            (["--local", "mymod:f", "args.npz", "--plan"], "--plan cannot be used with submit"),
            (["--local", "mymod:f", "args.npz", "--overwrite"], "give another --output-dir"),
            (
                ["--local", "mymod:f", "--debug-task", "0"],
                "--debug-task cannot be used with submit",
            ),
            (["--local", "mymod:g", "args.npz"], "no function 'g'"),
            (["--local", "mymod.py"], "submit takes a function"),
        ],
    )
    def test_mistakes_are_found_before_anything_is_written(
        self, module_folder, monkeypatch, capfd, words, text
    ):
        monkeypatch.setattr(sys, "path", list(sys.path))
        monkeypatch.delitem(sys.modules, "mymod", raising=False)

        assert run_command(["submit", *words]) == 2
        assert text in capfd.readouterr().err
        assert not list(module_folder.glob("ACME_*"))
        sys.modules.pop("mymod", None)
