"""What the ranks tell each other when their last tasks have ended."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from acme_mpi.engine.worker import Worker
from acme_mpi.errors import Failure

if TYPE_CHECKING:
    from acme_mpi.engine.master import Master
    from acme_mpi.history.lease import Lease


class RankEnd(NamedTuple):
    """What a rank tells all others when its last task has ended; what follows `lost`, rank 0."""

    failures: list[Failure]
    retired_because: str = ""
    storage_error: str = ""
    unstorable: tuple[int, str] | None = None
    changed: tuple[str, ...] = ()
    lost: str = ""
    n_ready: int = 0
    n_unfinished: int = 0
    stopped_because: str = ""

    @classmethod
    def of(cls, worker: Worker | None, master: Master | None, lease: Lease | None) -> RankEnd:
        """Return that of a rank by its roles."""
        end = cls([])
        if worker is not None:
            end = cls(
                worker.failures,
                worker.retired_because,
                worker.storage_error,
                worker.unstorable,
                worker.changed,
            )
        if master is not None:
            end = end._replace(
                lost="" if lease is None else lease.lost,
                n_ready=master.n_ready,
                n_unfinished=master.n_not_done,
                stopped_because=master.stopped_because,
            )
        return end
