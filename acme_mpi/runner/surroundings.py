"""What a task sees of the caller's process, wherever it is called."""

from __future__ import annotations

import os
import pickle
import sys
import warnings
from collections.abc import Mapping, Sequence
from contextlib import suppress
from typing import Any, NamedTuple

import cloudpickle

from acme_mpi.runner.reloaded import RELOADS, follow
from acme_mpi.tasks.scripts_main import set_main

# What the interpreter, the C library, and libraries of numbers read when they start, and not again.
_READ_AT_THE_START = (
    "PYTHON",
    "LD_",
    "LC_",
    "LANG",
    "TZ",
    "MALLOC_",
    "GLIBC_",
    "OMP_",
    "GOMP_",
    "KMP_",
    "MKL_",
    "OPENBLAS_",
    "BLIS_",
    "NPY_",
    "CUDA_",
)
_READ_AT_THE_START_END = ("_NUM_THREADS", "_MAXIMUM_THREADS", "_MAX_THREADS")


class Surroundings(NamedTuple):
    """What the caller's process is, as plain values.

    Attributes
    ----------
    sys_path : list of str
        Module search path.
    directory : str
        Working directory.
    umask : int or None
        Of new files; None: what a runner has by itself.
    filters : bytes
        Pickled ``warnings.filters``; empty: what a runner has by itself.
    variables : mapping
        Environment variables that differ from those of the ranks: values, None for those that are
        not there.
    main_file : str or None
        Where the caller's script is.
    modules : str
        The state of the caller's modules, see `reloaded`.
    argv : list of str
        Words that the caller's script was given, its own name first.
    """

    sys_path: list[str]
    directory: str
    umask: int | None = None
    filters: bytes = b""
    variables: Mapping[str, str | None] = {}
    main_file: str | None = None
    modules: str = ""
    argv: Sequence[str] = ()

    @classmethod
    def here(cls, start: Mapping[str, str] | None = None) -> Surroundings:
        """Return those of this process.

        Parameters
        ----------
        start : mapping, optional
            The environment that the ranks have as well; None: this process is a rank itself.
        """
        main_file = getattr(sys.modules["__main__"], "__file__", None)
        path = None if main_file is None else os.path.abspath(main_file)
        modules = RELOADS.state()
        argv = [word for word in getattr(sys, "argv", ()) if isinstance(word, str)]
        where, filters = (list(sys.path), os.getcwd()), _pickled_filters()
        here = cls(*where, _umask(), filters, main_file=path, modules=modules, argv=argv)
        return here if start is None else here.beside(start)

    def beside(self, start: Mapping[str, str]) -> Surroundings:
        """Return the same for ranks that have the environment `start`."""
        return self._replace(variables=_changed_here(start))

    def take_on(self) -> None:
        """Make this process like the caller's, except for environment variables."""
        sys.path[:] = self.sys_path
        os.chdir(self.directory)
        follow(self.modules)
        set_main(self.main_file, self.argv)
        if self.umask is not None:
            os.umask(self.umask)
        # A class of warning that cannot be had here is no warning of these tasks.
        with suppress(Exception):
            filters = pickle.loads(self.filters)
            if filters != warnings.filters:
                warnings.resetwarnings()
                warnings.filters[:] = filters  # type: ignore[index]


def _umask() -> int:
    """Return the umask without setting it: other threads may be making files."""
    with open("/proc/self/status") as file:
        for line in file:
            if line.startswith("Umask:"):
                return int(line.split()[1], 8)
    umask = os.umask(0o77)
    os.umask(umask)
    return umask


_PICKLED: list[tuple[list[Any], bytes]] = []  # the last filters that were, and what they gave


def _pickled_filters() -> bytes:
    with suppress(Exception):
        # Many calls find the same, and to pickle them takes longer than all else here.
        if not _PICKLED or _PICKLED[0][0] != warnings.filters:
            pickled = bytes(cloudpickle.dumps(warnings.filters, protocol=5))
            _PICKLED[:] = [(list(warnings.filters), pickled)]
        return _PICKLED[0][1]
    return b""


# The last environment of this process that was compared, with which, and what differed.
_COMPARED: list[tuple[dict[Any, Any], Mapping[str, str], dict[str, str | None]]] = []


def _changed_here(start: Mapping[str, str]) -> dict[str, str | None]:
    # As it is kept: to make texts of all of it takes a tenth of a small call.
    kept = dict(vars(os.environ)["_data"])
    for before, compared_with, found in _COMPARED:
        if before == kept and compared_with is start:
            return dict(found)
    found = changes(start, os.environ)
    _COMPARED[:] = [(kept, start, found)]
    return dict(found)


def changes(before: Mapping[str, str], after: Mapping[str, str]) -> dict[str, str | None]:
    """Return the variables that differ between two environments, with their new values."""
    after = dict(after)  # `os.environ` makes each of its texts anew
    names = [name for name in {**before, **after} if before.get(name) != after.get(name)]
    return {name: after.get(name) for name in names}


def changed(environment: Mapping[str, str], by: Mapping[str, str | None]) -> dict[str, str]:
    """Return an environment with some changes."""
    merged = {**environment, **by}
    return {name: value for name, value in merged.items() if value is not None}


def need_a_new_process(variables: Mapping[str, object]) -> bool:
    """Tell whether a change of these variables would not be seen by a process that runs."""
    return any(
        name.startswith(_READ_AT_THE_START) or name.endswith(_READ_AT_THE_START_END)
        for name in variables
    )


def change_environment(by: Mapping[str, str | None]) -> None:
    """Change the environment of this process."""
    for name, value in by.items():
        if value is None:
            os.environ.pop(name, None)
        else:
            os.environ[name] = value
