"""Run all tasks in the calling process and thread, for debuggers: ``compute(debug=True)``."""

from __future__ import annotations

import pickle

import cloudpickle

from acme_mpi.comm import SerialWorld, World
from acme_mpi.engine.call import Call, Result
from acme_mpi.engine.run import run
from acme_mpi.errors import TaskError
from acme_mpi.session.values import deliver
from acme_mpi.tasks.frames import users_part


def run_here(world: World, call: Call) -> Result | BaseException:
    """Run a call in this process of rank 0 and share what comes of it. Collective.

    Returns
    -------
    Result or BaseException
        The exception that the caller has to raise, on every rank, with the user's frames only.
    """
    result: Result | None = None
    raised: BaseException | None = None
    call.deliver = _try_values
    if world.is_master:
        try:
            result = run(SerialWorld(), call)
        except BaseException as error:
            raised = error.with_traceback(users_part(error.__traceback__))
    packed = world.bcast(None if raised is None else _packed_exception(raised))
    if packed is not None:
        return pickle.loads(packed) if raised is None else raised
    shared: Result = world.bcast(result)
    if not shared.options.output.store.writes_files:
        deliver(world, shared)
    return shared


def _try_values(world: World, result: Result) -> None:
    deliver(world, result)
    result.values = None  # each rank has its own


def _packed_exception(error: BaseException) -> bytes:
    """Return an exception for the other ranks, as it is or at least as what it says."""
    # By reference where that works: all ranks run the same script, and catch its own classes.
    for dumps in (pickle.dumps, cloudpickle.dumps):
        try:
            data: bytes = dumps(error)
            pickle.loads(data)
            return data
        except Exception:
            continue
    return pickle.dumps(TaskError(f"{type(error).__name__} on rank 0: {error}"))
