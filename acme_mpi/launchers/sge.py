"""Jobs of Grid Engine: ``qsub`` as a person would write it; ``qstat``, ``qacct``, ``qdel``."""

from __future__ import annotations

import os
import pwd
import re
import shlex
import subprocess
import time
from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import ClassVar
from xml.etree import ElementTree

from acme_mpi.comm.launcher import END_TIME
from acme_mpi.comm.mpiexec import AS_ROOT, UNBOUND, mpiexec
from acme_mpi.errors import InputError, LaunchError
from acme_mpi.launchers.base import COMPLETED, FAILED, RUNNING, Launcher, Order, State, note_id
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

ACCOUNTED_S = 30.0  # so long after its end a job may be missing in the accounting: 15 by default
# What qacct says where a limit has ended a job.
_LIMIT = "37"
_PLAIN = re.compile(r"[\w./=,:@+-]+")
# Of a job in qstat -j: one line each, or the first one of several.
_FACTS = re.compile(r"^(job_number|error reason|scheduling info)\b[^:]*: *(.*)$", re.MULTILINE)
_STAMP = re.compile(r"^\S+ \S+ \[\S+\]: (?:error: )?")  # 11/29/2026 13:34:03 [0:635]: error:
# Open MPI 5 does not read it from Grid Engine, nor does an Open MPI 4 that was built without it.
_HOSTS = (
    """awk '{print $1 " slots=" $2}' "$PE_HOSTFILE" >"$job/hosts\"""",
    'export {OMPI_MCA_orte,PRTE_MCA_prte}_default_hostfile="$job/hosts"',
)


