"""Load what the command line names: the target function and the file of arguments.

This runs where user code may run, in a runner (or in the foreground for ``--plan`` and
``--debug-task``), never in an agent.
"""

from __future__ import annotations

import difflib
import importlib
import importlib.util
import os
import random
import sys
import traceback
from collections.abc import Callable, Iterable, Sequence
from functools import partial
from typing import Any

from acme_mpi.errors import InputError, LoadingError
from acme_mpi.linux.segment import Segment
from acme_mpi.runner.command import Command, Loaded
from acme_mpi.runner.forked import children_leave
from acme_mpi.runner.measure import Measured
from acme_mpi.runner.settings import as_utf8, parse_setting
from acme_mpi.runner.shown import texts_of, texts_without_calls
from acme_mpi.spelling import did_you_mean, file_did_you_mean, whole_number
from acme_mpi.standing import loading
from acme_mpi.tasks.argument_files import (
    STANDARD_INPUT,
    load_arguments,
    load_from_standard_input,
)
from acme_mpi.tasks.distributing import distribute
from acme_mpi.tasks.fingerprint import fingerprint_of, versions
from acme_mpi.tasks.frames import user_frames
from acme_mpi.tasks.grid import GridAxis, listed_values
from acme_mpi.tasks.labels import labels_of
from acme_mpi.tasks.markers import PerTask, Shared
from acme_mpi.tasks.packing import pack
from acme_mpi.tasks.pickling import join_values
from acme_mpi.tasks.signature import signature_of
from acme_mpi.tasks.taskset import TaskSet, function_name


class _ByTarget:
    """Pickles as the instruction to load the target again, wherever it is unpickled."""

    def __init__(self, target: str) -> None:
        self._target = target

    def __reduce__(self) -> tuple[Any, ...]:
        return load_target, (self._target,)


def load_target(target: str) -> Callable[..., Any]:
    """Return the function that ``module:function`` or ``path/to/file.py:function`` names.

    Raises
    ------
    InputError
        There is no such module, file or function, or its import fails.
    """
    where, colon, attribute = target.rpartition(":")
    if not colon or not where or not attribute or where.endswith(":"):
        raise InputError(
            f"target {target!r} has to be module:function, path/to/file.py:function, or script.py"
        )
    module = _load_module(where)
    found: Any = module
    attribute = as_utf8(attribute)
    for name in attribute.split("."):
        try:
            found = getattr(found, name)
        except AttributeError:
            names = [n for n in dir(found) if not n.startswith("_") and callable(getattr(found, n))]
            close = difflib.get_close_matches(name, names, 3) or names[:8]
            raise InputError(
                f"{where} has no function {attribute!r}; it has: {', '.join(close) or 'none'}"
            ) from None
    if not callable(found):
        raise InputError(f"{target} is not callable, but {type(found)}")
    return found  # type: ignore[no-any-return]


def _load_module(where: str) -> Any:
    is_file = where.endswith(".py") or os.sep in where
    if is_file and not os.path.isfile(where):
        raise InputError(
            f"there is no file {where!r} (working directory {os.getcwd()})"
            + file_did_you_mean(where, ".py")
        )
    try:
        with children_leave():
            return _load_file(where) if is_file else importlib.import_module(where)
    except ModuleNotFoundError as error:
        # Itself or a package that it is in; anything else is missing for its own imports.
        if is_file or error.name is None or not f"{where}.".startswith(f"{error.name}."):
            raise InputError(f"cannot import {where}: {_user_traceback(error)}") from None
        raise InputError(
            f"there is no module {where!r} in the working directory ({os.getcwd()}) or on "
            "PYTHONPATH; a file is named path/to/file.py:function" + _module_meant(where)
        ) from None
    except (KeyboardInterrupt, MemoryError, LoadingError):
        raise
    except BaseException as error:
        raise InputError(f"cannot import {where}: {_user_traceback(error)}") from None


def _module_meant(where: str) -> str:
    names = [name.removesuffix(".py") for name in os.listdir() if name.endswith(".py")]
    return did_you_mean(where, names)


def _load_file(path: str) -> Any:
    path = os.path.abspath(path)
    name = os.path.splitext(os.path.basename(path))[0]
    loaded = sys.modules.get(name)
    if loaded is not None and getattr(loaded, "__file__", None) == path:
        return loaded
    # As Python does for a script: modules beside the file can be imported.
    if os.path.dirname(path) not in sys.path:
        sys.path.insert(0, os.path.dirname(path))
    spec = importlib.util.spec_from_file_location(name, path)
    if spec is None or spec.loader is None:
        raise InputError(f"{path} is not a Python file")
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    spec.loader.exec_module(module)
    return module


def _user_traceback(error: BaseException) -> str:
    """Return the error with the frames of the user's module, none of ours or of importlib."""
    frames = [
        frame
        for frame in user_frames(error)
        if not frame.filename.startswith("<frozen importlib")
        and os.sep + "importlib" + os.sep not in frame.filename
    ]
    lines = traceback.format_list(frames) + traceback.format_exception_only(error)
    return "\n" + "".join(lines).rstrip()


def load_command(command: Command) -> tuple[Callable[..., Any], TaskSet]:
    """Return the function and the tasks that a command line describes.

    Raises
    ------
    InputError
        Anything about them is wrong.
    """
    with loading():
        return _load_command(command)


