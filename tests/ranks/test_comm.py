"""Worlds: the same contract for one rank, threads, and real MPI; and who may start at all.

This file is also the script that real ranks run: it prints what they have seen.
"""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from acme_mpi.comm import (
    MESSAGE_INTS,
    TAG_CHUNK,
    TAG_REPORT,
    Backoff,
    SerialWorld,
    ThreadWorld,
    World,
    finalize,
    launched_rank_and_size,
    little_of,
    make_world,
    meeting,
    mpi,
    refuse_singletons,
    share,
)
from acme_mpi.comm.launcher import is_launched_by_srun
from acme_mpi.errors import LaunchError
from acme_mpi.linux.segment import Segment

N_MESSAGES = 20


def poll_until(world: World, tag: int, n: int) -> list[tuple[int, list[int]]]:
    """Return the next `n` messages."""
    backoff, messages = Backoff(0.001), list[tuple[int, list[int]]]()
    while len(messages) < n:
        arrived = world.poll(tag)
        if arrived is None:
            backoff.sleep()
        else:
            messages.append(arrived)
    return messages


class Contract:
    """What every rank does, and what it has to see: pairs of methods with one name.

    ``check_NAME(world, folder)`` runs on every rank, ``expect_NAME(rank, size)`` is its result.
    """

    def check_place(self, world: World, folder: Path) -> Any:
        return [world.rank, world.size, world.is_master, bool(world.host)]

    def expect_place(self, rank: int, size: int) -> Any:
        return [rank, size, rank == 0, True]

    def check_messages_keep_the_order_of_each_sender(self, world: World, folder: Path) -> Any:
        """Every rank sends to every rank, to itself too, before anybody receives."""
        for k in range(N_MESSAGES):
            for dest in range(world.size):
                world.send(dest, TAG_REPORT, (world.rank, k))
        messages = poll_until(world, TAG_REPORT, N_MESSAGES * world.size)
        by_sender: list[list[int]] = [[] for _ in range(world.size)]
        for source, (sender, k, *rest) in messages:
            assert source == sender
            assert rest == [0] * (MESSAGE_INTS - 2)
            by_sender[source].append(k)
        return by_sender

    def expect_messages_keep_the_order_of_each_sender(self, rank: int, size: int) -> Any:
        return [list(range(N_MESSAGES))] * size

    def check_tags_are_apart(self, world: World, folder: Path) -> Any:
        dest = (world.rank + 1) % world.size
        world.send(dest, TAG_REPORT, [1])
        world.send(dest, TAG_CHUNK, [2])
        ((_, chunk),) = poll_until(world, TAG_CHUNK, 1)
        ((_, report),) = poll_until(world, TAG_REPORT, 1)
        return [chunk[0], report[0]]

    def expect_tags_are_apart(self, rank: int, size: int) -> Any:
        return [2, 1]

    def check_messages_hold_the_whole_range_of_64_bits(self, world: World, folder: Path) -> Any:
        world.send((world.rank + 1) % world.size, TAG_CHUNK, (-(2**63), 2**63 - 1, *[-1] * 6))
        ((_, message),) = poll_until(world, TAG_CHUNK, 1)
        return message

    def expect_messages_hold_the_whole_range_of_64_bits(self, rank: int, size: int) -> Any:
        return [-(2**63), 2**63 - 1, *[-1] * 6]

    def check_nothing_arrives_unsent(self, world: World, folder: Path) -> Any:
        world.barrier()
        return [world.poll(TAG_REPORT), world.poll(TAG_CHUNK)]

    def expect_nothing_arrives_unsent(self, rank: int, size: int) -> Any:
        return [None, None]

    def check_bcast(self, world: World, folder: Path) -> Any:
        value = {"a": [1, None, "Größe"]} if world.is_master else None
        last = world.size - 1
        return [world.bcast(value), world.bcast("last" if world.rank == last else None, root=last)]

    def expect_bcast(self, rank: int, size: int) -> Any:
        return [{"a": [1, None, "Größe"]}, "last"]

    def check_gather(self, world: World, folder: Path) -> Any:
        """Values of any length, larger than what one message moves."""
        return world.gather([world.rank, "x" * (1000 * world.rank)])

    def expect_gather(self, rank: int, size: int) -> Any:
        return [[each, "x" * (1000 * each)] for each in range(size)] if rank == 0 else None

    def check_allgather(self, world: World, folder: Path) -> Any:
        return world.allgather(None if world.rank == 1 else world.rank)

    def expect_allgather(self, rank: int, size: int) -> Any:
        return [None if each == 1 else each for each in range(size)]

    def check_consult(self, world: World, folder: Path) -> Any:
        """Small values and large ones, and a large answer."""
        return world.consult("x" * (1000 * world.rank), lambda values: [*map(len, values), *values])

    def expect_consult(self, rank: int, size: int) -> Any:
        return [*(1000 * k for k in range(size)), *("x" * (1000 * k) for k in range(size))]

    def check_scatter(self, world: World, folder: Path) -> Any:
        return world.scatter([f"for {r}" for r in range(world.size)] if world.is_master else None)

    def expect_scatter(self, rank: int, size: int) -> Any:
        return f"for {rank}"

    def check_bcast_bytes_reach_those_who_give_room(self, world: World, folder: Path) -> Any:
        room = bytearray(b"abc" if world.is_master else 3)
        world.bcast_bytes(None if world.rank == 1 else memoryview(room))
        return list(room)

    def expect_bcast_bytes_reach_those_who_give_room(self, rank: int, size: int) -> Any:
        return [0, 0, 0] if rank == 1 else list(b"abc")

    def check_share(self, world: World, folder: Path) -> Any:
        shared = share(world, Segment.of([b"spam", b"and eggs"]) if world.is_master else None)
        places = world.allgather((world.host, shared.address.inode))
        return [bytes(shared.view()).decode(), len(set(places)) == len(set(world.hosts))]

    def expect_share(self, rank: int, size: int) -> Any:
        return ["spamand eggs", True]

    def check_share_what_is_little(self, world: World, folder: Path) -> Any:
        """All know it by then: nobody waits for anybody."""
        own = Segment.of([b"spam"]) if world.is_master else None
        little = world.bcast(little_of(own))
        return bytes(share(world, own, little).view()).decode()

    def expect_share_what_is_little(self, rank: int, size: int) -> Any:
        return "spam"

    def check_nobody_leaves_a_barrier_before_all_have_come(self, world: World, folder: Path) -> Any:
        seen = []
        for k in range(5):
            (folder / f"{k}-{world.rank}").touch()
            world.barrier()
            seen.append(len(list(folder.glob(f"{k}-*"))))
        return seen

    def expect_nobody_leaves_a_barrier_before_all_have_come(self, rank: int, size: int) -> Any:
        return [size] * 5

    def check_collectives_in_a_row_do_not_mix(self, world: World, folder: Path) -> Any:
        return [world.allgather((world.rank, k)) for k in range(10)]

    def expect_collectives_in_a_row_do_not_mix(self, rank: int, size: int) -> Any:
        return [[(each, k) for each in range(size)] for k in range(10)]