@dataclass(frozen=True)
class SGE(Launcher):
    """Start ranks as a batch job of Grid Engine (SGE); what is None is not said to it.

    Parameters
    ----------
    n : int
        Number of ranks, >= 1: slots of the parallel environment.
    pe : str
        Parallel environment; ``qconf -spl`` lists them.
    queue, project : str, optional
        As for ``qsub -q`` and ``-P``.
    time : str, optional
        Limit of the job's time: ``"2h"``, ``"90min"``, ``"1-00:00:00"``. Near its end no task
        begins that, going by the tasks so far, cannot finish in time.
    mem : str, optional
        Memory of each rank, ``"8G"``: the resource ``h_vmem``.
    extra : list of str
        More options of qsub: ``["-l gpu=1"]``.
    prologue : list of str, optional
        Lines of shell before mpiexec: ``["module load openmpi"]``; default the site's.

    Raises
    ------
    InputTypeError, InputError
        A word has a wrong value.

    Examples
    --------
    >>> import acme_mpi
    >>> acme_mpi.SGE(n=64, pe="orte", time="2h").time
    '02:00:00'
    """

    n: int
    pe: str = "mpi"
    queue: str | None = None
    project: str | None = None
    time: str | None = None
    mem: str | None = None
    extra: tuple[str, ...] = ()
    prologue: tuple[str, ...] | None = None

    kind: ClassVar[str] = "sge"
    title: ClassVar[str] = "Grid Engine"
    pauses_s: ClassVar[tuple[float, float]] = (2.0, 60.0)

    def __post_init__(self) -> None:
        """Check all words."""
        if self.pe is None:
            raise InputError("`pe` has to be the name of a parallel environment: qconf -spl")
        checked = {
            "n": check_count("n", self.n),
            **{name: check_name(name, getattr(self, name)) for name in ("pe", "queue", "project")},
            "time": check_time("time", self.time),
            "mem": check_memory("mem", self.mem),
            "extra": check_lines("extra", self.extra, "-"),
            "prologue": own_or_site_prologue(self.prologue),
        }
        for name, value in checked.items():
            object.__setattr__(self, name, value)

    def script(self, order: Order) -> str:
        """Return the script.

        Raises
        ------
        LaunchError
            The path of the job's folder cannot be said to Grid Engine, or there is no mpiexec.
        """
        settings = {**UNBOUND, **(AS_ROOT if os.geteuid() == 0 else {})}
        exports = " ".join(f"{name}={value}" for name, value in settings.items())
        return "\n".join(
            [
                "#!/bin/bash",
                "# Made by acme_mpi; it can be submitted again, and computes what is left.",
                *(f"#$ {option}" for option in self._options(order)),
                "",
                f"job={shlex.quote(order.folder)}",
                'rm -f "$job/exit" "$job/cancelled"',
                note_id("$JOB_ID"),
                *self._end_time(),
                "trap : USR1 USR2  # of sites that warn; mpiexec gets them, too",
                f"cd {shlex.quote(order.directory)} || exit",
                *_HOSTS,
                f"export {exports}",
                *(self.prologue or ()),
                "",
                f'{shlex.join([mpiexec(), "-n", str(self.n), *order.command])} "$@"',
                "status=$?",
                'echo "$status" >"$job/exit"',
                'exit "$status"',
                "",
            ]
        )

    def _end_time(self) -> Iterator[str]:
        # Grid Engine's own warnings, by -notify or s_rt, go to all hosts of a job: they end what
        # mpiexec has started there, or reach its ranks a second time.
        if self.time is not None:
            yield f"export {END_TIME}=$(($(date +%s) + {seconds_of(self.time)}))  # for rank 0"

    def _options(self, order: Order) -> Iterator[str]:
        yield "-S /bin/bash"
        yield "-V"
        yield f"-N {re.sub('[^A-Za-z0-9_.-]', '_', order.name)}"
        yield f"-pe {self.pe} {self.n}"
        if self.queue is not None:
            yield f"-q {self.queue}"
        if self.project is not None:
            yield f"-P {self.project}"
        if self.time is not None:
            yield f"-l h_rt={_clock(seconds_of(self.time))}"
        if self.mem is not None:
            yield f"-l h_vmem={self.mem}"
        # The path of the log itself could have neither a colon nor a comma in it.
        yield f"-wd {_quoted(order.folder)}"
        yield "-o log"
        yield "-j y"
        yield from self.extra

    def how_to_submit(self, path: str) -> str:
        """Return the command that submits a script."""
        return f"qsub {shlex.quote(path)}"

    def submit(self, path: str, log: str, directory: str) -> str:
        """Submit the script by qsub; return the number of the job."""
        ran = call(["qsub", "-terse", path], self.title, directory)
        found = re.search(r"^(\d+)$", ran.stdout, re.MULTILINE)
        if ran.returncode or found is None:
            raise LaunchError(said(ran))
        return found[1]

    @classmethod
    def states(cls, scripts: Mapping[str, str]) -> dict[str, State] | None:
        """Ask qstat once for all jobs, once for reasons, and qacct for jobs that have gone."""
        paths = {job_id: path for job_id, path in scripts.items() if job_id.isdecimal()}
        if not paths:
            return {}
        try:
            found = parse_qstat(_answer("qstat", "-xml", "-u", _owners(paths.values())))
            pending = [each for each in paths if each in found and found[each].is_pending]
            if pending:
                reasons = parse_reasons(_answer("qstat", "-j", ",".join(pending)))
                found |= {each: State(found[each].name, reasons.get(each, "")) for each in pending}
        except (LaunchError, subprocess.TimeoutExpired, ElementTree.ParseError):
            return None
        for job_id, path in paths.items():
            if job_id not in found and (state := _remembered(job_id, path)) is not None:
                found[job_id] = state
        return {job_id: found[job_id] for job_id in paths if job_id in found}

    @classmethod
    def cancel(cls, job_ids: Collection[str], force: bool = False) -> None:
        """End jobs by qdel, which kills their processes at once in any case."""
        ran = call(["qdel", *job_ids], cls.title)
        if ran.returncode and "does not exist" not in ran.stdout + ran.stderr:
            raise LaunchError(said(ran))


def parse_qstat(text: str) -> dict[str, State]:
    """Return states from ``qstat -xml``.

    Raises
    ------
    xml.etree.ElementTree.ParseError
        It is none of its answers.

    References
    ----------
    qstat(1): the letters of a state.
    """
    return {
        job.findtext("JB_job_number", ""): _state(job.findtext("state", ""))
        for job in ElementTree.fromstring(text).iter("job_list")
    }


