"""What a job does: all ranks make the call that was saved."""

from __future__ import annotations

from acme_mpi.comm import World
from acme_mpi.engine.call import Call
from acme_mpi.engine.run import run
from acme_mpi.engine.summary import error_of
from acme_mpi.errors import AcmeMpiError
from acme_mpi.jobs.saved_call import read_call


def run_saved(world: World, path: str, policy: str = "", retry_failed: bool = False) -> None:
    """Run the call in a file. Collective; rank 0 reads it.

    Parameters
    ----------
    world : World
        The ranks.
    path : str
        The file.
    policy : str
        What to do where there are results already, see `beginning.POLICIES`; empty: as it was
        saved.
    retry_failed : bool
        Call the tasks that have failed, and only those.

    Raises
    ------
    AcmeMpiError
        On every rank alike, whatever keeps the job from being a success.
    """
    call = Call(surroundings=None)
    if world.is_master:
        try:
            saved = read_call(path)
            options, output = saved.options, saved.options.output
            output = output._replace(
                policy=policy or output.policy,
                retry_failed=retry_failed or output.retry_failed,
            )
            call = saved.to_call(options._replace(output=output))
        except AcmeMpiError as fault:
            call = Call(error=fault)
    error = error_of(run(world, call))
    if error is not None:
        raise error