CHECKS = [name.removeprefix("check_") for name in vars(Contract) if name.startswith("check_")]


def as_json(value: Any) -> Any:
    """Return a value as it is after a journey as JSON."""
    return json.loads(json.dumps(value))


def run_check(name: str, world: World, folder: Path) -> Any:
    folder.mkdir(exist_ok=True)
    seen = getattr(Contract(), f"check_{name}")(world, folder)
    world.barrier()  # a rank that runs ahead would send messages of the next check
    return as_json(seen)


def expected(name: str, size: int) -> list[Any]:
    """Return what every rank has to see, in rank order."""
    expect = getattr(Contract(), f"expect_{name}")
    return [as_json(expect(rank, size)) for rank in range(size)]


def main(folder: str) -> None:
    """Run all checks as one rank of a real world; rank 0 prints the results of all ranks."""
    from mpi4py import MPI

    world = make_world()
    mpi.SLICE_BYTES = 100  # everything moves in slices
    meeting.SMALL_BYTES = 1500  # of three ranks, what two bring is small
    seen = {}
    for name in CHECKS:
        mine = run_check(name, world, Path(folder) / name)
        seen[name] = MPI.COMM_WORLD.gather(mine, 0)
    again = [make_world() is world, type(world).__name__, world.mpi_comm is not None]
    seen["make_world"] = MPI.COMM_WORLD.gather(again, 0)
    if world.is_master:
        print(json.dumps(seen))
    finalize()


@pytest.mark.parametrize("name", CHECKS)
@pytest.mark.once
class TestContract:
    def test_serial_world(self, name, tmp_path):
        assert [run_check(name, SerialWorld(), tmp_path)] == expected(name, 1)

    @pytest.mark.parametrize("size", [1, 2, 3, 5])
    def test_thread_world(self, name, size, tmp_path):
        def call(world):
            return run_check(name, world, tmp_path)

        assert ThreadWorld.run(size, call) == expected(name, size)


@pytest.fixture(scope="module")
def seen_by_real_ranks(mpiexec, tmp_path_factory) -> Callable[[int], dict[str, Any]]:
    """Return a function that gives what `n` real ranks have seen; each start happens once."""
    seen: dict[int, dict[str, Any]] = {}

    def get(n: int) -> dict[str, Any]:
        if n not in seen:
            done = mpiexec(n, __file__, tmp_path_factory.mktemp("real"))
            assert done.returncode == 0, done.stderr
            seen[n] = json.loads(done.stdout.splitlines()[-1])
        return seen[n]

    return get


