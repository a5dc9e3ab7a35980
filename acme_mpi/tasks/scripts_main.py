"""A runner's ``__main__`` offers what tasks use of the script's.

Functions and classes of a script travel as what they consist of. In a runner they have their names
in ``__main__``, too, so that `pickle`, and what uses it (`multiprocessing`,
`concurrent.futures`), finds them there in tasks.
"""

from __future__ import annotations

import functools
import pickle
import sys
from collections.abc import Callable, Sequence
from types import FunctionType, ModuleType
from typing import Any
from weakref import WeakValueDictionary

from cloudpickle import cloudpickle

_RUNNERS_MAIN: list[ModuleType] = []
_CACHED: WeakValueDictionary[int, Any] = WeakValueDictionary()  # by the id of the function inside


class Initializer:
    """The initializer of this process's pool, and what tasks find as it has left it.

    Each pickle has its own copies of the script's globals, as far as its functions refer to them.
    What the initializer has set of its copies, or refers to and may have changed, takes the place
    of those that come later, as if there was one script.

    Parameters
    ----------
    data : bytes
        Pickled pair of the function and its arguments.
    """

    current: Initializer | None = None

    def __init__(self, data: bytes) -> None:
        self._globals: dict[str, Any] = {}  # all functions of one pickle have the same
        self._classes: list[type] = []
        self._left: dict[str, Any] = {}
        self._is_loaded = False
        Initializer.current = self
        self._func, self._args = pickle.loads(data)
        self._is_loaded = True

    def call(self) -> None:
        """Call it."""
        before = dict(self._globals)
        self._func(*self._args)
        self._left = {
            name: value
            for name, value in self._globals.items()
            if not (name.startswith("__") and name.endswith("__"))
            and (before.get(name, before) is not value or not isinstance(value, _CODE))
        }

    def set_state(self, value: Any, set_state: Callable[[Any, Any], Any], state: Any) -> None:
        """Give a function or class of the script its state."""
        if isinstance(value, type):
            if not self._is_loaded:
                self._classes.append(value)
            elif any(value is each for each in self._classes):
                return
            set_state(value, state)
            return
        set_state(value, state)
        if not self._is_loaded:
            self._globals = value.__globals__
        value.__globals__.update(self._left)


_CODE = (FunctionType, type, ModuleType)  # what is defined again comes with the function


def begin_main() -> None:
    """Give this process, which runs no script, an empty ``__main__``."""
    _RUNNERS_MAIN[:] = [ModuleType("__main__")]
    sys.modules["__main__"] = _RUNNERS_MAIN[0]
    # As `multiprocessing` does when it is imported, which may have been before a fork.
    if "__mp_main__" in sys.modules:
        sys.modules["__mp_main__"] = _RUNNERS_MAIN[0]


def set_main(path: str | None, argv: Sequence[str]) -> None:
    """Say where the script is, which children by `multiprocessing`'s "spawn" import, and its words.

    In a process that runs a script itself nothing changes.
    """
    for module in _RUNNERS_MAIN:
        sys.argv[:] = argv or [""]
        module.__dict__.pop("__file__", None)
        if path is not None:
            module.__file__ = path


def reduce_of_main(value: Any, reduced: Any) -> Any:
    """Return how a function or class is pickled, given how cloudpickle does it."""
    if isinstance(value, functools._lru_cache_wrapper):
        if cloudpickle._lookup_module_and_qualname(value) is not None:
            return reduced
        return _make_cached, (value.__wrapped__, _name_in_main(value), value.cache_parameters())
    if not (isinstance(reduced, tuple) and len(reduced) == 6):
        return reduced
    name, is_of_main = _name_in_main(value), _is_of_main(value)
    if not (name or is_of_main):
        return reduced
    make, args, state, items, pairs, set_state = reduced
    return make, args, (name, is_of_main, set_state, state), items, pairs, _set_state


def _is_of_main(value: Any) -> bool:
    """Tell whether this process's ``__main__`` has defined a function or class."""
    if isinstance(value, FunctionType):
        return value.__globals__ is vars(sys.modules["__main__"])
    return bool(getattr(value, "__module__", None) == "__main__")


def _name_in_main(value: Any) -> str:
    """Return the name that a value has in this process's ``__main__``, empty if none."""
    name = str(getattr(value, "__qualname__", ""))
    return name if vars(sys.modules["__main__"]).get(name) is value else ""


def _set_state(value: Any, state: tuple[str, bool, Any, Any]) -> None:
    name, is_of_main, set_state, own_state = state
    _show(name, value)
    # What a decorator of a library has made of a function has the globals of that library.
    if Initializer.current is not None and is_of_main:
        Initializer.current.set_state(value, set_state, own_state)
    else:
        set_state(value, own_state)


def _make_cached(func: Any, name: str, parameters: dict[str, Any]) -> Any:
    # One that calls itself is among the globals of its function, which are loaded before.
    if (value := _CACHED.get(id(func))) is None:
        value = _CACHED[id(func)] = functools.lru_cache(**parameters)(func)
    functools.update_wrapper(value, func)
    _show(name, value)
    return value


def _show(name: str, value: Any) -> None:
    for module in _RUNNERS_MAIN:
        if name:
            module.__dict__[name] = value
