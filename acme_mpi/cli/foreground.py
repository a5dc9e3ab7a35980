"""What the command line does in its own process: ``--plan`` and ``--debug-task``."""

from __future__ import annotations

import pdb
import sys
import traceback
from typing import Any

from acme_mpi.errors import EXIT_DONE, InputError, TaskError
from acme_mpi.linux.printing import print_lines
from acme_mpi.results.spec import on_grid
from acme_mpi.runner.forked import children_leave
from acme_mpi.standing import calling
from acme_mpi.storage import find_store
from acme_mpi.tasks.signature import signature_of
from acme_mpi.tasks.taskset import TaskSet, function_name


def plan_text(func: Any, tasks: TaskSet, options: Any, size: int) -> str:
    """Return what a run would do, as text.

    Parameters
    ----------
    func, tasks : callable, TaskSet
        What would be called.
    options : argparse.Namespace
        The checked command line.
    size : int
        Number of ranks.
    """
    name, spec = function_name(func), on_grid(options.spec, tasks.grid)
    signature = signature_of(func)
    directory = options.output_dir or "a new ACME_YYYYMMDD-hhmmss-ffffff"
    store = find_store(options.kind)
    lines = [
        f"function:  {options.target}  {name}{signature or '(no signature)'}",
        *(f"argument:  {line}" for line in tasks.describe()),
        f"tasks:     {tasks.n_tasks}",
    ]
    if tasks.n_tasks:
        lines.append(f"first:     {tasks.call_text(name, 0)}")
        lines.append(f"last:      {tasks.call_text(name, tasks.n_tasks - 1)}")
    lines.append(f"ranks:     {size}" + ("" if size > 1 else " (start it with mpiexec -n N)"))
    lines.append(f"output:    {store.plan_text(store.layout(directory, name))}")
    if spec is None:
        lines.append("bytes:     as large as the results; unknown without --result-shape")
    elif spec.is_open:
        lines.append("bytes:     unknown, the first result decides on the form")
    elif spec.is_ragged:
        lines.append("bytes:     unknown, one axis is inf")
    else:
        for column in spec.columns:
            shape = column.whole_shape(tasks.n_tasks)
            n_bytes = column.row_bytes * tasks.n_tasks
            where = column.name or column.dataset
            lines.append(f"bytes:     {n_bytes} in {where}, shape {shape} {column.dtype}")
    return "\n".join(lines)


def debug_task(func: Any, tasks: TaskSet, index: int) -> int:
    """Call one task, print what it returns, and open the debugger where it raises.

    Returns
    -------
    int
        Exit status.

    Raises
    ------
    InputError
        There is no such task.
    """
    if not 0 <= index < tasks.n_tasks:
        raise InputError(f"--debug-task has to be in [0, {tasks.n_tasks}), not {index}")
    args, kwargs = next(tasks.calls(index, index + 1))
    try:
        with children_leave(), calling():
            text = str(func(*args, **kwargs))
    except Exception as error:
        trace = error.__traceback__
        assert trace is not None
        error.__traceback__ = trace.tb_next or trace
        traceback.print_exception(error)
        sys.stderr.flush()
        pdb.post_mortem(error.__traceback__)
        return TaskError.exit_code
    print_lines([text])
    return EXIT_DONE