@pytest.mark.parametrize("size", [1, 3])
@pytest.mark.every
class TestRealRanks:
    @pytest.mark.parametrize("name", CHECKS)
    def test_the_contract_holds_on_mpi(self, name, size, seen_by_real_ranks):
        assert seen_by_real_ranks(size)[name] == expected(name, size)

    def test_a_second_world_is_the_first_one(self, size, seen_by_real_ranks):
        assert seen_by_real_ranks(size)["make_world"] == [[True, "MpiWorld", True]] * size


LATE_RANK = """
import pathlib, sys
from acme_mpi import comm

comm.mpi.ROLL_CALL_S = 0.05
told = pathlib.Path(sys.argv[1])
world = comm.make_world()
if world.rank == 2:
    backoff = comm.Backoff(0.02)
    while not told.exists():
        backoff.sleep()
world.barrier(told.write_text)
assert world.poll(comm.TAG_REPORT) is None
world.barrier()
comm.finalize()
"""


@pytest.mark.every
def test_rank_0_names_the_ranks_that_do_not_come(mpiexec, write_script, tmp_path):
    told = tmp_path / "told"

    done = mpiexec(3, write_script(LATE_RANK), told)

    assert done.returncode == 0, done.stderr
    assert "rank(s) 2 of 3 have not made this call" in told.read_text()


MEETINGS = """
from acme_mpi import comm

world = comm.make_world()
n_pauses = []
pause = comm.Backoff.pause
comm.Backoff.pause = lambda self: n_pauses.append(1) or 3600 * pause(self) / comm.base.FIRST_PAUSE_S
for k in range(20):
    assert world.bcast(k if world.is_master else None) == k
    assert world.allgather(world.rank) == [0, 1, 2]
    world.barrier()
n_asleep = sum(world.allgather(len(n_pauses)))
assert n_asleep > 20, n_asleep
comm.Backoff.pause = pause
print("woken")
comm.finalize()
"""


@pytest.mark.once  # elsewhere a bell may come before its letter, which costs a pause
def test_ranks_of_a_node_wake_each_other_where_they_meet(mpiexec, write_script):
    done = mpiexec(3, write_script(MEETINGS))  # each pause would take an hour

    assert done.stdout.split() == ["woken"] * 3, done.stderr


@pytest.mark.once
class TestThreadWorld:
    def test_an_exception_of_one_rank_is_raised_and_nobody_waits(self):
        def call(world):
            if world.rank == 1:
                raise KeyError("rank 1")
            world.barrier()

        with pytest.raises(KeyError, match="rank 1"):
            ThreadWorld.run(3, call)

    def test_a_rank_that_never_comes_is_a_timeout(self):
        release = threading.Event()

        def call(world):
            if world.rank:
                release.wait()

        with pytest.raises(TimeoutError, match="still running"):
            ThreadWorld.run(2, call, timeout_s=0.05)
        release.set()

    def test_abort_ends_all(self):
        def call(world):
            if world.rank == 1:
                world.abort(1)
            world.barrier()

        with pytest.raises(threading.BrokenBarrierError):
            ThreadWorld.run(3, call)


@pytest.mark.once
class TestBackoff:
    def test_pauses_double_up_to_the_longest(self):
        backoff = Backoff(longest_s=0.001)

        assert [backoff.pause() for _ in range(6)] == [1e-4, 2e-4, 4e-4, 8e-4, 1e-3, 1e-3]

    def test_reset_starts_again(self):
        backoff = Backoff()
        first = backoff.pause()
        backoff.pause()
        backoff.reset()

        assert backoff.pause() == first

    def test_a_shorter_bound_holds_from_then_on(self):
        backoff = Backoff(1.0)
        for _ in range(20):
            backoff.pause()
        backoff.longest_s = 0.005

        assert [backoff.pause(), backoff.pause()] == [0.005, 0.005]

    def test_long_pauses_are_a_share_of_what_was_waited(self):
        backoff, waited_s, n_pauses = Backoff(0.1, share=1 / 32), 0.0, 0
        while waited_s < 100:
            pause_s = backoff.pause()
            assert pause_s <= max(0.01, waited_s / 32)
            waited_s += pause_s
            n_pauses += 1

        assert pause_s == 0.1
        assert n_pauses < 1200


