"""`acme_mpi.open`: the results of a run, wherever it stands."""

from __future__ import annotations

import os

from acme_mpi.errors import InputError, InputTypeError
from acme_mpi.history.told import runs_in
from acme_mpi.reading.recorded import Recorded
from acme_mpi.reading.results import Results


def open(
    path: str | os.PathLike[str], name: str | None = None, *, allow_pickle: bool = False
) -> Results:
    """Return the results of a run, to be read when they are needed. Independent.

    The run may have ended, have been killed, or go on: what is recorded by now is there. Neither
    ranks nor a container are needed, the folder may have moved, and nothing is written.

    Parameters
    ----------
    path : str or path-like
        The output directory, or the container in it.
    name : str, optional
        Of the function, where the directory has results of several.
    allow_pickle : bool
        Load results that HDF5 could not hold, which `ParallelMap` has pickled. A pickle can run any
        code: only for files that you trust.

    Returns
    -------
    Results
        A sequence of what the tasks have returned, with ``arguments``, ``failed``, ``missing``,
        ``durations``, ``to_pandas()`` and ``to_xarray()``.

    Raises
    ------
    InputError
        There are no results, or those of several functions and no `name`.

    Examples
    --------
    >>> import acme_mpi
    >>> def f(sigma):
    ...     return sigma**-2
    >>> files = acme_mpi.map(f, [1, 2, 4], output_dir="out")
    >>> results = acme_mpi.open("out")
    >>> results[1]
    array([0.25])
    >>> float(results.arguments["sigma"][1])
    2.0
    >>> float(results.to_pandas().result_0.max())
    1.0
    """
    try:
        place = os.path.abspath(os.path.expanduser(os.fsdecode(path)))
    except TypeError:
        raise InputTypeError(
            "`path` has to be that of an output directory, or of the container in it, not "
            f"{path!r:.80}" + ("; `map` returns a list with one" if isinstance(path, list) else "")
        ) from None
    directory, named = _place_of(place)
    names = runs_in(directory)
    if not names:
        raise InputError(
            f"{directory} holds no run; give the directory named by --output-dir or output_dir, "
            "with all that is in it, or the container there"
        )
    wanted = named if name is None else name
    if wanted is None and len(names) > 1:
        raise InputError(
            f"{directory} has results of several functions; choose one by `name` (--name): "
            f"{', '.join(names)}"
        )
    if wanted is not None and wanted not in names:
        raise InputError(
            f"{directory} has no results of {wanted!r}; there are those of {', '.join(names)}"
        )
    return Results(Recorded(directory, wanted or names[0]), allow_pickle)


def _place_of(path: str) -> tuple[str, str | None]:
    """Return directory, and the function's name if the path is that of a container."""
    if os.path.isdir(path):
        return path, None
    if not os.path.lexists(path):
        raise InputError(f"there is nothing at {path} (working directory {os.getcwd()})")
    directory, file = os.path.split(os.path.realpath(path))  # as HDF5 follows links to a container
    return directory, os.path.splitext(file)[0]
