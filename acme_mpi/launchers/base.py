"""What a launcher is: it writes a job's script, submits it, tells its state, and ends it."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Collection, Mapping
from dataclasses import asdict, dataclass
from typing import Any, ClassVar, NamedTuple

# The states of a job are Slurm's, for every launcher.
RUNNING, COMPLETED, FAILED, CANCELLED = "RUNNING", "COMPLETED", "FAILED", "CANCELLED"
UNKNOWN = "UNKNOWN"
_PENDING = {
    "PENDING",
    "CONFIGURING",
    "REQUEUED",
    "REQUEUE_HOLD",
    "REQUEUE_FED",
    "RESV_DEL_HOLD",
    "SPECIAL_EXIT",
}
_OVER = {
    COMPLETED,
    FAILED,
    CANCELLED,
    UNKNOWN,
    "BOOT_FAIL",
    "DEADLINE",
    "NODE_FAIL",
    "OUT_OF_MEMORY",
    "PREEMPTED",
    "REVOKED",
    "TIMEOUT",
}


class State(NamedTuple):
    """How a job is.

    Attributes
    ----------
    name : str
        In Slurm's words: ``"PENDING"``, ``"RUNNING"``, ``"COMPLETED"``, ``"TIMEOUT"`` ...
    reason : str
        Why it is pending, or has ended; may be empty.
    start : str
        When a pending job is expected to begin; empty if unknown.
    """

    name: str
    reason: str = ""
    start: str = ""

    @property
    def is_pending(self) -> bool:
        """Whether it has not begun."""
        return self.name in _PENDING

    @property
    def is_over(self) -> bool:
        """Whether it has ended, and will not begin again by itself."""
        return self.name in _OVER

    def __str__(self) -> str:
        """Return it in a few words."""
        reason = f" ({self.reason})" if self.reason else ""
        start = f", expected to begin at {self.start}" if self.start else ""
        return f"{self.name}{reason}{start}"


class Order(NamedTuple):
    """What a job is to run.

    Attributes
    ----------
    name : str
        Of the function, and so of the job.
    folder : str
        Absolute path of the job's own folder, which has its script, its log and its state.
    directory : str
        Where the command runs.
    command : sequence of str
        One program, which every rank runs; the arguments of the script are added.
    output_dir : str
        Absolute path of the directory of the results.
    """

    name: str
    folder: str
    directory: str
    command: tuple[str, ...]
    output_dir: str


def note_id(words: str) -> str:
    """Return the line of a script by which it notes its job's id: never half of it is seen."""
    return f'echo "{words}" >"$job/id.new" && mv "$job/id.new" "$job/id"  # the job is found by it'


@dataclass(frozen=True)
class Launcher(ABC):
    """Starts the ranks of a job; its fields are the words of its user, checked and plain.

    Attributes
    ----------
    kind : str
        Its name in the record of a job.
    title : str
        Its name for people.
    pauses_s : (float, float)
        The least and the longest pause between two questions for states.
    """

    kind: ClassVar[str]
    title: ClassVar[str]
    pauses_s: ClassVar[tuple[float, float]] = (0.0, 0.0)

    def words(self) -> dict[str, Any]:
        """Return what makes an equal launcher, as plain values."""
        return asdict(self)

    @abstractmethod
    def script(self, order: Order) -> str:
        """Return the script of a job, which can be read, and submitted again, by its user."""

    @abstractmethod
    def how_to_submit(self, path: str) -> str:
        """Return the command by which a person submits a script again."""

    @abstractmethod
    def submit(self, path: str, log: str, directory: str) -> str:
        """Submit the script at `path` from a directory; return the job's id.

        Raises
        ------
        LaunchError
            It was refused, for the reason that the message tells.
        """

    @classmethod
    @abstractmethod
    def states(cls, scripts: Mapping[str, str]) -> dict[str, State] | None:
        """Return the states of jobs by their ids; those of which nothing is known are not there.

        Parameters
        ----------
        scripts : mapping of str to str
            The path of each job's script, by the job's id.

        Returns
        -------
        dict or None
            None: nobody has answered; ask again later.
        """

    @classmethod
    @abstractmethod
    def cancel(cls, job_ids: Collection[str], force: bool = False) -> None:
        """End jobs; with `force` at once.

        Raises
        ------
        LaunchError
            That was refused.
        """