OPEN_MPI = {"OMPI_COMM_WORLD_RANK": "2", "OMPI_COMM_WORLD_SIZE": "4"}
HYDRA = {"PMI_RANK": "1", "PMI_SIZE": "3", "MPI_LOCALNRANKS": "2"}
PMI_2 = {"PMI_RANK": "5", "PMI_SIZE": "6"}
SLURM = {"SLURM_PROCID": "5", "SLURM_STEP_NUM_TASKS": "6"}


@pytest.mark.once
class TestLaunchers:
    @pytest.mark.parametrize(
        ("environ", "place"),
        [
            ({}, (0, 1)),
            (OPEN_MPI, (2, 4)),
            (HYDRA, (1, 3)),
            (SLURM, (5, 6)),
            (OPEN_MPI | SLURM, (2, 4)),  # mpiexec inside a Slurm job
            ({"SLURM_PROCID": "0"}, (0, 1)),
            ({"SLURM_PROCID": "0", "SLURM_NTASKS": "8"}, (0, 1)),  # a batch script
        ],
    )
    def test_a_launcher_tells_the_place_of_a_process(self, environ, place):
        assert launched_rank_and_size(environ) == place

    @pytest.mark.parametrize("name", ["PMI_RANK", "PMI_SIZE"])
    @pytest.mark.parametrize("text", ["abc", "-1", "1.5", "\u0662", "9" * 30, " "])
    def test_what_is_no_number_is_named_with_its_value(self, name, text):
        environ = HYDRA | {name: text}

        with pytest.raises(
            LaunchError, match=f"{name}.* not {re.escape(repr(text))}.*unset {name}"
        ):
            launched_rank_and_size(environ)
        if name == "PMI_SIZE":
            with pytest.raises(LaunchError, match=f"unset {name}"):
                refuse_singletons(1, environ)

    @pytest.mark.parametrize(
        ("environ", "is_srun"),
        [
            ({}, False),
            (OPEN_MPI, False),
            (HYDRA, False),
            (SLURM, True),
            (SLURM | PMI_2, True),
            (OPEN_MPI | SLURM, False),
            (HYDRA | SLURM, False),  # its mpiexec has started a proxy on each node by srun
        ],
    )
    def test_srun_is_told_from_an_mpiexec_inside_its_job(self, environ, is_srun):
        assert is_launched_by_srun(environ) is is_srun

    @pytest.mark.parametrize("environ", [OPEN_MPI, HYDRA, SLURM])
    def test_several_processes_that_are_each_alone_are_refused(self, environ):
        name, n = next(
            (key, value)
            for key, value in environ.items()
            if not key.endswith("RANK") and not key.endswith("PROCID")
        )

        with pytest.raises(LaunchError) as caught:
            refuse_singletons(1, environ)

        assert f"the launcher started {n} processes ({name}={n})" in str(caught.value)
        assert "Nothing was started. Use " in str(caught.value)

    def test_under_slurm_the_cure_is_an_option_of_srun(self):
        with pytest.raises(LaunchError, match="srun --mpi=pmix"):
            refuse_singletons(1, SLURM)

    @pytest.mark.parametrize("environ", [OPEN_MPI, HYDRA])
    def test_under_mpiexec_the_cure_is_the_right_mpiexec(self, environ):
        with pytest.raises(LaunchError, match="mpiexec that belongs to the MPI library"):
            refuse_singletons(1, environ)

    @pytest.mark.parametrize(
        ("size", "environ"),
        [
            (4, OPEN_MPI),
            (3, SLURM),  # a communicator of some of the ranks
            (1, {}),
            (1, {"OMPI_COMM_WORLD_RANK": "0", "OMPI_COMM_WORLD_SIZE": "1"}),
            (1, {"SLURM_STEP_NUM_TASKS": "1"}),
            (1, {"PMI_SIZE": ""}),
        ],
    )
    def test_all_else_may_start(self, size, environ):
        refuse_singletons(size, environ)


def test_without_launcher_and_library_a_process_is_a_world():
    """Without a working MPI library everything still works on one rank."""
    code = (
        "import sys; sys.modules['mpi4py'] = None\n"
        "from acme_mpi.comm import make_world\n"
        "print(type(make_world()).__name__)\n"
    )
    environ = {k: v for k, v in os.environ.items() if not k.startswith(("OMPI", "PMI", "SLURM"))}
    done = subprocess.run(
        [sys.executable, "-c", code], env=environ, capture_output=True, text=True, timeout=60
    )
    assert (done.stdout.strip(), done.returncode) == ("SerialWorld", 0), done.stderr

    launched = {**environ, **OPEN_MPI}
    done = subprocess.run(
        [sys.executable, "-c", code], env=launched, capture_output=True, text=True, timeout=60
    )
    assert "LaunchError: mpi4py cannot load an MPI library" in done.stderr


if __name__ == "__main__":
    main(sys.argv[1])
