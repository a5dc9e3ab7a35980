"""All calls of a run: the arguments of each task, and the calls as text."""

from __future__ import annotations

import itertools
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import partial
from itertools import repeat
from typing import Any, NamedTuple

import numpy as np

from acme_mpi.tasks.grid import GridColumn
from acme_mpi.tasks.items import is_read_by_pieces, read_rows, shape_text, short_text

TASK_ID = "taskID"
RNG, SEED = "rng", "seed"


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
            return read_rows(self.value, start, stop)
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
        parts = [short_text(value) for value in args]
        parts += [f"{key}={short_text(value)}" for key, value in kwargs.items()]
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


def function_name(func: Any) -> str:
    """Return the name that files are called after: ``__name__``, else that of what is wrapped."""
    while hasattr(func, "func") and not hasattr(func, "__name__"):
        func = func.func
    name = str(getattr(func, "__name__", type(func).__name__))
    return "lambda" if name == "<lambda>" else name.replace("/", "_")
