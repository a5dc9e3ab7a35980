"""Which values no task can change, so that all tasks of a process may have the same object."""

from __future__ import annotations

import dataclasses
import datetime
import enum
import re
import sys
import types
import uuid
from typing import Any

import numpy as np

from acme_mpi.results.parts import PLAIN
from acme_mpi.tasks.items import is_read_by_pieces

_IMMUTABLE = (
    *PLAIN,
    range,
    slice,
    type(...),
    np.dtype,
    np.generic,
    enum.Enum,
    re.Pattern,
    uuid.UUID,
    datetime.date,
    datetime.time,
    datetime.timedelta,
    datetime.tzinfo,
    # What belongs to a function, its globals and defaults, lives as long as its process.
    type,
    types.FunctionType,
    types.BuiltinFunctionType,
    types.ModuleType,
)

# Who has such a value has imported its module, which a runner does not do for all others.
_ELSEWHERE = (("decimal", "Decimal"), ("fractions", "Fraction"), ("pathlib", "PurePath"))


def _elsewhere() -> tuple[type, ...]:
    kinds = (getattr(sys.modules.get(module), name, None) for module, name in _ELSEWHERE)
    return tuple(kind for kind in kinds if kind is not None)


def is_immutable(value: Any) -> bool:
    """Tell whether nothing of a value can be changed; arrays are not written to."""
    kind = type(value)
    if isinstance(value, (tuple, frozenset)):
        is_plain = PLAIN.issuperset(map(type, value))
        return not hasattr(value, "__dict__") and (is_plain or all(map(is_immutable, value)))
    if kind is np.ndarray:
        return not value.dtype.hasobject
    if isinstance(value, (*_IMMUTABLE, *_elsewhere())):
        return not isinstance(value, np.void)  # a record
    if dataclasses.is_dataclass(kind) and kind.__dataclass_params__.frozen:  # type: ignore[attr-defined]
        return all(map(is_immutable, vars(value).values())) if hasattr(value, "__dict__") else False
    # Files, of which every runner opens its own.
    return kind.__module__.partition(".")[0] == "h5py" or is_read_by_pieces(value)


def is_flat(value: Any) -> bool:
    """Tell whether a value is a container whose `copy` has nothing in common with it."""
    if type(value) is dict:
        return all(map(is_immutable, value)) and all(map(is_immutable, value.values()))
    return type(value) in (list, set) and all(map(is_immutable, value))