def _load_command(command: Command) -> tuple[Callable[..., Any], TaskSet]:
    sys.path[:] = command.sys_path
    os.chdir(command.directory)
    func = load_target(command.target)
    args: list[Any] = []
    kwargs: dict[str, Any] = {}
    if command.arguments is not None:
        dtypes = _by_name("--dtype", map(_column_type, command.dtype))
        if command.arguments == STANDARD_INPUT:
            args, kwargs = load_from_standard_input(command.table, dtypes)
        else:
            args, kwargs = load_arguments(command.arguments, command.allow_pickle, dtypes)
    elif command.dtype:
        raise InputError("--dtype is for the columns of a table, and ARGS is missing")
    kwargs.update(_by_name("--set", map(parse_setting, command.settings)))
    for text in map(as_utf8, command.split):
        name, colon, given = text.partition(":")
        axis = whole_number(given) if colon else 0
        if axis is None:
            raise InputError(f"--split needs NAME or NAME:AXIS with an integer axis, not {text!r}")
        _mark(func, args, kwargs, name, "--split", partial(PerTask, axis=axis))
    for name in map(as_utf8, command.share):
        _mark(func, args, kwargs, name, "--share", Shared)
    for order, name in enumerate(map(as_utf8, command.grid)):
        _mark(func, args, kwargs, name, "--grid", partial(_axis, name=name, order=order))
    return func, distribute(func, args, kwargs, command.n_inputs, seed=command.seed)


def _by_name(option: str, pairs: Iterable[tuple[str, Any]]) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for name, value in pairs:
        if name in found:
            raise InputError(f"{option} {name} is given twice: {found[name]!r} and {value!r}")
        found[name] = value
    return found


def _column_type(text: str) -> tuple[str, str]:
    name, equals, dtype = as_utf8(text).partition("=")
    if not (name and equals and dtype):
        raise InputError(f"--dtype needs NAME=TYPE, such as seed=int, not {text!r}")
    return name, dtype


def _mark(
    func: Callable[..., Any],
    args: list[Any],
    kwargs: dict[str, Any],
    name: str,
    option: str,
    wrap: Callable[[Any], Any],
) -> None:
    """Wrap the argument called `name`, given by name or by position."""
    position = _position(func, args, name)
    current = kwargs.get(name) if name in kwargs else None if position is None else args[position]
    if name not in kwargs and position is None:
        known = [*_positional_names(func, args), *kwargs]
        raise InputError(
            f"{option} {name}: there is no such argument; given are: {', '.join(known) or 'none'}"
            + did_you_mean(name, known)
        )
    if isinstance(current, (PerTask, Shared, GridAxis)):
        raise InputError(
            f"{option} {name}: the argument is split already, as a column of a table is, or named "
            "twice in --split, --share and --grid"
        )
    if name in kwargs:
        kwargs[name] = wrap(current)
    elif position is not None:
        args[position] = wrap(current)


def _axis(value: Any, name: str, order: int) -> GridAxis:
    return GridAxis(listed_values(name, value), order)


def _positional_names(func: Callable[..., Any], args: Sequence[Any]) -> list[str]:
    signature = signature_of(func)
    names = (
        []
        if signature is None
        else [
            p.name
            for p in signature.parameters.values()
            if p.kind in (p.POSITIONAL_ONLY, p.POSITIONAL_OR_KEYWORD)
        ]
    )
    return [names[k] if k < len(names) else str(k) for k in range(len(args))]


def _position(func: Callable[..., Any], args: Sequence[Any], name: str) -> int | None:
    names = _positional_names(func, args)
    if name in names:
        return names.index(name)
    number = whole_number(name)
    return number if number is not None and 0 <= number < len(args) else None


def prepare_command(command: Command) -> Loaded | str:
    """Load a command's function and arguments; return them packed, or what is wrong with them."""
    try:
        func, tasks = load_command(command)
        fingerprint, labels = {}, None
        if command.shaping is not None:
            fingerprint = {**fingerprint_of(func, tasks, command.shaping), **versions()}
            labels = labels_of(func, tasks, command.typed)
        target: Any = _ByTarget(command.target)
        return Loaded(
            function_name(func),
            tasks.n_tasks,
            tasks.grid,
            pack(target, tasks),
            list(sys.path),
            fingerprint,
            labels,
            None if command.trial is None else _pack_trial(Measured(target, *command.trial), tasks),
        )
    except InputError as error:
        return str(error)
    except Exception as error:
        return f"{type(error).__name__}: {error}"


def _pack_trial(measured: Measured, tasks: TaskSet) -> tuple[int, Segment]:
    if tasks.n_tasks == 0:
        raise InputError("--dry-run needs a task, and there are none")
    index = random.randrange(tasks.n_tasks)
    return index, pack(measured, tasks.only(index))


def show_values(
    pieces: Sequence[Any], n_tasks: int, sys_path: list[str], is_careful: bool
) -> tuple[list[str], dict[int, str]]:
    """Return the values of all tasks as text, and which do not load here; see `join_values`."""
    sys.path[:] = sys_path  # this process may not be the one that has loaded the target
    values, unloadable = join_values(pieces, n_tasks)
    return texts_without_calls(values) if is_careful else texts_of(values), unloadable
