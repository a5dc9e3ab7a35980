"""What a task may leave changed in its process that the next tasks, and this package, depend on.

Nothing is put back: what is set up once, at the first call, may belong together with what the
function remembers of it. The process is replaced instead.
"""

from __future__ import annotations

import _thread
import builtins
import os
import pickle
import resource
import signal
import sys
import time
from collections.abc import Collection
from contextlib import suppress
from importlib.machinery import PathFinder
from time import monotonic_ns
from typing import Any

import numpy

from acme_mpi.linux.handlers import handler_of

N_LOOKS = 100
LOOK_NS = 10_000_000
_MODULES = {"builtins": builtins, "numpy": numpy, "os": os, "pickle": pickle, "time": time}
_OF_A_TIME_ZONE = frozenset({"tzname", "timezone", "altzone", "daylight"})
# What others may lack when it is lowered; to allow oneself more, or larger core files, is harmless.
_LIMITS = {
    name: getattr(resource, name)
    for name in ("CPU", "FSIZE", "DATA", "AS", "NPROC", "NOFILE", "MEMLOCK")
    for name in [f"RLIMIT_{name}"]
}


class Baseline:
    """How this process is before tasks are called.

    Parameters
    ----------
    signals : collection of int
        Signals whose handlers count.

    Attributes
    ----------
    accepted : set of str
        What may change: names as `differences` returns them.
    """

    def __init__(self, signals: Collection[int] = ()) -> None:
        self.accepted: set[str] = set()
        self._n_looks = self._looked_ns = 0
        self._has_found = False  # at the last look
        self._signals = tuple(signals)
        self._umask = 0
        self._state = self._look()
        self._limits = _limits()
        self._names = {name: dict(vars(module)) for name, module in _MODULES.items()}

    def differences(self) -> list[str]:
        """Return the names of what has changed and is not accepted."""
        try:
            self._n_looks += 1
            self._looked_ns = monotonic_ns()
            found = [name for name in self._differences() if name not in self.accepted]
        except Exception as error:  # it has changed so much that it cannot even be looked at
            found = [f"Python itself ({type(error).__name__})"]
        self._has_found = bool(found)
        return found

    def differences_if_due(self) -> list[str]:
        """Return the same where outcomes are few, and not more often than every `LOOK_NS`.

        A look takes 50 to 150 µs; outcomes of very short tasks may follow each other as fast.
        """
        is_new = self._n_looks < N_LOOKS or monotonic_ns() - self._looked_ns > LOOK_NS
        return self.differences() if is_new or self._has_found else []

    def _differences(self) -> list[str]:
        state, limits = self._look(), _limits()
        found = [name for name, before in self._state.items() if state[name] != before]
        if limits != self._limits:
            found += [name for name in _LIMITS if _is_lowered(self._limits[name], limits[name])]
        for name, module in _MODULES.items():
            if sys.modules.get(name) is not module:
                found.append(f"sys.modules[{name!r}]")
            found += self._other_names(name, vars(module))
        return found

    def _look(self) -> dict[str, Any]:
        state: dict[str, Any] = {
            "user": os.getresuid(),
            "group": os.getresgid(),
            "root directory": None,
            "working directory": None,
            "umask": self._umask,
            "blocked signals": signal.pthread_sigmask(signal.SIG_BLOCK, ()),
            "signal handlers": [handler_of(number) for number in self._signals],
            "sys.stdout": id(sys.stdout),
            "sys.stderr": id(sys.stderr),
            "sys.path": bool(sys.path),  # each call may have another one
            "sys.meta_path": PathFinder in sys.meta_path,
        }
        with suppress(OSError):
            root = os.stat("/")
            state["root directory"] = root.st_dev, root.st_ino
            state["working directory"] = os.getcwd()
        if not _thread._count():  # whose files would get another mode
            state["umask"] = self._umask = os.umask(0o77)
            os.umask(self._umask)
        return state

    def _other_names(self, module: str, present: dict[str, Any]) -> list[str]:
        """Return the names of a module that stand for something else, or for nothing."""
        before = self._names[module]
        with suppress(Exception):  # of the equality of the user's objects
            if present == before:
                return []
        found = [
            f"{module}.{name}"
            for name, value in before.items()
            if present.get(name, before) is not value and name not in _OF_A_TIME_ZONE
        ]
        if not found:
            before.update(present)  # a submodule was imported
        return found


def _limits() -> dict[str, tuple[int, int]]:
    return {name: resource.getrlimit(number) for name, number in _LIMITS.items()}


def _is_lowered(before: tuple[int, int], now: tuple[int, int]) -> bool:
    """Tell whether a soft or a hard limit is lower; -1 stands for none."""
    return any(new % 2**64 < old % 2**64 for old, new in zip(before, now, strict=True))
