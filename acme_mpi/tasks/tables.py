"""Tables of parameters: one row per task, a column per parameter.

pandas reads them, and says what the columns hold; it is imported where there is a table.
"""

from __future__ import annotations

import csv
import io
import os
import re
import warnings
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any, BinaryIO

import numpy as np

from acme_mpi.errors import InputError
from acme_mpi.tasks.unreadable import reason

SEPARATORS = {".csv": ",", ".tsv": "\t"}
N_NAMED = 5  # rows in an error
# What other programs write where a number is missing.
_NO_NUMBER = ("NA", "N/A", "n/a", "#N/A", "<NA>", "NaN", "nan", "-nan", "NULL", "null", "None")
_BOOLEANS = ("True", "TRUE", "true", "False", "FALSE", "false")  # as pandas reads them
_WORDS = {"int": "int64", "float": "float64", "bool": "bool", "str": "str"}


def load_table(path: str, dtypes: Mapping[str, str]) -> dict[str, Any]:
    """Return the columns of a file by their names.

    Parameters
    ----------
    path : str
        ``.csv``, ``.tsv`` or ``.parquet``.
    dtypes : mapping of str to str
        What columns hold, where it is not what pandas finds: ``"int"``, ``"float"``, ``"bool"``,
        ``"str"``, or a name of NumPy's.

    Returns
    -------
    dict of str to sequence
        A one-dimensional array of numbers or booleans, or a list of anything else, of one length.

    Raises
    ------
    InputError
        It cannot be read, or is no table with a name for each column and a value in each place.
    """
    if path.endswith(".parquet"):
        pandas, checked = _pandas(path), _checked(dtypes)
        try:
            table = pandas.read_parquet(path)
        except ImportError as error:  # of what pandas needs for it
            raise InputError(f"{path} cannot be read: {error}") from None
        except Exception as error:  # whatever pandas raises
            raise _unreadable(path, error) from None
        return columns_of(table, path, checked)
    separator = next(each for end, each in SEPARATORS.items() if path.endswith(end))
    try:
        with open(path, "rb") as file:
            # By its path pandas reads it in half the time, and the bytes need no memory.
            return _parsed(file, os.path.abspath(path), path, separator, dtypes)
    except OSError as error:
        raise InputError(f"cannot read {path}: {error.strerror}") from None


def parse_table(
    data: bytes, title: str, separator: str, dtypes: Mapping[str, str]
) -> dict[str, Any]:
    """Return the columns of a table that is text in UTF-8; see `load_table`.

    Parameters
    ----------
    data : bytes
        The text.
    title : str
        What it is called in errors.
    separator : str
        Between two columns.
    dtypes : mapping of str to str
        As in `load_table`.

    Raises
    ------
    InputError
        As `load_table`.
    """
    return _parsed(io.BytesIO(data), io.BytesIO(data), title, separator, dtypes)


def _parsed(
    header: BinaryIO,
    source: str | BinaryIO,
    title: str,
    separator: str,
    dtypes: Mapping[str, str],
) -> dict[str, Any]:
    """Return the columns of a table; `header` has the first line of it, too."""
    pandas, checked = _pandas(title), _checked(dtypes)
    texts = {name: str for name, dtype in checked.items() if dtype == "str"}
    try:
        _check_header(header, title, separator)
        table = _read(pandas, source, sep=separator, dtype=texts)
    except InputError:
        raise
    except pandas.errors.ParserWarning:
        raise InputError(
            f"{title}: rows have more values than its first line has names of columns; give each "
            "column a name, and write numbers with a decimal point, not a comma"
        ) from None
    except Exception as error:  # whatever pandas raises
        raise _unreadable(title, error) from None
    for name in table.columns.difference(list(texts)):
        table[name] = _without_words_for_gaps(pandas, table[name])
    return columns_of(table, title, checked)


