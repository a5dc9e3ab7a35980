"""The table of stores, and what a new one has to bring: one class and one entry."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from storing import describe
from test_storage import Conformance, every_case_of
from zarr_store import ZARR, dtype_of

from acme_mpi.errors import InputError
from acme_mpi.history.stores import chosen_kind
from acme_mpi.results.spec import make_row_spec
from acme_mpi.session.keywords import check, refuse_unlimited
from acme_mpi.storage import STORES, find_store

SCRIPT = """\
import os, sys
import acme_mpi
from acme_mpi.storage import STORES
from zarr_store import ZARR

STORES[ZARR.name] = ZARR
directory, is_mended = sys.argv[1], len(sys.argv) > 2


def f(x):
    if x == 3 and not os.path.exists("mended"):
        raise ValueError("bad")
    return x / 2, f"task {x}"


try:
    paths = acme_mpi.map(
        f, range(8), payload="zarr", output_dir=directory, result_shape=(None,),
        resume="failed" if is_mended else False,
    )
    assert paths == [os.path.abspath(os.path.join(directory, "f.zarr"))], paths
except acme_mpi.TaskError as error:
    assert [each.index for each in error.failures] == [3]
"""


def read_zarr(path: Path) -> dict[str, tuple[Any, ...]]:
    """Return what is in a folder of Zarr's format 2, as `content_of` returns it of HDF5."""
    content: dict[str, tuple[Any, ...]] = {}
    arrays = [
        Path(folder) for folder, _, files in os.walk(path, followlinks=True) if ".zarray" in files
    ]
    for folder in arrays:
        said = json.loads((folder / ".zarray").read_text())
        values = np.full(said["shape"], said["fill_value"], dtype_of(said["dtype"]))
        for chunk in folder.glob("[!.]*"):
            corner = zip(map(int, chunk.name.split(".")), said["chunks"], strict=False)
            part = np.fromfile(chunk, values.dtype).reshape(said["chunks"])
            values[tuple(slice(n * size, (n + 1) * size) for n, size in corner)] = part
        attributes = folder / ".zattrs"
        more = json.loads(attributes.read_text()) if attributes.exists() else {}
        name = str(folder.relative_to(path))
        content[name] = describe(None if "is_none" in more else values)
        if "missing" in more:
            content[f"{name}@missing"] = "<i8", (len(more["missing"]),), more["missing"]
    for attributes in path.glob("comp_*/.zattrs"):
        ((key, text),) = json.loads(attributes.read_text()).items()
        content[f"{attributes.parent.name}@{key}"] = f"<U{len(text)}", (), text
    return content


@pytest.fixture
def content_of() -> Callable[[Path], dict[str, tuple[Any, ...]]]:
    """Return the function that reads a container: `read_zarr`."""
    return read_zarr


@pytest.fixture(autouse=True)
def registered(monkeypatch) -> None:
    monkeypatch.setitem(STORES, ZARR.name, ZARR)


@every_case_of(ZARR)
class TestZarrStore(Conformance):
    """A store that is entered into the table, and known nowhere else."""


@pytest.mark.slow
def test_a_store_of_ones_own_is_chosen_by_name(tmp_path, write_script, mpiexec):
    """Through a whole run, and a second one that calls again what has failed."""
    script = write_script(SCRIPT)
    environ = {"PYTHONPATH": str(Path(__file__).parents[1])}

    done = mpiexec(3, script, "out", cwd=tmp_path, env=environ)
    assert done.returncode == 0, done.stderr
    found = read_zarr(tmp_path / "out" / "f.zarr")
    assert found["result_0@missing"] == ("<i8", (1,), [3])

    (tmp_path / "mended").touch()
    done = mpiexec(2, script, "out", "mended", cwd=tmp_path, env=environ)
    assert done.returncode == 0, done.stderr
    found = read_zarr(tmp_path / "out" / "f.zarr")
    assert found["result_0"] == describe(np.arange(8) / 2)
    assert {found[f"comp_{k}/result_1"][2] for k in range(8)} == {(f"task {k}",) for k in range(8)}


@pytest.mark.once
class TestTable:
    def test_it_is_read_without_mpi_or_hdf5(self):
        code = (
            "import sys; from acme_mpi.storage import STORES; "
            "sys.exit(any(name in sys.modules for name in ('h5py', 'mpi4py.MPI')))"
        )

        assert subprocess.run([sys.executable, "-c", code], timeout=60).returncode == 0

    def test_an_unknown_store_is_refused_and_all_others_are_named(self):
        with pytest.raises(InputError, match=r"no store 'zar', but memory, rank, .*, zarr"):
            find_store("zar")

    def test_a_payload_is_any_store_that_has_payloads(self):
        check("payload", "zarr")
        with pytest.raises(InputError, match="'rank' or 'computation', not 'memory'"):
            check("payload", "memory")

    @pytest.mark.parametrize(
        ("keywords", "kind"),
        [
            ((True, False), "computation"),
            ((True, True), "single_file"),
            ((True, False, True), "pickle"),
            ((False, True, True), "memory"),
        ],
    )
    def test_keywords_choose_a_store_together(self, keywords, kind):
        assert chosen_kind("computation", *keywords) == kind

    @pytest.mark.parametrize("kind", ["memory", "zarr"])
    def test_ragged_rows_are_refused_where_they_cannot_be_held(self, kind):
        with pytest.raises(InputError, match=r"np\.inf"):
            refuse_unlimited(make_row_spec((None, np.inf), "float"), kind)
