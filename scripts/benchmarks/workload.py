"""What a workload is: sides that are measured in turn, and lines of the table with targets."""

from dataclasses import dataclass, field
from typing import Any

from benchmarks.added import ADDED

POOL, EXECUTOR, JOBLIB, ACME = "Pool", "ProcessPoolExecutor", "joblib", "ACME"
MPI_PEERS = ("mpi4py.futures", "schwimmbad")


@dataclass(frozen=True)
class Side:
    """One way to do a workload, in new processes for each repetition.

    Parameters
    ----------
    name : str
        What it is called in the table.
    measure : str
        The function, as "peers.rate", that `once` calls; or the whole of a Python program.
    options : dict
        Of that function; ``n_tasks=None`` is found at the first repetition.
    n_ranks : int
        Of mpiexec; 0: without it.
    quick : dict
        Options that ``--quick`` replaces.
    timeout_s : float
        It has failed then.
    """

    name: str
    measure: str
    options: dict[str, Any] = field(default_factory=dict)
    n_ranks: int = 0
    quick: dict[str, Any] = field(default_factory=dict)
    timeout_s: float = 120

    @property
    def module(self):
        return self.measure.partition(".")[0]

    @property
    def is_ours(self):
        return self.module in ("ours", "pools")

    @property
    def is_script(self):
        """Whether ranks of ours serve it."""
        return self.module == "pools"

    @property
    def is_limit(self):
        return self.module == "limits"

    @property
    def is_peer(self):
        """Whether it runs in the peers' environment."""
        return self.module == "peers"


@dataclass(frozen=True)
class Target:
    """A bound of our figure or, with `against`, of its ratio to the best of these sides."""

    sign: str
    bound: float
    against: tuple[str, ...] = ()


@dataclass(frozen=True)
class Line:
    """A line of the table: our figure beside that of the peers and of the limit."""

    what: str
    figure: str
    unit: str  # ending in /s: more is better
    targets: tuple[Target, ...] = ()
    ours: str = "ours"
    limit: str = ""
    added: str = ADDED  # the figure of the CPU time that goes with it; empty: none

    @property
    def more_is_better(self):
        return self.unit.endswith("/s")

    @property
    def per(self):
        """What the CPU time is for: one call, task, result, row, map, GB or start."""
        if self.more_is_better:
            return self.unit.removesuffix("/s").removesuffix("s")
        return {"s": "start"}.get(self.unit, "task")


@dataclass(frozen=True)
class Workload:
    """Sides that are measured in turn, and the lines that show them.

    Parameters
    ----------
    key : str
        Its name for ``--only``.
    sides, lines : tuple
        What is measured and shown.
    n_repetitions : int
        At most.
    cache_bytes : int
        What a side writes: so much of the page cache is made to be there before each. A virtual
        machine gives memory back to its host, and whoever comes first would pay for having it
        again: 16 ms for 8 MB, instead of 1.5.
    """

    key: str
    sides: tuple[Side, ...]
    lines: tuple[Line, ...]
    n_repetitions: int = 99
    cache_bytes: int = 0

    @property
    def peers(self):
        return [side.name for side in self.sides if side.is_peer]
