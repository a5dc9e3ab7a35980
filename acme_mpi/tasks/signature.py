"""The parameters of a function, and the arguments that a caller gives them."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

from acme_mpi.errors import InputError
from acme_mpi.spelling import did_you_mean
from acme_mpi.tasks.items import listed_if_iterator
from acme_mpi.tasks.taskset import RNG, SEED, TASK_ID, function_name


class Given(NamedTuple):
    """An argument as the caller gives it.

    Attributes
    ----------
    label, keyword : str, str or None
        As of `Argument`.
    value : object
        What is given.
    default : object
        Of the parameter; `inspect.Parameter.empty`: it has none.
    """

    label: str
    keyword: str | None
    value: Any
    default: Any


def signature_of(func: Callable[..., Any]) -> inspect.Signature | None:
    """Return the signature, or None for functions that have none (``max``)."""
    try:
        return inspect.signature(func)
    except (ValueError, TypeError):
        return None


def check_function(func: Any) -> None:
    """Refuse what cannot be called, or does no work when it is."""
    if not callable(func):
        raise InputError(f"the function has to be callable, not {type(func)}")
    for test, kind, instead in (
        (inspect.iscoroutinefunction, "an async function: a call of it only", "asyncio.run({}(x))"),
        (
            inspect.isasyncgenfunction,
            "an async generator: a call of it only",
            "a list of its items",
        ),
        (inspect.isgeneratorfunction, "a generator: a call of it only", "list({}(x))"),
    ):
        if test(func):
            name = function_name(func)
            way = instead.format(name)
            raise InputError(f"{name} is {kind} begins; give a function that returns {way}")


def bind(
    func: Callable[..., Any],
    args: Sequence[Any],
    kwargs: Mapping[str, Any],
    caller: Callable[..., Any] | None,
    is_seeded: bool,
) -> tuple[list[Given], bool]:
    """Return what is given for each parameter, and whether taskID is to be filled."""
    args = [listed_if_iterator(value) for value in args]
    kwargs = {key: listed_if_iterator(value) for key, value in kwargs.items()}
    signature = signature_of(func)
    empty = inspect.Parameter.empty
    if is_seeded:
        _check_takes_rng(func, signature, args, kwargs)
    if signature is None:
        numbered = [Given(f"number {k}", None, value, empty) for k, value in enumerate(args)]
        named = [Given(key, key, value, empty) for key, value in kwargs.items()]
        return [*numbered, *named], False
    parameter = signature.parameters.get(TASK_ID)
    inject = (
        parameter is not None
        and parameter.kind in (parameter.POSITIONAL_OR_KEYWORD, parameter.KEYWORD_ONLY)
        and TASK_ID not in signature.bind_partial(*args).arguments
        and TASK_ID not in kwargs
        if _binds(signature, args)
        else False
    )
    try:
        filled = {**({TASK_ID: 0} if inject else {}), **({RNG: None} if is_seeded else {})}
        bound = signature.bind(*args, **kwargs, **filled)
    except TypeError as error:
        name = function_name(func)
        lead = _count_text(signature, args, kwargs)
        wrong = _wrong_names(signature, kwargs, caller)
        raise InputError(
            f"{name}{lead}: {error}; its signature is {name}{signature}{wrong}"
        ) from None
    given: list[Given] = []
    is_gapless = True  # so far every parameter has got an argument: it can be passed by position
    for name, parameter in signature.parameters.items():
        if name not in bound.arguments or name in filled:
            is_gapless = is_gapless and parameter.kind is parameter.VAR_POSITIONAL
            continue
        value = bound.arguments[name]
        if parameter.kind is parameter.VAR_POSITIONAL:
            given += [Given(f"{name}[{k}]", None, item, empty) for k, item in enumerate(value)]
        elif parameter.kind is parameter.VAR_KEYWORD:
            given += [Given(key, key, item, empty) for key, item in value.items()]
        else:
            by_name = parameter.kind is parameter.KEYWORD_ONLY or not is_gapless
            keyword = name if by_name else None
            given.append(Given(name, keyword, value, parameter.default))
    return given, inject


def _check_takes_rng(
    func: Callable[..., Any],
    signature: inspect.Signature | None,
    args: Sequence[Any],
    kwargs: Mapping[str, Any],
) -> None:
    name = function_name(func)
    parameter = None if signature is None else signature.parameters.get(RNG)
    if parameter is None or parameter.kind not in (
        parameter.POSITIONAL_OR_KEYWORD,
        parameter.KEYWORD_ONLY,
    ):
        raise InputError(
            f"`seed` gives random numbers to a parameter called {RNG!r}, and {name} has none; it "
            f"is {name}{signature or '(...)'}"
        )
    assert signature is not None
    if RNG in kwargs or (
        _binds(signature, args) and RNG in signature.bind_partial(*args).arguments
    ):
        raise InputError(f"`seed` and the argument {RNG!r} are given; leave out one of them")


def _wrong_names(
    signature: inspect.Signature, kwargs: Mapping[str, Any], caller: Callable[..., Any] | None
) -> str:
    """Return which arguments have names that no parameter has: Python names one fault alone."""
    own = signature.parameters
    if any(parameter.kind is parameter.VAR_KEYWORD for parameter in own.values()):
        return ""
    further = {} if caller is None else inspect.signature(caller).parameters
    known = [*own, *(n for n, p in further.items() if p.kind is p.KEYWORD_ONLY)]
    wrong = [name for name in kwargs if name not in own]
    lines = [f"\n  no parameter is called {name!r}{did_you_mean(name, known)}" for name in wrong]
    return "".join(lines)


def _count_text(
    signature: inspect.Signature, args: Sequence[Any], kwargs: Mapping[str, Any]
) -> str:
    """Return what ACME says where arguments do not fit by their number, else ``()``."""
    parameters = list(signature.parameters.values())
    kinds = {p.kind for p in parameters}
    positional = [p for p in parameters if p.kind in (p.POSITIONAL_ONLY, p.POSITIONAL_OR_KEYWORD)]
    required = tuple(p.name for p in positional if p.default is p.empty)
    optional = tuple(p.name for p in parameters if p.default is not p.empty)
    n_found = len(args) + sum(name in required for name in kwargs)
    is_over = n_found > len(positional) and inspect.Parameter.VAR_POSITIONAL not in kinds
    if n_found < len(required) or is_over:
        names = ", ".join(map(repr, required))
        return f" expects {len(required)} positional arguments ({names}), found {n_found}"
    n_named = sum(name not in required for name in kwargs)
    if n_named > len(optional) and inspect.Parameter.VAR_KEYWORD not in kinds:
        names = ", ".join(map(repr, optional))
        return f" accepts at maximum {len(optional)} keyword arguments ({names}), found {n_named}"
    return "()"


def _binds(signature: inspect.Signature, args: Sequence[Any]) -> bool:
    try:
        signature.bind_partial(*args)
    except TypeError:
        return False
    return True


def own_or_ours(func: Any, kwargs: Mapping[str, Any], seed: Any) -> tuple[dict[str, Any], Any]:
    """Return keyword arguments and seed: it is an argument if the function has such a parameter."""
    signature = signature_of(func) if seed is not None and callable(func) else None
    if signature is None or SEED not in signature.parameters:
        return dict(kwargs), seed
    if SEED in kwargs:
        raise InputError(f"given twice, by keyword and in `arguments`: {SEED}")
    return {**kwargs, SEED: seed}, None
