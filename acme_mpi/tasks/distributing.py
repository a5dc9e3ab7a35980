"""Decide which arguments are split, one item per task, and how many tasks there are.

The rule is ACME's: one-dimensional arrays, lists, tuples and ranges of one common length are
split; everything else is shared by all tasks. `PerTask` and `Shared` overrule the guess.
"""

from __future__ import annotations

import numbers
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from acme_mpi.errors import InputError
from acme_mpi.tasks.grid import GridAxis, GridColumn, spread, with_axes
from acme_mpi.tasks.items import (
    can_be_listed,
    how_to_list,
    is_pandas,
    is_sequence,
    items_as_given,
    listed_if_iterator,
    shape_text,
)
from acme_mpi.tasks.markers import PerTask, Shared
from acme_mpi.tasks.signature import Given, bind, check_function
from acme_mpi.tasks.taskset import Argument, TaskSet, function_name


def distribute(
    func: Callable[..., Any],
    args: Sequence[Any],
    kwargs: Mapping[str, Any],
    n_inputs: Any = "auto",
    columns: bool = False,
    caller: Callable[..., Any] | None = None,
    seed: Any = None,
) -> TaskSet:
    """Decide which arguments are split and how many tasks there are.

    Parameters
    ----------
    func : callable
        The function that will be called; only its signature is looked at.
    args, kwargs : sequence, mapping
        The arguments; `PerTask`, `Shared` and `Grid` overrule the guess.
    n_inputs : int or "auto"
        Number of tasks, >= 1. A number makes arguments of that length split and all others shared;
        without one of that length, the same call is made `n_inputs` times.
    columns : bool
        Arrays of shape (n, 1) may be split, too, into n arrays of shape (1,), as ACME does.
    caller : callable, optional
        Whose keywords stand beside the function's, and may be meant by a name that neither has.
    seed : int, optional
        Give the parameter ``rng`` a generator of random numbers, made for each task.

    Returns
    -------
    TaskSet

    Raises
    ------
    InputError
        The arguments do not fit the signature, or the guess is ambiguous.

    Notes
    -----
    Candidates follow ACME's user guide ("automatic input argument distribution").
    """
    check_function(func)
    args, kwargs = with_columns(*with_axes(args, kwargs, lambda: function_name(func)))
    seed = check_seed(seed)
    bound, inject = bind(func, args, kwargs, caller, seed is not None)
    given = _spread_axes(bound)
    wanted = _check_n_inputs(n_inputs)
    marked = [_unwrap(each) for each in given]
    open_ = [each for each, argument in zip(given, marked, strict=True) if argument is None]
    has_grid = any(isinstance(each.value, GridColumn) for each in given)
    # Beside a grid nothing is guessed: a list could have as many items as it has tasks by chance.
    candidates = {
        g.label: len(g.value) for g in open_ if not has_grid and _is_candidate(g, columns)
    }
    fixed = {a.label: len(a.value) for a in marked if a is not None and a.per_task}
    unsplit = {g.label: g.value for g in open_ if can_be_listed(g.value)}
    n_tasks = _agree(function_name(func), candidates, fixed, wanted, unsplit)
    split = {label for label, n_items in candidates.items() if n_items == n_tasks}
    arguments = tuple(
        argument or Argument(each.label, each.keyword, each.value, each.label in split)
        for each, argument in zip(given, marked, strict=True)
    )
    return TaskSet(arguments, n_tasks, inject, seed=seed)


def check_seed(seed: Any) -> int | None:
    """Return a seed as a plain number.

    Raises
    ------
    InputError
        It is none.
    """
    if seed is None:
        return None
    if isinstance(seed, bool) or not isinstance(seed, numbers.Integral) or seed < 0:
        raise InputError(f"`seed` has to be None or a whole number >= 0, not {seed!r}")
    return int(seed)


def with_columns(
    args: Sequence[Any], kwargs: Mapping[str, Any]
) -> tuple[list[Any], dict[str, Any]]:
    """Return arguments in which the columns of a ``PerTask(DataFrame)`` stand by their names.

    Columns that were given as ``**df`` are split if nothing else can be.
    """
    rest, columns = [], dict[str, Any]()
    for value in args:
        if not (isinstance(value, PerTask) and is_pandas(value.value, "DataFrame")):
            rest.append(value)
            continue
        from acme_mpi.tasks.tables import columns_of

        if value.axis != 0:
            raise InputError(
                f"a DataFrame has its tasks in rows, so `axis` is 0, not {value.axis!r}; with "
                "them in columns: PerTask(df.T)"
            )
        found = columns_of(value.value, "the DataFrame")
        if twice := sorted(found.keys() & (columns.keys() | kwargs.keys())):
            raise InputError(f"given twice, as a column and otherwise: {', '.join(twice)}")
        columns |= {name: PerTask(values) for name, values in found.items()}
    others = [*rest, *kwargs.values()]
    is_open = not columns and not any(
        is_sequence(value) or isinstance(value, PerTask) for value in others
    )
    if is_open and any(is_pandas(value, "Series") for value in kwargs.values()):
        from acme_mpi.tasks.tables import series_values

        kwargs = {
            name: series_values(value) if is_pandas(value, "Series") else value
            for name, value in kwargs.items()
        }
    return rest, {**kwargs, **columns}


