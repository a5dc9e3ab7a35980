"""What ranks do together, on a real MPI world.

`test_on_real_ranks` starts ``mpiexec -n N python -m pytest --with-mpi --only-mpi`` on this very
file, and only then the tests with the marker `mpi` run, on every rank. Their asserts are made on
rank 0 after gathering: an assert that fails on one rank alone would leave the others waiting.
"""

from __future__ import annotations

import os
import tracemalloc
from collections.abc import Callable
from pathlib import Path
from typing import Any

import h5py
import pytest
from conftest import by_stacks

import acme_mpi
from acme_mpi.comm import TAG_CHUNK, TAG_REPORT, World, make_world, share
from acme_mpi.comm.launcher import launched_rank_and_size
from acme_mpi.errors import StoreError
from acme_mpi.linux.segment import Segment

IS_LAUNCHED = launched_rank_and_size(os.environ)[1] > 1


@pytest.mark.slow
@pytest.mark.skipif(IS_LAUNCHED, reason="these are the ranks")
@pytest.mark.parametrize("n", by_stacks([2, 3], every=[3], many=[2]))
def test_on_real_ranks(mpiexec, monkeypatch, tmp_path, n):
    options = ["--with-mpi", "--only-mpi", "-p", "no:cacheprovider", "-q", "--tb=short"]
    # Each rank would tidy up what another one, or another run of pytest, is tidying up.
    monkeypatch.setenv("PYTEST_DEBUG_TEMPROOT", str(tmp_path))
    options += ["-o", "tmp_path_retention_policy=all"]

    ran = mpiexec(n, "-m", "pytest", *options, __file__, cwd=Path(__file__).parents[2])

    assert ran.returncode == 0, ran.stdout + ran.stderr
    # A wrong option, or a marker without effect, would run nothing and be content.
    assert ran.stdout.count(" passed") >= n
    assert " failed" not in ran.stdout


@pytest.fixture
def world() -> World:
    """Return the world over all ranks."""
    return make_world()


@pytest.fixture
def comm() -> Any:
    """Return mpi4py's communicator of all ranks."""
    from mpi4py import MPI

    return MPI.COMM_WORLD


@pytest.fixture
def on_rank_0(comm) -> Callable[[Any], Any]:
    """Return a function that gathers a value: all ranks' list on rank 0, None elsewhere."""
    return lambda value: comm.gather(value)


@pytest.fixture
def shared_folder(comm, tmp_path) -> Path:
    """Return a folder that is the same on all ranks."""
    return Path(comm.bcast(str(tmp_path)))


def f(x: Any, y: Any, z: Any = 3) -> Any:
    return (x + y) * z


@pytest.mark.mpi(min_size=2)
def test_every_rank_has_its_place(world, comm, on_rank_0):
    places = on_rank_0((world.rank, world.size, world.is_master))

    if places is not None:
        assert places == [(rank, comm.size, rank == 0) for rank in range(comm.size)]


@pytest.mark.mpi(min_size=2)
def test_the_world_of_a_communicator_is_made_once(world, comm, on_rank_0):
    same = on_rank_0((make_world() is world, make_world(comm) is world))

    if same is not None:
        assert same == [(True, True)] * comm.size


@pytest.mark.mpi(min_size=2)
def test_our_messages_do_not_meet_the_users(world, comm, on_rank_0):
    """The world has a communicator of its own: equal tags of the user's are no danger."""
    if comm.rank == 1:
        comm.send("the user's", 0, TAG_REPORT)
        world.send(0, TAG_REPORT, (1, 2, 3))
    seen = None
    if comm.rank == 0:
        while (message := world.poll(TAG_REPORT)) is None:
            pass
        seen = message, world.poll(TAG_REPORT), comm.recv(source=1, tag=TAG_REPORT)
    comm.barrier()

    if seen is not None:
        assert seen == ((1, [1, 2, 3, 0, 0, 0, 0, 0]), None, "the user's")


