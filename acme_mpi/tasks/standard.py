"""What the standard library makes of a script's definitions, and cloudpickle does not take."""

from __future__ import annotations

import functools
import sys
import typing
from collections import ChainMap
from operator import attrgetter
from types import FunctionType, MethodType
from typing import Any
from weakref import WeakKeyDictionary

import cloudpickle.cloudpickle as base


def _reduce_cached_property(value: Any) -> Any:
    return _make_cached_property, (value.func, value.attrname)


def _make_cached_property(func: Any, name: str) -> Any:
    made: Any = functools.cached_property(func)
    made.attrname = name
    return made


def _reduce_weak(value: Any) -> Any:
    return WeakKeyDictionary, (dict(value),)  # `singledispatch` has one


def _reduce_type(value: Any) -> Any:
    if base._lookup_module_and_qualname(value) is not None:
        return value.__reduce__()
    supertype = (value.__supertype__,) if isinstance(value, typing.NewType) else ()
    return _make_type, (type(value), value.__name__, supertype, value.__module__)


def _make_type(kind: Any, name: str, supertype: tuple[Any, ...], module: str) -> Any:
    made = kind(name, *supertype)
    made.__module__ = module
    return made


def reduce_class_method(value: Any) -> Any:
    """Return how the function of an installed class's class method is pickled, None for others.

    Of a generic NamedTuple one is `Generic.__class_getitem__`; its name gives a bound method.
    """
    if type(value) is not FunctionType or "." not in value.__qualname__:
        return None
    try:
        found = attrgetter(value.__qualname__)(sys.modules[value.__module__])
    except (AttributeError, KeyError):
        return None
    if not isinstance(found, MethodType) or found.__func__ is not value:
        return None
    if not base._should_pickle_by_reference(found.__self__):
        return None
    return _class_method, (found.__self__, value.__name__)


def _class_method(cls: Any, name: str) -> Any:
    return getattr(cls, name).__func__


DISPATCH_TABLE = ChainMap(
    {
        functools.cached_property: _reduce_cached_property,  # has a lock, up to Python 3.11
        WeakKeyDictionary: _reduce_weak,
        typing.NewType: _reduce_type,
        typing.ParamSpec: _reduce_type,
    },
    base.Pickler.dispatch_table,
)
