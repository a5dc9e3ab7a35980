"""Collect what tasks return in the form that the store of a run wants."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from acme_mpi.results.checksum import checksum
from acme_mpi.results.convert import Array, Part, ResultError, fits_64_bits, to_array
from acme_mpi.results.named import named
from acme_mpi.results.parts import (
    PLACED_BYTES,
    PLAIN_NUMBERS,
    PLAIN_VALUES,
    NamedParts,
    Parts,
    is_placed,
    is_several,
    to_parts,
    what_it_is,
)
from acme_mpi.results.spec import MisfitError, RowSpec, first_form, to_column


@dataclass
class Content:
    """The results of the tasks of one outcome, in index order, failed ones left out.

    Exactly what the run's mode needs is filled.

    Attributes
    ----------
    rows : (n_results, *row_shape) ndarray, or list of ndarray and tuple of (int, int), or None
        With a RowSpec. It is a list if the runner has written some of the rows itself: in their
        places are size in bytes and checksum.
    further_rows : list
        Like `rows`, for each further column.
    parts : list of Parts, or None
        Without a RowSpec all parts, with one those behind its columns, or a pickle: then there
        is no row, whatever stands in its place. A tuple of size in bytes and checksum stands for a
        part that the runner has written itself.
    values : bytes, or None
        In memory mode: the pickled list of return values; with a RowSpec of sequences of those
        from ``result_1`` on, None if there are none.
    buffers : list of ndarray of uint8
        Out-of-band buffers of `values`.
    unstorable : tuple of (int, str), or None
        The first task whose result was pickled, though HDF5 was asked for, and why.
    """

    rows: Array | list[Array | tuple[int, int]] | None = None
    parts: list[Parts] | None = None
    values: bytes | None = None
    buffers: list[Any] | None = None
    unstorable: tuple[int, str] | None = None
    further_rows: list[Any] = field(default_factory=list)

    @property
    def columns(self) -> list[Any]:
        """The rows of all columns; empty without rows."""
        return [] if self.rows is None else [self.rows, *self.further_rows]


# place(index, k, shape, dtype) -> write(array), or None if the result shall travel
Place = Callable[[int, int, tuple[int, ...], str], Callable[[Array], None] | None]


# agree(names) -> the names that the results of the run have
Agree = Callable[[tuple[str, ...]], tuple[str, ...]]


class Encoder:
    """Collect the results of consecutive tasks in the form that the store of this run wants.

    Parameters
    ----------
    spec : RowSpec or None
        Common form of the results.
    in_memory : bool
        Keep the values as they are, pickled.
    place : callable or None
        Asked once for every array of `PLACED_BYTES` and more.
    dumps : callable
        ``dumps(list) -> (bytes, buffers)`` for values that stay in memory.
    freeze : callable, optional
        ``freeze(value)``: what stands for a value that stays in memory until it is dumped, so that
        the function may go on using the object it has returned.
    to_pickle : callable, optional
        ``to_pickle(value) -> bytes``; raises `ResultError`.
    as_pickles : bool
        Every result becomes a pickle.
    may_pickle : bool
        What HDF5 cannot hold becomes a pickle, of the list of return values.
    names : tuple of str
        What the user calls the results of a task; empty: the first one with names decides.
    agree : callable, optional
        ``agree(names)``: asked once for the names of the run's results; default these.
    agree_on_form : callable, optional
        ``agree_on_form(form)``: asked once for the form of the run's results if the first one
        decides; default this.
    """

    def __init__(
        self,
        spec: RowSpec | None,
        in_memory: bool,
        place: Place | None = None,
        dumps: Callable[[list[Any]], tuple[bytes, list[Any]]] | None = None,
        freeze: Callable[[Any], Any] | None = None,
        to_pickle: Callable[[Any], bytes] | None = None,
        as_pickles: bool = False,
        may_pickle: bool = False,
        names: tuple[str, ...] = (),
        agree: Agree | None = None,
        agree_on_form: Callable[[RowSpec], RowSpec] | None = None,
    ) -> None:
        self._wanted, self._agree, self._agree_on_form = names, agree, agree_on_form
        self._agreed: tuple[str, ...] = ()
        self._spec, self._in_memory, self._place = spec, in_memory, place
        self._dumps, self._freeze, self._to_pickle = dumps, freeze, to_pickle
        self._as_pickles, self._may_pickle = as_pickles, may_pickle
        self._as_rows = spec is not None and not spec.is_ragged and not spec.is_open
        self.add = self._choose_add()
        self._clear()

    @property
    def spec(self) -> RowSpec | None:
        """The form of the rows, decided by the first value if it was open."""
        return self._spec

    def _choose_add(self) -> Callable[[int, Any], None]:
        """Return ``add(index, value)``, which takes the return value of a task.

        Indices come in increasing order. It raises `ResultError` if the value cannot be stored;
        then nothing of it was taken.
        """
        if self._spec is not None and self._spec.is_open:
            return self._add_first
        if self._spec is not None:
            is_float = self._spec.shape == () and self._spec.dtype == "<f8"
            is_one = not self._spec.further
            return self._add_float if is_float and is_one else self._add_row
        if self._as_pickles:
            return self._add_pickle
        if self._in_memory:
            return self._add_value
        return self._add_any if self._wanted else self._add_parts

    def _choose_plain(self) -> tuple[frozenset[type], Callable[[Any], None]]:
        """Return what `plain` is from now on."""
        if self.add == self._add_value:
            return PLAIN_VALUES, self._values.append
        if self.add == self._add_float and not self._has_more:
            return _FLOAT, self._rows.append
        if self.add == self._add_parts:
            return _FLOAT, self._parts.append
        return frozenset(), self._values.append

    def _clear(self) -> None:
        self._columns: list[list[Any]] = [[] for _ in self._spec.columns] if self._spec else [[]]
        self._rows = self._columns[0]
        self._parts: list[Parts] = []
        self._values: list[Any] = []
        self._are_some_placed = False
        self._has_more = False
        self._unstorable: tuple[int, str] | None = None
        self.n_bytes = 0
        self.plain = self._choose_plain()

    def _add_parts(self, index: int, value: Any) -> None:
        if type(value) in PLAIN_NUMBERS and fits_64_bits(value):
            self._parts.append(value)
        else:
            self._add_any(index, value)

    def _add_any(self, index: int, value: Any) -> None:
        try:
            names, parts, note = self._named_parts(value)
        except MisfitError:
            raise
        except ResultError as error:
            self._parts.append(self._pickle_instead(index, value, error))
            return
        parts = self._place_large(index, 0, parts)
        self._parts.append(NamedParts(names, parts, note) if names else parts)

    def _named_parts(self, value: Any) -> tuple[tuple[str, ...], list[Part], str]:
        """Return names, if there are any, parts, and a note, if there is one, of a return value."""
        if type(value) in _NAMELESS and not self._wanted:
            try:
                return (), to_parts(value), ""
            except ResultError:
                if not _are_some_foreign(_entries(value)):
                    raise
        from acme_mpi.results.apart import Apart  # most results are numbers and arrays
        from acme_mpi.results.foreign import take_apart, taken_together

        apart = None if self._wanted else take_apart(value)
        if apart is None:
            names, parts = self._names_and_parts(value)
            if not any(isinstance(each, Apart) for each in parts):
                return names, parts, ""
            apart = taken_together(names, parts)
        return tuple(apart.arrays), list(apart.arrays.values()), apart.text()

    def _names_and_parts(self, value: Any) -> tuple[tuple[str, ...], list[Part]]:
        """Return names, if there are any, and parts; some of them may be taken apart."""
        found = named(value)
        names, values = (self._wanted, value) if found is None else (found.names, found.values)
        entries = _entries(value) if found is None else list(values)
        if _are_some_foreign(entries):
            from acme_mpi.results.foreign import take_apart

            parts = [take_apart(each) or to_array(each) for each in entries]
        else:
            parts = to_parts(value if found is None else tuple(values))
        if names and len(entries) != len(names):
            called = ", ".join(names)
            raise MisfitError(f"expected {len(names)} result(s), {called}; got {len(entries)}")
        return self._in_order(names, parts) if names and names != self._agreed else (names, parts)

    def _in_order(
        self, names: tuple[str, ...], parts: list[Part]
    ) -> tuple[tuple[str, ...], list[Part]]:
        if not self._agreed:
            proposed = self._wanted or names
            self._agreed = proposed if self._agree is None else self._agree(proposed)
        if set(names) == set(self._agreed):
            return self._agreed, [parts[names.index(name)] for name in self._agreed]
        error = MisfitError if self._wanted else ResultError
        raise error(_other_names(names, self._agreed, bool(self._wanted)))

    def _pickle_instead(self, index: int, value: Any, error: ResultError) -> bytes:
        """Return a pickle of what HDF5 cannot hold, where that is allowed."""
        if not self._may_pickle:
            raise error
        data = self._pickled(list(value) if is_several(value) else [value])
        self._unstorable = self._unstorable or (index, str(error))
        return data

    def _pickled(self, value: Any) -> bytes:
        assert self._to_pickle is not None
        data = self._to_pickle(value)
        self.n_bytes += len(data)
        return data

    def _add_pickle(self, index: int, value: Any) -> None:
        self._parts.append(self._pickled(value))

    def _add_value(self, index: int, value: Any) -> None:
        if type(value) in PLAIN_VALUES:  # first, as these are returned the quickest
            self._values.append(value)
        else:
            self._values.append(self._frozen(value))

    def _frozen(self, value: Any) -> Any:
        """Return what stands for a value that stays in memory as it is now."""
        if type(value) is np.ndarray and not value.dtype.hasobject:
            self.n_bytes += value.nbytes
            return value.copy()
        assert self._freeze is not None
        value = self._freeze(value)
        self.n_bytes += value.n_bytes
        return value

    def _add_float(self, index: int, value: Any) -> None:
        if type(value) is not float:
            return self._add_row(index, value)
        self._rows.append(value)
        if self._has_more:
            self._parts.append([])

    def _add_first(self, index: int, value: Any) -> None:
        """Add a value of a run whose form the first one decides."""
        assert self._spec is not None
        if self._spec.is_open:
            form = first_form(value, self._wanted)
            if self._agree_on_form is not None:
                form = self._agree_on_form(form)
            self._spec = self._spec.settled(form)
            self._as_rows, self._columns = True, [[] for _ in form.columns]
            self._rows = self._columns[0]
            self.add = self._choose_add()
            self.plain = self._choose_plain()
        self.add(index, value)  # others may hold on to this method

    def _add_row(self, index: int, value: Any) -> None:
        assert self._spec is not None
        try:
            values, rest = self._split(value)
            rows = [to_column(*each) for each in zip(values, self._spec.columns, strict=True)]
            if not self._in_memory:
                rest = [to_array(entry) for entry in rest]
        except MisfitError as error:
            is_unclear = isinstance(value, tuple) and not self._spec.further
            hint = "; a tuple is several return values, one row is one array" if is_unclear else ""
            raise MisfitError(f"{error}{hint}") from None
        except ResultError as error:
            self._add_no_row(self._pickle_instead(index, value, error))
            return
        if not self._as_rows:
            self._parts.append(self._place_large(index, 0, [*rows, *rest]))
            return
        rows = self._place_large(index, 0, rows)
        if self._in_memory:
            self._append_rows(rows, rest and self._frozen(rest))
        else:
            self._append_rows(rows, self._place_large(index, len(rows), rest))

    def _split(self, value: Any) -> tuple[list[Any], list[Any]]:
        """Return the values that become rows, one for each column, and all others."""
        assert self._spec is not None
        names = self._spec.names
        found = named(value) if names else None
        if found is not None:
            if {*found.names} != {*names}:
                got = ", ".join(found.names)
                raise MisfitError(f"expected results called {', '.join(names)}, got {got}")
            by_name = dict(zip(found.names, found.values, strict=True))
            return [by_name[name] for name in names], []
        if not self._spec.further:
            first, *rest = value if self._is_row_and_more(value) else (value,)
            return [first], rest
        if not names:
            return self._split_unnamed(value)
        if not isinstance(value, tuple) or len(value) != len(names):
            raise MisfitError(
                f"expected a dict, or a tuple, of {', '.join(names)}, got {what_it_is(value)}"
            )
        return list(value), []

    def _split_unnamed(self, value: Any) -> tuple[list[Any], list[Any]]:
        assert self._spec is not None
        entries, n = list(value) if is_several(value) else [value], len(self._spec.columns)
        if len(entries) < n:
            raise MisfitError(f"expected {n} results or more, got {what_it_is(value)}")
        return entries[:n], entries[n:]

    def _is_row_and_more(self, value: Any) -> bool:
        """Tell whether a return value is several, of which the first is the row.

        Where rows have axes a tuple of numbers alone is one row.
        """
        assert self._spec is not None
        if not isinstance(value, tuple) or not value:
            return False
        return not self._spec.shape or not all(isinstance(e, _SCALARS) for e in value)

    def _add_no_row(self, data: bytes) -> None:
        """Add a pickle in the place of a row."""
        if self._as_rows:
            assert self._spec is not None
            blank = [np.zeros(column.row_shape, column.dtype) for column in self._spec.columns]
            self._append_rows(blank, data)
        else:
            self._parts.append(data)

    def _append_rows(self, rows: list[Any], more: Any) -> None:
        # Almost no function returns more than the row: only then is that kept, for each task.
        if more and not self._has_more:
            self._has_more = True
            self._parts = [[] for _ in self._rows]
            self.plain = self._choose_plain()
        if self._has_more:
            self._parts.append(more)
        for column, row in zip(self._columns, rows, strict=True):
            column.append(row)
            self._are_some_placed = self._are_some_placed or is_placed(row)

    def _place_large(self, index: int, first: int, parts: list[Part]) -> list[Part]:
        return [self._place_or_keep(index, k, part) for k, part in enumerate(parts, first)]

    def _place_or_keep(self, index: int, k: int, part: Part) -> Part:
        """Write a large array where the store wants it, or return what travels in the outcome."""
        if part is None or part.dtype.kind == "O":
            return part
        if self._place is not None and part.nbytes >= PLACED_BYTES and not part.dtype.names:
            write = self._place(index, k, part.shape, part.dtype.str)
            if write is not None:
                write(part)
                return part.nbytes, checksum(part)
        self.n_bytes += part.nbytes
        # A function may return the same buffer each time: keep what it held at this call.
        return np.array(part)

    def take(self) -> Content:
        """Return what was collected since the last call."""
        content = Content(unstorable=self._unstorable)
        if self._as_rows:
            content.rows, *content.further_rows = self._taken_rows()
            if self._has_more and not self._in_memory:
                content.parts = self._parts
        if self._in_memory and (self._spec is None or self._has_more):
            assert self._dumps is not None
            values = self._values if self._spec is None else self._parts
            content.values, content.buffers = self._dumps(values)
        elif not self._as_rows:
            content.parts = self._parts
        self._clear()
        return content

    def _taken_rows(self) -> list[Any]:
        """Return the rows of all columns, packed unless the runner has written some itself."""
        assert self._spec is not None
        if self._are_some_placed:
            return list(self._columns)
        return [_packed(*each) for each in zip(self._columns, self._spec.columns, strict=True)]


def _packed(rows: list[Any], column: RowSpec) -> Array:
    packed = np.empty((len(rows), *column.row_shape), column.dtype)
    if rows:
        packed[:] = rows
    return packed


_FLOAT = frozenset({float})
_SCALARS = (bool, int, float, complex, np.number, np.bool_)


# What is returned the most often, without names.
_NAMELESS: frozenset[type] = frozenset(
    {*PLAIN_VALUES, tuple, list, bytes, np.ndarray, np.float64, np.float32, np.int64, np.bool_}
)


def _entries(value: Any) -> list[Any]:
    """Return the values that a return value without names is."""
    return list(value) if is_several(value) else [value]


def _are_some_foreign(entries: list[Any]) -> bool:
    from acme_mpi.results.foreign import is_foreign  # as above

    return any(map(is_foreign, entries))


def _other_names(names: tuple[str, ...], agreed: tuple[str, ...], are_wanted: bool) -> str:
    """Return what is wrong with the names of a task's results."""
    missing = [name for name in agreed if name not in names]
    unknown = [name for name in names if name not in agreed]
    told = [("missing: ", missing), ("not expected: ", unknown)]
    differences = "; ".join(words + ", ".join(each) for words, each in told if each)
    origin = "" if are_wanted else ", as the first that ended: all tasks of a run have the same"
    return f"expected results called {', '.join(agreed)}{origin}; {differences}"
