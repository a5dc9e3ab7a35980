"""Digests of values, functions and classes.

A digest depends on values alone, not on how they lie in memory or on the process that asks.
"""

from __future__ import annotations

import copyreg
import inspect
import marshal
import os
import pickle
import sys
import textwrap
from collections.abc import Iterable, Iterator
from functools import partial
from tokenize import TokenError
from types import BuiltinFunctionType, CodeType, FunctionType, MethodType, ModuleType
from typing import Any

import numpy as np
import xxhash

from acme_mpi.results.parts import PLAIN
from acme_mpi.tasks.frames import is_installed
from acme_mpi.tasks.hdf5_arguments import reduce_hdf5
from acme_mpi.tasks.pickling import pickle_given

UNKNOWN = "unknown"

_DIGEST_BYTES = 16  # of XXH3's long form
_UNKNOWN = UNKNOWN.encode().ljust(_DIGEST_BYTES)
# The last version of the format in which equal values have equal bytes, whether or not they are
# one object.
_MARSHAL = 2
_BLOCK_ITEMS = 65536
_BLOCK_BYTES = 16 * 1024**2

# What is told about functions and classes by their sources.
_NO_SOURCE = (OSError, TypeError, SyntaxError, IndexError, TokenError)


def digest(value: Any, looks_at_files: bool = True) -> str:
    """Return 32 hexadecimal digits that equal values of equal types have in common.

    By structure: the order of sets and of the keys of dicts does not count, nor which parts are
    one object, nor the memory layout of arrays. Functions and classes of the user's count with
    their sources, those that are installed with their names, open HDF5 files with name, size and
    time of change, other objects with what pickle would take.

    Parameters
    ----------
    value : object
        Anything.
    looks_at_files : bool
        False: of HDF5 files only the names count.

    Returns
    -------
    str
        ``"unknown"`` for what cannot be pickled, or nests deeper than Python's stack; parts that
        cannot be pickled count as alike.
    """
    try:
        found = Digester(looks_at_files).of(value)
    except RecursionError:
        return UNKNOWN
    return UNKNOWN if found == _UNKNOWN else found.hex()


