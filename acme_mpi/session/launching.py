"""`launch` and `connect`: the ranks that a user asks for, outside of any job."""

from __future__ import annotations

import atexit
import os
from collections.abc import Callable
from dataclasses import fields
from typing import Any

from acme_mpi.errors import InputError, InputTypeError, LaunchError
from acme_mpi.launchers.base import Launcher
from acme_mpi.launchers.environment import clean_environment
from acme_mpi.launchers.local import Local
from acme_mpi.launchers.named import launcher_of
from acme_mpi.launchers.site import read_site
from acme_mpi.launchers.slurm import Slurm
from acme_mpi.launchers.words import check_count, check_time, seconds_of
from acme_mpi.session.current import current, outside
from acme_mpi.session.kept_ranks import KeptRanks
from acme_mpi.session.local import Hold, LocalSession
from acme_mpi.session.local_ranks import LocalRanks
from acme_mpi.session.plain import PlainSession
from acme_mpi.session.starting import RanksFolder, new_folder, newest_folder
from acme_mpi.standing import Standing, refuse_while_loading, standing

IDLE = "10m"


def launch(
    launch: str | Launcher | int | None = None,
    /,
    *,
    n: int | None = None,
    idle: str | None = None,
    directory: str | None = None,
    **words: Any,
) -> LocalRanks | KeptRanks:
    """Start ranks that stay; the calls of this process go to them until they are stopped.

    Independent. Ranks on this machine end with this process, however that ends. Those of a batch
    system wait for `idle` for another process: see `connect`.

    Parameters
    ----------
    launch : str, Launcher or int, optional
        What starts them, as for `launcher_of`: a name of the site's, ``acme_mpi.Slurm(n=64)``; or
        their number. Default what the site's files say, or Slurm if a word of its is given, else
        this machine.
    n : int, optional
        How many, >= 1; default on this machine one for each core that this process may use.
    idle : str, optional
        How long they stay without a process that uses them: ``"10m"``, ``"2h"``; default 10
        minutes. If it is given, ranks on this machine stay as well.
    directory : str, optional
        A new folder by which they are found again, on a file system that all nodes see; default
        one in ``~/.local/state/acme_mpi``.
    **words
        More words of the launcher: ``partition="8GBS", time="2h"``.

    Returns
    -------
    LocalRanks or KeptRanks
        With ``ranks`` (host and process id of each), ``hosts``, ``status()`` and ``stop()``, those
        that stay also with ``job_id``, ``directory``, ``log`` and ``way``; a context manager that
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
    launcher = _launcher(launch, n, words)
    is_kept = idle is not None or directory is not None
    if isinstance(launcher, Local) and not launcher.prologue and not is_kept:
        return session.launch(launcher.n, launcher.gpus_per_rank)
    if getattr(launcher, "again", False):
        raise InputError(
            "`again` is for jobs of `submit`: ranks that stay do not end by themselves"
        )
    folder = _new_folder(directory)
    ranks = session.have(
        lambda: started(launcher, IDLE if idle is None else idle, folder), Hold.BY_USER
    )
    if isinstance(launcher, Local) and not is_kept:
        atexit.register(ranks.stop)
    return ranks


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
    ports = read_site().ports
    found = RanksFolder(
        folder or new_folder(),
        launcher.kind,
        launcher.words(),
        idle_s,
        clean_environment(),
        (ports[0], ports[-1]) if ports else None,
    )
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
    """Have the ranks serve this process that another one has launched and left. Independent.

    Parameters
    ----------
    directory : str, optional
        Their ``ranks.directory``; default that of the ranks that were launched last in the default
        place.

    Returns
    -------
    KeptRanks
        As from `launch`. Its ``last_result()`` is that of the call that was running. The same
        object again if they serve this process already.

    Raises
    ------
    LaunchError
        They have left, cannot be reached, or serve another process; or this process has ranks.

    Examples
    --------
    >>> import acme_mpi
    >>> ranks = acme_mpi.connect()  # doctest: +SKIP
    >>> files = ranks.last_result()  # doctest: +SKIP
    """
    session = _session()
    folder = newest_folder() if directory is None else _path(directory)
    own = session.of_call()
    ranks = own.local if isinstance(own, LocalSession) else None
    if isinstance(ranks, KeptRanks) and ranks.directory == folder and ranks.status() == "running":
        return ranks  # a cell was run again
    found = RanksFolder.read(folder)
    return session.have(lambda: KeptRanks.meet(found), Hold.BY_USER)


def _session() -> PlainSession:
    if standing() is Standing.LOADING:
        refuse_while_loading()
    session = outside()
    if current().is_nested or not isinstance(session, PlainSession):
        raise LaunchError("a task, or a script that ranks serve, cannot start ranks of its own")
    return session


def _launcher(
    launch: str | Launcher | int | None, n: int | None, words: dict[str, Any]
) -> Launcher:
    if isinstance(launch, int):
        if n is not None:
            raise InputError(f"the number of ranks is given twice: {launch}, and n={n!r}")
        launch, n = None, check_count("n", launch)
    of_slurm = {*words} - {field.name for field in fields(Local)}
    if launch is None and of_slurm and read_site().launch is None:
        launch = Slurm.kind
    return launcher_of(launch, n=n, **words)


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
