"""Which part of a function or an argument cannot be pickled, by the names that its user gave."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from functools import partial
from types import CodeType, FunctionType, MethodType
from typing import Any

from acme_mpi.tasks.pickling import large_into, pickle_given
from acme_mpi.tasks.taskset import function_name

MOST_STEPS = 50  # from a value down to its part
MOST_TEXT = 60  # characters of a key


def unpicklable_part(value: Any, name: str) -> str:
    """Return which part of a value is at fault; empty if that cannot be found.

    Parameters
    ----------
    value : object
        What could not be pickled.
    name : str
        Its own.

    Returns
    -------
    str
        Such as "`lock`, a global of `f`" or "`x['log'].stream`".
    """
    try:
        return _part(value, name)
    except Exception:  # by code of the user's, which was called again
        return ""


def note_part(error: Exception, func: Any) -> None:
    """Add a note to what the pickling of a function has raised, if its part is found."""
    if part := unpicklable_part(func, function_name(func)):
        error.add_note(f"what cannot be pickled is {part}")


def _part(value: Any, name: str) -> str:
    owner = ""  # of the name that the part is reached by
    seen: list[Any] = []  # the objects themselves, since an id may be given again
    if not _is_at_fault(value, seen):
        return ""
    for _ in range(MOST_STEPS):
        seen.append(value)
        found = next((each for each in _parts(value) if _is_at_fault(each[1], seen)), None)
        if found is None:
            break
        step, part, kind = found
        if kind:
            name, owner = step, f", {kind} of `{name}`"
        else:
            name += step
        value = part
    return f"`{name}`{owner}"


def _is_at_fault(part: Any, seen: list[Any]) -> bool:
    if any(part is each for each in seen):
        return False
    try:
        pickle_given(part, large_into([]))
    except Exception:
        return True
    return False


def _parts(value: Any) -> Iterator[tuple[str, Any, str]]:
    """Yield what a value consists of: how it is reached, the part, and what it is of a function."""
    if isinstance(value, FunctionType):
        yield from _of_function(value)
    elif isinstance(value, MethodType):
        yield ".__self__", value.__self__, ""
        yield ".__func__", value.__func__, ""
    elif isinstance(value, partial):
        yield ".func", value.func, ""
        yield ".args", value.args, ""
        yield ".keywords", value.keywords, ""
    elif isinstance(value, dict):
        yield from ((f"[{_short(key)}]", each, "") for key, each in value.items())
    elif isinstance(value, list | tuple):
        yield from ((f"[{k}]", each, "") for k, each in enumerate(value))
    elif isinstance(value, type):
        members = vars(value).items()
        yield from ((f".{name}", each, "") for name, each in members if not name.startswith("__"))
    else:
        own = getattr(value, "__dict__", {}).items()
        yield from ((f".{name}", each, "") for name, each in own)


def _of_function(func: FunctionType) -> Iterator[tuple[str, Any, str]]:
    for name, cell in zip(func.__code__.co_freevars, func.__closure__ or (), strict=True):
        with contextlib.suppress(ValueError):  # not assigned yet
            yield name, cell.cell_contents, "in the closure"
    for name in _names(func.__code__):
        if name in func.__globals__:
            yield name, func.__globals__[name], "a global"
    yield ".__defaults__", func.__defaults__ or (), ""
    yield ".__kwdefaults__", func.__kwdefaults__ or {}, ""


def _names(code: CodeType) -> Iterator[str]:
    yield from code.co_names
    for const in code.co_consts:
        if isinstance(const, CodeType):
            yield from _names(const)


def _short(key: Any) -> str:
    text = repr(key)
    return text if len(text) <= MOST_TEXT else f"{text[:MOST_TEXT]}..."