def _without_words_for_gaps(pandas: Any, series: Any) -> Any:
    """Return a column with gaps where all others are numbers, or booleans, and it has a word.

    Among strings such a word is one of them, as the name of a country, ``NA``.
    """
    gaps = series.isin(_NO_NUMBER) if series.dtype.kind == "O" else None
    if gaps is None or not gaps.any():
        return series
    others = series[~gaps].dropna()
    are_numbers = pandas.to_numeric(others, errors="coerce").notna().all()
    if others.empty or not (are_numbers or others.isin(_BOOLEANS).all()):
        return series
    return series.mask(gaps)


def _read(pandas: Any, source: str | BinaryIO, **words: Any) -> Any:
    """Return a table whose columns have one type each, of whatever length it is."""
    # By default, pandas makes values without a name an index, and moves the names to the others.
    words.update(keep_default_na=False, na_values=[""], index_col=False)
    with warnings.catch_warnings():
        warnings.simplefilter("error", pandas.errors.DtypeWarning)
        warnings.simplefilter("error", pandas.errors.ParserWarning)
        try:
            return pandas.read_csv(source, **words)
        except pandas.errors.DtypeWarning:
            # A piece of a column has numbers alone, and another one text, too.
            if not isinstance(source, str):
                source.seek(0)
            return pandas.read_csv(source, low_memory=False, **words)


def _unreadable(title: str, error: Exception) -> InputError:
    is_other_text = isinstance(error, UnicodeDecodeError)
    hint = "; it has to be text in UTF-8: iconv -f ENCODING -t UTF-8" if is_other_text else ""
    return InputError(f"{title} cannot be read as a table: {reason(error)}{hint}")


def _checked(dtypes: Mapping[str, str]) -> dict[str, str]:
    return {name: _checked_dtype(name, word) for name, word in dtypes.items()}


def columns_of(table: Any, title: str, dtypes: Mapping[str, str] = {}) -> dict[str, Any]:
    """Return the columns of a pandas DataFrame by their names; see `load_table`."""
    names = list(table.columns)
    for number, name in enumerate(names):
        if not isinstance(name, str) or not name.strip() or re.fullmatch(r"Unnamed: \d+", name):
            raise InputError(
                f"{title}: column {number} has no name that could be a parameter's, {name!r}; if "
                "it is an index that pandas has written, write the table by to_csv(index=False)"
            )
    _refuse_doubled(names, title)
    for name in dtypes:
        if name not in names:
            raise InputError(f"{title} has no column {name!r}; there are {', '.join(names)}")
    if len(table) == 0:
        raise InputError(f"{title} has no rows, so there would be no task")
    return {
        name: _values(table[name], f"{title}: column `{name}`", dtypes.get(name)) for name in names
    }


def series_values(series: Any) -> Any:
    """Return the values of a pandas Series: an array of numbers, or a list."""
    if series.dtype.kind in "biufc":
        return np.asarray(series.to_numpy())
    if _holds_text(series):
        # Taken one by one, those of pandas' own type take ten times as long.
        texts: list[str] = series.to_numpy(object).tolist()
        return texts
    return list(series)


def _holds_text(series: Any) -> bool:
    """Tell whether a column is of the type of pandas that holds strings alone."""
    return type(series.dtype).__name__ == "StringDtype"


def _pandas(path: str) -> Any:
    try:
        import pandas
    except ImportError:
        raise InputError(
            f"{path} is a table, and pandas is needed to read it: pip install 'acme-mpi[tables]'"
        ) from None
    return pandas


def _checked_dtype(name: str, word: str) -> str:
    dtype = _WORDS.get(word, word)
    if dtype == "str":
        return dtype
    try:
        found = np.dtype(dtype)
    except TypeError:
        found = np.dtype(object)
    if found.kind not in "biufcM":
        raise InputError(
            f"the type of column {name!r} has to be one of {', '.join(_WORDS)}, or one of NumPy's "
            f"such as float32 or datetime64[s], not {word!r}"
        )
    return dtype


