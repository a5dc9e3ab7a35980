"""The results of one function, as users have them."""

from __future__ import annotations

from types import TracebackType
from typing import Any, Self

from acme_mpi.reading.dataset import to_xarray
from acme_mpi.reading.recorded import Recorded
from acme_mpi.reading.shown import html_of
from acme_mpi.reading.table import to_pandas
from acme_mpi.reading.values import Values
from acme_mpi.visible import visible


class Results(Values):
    """What the tasks of a function have returned, as far as it was recorded when this was made.

    ``results[17]`` is what task 17 has returned: an array, a number that is an entry of a tuple or
    dict, or text; a tuple of several; a dict of what has names; None. A number that was returned
    alone is an array of shape (1,). ``results[2:5]`` is a list, and iteration goes through all
    tasks; both raise where a task has no result. `items` has only what is there.

    Made by `acme_mpi.open`. Independent: needs no ranks, and writes nothing. Parameters and
    attributes are those of `Values`.
    """

    def to_pandas(self) -> Any:
        """Return a DataFrame with a row for each task, called `task`.

        Its columns are the arguments, results that are scalars, ``seconds``, ``host``, ``rank``,
        ``peak_memory`` in bytes, and ``error``.

        Raises
        ------
        InputError
            pandas is not installed.
        StoreError
            A file cannot be read.
        """
        return to_pandas(self)

    def to_xarray(self) -> Any:
        """Return a Dataset with a variable for each result, over the grid's axes or ``task``.

        Coordinates are the arguments. With dask the results are read when they are needed.

        Raises
        ------
        InputError
            xarray is not installed, results differ in shape, or there is too little memory.
        StoreError
            A file cannot be read.
        """
        return to_xarray(self)

    def close(self) -> None:
        """Close the file that was read last; another read opens it again."""
        self.reader.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def __reduce__(self) -> Any:
        return _opened_again, (self.directory, self.name, self._allow_pickle)

    def __repr__(self) -> str:
        return visible(f"<Results of {self.name} in {self.directory}: {self.counts_text()}>")

    def _repr_html_(self) -> str:
        return html_of(self)


def _opened_again(directory: str, name: str, allow_pickle: bool) -> Results:
    return Results(Recorded(directory, name), allow_pickle)
