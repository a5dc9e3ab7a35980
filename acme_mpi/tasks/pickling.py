"""Pickles of what users give, functions and arguments, and of what their functions return."""

from __future__ import annotations

import io
import pickle
import weakref
from collections.abc import Callable, Sequence
from types import BuiltinFunctionType, CodeType, FunctionType
from typing import Any

import cloudpickle
import numpy as np

from acme_mpi.results.convert import ResultError
from acme_mpi.results.parts import NUMPY_NUMBERS
from acme_mpi.tasks.classes import fill_unless_own, name_class, whole_class
from acme_mpi.tasks.hdf5_arguments import reduce_hdf5
from acme_mpi.tasks.scripts_main import reduce_of_main
from acme_mpi.tasks.standard import DISPATCH_TABLE, reduce_class_method

FEW = 64  # values, of which a pickler of our own costs more than the pickling
TRIED_BYTES = 16 * 1024 * 1024  # a larger pickle is not loaded only to see whether it can be
OUT_OF_BAND_BYTES = 16 * 1024  # arrays from here on stand beside the pickle, and are not copied
UNLOADABLE = "its return value cannot be loaded by the caller"

Take = Callable[[pickle.PickleBuffer], bool]

_LOADED: weakref.WeakSet[type] = weakref.WeakSet()  # kinds of objects that have been loaded again


class GivenPickler(cloudpickle.Pickler):  # type: ignore[misc]
    """Pickles what users give: open HDF5 files by their names, all else as cloudpickle does.

    Attributes
    ----------
    freezes_arrays : bool
        Arrays cannot be written to where they are loaded, be they large or small.
    """

    freezes_arrays = False
    dispatch_table = DISPATCH_TABLE

    def reducer_override(self, value: Any) -> Any:
        """Return how `value` is pickled."""
        if isinstance(value, CodeType):
            return self._reduce_code(value)
        if type(value) is np.ndarray and self.freezes_arrays:
            return _reduce_frozen(value)
        reduced = reduce_hdf5(value) or reduce_class_method(value)
        if reduced is not None:
            return reduced
        if isinstance(value, type):
            name_class(value)
            return reduce_of_main(value, whole_class(value, super().reducer_override(value)))
        return reduce_of_main(value, super().reducer_override(value))

    def _reduce_code(self, code: CodeType) -> Any:
        """Keep the name of the file, for tracebacks; cloudpickle 3.1.3 and later leave it out."""
        rebuild, fields = self.dispatch_table[CodeType](code)
        return rebuild, tuple(code.co_filename if _is_left_out(f) else f for f in fields)


def _is_left_out(field: Any) -> bool:
    return isinstance(field, str) and field == "<dynamic-code>"


def _reduce_frozen(array: Any) -> Any:
    # In a pickle, too, the memory of what is read-only loads as bytes, which nobody can change.
    view = array.view()
    view.flags.writeable = False
    reduced = view.__reduce_ex__(5)
    # Arrays of objects, and those that are not contiguous, are made without such memory.
    return reduced if len(reduced) == 2 else (*reduced, None, None, _set_frozen_state)


def _set_frozen_state(array: Any, state: Any) -> None:
    array.__setstate__(state)
    array.flags.writeable = False


def pickle_given(value: Any, take: Take | None = None) -> bytes:
    """Pickle a function or an argument.

    Parameters
    ----------
    value : object
        What the user has given.
    take : callable, optional
        The pickler's `buffer_callback`.

    Raises
    ------
    InputError
        An open HDF5 file among it cannot be opened by others.
    Exception
        Whatever its own methods raise.
    """
    file = io.BytesIO()
    GivenPickler(file, protocol=5, buffer_callback=take).dump(value)
    return file.getvalue()


