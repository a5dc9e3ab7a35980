"""`launch`: the ranks that a user asks for, outside of any job."""

from __future__ import annotations

from acme_mpi.errors import InputError, InputTypeError, LaunchError
from acme_mpi.session.current import current, outside
from acme_mpi.session.local_ranks import LocalRanks
from acme_mpi.session.plain import PlainSession


def launch(n: int | None = None) -> LocalRanks:
    """Start ranks on this machine; the calls of this process go to them until they are stopped.

    Without it the first call that can use several ranks starts them, if no launcher has started
    this process. They end with this process, however that ends.

    Parameters
    ----------
    n : int, optional
        How many, >= 1; default one for each core that this process may use.

    Returns
    -------
    LocalRanks
        With ``ranks`` (host and process id of each), ``hosts``, ``status()`` and ``stop()``; a
        context manager that stops them.

    Raises
    ------
    InputError
        `n` is no number of ranks.
    LaunchError
        There is no mpiexec, it has not started the ranks, or this process has ranks already.

    Examples
    --------
    >>> import acme_mpi
    >>> with acme_mpi.launch(2) as ranks:
    ...     acme_mpi.map(abs, [-1, 2, -3], write_worker_results=False)
    [1, 2, 3]
    """
    if n is not None and (isinstance(n, bool) or not isinstance(n, int)):
        raise InputTypeError(f"`n` has to be a whole number >= 1 or None, not {n!r}")
    if n is not None and n < 1:
        raise InputError(f"`n` has to be a whole number >= 1 or None, not {n!r}")
    session = outside()
    if current().is_nested or not isinstance(session, PlainSession):
        raise LaunchError("a task, or a script that ranks serve, cannot start ranks of its own")
    return session.launch(n)
