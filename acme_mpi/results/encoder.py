"""Collect what tasks return in the form that the store of a run wants: an encoder for each form."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from acme_mpi.results.checksum import checksum
from acme_mpi.results.columns import split
from acme_mpi.results.content import Content
from acme_mpi.results.convert import Array, Part, ResultError, fits_64_bits, to_array
from acme_mpi.results.naming import Agree, Naming
from acme_mpi.results.parts import (
    NUMPY_NUMBERS,
    PLACED_BYTES,
    PLAIN_NUMBERS,
    PLAIN_VALUES,
    NamedParts,
    Parts,
    is_placed,
    is_several,
)
from acme_mpi.results.spec import MisfitError, RowSpec, first_form, to_column

# place(index, k, shape, dtype) -> write(array), or None if the result shall travel
Place = Callable[[int, int, tuple[int, ...], str], Callable[[Array], None] | None]
Plain = tuple[frozenset[type], Callable[[Any], None]]
_FLOAT = frozenset({float})


@dataclass(frozen=True)
class Ways:
    """How values leave the runner.

    Attributes
    ----------
    place : callable or None
        Asked once for every array of `PLACED_BYTES` and more.
    dumps : callable
        ``dumps(list) -> (bytes, buffers)`` for values that stay in memory.
    freeze : callable, optional
        ``freeze(value)``: what stands for a value that stays in memory until it is dumped, so that
        the function may go on using the object it has returned.
    to_pickle : callable, optional
        ``to_pickle(value) -> bytes``; raises `ResultError`.
    may_pickle : bool
        What HDF5 cannot hold becomes a pickle, of the list of return values.
    """

    place: Place | None = None
    dumps: Callable[[list[Any]], tuple[bytes, list[Any]]] | None = None
    freeze: Callable[[Any], Any] | None = None
    to_pickle: Callable[[Any], bytes] | None = None
    may_pickle: bool = False


def encoder_of(
    spec: RowSpec | None,
    in_memory: bool,
    ways: Ways = Ways(),
    as_pickles: bool = False,
    names: tuple[str, ...] = (),
    agree: Agree | None = None,
    agree_on_form: Callable[[RowSpec], RowSpec] | None = None,
) -> Encoder:
    """Return the encoder for the results of a run.

    Parameters
    ----------
    spec : RowSpec or None
        Common form of the results.
    in_memory : bool
        Keep the values as they are, pickled.
    ways : Ways
        How values leave the runner.
    as_pickles : bool
        Every result becomes a pickle.
    names, agree : tuple of str, callable
        As of `Naming`.
    agree_on_form : callable, optional
        ``agree_on_form(form)``: asked once for the form of the run's results if the first one
        decides; default this.
    """
    if spec is not None and spec.is_open:
        return OpenEncoder(spec, in_memory, ways, names, agree_on_form)
    if spec is not None and spec.is_ragged:
        return RaggedEncoder(spec, ways)
    if spec is not None:
        return RowsInMemoryEncoder(spec, ways) if in_memory else RowsEncoder(spec, ways)
    if as_pickles:
        return PicklesEncoder(ways)
    if in_memory:
        return ValuesEncoder(ways)
    kind = NamedEncoder if names else PartsEncoder
    return kind(ways, Naming(names, agree))


class Encoder(ABC):
    """Collect the results of consecutive tasks.

    Parameters
    ----------
    ways : Ways
        How values leave the runner.

    Attributes
    ----------
    plain : tuple of (frozenset of type, callable)
        Values of exactly these types need only be appended, by ``append(value)``. It may be another
        one after each `add` and `take`.
    n_bytes : int
        About how much is collected, in bytes; numbers do not count.
    spec : RowSpec or None
        The form of the rows.
    """

    spec: RowSpec | None = None
    plain: Plain
    n_bytes: int

    def __init__(self, ways: Ways) -> None:
        self._ways = ways
        self._clear()

    @abstractmethod
    def add(self, index: int, value: Any) -> None:
        """Take the return value of a task; indices come in increasing order.

        Raises
        ------
        ResultError
            It cannot be stored; then nothing of it was taken.
        """

    @abstractmethod
    def _content(self) -> Content:
        """Return what was collected."""

    def take(self) -> Content:
        """Return what was collected since the last call."""
        content = self._content()
        content.unstorable = self._unstorable
        self._clear()
        return content

    def _clear(self) -> None:
        self.n_bytes = 0
        self._unstorable: tuple[int, str] | None = None

    def _pickled(self, value: Any) -> bytes:
        assert self._ways.to_pickle is not None
        data = self._ways.to_pickle(value)
        self.n_bytes += len(data)
        return data

    def _pickle_instead(self, index: int, value: Any, error: ResultError) -> bytes:
        """Return a pickle of what HDF5 cannot hold, where that is allowed."""
        if not self._ways.may_pickle:
            raise error
        data = self._pickled(list(value) if is_several(value) else [value])
        self._unstorable = self._unstorable or (index, str(error))
        return data

    def _frozen(self, value: Any) -> Any:
        """Return what stands for a value that stays in memory as it is now."""
        if type(value) is np.ndarray and not value.dtype.hasobject:
            self.n_bytes += value.nbytes
            return value.copy()
        assert self._ways.freeze is not None
        value = self._ways.freeze(value)
        self.n_bytes += value.n_bytes
        return value

    def _dumped(self, values: list[Any]) -> tuple[bytes, list[Any]]:
        assert self._ways.dumps is not None
        return self._ways.dumps(values)

    def _place_large(self, index: int, first: int, parts: list[Part]) -> list[Part]:
        return [self._place_or_keep(index, k, part) for k, part in enumerate(parts, first)]

    def _place_or_keep(self, index: int, k: int, part: Part) -> Part:
        """Write a large array where the store wants it, or return what travels in the outcome."""
        if part is None or part.dtype.kind == "O":
            return part
        place = self._ways.place
        if place is not None and part.nbytes >= PLACED_BYTES and not part.dtype.names:
            write = place(index, k, part.shape, part.dtype.str)
            if write is not None:
                write(part)
                return part.nbytes, checksum(part)
        self.n_bytes += part.nbytes
        # A function may return the same buffer each time: keep what it held at this call.
        return np.array(part)


class ValuesEncoder(Encoder):
    """For values that stay in memory as they are.

    What nobody can change is kept until all are pickled together: that takes a tenth of the time.
    """

    _unchanging = PLAIN_VALUES | NUMPY_NUMBERS

    def _clear(self) -> None:
        super()._clear()
        self._values: list[Any] = []
        self.plain = self._unchanging, self._values.append

    def add(self, index: int, value: Any) -> None:
        """Take a value."""
        self._values.append(value if self._is_unchanging(value) else self._frozen(value))

    def _is_unchanging(self, value: Any) -> bool:
        kind = type(value)
        if kind is not tuple:
            return kind in self._unchanging
        self.n_bytes += 8 * len(value)
        return self._unchanging.issuperset(map(type, value))

    def _content(self) -> Content:
        values, buffers = self._dumped(self._values)
        return Content(values=values, buffers=buffers)


class ApartEncoder(Encoder):
    """For what is stored of each value by itself."""

    _plain_types: frozenset[type] = frozenset()

    def _clear(self) -> None:
        super()._clear()
        self._parts: list[Parts] = []
        self.plain = self._plain_types, self._parts.append

    def _content(self) -> Content:
        return Content(parts=self._parts)


class PicklesEncoder(ApartEncoder):
    """For a pickle of each value."""

    def add(self, index: int, value: Any) -> None:
        """Take a value."""
        self._parts.append(self._pickled(value))


class NamedEncoder(ApartEncoder):
    """For parts whose names the user gives.

    Parameters
    ----------
    ways : Ways
        How values leave the runner.
    naming : Naming
        The names of the run's results.
    """

    def __init__(self, ways: Ways, naming: Naming) -> None:
        super().__init__(ways)
        self._naming = naming

    def add(self, index: int, value: Any) -> None:
        """Take a value to its parts."""
        try:
            names, parts, note = self._naming.parts_of(value)
        except MisfitError:
            raise
        except ResultError as error:
            self._parts.append(self._pickle_instead(index, value, error))
            return
        parts = self._place_large(index, 0, parts)
        self._parts.append(NamedParts(names, parts, note) if names else parts)


class PartsEncoder(NamedEncoder):
    """For parts, of which most are numbers."""

    _plain_types = _FLOAT

    def add(self, index: int, value: Any) -> None:
        """Take a number as it is, any other value to its parts."""
        if type(value) in PLAIN_NUMBERS and fits_64_bits(value):
            self._parts.append(value)
        else:
            super().add(index, value)


class FormedEncoder(Encoder):
    """For values of a common form.

    Parameters
    ----------
    spec : RowSpec
        The form.
    ways : Ways
        How values leave the runner.
    """

    def __init__(self, spec: RowSpec, ways: Ways) -> None:
        self.spec = self._spec = spec
        super().__init__(ways)

    def add(self, index: int, value: Any) -> None:
        """Take a value to its rows, and what is more than these."""
        try:
            values, rest = split(self._spec, value)
            rows = [to_column(*each) for each in zip(values, self._spec.columns, strict=True)]
            rest = self._converted(rest)
        except MisfitError as error:
            is_unclear = isinstance(value, tuple) and not self._spec.further
            hint = "; a tuple is several return values, one row is one array" if is_unclear else ""
            raise MisfitError(f"{error}{hint}") from None
        except ResultError as error:
            self._append_pickle(self._pickle_instead(index, value, error))
            return
        self._append(index, rows, rest)

    def _converted(self, rest: list[Any]) -> list[Any]:
        return [to_array(entry) for entry in rest]

    @abstractmethod
    def _append(self, index: int, rows: list[Array], rest: list[Any]) -> None: ...

    @abstractmethod
    def _append_pickle(self, data: bytes) -> None:
        """Append a pickle in the place of rows."""


class RaggedEncoder(FormedEncoder, ApartEncoder):
    """For rows of differing length, each of which is stored by itself."""

    def _append(self, index: int, rows: list[Array], rest: list[Any]) -> None:
        self._parts.append(self._place_large(index, 0, [*rows, *rest]))

    def _append_pickle(self, data: bytes) -> None:
        self._parts.append(data)


class RowsEncoder(FormedEncoder):
    """For rows of one shape, and what is more than these."""

    def __init__(self, spec: RowSpec, ways: Ways) -> None:
        is_float = spec.shape == () and spec.dtype == "<f8" and not spec.further
        self._plain_types = _FLOAT if is_float else frozenset()
        super().__init__(spec, ways)

    def _clear(self) -> None:
        super()._clear()
        self._columns: list[list[Any]] = [[] for _ in self._spec.columns]
        # Almost no function returns more than the rows: only then is that kept, for each task.
        self._more: list[Any] = []
        self._has_more = self._are_some_placed = False
        self.plain = self._plain_types, self._columns[0].append

    def _append(self, index: int, rows: list[Array], rest: list[Any]) -> None:
        placed = self._place_large(index, 0, rows)
        self._append_rows(placed, self._place_large(index, len(rows), rest))

    def _append_pickle(self, data: bytes) -> None:
        blank = [np.zeros(column.row_shape, column.dtype) for column in self._spec.columns]
        self._append_rows(blank, data)

    def _append_rows(self, rows: list[Any], more: Any) -> None:
        if more and not self._has_more:
            self._has_more = True
            self._more = [[] for _ in self._columns[0]]
            self.plain = frozenset(), self._columns[0].append
        if self._has_more:
            self._more.append(more)
        for column, row in zip(self._columns, rows, strict=True):
            column.append(row)
            self._are_some_placed = self._are_some_placed or is_placed(row)

    def _content(self) -> Content:
        rows, *further = self._taken_rows()
        return self._with_more(Content(rows=rows, further_rows=further))

    def _with_more(self, content: Content) -> Content:
        """Return the same with what is more than the rows."""
        content.parts = self._more if self._has_more else None
        return content

    def _taken_rows(self) -> list[Any]:
        """Return the rows of all columns, packed unless the runner has written some itself."""
        if self._are_some_placed:
            return list(self._columns)
        return [_packed(*each) for each in zip(self._columns, self._spec.columns, strict=True)]


class RowsInMemoryEncoder(RowsEncoder):
    """For rows of one shape; what is more than these stays in memory as it is."""

    def _converted(self, rest: list[Any]) -> list[Any]:
        return rest

    def _append(self, index: int, rows: list[Array], rest: list[Any]) -> None:
        self._append_rows(self._place_large(index, 0, rows), rest and self._frozen(rest))

    def _with_more(self, content: Content) -> Content:
        if self._has_more:
            content.values, content.buffers = self._dumped(self._more)
        return content


class OpenEncoder(Encoder):
    """For values of a form that the first of them decides.

    Parameters
    ----------
    spec : RowSpec
        What is known of the form.
    in_memory, ways, names, agree_on_form
        As of `encoder_of`.
    """

    def __init__(
        self,
        spec: RowSpec,
        in_memory: bool,
        ways: Ways,
        names: tuple[str, ...],
        agree_on_form: Callable[[RowSpec], RowSpec] | None,
    ) -> None:
        self.spec = self._form = spec
        self._in_memory, self._names, self._agree_on_form = in_memory, names, agree_on_form
        self._decided: Encoder | None = None
        super().__init__(ways)

    def add(self, index: int, value: Any) -> None:
        """Take a value; the first one decides on the form."""
        if self._decided is None:
            form = first_form(value, self._names, self._form.grid)
            if self._agree_on_form is not None:
                form = self._agree_on_form(form)
            self.spec = self._form = self._form.settled(form)
            self._decided = encoder_of(self._form, self._in_memory, self._ways)
        self._decided.add(index, value)
        self._follow(self._decided)

    def _follow(self, decided: Encoder) -> None:
        self.plain, self.n_bytes = decided.plain, decided.n_bytes

    def _clear(self) -> None:
        super()._clear()
        self.plain = frozenset(), [].append  # nothing yet

    def _content(self) -> Content:
        return Content(parts=[])

    def take(self) -> Content:
        """Return what was collected since the last call."""
        if self._decided is None:
            return super().take()
        content = self._decided.take()
        self._follow(self._decided)
        return content


def _packed(rows: list[Any], column: RowSpec) -> Array:
    packed = np.empty((len(rows), *column.row_shape), column.dtype)
    if rows:
        packed[:] = rows
    return packed
