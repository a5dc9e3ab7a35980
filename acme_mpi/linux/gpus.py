"""Which GPUs a rank sees: its share of those of its node, by ``CUDA_VISIBLE_DEVICES``.

Slurm's ``--gpus-per-task`` does it by itself; an mpiexec does not.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, MutableMapping

from acme_mpi.errors import InputError
from acme_mpi.spelling import whole_number

PER_RANK = "ACME_MPI_GPUS_PER_RANK"
VISIBLE = "CUDA_VISIBLE_DEVICES"
# What launchers tell a rank of its place on its node. An mpiexec in a batch script of Slurm leaves
# the last one, which is not about its ranks: the first wins.
_LOCAL_RANK = ("OMPI_COMM_WORLD_LOCAL_RANK", "MPI_LOCALRANKID", "SLURM_LOCALID")


def take_gpus(environ: MutableMapping[str, str] = os.environ) -> None:
    """Have this rank see its share of the GPUs, if a variable says how many each rank gets.

    It may come before anything that looks for GPUs. Rank i of a node gets the g from number i * g
    on, of all GPUs, or of those that ``CUDA_VISIBLE_DEVICES`` lists for all ranks. A list of at
    most g is taken for this rank's own already.

    Parameters
    ----------
    environ : mutable mapping
        The rank's environment; its ``CUDA_VISIBLE_DEVICES`` is set.

    Raises
    ------
    InputError
        The variable is no number of GPUs; on every rank alike.
    """
    text = environ.get(PER_RANK, "")
    if not text:
        return
    n = whole_number(text)
    if n is None or n < 1:
        raise InputError(f"the variable {PER_RANK} has to be a whole number >= 1, not {text!r}")
    place = next((environ[name] for name in _LOCAL_RANK if environ.get(name)), "")
    rank = whole_number(place)
    if rank is None:
        return  # nobody tells it: all would take the same ones
    share = slice(rank * n, rank * n + n)
    listed = _listed(environ)
    if listed is None:
        environ[VISIBLE] = ",".join(map(str, range(share.start, share.stop)))
    elif len(listed) > n:
        environ[VISIBLE] = ",".join(listed[share])


def refuse_too_few_gpus(
    n_ranks: int, n_per_rank: int, environ: Mapping[str, str] = os.environ
) -> None:
    """Raise if ranks that are to be started on this node would find too few GPUs.

    How many there are is known only where ``CUDA_VISIBLE_DEVICES`` lists them.

    Raises
    ------
    InputError
        It lists less.
    """
    listed, n_needed = _listed(environ), n_ranks * n_per_rank
    if listed is not None and len(listed) < n_needed:
        raise InputError(
            f"{n_ranks} ranks with `gpus_per_rank` {n_per_rank} need {n_needed} GPUs, and "
            f"{VISIBLE}={environ[VISIBLE]} lists {len(listed)}; start fewer ranks, or unset it"
        )


def _listed(environ: Mapping[str, str]) -> list[str] | None:
    """Return the GPUs that are named; None if all of the node may be used."""
    if VISIBLE not in environ:
        return None
    return [each.strip() for each in environ[VISIBLE].split(",") if each.strip()]
