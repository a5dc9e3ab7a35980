"""`register_joblib`: joblib calls on the ranks what it is given."""

from __future__ import annotations


def register_joblib() -> None:
    """Let joblib know the backend ``"acme_mpi"``, which calls on the ranks of the job. Independent.

    It is used under ``joblib.parallel_config("acme_mpi")``, also by what calls joblib itself, as
    scikit-learn does: by all ranks, where `n_jobs` is None, -1, or larger than their number. With
    one rank joblib makes all calls in the script's own process. A second call does nothing.

    Raises
    ------
    ModuleNotFoundError
        joblib is not installed.

    Examples
    --------
    >>> import acme_mpi, joblib
    >>> acme_mpi.register_joblib()
    >>> with joblib.parallel_config("acme_mpi"):
    ...     joblib.Parallel()(joblib.delayed(abs)(x) for x in [-1, 2, -3])
    [1, 2, 3]
    """
    try:
        from joblib import register_parallel_backend
    except ModuleNotFoundError as error:
        if error.name != "joblib":
            raise
        raise ModuleNotFoundError(
            "acme_mpi.register_joblib() registers a backend with joblib, which is not installed"
            "\n  Install it: pip install joblib",
            name="joblib",
        ) from error
    from acme_mpi.pools.joblib_backend import NAME, RanksBackend

    register_parallel_backend(NAME, RanksBackend)
