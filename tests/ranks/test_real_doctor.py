"""The command `doctor`: alone, on ranks, and for a log."""

from __future__ import annotations

import json
import os

import pytest

from acme_mpi.symptoms import symptom

DOCTOR = ("-m", "acme_mpi", "doctor")
UNSHARED = """\
import os, subprocess, sys
if os.environ.get("OMPI_COMM_WORLD_RANK", os.environ.get("PMI_RANK")) == "1":
    words = ["unshare", "--mount", "sh", "-c", 'mount -t tmpfs none "$0" && exec "$@"', sys.argv[1]]
    sys.argv[1:1] = []
    os.execvp("unshare", [*words, sys.executable, "-m", "acme_mpi", *sys.argv[2:]])
os.execv(sys.executable, [sys.executable, "-m", "acme_mpi", *sys.argv[2:]])
"""
BOUND = """\
import os, sys
os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})
os.execv(sys.executable, [sys.executable, "-m", "acme_mpi", *sys.argv[1:]])
"""
SLEEPING = """\
import os, signal, sys
if os.environ.get("OMPI_COMM_WORLD_RANK", os.environ.get("PMI_RANK")) == "1":
    signal.pause()
os.execv(sys.executable, [sys.executable, "-m", "acme_mpi", *sys.argv[1:]])
"""


def wrong_in(ran):
    said = json.loads(ran.stdout)
    return {
        each["check"]: each["evidence"] for each in said["findings"] if each["level"] == "wrong"
    }


@pytest.mark.every
def test_on_ranks_all_look(mpiexec, tmp_path):
    ran = mpiexec(2, *DOCTOR, "--output-dir", tmp_path / "out")

    assert ran.returncode == 0, ran.stdout
    for text in (
        "\nok    ranks: 2 of 2 ranks on 1 node",
        "\nok    one place for all: all ranks find",
        "\nok    letters: from rank 0 there and back in",
        "ends all ranks within seconds when one dies",
        "\nNothing is wrong.\n",
        "\nHDF5         ",
    ):
        assert text in ran.stdout
    assert list(tmp_path.iterdir()) == []


@pytest.mark.every
def test_alone_it_tries_two_ranks(mpiexec):
    ran = mpiexec(0, *DOCTOR, "--json", env={"SECRET_TOKEN": "hunter2"})

    assert ran.returncode == 0, ran.stdout
    said = json.loads(ran.stdout)
    assert "trial" in {each["check"] for each in said["findings"]}
    assert said["facts"]["launcher"] == "none"
    assert "hunter2" not in ran.stdout + ran.stderr


@pytest.mark.once
@pytest.mark.skipif(os.geteuid() != 0, reason="only root mounts")
def test_a_folder_that_ranks_do_not_share_is_found(mpiexec, tmp_path):
    (tmp_path / "start.py").write_text(UNSHARED)
    out = tmp_path / "out"
    out.mkdir()

    ran = mpiexec(2, tmp_path / "start.py", out, "doctor", "--json", "--output-dir", out)

    if not ran.stdout:
        pytest.skip(ran.stderr)
    assert ran.returncode == 1
    assert "is not found by rank(s) 1" in wrong_in(ran)["one place for all"]


@pytest.mark.once
@pytest.mark.skipif(os.cpu_count() == 1, reason="there is one processor")
def test_ranks_on_one_core_are_found(mpiexec, tmp_path):
    (tmp_path / "start.py").write_text(BOUND)

    ran = mpiexec(2, tmp_path / "start.py", "doctor", "--json")

    assert ran.returncode == 1
    assert "2 ranks of" in wrong_in(ran)["binding"]


@pytest.mark.once
def test_a_rank_that_does_not_start_mpi_is_a_finding(mpiexec, tmp_path):
    (tmp_path / "start.py").write_text(SLEEPING)

    ran = mpiexec(2, tmp_path / "start.py", "doctor", "--json", "--time-limit", "2s")

    assert ran.returncode != 0
    assert "MPI has not started on all of 2 ranks" in wrong_in(ran)["silent ranks"]


@pytest.mark.once
def test_lone_ranks_are_a_finding(mpiexec):
    launched = {"OMPI_COMM_WORLD_RANK": "0", "OMPI_COMM_WORLD_SIZE": "2"}

    ran = mpiexec(0, *DOCTOR, "--json", env=launched)

    assert ran.returncode == 1
    assert "each is rank 0 of 1" in wrong_in(ran)["lone ranks"]


@pytest.mark.once
def test_a_broken_mpi4py_is_a_finding_for_all_ranks(mpiexec, tmp_path):
    (tmp_path / "mpi4py").mkdir()
    (tmp_path / "mpi4py" / "__init__.py").write_text(
        "raise RuntimeError('cannot load MPI library')"
    )

    ran = mpiexec(2, *DOCTOR, "--json", env={"PYTHONPATH": str(tmp_path)})

    assert ran.returncode == 1
    assert "cannot load MPI library" in wrong_in(ran)["no MPI library"]


@pytest.mark.once
@pytest.mark.parametrize("is_file", [True, False])
def test_a_log_is_explained(mpiexec, tmp_path, is_file):
    said = "srun: error\nRead -1, expected 16384, errno = 1\n"
    (tmp_path / "log").write_text(said)

    ran = mpiexec(0, *DOCTOR, "--log", tmp_path / "log" if is_file else "-", input=said)

    assert ran.returncode == 1
    assert symptom("memory of others").cure in ran.stdout
    assert "(line 2: Read -1, expected 16384, errno = 1)" in ran.stdout


@pytest.mark.once
def test_an_interrupt_ends_it_in_a_line(mpiexec, tmp_path):
    """Also while a library is imported that hangs; `mpiexec` sees that nothing is left."""
    (tmp_path / "mpi4py").mkdir()
    signalling = "import os, time; os.kill(os.getppid(), 2); time.sleep(600)"
    (tmp_path / "mpi4py" / "__init__.py").write_text(signalling)

    ran = mpiexec(0, *DOCTOR, env={"PYTHONPATH": str(tmp_path)})

    assert ran.returncode == 75
    assert ran.stderr == "acme_mpi: interrupted; what was asked until now was ended\n"


@pytest.mark.once
def test_mistakes_are_said_once(mpiexec):
    no_log = mpiexec(2, *DOCTOR, "--log", "/no/log")
    no_time = mpiexec(0, *DOCTOR, "--time-limit", "soon")
    no_option = mpiexec(0, *DOCTOR, "--colour")

    for ran in (no_log, no_time, no_option):
        assert ran.returncode == 2
    assert no_log.stderr.count("cannot read the log '/no/log': No such file or directory") == 1
    assert no_time.stderr.count("not 'soon'") == 1
    assert no_option.stderr.count("unrecognized arguments: --colour") == 1