@pytest.mark.mpi(min_size=2)
def test_messages_of_a_rank_arrive_in_order(world, comm, on_rank_0):
    n = 500
    for k in range(n):
        world.send(0, TAG_REPORT, (k, world.rank))
    received: dict[int, list[int]] = {rank: [] for rank in range(comm.size)}
    while world.is_master and sum(map(len, received.values())) < n * comm.size:
        if (message := world.poll(TAG_REPORT)) is not None:
            source, (number, sender, *_) = message
            received[source].append(number if sender == source else -1)
    comm.barrier()

    if comm.rank == 0:
        assert received == {rank: list(range(n)) for rank in range(comm.size)}


@pytest.mark.mpi(min_size=2)
def test_tags_are_kept_apart(world, comm, on_rank_0):
    target = (comm.rank + 1) % comm.size
    world.send(target, TAG_REPORT, (1,))
    world.send(target, TAG_CHUNK, (2,))
    got = []
    for tag in (TAG_CHUNK, TAG_REPORT):
        while (message := world.poll(tag)) is None:
            pass
        got.append((message[0], message[1][0]))
    everybody = on_rank_0(got)

    if everybody is not None:
        sources = [(rank - 1) % comm.size for rank in range(comm.size)]
        assert everybody == [[(source, 2), (source, 1)] for source in sources]


@pytest.mark.mpi(min_size=2)
def test_values_reach_every_rank(world, comm, on_rank_0):
    everybody = on_rank_0(
        (
            world.bcast({"from": 0} if comm.rank == 0 else None),
            world.bcast(comm.rank, root=1),
            world.gather(comm.rank * 10),
            world.allgather("r" * comm.rank),
        )
    )

    if everybody is not None:
        ranks = range(comm.size)
        gathered = [10 * rank for rank in ranks]
        for rank, (told, root, collected, all_) in enumerate(everybody):
            assert told == {"from": 0}
            assert root == 1
            assert collected == (gathered if rank == 0 else None)
            assert all_ == ["r" * r for r in ranks]


@pytest.mark.mpi(min_size=2)
def test_what_is_large_is_held_in_one_pickle_at_a_time(world, comm, on_rank_0):
    large = bytes(8 << 20)
    tracemalloc.start()
    world.gather(large)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    everybody = on_rank_0(peak)

    if everybody is not None:  # a pickle takes half as much again while it is made
        assert max(everybody[1:]) < 2 * len(large)


@pytest.mark.mpi(min_size=2)
@pytest.mark.parametrize("n_bytes", [0, 1, 999, 1000, 1001, 5432])
def test_a_segment_reaches_every_node_in_slices(world, comm, on_rank_0, monkeypatch, n_bytes):
    """Every rank is taken for a node of its own: it gets a copy."""
    monkeypatch.setattr("acme_mpi.comm.mpi.SLICE_BYTES", 1000)
    monkeypatch.setattr(world, "hosts", [f"node {rank}" for rank in range(comm.size)])
    monkeypatch.setattr(world, "host", f"node {comm.rank}")
    content = bytes(k % 251 for k in range(n_bytes))

    got = share(world, Segment.of([content]) if comm.rank == 0 else None)
    large = world.gather(bytes(5000 + comm.rank))
    everybody = on_rank_0((bytes(got.view()), got.address.inode))

    if everybody is not None:
        assert [each for each, _ in everybody] == [content] * comm.size
        assert len({inode for _, inode in everybody}) == comm.size
        assert [len(each) for each in large] == [5000 + rank for rank in range(comm.size)]


@pytest.mark.mpi(min_size=3)
@pytest.mark.parametrize("is_open", [True, False])
def test_the_first_rank_of_a_node_has_the_copy(world, comm, on_rank_0, monkeypatch, is_open):
    """Unless it cannot be opened: then every rank has its own."""
    if not is_open:
        monkeypatch.setattr("acme_mpi.comm.sharing._open", lambda address: None)
    monkeypatch.setattr(world, "hosts", ["here", "there", "there"])
    monkeypatch.setattr(world, "host", "there" if comm.rank else "here")

    got = share(world, Segment.of([b"spam"]) if comm.rank == 0 else None)
    everybody = on_rank_0((bytes(got.view()), got.address.inode))

    if everybody is not None:
        assert [each for each, _ in everybody] == [b"spam"] * 3
        assert len({inode for _, inode in everybody}) == (2 if is_open else 3)


