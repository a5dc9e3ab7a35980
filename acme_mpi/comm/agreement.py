"""Decisions that all ranks have to share: what rank 0 decides, or one exception everywhere."""

from __future__ import annotations

import traceback
from collections.abc import Callable
from typing import TypeVar

from acme_mpi import errors
from acme_mpi.comm.base import World
from acme_mpi.errors import EXIT_INTERNAL, AcmeMpiError, PlaceError

T = TypeVar("T")
V = TypeVar("V")

# An exception on its way to another process: the name of its class, and its text.
Packed = tuple[str, str]


def pack_error(error: AcmeMpiError | None) -> Packed | None:
    """Return an exception as plain values, None for none."""
    return None if error is None else (type(error).__name__, str(error))


def unpack_error(packed: Packed) -> AcmeMpiError:
    """Return the exception that `pack_error` took apart."""
    name, text = packed
    error: AcmeMpiError = getattr(errors, name)(text)
    return error


def settle(
    world: World,
    error: AcmeMpiError | None,
    brings: V,
    decide: Callable[[list[V]], T],
    notify: Callable[[str], None] | None = None,
) -> T:
    """Return what rank 0 decides; raise on every rank if any has an error. Collective.

    Parameters
    ----------
    world : World
        The ranks.
    error : AcmeMpiError or None
        What is wrong on this rank. Rank 0's is raised if it has one, else all others' as one.
    brings : object
        Plain values of this rank.
    decide : callable
        ``decide(brought)`` is called on rank 0 with what every rank brings, if none has an error;
        returns plain values, may raise AcmeMpiError or OSError.
    notify : callable, optional
        As of `World.barrier`: is told of ranks that do not come.
    """

    def judge(brought: list[tuple[Packed | None, V]]) -> tuple[Packed | None, T | None]:
        fault = _first_fault([each for each, _ in brought])
        decision = None
        try:
            decision = decide([each for _, each in brought]) if fault is None else None
        except AcmeMpiError as refused:
            fault = pack_error(refused)
        except OSError as refused:  # the working directory is gone, for example
            fault = pack_error(PlaceError(str(refused)))
        except Exception:
            # A mistake of ours. Leaving alone would make the other ranks wait for ever.
            if world.size > 1:
                traceback.print_exc()
                world.abort(EXIT_INTERNAL)
            raise
        return fault, decision

    packed, decision = world.consult((pack_error(error), brings), judge, notify)
    if packed is not None:
        raise unpack_error(packed)
    return decision  # type: ignore[return-value]


def _first_fault(brought: list[Packed | None]) -> Packed | None:
    """Return rank 0's error, else that of all other ranks with their numbers."""
    if brought[0] is not None:
        return brought[0]
    faults = [(rank, packed) for rank, packed in enumerate(brought) if packed is not None]
    if not faults:
        return None
    return faults[0][1][0], "\n".join(f"rank {rank}: {text}" for rank, (_, text) in faults)
