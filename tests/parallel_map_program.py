"""The program of `test_parallel_map`: what each rank of an SPMD script gets from `ParallelMap`.

    mpiexec -n N python parallel_map_program.py REPORTS

runs in an empty directory beside ``there``, which holds results of `f`. Rank r writes what it has
seen, by name, to ``REPORTS/<r>.pickle``.
"""

from __future__ import annotations

import logging
import os
import pickle
import select
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from acme_mpi import ParallelMap, TaskError

MEMORY: dict[str, Any] = {"write_worker_results": False}
LONGEST_S = 20  # a task waits so long for another rank's, which comes long before


def f(x: Any, y: Any, z: Any = 3) -> Any:
    return (x + y) * z


def fail_at(i: int, bad: Any) -> int:
    if i in bad:
        raise KeyError(f"bad {i}")
    return i


class TwoWords(Exception):
    """Cannot be unpickled: its constructor wants more than its text."""

    def __init__(self, first: str, second: str) -> None:
        super().__init__(f"{first} {second}")


def fail_oddly(i: int) -> None:
    raise TwoWords("odd", "words")


def wrong(error: type[Exception], text: str, *args: Any, **kwargs: Any) -> tuple[Any, ...]:
    """Return a wrong call of `ParallelMap`, what its error also is, and how its text begins."""
    return args or (f, [1, 2], 3), kwargs, error, f"<ParallelMap> {text}"


AUTO = "has to be 'auto' or an integer >= 1, not"
COUNT = "has to be an integer between 1 and inf, not"
FLAG = "has to be `True` or `False`, not"
MEMORY_SIZE = "`mem_per_worker` has to be a valid memory specifier (e.g., '8GB', '12000MB'), not"
FOLDER = "automatic creation of output folder"
ONE_NONE = "`result_shape` must contain exactly one `None` entry"
SIZES = "`result_shape` must only contain non-negative integers"

WRONG = [
    wrong(TypeError, "first input has to be a callable function, not <class 'str'>", "f", [1]),
    wrong(ValueError, "f expects 2 positional arguments ('x', 'y'), found 1", f, [1, 2]),
    wrong(ValueError, "f expects 2 positional arguments ('x', 'y'), found 4", f, [1], 2, 3, 4),
    wrong(
        ValueError,
        "f accepts at maximum 1 keyword arguments ('z'), found 2",
        f,
        [1, 2],
        3,
        z=4,
        w=5,
    ),
    wrong(ValueError, "automatic input distribution failed: found 0 objects containing", f, 1, 2),
    wrong(ValueError, f"`n_inputs` {COUNT} 0", n_inputs=0),
    wrong(ValueError, f"`n_inputs` {COUNT} 2.5", n_inputs=2.5),
    wrong(ValueError, f"`n_inputs` {AUTO} 'all'", n_inputs="all"),
    wrong(TypeError, "`n_inputs` has to be a scalar, not <class 'bool'>", n_inputs=True),
    wrong(TypeError, "`n_inputs` has to be a scalar, not <class 'dict'>", n_inputs={}),
    wrong(ValueError, "No object has required length of 5 matching `n_inputs`", n_inputs=5),
    wrong(TypeError, f"`write_worker_results` {FLAG} None", write_worker_results=None),
    wrong(TypeError, "`output_dir` has to be either `None` or str", output_dir=2),
    wrong(OSError, f"{FOLDER} ../there failed", output_dir="../there"),
    wrong(OSError, f"{FOLDER} ../there/f.h5 failed", output_dir="../there/f.h5"),
    wrong(OSError, f"{FOLDER} ../there/f.h5/out failed", output_dir="../there/f.h5/out"),
    wrong(TypeError, "`result_shape` has to be either `None` or tuple, not", result_shape=3),
    wrong(ValueError, ONE_NONE, result_shape=(3,)),
    wrong(ValueError, ONE_NONE, result_shape=(None, 3, None)),
    wrong(ValueError, SIZES, result_shape=(None, -1)),
    wrong(ValueError, SIZES, result_shape=(None, 1.5)),
    wrong(
        ValueError,
        "cannot use more than one `np.inf` in `result_shape`",
        result_shape=(None, np.inf, np.inf),
    ),
    wrong(
        ValueError,
        "using `np.inf` in `result_shape` is only valid if `write_worker_results`",
        result_shape=(None, np.inf),
        **MEMORY,
    ),
    wrong(
        TypeError,
        "`result_dtype` has to be a string, not",
        result_shape=(None,),
        result_dtype=8,
    ),
    wrong(
        TypeError,
        "`result_dtype` has to be a valid NumPy datatype specification",
        result_shape=(None,),
        result_dtype="no such",
    ),
    wrong(TypeError, f"`single_file` {FLAG} 1", single_file=1),
    wrong(TypeError, f"`write_pickle` {FLAG} 'yes'", write_pickle="yes"),
    wrong(
        ValueError,
        "Pickling of results does not support single output file creation.",
        write_pickle=True,
        single_file=True,
    ),
    wrong(ValueError, "`payload` has to be 'rank' or 'computation', not 'node'", payload="node"),
    wrong(TypeError, "`partition` has to be 'auto' or a valid SLURM partition name", partition=8),
    wrong(ValueError, f"`n_workers` {COUNT} 0", n_workers=0),
    wrong(ValueError, f"`n_workers` {AUTO} 'all'", n_workers="all"),
    wrong(TypeError, "`n_workers` has to be a scalar, not <class 'list'>", n_workers=[2]),
    wrong(
        TypeError,
        "Memory specification `mem_per_worker` has to be a string, not 8",
        mem_per_worker=8,
    ),
    wrong(ValueError, f"{MEMORY_SIZE} '8'", mem_per_worker="8"),
    wrong(ValueError, f"{MEMORY_SIZE} '0GB'", mem_per_worker="0GB"),
    wrong(ValueError, "`setup_timeout` has to be an integer between 0", setup_timeout=-1),
    wrong(TypeError, "`setup_timeout` has to be a scalar, not", setup_timeout="60"),
    wrong(TypeError, f"`setup_interactive` {FLAG} 0", setup_interactive=0),
    wrong(ValueError, "`stop_client` has to be 'auto' or Boolean, not 'no'", stop_client="no"),
    wrong(TypeError, f"`stop_client` {FLAG} 0", stop_client=0),
    wrong(TypeError, "`verbose` has to be `True`, `False` or `None`, not 'yes'", verbose="yes"),
    wrong(TypeError, f"`dryrun` {FLAG} 1", dryrun=1),
    wrong(TypeError, "`logfile` has to be `None`, `True`, `False` or a valid file-name", logfile=1),
    wrong(OSError, "`logfile` ", logfile="../there"),
    wrong(OSError, "`logfile` ", logfile="nowhere/log"),
    wrong(ValueError, "`cleanup_threshold_days` has to be", cleanup_threshold_days=-1),
    wrong(TypeError, "`cleanup_threshold_days` has to be", cleanup_threshold_days="7"),
]


