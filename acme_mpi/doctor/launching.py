"""What starts ranks here, and whether it belongs to the MPI library."""

from __future__ import annotations

import os
import re
import shutil
import sys
from collections.abc import Mapping, Sequence

from acme_mpi.comm.launcher import is_launched_by_srun
from acme_mpi.comm.mpiexec import AS_ROOT, MORE_RANKS_THAN_CORES
from acme_mpi.doctor import questions
from acme_mpi.doctor.asking import Answer, ask
from acme_mpi.doctor.finding import NOTE, WRONG, Finding, explained, fine, noted, wrong
from acme_mpi.doctor.libraries import OPEN_MPI, kind_of_mpi

TRIAL_S = 60.0
N_TRIAL = 2


def check_mpiexec(program: str | None, answer: Answer, library: str) -> list[Finding]:
    """Look whether the mpiexec that is found belongs to the library.

    Parameters
    ----------
    program : str or None
        Its path.
    answer : Answer
        What it says of its version.
    library : str
        What the library says of its own.
    """
    if program is None:
        return [noted("no mpiexec", "there is no mpiexec, neither beside Python nor on the PATH")]
    kind, version = kind_of_mpi(answer.text)
    own_kind, own_version = kind_of_mpi(library)
    evidence = f"{program} is of {kind or 'an unknown MPI'} {version}".rstrip()
    if kind and own_kind and (kind == OPEN_MPI) != (own_kind == OPEN_MPI):
        return [wrong("lone ranks", f"{evidence}, and mpi4py loads {own_kind} {own_version}")]
    return [fine("mpiexec", evidence)]


def check_root(
    library: str, user: int | None = None, environ: Mapping[str, str] = os.environ
) -> list[Finding]:
    """Look whether an mpiexec of Open MPI would refuse to work for root."""
    kind, version = kind_of_mpi(library)
    if (os.geteuid() if user is None else user) != 0 or kind != OPEN_MPI:
        return []
    prefix = "OMPI" if version < "5" else "PRTE"
    unset = [name for name in AS_ROOT if name.startswith(prefix) and environ.get(name) != "1"]
    # Also those of Open MPI are taken by 5.
    if not unset or all(environ.get(name) == "1" for name in AS_ROOT if name.startswith("OMPI")):
        return [fine("root", "mpiexec works for root, as the variables say")]
    return [wrong("root", f"this is root, and {', '.join(unset)} are not set")]


def check_srun(answer: Answer | None, library: str) -> list[Finding]:
    """Look whether srun offers what the library can use.

    Parameters
    ----------
    answer : Answer or None
        To ``srun --mpi=list``; None where there is no srun.
    library : str
        What it says of its version.
    """
    if answer is None:
        return []
    if answer.status != 0:
        last = (answer.text.strip().splitlines() or ["nothing"])[-1]
        return [noted("srun and MPI", f"srun is there, and its Slurm does not answer: {last}", "")]
    offered = set(re.findall(r"\b(pmix\w*|pmi2|cray_shasta)\b", answer.text))
    wanted = "pmix" if kind_of_mpi(library)[0] == OPEN_MPI else "pmi"
    if any(each.startswith(wanted) for each in offered) or (wanted == "pmi" and offered):
        return [fine("srun and MPI", f"srun offers {', '.join(sorted(offered))}")]
    shown = ", ".join(sorted(offered)) or "none of pmix and pmi2"
    return [wrong("srun and MPI", f"srun offers {shown}, and the library needs {wanted}")]


def check_job(environ: Mapping[str, str] = os.environ) -> list[Finding]:
    """Look for what a job around this process has set, and for what contradicts itself."""
    memory = [name for name in environ if re.fullmatch(r"SLURM_MEM_PER_(CPU|GPU|NODE)", name)]
    if len(memory) > 1:
        return [
            wrong("job in a job", f"{' and '.join(sorted(memory))} are set, and exclude each other")
        ]
    asked = sorted(name for name in environ if name.startswith("SBATCH_"))
    if asked:
        return [noted("job in a job", f"sbatch obeys {', '.join(asked)}, whatever a script says")]
    return []


def try_mpiexec(program: str, environ: Mapping[str, str] = os.environ) -> list[Finding]:
    """Have mpiexec start two ranks, and look whether they see each other."""
    has_room = len(os.sched_getaffinity(0)) >= N_TRIAL
    settings = {**({} if has_room else MORE_RANKS_THAN_CORES), **environ}
    if os.geteuid() == 0:
        settings |= AS_ROOT  # `check_root` tells of it
    words = [program, "-n", str(N_TRIAL), sys.executable, "-c", questions.TRIAL]
    return check_trial(ask(words, TRIAL_S, settings), shutil.which("srun") is not None)


