"""The libraries that mpi4py and h5py load, as another process has seen them."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from acme_mpi.doctor.asking import Answer
from acme_mpi.doctor.finding import Finding, explained, fine, noted, wrong

OPEN_MPI, MPICH, INTEL = "Open MPI", "MPICH", "Intel MPI"
# What a library, or an mpiexec, says of itself, and what kind of MPI that is.
_KINDS = (
    (r"Open MPI v?([\d.]+)", OPEN_MPI),
    (r"\((?:OpenRTE|Open MPI)\) ([\d.]+)", OPEN_MPI),
    (r"\(PRRTE\) ([\d.]+)", OPEN_MPI),
    (r"Intel\(R\) MPI Library(?:[^\d]*)([\d.]*)", INTEL),
    (r"(?:MPICH|HYDRA)[^\d]*?Version:\s*([\d.]+)", MPICH),
)


def kind_of_mpi(text: str) -> tuple[str, str]:
    """Return kind and version of the MPI that says something of itself; empty if unknown."""
    for pattern, kind in _KINDS:
        if found := re.search(pattern, text):
            return kind, found[1]
    return "", ""


def facts_in(answer: Answer) -> dict[str, Any]:
    """Return what a process was asked for, empty if it could not tell."""
    if answer.status:
        return {}
    try:
        facts: dict[str, Any] = json.loads(answer.said.splitlines()[-1])
    except (ValueError, IndexError):
        return {}
    return facts


def library_in(answer: Answer) -> str:
    """Return what the MPI library says of itself, empty if mpi4py could not be imported."""
    return str(facts_in(answer).get("library", "")).replace("\0", "")


def check_mpi(answer: Answer) -> list[Finding]:
    """Look whether mpi4py could be imported."""
    facts = facts_in(answer)
    if not facts:
        return explained(answer.text, "MPI library", "mpi4py cannot be imported")
    kind, version = kind_of_mpi(facts["library"])
    where = ", ".join(facts["files"]) or "a library that is part of it"
    evidence = f"mpi4py {facts['mpi4py']} loads {kind or 'an unknown MPI'} {version} from {where}"
    return [fine("MPI library", evidence)]


def check_hdf5(answer: Answer, mpi: Mapping[str, Any]) -> list[Finding]:
    """Look whether h5py could be imported, and with which HDF5 and MPI.

    Parameters
    ----------
    answer : Answer
        Of the process that has imported it.
    mpi : mapping
        What that of mpi4py has told.
    """
    facts = facts_in(answer)
    if not facts:
        return explained(answer.text, "HDF5 version", "h5py cannot be imported")
    return [_check_versions(facts), _check_parallel(facts, mpi)]


def _check_versions(facts: Mapping[str, Any]) -> Finding:
    where = ", ".join(facts["hdf5_files"])
    evidence = f"h5py {facts['h5py']} loads HDF5 {facts['hdf5']} from {where or 'itself'}"
    if len(facts["hdf5_files"]) > 1:
        return wrong("HDF5 version", f"{evidence}: that is more than one")
    if _series(facts["hdf5"]) != _series(facts["built"]):
        return wrong("HDF5 version", f"{evidence}, and was built for {facts['built']}")
    return fine("HDF5 version", evidence)


def _series(version: str) -> list[str]:
    return version.split(".")[:2]


def _check_parallel(facts: Mapping[str, Any], mpi: Mapping[str, Any]) -> Finding:
    if not facts["is_parallel"]:
        return noted("parallel h5py", "h5py is a serial build")
    files = {*facts["mpi_files"], *mpi.get("files", ())}
    if len(files) > 1:
        return wrong("parallel h5py", f"h5py and mpi4py load different MPIs: {_listed(files)}")
    return fine("parallel h5py", "h5py is a parallel build, for the MPI that mpi4py loads")


def check_library_path(environ: Mapping[str, str] = os.environ) -> list[Finding]:
    """Look for several MPI libraries where the loader searches first."""
    folders = [Path(each) for each in environ.get("LD_LIBRARY_PATH", "").split(":") if each]
    # One library has several names in its folder.
    found = {str(file.resolve().parent) for each in folders for file in each.glob("libmpi.so*")}
    if len(found) > 1:
        evidence = f"LD_LIBRARY_PATH leads to MPI libraries in {len(found)} places"
        return [wrong("MPI library", f"{evidence}: {_listed(found)}")]
    return []


def _listed(paths: set[str]) -> str:
    return ", ".join(sorted(paths))