class ResultPickler(cloudpickle.Pickler):  # type: ignore[misc]
    """Pickles what functions return.

    Attributes
    ----------
    kinds : set of type
        Of the objects so far that may not load again, whoever pickles them.
    """

    dispatch_table = DISPATCH_TABLE

    def __init__(self, *arguments: Any, **keywords: Any) -> None:
        super().__init__(*arguments, **keywords)
        self.kinds: set[type] = set()

    def reducer_override(self, value: Any) -> Any:
        """Return how `value` is pickled; not called for Python's own plain types."""
        if not _is_numpys(value):
            self.kinds.add(value if isinstance(value, type) else type(value))
        if isinstance(value, type):
            return whole_class(value, super().reducer_override(value))
        return reduce_class_method(value) or super().reducer_override(value)


def _is_numpys(value: Any) -> bool:
    # Arrays, scalars and dtypes, and by what these are made again.
    kind = type(value)
    is_named = issubclass(kind, (type, FunctionType, BuiltinFunctionType))
    return str(value.__module__ if is_named else kind.__module__).partition(".")[0] == "numpy"


class ValuePickler(ResultPickler):
    """Pickles values for the caller, whose own classes are left as they are."""

    def reducer_override(self, value: Any) -> Any:
        """Return how `value` is pickled."""
        reduced = super().reducer_override(value)
        if isinstance(value, type) and isinstance(reduced, tuple) and len(reduced) == 6:
            return (*reduced[:5], fill_unless_own)
        return reduced


class Frozen:
    """A return value as it was when the function returned it; loads as that value.

    Parameters
    ----------
    value : object
        Pickled at once.

    Raises
    ------
    ResultError
        It cannot be pickled.
    """

    def __init__(self, value: Any) -> None:
        self._data = pickle_result(value, ValuePickler)

    @property
    def n_bytes(self) -> int:
        """Size of the pickle."""
        return len(self._data)

    def __reduce__(self) -> tuple[Any, ...]:
        """Pickle as the instruction to load the value."""
        return thaw, (self._data,)


class AsRaised:
    """An exception, pickled as what it consists of; `__init__` is not called when it is loaded.

    Parameters
    ----------
    error : BaseException
        Of a type that does not say how it is pickled.
    """

    def __init__(self, error: BaseException) -> None:
        self._error = error

    def __reduce__(self) -> tuple[Any, ...]:
        """Pickle as the instruction to make it anew."""
        error = self._error
        if type(error).__reduce__ is not BaseException.__reduce__:
            raise pickle.PicklingError(f"{type(error).__name__} has a __reduce__ of its own")
        return _made_anew, (type(error), error.args, vars(error))


def _made_anew(kind: type[BaseException], args: tuple[Any, ...], state: dict[str, Any]) -> Any:
    error = kind.__new__(kind, *args)
    error.args = args
    vars(error).update(state)
    return error


class Unloadable:
    """Stands for a return value that does not load in this process.

    Attributes
    ----------
    reason : str
        What loading it has raised.
    """

    n_made = 0

    def __init__(self, error: BaseException) -> None:
        Unloadable.n_made += 1
        self.reason = f"{type(error).__name__}: {text_of(error)}"


def thaw(data: bytes) -> Any:
    """Load the value of a `Frozen`; one that does not load costs no other."""
    try:
        return pickle.loads(data)
    except (Exception, SystemExit) as error:
        return Unloadable(error)


def pickle_result(value: Any, pickler: type[ResultPickler] = ResultPickler) -> bytes:
    """Return a pickle that plain `pickle` reads.

    Raises
    ------
    ResultError
        The value cannot be pickled either, or is not to be had from its pickle.
    """
    file = io.BytesIO()
    making = pickler(file, protocol=5)
    try:
        making.dump(value)
    except Exception as error:
        raise ResultError(f"a value that cannot be pickled: {text_of(error)}") from None
    data = file.getvalue()
    # Once for each kind of object: a class that travels by value takes long to load. What fails
    # only for some values, the caller finds.
    if not making.kinds <= _LOADED and len(data) <= TRIED_BYTES:
        loaded = thaw(data)
        if isinstance(loaded, Unloadable):
            raise ResultError(f"a value whose pickle cannot be loaded: {loaded.reason}")
        _LOADED.update(making.kinds)
    return data


