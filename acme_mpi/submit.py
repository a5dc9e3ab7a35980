"""One call on its way to the ranks, wherever this process stands, and its result's way back."""

from __future__ import annotations

import logging
import os
import threading
from collections.abc import Callable
from functools import cache, partial
from typing import Any

import numpy as np

from acme_mpi import script
from acme_mpi.call import Call, Options, Result
from acme_mpi.comm import (
    SerialWorld,
    World,
    is_launched,
    launched_rank_and_size,
    make_world,
    settle,
)
from acme_mpi.errors import AcmeMpiError, InputError, StoreError
from acme_mpi.fingerprint import digest, fingerprint_of, versions
from acme_mpi.run import run
from acme_mpi.runner import packing
from acme_mpi.runner.classes import name_classes
from acme_mpi.runner.descriptors import occupy_standard_descriptors
from acme_mpi.runner.kept import stop_runner
from acme_mpi.runner.loading import join_values
from acme_mpi.runner.pickling import pickle_given
from acme_mpi.script import connection, is_connected, request
from acme_mpi.standing import is_in_task, loading, refuse_while_loading
from acme_mpi.storage.base import Stored, missing_value
from acme_mpi.tasks import TaskSet

logger = logging.getLogger("acme_mpi")


def callers(comm: Any = None) -> World:
    """Return the processes that make a call together. Collective.

    In a script that is served by ranks that is the script alone, in a task this process, else all
    ranks of `comm`.

    Raises
    ------
    LoadingError
        User code is being loaded.
    """
    refuse_while_loading()
    if is_in_task() or is_connected():
        return SerialWorld()
    occupy_standard_descriptors()
    world = make_world(comm, _tell)
    world.end_together()
    return world


def job_ranks(world: World, error: AcmeMpiError | None = None) -> list[tuple[str, int]]:
    """Return host and process id of every rank of the job. Collective over `callers`.

    Raises
    ------
    AcmeMpiError
        On every rank alike, if any brings an `error`.
    """
    world.barrier(_tell)
    there = settle(world, error, (world.host, os.getpid()), lambda brought: brought)
    served = None if is_in_task() else connection()
    return there if served is None else served.ranks


def generations_below_launcher() -> int:
    """Return how far this process is below its launcher, 0 without one: see `terminal.ask`."""
    served = connection()
    if served is not None:
        return 2 if served.is_launched else 0
    return int(is_launched())


def is_speaker() -> bool:
    """Tell whether this process says what concerns the whole job. Independent."""
    if is_in_task():
        return False
    return is_connected() or launched_rank_and_size()[0] == 0


def release() -> None:
    """End the runners: of all ranks from a script that they serve, else of this rank. Independent.

    The next run starts new ones. A task ends none: it may be called by one of them.
    """
    if is_in_task():
        return
    if is_connected():
        script.release()
    else:
        stop_runner()


def _tell(text: str) -> None:
    logger.warning("%s", text)


def pack(call: Call, world: World, func: Callable[..., Any] | None, tasks: TaskSet) -> None:
    """Put function and arguments into `call`, pickled; only rank 0's arguments travel. Independent.

    A function that is called in this very process (None here) need not be picklable.

    Raises
    ------
    InputError
        Something cannot be pickled.
    StoreError
        There is no room for the arguments.
    """
    is_alone = world.size == 1  # otherwise every rank calls a function of its own
    if is_in_task():
        func = None
    try:
        with loading():
            if not is_alone:
                name_classes(world.name)
                call.func = pickle_given(func)
            if world.is_master:
                call.packed = packing.pack(func if is_alone else None, tasks)
    except (InputError, StoreError):
        raise
    except Exception as error:
        raise InputError(
            f"the function or an argument cannot be pickled: {error}; make open files, locks and "
            "connections inside the function"
        ) from None
    if not is_alone:
        # A rank that pickles an open file flushes it, too, and so changes its time of change.
        call.digests = {each.label: digest(each.value, False) for each in tasks.arguments}


def identify(call: Call, world: World, func: Callable[..., Any], tasks: TaskSet) -> None:
    """Put into `call` what makes it the same computation as an earlier one. Independent.

    Only where it counts: on rank 0, of runs that write files.
    """
    if world.is_master and call.options is not None and call.options.output.kind != "memory":
        with loading():
            found = fingerprint_of(func, tasks, call.options.shaping)
        call.fingerprint = {**found, **versions()}


def submit(world: World, call: Call, wants_values: bool = True) -> Result:
    """Have all tasks of a call run and return what became of them. Collective.

    Parameters
    ----------
    world : World
        From `callers`.
    call : Call
        Of this process; that of rank 0 is used.
    wants_values : bool
        This rank gets what a run in memory returns.

    Raises
    ------
    InputError, LaunchError, StoreError
        On every rank alike, before any task has run.
    """
    call.deliver = partial(deliver, wants_values=wants_values)
    if is_in_task():
        return _run_in_task(call)
    if is_connected():
        return request(call, partial(deliver, world))
    with _ONE_AT_A_TIME:
        return run(world, call)


def _run_in_task(call: Call) -> Result:
    """Run a task's own call right here, one of its tasks after the other. Independent."""
    if call.options is not None:
        rules = call.options.work.rules
        if rules.timeout is not None or rules.memory is not None:
            _warn_of_limits()
        call.options = call.options.in_one_process()
    return run(SerialWorld(), call)


@cache
def _warn_of_limits() -> None:
    logger.warning(
        "`timeout` and `memory` of a call inside of a task are not kept: it runs in the task's own "
        "process, which is ended by the limits of the task alone"
    )


# There is one runner, and one conversation with the other ranks. A function that is called in this
# process may have calls of its own.
_ONE_AT_A_TIME = threading.RLock()


def deliver(world: World, result: Result, wants_values: bool = True) -> dict[int, str]:
    """Load the values of a run in memory where they are wanted. Collective.

    Returns
    -------
    dict of int to str
        Tasks whose value does not load on this rank, and why.
    """
    reasons: dict[int, str] = {}
    if wants_values:
        with loading():
            result.values, reasons = values_of(result.stored, result.options)
    # It may be one rank alone that has the values, or cannot load them: all raise alike.
    for rank, (host, each) in enumerate(world.allgather((world.host, reasons))):
        result.fail_unloadable(each, host, rank)
    return reasons


def finish(result: Result) -> Any:
    """Return what the caller gets for a result, or raise what it calls for. Independent."""
    results = result.values if result.options.output.kind == "memory" else result.stored.paths
    error = result.error(results)
    if error is not None:
        try:
            raise error
        finally:
            # Its traceback holds this frame: what the callers have would live on in that circle.
            del error
    return results


def values_of(stored: Stored, options: Options) -> tuple[Any, dict[int, str]]:
    """Return the values of a run in memory, in task order, and those that do not load; why."""
    n_tasks, spec = options.work.n_tasks, options.work.spec
    pieces = [(runs, c.values, c.buffers) for runs, c in stored.pieces if c.values is not None]
    values, unloadable = join_values(pieces, n_tasks)
    if spec is None:
        return values, unloadable
    rows = np.full((n_tasks, *spec.row_shape), missing_value(spec.dtype), spec.dtype)
    for runs, content in stored.pieces:
        assert content.rows is not None
        done = 0
        for start, stop in runs:
            rows[start:stop] = content.rows[done : done + stop - start]
            done += stop - start
    stacked = np.moveaxis(rows, 0, spec.axis)
    rest = [value for more in values if more for value in more]
    whole = np.ascontiguousarray(stacked)
    return [whole, *rest] if rest else whole, unloadable