def check_trial(answer: Answer, has_srun: bool) -> list[Finding]:
    """Look at what two ranks have said.

    Parameters
    ----------
    answer : Answer
        Of mpiexec and its ranks.
    has_srun : bool
        Whether this may be a login node, where some sites let no mpiexec work.
    """
    sizes = re.findall(r"trial: rank \d+ of (\d+)", answer.said)
    if sizes == [str(N_TRIAL)] * N_TRIAL and answer.status == 0:
        return [fine("trial", f"mpiexec has started {N_TRIAL} ranks, which see each other")]
    if sizes == ["1"] * N_TRIAL:
        return [wrong("lone ranks", f"mpiexec has started {N_TRIAL} ranks, each is rank 0 of 1")]
    what = f"mpiexec -n {N_TRIAL} has failed"
    if answer.status is None:
        what = f"mpiexec -n {N_TRIAL} has not ended within {TRIAL_S:.0f} s"
    return explained(answer.text, "lone ranks", what, NOTE if has_srun else WRONG)


def launcher_of_ranks(environ: Mapping[str, str] = os.environ) -> str:
    """Return what has started this process, in a word or two; empty for nothing."""
    if is_launched_by_srun(environ):
        return "srun"
    if "OMPI_COMM_WORLD_SIZE" in environ:
        return "mpiexec of Open MPI 5" if "PRTE_LAUNCHED" in environ else "mpiexec of Open MPI 4"
    return "mpiexec of MPICH" if "PMI_SIZE" in environ or "MPI_LOCALNRANKS" in environ else ""


def check_fit(library: str, environ: Mapping[str, str] = os.environ) -> list[Finding]:
    """Look whether the mpiexec that has started this rank is of another MPI than the library.

    Some libraries would end the process when they start.

    Parameters
    ----------
    library : str
        What it says of its version; empty if that is not known.
    """
    launcher, kind = launcher_of_ranks(environ), kind_of_mpi(library)[0]
    if (
        not kind
        or not launcher.startswith("mpiexec")
        or (OPEN_MPI in launcher) == (kind == OPEN_MPI)
    ):
        return []
    return [wrong("lone ranks", f"{launcher} has started these ranks, and mpi4py loads {kind}")]


# What has a launcher go on when a rank has died.
_GOES_ON = (
    "--enable-recovery",
    "-enable-recovery",
    "--continuous",
    "-continuous",
    "--with-ft",
    "-disable-auto-cleanup",
)


def check_deaths(words: Sequence[str], environ: Mapping[str, str] = os.environ) -> list[Finding]:
    """Tell what happens here when a rank dies, from what started the ranks and its options.

    Nothing is killed for it.

    Parameters
    ----------
    words : sequence of str
        The launcher's, as they were typed, as far as they can be seen.
    environ : mapping
        Of a rank.
    """
    launcher = launcher_of_ranks(environ)
    if not launcher:
        return []
    if launcher == "srun":
        return [_deaths_under_srun(words, environ)]
    given = [word for word in words if word.startswith(_GOES_ON)]
    given += [name for name in environ if name.endswith(("_enable_recovery", "_mpi_ft_enable"))]
    if given:
        evidence = f"{launcher} was told by {', '.join(given)} to go on when a rank dies"
        cure = (
            "Leave that out: acme_mpi's ranks end together, and the same command resumes the run."
        )
        return [noted("death of a rank", evidence, cure)]
    return [fine("death of a rank", f"{launcher} ends all ranks within seconds when one dies")]


def _deaths_under_srun(words: Sequence[str], environ: Mapping[str, str]) -> Finding:
    short = {word for word in words if re.fullmatch(r"-K(=?1)?|--kill-on-bad-exit(=1)?", word)}
    if short or environ.get("SLURM_KILL_BAD_EXIT") == "1":
        return fine("death of a rank", "srun ends all ranks when one dies (--kill-on-bad-exit)")
    return noted(
        "death of a rank",
        "srun was not told to end all ranks when one dies, as far as can be seen; acme_mpi's "
        "ranks then watch each other, and end by themselves",
        "Start by srun --kill-on-bad-exit=1.",
    )
