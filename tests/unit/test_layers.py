"""Imports go downwards only, as docs/architecture.md says, and importing starts nothing."""

from __future__ import annotations

import ast
import builtins
import os
import re
import subprocess
import sys
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest

import acme_mpi

pytestmark = pytest.mark.once

PACKAGE = Path(acme_mpi.__file__).parent
SOURCES = sorted(PACKAGE.rglob("*.py"))
PAGE = Path(__file__).parents[2] / "docs" / "architecture.md"
MAX_FLOORS = 11
DOORS = {"__init__", "__main__"}


def module_of(path: Path) -> str:
    """Return the dotted name below the package: ``runner.child``, ``api``, ``comm``."""
    parts = list(path.relative_to(PACKAGE).with_suffix("").parts)
    if len(parts) > 1 and parts[-1] == "__init__":
        parts.pop()
    return ".".join(parts)


MODULES = {module_of(path): path for path in SOURCES}


def room_of(module: str) -> str:
    """Return the folder in which a module lies, or the module itself."""
    return module.split(".")[0]


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
    """Return the modules of this package that a file imports.

    A package of which a file imports a module is not among them, for the files of that package.
    """
    own = module_of(path)
    names = {name.removeprefix("acme_mpi.") for name in imports_of(path)}
    return {name for name in names & set(MODULES) if name != own and not own.startswith(f"{name}.")}


@pytest.fixture(scope="module")
def floor_of() -> dict[str, int]:
    """Return the floor of every room by the table of the page, 1 at the bottom."""
    rows = re.findall(r"^\| (\d+) \| `([\w/.]+)` \|", PAGE.read_text(), re.M)
    return {name.rstrip("/").removesuffix(".py"): int(floor) for floor, name in rows}


def test_every_room_is_in_the_table(floor_of):
    assert {room_of(module) for module in MODULES} - DOORS == set(floor_of)
    assert sorted(set(floor_of.values())) == list(range(1, max(floor_of.values()) + 1))
    assert max(floor_of.values()) <= MAX_FLOORS


def test_no_room_hides_what_users_call():
    """Once it is imported, a room takes the place of a name of the package that is equal."""
    assert not {*acme_mpi.__all__} & {room_of(module) for module in MODULES}


@pytest.mark.parametrize("module", MODULES)
def test_imports_go_downwards_only(module, floor_of):
    room = room_of(module)
    if room in DOORS:
        return
    wrong = {
        name
        for name in imported_modules(MODULES[module])
        if room_of(name) not in (room, "__init__") and floor_of[room_of(name)] >= floor_of[room]
    }

    assert not wrong


def test_no_modules_import_each_other():
    graph = {module: imported_modules(path) for module, path in MODULES.items()}
    for door in DOORS:
        del graph[door]

    try:
        TopologicalSorter(graph).prepare()
    except CycleError as error:
        pytest.fail(" <- ".join(error.args[1]))


def test_the_import_reader_sees_every_form():
    path = PACKAGE / "runner" / "some.py"
    source = "import a.b\nfrom c import d\ndef f():\n    from . import e\n    from ..g import h\n"

    class Fake:
        def relative_to(self, other):
            return path.relative_to(other)

        def read_text(self):
            return source

    assert imports_of(Fake()) >= {"a.b", "c.d", "acme_mpi.runner.e", "acme_mpi.g.h"}


def importers_of(package: str) -> set[str]:
    return {
        module
        for module, path in MODULES.items()
        if any(name.split(".")[0] == package for name in imports_of(path))
    }


def test_only_comm_imports_mpi4py():
    assert {room_of(module) for module in importers_of("mpi4py")} == {"comm"}


def test_h5py_is_imported_by_storage_and_for_arguments_alone():
    """In a runner only when an argument is an HDF5 file."""
    others = {module for module in importers_of("h5py") if room_of(module) != "storage"}

    assert others == {"tasks.hdf5_arguments"}


@pytest.mark.parametrize(
    "module",
    [
        "tasks.distributing",
        "tasks.items",
        "tasks.signature",
        "tasks.taskset",
        "engine.schedule",
        "engine.durations",
        "engine.protocol",
        "rules",
        "results.spec",
        "results.checksum",
        "results.convert",
        "errors",
        "acme.arguments",
        "session.keywords",
    ],
)
def test_plain_modules_open_no_files_and_know_no_processes(module):
    foreign = {"os", "subprocess", "socket", "signal", "multiprocessing", "pathlib", "h5py"}

    assert not {name.split(".")[0] for name in imports_of(MODULES[module])} & foreign


