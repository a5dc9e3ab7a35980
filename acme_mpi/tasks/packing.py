"""Function and arguments of a run as one segment of shared memory, which all runners of a node map.

It holds pickles and, beside them, the arrays that belong to them: who loads the pickle gets views
of these, which cannot be written to. Of lists and tuples with one item per task every item is a
pickle of its own, so that a runner loads those of its tasks; plain numbers and strings are pickled
together, some hundred at a time. What tasks share and could change is loaded for each task anew.
"""

from __future__ import annotations

import io
import logging
import math
import pickle
import struct
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np

from acme_mpi.linux.segment import Segment
from acme_mpi.results.parts import PLAIN
from acme_mpi.tasks.grid import GridColumn
from acme_mpi.tasks.immutable import is_flat, is_immutable
from acme_mpi.tasks.pickling import OUT_OF_BAND_BYTES, GivenPickler, pickle_given
from acme_mpi.tasks.taskset import Argument, MadeAnew, TaskSet

HEAD = struct.Struct("<qq")  # where the index begins and ends, in bytes
ALIGNMENT = 64  # bytes; arrays begin at multiples of it
BLOCK_ITEMS = 1024  # plain values in one pickle
ROOM_BYTES = 64 * 1024**2  # items may take so much before it is asked whether they share parts
COSTLY_BYTES = 4 * 1024**2  # takes some 20 ms or more to load
COSTLY = (
    "argument %s: tasks could change it, so that each of them loads %.0f MB; what is large is "
    "better an array, or a global that the function reads"
)

logger = logging.getLogger("acme_mpi")


def pack(func: Callable[..., Any] | None, tasks: TaskSet) -> Segment:
    """Return a segment that holds a function, if it is to travel, and all arguments. Independent.

    Raises
    ------
    StoreError
        There is no room for it.
    InputError, or whatever pickling raises
        Something cannot be pickled.
    """
    packer = _Packer()
    root = packer.add(func)
    packer.freeze_arrays()
    arguments = packer.made_anew([packer.itemized(argument) for argument in tasks.arguments])
    makes_anew = any(isinstance(a.value, (MadeAnew, Copies)) for a in arguments)
    packed = packer.add(tasks._replace(arguments=arguments, makes_anew=makes_anew))
    return packer.segment((root, packed))


def unpack(segment: Segment) -> tuple[Callable[..., Any] | None, TaskSet]:
    """Return what `pack` has packed.

    Arrays among the arguments cannot be written to: they are views of the segment or, if they are
    small, of memory that tasks of this process share. Those of the function can, in this process.

    Raises
    ------
    Exception
        Whatever loading the user's objects raises.
    """
    contents = _Contents(segment.view())
    of_func, of_tasks = contents.roots
    own = _Contents(segment.view(private=True)) if of_func.arrays else contents
    func, tasks = own.load(of_func), contents.load(of_tasks)
    for argument in tasks.arguments:
        if isinstance(argument.value, Items):
            argument.value.contents = contents
        elif isinstance(argument.value, Anew):
            argument.value.group.load_first(contents)
    return func, tasks


class _Record(NamedTuple):
    """Where one pickled object is."""

    start: int  # of its pickle, in bytes from the beginning of the segment
    stop: int
    arrays: Sequence[int]  # numbers of those beside it, in the order in which it refers to them


class Items:
    """The values of a split argument, each loaded when its task needs it.

    Parameters
    ----------
    n_items, n_each : int
        Number of values, and how many are one object in the segment.
    edges : (n + 1) ndarray of int64
        Object k is the pickle in the bytes [edges[k], edges[k + 1]) of the segment.
    arrays : ndarray of int64
        Numbers of the arrays of all objects.
    array_edges : (n + 1) ndarray of int64
        Those of object k are ``arrays[array_edges[k]:array_edges[k + 1]]``.
    """

    def __init__(
        self, n_items: int, n_each: int, edges: Any, arrays: Any, array_edges: Any
    ) -> None:
        self.n_items, self.n_each = n_items, n_each
        self.edges, self.arrays, self.array_edges = edges, arrays, array_edges
        self.contents: _Contents | None = None

    def __len__(self) -> int:
        return self.n_items

    def __getitem__(self, span: slice) -> Iterator[Any]:
        """Return an iterator over the values of consecutive tasks, ``[start:stop]``."""
        start, stop, _ = span.indices(self.n_items)
        while start < stop:
            k, first = divmod(start, self.n_each)
            values = self._load(k)[first : first + stop - start]
            yield from values
            start += len(values)

    def _load(self, k: int) -> list[Any]:
        assert self.contents is not None
        numbers = self.arrays[self.array_edges[k] : self.array_edges[k + 1]]
        values: list[Any] = self.contents.load(_Record(self.edges[k], self.edges[k + 1], numbers))
        return values


