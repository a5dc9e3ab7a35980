"""Ranks that watch each other; what happens to a whole job is tested under Slurm."""

from __future__ import annotations

import select
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator

import pytest

from acme_mpi.comm import neighbours
from acme_mpi.comm.neighbours import Door, LocalNeighbour, Neighbour, RemoteNeighbour, open_door

pytestmark = [pytest.mark.once, pytest.mark.slow]

LIMIT_S = 30
RANK = """
import signal
from acme_mpi.comm.neighbours import open_door
door = open_door()
print(door.port, door.token.hex(), flush=True)
signal.pause()
"""


class Rank:
    """A process that can be watched."""

    def __init__(self) -> None:
        self.process = subprocess.Popen([sys.executable, "-c", RANK], stdout=subprocess.PIPE)
        assert self.process.stdout is not None
        port, token = self.process.stdout.readline().split()
        self.door = Door(int(port), bytes.fromhex(token.decode()))

    def watch(self) -> RemoteNeighbour:
        return RemoteNeighbour(7, "localhost", self.process.pid, self.door)

    def end(self) -> None:
        self.process.kill()
        self.process.communicate()


@pytest.fixture
def rank() -> Iterator[Rank]:
    started = Rank()
    yield started
    started.end()


@pytest.fixture
def own_door() -> Iterator[socket.socket]:
    """Return a socket that accepts connections, and that each test serves as it likes."""
    with socket.create_server(("localhost", 0)) as listener:
        listener.settimeout(LIMIT_S)
        yield listener


def watch(listener: socket.socket, token: bytes) -> RemoteNeighbour:
    return RemoteNeighbour(7, "localhost", 0, Door(listener.getsockname()[1], token))


def wait_until(is_true: Callable[[], bool]) -> bool:
    """Look again and again; return whether it has happened within `LIMIT_S`."""
    for _ in range(LIMIT_S * 100):
        if is_true():
            return True
        select.select([], [], [], 0.01)
    return False


def watchers() -> int:
    return sum(thread.name == "acme_mpi neighbours" for thread in threading.enumerate())


def wait_for_its_thread(before: int) -> None:
    """Wait until nobody is watched any more."""
    assert wait_until(lambda: watchers() == before)


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM])
def test_a_rank_that_dies_is_gone_for_all_who_watch_it(rank, number):
    remote = [rank.watch(), rank.watch()]
    assert wait_until(lambda: all(each.is_watched for each in remote))
    seen: list[Neighbour] = [*remote, LocalNeighbour(7, "localhost", rank.process.pid)]
    assert not any(each.is_gone() for each in seen)

    rank.process.send_signal(number)

    assert all(wait_until(each.is_gone) for each in seen)
    assert str(seen[0]) == f"rank 7 (process {rank.process.pid} on localhost)"


def test_a_stopped_rank_is_not_gone(rank):
    seen = rank.watch()
    assert wait_until(lambda: seen.is_watched)
    rank.process.send_signal(signal.SIGSTOP)

    assert not seen.is_gone()


def test_for_how_long_a_rank_is_stopped_is_what_was_seen_of_it(rank, monkeypatch):
    now_s = [100.0]
    monkeypatch.setattr(neighbours.time, "monotonic", lambda: now_s[0])
    seen = LocalNeighbour(0, "localhost", rank.process.pid)
    assert seen.stopped_s() == 0.0
    rank.process.send_signal(signal.SIGSTOP)
    assert wait_until(seen._is_stopped)

    stopped_s = []
    for passed_s in (1.0, 1.0, 1000.0):  # this process was stopped itself
        now_s[0] += passed_s
        stopped_s.append(seen.stopped_s())
    assert stopped_s == [1.0, 2.0, 7.0]
    rank.process.send_signal(signal.SIGCONT)
    assert wait_until(lambda: not seen._is_stopped())
    assert seen.stopped_s() == 0.0


STOPPED = """
import os, signal, sys
from acme_mpi.comm import make_world, mpi
mpi.SILENT_S, mpi.LOST_S = 0.5, 1.5
world = make_world()
world.on_death = lambda rank, host: print("told of", rank, file=sys.stderr, flush=True)
if world.rank == 0:
    os.kill(os.getpid(), signal.SIGSTOP)
world.barrier()
"""


def test_the_job_ends_if_rank_0_is_stopped_for_long(mpiexec):
    ran = mpiexec(2, "-c", STOPPED)

    assert ran.returncode != 0
    assert "rank 0 (process" in ran.stderr
    assert "`kill -CONT" in ran.stderr
    assert "; the job ends" in ran.stderr
    assert "told of 0" in ran.stderr


def test_another_program_at_the_port_is_not_taken_for_a_rank(own_door):
    """Another program behind the door is not taken for a rank."""
    before = watchers()
    seen = watch(own_door, b"x" * 16)
    connection, _ = own_door.accept()
    connection.send(b"y" * 16)
    connection.close()

    wait_for_its_thread(before)
    assert not seen.is_gone()


def test_a_connection_that_is_broken_off_says_nothing(own_door):
    """A firewall may do that; a process that ends closes its connections."""
    before = watchers()
    seen = watch(own_door, b"x" * 16)
    connection, _ = own_door.accept()
    connection.send(b"x" * 16)
    no_lingering = (1).to_bytes(4, sys.byteorder) + bytes(4)
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, no_lingering)
    connection.close()

    wait_for_its_thread(before)
    assert not seen.is_gone()


def test_a_door_that_cannot_be_reached_says_nothing():
    before = watchers()
    with socket.socket() as unused:
        unused.bind(("localhost", 0))
        seen = watch(unused, b"x" * 16)
        wait_for_its_thread(before)

    assert not seen.is_gone()


def test_visitors_who_say_nothing_are_no_hindrance():
    door = open_door()
    assert door is not None
    with socket.create_connection(("localhost", door.port)) as first:
        assert first.recv(16, socket.MSG_WAITALL) == door.token
        with socket.create_connection(("localhost", door.port)) as second:
            assert second.recv(16, socket.MSG_WAITALL) == door.token
