"""A segment of shared memory on every node: bytes travel once to each, and lie there once."""

from __future__ import annotations

from typing import Any

import numpy as np

from acme_mpi.comm.agreement import settle
from acme_mpi.comm.base import World
from acme_mpi.errors import StoreError
from acme_mpi.linux.segment import Address, Segment

LITTLE_BYTES = 8 * 1024  # whose address takes longer to tell all than they do


def little_of(segment: Segment | None) -> bytes | None:
    """Return the bytes of a segment that may as well travel by themselves; None: it may not."""
    if segment is None or segment.n_bytes > LITTLE_BYTES:
        return None
    return bytes(segment.view())


def share(world: World, segment: Segment | None, little: bytes | None = None) -> Segment:
    """Return rank 0's segment, or the copy of it that this node has. Collective.

    The first rank of each node holds the copy; the others open it by way of that rank. A rank that
    cannot, as it lives in a container of its own, gets a copy for itself.

    Parameters
    ----------
    world : World
        The ranks.
    segment : Segment or None
        Rank 0's, sealed; None elsewhere.
    little : bytes, optional
        What it holds, where all ranks know it: then each makes its own, and waits for nobody.

    Raises
    ------
    StoreError
        On every rank alike: a node has no room for it.
    MemoryError
        On one rank alone: that has no room for the little.
    """
    if world.size == 1 or (little is not None and segment is not None):
        assert segment is not None
        return segment
    if little is not None:
        return _own(little)
    first_of = {host: rank for rank, host in reversed([*enumerate(world.hosts)])}
    held = _copy(world, segment, set(first_of.values()))
    addresses = world.allgather(() if held is None else tuple(held.address))
    if held is None:
        held = _open(Address(*addresses[first_of[world.host]]))
    # Nobody's memory may go before all have opened it: this waits for them.
    alone = {rank for rank, has in enumerate(world.allgather(held is not None)) if not has}
    copied = _copy(world, segment, alone | {0})
    found = held if held is not None else copied
    assert found is not None
    return found


def share_bytes(world: World, data: Any) -> Any:
    """Return rank 0's array of bytes on every rank; it lies in the memory of each node once.

    Collective.

    Parameters
    ----------
    world : World
        The ranks.
    data : (n,) ndarray of uint8, or None
        Rank 0's.

    Raises
    ------
    StoreError
        As `share`.
    """
    if world.size == 1:
        return data
    segment: Segment | None = None
    fault: StoreError | None = None
    if data is not None:
        try:
            segment = Segment.of([data])
        except StoreError as error:
            fault = error
    settle(world, fault, None, lambda brought: None)
    return np.asarray(share(world, segment).view())


def _own(little: bytes) -> Segment:
    try:
        return Segment.of([little])
    except StoreError as error:
        raise MemoryError(str(error)) from None


def _open(address: Address) -> Segment | None:
    try:
        return Segment.at(address)
    except OSError:
        return None


def _copy(world: World, segment: Segment | None, ranks: set[int]) -> Segment | None:
    """Bring rank 0's segment to some ranks, of which it is one; None elsewhere. Collective."""
    if len(ranks) == 1:
        return segment
    n_bytes = world.bcast(None if segment is None else segment.n_bytes)
    view: memoryview | None = None
    fault: StoreError | None = None
    if segment is not None:
        view = segment.view()
    elif world.rank in ranks:
        try:
            segment = Segment.reserve(n_bytes)
            view = segment.view(writable=True)
        except StoreError as error:
            fault = error
    settle(world, fault, None, lambda brought: None)
    world.bcast_bytes(view)
    del view
    if segment is not None and not world.is_master:
        segment.seal()
    return segment
