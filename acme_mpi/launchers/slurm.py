"""Jobs of Slurm: ``sbatch`` and ``srun`` as a person would write them; ``squeue``, ``scancel``."""

from __future__ import annotations

import re
import shlex
import subprocess
import sys
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

from acme_mpi.errors import InputError, LaunchError
from acme_mpi.launchers import rounds
from acme_mpi.launchers.base import Launcher, Order, State, note_id
from acme_mpi.launchers.commands import ANSWER_S, call, said
from acme_mpi.launchers.site import own_or_site_prologue
from acme_mpi.launchers.words import (
    check_count,
    check_lines,
    check_memory,
    check_name,
    check_time,
    seconds_of,
)

KNOWN_S = 10.0  # a controller that is asked whether it is there may take so long
NOTICE_S = 120  # before the time limit all ranks are asked to stop
NOTICE_SHARE = 10  # but not earlier than that part of the time
_PLAIN = re.compile(r"[\w./=,:@+-]+")
_NO_REASON = ("None", "", "(null)")
_NO_TIME = ("N/A", "", "Unknown")


@dataclass(frozen=True)
class Slurm(Launcher):
    """Start ranks as a batch job of Slurm; what is None is not said to Slurm.

    Parameters
    ----------
    n : int
        Number of ranks, >= 1 (``--ntasks``).
    partition, account, qos : str, optional
        As for sbatch.
    time : str, optional
        Limit of the job's time: ``"2h"``, ``"90min"``, ``"1-00:00:00"``. 120 s before, or after
        nine tenths of a shorter time, the ranks are asked to stop: tasks that run may end, and no
        other begins.
    nodes : int, optional
        Number of nodes, >= 1.
    mem : str, optional
        Memory on each node: ``"8G"``.
    cpus_per_task : int, optional
        Cores of each rank, >= 1.
    gpus_per_rank : int, optional
        GPUs of each rank, >= 1 (``--gpus-per-task``).
    again : bool
        Go on by itself: on the nodes that are left, if one fails; as a requeued job at the end of
        the time, or after a preemption, as long as each job brings results.
    extra : list of str
        More options of sbatch: ``["--constraint=ib"]``.
    prologue : list of str, optional
        Lines of shell before srun: ``["module load openmpi"]``; default the site's, see
        docs/sites.md.

    Raises
    ------
    InputTypeError, InputError
        A word has a wrong value.

    Examples
    --------
    >>> import acme_mpi
    >>> acme_mpi.Slurm(n=64, partition="8GBS", time="2h").time
    '02:00:00'
    """

    n: int
    partition: str | None = None
    time: str | None = None
    account: str | None = None
    qos: str | None = None
    nodes: int | None = None
    mem: str | None = None
    cpus_per_task: int | None = None
    again: bool = False
    extra: tuple[str, ...] = ()
    prologue: tuple[str, ...] | None = None
    gpus_per_rank: int | None = None

    kind: ClassVar[str] = "slurm"
    title: ClassVar[str] = "Slurm"
    pauses_s: ClassVar[tuple[float, float]] = (2.0, 60.0)

    def __post_init__(self) -> None:
        """Check all words."""
        checked: dict[str, Any] = {name: check_name(name, getattr(self, name)) for name in _NAMES}
        checked["n"] = check_count("n", self.n)
        for name in ("nodes", "cpus_per_task", "gpus_per_rank"):
            value = getattr(self, name)
            checked[name] = None if value is None else check_count(name, value)
        checked["time"] = check_time("time", self.time)
        checked["mem"] = check_memory("mem", self.mem)
        checked["extra"] = check_lines("extra", self.extra, "--")
        checked["prologue"] = own_or_site_prologue(self.prologue)
        if not isinstance(self.again, bool):
            raise InputError(f"`again` has to be `True` or `False`, not {self.again!r}")
        for name, value in checked.items():
            object.__setattr__(self, name, value)

    def script(self, order: Order) -> str:
        """Return the batch script."""
        options = [f"#SBATCH {_quoted(option)}" for option in self._options(order)]
        srun = shlex.join(["srun", "--kill-on-bad-exit=1", *self._for_ranks()])
        command = shlex.join(order.command)
        if self.again:
            work = rounds.TEXT.format(
                n=self.n,
                srun=srun,
                command=command,
                python=shlex.quote(sys.executable),
                output_dir=shlex.quote(order.output_dir),
                name=shlex.quote(order.name),
            )
        else:
            work = f'\n{srun} --ntasks={self.n} {command} "$@"\nstatus=$?\n'
        return "\n".join(
            [
                "#!/bin/bash",
                "# Made by acme_mpi; it can be submitted again, and computes what is left.",
                *options,
                "",
                f"job={shlex.quote(order.folder)}",
                'rm -f "$job/exit" "$job/cancelled"',
                note_id("$SLURM_JOB_ID"),
                f"cd {shlex.quote(order.directory)} || exit",
                *(self.prologue or ()),
                f'{work}echo "$status" >"$job/exit"',
                'exit "$status"',
                "",
            ]
        )

    def _options(self, order: Order) -> Iterator[str]:
        yield f"--job-name={re.sub('[^A-Za-z0-9_.-]', '_', order.name)}"
        yield f"--ntasks={self.n}"
        if self.nodes is not None:
            yield f"--nodes={self.nodes}"
        yield from self._for_ranks()
        for name in _NAMES:
            if (value := getattr(self, name)) is not None:
                yield f"--{name}={value}"
        if self.time is not None:
            yield f"--time={self.time}"
        # A percent sign is the beginning of what Slurm fills in.
        yield f"--output={order.folder.replace('%', '%%')}/log"
        yield "--open-mode=append"
        notice_s = NOTICE_S
        if self.time is not None:
            notice_s = max(1, min(notice_s, seconds_of(self.time) // NOTICE_SHARE))
        yield f"--signal=USR2@{notice_s}"
        yield from rounds.OPTIONS if self.again else ()
        yield from self.extra

    def _for_ranks(self) -> Iterator[str]:
        """Yield what srun has to be told, too: since Slurm 22.05 it takes no more from the job."""
        if self.cpus_per_task is not None:
            yield f"--cpus-per-task={self.cpus_per_task}"
        if self.mem is not None:
            yield f"--mem={self.mem}"
        if self.gpus_per_rank is not None:
            yield f"--gpus-per-task={self.gpus_per_rank}"

    def how_to_submit(self, path: str) -> str:
        """Return the command that submits a script."""
        return f"sbatch {shlex.quote(path)}"

    def submit(self, path: str, log: str, directory: str) -> str:
        """Submit the script by sbatch; return the number of the job."""
        ran = call(["sbatch", "--parsable", path], self.title, directory)
        number = job_number(ran.stdout)
        if ran.returncode or number is None:
            raise LaunchError(said(ran))
        return number

    @classmethod
    def states(cls, scripts: Mapping[str, str]) -> dict[str, State] | None:
        """Ask squeue once for all jobs, and sacct for those that it has forgotten."""
        numbers = [job_id for job_id in scripts if job_id.isdecimal()]
        if not numbers:
            return {}
        listed = f"--jobs={','.join(numbers)}"
        form = "--format=%i|%T|%r|%S"
        command = ["squeue", "--noheader", "--states=all", form, listed]
        try:
            ran = call(command, cls.title, None, ANSWER_S)
        except (LaunchError, subprocess.TimeoutExpired):
            return None
        if ran.returncode and "Invalid job id" not in ran.stderr:
            return None
        found = parse_squeue(ran.stdout)
        if forgotten := [each for each in numbers if each not in found]:
            found |= _remembered(forgotten)
        return found

    @classmethod
    def cancel(cls, job_ids: Collection[str], force: bool = False) -> None:
        """End jobs by scancel, or kill their processes first."""
        how = ["--signal=KILL", "--full"] if force else []
        ran = call(["scancel", *how, *job_ids], cls.title)
        if ran.returncode and "Invalid job id" not in ran.stderr:
            raise LaunchError(said(ran))


_NAMES = ("partition", "account", "qos")


def partitions() -> list[str]:
    """Return the names of the partitions, in Slurm's order; none if Slurm does not answer."""
    try:
        ran = call(["sinfo", "--noheader", "--format=%R"], Slurm.title, None, KNOWN_S)
    except (LaunchError, subprocess.TimeoutExpired):
        return []
    return [] if ran.returncode else list(dict.fromkeys(ran.stdout.split()))


def job_number(text: str) -> str | None:
    """Return the number in what sbatch says of a job that it has taken; None: it says none.

    sbatch(1): ``--parsable`` gives the number, and the cluster behind a semicolon if there are
    several; without it, as a site's own sbatch may call it, there are words around them.
    """
    line = r"^(?:Submitted batch job )?(\d+)(?:;.*| on cluster .*)?$"
    found = re.search(line, text, re.MULTILINE)
    return None if found is None else found[1]


def parse_squeue(text: str) -> dict[str, State]:
    """Return states from lines ``id|state|reason|start`` of squeue."""
    found = {}
    for line in text.splitlines():
        job_id, name, reason, start = [*line.strip().split("|"), "", "", "", ""][:4]
        if not job_id.isdecimal() or not name:
            continue
        state = State(name, "" if reason in _NO_REASON else reason)
        if state.is_pending and start not in _NO_TIME:
            state = state._replace(start=start)
        found[job_id] = state
    return found


def parse_sacct(text: str) -> dict[str, State]:
    """Return states from lines ``id|state`` of sacct, which adds by whom a job was cancelled."""
    found = {}
    for line in text.splitlines():
        job_id, _, name = line.strip().partition("|")
        if job_id.isdecimal() and name:
            word, _, more = name.partition(" ")
            found[job_id] = State(word.rstrip("+"), more)
    return found


def _remembered(job_ids: Sequence[str]) -> dict[str, State]:
    """Return what accounting knows of jobs; nothing where there is none."""
    form = ["--noheader", "--parsable2", "--allocations", "--format=JobIDRaw,State"]
    try:
        command = ["sacct", *form, f"--jobs={','.join(job_ids)}"]
        ran = call(command, Slurm.title, None, ANSWER_S)
    except (LaunchError, subprocess.TimeoutExpired):
        return {}
    return {} if ran.returncode else parse_sacct(ran.stdout)


def _quoted(option: str) -> str:
    """Return an option as it may stand behind #SBATCH."""
    if _PLAIN.fullmatch(option):
        return option
    escaped = option.replace("\\", "\\\\").replace('"', '\\"')
    return f'"{escaped}"'
