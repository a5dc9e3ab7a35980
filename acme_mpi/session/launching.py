"""`launch` and `connect`: the ranks that a user asks for, outside of any job."""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Any

from acme_mpi.errors import InputError, InputTypeError, LaunchError
from acme_mpi.launchers.base import Launcher
from acme_mpi.launchers.local import Local
from acme_mpi.launchers.slurm import Slurm
from acme_mpi.launchers.words import check_count, check_time, seconds_of
from acme_mpi.session.current import current, outside
from acme_mpi.session.kept_ranks import KeptRanks
from acme_mpi.session.local import Hold
from acme_mpi.session.local_ranks import LocalRanks
from acme_mpi.session.plain import PlainSession
from acme_mpi.session.starting import Ranks, new_folder, newest_folder

IDLE = "10m"


def launch(
    launcher: Launcher | int | None = None,
    *,
    n: int | None = None,
    idle: str | None = None,
    directory: str | None = None,
    **words: Any,
) -> LocalRanks | KeptRanks:
    """Start ranks that stay; the calls of this process go to them until they are stopped.

    Without words they are on this machine and end with this process, however that ends. Ranks of a
    batch system wait for `idle` for another process when this one ends: see `connect`.

    Parameters
    ----------
    launcher : Launcher or int, optional
        What starts them: ``acme_mpi.Slurm(n=64, ...)``, or their number; default this machine, or
        Slurm if a word of its is given.
    n : int, optional
        How many, >= 1; default one for each core that this process may use.
    idle : str, optional
        How long they stay without a process that uses them: ``"10m"``, ``"2h"``; default 10
        minutes. Given for ranks on this machine: so they do not end with this process.
    directory : str, optional
        A new folder by which they are found again, on a file system that all nodes see; default
        one in ``~/.local/state/acme_mpi``.
    **words
        Those of `Slurm`: ``partition="8GBS", time="2h"``.

    Returns
    -------
    LocalRanks or KeptRanks
        With ``ranks`` (host and process id of each), ``hosts``, ``status()`` and ``stop()``, those
        of a batch system also with ``job_id``, ``directory`` and ``log``; a context manager that
        stops them.

    Raises
    ------
    InputError
        A word has a wrong value.
    LaunchError
        They cannot be started or reached, or this process has ranks already.

    Examples
    --------
    >>> import acme_mpi
    >>> with acme_mpi.launch(2) as ranks:
    ...     acme_mpi.map(abs, [-1, 2, -3], write_worker_results=False)
    [1, 2, 3]
    """
    session = _session()
    chosen = _chosen(launcher, n, words)
    if isinstance(chosen, Local) and not chosen.prologue and idle is None and directory is None:
        return session.launch(chosen.n)
    if getattr(chosen, "again", False):
        raise InputError(
            "`again` is for jobs of `submit`: ranks that stay have no end of their own"
        )
    name = _new_folder(directory)
    return session.have(lambda: started(chosen, idle or IDLE, name), Hold.BY_USER)


def started(
    launcher: Launcher,
    idle: str,
    folder: str | None = None,
    patience_s: Callable[[], float | None] = lambda: None,
    waits_on: Callable[[TimeoutError], bool] = lambda late: False,
) -> KeptRanks:
    """Start ranks that stay, and have them serve this process.

    Parameters
    ----------
    launcher : Launcher
        What starts them.
    idle : str
        How long they stay without a process that uses them.
    folder : str, optional
        Absolute path of a new folder; default one among all.
    patience_s : callable
        Returns how long to wait for them, in seconds; None: as long as it takes.
    waits_on : callable
        Is told of ranks that have not come by then, and returns whether to wait again.

    Raises
    ------
    InputError
        `idle` is no duration.
    TimeoutError, LaunchError
        They have not come in time, or at all. No job is left.
    """
    idle_s = float(seconds_of(check_time("idle", idle) or IDLE))
    found = Ranks(folder or new_folder(), launcher.kind, launcher.words(), idle_s)
    found.submit()
    try:
        while True:
            try:
                return KeptRanks.meet(found, patience_s())
            except TimeoutError as late:
                if not waits_on(late):
                    raise
    except BaseException:  # an interrupt, too: nobody would use them
        found.cancel()
        raise


def connect(directory: str | None = None) -> KeptRanks:
    """Have the ranks serve this process that another one has launched and left.

    Parameters
    ----------
    directory : str, optional
        Their ``ranks.directory``; default that of the ranks that were launched last in the default
        place.

    Returns
    -------
    KeptRanks
        As from `launch`. Its ``last_result()`` is that of the call that was running.

    Raises
    ------
    LaunchError
        They have left, cannot be reached, or serve another process; or this process has ranks.
    """
    session = _session()
    folder = newest_folder() if directory is None else _path(directory)
    found = Ranks.read(folder)
    return session.have(lambda: KeptRanks.meet(found), Hold.BY_USER)


def _session() -> PlainSession:
    session = outside()
    if current().is_nested or not isinstance(session, PlainSession):
        raise LaunchError("a task, or a script that ranks serve, cannot start ranks of its own")
    return session


def _chosen(launcher: Launcher | int | None, n: int | None, words: dict[str, Any]) -> Launcher:
    if isinstance(launcher, int):
        if n is not None:
            raise InputError(f"the number of ranks is given twice: {launcher}, and n={n!r}")
        launcher, n = None, launcher
    if isinstance(launcher, Launcher):
        if words or n is not None:
            names = ", ".join([*(["n"] if n is not None else []), *words])
            raise InputError(f"give {names} to {type(launcher).__name__}(...), not beside it")
        return launcher
    if launcher is not None:
        raise InputTypeError(
            f"`launcher` has to be acme_mpi.Slurm(...), acme_mpi.Local(...) or `n`, a whole number "
            f">= 1, not {launcher!r}"
        )
    if not words:
        return Local(None if n is None else check_count("n", n))
    if n is None:
        raise InputError("`n`, the number of ranks, has to be given for Slurm")
    return Slurm(n=n, **words)


def _new_folder(directory: str | None) -> str:
    if directory is None:
        return new_folder()
    folder = _path(directory)
    if os.path.exists(folder):
        raise InputError(f"{folder} is there already; name a new `directory`, or `connect` to it")
    return folder


def _path(directory: str) -> str:
    if not isinstance(directory, (str, os.PathLike)):
        raise InputTypeError(f"`directory` has to be a str, not {directory!r}")
    return os.path.abspath(os.path.expanduser(directory))
