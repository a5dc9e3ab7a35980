"""One value as an array that HDF5 holds exactly: the same numbers read back, whatever the store.

What would change on the way is refused here, before anything is written: the task fails, or its
result is pickled, and no store has to know.
"""

from __future__ import annotations

import math
import sys
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np

Array = np.ndarray[Any, Any]
# None, or an ndarray whose dtype HDF5 can hold; object dtype means strings
Part = Any

MAX_NDIM = 32  # H5S_MAX_RANK
MAX_TYPE_BYTES = 65535  # of the message that describes a type: H5O_MESG_MAX_SIZE is 65536

_SEQUENCES = (list, tuple)
_INTEGERS = (int, np.integer)
_VALUES = (bool, int, float, complex, str, bytes, np.ndarray, np.generic, *_SEQUENCES)


# What to return instead of an object that has such an attribute, the first that fits.
_INSTEAD = (
    ("isoformat", "its .isoformat()"),
    ("total_seconds", "its .total_seconds()"),
    ("toarray", "its .toarray()"),
    ("to_numpy", "its .to_numpy()"),
    ("numpy", "its .numpy()"),
    ("__fspath__", "it as a str"),
    ("__float__", "it as a float"),
    ("__iter__", "what is in it as a list"),
)

_DTYPES_INSTEAD = {
    "m": "; return .astype('int64') and the unit",
    "M": "; return .astype('int64') and the unit",
    "T": "; return .astype(object)",
    "U": "; have bytes, such as 'S20', for text in records",
}


class ResultError(Exception):
    """A return value cannot be stored; the text says what it was."""

    @property
    def told(self) -> str:
        """What the task's failure says."""
        return f"the function returned {self}"


def to_array(value: Any) -> Part:
    """Return one value as an array, strings as objects, None for None.

    Raises
    ------
    ResultError
        HDF5 cannot hold the value as it is.
    """
    if value is None:
        return None
    types = _types(value)
    _refuse_masks(types)
    if not isinstance(value, _VALUES):
        kind = type(value)
        raise ResultError(
            f"a value of type {kind.__module__}.{kind.__qualname__}; HDF5 holds "
            "numbers, strings, None, arrays of these, and tuples and dicts of such arrays; return "
            f"{_instead(value)}"
        )
    try:
        array = np.asarray(value)
    except ValueError:
        raise ResultError(
            f"a {type(value).__name__} that is not rectangular; return a tuple of arrays"
        ) from None
    if isinstance(value, (bytes, *_SEQUENCES)):
        _refuse_changes(value, types, array)
    if array.dtype.kind == "U" and not isinstance(value, np.ndarray):
        # NumPy's own strings lose NUL characters.
        array = np.array(value, dtype=object)
    if array.ndim > MAX_NDIM:
        raise ResultError(f"an array of {array.ndim} dimensions; HDF5 holds {MAX_NDIM} at most")
    return _storable(array)


def _instead(value: Any) -> str:
    """Return what a function may return instead of an object that HDF5 does not hold."""
    if isinstance(value, Mapping):
        return "its entries one by one, each under a name"
    has = set[str]().union(*map(vars, type(value).__mro__))
    return next((text for name, text in _INSTEAD if name in has), "what it consists of")


def _types(value: Any) -> set[type]:
    """Return the types of what is in nested lists and tuples."""
    if not isinstance(value, _SEQUENCES):
        return {type(value)}
    types = set(map(type, value))  # to look at each entry would cost as much as the array
    inner = {each for each in types if issubclass(each, _SEQUENCES)}
    if not inner:
        return types
    return (types - inner).union(*(_types(e) for e in value if isinstance(e, _SEQUENCES)))


def _refuse_masks(types: set[type]) -> None:
    """Refuse masked arrays, wherever they are: NumPy would leave the masks out."""
    # Who has a masked array has loaded numpy.ma, and nobody else shall.
    if "numpy.ma" in sys.modules and any(issubclass(each, np.ma.MaskedArray) for each in types):
        raise ResultError(
            "a masked array; return its .data and .mask, or .filled(...), also inside of a list"
        )


def _refuse_changes(value: Any, types: set[type], array: Array) -> None:
    """Refuse what NumPy changes without a word when it makes an array of Python's values."""
    if array.dtype.kind in "US":
        # It makes two strings of [1, "a"], and text of [b"a", "b"].
        kinds = {issubclass(each, str) - issubclass(each, bytes) for each in types}
        if len(kinds) > 1:
            mixed = "strings and numbers" if 0 in kinds else "text and bytes"
            raise ResultError(f"a list that mixes {mixed}; return a tuple instead")
        if array.dtype.kind == "S" and any(entry.endswith(b"\0") for entry in _entries(value)):
            raise ResultError(
                "bytes that end in NUL, which strings of HDF5 do not keep; return "
                "numpy.frombuffer(value, 'uint8')"
            )
    elif array.dtype.kind in "fc" and any(issubclass(each, _INTEGERS) for each in types):
        for entry, number in zip(_entries(value), array.flat, strict=False):
            if isinstance(entry, _INTEGERS) and number.item() != int(entry):
                raise ResultError(
                    f"a list with the integer {entry}, which would become {number}; return an "
                    "array of the dtype that you want"
                )


def _entries(value: Any) -> Iterator[Any]:
    """Yield what is in nested lists and tuples, in the order of the array of them."""
    if isinstance(value, _SEQUENCES):
        for entry in value:
            yield from _entries(entry)
    elif isinstance(value, np.ndarray):
        yield from value.flat
    else:
        yield value