def _spread_axes(given: list[Given]) -> list[Given]:
    """Return the same with the values of all tasks in the place of each axis of a grid."""
    columns = iter(spread([each.value for each in given if isinstance(each.value, GridAxis)]))
    return [
        each._replace(value=next(columns)) if isinstance(each.value, GridAxis) else each
        for each in given
    ]


def _check_n_inputs(n_inputs: Any) -> int | None:
    if isinstance(n_inputs, str) and n_inputs == "auto":
        return None
    whole = isinstance(n_inputs, numbers.Real) and not isinstance(n_inputs, bool)
    if not whole or not 1 <= n_inputs < float("inf") or n_inputs % 1 != 0:
        raise InputError(f"`n_inputs` has to be 'auto' or an integer >= 1, not {n_inputs!r}")
    return int(n_inputs)


def _unwrap(given: Given) -> Argument | None:
    """Return the distribution that a marker asks for, None without a marker."""
    label, keyword, value, _ = given
    if isinstance(value, Shared):
        return Argument(label, keyword, value.value, per_task=False)
    if isinstance(value, GridColumn):
        return Argument(label, keyword, value, per_task=True)
    if not isinstance(value, PerTask):
        return None
    inner, axis = listed_if_iterator(value.value), value.axis
    if axis == 0 and (items := items_as_given(inner)) is not None:
        return Argument(label, keyword, items, per_task=True)
    refusal = f"argument {label!r} cannot be split along axis {axis}: it is "
    if can_be_listed(inner):
        raise InputError(refusal + how_to_list(inner))
    refusal += shape_text(inner)
    if isinstance(inner, Mapping):
        raise InputError(refusal)
    try:
        array = np.asanyarray(inner)  # with the mask, or units, that it may have
    except (RuntimeError, TypeError, ValueError) as error:
        raise InputError(f"{refusal}; {error}") from None
    if not isinstance(axis, numbers.Integral) or not -array.ndim <= axis < array.ndim:
        raise InputError(refusal)
    return Argument(label, keyword, np.moveaxis(array, axis, 0), per_task=True)


def _is_candidate(given: Given, columns: bool) -> bool:
    """Tell whether the guess may split a value.

    A list whose default is a list of the same length, and an array whose default is an array, is
    meant whole.
    """
    value, default = given.value, given.default
    if isinstance(value, np.ndarray):
        is_column = columns and value.ndim > 1 and value.size == len(value) > 1
        return (value.ndim == 1 or is_column) and not isinstance(default, np.ndarray)
    if isinstance(value, (list, tuple, range)):
        return not (isinstance(default, (list, tuple)) and len(default) == len(value))
    return False


def _agree(
    name: str,
    lengths: Mapping[str, int],
    fixed: Mapping[str, int],
    wanted: int | None,
    unsplit: Mapping[str, Any],
) -> int:
    """Return the number of tasks, or raise with every candidate and the way out.

    `unsplit` are arguments that are shared and would be split as lists.
    """
    distinct = set(fixed.values())
    if len(distinct) > 1 or (wanted is not None and distinct - {wanted}):
        listed = _listed(fixed)
        expected = f"; `n_inputs` is {wanted}" if wanted is not None else ""
        raise InputError(
            f"{name}: arguments that are split, or make a grid, need one length: {listed}{expected}"
        )
    if distinct:
        return distinct.pop()
    values = set(lengths.values())
    if wanted is not None:
        if wanted in values or values <= {1}:
            return wanted
        raise InputError(
            f"No object has required length of {wanted} matching `n_inputs`: {_listed(lengths)}\n"
            f"  Give one argument {wanted} items, or mark the others as shared: --share NAME, "
            "in Python Shared(x)"
        )
    if len(values) == 1:
        return values.pop()
    low, high = min(values, default=0), max(values, default=0)
    message = (
        f"automatic input distribution failed: found {len(lengths)} objects containing "
        f"{low} to {high} elements. Please specify n_inputs manually."
    )
    if not lengths:
        raise InputError(
            f"{message}\n  No argument of {name} is a list, tuple, range or 1-D array to split. "
            "Name one: --split NAME[:AXIS], in Python PerTask(x, axis=0);\n"
            "  or make the same call N times: --n-inputs N, in Python n_inputs=N"
            + "".join(f"\n  {k!r} is {how_to_list(value)}" for k, value in unsplit.items())
        )
    raise InputError(
        f"{message}\n  Candidates: {_listed(lengths)}\n"
        "  Share those that every task needs whole: --share NAME, in Python Shared(x); or name the "
        "one to split: --split NAME, in Python PerTask(x); or --n-inputs N, in Python n_inputs=N;\n"
        "  or call every combination: --grid NAME for each, in Python Grid(name=x, ...)"
    )


def _listed(lengths: Mapping[str, int]) -> str:
    return ", ".join(f"{label!r} has {n}" for label, n in lengths.items()) or "no candidates"