class Digester:
    """Digests of one value and its parts, of which none is looked at twice.

    In what contains itself it does count which parts are one object.

    Parameters
    ----------
    looks_at_files : bool
        HDF5 files count with size and time of change, too.
    """

    def __init__(self, looks_at_files: bool = True) -> None:
        self._looks_at_files = looks_at_files
        # By id; with the objects, since the id of one that is gone may be given to another.
        self._known: dict[int, tuple[bytes, Any]] = {}
        self._depth_of: dict[int, int] = {}  # what is being looked at, by id

    def of(self, value: Any) -> bytes:
        """Return the digest of anything."""
        kind = type(value)
        if kind in PLAIN:
            return _hashed(b"plain", marshal.dumps(value, _MARSHAL))
        if kind in (list, tuple) and PLAIN.issuperset(map(type, value)):
            return _plain_items(value)
        key = id(value)
        if key in self._known:
            return self._known[key][0]
        depth = len(self._depth_of)
        if key in self._depth_of:
            return _hashed(b"cycle", str(depth - self._depth_of[key]).encode())
        self._depth_of[key] = depth
        found = self._by_structure(value)
        del self._depth_of[key]
        self._known[key] = found, value
        return found

    def _by_structure(self, value: Any) -> bytes:
        kind = type(value)
        if kind in (list, tuple):
            return self._all(kind.__name__, value)
        if kind in (set, frozenset):
            return self._unordered(kind.__name__, value)
        if kind is dict:
            return self._pairs(value.items())
        if kind in (range, slice):
            return self._all(kind.__name__, (value.start, value.stop, value.step))
        if kind is bytearray:
            return _hashed(b"bytearray", value)
        if isinstance(value, np.generic):
            return self._all("scalar", [np.asarray(value)])
        if kind in (np.ndarray, np.memmap):
            return self._array_or_objects(value)
        if kind is CodeType:
            return self._code(value)
        if isinstance(value, type):
            return self._class(value)
        if isinstance(value, property):
            return self._all("property", (value.fget, value.fset, value.fdel))
        if isinstance(value, staticmethod | classmethod):
            return self._all(kind.__name__, [value.__func__])
        if callable(value):
            return self._callable(value)
        return self._object(value)

    def _all(self, kind: str, parts: Iterable[Any]) -> bytes:
        return _joined(kind, map(self.of, parts))

    def _unordered(self, kind: str, parts: Iterable[Any]) -> bytes:
        return _joined(kind, sorted(map(self.of, parts)))

    def _pairs(self, pairs: Iterable[tuple[Any, Any]]) -> bytes:
        return _joined("dict", sorted(self.of(key) + self.of(value) for key, value in pairs))

    def _array_or_objects(self, value: Any) -> bytes:
        if not value.dtype.hasobject:
            return _array(value)
        return self._all("objects", (repr(value.dtype), value.shape, value.ravel().tolist()))

    def _callable(self, value: Any) -> bytes:
        if isinstance(value, FunctionType):
            return self._function(value)
        if isinstance(value, partial):
            return self._all("partial", (value.func, value.args, value.keywords))
        if isinstance(value, MethodType):
            bound = value.__self__
            owner = bound if isinstance(bound, type) else type(bound)
            return self._all("method", (value.__func__, owner, bound))
        if isinstance(value, BuiltinFunctionType) and isinstance(value.__self__, ModuleType | None):
            return self._name(value)
        # What lru_cache makes, and what compiles functions. Some objects have any attribute.
        wrapped = vars(value).get("__wrapped__") if hasattr(value, "__dict__") else None
        if wrapped is not None:
            return self._all("wrapper", (type(value).__qualname__, wrapped))
        return self._object(value)

    def _function(self, func: FunctionType) -> bytes:
        defaults = func.__defaults__, func.__kwdefaults__
        return self._all("function", (func.__code__, defaults, [*contents(func)]))

    def _code(self, code: CodeType) -> bytes:
        # Two on one line have the same source.
        if code.co_name != "<lambda>":
            try:
                return self._all("source", [textwrap.dedent(inspect.getsource(code))])
            except _NO_SOURCE:
                pass
        return self._bytecode(code)

    def _bytecode(self, code: CodeType) -> bytes:
        """Return the digest of what code does, wherever it stands."""
        consts = [
            self._bytecode(const) if isinstance(const, CodeType) else self.of(const)
            for const in code.co_consts
        ]
        names = code.co_names, code.co_varnames, code.co_freevars, code.co_cellvars
        counts = code.co_argcount, code.co_posonlyargcount, code.co_kwonlyargcount, code.co_flags
        return self._all("code", (code.co_code, names, counts, consts))

    def _class(self, cls: type) -> bytes:
        parts: list[Any] = [self._name(cls)]
        for base in cls.__mro__:
            if is_users_class(base):
                try:
                    parts.append(textwrap.dedent(inspect.getsource(base)))
                except _NO_SOURCE:
                    parts.append(_members(base))
        return self._all("class", parts)

    def _name(self, value: Any) -> bytes:
        module = getattr(value, "__module__", None) or type(value).__module__
        name = getattr(value, "__qualname__", None) or getattr(value, "__name__", None)
        return self._all("name", (str(module), str(name)))

    def _object(self, value: Any) -> bytes:
        """Return the digest of what pickle would take of an object."""
        if isinstance(value, ModuleType):
            return self._all("module", [value.__name__])
        if isinstance(value, pickle.PickleBuffer):
            return _hashed(b"buffer", value.raw())
        # Here alone methods of the user's objects are called, which may raise anything.
        try:
            if (by_name := reduce_hdf5(value)) is not None:
                return self._hdf5(by_name[1])
            reduced = _reduce(value)
        except RecursionError:
            raise
        except Exception:
            return _pickled(value)
        if isinstance(reduced, str):
            return self._all("global", (self._name(value), reduced))
        return self._reduced(*reduced)

    def _hdf5(self, where: tuple[str, str | None, bool]) -> bytes:
        path, name, _ = where
        if not self._looks_at_files:
            return self._all("hdf5", (path, name))
        status = os.stat(path)
        return self._all("hdf5", (path, name, status.st_size, status.st_mtime_ns))

    def _reduced(
        self,
        make: Any,
        args: Any,
        state: Any = None,
        items: Iterable[Any] | None = None,
        pairs: Iterable[tuple[Any, Any]] | None = None,
        set_state: Any = None,
    ) -> bytes:
        # What rebuilds an object is mostly a library's.
        parts = (self._name(make) if isinstance(make, FunctionType) else make, args, state)
        more = [*items] if items is not None else None
        named = self._pairs(pairs) if pairs is not None else None
        return self._all("object", (*parts, more, named, set_state))


