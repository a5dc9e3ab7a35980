"""A runner's ``__main__`` offers what tasks use of the script's.

Functions and classes of a script travel as what they consist of. In a runner they have their names
in ``__main__``, too, so that `pickle`, and what uses it (`multiprocessing`,
`concurrent.futures`), finds them there in tasks.
"""

from __future__ import annotations

import functools
import sys
from types import ModuleType
from typing import Any

from cloudpickle import cloudpickle

_RUNNERS_MAIN: list[ModuleType] = []


def begin_main() -> None:
    """Give this process, which runs no script, an empty ``__main__``."""
    _RUNNERS_MAIN[:] = [ModuleType("__main__")]
    sys.modules["__main__"] = _RUNNERS_MAIN[0]
    # As `multiprocessing` does when it is imported, which may have been before a fork.
    if "__mp_main__" in sys.modules:
        sys.modules["__mp_main__"] = _RUNNERS_MAIN[0]


def set_main_file(path: str | None) -> None:
    """Say where the script is, which children by `multiprocessing`'s "spawn" import."""
    for module in _RUNNERS_MAIN:
        module.__dict__.pop("__file__", None)
        if path is not None:
            module.__file__ = path


def reduce_of_main(value: Any, reduced: Any) -> Any:
    """Return how a function or class is pickled, given how cloudpickle does it."""
    if isinstance(value, functools._lru_cache_wrapper):
        if cloudpickle._lookup_module_and_qualname(value) is not None:
            return reduced
        return _make_cached, (value.__wrapped__, _name_in_main(value), value.cache_parameters())
    name = _name_in_main(value) if isinstance(reduced, tuple) and len(reduced) == 6 else ""
    if not name:
        return reduced
    make, args, state, items, pairs, set_state = reduced
    return make, args, (name, set_state, state), items, pairs, _set_state


def _name_in_main(value: Any) -> str:
    """Return the name that a value has in this process's ``__main__``, empty if none."""
    name = str(getattr(value, "__qualname__", ""))
    return name if vars(sys.modules["__main__"]).get(name) is value else ""


def _set_state(value: Any, state: tuple[str, Any, Any]) -> Any:
    name, set_state, own_state = state
    _show(name, value)
    return set_state(value, own_state)


def _make_cached(func: Any, name: str, parameters: dict[str, Any]) -> Any:
    value = functools.lru_cache(**parameters)(func)
    _show(name, value)
    return value


def _show(name: str, value: Any) -> None:
    for module in _RUNNERS_MAIN:
        if name:
            module.__dict__[name] = value