class Group:
    """Arguments that are made together, as they may have parts in common.

    Parameters
    ----------
    record : _Record
        The list of their values.
    is_flat : bool
        Whether all are one object whose `copy` has nothing in common with it.
    """

    def __init__(self, record: _Record, is_flat: bool) -> None:
        self._record, self._is_flat = record, is_flat
        self._left: dict[int, Any] = {}  # made, and not taken

    def load_first(self, contents: _Contents) -> None:
        """Load them, so that what cannot be loaded is known before the first task."""
        self._contents = contents
        self._first: list[Any] | None = contents.load(self._record)

    def take(self, k: int) -> Any:
        """Return argument `k`, which nobody has got before."""
        if k not in self._left:
            self._left = dict(enumerate(self._make()))
        return self._left.pop(k)

    def _make(self) -> list[Any]:
        first = self._first
        if self._is_flat:
            assert first is not None
            return [first[0].copy()] * len(first)
        self._first = None
        return self._contents.load(self._record) if first is None else first


class Anew(MadeAnew):
    """One argument of a `Group`."""

    def __init__(self, group: Group, k: int) -> None:
        self.group, self._k = group, k

    def make(self) -> Any:
        """Return the argument, loaded or copied for one task."""
        return self.group.take(self._k)


class Copies:
    """The values of a split argument that are loaded together, as they share too much.

    Parameters
    ----------
    values : sequence
        One per task.
    """

    def __init__(self, values: Sequence[Any]) -> None:
        self._values = values

    def __len__(self) -> int:
        return len(self._values)

    def __getitem__(self, span: slice) -> Iterator[Any]:
        """Return an iterator over the values of consecutive tasks, ``[start:stop]``."""
        values = self._values[span]
        return (value if is_immutable(value) else _Copy(value) for value in values)


class _Copy(MadeAnew):
    def __init__(self, value: Any) -> None:
        self._value = value

    def make(self) -> Any:
        """Return a copy; arrays stand beside the pickle and are not copied."""
        buffers: list[Any] = []

        def take(buffer: pickle.PickleBuffer) -> bool:
            buffers.append(buffer)
            return False

        data = pickle_given(self._value, take)
        return pickle.loads(data, buffers=buffers)


class _Contents:
    """The objects in a segment.

    Parameters
    ----------
    view : memoryview
        Its bytes.
    """

    def __init__(self, view: memoryview) -> None:
        self._view = view
        start, stop = HEAD.unpack_from(view)
        roots, self._arrays = pickle.loads(view[start:stop])
        self.roots = [_Record(*root) for root in roots]

    def load(self, record: _Record) -> Any:
        """Return an object, made anew."""
        buffers = [self._view[slice(*self._arrays[number])] for number in record.arrays]
        return pickle.loads(self._view[record.start : record.stop], buffers=buffers)


