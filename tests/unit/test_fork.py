"""A forked child is as clean as a new process, and libraries get threads before they load."""

from __future__ import annotations

import json
import os
import subprocess
import sys

import pytest

from acme_mpi.comm import SerialWorld
from acme_mpi.linux.threads import (
    THREAD_VARIABLES,
    is_share_known,
    limited_threads,
    n_local_ranks,
)
from acme_mpi.runner import kept
from acme_mpi.runner.child import ChildRunner

pytestmark = pytest.mark.once

PROGRAM = """
import json, os, signal, sys
from acme_mpi.runner.fork import Fork

def look():
    seen = {
        "stdin": sys.stdin.read(),
        "environment": dict(os.environ),
        "arguments": sys.argv,
        "leads": os.getsid(0) == os.getpid() == os.getpgid(0),
        "main": [hasattr(sys.modules["__main__"], name) for name in ("look", "__file__")],
        "descriptors": [n for n in range(3, 1000) if os.path.exists(f"/proc/self/fd/{n}")],
        "kept": write,
    }
    os.write(write, json.dumps(seen).encode())
    os._exit(7)

def fail():
    raise ValueError("what went wrong")

def die():
    os.kill(os.getpid(), signal.SIGKILL)

read, write = os.pipe()
others = os.pipe()
print("said once")
children = [Fork(main, ["a", "b"], [write], {"ONLY": "this"}) for main in (look, fail, die)]
print(os.read(read, 1 << 16).decode())
print(json.dumps([child.wait() for child in children]))
"""


def test_a_forked_child_is_as_clean_as_a_new_one():
    environment = {"PYTHONPATH": os.pathsep.join(sys.path), "OMPI_COMM_WORLD_RANK": "1"}
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM],
        env=environment,
        input="for the parent",
        capture_output=True,
        text=True,
        timeout=60,
    )

    said, seen, statuses = done.stdout.splitlines()
    assert said == "said once"
    found = json.loads(seen)
    assert found.pop("descriptors") == [found.pop("kept")]
    assert found == {
        "stdin": "",
        "environment": {"ONLY": "this"},
        "arguments": ["", "a", "b"],
        "leads": True,
        "main": [False, False],
    }
    assert json.loads(statuses) == [7, 1, -9]
    assert done.stderr.count("ValueError: what went wrong") == 1


@pytest.mark.parametrize(
    ("environ", "n"),
    [
        ({}, 1),
        ({"OMPI_COMM_WORLD_LOCAL_SIZE": "4", "SLURM_STEP_TASKS_PER_NODE": "9"}, 4),
        ({"MPI_LOCALNRANKS": "3"}, 3),
        ({"SLURM_STEP_TASKS_PER_NODE": "16", "SLURM_NODEID": "0"}, 16),
        ({"SLURM_STEP_TASKS_PER_NODE": "4(x2),3,1(x2)", "SLURM_NODEID": "1"}, 4),
        ({"SLURM_STEP_TASKS_PER_NODE": "4(x2),3,1(x2)", "SLURM_NODEID": "2"}, 3),
        ({"SLURM_STEP_TASKS_PER_NODE": "4(x2),3,1(x2)", "SLURM_NODEID": "4"}, 1),
        ({"SLURM_STEP_TASKS_PER_NODE": "4(x999999999)", "SLURM_NODEID": "99"}, 4),
        ({"SLURM_STEP_TASKS_PER_NODE": "x"}, 1),
        ({"SLURM_STEP_TASKS_PER_NODE": "4", "SLURM_NODEID": "x"}, 1),
        ({"OMPI_COMM_WORLD_LOCAL_SIZE": "0"}, 1),
    ],
)
def test_a_launcher_tells_the_number_of_ranks_of_a_node(environ, n):
    assert n_local_ranks(environ) == n


@pytest.mark.parametrize(
    ("n_own", "n_ranks", "is_known"),
    [(1, 4, True), (8, 4, True), (8, 1, True), (2, 1, True), (2, 4, False)],
    ids=["one core each", "all cores", "alone", "alone on some", "some cores"],
)
def test_some_cores_of_several_may_be_shared(monkeypatch, n_own, n_ranks, is_known):
    monkeypatch.setattr(os, "cpu_count", lambda: 8)
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: set(range(n_own)))
    monkeypatch.setenv("OMPI_COMM_WORLD_LOCAL_SIZE", str(n_ranks))

    assert is_share_known() is is_known


def test_a_runner_that_was_started_early_is_used():
    kept.stop_runner()  # of an earlier test in this process
    kept.start_child_runner()
    try:
        early = kept._kept.runner
        kept.start_child_runner()

        assert early is not None
        assert kept._kept.runner is early
        assert kept.take_child_runner(SerialWorld()) is early
    finally:
        kept.stop_runner()


def test_libraries_load_with_a_share_of_the_cores(monkeypatch):
    for name in THREAD_VARIABLES:
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("MKL_NUM_THREADS", "7")
    monkeypatch.setenv("OMPI_COMM_WORLD_LOCAL_SIZE", "1")
    before = dict(os.environ)

    with limited_threads():
        inside = {name: os.environ[name] for name in THREAD_VARIABLES}

    n_cores = str(len(os.sched_getaffinity(0)))
    assert inside == {**dict.fromkeys(THREAD_VARIABLES, n_cores), "MKL_NUM_THREADS": "7"}
    assert dict(os.environ) == before


def test_a_runner_with_another_number_of_threads_is_replaced():
    kept.stop_runner()  # of an earlier test in this process
    n_wrong = len(os.sched_getaffinity(0)) + 1
    early = ChildRunner(n_wrong)
    kept._kept.keep(early, n_wrong)
    try:
        runner = kept.take_child_runner(SerialWorld())

        assert runner is not early
        assert not early.pid
        assert kept.take_child_runner(SerialWorld()) is runner
    finally:
        kept.stop_runner()


def test_a_fork_of_a_fork_keeps_its_own_descriptors():
    runner = ChildRunner(1)
    try:
        pid = os.fork()
        if pid == 0:
            opened = [os.open("/dev/null", os.O_RDONLY) for _ in range(20)]
            inner = os.fork()
            if inner == 0:
                are_open = all(os.path.exists(f"/proc/self/fd/{each}") for each in opened)
                os._exit(0 if are_open else 1)
            os._exit(os.waitstatus_to_exitcode(os.waitpid(inner, 0)[1]))

        assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0
    finally:
        runner.stop()