def meet(path: str, taskID: int) -> tuple[int, int]:
    """Return the processes of rank and runner; the first runner waits for a task of another."""
    try:
        os.mkfifo(path)
        is_first = True
    except FileExistsError:
        is_first = False
    fifo = os.open(path, os.O_RDWR)
    if is_first:
        select.select([fifo], [], [], LONGEST_S)
    else:
        os.write(fifo, b".")
    os.close(fifo)
    return os.getppid(), os.getpid()


def outcome(act: Callable[[], Any]) -> tuple[list[str], str]:
    """Return the classes of the error that is raised, and its text."""
    try:
        return [], repr(act())
    except Exception as error:
        return [each.__name__ for each in type(error).__mro__], str(error)


WRONG_DEBUG: dict[str, Any] = {"debug": "yes"}


def wrong_verbose(rank: int) -> dict[str, Any]:
    """Return a keyword that is wrong on rank 1 alone."""
    return {"verbose": "yes" if rank == 1 else None}


def wrong_calls(rank: int) -> dict[str, Any]:
    """Make every wrong call."""
    seen = {
        "wrong": [outcome(partial(ParallelMap, *args, **kwargs)) for args, kwargs, *_ in WRONG],
        "wrong on rank 1": outcome(lambda: ParallelMap(f, [1, 2], 3, **wrong_verbose(rank))),
        "wrong debug": outcome(lambda: ParallelMap(f, [1, 2], 3).compute(**WRONG_DEBUG)),
    }
    return {**seen, "made": os.listdir()}


def right_calls(rank: int) -> dict[str, Any]:
    """Make calls of which each rank has its own view."""
    seen: dict[str, Any] = {"process": os.getpid()}
    pmap = ParallelMap(f, [2, 4, 6, 8], 4)
    seen["places"] = pmap.output_dir, pmap.results_container, pmap.logfile
    seen["paths"] = pmap.compute()
    seen["values"] = ParallelMap(f, [2, 4], 4 + rank, **MEMORY).compute()
    pmap = ParallelMap(f, [2, 4], 4, z=[1, 2], **MEMORY)
    pmap.kwargv["z"] = [[7, 8]]
    seen["changed"] = pmap.compute()
    try:
        ParallelMap(fail_at, [0, 1, 2], {1}, **MEMORY).compute()
    except TaskError as error:
        seen["failure"] = str(error), error.failures, error.results
    pmap = ParallelMap(meet, os.path.abspath("meeting"), n_inputs=200, n_workers=2, **MEMORY)
    seen["workers"] = pmap.n_workers, set(pmap.compute())
    pmap = ParallelMap(lambda i: (i, os.getpid()), [0, 1, 2], **MEMORY)
    seen["debug"] = pmap.compute(debug=True)
    seen["debug failure"] = outcome(
        lambda: ParallelMap(fail_at, [0, 1, 2], {1}, **MEMORY).compute(debug=True)
    )
    seen["odd failure"] = outcome(lambda: ParallelMap(fail_oddly, [0]).compute(debug=True))
    for _ in range(2):
        ParallelMap(f, [2, 4], 4, partition="8GBXS", mem_per_worker="1500MB", setup_timeout=600)
    seen["dry-run"] = ParallelMap(f, [2, 4], 4, dryrun=True, **MEMORY).compute()
    seen["failed dry-run"] = outcome(lambda: ParallelMap(fail_at, [1], {1}, dryrun=True))
    return seen


def main() -> None:
    """Call everything and write what this rank has seen."""
    from mpi4py import MPI

    rank, handlers = MPI.COMM_WORLD.rank, logging.getLogger("ACME").handlers
    seen: dict[str, Any] = {"handlers of the import": len(handlers)}
    seen |= wrong_calls(rank) | right_calls(rank)
    seen["handlers"] = len(handlers)
    Path(sys.argv[1], f"{rank}.pickle").write_bytes(pickle.dumps(seen))


if __name__ == "__main__":
    main()
