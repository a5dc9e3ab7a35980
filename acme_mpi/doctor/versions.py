"""The versions of what a run stands on, without loading MPI in this process."""

from __future__ import annotations

import platform
import sys
from collections.abc import Mapping
from typing import Any

from acme_mpi.doctor import questions
from acme_mpi.doctor.asking import ask_python
from acme_mpi.doctor.libraries import facts_in, library_in
from acme_mpi.doctor.rank_facts import versions

NOT_IMPORTABLE = "not importable"


def known_versions(library: str, hdf5: Mapping[str, Any]) -> dict[str, str]:
    """Return all versions by what they are of.

    Parameters
    ----------
    library : str
        What the MPI library says of itself, empty if it cannot be loaded.
    hdf5 : mapping
        What a process that has imported h5py has told.
    """
    found = versions()
    kind = {True: "parallel", False: "serial", None: NOT_IMPORTABLE}[hdf5.get("is_parallel")]
    first_line = (library.strip().splitlines() or [NOT_IMPORTABLE])[0]
    return {
        "acme_mpi": found["acme_mpi"],
        "Python": f"{sys.version.split()[0]}, {sys.executable}",
        "system": f"{platform.system()} {platform.release()} {platform.machine()}",
        "mpi4py": found["mpi4py"],
        "MPI": " ".join(first_line.split()),
        "h5py": f"{found['h5py']} ({kind})",
        "HDF5": hdf5.get("hdf5", NOT_IMPORTABLE),
        "numpy": found["numpy"],
    }


def versions_text() -> str:
    """Return the versions as lines; other processes import the libraries."""
    hdf5 = facts_in(ask_python(questions.HDF5))
    found = known_versions(library_in(ask_python(questions.MPI)), hdf5)
    return "\n".join(facts_as_lines(found))


def facts_as_lines(facts: Mapping[str, str]) -> list[str]:
    """Return facts as lines: ``MPI          Open MPI v4.1.4``."""
    return [f"{name:<12} {value}" for name, value in facts.items()]
