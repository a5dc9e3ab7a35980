"""Whether a later run is the same computation: what makes a run the one that it is."""

from __future__ import annotations

import os
import platform
import sys
from collections.abc import Callable, Mapping
from contextlib import suppress
from typing import Any

from acme_mpi.tasks.digest import digest
from acme_mpi.tasks.referred import digests_of_referred
from acme_mpi.tasks.taskset import TaskSet, function_name

NAMES = "result_names"  # what the user calls the results of a task
VERSION = "version "  # how keys begin that say with what a run was made, and not what it computes
CALLED = "called "  # how the keys of functions begin that the user's function refers to

_SPLIT, _SHARED = "split", "shared"


def fingerprint_of(
    func: Callable[..., Any], tasks: TaskSet, options: Mapping[str, str]
) -> dict[str, str]:
    """Return what makes a run the computation that it is, as short strings.

    Parameters
    ----------
    func : callable
        The user's function.
    tasks : TaskSet
        Its arguments.
    options : mapping of str to str
        What else shapes the results; taken as it is.

    Returns
    -------
    dict of str to str
        ``function``: its name; ``source``: digest of its source and of all that is bound to it
        (defaults, closure, arguments of a partial function, the object of a method);
        ``called NAME``: of the source of a function or class of the user's that it refers to;
        ``argument NAME``: split or shared, and a digest; ``seed``, if there is one; ``n_inputs``:
        number of tasks; and the options.

    Notes
    -----
    Lambdas, and functions whose source is nowhere to be found (``python -c``), count with their
    byte code, which is another one in another version of Python; compiled functions with their
    names.
    """
    found = {"function": function_name(func), "source": digest(func), **_called(func)}
    for argument in tasks.arguments:
        how = _SPLIT if argument.per_task else _SHARED
        found[f"argument {argument.label}"] = f"{how} {digest(argument.value)}"
    if tasks.seed is not None:
        found["seed"] = str(tasks.seed)
    return {**found, "n_inputs": str(tasks.n_tasks), **options}


def _called(func: Callable[..., Any]) -> dict[str, str]:
    return {CALLED + name: found for name, found in digests_of_referred(func).items()}


def versions() -> dict[str, str]:
    """Return the versions of what a run is made with, ``version NAME`` each."""
    found = {f"{VERSION}python": platform.python_version()}
    installed_ones = _installed_versions()
    for name in ("numpy", "h5py", "acme_mpi"):
        if name in installed_ones:  # else it is used from where it lies
            found[VERSION + name] = installed_ones[name]
    return found


def _installed_versions() -> dict[str, str]:
    """Return the version of each package that pip, or conda, has installed, by the package's name.

    `importlib.metadata` reads the same folders, and loads the modules for e-mails to do so: that
    takes as long as a tenth of all that a rank imports.
    """
    found: dict[str, str] = {}
    for folder in sys.path:
        with suppress(OSError):
            for entry in os.listdir(folder or "."):
                if entry.endswith((".dist-info", ".egg-info")):
                    name, _, rest = entry.rpartition(".")[0].partition("-")
                    found.setdefault(name.lower(), rest.partition("-")[0])
    return found