def _state(letters: str) -> State:
    if "d" in letters:
        return State("COMPLETING", "it is being deleted")
    if "w" in letters:
        return State("PENDING")
    if set(letters) & set("sST"):
        return State("SUSPENDED")
    return State(RUNNING)


def parse_reasons(text: str) -> dict[str, str]:
    """Return why jobs are waiting from ``qstat -j``; an error is a reason before all others."""
    reasons: dict[str, str] = {}
    job_id = ""
    for name, value in _FACTS.findall(text):
        if name == "job_number":
            job_id = value.strip()
        elif name == "error reason":
            mended = f"when that is mended: qmod -cj {job_id}"
            reasons[job_id] = f"error: {_STAMP.sub('', value).strip()}; {mended}"
        else:
            reasons.setdefault(job_id, value.strip())
    return reasons


def parse_qacct(text: str) -> State | None:
    """Return the state from ``qacct -j``, which knows several jobs of a number that came again."""
    facts = dict(re.findall(r"^(failed|exit_status) +(.*?) *$", text, re.MULTILINE))  # the last
    failed = re.match(r"(\d+)\s*:?\s*(.*)", facts.get("failed", ""))
    if failed is None:
        return None
    status = " ".join(facts.get("exit_status", "0").split())
    reason = ", ".join(filter(None, [failed[2], "" if status == "0" else f"status {status}"]))
    if failed[1] == _LIMIT:
        return State("TIMEOUT", reason)
    return State(FAILED if reason else COMPLETED, reason)


_GONE_S: dict[str, float] = {}  # since when jobs are missed, by `time.monotonic`


def _remembered(job_id: str, path: str) -> State | None:
    """Return what the accounting knows of a job; None: nothing."""
    folder = os.path.dirname(path)
    # qacct reads the records of all jobs that ever were, and these two say more than it.
    if any(os.path.exists(os.path.join(folder, name)) for name in ("exit", "cancelled")):
        return None
    try:
        ran = call(["qacct", "-j", job_id], SGE.title, None, ANSWER_S)
    except (LaunchError, subprocess.TimeoutExpired):
        return None
    if not ran.returncode:
        return parse_qacct(ran.stdout)
    now_s = time.monotonic()
    if now_s < _GONE_S.setdefault(job_id, now_s) + ACCOUNTED_S:
        return State("COMPLETING", "it is not in the accounting yet")
    return None


def _answer(*command: str) -> str:
    ran = call(command, SGE.title, None, ANSWER_S)
    # Jobs that end between two questions do not exist any more for the second one.
    if ran.returncode and "do not exist" not in ran.stdout + ran.stderr:
        raise LaunchError(said(ran))
    return ran.stdout


def _owners(paths: Iterable[str]) -> str:
    """Return whose jobs they are: qstat shows only those of its own user if nothing is said."""
    owners = set()
    for path in paths:
        try:
            owners.add(pwd.getpwuid(os.stat(path).st_uid).pw_name)
        except (OSError, KeyError):
            owners.add(pwd.getpwuid(os.geteuid()).pw_name)
    return ",".join(sorted(owners))


def _clock(seconds: int) -> str:
    """Return a time as Grid Engine writes it, which knows no days."""
    return f"{seconds // 3600:02}:{seconds // 60 % 60:02}:{seconds % 60:02}"


def _quoted(path: str) -> str:
    """Return a path as it may stand behind ``#$``."""
    if _PLAIN.fullmatch(path):
        return path
    quote = "'" if '"' in path else '"'
    # Grid Engine fills in variables, whatever the quotes.
    if quote in path or any(character in path for character in "$\n\\"):
        raise LaunchError(
            f"{path!r} cannot be said to Grid Engine: no dollar sign, backslash or line break, and "
            "not both kinds of quotes may be in it; choose another output directory"
        )
    return f"{quote}{path}{quote}"
