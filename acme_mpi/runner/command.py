"""What a command line says of a function and its arguments, and what a runner makes of them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from acme_mpi.linux.segment import Segment
from acme_mpi.results.spec import RowSpec
from acme_mpi.tasks.labels import Labels


@dataclass(frozen=True)
class Command:
    """What the command line says, as it was typed.

    Attributes
    ----------
    target : str
        ``module:function`` or ``path/to/file.py:function``.
    arguments : str or None
        Name of the file of arguments; ``"-"``: `table` is one, in the form of a ``.csv`` file.
    table : bytes
        What standard input held.
    allow_pickle : bool
        It may have object arrays.
    settings, split, share, grid, dtype : list of str
        Of ``--set``, ``--split``, ``--share``, ``--grid`` and ``--dtype``.
    seed : int or None
        Of ``--seed``.
    n_inputs : int or "auto"
        Number of tasks.
    sys_path : list of str
        Where modules are searched for.
    directory : str
        The working directory.
    typed : list of str
        How the job was started.
    shaping : mapping or None
        What of the options shapes the results, see `Options.shaping`; None in memory.
    trial : (RowSpec or None, bool, bool, bool), or None
        What `Measured` needs besides the function, for a dry-run.
    """

    target: str
    arguments: str | None
    table: bytes
    allow_pickle: bool
    settings: list[str]
    split: list[str]
    share: list[str]
    grid: list[str]
    dtype: list[str]
    seed: int | None
    n_inputs: int | str
    sys_path: list[str]
    directory: str
    typed: list[str]
    shaping: Mapping[str, str] | None
    trial: tuple[RowSpec | None, bool, bool, bool] | None


@dataclass(frozen=True)
class Loaded:
    """What a runner has loaded.

    Attributes
    ----------
    name : str
        The function's name.
    n_tasks : int
        Number of calls.
    grid : tuple of int
        Number of values of each parameter of a grid; empty without one.
    packed : Segment
        Function and arguments.
    sys_path : list of str
        As the target's module has left it.
    fingerprint : mapping of str to str
        What makes it the same computation as another run; empty in memory.
    labels : Labels or None
        What its tasks are known by; None in memory.
    trial : (int, Segment), or None
        Index of the task of a dry-run; function and arguments for it alone.
    """

    name: str
    n_tasks: int
    grid: tuple[int, ...]
    packed: Segment
    sys_path: list[str]
    fingerprint: Mapping[str, str]
    labels: Labels | None
    trial: tuple[int, Segment] | None
