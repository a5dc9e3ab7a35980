"""The end of a script that runs on all ranks, when one of them ends before the others."""

from __future__ import annotations

import os
import select
import signal
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest
from conftest import processes_of

import acme_mpi

ROOT = str(Path(acme_mpi.__file__).parents[1])


@pytest.fixture
def run_ranks(tmp_path, mpiexec):
    """Return a function that runs lines on ranks that have made a call together."""

    def run(n: int, lines: str):
        head = "import sys, acme_mpi\nfrom mpi4py import MPI\nrank = MPI.COMM_WORLD.rank\n"
        call = "acme_mpi.map(abs, [-1, -2], write_worker_results=False)\n"
        (tmp_path / "script.py").write_text(head + call + textwrap.dedent(lines))
        return mpiexec(n, "script.py", cwd=tmp_path, env={"PYTHONPATH": ROOT})

    return run


@pytest.mark.every
@pytest.mark.parametrize("rank", [0, 1])
def test_an_exception_between_two_calls_ends_the_job(run_ranks, rank):
    """An exception on one rank between two calls ends the job."""
    done = run_ranks(
        2,
        f"""\
        if rank == {rank}:
            raise ZeroDivisionError("on this rank alone")
        acme_mpi.map(abs, [-1], write_worker_results=False)
        """,
    )

    assert done.returncode != 0
    assert "ZeroDivisionError: on this rank alone" in done.stderr


@pytest.mark.parametrize(("rank", "end", "status"), [(0, "sys.exit(3)", 3), (1, "sys.exit(0)", 1)])
def test_a_rank_that_leaves_while_others_wait_ends_the_job(run_ranks, rank, end, status):
    """A rank that leaves while others wait is named and ends the job."""
    done = run_ranks(
        2,
        f"""\
        if rank == {rank}:
            {end}
        acme_mpi.map(abs, [-1], write_worker_results=False)
        """,
    )

    assert done.returncode == status
    assert f"the script has ended on rank {rank}" in done.stderr


def test_a_rank_that_ends_with_a_status_ends_the_job(run_ranks):
    """A rank that ends with a status ends the job whatever the others wait for."""
    done = run_ranks(
        2,
        """\
        import signal
        from acme_mpi.comm import together
        together.EXIT_GRACE_S = 0.1
        if rank == 1:
            sys.exit(3)
        signal.pause()
        """,
    )

    assert done.returncode == 3
    assert "the script has ended on rank 1 with status 3" in done.stderr


@pytest.mark.once
@pytest.mark.parametrize(
    ("lines", "status"),
    [
        ("sys.exit(3)", 3),
        ("exit(3)", 3),
        ("quit(True)", 1),
        ("exit()", 0),
        ("sys.exit('text')", 1),
        ("sys.exit()", 0),
        ("def g():\n  try: sys.exit(3)\n  finally: sys.stdout.flush()\ng()", 3),
        ("try: sys.exit(3)\nexcept SystemExit as error: code = error.code", 0),
        ("def g():\n  try: sys.exit(3)\n  except SystemExit: pass\ng()", 0),
        ("import pickle\ntry: sys.exit(3)\nexcept SystemExit as e: pickle.dumps(e)", 0),
        ("import threading\nthreading.Thread(target=sys.exit, args=[3]).start()", 0),
        ("import threading, _thread\n_thread.start_new_thread(sys.exit, (3,))", 0),
    ],
)
def test_the_status_of_a_script_is_known_at_its_end(lines, status):
    begin = (
        "import atexit, sys\nfrom acme_mpi.comm import together\ntogether._replace_exits()\n"
        "atexit.register(lambda: print(together._STATUS[0]))\n"
    )

    done = subprocess.run([sys.executable, "-c", begin + lines], capture_output=True, text=True)

    assert done.stdout == f"{status}\n"
    assert "Traceback" not in done.stderr


def test_ranks_that_all_raise_end_as_they_would_alone(run_ranks):
    done = run_ranks(2, "raise ValueError(f'rank {rank}')\n")

    assert done.returncode != 0
    assert "rank 0" in done.stderr
    assert "rank 1" in done.stderr


@pytest.mark.parametrize(
    "line", ["-m acme_mpi script.py", "-m acme_mpi script.py:f --set x=[1] --no-write", "script.py"]
)
def test_a_killed_launcher_leaves_nothing_behind(tmp_path, mpiexec, line):
    """Between two calls of a script, or while a target is loaded."""
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    (tmp_path / "script.py").write_text(
        "import time, acme_mpi\n"
        "if __name__ == '__main__':\n"
        "    acme_mpi.map(abs, [-1, -2], write_worker_results=False)\n"
        "open('pipe', 'w').close()\n"
        "time.sleep(1000)\n"
    )

    def kill_launcher(start_id: str) -> None:
        pipe.read_bytes()  # until the script has opened and closed it
        [launcher] = [
            pid
            for pid in processes_of(start_id)
            if Path(f"/proc/{pid}/stat").read_text().split()[3] == str(os.getpid())
        ]
        os.kill(launcher, signal.SIGKILL)

    words, env = line.split(), {"PYTHONPATH": ROOT}
    done = mpiexec(2, *words, cwd=tmp_path, env=env, during=kill_launcher)

    assert done.returncode == -signal.SIGKILL


@pytest.mark.once
def test_a_rank_in_user_code_ends_with_its_launcher():
    """A rank that runs what users wrote ends with its launcher."""
    rank = (
        "import signal\n"
        "from acme_mpi.comm.launcher import end_with_launcher\n"
        "end_with_launcher()\n"
        "print(flush=True)\n"
        "signal.pause()\n"
    )
    launcher = "import subprocess, sys; subprocess.run([sys.executable, '-c', sys.argv[1]])"
    with subprocess.Popen(
        [sys.executable, "-c", launcher, rank],
        stdout=subprocess.PIPE,
        env={**os.environ, "PYTHONPATH": ROOT, "PMI_SIZE": "2"},
    ) as process:
        assert process.stdout.readline() == b"\n"
        process.kill()

        assert select.select([process.stdout], [], [], 30)[0]  # the rank held its other end
        assert not process.stdout.read()


@pytest.mark.once
def test_the_first_rank_that_waits_tells_of_rank_0(tmp_path, mpiexec):
    """The first rank that waits tells of rank 0 before the first call."""
    (tmp_path / "script.py").write_text(
        textwrap.dedent(
            """\
            import logging, acme_mpi
            from acme_mpi.comm import mpi
            from mpi4py import MPI

            class Tells(logging.Handler):
                def emit(self, record):
                    MPI.COMM_WORLD.send(record.getMessage(), 0, 99)

            mpi.ROLL_CALL_S = 0.0
            if MPI.COMM_WORLD.rank == 0:
                print(MPI.COMM_WORLD.recv(source=1, tag=99))
            else:
                logging.getLogger("acme_mpi").addHandler(Tells())
            acme_mpi.map(abs, [-1], write_worker_results=False)
            """
        )
    )

    done = mpiexec(2, "script.py", cwd=tmp_path, env={"PYTHONPATH": ROOT}, timeout_s=20)

    assert done.returncode == 0
    assert "rank(s) 0 of 2 have not made this call" in done.stdout
