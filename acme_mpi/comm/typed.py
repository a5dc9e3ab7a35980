"""How this program was started, in the words of its user: what the next command begins with."""

from __future__ import annotations

import functools
import os
import sys
from collections.abc import Iterator, Mapping, Sequence

from acme_mpi.comm.launcher import is_launched_by_srun, launched_rank_and_size
from acme_mpi.linux.processes import command_line, parent_of, process_ids

MPIEXECS = ("mpiexec", "mpirun", "orterun", "prterun", "mpiexec.hydra")
N_GENERATIONS = 3  # from a rank up to its mpiexec: some have a proxy in between
# What an srun tells its ranks of its own options, where its command line cannot be seen.
_OF_SRUN = {
    "SLURM_STEP_NUM_NODES": "-N",
    "SLURM_STEP_NUM_TASKS": "-n",
    "SLURM_NTASKS_PER_NODE": "--ntasks-per-node",
    "SLURM_CPUS_PER_TASK": "-c",
    "SLURM_GPUS_PER_TASK": "--gpus-per-task",
}
# Set by Open MPI 5's mpiexec, which collects output by lines; and for srun, to label lines.
_OF_WHOLE_LINES = ("PRTE_LAUNCHED", "SLURM_LABELIO")
# Options of an mpiexec to mark each line with its rank.
_LABELLING = (
    "-l",
    "-prepend-rank",
    "-tag-output",
    "--tag-output",
    "--timestamp-output",
    "--output",
)


def typed_command(arguments: Sequence[str], environ: Mapping[str, str] = os.environ) -> list[str]:
    """Return launcher and program as they were typed, without the program's `arguments`.

    On rank 0, whose node is often the launcher's; where the launcher cannot be seen, what its
    environment tells: the numbers of ranks and nodes.
    """
    program = sys.orig_argv[: len(sys.orig_argv) - len(arguments)]
    _, size = launched_rank_and_size(environ)
    if is_launched_by_srun(environ):
        told = [
            word
            for name, option in _OF_SRUN.items()
            if name in environ
            for word in (option, environ[name])
        ]
        return _typed_srun(tuple(arguments)) or ["srun", "--kill-on-bad-exit=1", *told, *program]
    if words := _typed_mpiexec(arguments, environ):
        return words
    return ["mpiexec", "-n", str(size), *program] if size > 1 else program


def passes_on_whole_lines(environ: Mapping[str, str] = os.environ) -> bool:
    """Tell whether the launcher shows what a rank writes only when its line ends."""
    if any(name in environ for name in _OF_WHOLE_LINES):
        return True
    words = _typed_mpiexec(sys.argv[1:], environ)
    return any(word.partition("=")[0] in _LABELLING for word in words)


def is_quiet(environ: Mapping[str, str] = os.environ) -> bool:
    """Tell whether the user wants mpiexec to say nothing of its own."""
    words = _typed_mpiexec(sys.argv[1:], environ)
    return "--quiet" in words or "-q" in words


def _typed_mpiexec(arguments: Sequence[str], environ: Mapping[str, str]) -> list[str]:
    pid = os.getppid()
    for _ in range(N_GENERATIONS):
        words = command_line(pid)
        if words and os.path.basename(words[0]) in MPIEXECS:
            # Open MPI 5's mpiexec becomes a prterun, and tells what it was.
            folder, name = os.path.split(words[0])
            words[0] = os.path.join(folder, environ.get("OMPI_TOOL_NAME", name))
            return _before(words, arguments)
        pid = parent_of(pid)
    return []


@functools.cache
def _typed_srun(arguments: tuple[str, ...]) -> list[str]:
    """Return the words of the srun on this node that has these arguments, if there is only one."""
    found = {tuple(_before(words, arguments)) for words in _sruns()} - {()}
    return list(found.pop()) if len(found) == 1 else []


def _sruns() -> Iterator[list[str]]:
    for pid in process_ids():
        words = command_line(pid)
        if words and os.path.basename(words[0]) == "srun":
            yield words


def _before(words: Sequence[str], arguments: Sequence[str]) -> list[str]:
    """Return the words before the arguments that stand at the end; empty if others do."""
    n = len(words) - len(arguments)
    return list(words[:n]) if n > 0 and list(words[n:]) == list(arguments) else []
