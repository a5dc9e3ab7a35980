"""Imports go downwards only, as the docstring of `run` says, and importing starts nothing."""

from __future__ import annotations

import ast
import builtins
import re
import subprocess
import sys
from pathlib import Path

import pytest

import acme_mpi

pytestmark = pytest.mark.once

PACKAGE = Path(acme_mpi.__file__).parent
SOURCES = sorted(PACKAGE.rglob("*.py"))


# (importer, imported)
EXCEPTIONS = {
    ("tasks", "errors"),
    ("results", "errors"),
    ("results", "checksum"),
    ("storage", "runner"),  # outcomes of tasks are what a store writes
    ("storage", "journal"),
    ("storage", "fingerprint"),  # whether a run is the same computation as an earlier one
    ("runner", "fingerprint"),  # functions are known where they run
    ("fingerprint", "runner"),  # and pickled as they are for runners
    ("rules", "errors"),
    ("printing", "errors"),
}


def module_of(path: Path) -> str:
    """Return the dotted name below the package: ``runner.child``, ``run``, ``__init__``."""
    parts = list(path.relative_to(PACKAGE).with_suffix("").parts)
    if len(parts) > 1 and parts[-1] == "__init__":
        parts.pop()
    return ".".join(parts)


def layers() -> list[set[str]]:
    """Return the table in the docstring of `run`, topmost layer first."""
    docstring = ast.get_docstring(ast.parse((PACKAGE / "run.py").read_text())) or ""
    found = re.search(r"Imports go downwards only: (.*?)\.\n", docstring + "\n", re.DOTALL)
    assert found is not None, "run.py does not say which layers there are"
    return [
        {name.strip() for name in layer.replace("`", "").split(",")}
        for layer in found[1].replace("\n", " ").split(">")
    ]


def imports_of(path: Path) -> set[str]:
    """Return all that a file imports, anywhere in it, with absolute names."""
    package = ["acme_mpi", *path.relative_to(PACKAGE).parent.parts]
    found: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            base = package[: len(package) + 1 - node.level] if node.level else []
            module = ".".join([*base, *(node.module or "").split(".")]).strip(".")
            found |= {f"{module}.{alias.name}" for alias in node.names} | {module}
    return found


def imported_modules(path: Path) -> set[str]:
    """Return the modules of this package that a file imports."""
    known = {module_of(source) for source in SOURCES}
    inner = {
        name.removeprefix("acme_mpi.") for name in imports_of(path) if name.startswith("acme_mpi.")
    }
    return {name for name in inner if name in known}


def top(module: str) -> str:
    return module.split(".")[0]


@pytest.fixture(scope="module")
def level_of() -> dict[str, int]:
    """Return the height of every module of the table, 0 at the bottom."""
    table = layers()
    return {name: len(table) - 1 - k for k, layer in enumerate(table) for name in layer}


def test_every_module_has_its_place_in_the_table(level_of):
    assert {top(module_of(path)) for path in SOURCES} == set(level_of)


@pytest.mark.parametrize("path", SOURCES, ids=module_of)
def test_imports_go_downwards_only(path, level_of):
    """Within a layer there are none but `EXCEPTIONS`."""
    own = module_of(path)
    if own == "__init__":
        return  # re-exports what users need
    here = level_of.get(top(own), len(level_of))
    wrong = {
        module
        for module in imported_modules(path)
        if top(module) != top(own)
        and level_of.get(top(module), -1) >= here
        and (top(own), top(module)) not in EXCEPTIONS
    }

    assert not wrong


def test_the_import_reader_sees_every_form(tmp_path):
    path = PACKAGE / "runner" / "some.py"
    source = "import a.b\nfrom c import d\ndef f():\n    from . import e\n    from ..g import h\n"

    class Fake:
        def relative_to(self, other):
            return path.relative_to(other)

        def read_text(self):
            return source

    assert imports_of(Fake()) >= {"a.b", "c.d", "acme_mpi.runner.e", "acme_mpi.g.h"}


def test_only_comm_imports_mpi4py():
    importers = {
        top(module_of(path))
        for path in SOURCES
        if any(name.split(".")[0] == "mpi4py" for name in imports_of(path))
    }

    assert importers == {"comm"}


def test_h5py_is_imported_by_storage_and_for_arguments_alone():
    """In a runner only when an argument is an HDF5 file."""
    importers = {
        module_of(path)
        for path in SOURCES
        if any(name.split(".")[0] == "h5py" for name in imports_of(path))
    }

    assert {name for name in importers if top(name) != "storage"} == {"runner.hdf5_arguments"}


@pytest.mark.parametrize(
    "layer",
    [
        "tasks",
        "schedule",
        "durations",
        "rules",
        "results",
        "checksum",
        "errors",
        "acme_arguments",
        "keywords",
    ],
)
def test_the_bottom_layer_opens_no_files_and_knows_no_processes(layer):
    foreign = {"os", "subprocess", "socket", "signal", "multiprocessing", "pathlib", "h5py"}

    assert not {name.split(".")[0] for name in imports_of(PACKAGE / f"{layer}.py")} & foreign


@pytest.mark.parametrize("module", ["mpi4py.MPI", "h5py", "tqdm"])
def test_importing_the_package_does_not_import(module):
    """MPI is initialised by the import of mpi4py.MPI; a runner must not become a rank."""
    code = f"import sys, acme_mpi; sys.exit({module!r} in sys.modules)"

    assert subprocess.run([sys.executable, "-c", code], timeout=60).returncode == 0


def test_all_public_names_are_found():
    for name in acme_mpi.__all__:
        assert getattr(acme_mpi, name) is not None
    assert {*acme_mpi.__all__, "map"} <= set(dir(acme_mpi))
    with pytest.raises(AttributeError, match="nothing"):
        _ = acme_mpi.nothing


def test_importing_all_names_hides_no_builtin():
    names: dict[str, object] = {}
    exec("from acme_mpi import *", names)

    assert "ParallelMap" in names
    assert not names.keys() & vars(builtins).keys()


def test_a_runner_imports_only_its_own_part_of_the_package():
    code = "import sys, acme_mpi.runner.child_main; print(*sys.modules)"

    loaded = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True).stdout
    assert not {"acme_mpi.run", "acme_mpi.session", "acme_mpi.storage"} & set(loaded.split())


@pytest.mark.parametrize("module", ["acme_mpi.runner.child_main", "acme_mpi.script_main"])
def test_a_child_process_imports_neither_mpi_nor_hdf5(module):
    code = (
        f"import sys, {module}; "
        "sys.exit(any(name in sys.modules for name in ('mpi4py.MPI', 'h5py')))"
    )

    assert subprocess.run([sys.executable, "-c", code], timeout=60).returncode == 0
