"""Modules of the user's that the caller's process has imported anew, as notebooks do after an edit.

A runner that lasts has imported them as they were. So it forgets them, and imports them when they
are needed: the caller has another state, of a name of its own, each time that it has seen another
module, or another specification, by a name. `importlib.reload`, and with it IPython's
``%autoreload``, gives a module a new one. An edit alone changes nothing, as nothing changes in the
caller's process either.
"""

from __future__ import annotations

import importlib
import os
import sys
from types import ModuleType
from typing import Any

from acme_mpi.tasks.frames import is_users


class Reloads:
    """Looks whether modules of the user's were imported anew in this process."""

    def __init__(self) -> None:
        self._specs: dict[str, Any] = {}
        self._n_modules, self._state = 0, ""

    def state(self) -> str:
        """Return the name of the state that they are in; empty: as at first."""
        if self._has_changed():
            self._state, self._n_modules = os.urandom(8).hex(), 0
            _followed.add(self._state)  # they are here as they are now
        # To look at all modules takes a while, and small calls are many.
        if len(sys.modules) != self._n_modules:
            self._n_modules = len(sys.modules)
            self._specs = {name: module.__spec__ for name, module in users_modules().items()}
        return self._state

    def _has_changed(self) -> bool:
        for name, spec in self._specs.items():  # each time that a pool is given a task
            if _spec_of(sys.modules.get(name)) is not spec:
                return True
        return False


RELOADS = Reloads()
_followed = {""}  # the states of callers, and of this process, whose modules are here


def follow(state: str) -> None:
    """Forget the user's modules if the caller has imported any anew that this process may have."""
    if state in _followed:
        return
    _followed.add(state)
    for name in users_modules():
        del sys.modules[name]
    importlib.invalidate_caches()


def users_modules() -> dict[str, ModuleType]:
    """Return the modules of Python code that are neither Python's own, installed, nor ours."""
    return {
        name: module
        for name, module in list(sys.modules.items())
        if name != "__main__" and (path := _origin_of(module)).endswith(".py") and is_users(path)
    }


def _origin_of(module: Any) -> str:
    return str(getattr(_spec_of(module), "origin", ""))


def _spec_of(module: Any) -> Any:
    return getattr(module, "__spec__", None)
