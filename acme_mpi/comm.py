"""How ranks talk: the only module that imports mpi4py, and only when a World is made.

A `World` offers what the protocol needs and nothing else: short messages of integers that are
never waited for, and collectives that sleep instead of spin. `SerialWorld` (one rank) and
`ThreadWorld` (ranks as threads) are its twins without MPI.
"""

from __future__ import annotations

import os
import pickle
import queue
import socket
import threading
import time
from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeVar

import numpy as np

from acme_mpi.errors import LaunchError

T = TypeVar("T")

MESSAGE_INTS = 8  # every short message: this many 64-bit integers
TAG_REPORT, TAG_CHUNK, TAG_PRESENT, TAG_DATA = 1, 2, 3, 4
SLICE_BYTES = 512 * 1024 * 1024  # one MPI call moves at most this, far below 2 GiB
ROLL_CALL_S = 10.0

# How a launcher tells a process its place, before MPI starts: (rank, size) variables.
LAUNCHER_VARIABLES = (
    ("OMPI_COMM_WORLD_RANK", "OMPI_COMM_WORLD_SIZE"),
    ("PMI_RANK", "PMI_SIZE"),
    ("SLURM_PROCID", "SLURM_STEP_NUM_TASKS"),
)


class Backoff:
    """Sleep with growing pauses between two looks.

    Parameters
    ----------
    longest_s : float
        Upper bound of a pause in seconds.
    """

    def __init__(self, longest_s: float = 0.01) -> None:
        self.longest_s = longest_s
        self._pause_s = 1e-4

    def pause(self) -> float:
        """Return the next pause in seconds and double the one after it."""
        pause_s = self._pause_s
        self._pause_s = min(2 * pause_s, self.longest_s)
        return pause_s

    def sleep(self) -> None:
        """Sleep for the next pause."""
        time.sleep(self.pause())

    def reset(self) -> None:
        """Start again with the shortest pause."""
        self._pause_s = 1e-4


class World(ABC):
    """The ranks of one job, seen from one of them.

    Attributes
    ----------
    rank, size : int
        This rank, and the number of ranks.
    host : str
        Name of this rank's node.
    """

    rank: int
    size: int

    def __init__(self) -> None:
        self.host = socket.gethostname()
        self._own: dict[int, deque[list[int]]] = {TAG_REPORT: deque(), TAG_CHUNK: deque()}

    def send(self, dest: int, tag: int, message: Sequence[int]) -> None:
        """Send at most `MESSAGE_INTS` integers; never waits. Independent."""
        if dest == self.rank:
            self._own[tag].append([*message, *[0] * (MESSAGE_INTS - len(message))])
        else:
            self._send(dest, tag, message)

    def poll(self, tag: int) -> tuple[int, list[int]] | None:
        """Return (source, message) of one message that has arrived, else None. Independent."""
        if self._own[tag]:
            return self.rank, self._own[tag].popleft()
        return self._poll(tag) if self.size > 1 else None

    @abstractmethod
    def _send(self, dest: int, tag: int, message: Sequence[int]) -> None: ...

    @abstractmethod
    def _poll(self, tag: int) -> tuple[int, list[int]] | None: ...

    @abstractmethod
    def barrier(self, notify: Callable[[str], None] | None = None) -> None:
        """Wait until every rank is here, asleep. Collective.

        Parameters
        ----------
        notify : callable, optional
            On rank 0 called with a sentence that names the missing ranks, after 10 s.
        """

    @abstractmethod
    def bcast(self, value: T | None, root: int = 0) -> T:
        """Return `root`'s value on every rank. Collective; plain Python values, no user's types."""

    @abstractmethod
    def bcast_buffers(self, buffers: Sequence[Any] | None) -> list[Any]:
        """Return rank 0's arrays of uint8 on every rank, each of any length. Collective."""

    @abstractmethod
    def gather(self, value: T) -> list[T] | None:
        """Return the list of all values on rank 0, None elsewhere. Collective."""

    @abstractmethod
    def abort(self, exit_code: int) -> None:
        """End all ranks at once: for broken invariants only. Independent."""

    def allgather(self, value: T) -> list[T]:
        """Return the list of all values on every rank. Collective."""
        return self.bcast(self.gather(value))

    def scatter(self, values: Sequence[T] | None) -> T:
        """Return this rank's entry of rank 0's list. Collective."""
        return self.bcast(values)[self.rank]

    @property
    def mpi_comm(self) -> Any:
        """The mpi4py communicator for parallel HDF5, or None where there is none."""
        return None

    @property
    def is_master(self) -> bool:
        """Whether this is rank 0."""
        return self.rank == 0


