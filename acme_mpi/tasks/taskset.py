"""Which calls a run consists of: the function, its arguments, and how they are distributed.

The rule of automatic distribution is ACME's: one-dimensional arrays, lists, tuples and ranges of
one common length are split, one element per task; everything else is shared by all tasks.
`PerTask` and `Shared` overrule the guess.
"""

from __future__ import annotations

import inspect
import io
import itertools
import math
import numbers
import reprlib
from abc import ABC, abstractmethod
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from functools import partial
from itertools import repeat
from typing import Any, NamedTuple

import numpy as np

from acme_mpi.errors import InputError
from acme_mpi.spelling import did_you_mean
from acme_mpi.tasks.grid import GridAxis, GridColumn, spread, with_axes

TASK_ID = "taskID"
RNG, SEED = "rng", "seed"
PIECE_BYTES = 16 * 1024**2


class PerTask:
    """Mark an argument as split: task i gets item i along `axis`.

    Parameters
    ----------
    value : sequence or array_like
        Array of any dimension, or a sequence, whose items come as they are. Not a dictionary or a
        set, whose items have no numbers: ``PerTask(list(x))``.
    axis : int
        Axis that counts the tasks, default 0; negative values count from the end.

    Examples
    --------
    >>> import acme_mpi
    >>> import numpy as np
    >>> columns = acme_mpi.PerTask(np.eye(3), axis=1)
    >>> acme_mpi.map(np.argmax, columns, write_worker_results=False) == [0, 1, 2]
    True
    """

    def __init__(self, value: Any, axis: int = 0) -> None:
        self.value = value
        self.axis = axis


class Shared:
    """Mark an argument as shared: every task gets the whole `value`.

    Parameters
    ----------
    value : object
        Passed to each call as it is.

    Examples
    --------
    >>> import acme_mpi
    >>> def is_known(x, names):
    ...     return x in names
    >>> known = acme_mpi.Shared(["b", "c"])
    >>> acme_mpi.map(is_known, ["a", "b"], known, write_worker_results=False)
    [False, True]
    """

    def __init__(self, value: Any) -> None:
        self.value = value


class MadeAnew(ABC):
    """Stands for an argument that each task gets as an object of its own."""

    @abstractmethod
    def make(self) -> Any:
        """Return the argument, made for one call."""


