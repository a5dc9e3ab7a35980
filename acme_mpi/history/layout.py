"""Where the files of a run lie, and what they are called."""

from __future__ import annotations

import os
from typing import NamedTuple

DOT_FOLDER = ".acme_mpi"
JOB = "job"  # and a number: folders of submitted jobs in the dot folder of a run


def journal_name(run: int, rank: int) -> str:
    """Return the file name of the journal of one rank of one run."""
    return f"run{run}_rank{rank}.journal"


class Layout(NamedTuple):
    """Where the files of one run lie.

    Attributes
    ----------
    directory : str
        Absolute path of the output directory.
    name : str
        The function's name, after which everything is called.
    run : int
        0, or how many runs have worked on the same results before.
    suffix : str
        Of the container.
    """

    directory: str
    name: str
    run: int = 0
    suffix: str = ".h5"

    @property
    def container(self) -> str:
        """The file that users open."""
        return os.path.join(self.directory, self.name + self.suffix)

    @property
    def payload_folder(self) -> str:
        """Folder of the payload files, relative to the container."""
        return f"{self.name}_payload"

    @property
    def dot_folder(self) -> str:
        """Folder of all that users need not see."""
        return os.path.join(self.directory, DOT_FOLDER, self.name)

    @property
    def spool_folder(self) -> str:
        """Payload files that are merged at the end, relative to the output directory."""
        return os.path.join(DOT_FOLDER, self.name, "spool")

    @property
    def partial(self) -> str:
        """The container while it is being made."""
        return os.path.join(self.dot_folder, f"{self.name}{self.suffix}.partial")

    def job_folder(self, number: int) -> str:
        """Return the folder of one of the jobs that were submitted to run this."""
        return os.path.join(self.dot_folder, f"{JOB}{number}")

    @property
    def stop_file(self) -> str:
        """The file whose presence asks a run to end."""
        return os.path.join(self.dot_folder, "stop")

    @property
    def report(self) -> str:
        """The page on which people see how the run went."""
        return os.path.join(self.directory, f"{self.name}_report.html")

    def computation(self, index: int) -> str:
        """Return the payload file of one task where each has its own."""
        return os.path.join(self.directory, self.payload_folder, f"{self.name}_{index}.h5")

    def pickle(self, index: int) -> str:
        """Return the file of one task where all results are pickled."""
        return os.path.join(self.directory, f"{self.name}_{index}.pickle")

    def emergency_pickle(self, index: int) -> str:
        """Return the file of one task whose result HDF5 could not hold."""
        return os.path.join(self.directory, self.payload_folder, f"{self.name}_{index}.pickle")

    def journal(self, rank: int) -> str:
        """Return the journal of one rank of this run."""
        return os.path.join(self.dot_folder, journal_name(self.run, rank))
