"""Function and arguments of a run as one segment of shared memory, which all runners of a node map.

It holds pickles and, beside them, the arrays that belong to them: who loads the pickle gets views
of these, which cannot be written to. Of lists and tuples with one item per task every item is a
pickle of its own, so that a runner loads those of its tasks; plain numbers and strings are pickled
together, some hundred at a time.
"""

from __future__ import annotations

import io
import math
import pickle
import struct
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from typing import Any, NamedTuple

import numpy as np

from acme_mpi.results import PLAIN
from acme_mpi.runner.pickling import OUT_OF_BAND_BYTES, GivenPickler, pickle_given
from acme_mpi.segment import Segment
from acme_mpi.tasks import Argument, TaskSet

HEAD = struct.Struct("<qq")  # where the index begins and ends, in bytes
ALIGNMENT = 64  # bytes; arrays begin at multiples of it
BLOCK_ITEMS = 1024  # plain values in one pickle
ROOM_BYTES = 64 * 1024**2  # items may take so much before it is asked whether they share parts


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
    arguments = tuple(packer.itemized(argument) for argument in tasks.arguments)
    roots = packer.add(func), packer.add(replace(tasks, arguments=arguments))
    return packer.segment(roots)


def unpack(segment: Segment) -> tuple[Callable[..., Any] | None, TaskSet]:
    """Return what `pack` has packed.

    Arguments that are arrays, and all arrays of 16 KiB and more, are views of the segment or, if
    they are small, of memory that all tasks of this process share: they cannot be written to.

    Raises
    ------
    Exception
        Whatever loading the user's objects raises.
    """
    contents = _Contents(segment.view())
    func, tasks = (contents.load(record) for record in contents.roots)
    for argument in tasks.arguments:
        if isinstance(argument.value, Items):
            argument.value.contents = contents
        elif isinstance(argument.value, np.ndarray):
            argument.value.setflags(write=False)
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

    def itemized(self, argument: Argument) -> Argument:
        """Return an argument whose values are pickled each by itself, where that is of use."""
        values = argument.value
        if not argument.per_task or not isinstance(values, (list, tuple)):
            return argument
        is_plain = PLAIN.issuperset(map(type, values))
        if is_plain and len(values) <= BLOCK_ITEMS:
            return argument
        items = self._items(values, BLOCK_ITEMS if is_plain else 1)
        return argument if items is None else replace(argument, value=items)

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