@pytest.mark.mpi(min_size=2)
def test_a_node_without_room_is_told_to_all(world, comm, on_rank_0, monkeypatch):
    def reserve(n_bytes):
        raise StoreError(f"no room for {n_bytes} bytes")

    monkeypatch.setattr(world, "hosts", [f"node {rank}" for rank in range(comm.size)])
    monkeypatch.setattr(world, "host", f"node {comm.rank}")
    segment = Segment.of([b"spam"]) if comm.rank == 0 else None
    if comm.rank == 1:
        monkeypatch.setattr(Segment, "reserve", reserve)

    try:
        told = str(share(world, segment))
    except StoreError as error:
        told = str(error)
    everybody = on_rank_0(told)

    if everybody is not None:
        assert everybody == ["rank 1: no room for 4 bytes"] * comm.size


@pytest.mark.mpi(min_size=2)
def test_a_barrier_holds_until_every_rank_is_there(world, comm, shared_folder):
    """Rank 1 comes only after rank 0, which it is told, and leaves a file on its way."""
    trace = shared_folder / "rank 1 was here"
    if comm.rank == 0:
        comm.send("I go to the barrier", 1)
    if comm.rank == 1:
        comm.recv(source=0)
        trace.write_text("")
    world.barrier()

    if comm.rank == 0:
        assert trace.exists()


@pytest.mark.mpi(min_size=2)
@pytest.mark.parametrize("isolate", [True, False])
@pytest.mark.parametrize(
    "options",
    [{}, {"payload": "computation"}, {"single_file": True}],
    ids=["rank", "computation", "single_file"],
)
def test_map_writes_one_container(comm, on_rank_0, shared_folder, options, isolate):
    folder = str(shared_folder / "out")

    paths = acme_mpi.map(f, [2, 4, 6, 8], 4, output_dir=folder, isolate=isolate, **options)
    everybody = on_rank_0(paths)

    if everybody is not None:
        assert everybody == [paths] * comm.size
        with h5py.File(shared_folder / "out" / "f.h5", "r") as file:
            values = [file[f"comp_{i}/result_0"][()].tolist() for i in range(4)]
        assert values == [[18], [24], [30], [36]]


@pytest.mark.mpi(min_size=2)
def test_many_calls_one_after_the_other(comm, on_rank_0):
    """Nothing of one call reaches the next: fewer tasks than ranks, none, then many."""
    results = [
        acme_mpi.map(f, list(range(n)), 1, write_worker_results=False)
        for n in (1, 0, 1, 30, 0, 2, 1, 1, 40)
    ]
    everybody = on_rank_0(results)

    if everybody is not None:
        sizes = [1, 0, 1, 30, 0, 2, 1, 1, 40]
        assert everybody == [[[3 * (i + 1) for i in range(n)] for n in sizes]] * comm.size


@pytest.mark.mpi(min_size=2)
def test_a_failing_call_leaves_every_rank_the_same_way(comm, on_rank_0):
    def fail(i: int) -> int:
        return 1 // (i - 2)

    with pytest.raises(acme_mpi.TaskError) as caught:
        acme_mpi.map(fail, list(range(4)), write_worker_results=False)
    everybody = on_rank_0((str(caught.value), caught.value.results, caught.value.failures))

    if everybody is not None:
        text, results, failures = everybody[0]
        assert everybody == [everybody[0]] * comm.size
        assert results == [-1, -1, None, 1]
        assert [(each.index, each.type) for each in failures] == [(2, "ZeroDivisionError")]
        assert text.startswith("1 of 4 tasks failed, first: task 2 on rank ")


@pytest.mark.mpi(min_size=2)
def test_a_call_within_a_part_of_the_ranks(comm, on_rank_0):
    """While the others do something else."""
    part = comm.Split(min(comm.rank, 1))
    mine = None
    if comm.rank > 0:
        mine = acme_mpi.map(f, [2, 4], 4, write_worker_results=False, comm=part)
    everybody = on_rank_0(mine)
    part.Free()

    if everybody is not None:
        assert everybody == [None] + [[18, 24]] * (comm.size - 1)