class _Packer:
    """Collects pickles and the arrays beside them; an array that occurs again is the same one."""

    def __init__(self) -> None:
        self._pickles = io.BytesIO()
        self._pickles.write(bytes(HEAD.size))
        self._pickler = GivenPickler(self._pickles, protocol=5, buffer_callback=self._is_in_band)
        self._arrays: list[memoryview] = []
        self._number_of: dict[tuple[int, int], int] = {}
        self._found: list[int] = []  # by the object that is being pickled

    def add(self, value: Any) -> _Record:
        """Pickle an object."""
        start, self._found = self._pickles.tell(), []
        self._pickler.clear_memo()
        self._pickler.dump(value)
        return _Record(start, self._pickles.tell(), self._found)

    def _is_in_band(self, buffer: pickle.PickleBuffer) -> bool:
        raw = buffer.raw()
        if raw.nbytes < OUT_OF_BAND_BYTES:
            return True
        place = (np.frombuffer(raw, np.uint8).ctypes.data, raw.nbytes)
        number = self._number_of.setdefault(place, len(self._arrays))
        if number == len(self._arrays):
            self._arrays.append(raw)  # keeps its memory from being used again
        self._found.append(number)
        return False

    def freeze_arrays(self) -> None:
        """Make sure that arrays which are added from now on cannot be written to."""
        self._pickler.freezes_arrays = True

    def itemized(self, argument: Argument) -> Argument:
        """Return an argument whose values are pickled each by itself, where that is of use."""
        values = argument.value
        if not argument.per_task:
            return argument
        if isinstance(values, GridColumn):
            is_same = all(map(is_immutable, values.values))
            return argument if is_same else argument._replace(value=Copies(values))
        if isinstance(values, np.ndarray) and values.dtype.hasobject:
            values = list(values)
        if not isinstance(values, (list, tuple)):
            return argument
        is_plain = PLAIN.issuperset(map(type, values))
        if is_plain and len(values) <= BLOCK_ITEMS:
            return argument
        items = self._items(values, BLOCK_ITEMS if is_plain else 1)
        return argument._replace(value=Copies(values) if items is None else items)

    def made_anew(self, arguments: Sequence[Argument]) -> tuple[Argument, ...]:
        """Return arguments of which those that tasks share and could change are made for each."""
        begin, made = self._pickles.tell(), list(arguments)
        groups: dict[int, list[int]] = {}  # numbers of those that may have parts in common
        for number, argument in enumerate(arguments):
            if not argument.per_task and not is_immutable(argument.value):
                key = id(argument.value) if is_flat(argument.value) else 0
                groups.setdefault(key, []).append(number)
        for key, numbers in groups.items():
            group = Group(self.add([arguments[n].value for n in numbers]), is_flat=key != 0)
            for k, number in enumerate(numbers):
                made[number] = arguments[number]._replace(value=Anew(group, k))
        if self._pickles.tell() - begin > COSTLY_BYTES:
            names = [
                before.label
                for before, after in zip(arguments, made, strict=True)
                if before is not after
            ]
            logger.warning(COSTLY, ", ".join(names), (self._pickles.tell() - begin) / 1e6)
        return tuple(made)

    def _items(self, values: Sequence[Any], n_each: int) -> Items | None:
        """Pickle values; None if they share so much that all together are much smaller."""
        begin, room = self._pickles.tell(), float(ROOM_BYTES)
        edges, array_edges = [begin], [0]
        arrays: list[int] = []
        for first in range(0, len(values), n_each):
            record = self.add(list(values[first : first + n_each]))
            arrays += record.arrays
            edges.append(record.stop)
            array_edges.append(len(arrays))
            if record.stop - begin > room:
                room = math.inf
                share = (first + n_each) / len(values)
                if record.stop - begin > 2 * share * _n_bytes_together(values):
                    self._pickles.seek(begin)
                    self._pickles.truncate()
                    return None
        columns = (np.array(each, np.int64) for each in (edges, arrays, array_edges))
        return Items(len(values), n_each, *columns)

    def segment(self, roots: Sequence[_Record]) -> Segment:
        """Return all of it, with an index that leads to some of the objects."""
        end = self._pickles.tell()
        pieces: list[Any] = []
        places = np.empty((len(self._arrays), 2), np.int64)
        for number, raw in enumerate(self._arrays):
            gap = -end % ALIGNMENT
            pieces += [bytes(gap), raw]
            places[number] = end + gap, end + gap + raw.nbytes
            end += gap + raw.nbytes
        index = pickle.dumps(([tuple(root) for root in roots], places), protocol=5)
        pickles = self._pickles.getbuffer()
        HEAD.pack_into(pickles, 0, end, end + len(index))
        return Segment.of([pickles, *pieces, index])


def _n_bytes_together(values: Sequence[Any]) -> int:
    """Return the size of one pickle of all values, without their large arrays."""
    return len(pickle_given(values, lambda buffer: buffer.raw().nbytes < OUT_OF_BAND_BYTES))
