"""How ranks talk. mpi4py is imported here alone, and only when a World is made.

A `World` offers what the protocol needs and nothing else: short messages of integers that are
never waited for, and collectives that sleep instead of spin. `SerialWorld` (one rank) and
`ThreadWorld` (ranks as threads) are its twins without MPI.
"""

from acme_mpi.comm.agreement import Packed, pack_error, settle, unpack_error
from acme_mpi.comm.base import LOST_S, MESSAGE_INTS, SILENT_S, TAG_CHUNK, TAG_REPORT, Backoff, World
from acme_mpi.comm.launcher import (
    is_launched,
    launched_rank_and_size,
    leave_if_orphaned,
    refuse_singletons,
    sleep_until,
)
from acme_mpi.comm.leaving import how_to_silence, outlast_other_ranks
from acme_mpi.comm.mpi import MpiWorld
from acme_mpi.comm.sharing import little_of, share, share_bytes
from acme_mpi.comm.start import finalize, make_world
from acme_mpi.comm.twins import SerialWorld, ThreadWorld
from acme_mpi.comm.typed import passes_on_whole_lines, typed_command

__all__ = [
    "LOST_S",
    "MESSAGE_INTS",
    "SILENT_S",
    "TAG_CHUNK",
    "TAG_REPORT",
    "Backoff",
    "MpiWorld",
    "Packed",
    "SerialWorld",
    "ThreadWorld",
    "World",
    "finalize",
    "how_to_silence",
    "is_launched",
    "launched_rank_and_size",
    "leave_if_orphaned",
    "little_of",
    "make_world",
    "outlast_other_ranks",
    "pack_error",
    "passes_on_whole_lines",
    "refuse_singletons",
    "settle",
    "share",
    "share_bytes",
    "sleep_until",
    "typed_command",
    "unpack_error",
]