# Types whose objects every pickler pickles alike, and loads again; these it knows by itself.
_NATIVE = frozenset({bool, int, float, str, bytes, type(None)})
_PLAIN = _NATIVE | NUMPY_NUMBERS | {complex, np.str_, np.bytes_}


def are_native(values: Sequence[Any]) -> bool:
    """Tell whether there are but a few values, which `pickle.dumps` alone does well and quickly."""
    return len(values) <= FEW and _NATIVE.issuperset(map(type, values))


def are_plain(values: Sequence[Any]) -> bool:
    """Tell whether all values are numbers, texts, or arrays of numbers, of no types of others.

    It says no as well where to look at all would cost as much as the pickling.
    """
    if type(values) is range:
        return True
    if len(values) > FEW and type(values[0]) in _NATIVE:
        return False
    kinds = {*map(type, values)}
    if np.ndarray not in kinds:
        return kinds <= _PLAIN
    kinds.discard(np.ndarray)
    arrays = (value for value in values if type(value) is np.ndarray)
    return kinds <= _PLAIN and not any(array.dtype.hasobject for array in arrays)


def large_into(buffers: list[Any]) -> Take:
    """Return what a pickler calls with buffers: large ones go into a list, and are not copied.

    Parameters
    ----------
    buffers : list
        Gets them, as (n,) ndarray of uint8.
    """

    def take(buffer: pickle.PickleBuffer) -> bool:
        raw = buffer.raw()
        if raw.nbytes < OUT_OF_BAND_BYTES:
            return True
        buffers.append(np.frombuffer(raw, np.uint8))
        return False

    return take


def dump_plain(values: Any, take: Take) -> bytes:
    """Pickle what `are_plain` says so of, or a list of that: without a pickler of our own."""
    return pickle.dumps(values, protocol=5, buffer_callback=take)


def dump_values(values: list[Any]) -> tuple[bytes, list[Any]]:
    """Pickle return values, each plain or `Frozen`; large arrays become out-of-band buffers."""
    buffers: list[Any] = []
    file = io.BytesIO()
    ValuePickler(file, protocol=5, buffer_callback=large_into(buffers)).dump(values)
    return file.getvalue(), buffers


def load_values(data: Any, buffers: list[Any]) -> tuple[list[Any], dict[int, str]]:
    """Undo `dump_values`.

    Returns
    -------
    values : list
        None in the place of one that does not load here.
    unloadable : dict of int to str
        The places of these, and why.
    """
    n_before = Unloadable.n_made
    values = pickle.loads(data, buffers=buffers)
    if Unloadable.n_made == n_before:
        return values, {}
    unloadable = {k: each.reason for k, each in enumerate(values) if type(each) is Unloadable}
    return [None if k in unloadable else each for k, each in enumerate(values)], unloadable


def text_of(value: Any, convert: Callable[[Any], str] = str) -> str:
    """Return an object of the user's as text, whatever its own methods do."""
    try:
        return convert(value)[:2000]
    except BaseException as error:
        return f"(its text cannot be had: {type(error).__name__})"


def join_values(pieces: Sequence[Any], n_tasks: int) -> tuple[list[Any], dict[int, str]]:
    """Return the return values of all tasks.

    Parameters
    ----------
    pieces : sequence of (runs, values, buffers)
        Pickled lists of values for runs of consecutive tasks.
    n_tasks : int
        Number of tasks.

    Returns
    -------
    values : list
        In task order; None where there is none.
    unloadable : dict of int to str
        Tasks whose value does not load in this process, and why.
    """
    values: list[Any] = [None] * n_tasks
    unloadable: dict[int, str] = {}
    for runs, data, buffers in pieces:
        loaded, missing = load_values(data, buffers or [])
        done = 0
        for start, stop in runs:
            values[start:stop] = loaded[done : done + stop - start]
            unloadable.update(
                (start + k - done, f"{UNLOADABLE}: {missing[k]}")
                for k in missing
                if done <= k < done + stop - start
            )
            done += stop - start
    return values, unloadable