def _storable(array: Array) -> Array:
    dtype = array.dtype
    if dtype.kind in "UO":
        return _strings(array)
    if dtype.kind in "biufc" and dtype.metadata is None:
        return array
    if fault := _fault(dtype):
        raise ResultError(f"dtype {_text(dtype)}, {fault}")
    # Without what only Python knows of it: records as objects with attributes, and metadata.
    return array.view(_bare(dtype))


def _text(dtype: np.dtype[Any]) -> str:
    text = str(dtype)
    return text if len(text) <= 200 else f"{text[:200]}..."


def _fault(dtype: np.dtype[Any]) -> str:
    """Return why HDF5 does not hold all values of a dtype exactly, empty if it does."""
    if dtype.subdtype is not None:
        base, shape = dtype.subdtype
        if 0 in shape or len(shape) > MAX_NDIM:
            return f"which has members of shape {shape}, as HDF5 has none"
        return _fault(base)
    if dtype.names:
        return next(filter(None, map(_fault, _members(dtype))), "") or _fault_of_record(dtype)
    if dtype.kind not in "biufcS":
        return f"which HDF5 does not know{_DTYPES_INSTEAD.get(dtype.kind, '')}"
    return "" if dtype.itemsize else "which has no bytes"


def _members(dtype: np.dtype[Any]) -> list[np.dtype[Any]]:
    return [dtype[name] for name in dtype.names or ()]


def _fault_of_record(dtype: np.dtype[Any]) -> str:
    assert dtype.names is not None
    assert dtype.fields is not None
    end = 0
    for offset, name in sorted((dtype.fields[name][1], name) for name in dtype.names):
        if offset < end:
            return "whose fields overlap; return the fields one by one"
        end = offset + dtype[name].itemsize
        if "\0" in name or not is_unicode(name):
            return f"of which the name {name!r} is no text that HDF5 holds"
    n_bytes = _type_bytes(dtype)
    if n_bytes > MAX_TYPE_BYTES:
        return (
            f"whose description takes {n_bytes} bytes; HDF5 holds {MAX_TYPE_BYTES}: return fewer "
            "fields, or an array"
        )
    return ""


def is_unicode(text: str) -> bool:
    """Tell whether text can be encoded, as HDF5 wants it."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def _type_bytes(dtype: np.dtype[Any]) -> int:
    """Return how many bytes describe a type in a file.

    References
    ----------
    HDF5 File Format Specification 3.0, IV.A.2.d, "The Datatype Message", version 3.
    """
    if dtype.subdtype is not None:
        base, shape = dtype.subdtype
        return 8 + 1 + 4 * len(shape) + _type_bytes(base)
    if dtype.names:
        offset_bytes = (dtype.itemsize.bit_length() - 1) // 8 + 1
        names = sum(len(name.encode()) + 1 + offset_bytes for name in dtype.names)
        return 8 + names + sum(map(_type_bytes, _members(dtype)))
    # Of a boolean the names FALSE and TRUE with their values; of a complex number r and i.
    return {"S": 8, "b": 33, "f": 20, "c": 54}.get(dtype.kind, 12)


def _bare(dtype: np.dtype[Any]) -> np.dtype[Any]:
    """Return a dtype without metadata, titles, and classes of its scalars."""
    if dtype.subdtype is not None:
        base, shape = dtype.subdtype
        return np.dtype((_bare(base), shape))
    if not dtype.names:
        return np.dtype(dtype.str)
    assert dtype.fields is not None
    return np.dtype(
        {
            "names": list(dtype.names),
            "formats": [_bare(member) for member in _members(dtype)],
            "offsets": [dtype.fields[name][1] for name in dtype.names],
            "itemsize": dtype.itemsize,
        }
    )


def _strings(array: Array) -> Array:
    """Return a copy with plain Python strings that HDF5 can hold."""
    strings = np.empty(array.shape, object)
    for position, entry in np.ndenumerate(array):
        if not isinstance(entry, str):
            raise ResultError(
                f"an object array that holds {type(entry).__name__}; HDF5 holds numbers and "
                "strings (an integer beyond 64 bits is an object, too); return an array of one "
                "dtype, or a tuple"
            )
        if "\0" in entry:
            raise ResultError(f"a string with a NUL character, which HDF5 cannot hold: {entry!r}")
        if not is_unicode(entry):
            raise ResultError(f"a string that is not valid Unicode: {entry!r}")
        strings[position] = str.__str__(entry)
    return strings


def fits_64_bits(value: Any) -> bool:
    """Tell whether a plain number is none of the integers that no dtype holds."""
    return type(value) is not int or -(2**63) <= value < 2**63


def misfit(array: Array, dtype: np.dtype[Any]) -> str | None:
    """Return what keeps numbers from becoming `dtype`; they may lose digits, but nothing else."""
    if array.dtype.kind == "b" and dtype.kind in "iu":
        return None
    if array.dtype.kind in "biu" and dtype.kind in "iu":
        limits = np.iinfo(dtype)
        ends = (int(array.min()), int(array.max())) if array.size else ()
        outside = [end for end in ends if not limits.min <= end <= limits.max]
        return f"{outside[0]}, beyond its range" if outside else None
    if not np.can_cast(array.dtype, dtype, "same_kind"):
        return f"dtype {array.dtype}"
    with np.errstate(over="ignore"):
        is_outside = np.isfinite(array) & ~np.isfinite(array.astype(dtype))
    return f"{array[is_outside].flat[0]}, beyond its range" if is_outside.any() else None


def has_shape(shape: tuple[int, ...], expected: tuple[float, ...]) -> bool:
    """Tell whether a shape is the expected one, in which ``math.inf`` stands for any length."""
    return len(shape) == len(expected) and all(
        want in (math.inf, have) for have, want in zip(shape, expected, strict=True)
    )