def _made(args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """Return what a task gets for the values of a call."""
    made = tuple(value.make() if isinstance(value, MadeAnew) else value for value in args)
    return made, {k: v.make() if isinstance(v, MadeAnew) else v for k, v in kwargs.items()}


class Argument(NamedTuple):
    """One argument of the call and how it is distributed.

    Attributes
    ----------
    label : str
        What the user calls it: the parameter's name, or ``"number 0"``.
    keyword : str or None
        Name if it is passed by name, None if by position.
    value : object
        The whole value; for a split array the counting axis comes first.
    per_task : bool
        Whether task i gets ``value[i]``.
    """

    label: str
    keyword: str | None
    value: Any
    per_task: bool

    def column(self, start: int, stop: int) -> Iterable[Any]:
        """Return its values for the tasks in [start, stop)."""
        if not self.per_task:
            return repeat(self.value, stop - start)
        if is_read_by_pieces(self.value):
            return _read_rows(self.value, start, stop)
        values: Iterable[Any] = self.value[start:stop]
        return values

    def how(self) -> str:
        """Return how it is distributed, and what it is."""
        if isinstance(self.value, GridColumn):
            return f"an axis of the grid: {shape_text(self.value.values)}"
        how = "split, one item per task" if self.per_task else "shared by all tasks"
        return f"{how}: {shape_text(self.value)}"


class TaskSet(NamedTuple):
    """All calls of one run.

    Attributes
    ----------
    arguments : tuple of Argument
        In calling order.
    n_tasks : int
        Number of calls, >= 0.
    inject_task_id : bool
        Whether the function has a parameter ``taskID`` that the caller left open.
    makes_anew : bool
        Whether there are `MadeAnew` objects among the values.
    seed : int or None
        Of the random numbers that the function's parameter ``rng`` gives; None: it is the caller's.
    """

    arguments: tuple[Argument, ...]
    n_tasks: int
    inject_task_id: bool = False
    makes_anew: bool = False
    seed: int | None = None

    @property
    def grid(self) -> tuple[int, ...]:
        """Number of values of each parameter of a grid, in its order; empty without one."""
        columns = [a.value for a in self.arguments if isinstance(a.value, GridColumn)]
        ordered = sorted(columns, key=lambda column: column.order)
        return tuple(len(column.values) for column in ordered)

    def calls(self, start: int, stop: int) -> Iterator[tuple[tuple[Any, ...], dict[str, Any]]]:
        """Return an iterator of (args, kwargs), one for each task in [start, stop), in order."""
        given = self._given(start, stop)
        return itertools.starmap(_made, given) if self.makes_anew else given

    def _given(self, start: int, stop: int) -> Iterator[tuple[tuple[Any, ...], dict[str, Any]]]:
        args = self._rows(self._by_position, start, stop)
        shared = {a.keyword: a.value for a in self.arguments if a.keyword and not a.per_task}
        if not self._has_own_keywords:
            return zip(args, repeat(shared), strict=False)
        named = [a for a in self.arguments if a.keyword and a.per_task]
        names = [a.keyword for a in named]
        columns = self._rows(named, start, stop)
        if self.inject_task_id:
            names.append(TASK_ID)
            columns = ((*row, index) for index, row in enumerate(columns, start))
        if self.seed is not None:
            names.append(RNG)
            make = partial(generator_of, self.seed)
            columns = ((*row, make(index)) for index, row in enumerate(columns, start))
        kwargs = ({**shared, **dict(zip(names, row, strict=True))} for row in columns)
        return zip(args, kwargs, strict=True)

    def bound(self, func: Callable[..., Any]) -> Callable[..., Any]:
        """Return ``call`` for which ``call(row)`` is a task's call of `func`; see `rows`."""
        if self.makes_anew:
            func = _making_arguments(func)
        if self._has_own_keywords:
            return lambda row: func(*row[0], **row[1])
        shared = {a.keyword: a.value for a in self.arguments if a.keyword}
        call = partial(func, **shared) if shared else func
        return call if len(self._by_position) == 1 else lambda row: call(*row)

    def rows(self, start: int, stop: int) -> Iterator[Any]:
        """Return an iterator of what each task in [start, stop) has of its own, in order.

        Of one argument it is the value itself: tuples of one, and an empty dict of keywords, would
        each cost a third of an empty function's time.
        """
        if self._has_own_keywords:
            return self._given(start, stop)
        if len(self._by_position) == 1:
            return iter(self._by_position[0].column(start, stop))
        return self._rows(self._by_position, start, stop)

    @property
    def _by_position(self) -> list[Argument]:
        return [argument for argument in self.arguments if argument.keyword is None]

    @property
    def _has_own_keywords(self) -> bool:
        """Whether arguments are passed by name that differ between tasks."""
        is_filled = self.inject_task_id or self.seed is not None
        return is_filled or any(a.keyword and a.per_task for a in self.arguments)

    def only(self, index: int) -> TaskSet:
        """Return the single task `index` as a task set of its own, with the same call."""
        args, kwargs = next(self.calls(index, index + 1))
        arguments = [Argument(f"number {k}", None, value, False) for k, value in enumerate(args)]
        arguments += [Argument(key, key, value, False) for key, value in kwargs.items()]
        return TaskSet(tuple(arguments), 1)

    @staticmethod
    def _rows(arguments: Sequence[Argument], start: int, stop: int) -> Iterator[tuple[Any, ...]]:
        """Return the values of several arguments, one tuple per task."""
        if not arguments:
            return repeat((), stop - start)
        return zip(*(argument.column(start, stop) for argument in arguments), strict=True)

    def call_text(self, name: str, index: int) -> str:
        """Return the call of task `index` as one line of text, long values shortened."""
        args, kwargs = next(self.calls(index, index + 1))
        parts = [_SHORT.repr(value) for value in args]
        parts += [f"{key}={_SHORT.repr(value)}" for key, value in kwargs.items()]
        return " ".join(f"{name}({', '.join(parts)})".split())

    def describe(self) -> list[str]:
        """Return one line per argument: its name, what it is, split or shared."""
        lines = [f"{argument.label}: {argument.how()}" for argument in self.arguments]
        if self.inject_task_id:
            lines.append(f"{TASK_ID}: the task's index")
        if self.seed is not None:
            lines.append(
                f"{RNG}: a generator of random numbers for each task, from seed {self.seed}"
            )
        return lines


def generator_of(seed: int, index: int) -> np.random.Generator:
    """Return the generator of one task's random numbers.

    Parameters
    ----------
    seed : int
        Of the run, >= 0.
    index : int
        Of the task.

    Notes
    -----
    Streams of different tasks are independent: the index is the spawn key, see "Parallel Random
    Number Generation" in NumPy's manual.
    """
    return np.random.default_rng(np.random.SeedSequence(seed, spawn_key=(index,)))


def _making_arguments(func: Callable[..., Any]) -> Callable[..., Any]:
    """Return a function that calls another one with its own copies of what it could change.

    They are made where the call is, so that they do not outlive it, and what goes wrong is the
    task's.
    """

    def call(*args: Any, **kwargs: Any) -> Any:
        args, kwargs = _made(args, kwargs)
        return func(*args, **kwargs)

    return call


class _ShortRepr(reprlib.Repr):
    def repr1(self, x: Any, level: int) -> str:
        return super().repr1(x.item() if isinstance(x, np.generic) else x, level)

    def repr_ndarray(self, value: np.ndarray[Any, Any], level: int) -> str:
        if value.size <= 4:
            return repr(value)
        return f"<array {value.shape} {value.dtype}>"


_SHORT = _ShortRepr()
_SHORT.maxstring = _SHORT.maxother = 60


def function_name(func: Any) -> str:
    """Return the name that files are called after: ``__name__``, else that of what is wrapped."""
    while hasattr(func, "func") and not hasattr(func, "__name__"):
        func = func.func
    name = str(getattr(func, "__name__", type(func).__name__))
    return "lambda" if name == "<lambda>" else name.replace("/", "_")


def _check_function(func: Any) -> None:
    """Refuse what cannot be called, or does no work when it is."""
    if not callable(func):
        raise InputError(f"the function has to be callable, not {type(func)}")
    for test, kind, instead in (
        (inspect.iscoroutinefunction, "an async function: a call of it only", "asyncio.run({}(x))"),
        (
            inspect.isasyncgenfunction,
            "an async generator: a call of it only",
            "a list of its items",
        ),
        (inspect.isgeneratorfunction, "a generator: a call of it only", "list({}(x))"),
    ):
        if test(func):
            name = function_name(func)
            way = instead.format(name)
            raise InputError(f"{name} is {kind} begins; give a function that returns {way}")


def signature_of(func: Callable[..., Any]) -> inspect.Signature | None:
    """Return the signature, or None for functions that have none (``max``)."""
    try:
        return inspect.signature(func)
    except (ValueError, TypeError):
        return None


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
    _check_function(func)
    args, kwargs = with_columns(*with_axes(args, kwargs, lambda: function_name(func)))
    seed = check_seed(seed)
    entries, inject = _bind(func, args, kwargs, caller, seed is not None)
    entries = _spread_axes(entries)
    wanted = _check_n_inputs(n_inputs)
    arguments = [_unwrap(label, keyword, value) for label, keyword, value, _ in entries]
    guesses = [
        argument is None and _is_candidate(value, default, columns)
        for argument, (_, _, value, default) in zip(arguments, entries, strict=True)
    ]
    lengths = {
        label: len(value)
        for guess, (label, _, value, _) in zip(guesses, entries, strict=True)
        if guess
    }
    fixed = {a.label: len(a.value) for a in arguments if a is not None and a.per_task}
    unsplit = {
        label: value
        for argument, (label, _, value, _) in zip(arguments, entries, strict=True)
        if argument is None and _can_be_listed(value)
    }
    n_tasks = _agree(function_name(func), lengths, fixed, wanted, unsplit)
    done = []
    for argument, guess, (label, keyword, value, _) in zip(
        arguments, guesses, entries, strict=True
    ):
        split = guess and len(value) == n_tasks
        done.append(argument or Argument(label, keyword, value, split))
    return TaskSet(tuple(done), n_tasks, inject, seed=seed)


def own_or_ours(func: Any, kwargs: Mapping[str, Any], seed: Any) -> tuple[dict[str, Any], Any]:
    """Return keyword arguments and seed: it is an argument if the function has such a parameter."""
    signature = signature_of(func) if seed is not None and callable(func) else None
    if signature is None or SEED not in signature.parameters:
        return dict(kwargs), seed
    if SEED in kwargs:
        raise InputError(f"given twice, by keyword and in `arguments`: {SEED}")
    return {**kwargs, SEED: seed}, None


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
        if not (isinstance(value, PerTask) and _is_pandas(value.value, "DataFrame")):
            rest.append(value)
            continue
        from acme_mpi.tasks.tables import columns_of

        found = columns_of(value.value, "the DataFrame")
        if twice := sorted(found.keys() & (columns.keys() | kwargs.keys())):
            raise InputError(f"given twice, as a column and otherwise: {', '.join(twice)}")
        columns |= {name: PerTask(values) for name, values in found.items()}
    others = [*rest, *kwargs.values()]
    is_open = not columns and not any(
        is_sequence(value) or isinstance(value, PerTask) for value in others
    )
    if is_open and any(_is_pandas(value, "Series") for value in kwargs.values()):
        from acme_mpi.tasks.tables import series_values

        kwargs = {
            name: series_values(value) if _is_pandas(value, "Series") else value
            for name, value in kwargs.items()
        }
    return rest, {**kwargs, **columns}


def _is_pandas(value: Any, kind: str = "") -> bool:
    """Tell whether a value is of a class, or any class, of pandas, which is not imported."""
    cls = type(value)  # since pandas 3 its modules are called "pandas"
    return cls.__module__.partition(".")[0] == "pandas" and kind in ("", cls.__name__)


def _spread_axes(
    entries: list[tuple[str, str | None, Any, Any]],
) -> list[tuple[str, str | None, Any, Any]]:
    """Return the entries with the values of all tasks in the place of each axis of a grid."""
    numbers = [k for k, (_, _, value, _) in enumerate(entries) if isinstance(value, GridAxis)]
    columns = spread([entries[k][2] for k in numbers])
    found = list(entries)
    for k, column in zip(numbers, columns, strict=True):
        label, keyword, _, default = entries[k]
        found[k] = (label, keyword, column, default)
    return found


def _bind(
    func: Callable[..., Any],
    args: Sequence[Any],
    kwargs: Mapping[str, Any],
    caller: Callable[..., Any] | None,
    is_seeded: bool,
) -> tuple[list[tuple[str, str | None, Any, Any]], bool]:
    """Return (label, keyword, value, default) per argument, and whether taskID is to be filled."""
    args = [_listed_if_iterator(value) for value in args]
    kwargs = {key: _listed_if_iterator(value) for key, value in kwargs.items()}
    signature = signature_of(func)
    empty = inspect.Parameter.empty
    if is_seeded:
        _check_takes_rng(func, signature, args, kwargs)
    if signature is None:
        numbered = [(f"number {k}", None, value, empty) for k, value in enumerate(args)]
        return [*numbered, *((key, key, value, empty) for key, value in kwargs.items())], False
    parameter = signature.parameters.get(TASK_ID)
    inject = (
        parameter is not None
        and parameter.kind in (parameter.POSITIONAL_OR_KEYWORD, parameter.KEYWORD_ONLY)
        and TASK_ID not in signature.bind_partial(*args).arguments
        and TASK_ID not in kwargs
        if _binds(signature, args)
        else False
    )
    try:
        filled = {**({TASK_ID: 0} if inject else {}), **({RNG: None} if is_seeded else {})}
        bound = signature.bind(*args, **kwargs, **filled)
    except TypeError as error:
        name = function_name(func)
        lead = _count_text(signature, args, kwargs)
        wrong = _wrong_names(signature, kwargs, caller)
        raise InputError(
            f"{name}{lead}: {error}; its signature is {name}{signature}{wrong}"
        ) from None
    entries: list[tuple[str, str | None, Any, Any]] = []
    is_gapless = True  # so far every parameter has got an argument: it can be passed by position
    for name, parameter in signature.parameters.items():
        if name not in bound.arguments or name in filled:
            is_gapless = is_gapless and parameter.kind is parameter.VAR_POSITIONAL
            continue
        value = bound.arguments[name]
        if parameter.kind is parameter.VAR_POSITIONAL:
            entries += [(f"{name}[{k}]", None, item, empty) for k, item in enumerate(value)]
        elif parameter.kind is parameter.VAR_KEYWORD:
            entries += [(key, key, item, empty) for key, item in value.items()]
        else:
            by_name = parameter.kind is parameter.KEYWORD_ONLY or not is_gapless
            keyword = name if by_name else None
            entries.append((name, keyword, value, parameter.default))
    return entries, inject


def _check_takes_rng(
    func: Callable[..., Any],
    signature: inspect.Signature | None,
    args: Sequence[Any],
    kwargs: Mapping[str, Any],
) -> None:
    name = function_name(func)
    parameter = None if signature is None else signature.parameters.get(RNG)
    if parameter is None or parameter.kind not in (
        parameter.POSITIONAL_OR_KEYWORD,
        parameter.KEYWORD_ONLY,
    ):
        raise InputError(
            f"`seed` gives random numbers to a parameter called {RNG!r}, and {name} has none; it "
            f"is {name}{signature or '(...)'}"
        )
    assert signature is not None
    if RNG in kwargs or (
        _binds(signature, args) and RNG in signature.bind_partial(*args).arguments
    ):
        raise InputError(f"`seed` and the argument {RNG!r} are given; leave out one of them")


def _wrong_names(
    signature: inspect.Signature, kwargs: Mapping[str, Any], caller: Callable[..., Any] | None
) -> str:
    """Return which arguments have names that no parameter has: Python names one fault alone."""
    own = signature.parameters
    if any(parameter.kind is parameter.VAR_KEYWORD for parameter in own.values()):
        return ""
    further = {} if caller is None else inspect.signature(caller).parameters
    known = [*own, *(n for n, p in further.items() if p.kind is p.KEYWORD_ONLY)]
    wrong = [name for name in kwargs if name not in own]
    lines = [f"\n  no parameter is called {name!r}{did_you_mean(name, known)}" for name in wrong]
    return "".join(lines)


def _count_text(
    signature: inspect.Signature, args: Sequence[Any], kwargs: Mapping[str, Any]
) -> str:
    """Return what ACME says where arguments do not fit by their number, else ``()``."""
    parameters = list(signature.parameters.values())
    kinds = {p.kind for p in parameters}
    positional = [p for p in parameters if p.kind in (p.POSITIONAL_ONLY, p.POSITIONAL_OR_KEYWORD)]
    required = tuple(p.name for p in positional if p.default is p.empty)
    optional = tuple(p.name for p in parameters if p.default is not p.empty)
    n_found = len(args) + sum(name in required for name in kwargs)
    is_over = n_found > len(positional) and inspect.Parameter.VAR_POSITIONAL not in kinds
    if n_found < len(required) or is_over:
        names = ", ".join(map(repr, required))
        return f" expects {len(required)} positional arguments ({names}), found {n_found}"
    n_named = sum(name not in required for name in kwargs)
    if n_named > len(optional) and inspect.Parameter.VAR_KEYWORD not in kinds:
        names = ", ".join(map(repr, optional))
        return f" accepts at maximum {len(optional)} keyword arguments ({names}), found {n_named}"
    return "()"


def _is_endless(value: Any) -> bool:
    if isinstance(value, itertools.repeat):
        try:
            value.__length_hint__()
        except TypeError:
            return True
    return isinstance(value, (itertools.count, itertools.cycle))


def _listed_if_iterator(value: Any) -> Any:
    if _is_endless(value):
        raise InputError(f"an argument is an endless iterator, {value!r}; give a list or a range")
    # An open file is an iterator, too, but nobody means its lines.
    is_list = isinstance(value, Iterator) and not isinstance(value, io.IOBase)
    return list(value) if is_list else value


def _binds(signature: inspect.Signature, args: Sequence[Any]) -> bool:
    try:
        signature.bind_partial(*args)
    except TypeError:
        return False
    return True


def _check_n_inputs(n_inputs: Any) -> int | None:
    if isinstance(n_inputs, str) and n_inputs == "auto":
        return None
    whole = isinstance(n_inputs, numbers.Real) and not isinstance(n_inputs, bool)
    if not whole or not 1 <= n_inputs < float("inf") or n_inputs % 1 != 0:
        raise InputError(f"`n_inputs` has to be 'auto' or an integer >= 1, not {n_inputs!r}")
    return int(n_inputs)


def _unwrap(label: str, keyword: str | None, value: Any) -> Argument | None:
    """Return the distribution that a marker asks for, None without a marker."""
    if isinstance(value, Shared):
        return Argument(label, keyword, value.value, per_task=False)
    if isinstance(value, GridColumn):
        return Argument(label, keyword, value, per_task=True)
    if not isinstance(value, PerTask):
        return None
    inner, axis = _listed_if_iterator(value.value), value.axis
    if axis == 0 and (items := _items_as_given(inner)) is not None:
        return Argument(label, keyword, items, per_task=True)
    refusal = f"argument {label!r} cannot be split along axis {axis}: it is "
    if _can_be_listed(inner):
        raise InputError(refusal + _how_to_list(inner))
    refusal += shape_text(inner)
    try:
        array = np.asarray(inner)
    except (RuntimeError, TypeError, ValueError) as error:
        raise InputError(f"{refusal}; {error}") from None
    if not isinstance(axis, numbers.Integral) or not -array.ndim <= axis < array.ndim:
        raise InputError(refusal)
    return Argument(label, keyword, np.moveaxis(array, axis, 0), per_task=True)


def _items_as_given(value: Any) -> Any:
    """Return a sequence with the very items of `value`; None if it is an array, or no sequence.

    By way of an array an ``int`` would become an ``np.int64``.
    """
    if isinstance(value, (np.ndarray, str, bytes, bytearray)):
        return None
    if is_sequence(value):
        return value
    is_pandas = _is_pandas(value)
    is_numbered = _has_numbered_items(value) and not hasattr(value, "__array__")
    return list(value) if (is_pandas or is_numbered) and _is_flat(value) else None


def _is_flat(value: Any) -> bool:
    """Tell whether a collection has one axis; a memoryview, or pandas' Series, may say so."""
    try:
        return bool(getattr(value, "ndim", 1) == 1)
    except Exception:  # in a file that is closed
        return False


def _has_numbered_items(value: Any) -> bool:
    is_mapping = isinstance(value, Mapping) or hasattr(value, "keys")
    return hasattr(value, "__getitem__") and hasattr(value, "__len__") and not is_mapping


def _can_be_listed(value: Any) -> bool:
    """Tell whether `value` holds items, is not split as it is, and would be as a list."""
    if isinstance(value, (str, bytes, bytearray)) or is_sequence(value):
        return False
    if isinstance(value, Mapping):  # files are, too
        return isinstance(value, dict)
    return isinstance(value, Collection) and _is_flat(value)


def _how_to_list(value: Any) -> str:
    kind = type(value).__name__
    return f"a {kind} of {len(value)}; PerTask(list(x)) gives each task one item of it"


def is_read_by_pieces(value: Any) -> bool:
    """Tell whether a value is an array on a medium, such as an `h5py.Dataset`: never read whole."""
    if isinstance(value, (np.ndarray, np.generic)):
        return False
    try:
        return bool(value.shape) and hasattr(value, "dtype") and hasattr(value, "chunks")
    except Exception:  # no array, or one in a closed file
        return False


def is_sequence(value: Any) -> bool:
    """Tell whether a value has one item per task, if it has as many items as there are tasks."""
    kinds = (list, tuple, range, np.ndarray, GridColumn)
    return isinstance(value, kinds) or is_read_by_pieces(value)


def _read_rows(value: Any, start: int, stop: int) -> Iterator[Any]:
    """Yield the rows [start, stop) of an array on a medium, a few MB at a time."""
    row_bytes = max(1, math.prod(value.shape[1:]) * value.dtype.itemsize)
    n_rows = max(1, PIECE_BYTES // row_bytes)
    for first in range(start, stop, n_rows):
        piece = range(first, min(first + n_rows, stop))
        try:
            rows = value[piece.start : piece.stop]
        except Exception:
            # One row of it cannot be read: only the task of that row shall fail.
            yield from (value[index] for index in piece)
        else:
            yield from rows


def _is_candidate(value: Any, default: Any, columns: bool) -> bool:
    """Tell whether the guess may split `value`.

    A list whose default is a list of the same length, and an array whose default is an array, is
    meant whole.
    """
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
            + "".join(f"\n  {k!r} is {_how_to_list(value)}" for k, value in unsplit.items())
        )
    raise InputError(
        f"{message}\n  Candidates: {_listed(lengths)}\n"
        "  Share those that every task needs whole: --share NAME, in Python Shared(x); or name the "
        "one to split: --split NAME, in Python PerTask(x); or --n-inputs N, in Python n_inputs=N;\n"
        "  or call every combination: --grid NAME for each, in Python Grid(name=x, ...)"
    )


def _listed(lengths: Mapping[str, int]) -> str:
    return ", ".join(f"{label!r} has {n}" for label, n in lengths.items()) or "no candidates"


def shape_text(value: Any) -> str:
    """Return what a value is, in a few words."""
    if isinstance(value, np.ndarray):
        return f"array {value.shape} {value.dtype}"
    if isinstance(value, (list, tuple, range)):
        return f"{type(value).__name__} of {len(value)}"
    if isinstance(value, GridColumn):
        return f"grid of {len(value)}"
    return f"{type(value).__name__} {_SHORT.repr(value)}"