def _check_header(header: BinaryIO, title: str, separator: str) -> None:
    # pandas gives columns of one name several.
    lines = io.TextIOWrapper(header, "utf-8-sig", newline="")
    try:
        names = next(filter(None, csv.reader(lines, delimiter=separator)), None)
    finally:
        lines.detach()  # or it would be closed with them
    if not names:
        raise InputError(f"{title} is empty; its first line has to name the columns")
    other = next((each for each in ",;\t" if each in names[0]), None)
    if len(names) == 1 and other:
        raise InputError(
            f"{title} has one column, {names[0]!r}, as its values are separated by {other!r}, not "
            f"by {separator!r}; write it with commas as .csv, or with tabs as .tsv"
        )
    _refuse_doubled(names, title)


def _refuse_doubled(names: Sequence[str], title: str) -> None:
    doubled = [name for name, n in Counter(names).items() if n > 1 and name.strip()]
    if doubled:
        raise InputError(f"{title}: several columns are called {doubled[0]!r}")


def _values(series: Any, title: str, dtype: str | None) -> Any:
    gaps = np.flatnonzero(series.isna().to_numpy())
    may_be_nan = dtype not in (None, "str") and np.dtype(dtype).kind in "fcM"
    if len(gaps) and not may_be_nan:
        raise InputError(
            f"{title} has no value in {_rows(gaps)}; fill in what is missing, or leave out these "
            "rows, or have NaN there by --dtype NAME=float, in Python NAME=PerTask(df['NAME'])"
        )
    if dtype is not None and dtype != "str":
        return _as_dtype(series.to_numpy(), gaps, np.dtype(dtype), title)
    values = series_values(series)
    if isinstance(values, np.ndarray) or _holds_text(series):
        return values
    kinds = {type(value) for value in values}
    if len(kinds) > 1:
        first = {kind: next(i for i, v in enumerate(values) if type(v) is kind) for kind in kinds}
        found = ", ".join(f"{values[i]!r} in row {i}" for i in sorted(first.values()))
        raise InputError(
            f"{title} holds values of several types: {found}; say which it is by --dtype NAME=str, "
            "in Python df.astype({'NAME': str})"
        )
    return values


def _as_dtype(given: Any, gaps: Any, dtype: Any, title: str) -> Any:
    """Return a column as what the user says it is; a number may lose digits, but nothing else."""
    if dtype.kind == "M" and given.dtype.kind == "O":
        given = given.copy()
        given[gaps] = "NaT"  # where pandas has a float
    try:
        with np.errstate(all="ignore"), warnings.catch_warnings():
            warnings.simplefilter("ignore", UserWarning)  # times with a zone are told in UTC
            values = np.asarray(given, dtype)
            changed = np.flatnonzero(_are_changed(given, values))
    except (TypeError, ValueError, OverflowError) as error:
        raise InputError(f"{title} cannot be {dtype}: {reason(error)}") from None
    if len(changed):
        row = changed[0]
        raise InputError(
            f"{title} cannot be {dtype}: {str(given[row])!r} in row {row} would become "
            f"{values[row]}"
        )
    return values


def _are_changed(given: Any, values: Any) -> Any:
    """Tell which values are others than those they were made of."""
    kind, is_text = values.dtype.kind, given.dtype.kind == "O"
    if kind == "M":
        there, changed = ~np.isnat(values), np.zeros(len(values), bool)
        # NumPy 2.5 warns of a NaT among texts, as that has no unit.
        exact = np.asarray(given[there], "datetime64") if is_text else given[there]
        if exact.dtype.kind == "M":
            changed[there] = values[there] != exact
        return changed
    if is_text:  # for Python any is true
        return given != values.astype(str) if kind == "b" else np.zeros(len(values), bool)
    return np.isfinite(given) & ~np.isfinite(values) if kind in "fc" else values != given


def _rows(numbers: Any) -> str:
    """Return some rows by their numbers, which are those of the tasks."""
    named = ", ".join(map(str, numbers[:N_NAMED]))
    more = f" and {len(numbers) - N_NAMED} more" if len(numbers) > N_NAMED else ""
    return f"row{'s' if len(numbers) > 1 else ''} {named}{more} (counted from 0, as tasks are)"
