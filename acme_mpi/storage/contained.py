"""What stores share whose container is an HDF5 file: it can be compared with what was recorded."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import h5py

from acme_mpi.storage.recorded import RecordedStore
from acme_mpi.storage.records import Records


class ContainedStore(RecordedStore):
    """A store that makes an HDF5 container.

    Parameters are those of `Store`.
    """

    def link(self, file: h5py.File, done: Records) -> None:
        """Make in an HDF5 file what the container has of its own, besides copies. Independent."""

    def copied_rows(self, done: Records, is_virtual: bool) -> Iterator[tuple[int, Any]]:
        """Yield (first task, rows) of what the container has a copy of. Independent.

        Parameters
        ----------
        done : ndarray
            Records of results.
        is_virtual : bool
            The common dataset that was found in the container is virtual.
        """
        return iter(())

    def over_container(self) -> RecordedStore | None:
        """Return the store that measures the container's own copies; None if there are none."""
        return None

    def container_faults(self, done: Records) -> Iterator[str]:
        """Compare it with what would be made now, link by link, and its copies bit by bit."""
        from acme_mpi.storage.faults import container_faults

        return container_faults(self, done)
