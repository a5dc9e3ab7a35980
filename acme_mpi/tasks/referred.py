"""The user's functions and classes that a function leads to by names, and their digests."""

from __future__ import annotations

import sys
from collections.abc import Callable
from functools import partial
from types import CodeType, FunctionType, MappingProxyType, MethodType, ModuleType
from typing import Any

from acme_mpi.tasks.digest import UNKNOWN, Digester, contents, digest, is_users_class
from acme_mpi.tasks.frames import is_users

_MOST_CALLED = 1000
_MOST_NAMED = 50  # more than these have one digest together
_MOST_IN_TABLE = 100  # of a list or dict that may be a table of functions
_CONTAINERS = (list, tuple, dict, MappingProxyType)
_HELD = (FunctionType, partial, MappingProxyType)  # the last one is singledispatch's
_BOUND = (partial, MethodType, property, staticmethod, classmethod)


def digests_of_referred(func: Callable[..., Any]) -> dict[str, str]:
    """Return digests of the user's functions and classes that a function leads to, by name.

    What is bound to the function itself is not among them: it is in the digest of the function.
    Of more than 50 there is a single digest.
    """
    digester = Digester()
    # A script's functions are those of the module that ``script.py:f`` makes of it.
    near = ("__main__", _module_of(func))
    found: dict[str, list[str]] = {}
    seen: dict[int, Any] = {}  # with the objects, as in Digester
    # What is bound to the function itself is in the digest of it.
    waiting: list[tuple[Any, bool]] = [(func, False)]
    while waiting and len(seen) < _MOST_CALLED:
        value, is_named = waiting.pop()
        if id(value) in seen:
            continue
        bound, referred = _leads_to(value)
        seen[id(value)] = value
        if is_named and isinstance(value, FunctionType | type) and _is_users_code(value):
            module = "" if value.__module__ in near else f"{value.__module__}."
            of = value.__code__ if isinstance(value, FunctionType) else value
            try:
                text = digester.of(of).hex()
            except RecursionError:
                text = UNKNOWN
            found.setdefault(f"`{module}{value.__qualname__}`", []).append(text)
        # Methods are in the source of their class.
        is_bound_named = is_named and not isinstance(value, type)
        waiting += [(part, is_bound_named) for part in bound if _is_followed(part)]
        waiting += [(part, True) for part in referred if _is_followed(part)]
    if len(found) > _MOST_NAMED:
        return {f"one of more than {_MOST_NAMED} functions": digest(found)}
    return {name: digest(sorted(found[name])) for name in sorted(found)}


def _module_of(func: Callable[..., Any]) -> str:
    while isinstance(func, partial):
        func = func.func
    return getattr(func, "__module__", "")


def _is_followed(value: Any) -> bool:
    kind = type(value)  # since proxies without an object raise in isinstance
    if kind in _CONTAINERS:
        return len(value) <= _MOST_IN_TABLE
    return _is_users_code(value) or issubclass(kind, _BOUND) or bool(_held(value))


def _is_users_code(value: Any) -> bool:
    """Tell whether it is a function or class of the user's, or an instance of such a class."""
    kind = type(value)
    if kind is FunctionType:
        return is_users(value.__code__.co_filename)
    cls = value if issubclass(kind, type) else kind
    module = sys.modules.get(cls.__module__)
    return is_users_class(cls) and is_users(getattr(module, "__file__", None) or "")


def _held(value: Any) -> list[Any]:
    """Return the functions that an object wraps: a decorator's, `lru_cache`, `np.vectorize`."""
    if issubclass(type(value), type | ModuleType):
        return []
    try:
        return [each for each in vars(value).values() if type(each) in _HELD]
    except Exception:  # some objects have any attribute, others none
        return []


def _leads_to(value: Any) -> tuple[list[Any], list[Any]]:
    """Return what is bound to a callable, and what it refers to by global names."""
    kind = type(value)
    if kind in _CONTAINERS:
        parts = value if kind in (list, tuple) else value.values()
        return [each for each in parts if type(each) not in _CONTAINERS], []
    if isinstance(value, FunctionType):
        # Of a library's wrapper, as contextmanager makes one, only what it wraps is the user's.
        names = _referred(value) if is_users(value.__code__.co_filename) else []
        return [*contents(value), *_held(value)], names
    if isinstance(value, type):
        return [
            part for base in value.__mro__ if is_users_class(base) for part in vars(base).values()
        ], []
    if isinstance(value, partial):
        return [value.func, *value.args, *value.keywords.values()], []
    if isinstance(value, MethodType):
        return [value.__func__, type(value.__self__)], []
    if isinstance(value, property):
        return [value.fget, value.fset, value.fdel], []
    if isinstance(value, staticmethod | classmethod):
        return [value.__func__], []
    return [*_held(value), kind], []


def _referred(func: FunctionType) -> list[Any]:
    names: dict[str, None] = {}
    codes = [func.__code__]
    while codes:
        code = codes.pop()
        names.update(dict.fromkeys(code.co_names))
        codes += [const for const in code.co_consts if isinstance(const, CodeType)]
    found: dict[int, Any] = {}
    spaces = [func.__globals__]
    while spaces:
        space = spaces.pop()
        for value in [space[name] for name in names if name in space]:
            if id(value) not in found and issubclass(type(value), ModuleType):
                spaces.append(vars(value))
            found[id(value)] = value
    return [*found.values()]