class SerialWorld(World):
    """A world of one rank, without MPI."""

    rank, size = 0, 1

    def _send(self, dest: int, tag: int, message: Sequence[int]) -> None:
        raise AssertionError(f"no rank {dest} in a world of one")

    def _poll(self, tag: int) -> None:
        return None

    def barrier(self, notify: Callable[[str], None] | None = None) -> None:
        """Do nothing: every rank is here."""

    def bcast(self, value: T | None, root: int = 0) -> T:
        """Return the value."""
        return value  # type: ignore[return-value]

    def bcast_buffers(self, buffers: Sequence[Any] | None) -> list[Any]:
        """Return the arrays."""
        return list(buffers or [])

    def gather(self, value: T) -> list[T]:
        """Return a list of one."""
        return [value]

    def abort(self, exit_code: int) -> None:
        """End this process."""
        os._exit(exit_code)


class _Meeting:
    """What the threads of a `ThreadWorld` share."""

    def __init__(self, size: int, timeout_s: float) -> None:
        self.barrier = threading.Barrier(size, timeout=timeout_s)
        self.slots: list[Any] = [None] * size
        self.inboxes: dict[tuple[int, int], queue.SimpleQueue[tuple[int, list[int]]]] = {
            (rank, tag): queue.SimpleQueue()
            for rank in range(size)
            for tag in (TAG_REPORT, TAG_CHUNK)
        }


