"""The file by which any shell asks a run to end."""

from __future__ import annotations

import contextlib
import os

from acme_mpi.history.layout import Layout
from acme_mpi.history.lease import Lease


class StopFile:
    """What asks a run to end from any shell; rank 0 looks for it once a second.

    Parameters
    ----------
    layout : Layout
        Of the run; what an earlier one has left is removed.
    lease : Lease
        The run's right to its folder: without it the run ends, too.
    """

    def __init__(self, layout: Layout, lease: Lease) -> None:
        self._path, self._lease = layout.stop_file, lease
        with contextlib.suppress(OSError):
            os.unlink(self._path)

    def look(self) -> str:
        """Return why the run has to end, empty if it need not."""
        if self._lease.lost:
            return self._lease.lost
        return "it was asked to by `stop`" if os.path.exists(self._path) else ""
