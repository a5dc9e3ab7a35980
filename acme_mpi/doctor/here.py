"""What is wrong with this process's Python and its node, without any rank."""

from __future__ import annotations

import os
import shutil
import sys
from collections.abc import Mapping

from acme_mpi.doctor.asking import Answer
from acme_mpi.doctor.finding import Finding, fine, noted, wrong
from acme_mpi.doctor.libraries import OPEN_MPI, kind_of_mpi

SINGLE_COPY = "OMPI_MCA_btl_vader_single_copy_mechanism"


def check_python(environ: Mapping[str, str] = os.environ) -> list[Finding]:
    """Look whether the ``python`` of a shell is this one."""
    found = shutil.which("python", path=environ.get("PATH", os.defpath))
    if found is None or _folder(found) == _folder(sys.executable):
        return [fine("Python", f"{sys.executable} {sys.version.split()[0]}")]
    return [noted("Python", f"this is {sys.executable}, and `python` on the PATH is {found}")]


def _folder(program: str) -> str:
    return os.path.realpath(os.path.dirname(program))


def check_memory_of_others(
    answer: Answer, library: str, environ: Mapping[str, str] = os.environ
) -> list[Finding]:
    """Look whether a process could read the memory of another one.

    Parameters
    ----------
    answer : Answer
        With the error number, 0 for none.
    library : str
        What it says of its version: others than Open MPI find another way by themselves.
    """
    try:
        number = int(answer.said)
    except ValueError:
        return []
    if answer.status == 0 and number == 0:
        return [fine("memory of others", "processes may read each other's memory")]
    if kind_of_mpi(library)[0] != OPEN_MPI or environ.get(SINGLE_COPY) == "none":
        return []
    evidence = f"a process may not read another one's memory: {os.strerror(number)}"
    return [wrong("memory of others", evidence)]