@pytest.mark.parametrize("module", ["mpi4py.MPI", "h5py", "joblib", "tqdm"])
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
    rooms = {name.split(".")[1] for name in loaded.split() if name.startswith("acme_mpi.")}
    words = {"errors", "spelling", "visible"}
    assert rooms == {"linux", "results", "runner", "standing", "tasks"} | words


@pytest.mark.parametrize("module", ["acme_mpi.runner.child_main", "acme_mpi.session.script_main"])
def test_a_child_process_imports_neither_mpi_nor_hdf5(module):
    code = (
        f"import sys, {module}; "
        "sys.exit(any(name in sys.modules for name in ('mpi4py.MPI', 'h5py')))"
    )

    assert subprocess.run([sys.executable, "-c", code], timeout=60).returncode == 0


# What takes a while to load, and what one kind of process has no use for: each rank of a job pays.
HEAVY = {"decimal", "email", "hashlib", "importlib.metadata", "pathlib", "sysconfig", "tempfile"}
OF_FILES = {"acme_mpi.history.journal", "acme_mpi.storage.recorded", "acme_mpi.tasks.labels"}
OF_RANK_0 = {"acme_mpi.engine.master", "acme_mpi.history.beginning"}
OF_POOLS = {"acme_mpi.runner.streaming", "acme_mpi.session.stream", "acme_mpi.streams.ranks"}
ELSEWHERE = HEAVY | OF_POOLS | {"acme_mpi.symptoms", "json", "shutil"}


@pytest.mark.parametrize(
    ("modules", "unwanted"),
    [
        ("runner.child_main", ELSEWHERE | {"acme_mpi.results.foreign", "subprocess"}),
        ("api engine.run runner.kept", ELSEWHERE | OF_FILES | OF_RANK_0),
        ("session.rank_main", ELSEWHERE | OF_FILES | OF_RANK_0),
        (
            "api session.local",
            ELSEWHERE | OF_FILES | {"acme_mpi.engine.run", "acme_mpi.runner.kept", "html"},
        ),
    ],
    ids=["runner", "rank", "local rank", "client"],
)
def test_a_process_loads_only_what_it_needs(modules, unwanted):
    imports = ", ".join(f"acme_mpi.{module}" for module in modules.split())
    code = f"import sys, {imports}; print(*sys.modules)"

    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert not unwanted & set(ran.stdout.split())


def test_a_run_in_memory_loads_no_more_later(tmp_path):
    """Not even rank 0: nothing of journals, of files, or of what goes wrong."""
    path = tmp_path / "script.py"
    path.write_text(
        "import sys, acme_mpi\n"
        "assert acme_mpi.map(abs, [1, -2], write_worker_results=False) == [1, 2]\n"
        "print(*sys.modules)\n"
    )
    environ = {**os.environ, "ACME_MPI_LAUNCH": "none"}

    command = [sys.executable, str(path)]
    ran = subprocess.run(command, env=environ, capture_output=True, text=True, check=True)
    assert not {"acme_mpi.storage.recorded", "h5py", *HEAVY} & set(ran.stdout.split())


def test_a_run_loads_no_masked_arrays(tmp_path):
    """`numpy.unique` is enough to do it, and takes 15 ms of rank 0 and of each runner."""
    path = tmp_path / "script.py"
    path.write_text(
        "import sys, acme_mpi\n"
        "def f(x): return [x], 'numpy.ma' in sys.modules\n"
        "for _ in range(2): acme_mpi.map(f, [1, 2], output_dir=sys.argv[1], resume=True)\n"
        "values = acme_mpi.map(f, [1, 2], write_worker_results=False)\n"
        "print('numpy.ma' in sys.modules, values)\n"
    )
    environ = {**os.environ, "ACME_MPI_LAUNCH": "none"}

    command = [sys.executable, str(path), str(tmp_path / "out")]
    ran = subprocess.run(command, env=environ, capture_output=True, text=True, check=True)
    assert ran.stdout == "False [([1], False), ([2], False)]\n"
