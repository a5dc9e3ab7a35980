"""Where results are to go: the kind of file system, its locks and its clock."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from typing import Any

from acme_mpi.doctor import questions
from acme_mpi.doctor.asking import Answer, ask_python
from acme_mpi.doctor.finding import Finding, fine, noted, wrong
from acme_mpi.doctor.libraries import facts_in

MOUNTS = "/proc/self/mountinfo"
CLOCK_S = 5.0  # the lease of a folder is renewed so often


def file_system_of(directory: str, mounts: str = MOUNTS) -> str:
    """Return the kind of file system that a folder is on: ``nfs4``; empty if it is unknown."""
    path, found = os.path.realpath(directory), ("", "")
    try:
        with open(mounts) as file:
            lines = file.read().splitlines()
    except OSError:
        return ""
    for line in lines:
        words, _, more = line.partition(" - ")
        point = re.sub(r"\\(\d{3})", lambda match: chr(int(match[1], 8)), words.split()[4])
        if (path == point or path.startswith(point.rstrip("/") + "/")) and len(point) >= len(
            found[0]
        ):
            found = point, more.split()[0]
    return found[1]


def ask_for_place(directory: str) -> Answer:
    """Have another process write into a folder, which may hang where the file system does."""
    return ask_python(questions.PLACE, directory)


def check_place(directory: str, answer: Answer, kind: str) -> list[Finding]:
    """Look at what happened when a file was written.

    Parameters
    ----------
    directory : str
        Where.
    answer : Answer
        What `ask_for_place` has returned.
    kind : str
        Of file system.
    """
    facts = facts_in(answer)
    where = f"{directory} ({kind or 'unknown file system'})"
    if not facts:
        cure = "Name another folder by --output-dir."
        last = (answer.text.strip().splitlines() or ["it says nothing"])[-1]
        return [wrong("output directory", f"no file can be written in {where}: {last}", cure)]
    findings = [fine("output directory", f"files can be written in {where}")]
    findings.append(_check_locks(facts, where))
    if abs(facts["clock_s"]) > CLOCK_S:
        evidence = f"the clock of {where} differs from this node's by {facts['clock_s']:.1f} s"
        findings.append(wrong("one place for all", evidence))
    return findings


def _check_locks(facts: Mapping[str, Any], where: str) -> Finding:
    if "hdf5" in facts:
        return wrong("file locks", f"HDF5 cannot lock a file in {where}: {facts['hdf5']}")
    if "lock" in facts:
        return noted("file locks", f"files cannot be locked in {where}: {facts['lock']}")
    return fine("file locks", f"files can be locked in {where}")


def check_nfs(
    kind: str, is_parallel: bool, environ: Mapping[str, str] = os.environ
) -> list[Finding]:
    """Look whether MPI-IO would write to NFS.

    Parameters
    ----------
    kind : str
        Of file system.
    is_parallel : bool
        Whether h5py is a parallel build.
    """
    if not kind.startswith("nfs") or not is_parallel:
        return []
    if environ.get("HDF5_DO_MPI_FILE_SYNC", "").upper() in ("FALSE", "0"):
        return [fine("MPI-IO on NFS", "HDF5_DO_MPI_FILE_SYNC=FALSE is set")]
    return [noted("MPI-IO on NFS", f"the output directory is on {kind}, and h5py is parallel")]