def _hashed(kind: bytes, *parts: Any) -> bytes:
    # As fast as memory, so that large arguments need not be spared. It tells apart what differs by
    # chance; nobody gains by having another computation taken for this one.
    found = xxhash.xxh3_128(kind + b"\0")
    for part in parts:
        found.update(part)
    return found.digest()


def _joined(kind: str, digests: Iterable[bytes]) -> bytes:
    return _hashed(kind.encode(), b"".join(digests))


def _plain_items(values: Any) -> bytes:
    blocks = range(0, len(values), _BLOCK_ITEMS)
    parts = (marshal.dumps(values[k : k + _BLOCK_ITEMS], _MARSHAL) for k in blocks)
    return _hashed(type(values).__name__.encode(), str(len(values)).encode(), *parts)


def _array(value: Any) -> bytes:
    """Return the digest of an array without objects: dtype, shape, and bytes in C order."""
    head = repr((value.dtype, value.shape)).encode()
    if value.dtype.names:
        # Not all at once: between the fields may be bytes that are anything.
        return _hashed(b"array", head, *(_array(value[name]) for name in value.dtype.names))
    if value.dtype.char in "gG":
        # Of an 80-bit number the bytes that fill it up are anything.
        return _hashed(b"array", head, repr([repr(x) for x in value.ravel()]).encode())
    return _hashed(b"array", head, *_blocks(value))


def _blocks(value: Any) -> Iterator[Any]:
    if not value.nbytes:
        return
    if value.flags.c_contiguous:
        yield np.asarray(value).reshape(-1).view(np.uint8)
        return
    n_rows = max(1, _BLOCK_BYTES * len(value) // value.nbytes)
    for start in range(0, len(value), n_rows):
        block = np.ascontiguousarray(value[start : start + n_rows])
        yield block.reshape(-1).view(np.uint8)


def contents(func: FunctionType) -> Iterator[Any]:
    """Yield what a function's closure holds."""
    for cell in func.__closure__ or ():
        try:
            yield cell.cell_contents
        except ValueError:
            yield UNKNOWN  # not assigned yet


def is_users_class(cls: type) -> bool:
    """Tell whether a class is the user's, and not of an installed package or compiled."""
    module = sys.modules.get(cls.__module__)
    if module is None or cls.__module__ == "__main__":
        return True
    path = getattr(module, "__file__", None) or ""
    return path.endswith(".py") and not is_installed(path)


def _members(cls: type) -> dict[str, Any]:
    """Return what a class without source consists of."""
    kinds = (FunctionType, property, staticmethod, classmethod, *PLAIN)
    members = {name: member for name, member in vars(cls).items() if isinstance(member, kinds)}
    members.pop("__firstlineno__", None)
    return members


def _reduce(value: Any) -> Any:
    registered = copyreg.dispatch_table.get(type(value))
    return value.__reduce_ex__(pickle.HIGHEST_PROTOCOL) if registered is None else registered(value)


def _pickled(value: Any) -> bytes:
    buffers: list[Any] = []

    def take(buffer: pickle.PickleBuffer) -> bool:
        buffers.append(buffer.raw())
        return False

    try:
        return _hashed(b"pickle", pickle_given(value, take), *buffers)
    except RecursionError:
        raise
    except Exception:
        return _UNKNOWN
