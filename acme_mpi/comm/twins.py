"""Worlds without MPI: one rank, and ranks as threads of this process."""

from __future__ import annotations

import os
import queue
import threading
from collections.abc import Callable
from typing import Any, TypeVar

from acme_mpi.comm.base import TAG_CHUNK, TAG_REPORT, World

T = TypeVar("T")


class SerialWorld(World):
    """A world of one rank, without MPI."""

    rank, size = 0, 1
    is_woken = True  # by nobody

    def __init__(self) -> None:
        super().__init__()
        self.hosts = [self.host]

    def _send(self, dest: int, tag: int, message: list[int]) -> None:
        raise AssertionError(f"no rank {dest} in a world of one")

    def _poll(self, tag: int) -> None:
        return None

    def barrier(self, notify: Callable[[str], None] | None = None) -> None:
        """Do nothing: every rank is here."""

    def bcast(self, value: T | None, root: int = 0) -> T:
        """Return the value."""
        return value  # type: ignore[return-value]

    def bcast_bytes(self, view: memoryview | None) -> None:
        """Do nothing: nobody else gives any."""

    def gather(self, value: T, notify: Callable[[str], None] | None = None) -> list[T]:
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
        self.hosts = [self.host] * self.size
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

    def _send(self, dest: int, tag: int, message: list[int]) -> None:
        self._meeting.inboxes[dest, tag].put((self.rank, message))

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

    def bcast_bytes(self, view: memoryview | None) -> None:
        """Copy rank 0's bytes."""
        source = self._exchange(view)[0]
        if view is not None and not self.is_master:
            view[:] = source
        self.barrier()

    def gather(self, value: T, notify: Callable[[str], None] | None = None) -> list[T] | None:
        """Return the list of all values on rank 0."""
        values = self._exchange(value)
        return values if self.is_master else None

    def abort(self, exit_code: int) -> None:
        """Break the barrier, so that every rank raises."""
        self._meeting.barrier.abort()