class ThreadWorld(World):
    """Ranks as threads of this process: the twin that tests use.

    Parameters
    ----------
    rank : int
        This thread's rank.
    meeting : object
        Shared by all ranks, made by `run`.
    """

    def __init__(self, rank: int, meeting: _Meeting) -> None:
        super().__init__()
        self.rank, self.size = rank, len(meeting.slots)
        self._meeting = meeting

    @classmethod
    def run(cls, size: int, func: Callable[[ThreadWorld], T], timeout_s: float = 60.0) -> list[T]:
        """Call ``func(world)`` in `size` threads and return what they returned, in rank order.

        The first exception of any rank is raised; ranks that wait for it get a
        `threading.BrokenBarrierError` instead of waiting for ever.
        """
        meeting = _Meeting(size, timeout_s)
        results: list[Any] = [None] * size
        errors: list[BaseException] = []

        def call(rank: int) -> None:
            try:
                results[rank] = func(cls(rank, meeting))
            except BaseException as error:
                errors.append(error)
                meeting.barrier.abort()

        threads = [threading.Thread(target=call, args=(rank,), daemon=True) for rank in range(size)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(timeout_s)
        if any(thread.is_alive() for thread in threads):
            raise TimeoutError(f"ranks still running after {timeout_s} s")
        if errors:
            raise errors[0]
        return results

    def _send(self, dest: int, tag: int, message: Sequence[int]) -> None:
        padded = [*message, *[0] * (MESSAGE_INTS - len(message))]
        self._meeting.inboxes[dest, tag].put((self.rank, padded))

    def _poll(self, tag: int) -> tuple[int, list[int]] | None:
        try:
            return self._meeting.inboxes[self.rank, tag].get_nowait()
        except queue.Empty:
            return None

    def barrier(self, notify: Callable[[str], None] | None = None) -> None:
        """Wait for all threads."""
        self._meeting.barrier.wait()

    def _exchange(self, value: Any) -> list[Any]:
        self._meeting.slots[self.rank] = value
        self.barrier()
        values = list(self._meeting.slots)
        self.barrier()
        return values

    def bcast(self, value: T | None, root: int = 0) -> T:
        """Return the root's value."""
        shared: T = self._exchange(value)[root]
        return shared

    def bcast_buffers(self, buffers: Sequence[Any] | None) -> list[Any]:
        """Return rank 0's arrays."""
        return list(self._exchange(buffers)[0])

    def gather(self, value: T) -> list[T] | None:
        """Return the list of all values on rank 0."""
        values = self._exchange(value)
        return values if self.is_master else None

    def abort(self, exit_code: int) -> None:
        """Break the barrier, so that every rank raises."""
        self._meeting.barrier.abort()


class MpiWorld(World):
    """A world over an MPI communicator, which must be this project's own duplicate.

    Parameters
    ----------
    comm : mpi4py.MPI.Intracomm
        Used for nothing else.
    """

    def __init__(self, comm: Any) -> None:
        super().__init__()
        from mpi4py import MPI

        self._mpi, self._comm = MPI, comm
        self.rank, self.size = comm.Get_rank(), comm.Get_size()
        self._buffer = np.zeros(MESSAGE_INTS, np.int64)
        self._status = MPI.Status()
        self._sending: list[tuple[Any, Any]] = []

    @property
    def mpi_comm(self) -> Any:
        """The duplicated communicator."""
        return self._comm

    def _send(self, dest: int, tag: int, message: Sequence[int]) -> None:
        # Isend, because a standard-mode send may wait for its receiver (MPI 4.1, 3.4).
        self._sending = [pair for pair in self._sending if not pair[0].Test()]
        buffer = np.zeros(MESSAGE_INTS, np.int64)
        buffer[: len(message)] = message
        self._sending.append((self._comm.Isend(buffer, dest, tag), buffer))

    def _poll(self, tag: int) -> tuple[int, list[int]] | None:
        comm, source = self._comm, self._mpi.ANY_SOURCE
        # Open MPI looks first and progresses afterwards: the second look sees what has come in.
        if not (comm.Iprobe(source, tag, self._status) or comm.Iprobe(source, tag, self._status)):
            return None
        sender = self._status.Get_source()
        comm.Recv(self._buffer, sender, tag)
        return sender, self._buffer.tolist()

    def barrier(self, notify: Callable[[str], None] | None = None) -> None:
        """Wait for all ranks, asleep (a blocking MPI barrier keeps a core busy)."""
        if self.size > 1:
            _wait_for_all(self._comm, self._comm.Ibarrier(), notify)

    def bcast(self, value: T | None, root: int = 0) -> T:
        """Return the root's value, pickled on the way."""
        if self.size == 1:
            return value  # type: ignore[return-value]
        self.barrier()
        shared: T = self._comm.bcast(value, root)
        return shared

    def bcast_buffers(self, buffers: Sequence[Any] | None) -> list[Any]:
        """Return rank 0's arrays, moved in slices."""
        if self.size == 1:
            return list(buffers or [])
        sizes = self.bcast(None if buffers is None else [len(each) for each in buffers])
        arrays = list(buffers or [np.empty(size, np.uint8) for size in sizes])
        for data in arrays:
            for start in range(0, len(data), SLICE_BYTES):
                self._comm.Bcast([data[start : start + SLICE_BYTES], self._mpi.BYTE], 0)
        return arrays

    def gather(self, value: T) -> list[T] | None:
        """Return the list of all values on rank 0; each may be larger than 2 GiB."""
        if self.size == 1:
            return [value]
        blob = pickle.dumps(value, protocol=5)
        sizes = self._gather_sizes(len(blob))
        if not self.is_master:
            for start in range(0, len(blob), SLICE_BYTES):
                self._comm.Send([blob[start : start + SLICE_BYTES], self._mpi.BYTE], 0, TAG_DATA)
            return None
        values = [value]
        for source in range(1, self.size):
            received = bytearray(sizes[source])
            for start in range(0, len(received), SLICE_BYTES):
                piece = memoryview(received)[start : start + SLICE_BYTES]
                self._comm.Recv([piece, self._mpi.BYTE], source, TAG_DATA)
            values.append(pickle.loads(received))
        return values

    def _gather_sizes(self, n_bytes: int) -> list[int]:
        self.barrier()
        sizes = np.zeros(self.size, np.int64)
        self._comm.Allgather(np.array([n_bytes], np.int64), sizes)
        return [int(n) for n in sizes]

    def abort(self, exit_code: int) -> None:
        """Call MPI_Abort."""
        self._comm.Abort(exit_code)


def _wait_for_all(comm: Any, request: Any, notify: Callable[[str], None] | None) -> None:
    """Wait for a non-blocking collective, asleep; after 10 s rank 0 names who is missing.

    Ranks that wait that long tell rank 0 that they are present. How many did so is settled
    afterwards, so that none of these messages outlives the call.
    """
    from mpi4py import MPI

    backoff, start_s = Backoff(), time.monotonic()
    present, told, sent = {0}, False, None
    while not request.Test():
        backoff.sleep()
        waited_s = time.monotonic() - start_s
        if notify is None or waited_s < ROLL_CALL_S:
            continue
        if comm.rank and sent is None:
            sent = comm.Isend(np.zeros(1, np.int64), 0, TAG_PRESENT)
        elif not comm.rank:
            present |= _receive_present(comm)
            if not told and waited_s > ROLL_CALL_S + 1.0:
                told = True
                missing = [rank for rank in range(comm.size) if rank not in present]
                notify(
                    f"still waiting: rank(s) {_rank_list(missing)} of {comm.size} have not made "
                    "this call after 10 s; every rank has to make it"
                )
    if notify is not None:
        n_sent = comm.reduce(int(sent is not None), MPI.SUM, 0)
        while not comm.rank and len(present) - 1 < n_sent:
            present |= _receive_present(comm)
        if sent is not None:
            sent.Wait()


def _receive_present(comm: Any) -> set[int]:
    from mpi4py import MPI

    status, present = MPI.Status(), set()
    while comm.Iprobe(MPI.ANY_SOURCE, TAG_PRESENT, status):
        comm.Recv(np.zeros(1, np.int64), status.Get_source(), TAG_PRESENT)
        present.add(status.Get_source())
    return present


def _rank_list(ranks: Sequence[int]) -> str:
    shown = ", ".join(str(rank) for rank in ranks[:8])
    return f"{shown}, ... ({len(ranks)} ranks)" if len(ranks) > 8 else shown


def launched_rank_and_size(environ: Mapping[str, str] = os.environ) -> tuple[int, int]:
    """Return (rank, size) as the launcher tells them without MPI; (0, 1) without a launcher."""
    for rank_name, size_name in LAUNCHER_VARIABLES:
        if rank_name in environ and size_name in environ:
            return int(environ[rank_name]), int(environ[size_name])
    return 0, 1


def refuse_singletons(size: int, environ: Mapping[str, str] = os.environ) -> None:
    """Raise if MPI sees one rank where the launcher started several.

    Parameters
    ----------
    size : int
        Number of ranks that MPI sees; 1 also before MPI starts, if it can only start alone.
    environ : mapping
        The process's environment.

    Raises
    ------
    LaunchError
        Each process believes to be rank 0 of 1 and would do all the work again.
    """
    # mpiexec inside a Slurm job leaves step variables that are not about its ranks: first wins.
    name = next((name for _, name in LAUNCHER_VARIABLES if name in environ), "")
    n_launched = int(environ.get(name) or 1)
    if size > 1 or n_launched < 2:
        return
    cure = "the mpiexec that belongs to the MPI library mpi4py uses"
    if name.startswith("SLURM"):
        cure = (
            "srun --mpi=pmix for Open MPI, srun --mpi=pmi2 for MPICH (srun --mpi=list shows what "
            "there is), or mpiexec inside the job"
        )
    raise LaunchError(
        f"the launcher started {n_launched} processes ({name}={n_launched}), but for MPI each is "
        "rank 0 of 1: launcher and MPI library do not belong together.\n"
        f"  Nothing was started. Use {cure};\n"
        '  python -c "from mpi4py import MPI; print(MPI.Get_library_version())" names the library.'
    )


def refuse_srun_without_pmi(environ: Mapping[str, str] = os.environ) -> None:
    """Raise if srun gave its processes no way to find each other.

    Before MPI starts, because some libraries end the process then, with a page of text.

    Raises
    ------
    LaunchError
        As `refuse_singletons`.
    """
    ways = ("PMI", "OMPI_COMM_WORLD")
    if "SLURM_STEP_NUM_TASKS" in environ and not any(name.startswith(ways) for name in environ):
        refuse_singletons(1, environ)


def _load_mpi() -> Any:
    # Wrong data was reported for OMPIO's data sieving (open-mpi/ompi#10546, #12718).
    os.environ.setdefault("OMPI_MCA_fbtl_posix_read_datasieving", "0")
    os.environ.setdefault("OMPI_MCA_fbtl_posix_write_datasieving", "0")
    import mpi4py

    # Matched probes fail on some fabrics (Libensemble/libensemble#28).
    mpi4py.rc.recv_mprobe = False
    from mpi4py import MPI

    return MPI


def make_world(comm: Any = None, notify: Callable[[str], None] | None = None) -> World:
    """Return the World over a duplicate of `comm`. Collective over `comm`.

    The duplicate is kept with the communicator, so later calls cost nothing.

    Parameters
    ----------
    comm : mpi4py.MPI.Intracomm, optional
        Default: MPI.COMM_WORLD, initialising MPI if need be. Without a working MPI library and
        without a launcher the world is a `SerialWorld`.
    notify : callable, optional
        Told on rank 0 which ranks do not come.

    Raises
    ------
    LaunchError
        Launcher and MPI do not belong together, or no MPI library is found under a launcher.
    """
    refuse_srun_without_pmi()
    try:
        mpi = _load_mpi()
    except (ImportError, RuntimeError) as error:
        if launched_rank_and_size()[1] > 1:
            raise LaunchError(f"mpi4py cannot load an MPI library: {error}") from None
        return SerialWorld()
    if comm is None:
        comm = mpi.COMM_WORLD
        refuse_singletons(comm.Get_size())
    keyval = _keyval(mpi)
    world: World | None = comm.Get_attr(keyval)
    if world is None:
        duplicate, request = comm.Idup()
        _wait_for_all(comm, request, notify if comm.size > 1 else None)
        world = MpiWorld(duplicate)
        comm.Set_attr(keyval, world)
    return world


_KEYVALS: list[int] = []


def _keyval(mpi: Any) -> int:
    if not _KEYVALS:
        _KEYVALS.append(mpi.Comm.Create_keyval())
    return _KEYVALS[0]


def finalize() -> None:
    """Finalize MPI, asleep until every rank is here. Collective; nothing if MPI is not up."""
    import sys

    module = sys.modules.get("mpi4py.MPI")
    if module is None or not module.Is_initialized() or module.Is_finalized():
        return
    _wait_for_all(module.COMM_WORLD, module.COMM_WORLD.Ibarrier(), None)
    module.Finalize()
