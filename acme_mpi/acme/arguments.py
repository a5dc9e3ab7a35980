"""ACME's view of the arguments: `argv` and `kwargv`, which may be changed before a run.

Every entry is a sequence, of one value per task or of one value for all.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from acme_mpi.errors import InputError
from acme_mpi.tasks.items import is_sequence, shape_text
from acme_mpi.tasks.signature import signature_of
from acme_mpi.tasks.taskset import Argument, TaskSet, function_name


@dataclass(frozen=True)
class ArgumentShape:
    """Which arguments of a call stand in `argv`, and what cannot be changed.

    Attributes
    ----------
    labels : tuple of str
        What the entries of `argv` are called.
    n_tasks : int
        Number of calls.
    inject_task_id, seed
        As in `TaskSet`.
    """

    labels: tuple[str, ...]
    n_tasks: int
    inject_task_id: bool
    seed: int | None = None

    @classmethod
    def of(cls, func: Callable[..., Any], tasks: TaskSet) -> ArgumentShape:
        """Return the shape of a function's tasks: parameters with a default go by name."""
        defaults = _parameters_with_default(func)
        labels = tuple(
            each.label
            for each in tasks.arguments
            if each.keyword is None and each.label not in defaults
        )
        return cls(labels, tasks.n_tasks, tasks.inject_task_id, tasks.seed)

    def split(self, tasks: TaskSet) -> tuple[list[Any], dict[str, Any]]:
        """Return `argv` and `kwargv`."""
        argv: list[Any] = []
        kwargv: dict[str, Any] = {}
        for each in tasks.arguments:
            entry = each.value if each.per_task else [each.value]
            if each.keyword is None and each.label in self.labels:
                argv.append(entry)
            else:
                kwargv[each.keyword or each.label] = entry
        return argv, kwargv

    def join(
        self, func: Callable[..., Any], argv: Sequence[Any], kwargv: Mapping[str, Any]
    ) -> TaskSet:
        """Return the tasks that `argv` and `kwargv` describe now.

        Raises
        ------
        InputError
            They were changed to something that cannot be distributed.
        """
        if len(argv) != len(self.labels):
            raise InputError(
                f"`argv` has {len(argv)} entries; it needs one for each of "
                f"{', '.join(self.labels) or 'no arguments'}"
            )
        _refuse_unknown(func, kwargv)
        positional = [self._argument(*each, None) for each in zip(self.labels, argv, strict=True)]
        named = [self._argument(name, entry, name) for name, entry in kwargv.items()]
        arguments = (*positional, *named)
        return TaskSet(arguments, self.n_tasks, self.inject_task_id, seed=self.seed)

    def _argument(self, label: str, entry: Any, keyword: str | None) -> Argument:
        n_entries = len(entry) if is_sequence(entry) else None
        if n_entries not in (1, self.n_tasks):
            raise InputError(
                f"argument `{label}` has to be a list or array of {self.n_tasks} entries, or of "
                f"one for all calls, not {shape_text(entry)}"
            )
        per_task = n_entries == self.n_tasks
        return Argument(label, keyword, entry if per_task else entry[0], per_task)


N_LOOKED_AT = 1000  # entries of a long list


def rough_bytes(value: Any) -> int:
    """Return the size of an argument: of an array, or of a sequence of arrays and plain values."""
    if isinstance(value, (list, tuple)):
        looked_at = value[:N_LOOKED_AT]
        own = sum(map(_own_bytes, looked_at))
        return own * len(value) // max(1, len(looked_at))
    return _own_bytes(value)


def _own_bytes(value: Any) -> int:
    try:
        return int(getattr(value, "nbytes", 0)) or sys.getsizeof(value, 0)
    except Exception:  # the user's own methods
        return 0


def _parameters_with_default(func: Callable[..., Any]) -> set[str]:
    """Return the parameters that ACME calls keyword arguments, if they can be passed by name."""
    signature = signature_of(func)
    if signature is None:
        return set()
    parameters = list(signature.parameters.values())
    if any(each.kind is each.VAR_POSITIONAL for each in parameters):
        return set()
    return {
        each.name
        for each in parameters
        if each.kind is each.POSITIONAL_OR_KEYWORD and each.default is not each.empty
    }


def takes(func: Callable[..., Any], name: str) -> bool:
    """Tell whether a function has a parameter of that name."""
    signature = signature_of(func)
    return signature is not None and name in signature.parameters


def _refuse_unknown(func: Callable[..., Any], names: Iterable[str]) -> None:
    """Raise for names that are no parameters of a function."""
    signature = signature_of(func)
    if signature is None:
        return
    parameters = signature.parameters
    if any(each.kind is each.VAR_KEYWORD for each in parameters.values()):
        return
    unknown = [name for name in names if name not in parameters]
    if unknown:
        name = function_name(func)
        raise InputError(f"{name} has no parameter {unknown[0]!r}; it is {name}{signature}")
