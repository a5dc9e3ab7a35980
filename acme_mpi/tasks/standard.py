"""What the standard library makes of a script's definitions, and cloudpickle does not take."""

from __future__ import annotations

import functools
import typing
from collections import ChainMap
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


DISPATCH_TABLE = ChainMap(
    {
        functools.cached_property: _reduce_cached_property,  # has a lock, up to Python 3.11
        WeakKeyDictionary: _reduce_weak,
        typing.NewType: _reduce_type,
        typing.ParamSpec: _reduce_type,
    },
    base.Pickler.dispatch_table,
)
