"""`acme_mpi.open`: the same results, arguments and reasons in every layout and state of a run."""

from __future__ import annotations

import contextlib
import datetime
import os
import pickle
import subprocess
import sys
import threading
import zlib
from types import SimpleNamespace

import numpy as np
import pytest

import acme_mpi
from acme_mpi import Grid, InputError, NoResultError, ParallelMap, PerTask
from acme_mpi.cli import commands
from acme_mpi.cli.commands import run_command
from acme_mpi.history.parsing import REDO_CRC, REDO_HEADER, REDO_MAGIC, REDO_PIECE
from acme_mpi.reading.recorded import Recorded
from acme_mpi.storage.computation import ComputationStore
from acme_mpi.storage.labels import FILE

xarray = pytest.importorskip("xarray")
pytestmark = pytest.mark.once

LAYOUTS = {
    "rank": {},
    "computation": {"payload": "computation"},
    "single": {"single_file": True},
}
ROWS = {"result_shape": (None, 3)}
every_layout = pytest.mark.parametrize("layout", LAYOUTS)

PROGRAM = """
import os, signal, sys
import numpy as np
import acme_mpi

def several(x, name):
    if x == 7:
        os.kill(os.getpid(), signal.SIGKILL)
    return np.arange(3.0) + x, f"text {name}", np.arange(x)

def row(x, name):
    if x == 7:
        os.kill(os.getpid(), signal.SIGKILL)
    return np.arange(3.0) + x

if __name__ == "__main__":
    names = [f"n{k}" for k in range(9)]
    func = globals()[sys.argv[1]]
    acme_mpi.map(func, range(9), names, output_dir="out", isolate=False, **eval(sys.argv[2]))
"""


def several(x, name="a"):
    if x == 3:
        raise ValueError("three is\nodd")
    return np.arange(3.0) + x, f"text {name}", np.arange(x)


def row(x, name="a"):
    if x == 3:
        raise ValueError("three is odd")
    return np.arange(3.0) + x


def scalars(x):
    if x == 2:
        raise ValueError("two")
    return x, x > 1, x / 2, f"t{x}"


def square(x, y=0):
    return x**2 + y


def sparse(x):
    """Each task leaves out another entry."""
    array, number, text = np.arange(2) + x, x, "a"
    return {
        "array": None if x == 0 else array,
        "number": None if x == 1 else number,
        "text": None if x == 2 else text,
    }


def dying(x):
    if x == 1:
        os.abort()
    return x


def silent(x):
    raise ValueError


def ragged(x):
    return np.arange(x + 1.0)


def run(func, folder, *args, **options):
    """Run a function, of which some calls may fail, and open what it leaves."""
    with contextlib.suppress(acme_mpi.TaskError):
        acme_mpi.map(func, *args, output_dir=str(folder / "out"), **options)
    return acme_mpi.open(folder / "out")


def log_of(folder, *pieces, n_bytes):
    """Write the log of a change of the payload of rank 0."""
    text = REDO_HEADER.pack(REDO_MAGIC, n_bytes, len(pieces))
    text += b"".join(REDO_PIECE.pack(offset, len(data)) + data for offset, data in pieces)
    log = folder / "out" / ".acme_mpi" / "row" / "rank0_0.redo"
    log.write_bytes(text + REDO_CRC.pack(zlib.crc32(text)))


def same(found, expected):
    """Compare a result with what was returned."""
    if isinstance(expected, tuple):
        return len(found) == len(expected) and all(map(same, found, expected))
    return np.array_equal(found, expected)


def spectrum(f, gain=None):
    gain = f if gain is None else 1
    coords = {
        "f": [0.5, 1.0, 1.5],
        "channel": ["a", "b"],
        "day": ("f", np.array(["2026-01-01"] * 3, "M8[ns]")),
        "gain": gain,
    }
    data = np.outer([1, 1.5, 2], [f, f])
    return xarray.DataArray(data, coords, ("f", "channel"), "power")


def moving(x):
    coords = {"t": [x, x + 1], "k": [7, 8, 9]}
    return xarray.DataArray(np.zeros((2, 3)), coords, ("t", "k"))


def two_arrays(x):
    f = [0.5, 1.5]
    return {
        "a": xarray.DataArray([x, x], {"f": f, "s": ("f", [1, 2])}, "f"),
        "b": xarray.DataArray(np.zeros((2, 2)), {"f": f}, ("f", "g")),
        "c": xarray.DataArray(np.zeros(3), dims="g"),
        "s": 5.0,
    }


class TestOneByOne:
    @every_layout
    def test_it_is_what_was_returned(self, tmp_path, layout):
        results = run(several, tmp_path, range(5), **LAYOUTS[layout])

        assert len(results) == 5
        assert all(same(results[x], several(x)) for x in (0, 1, 2, 4, -1) if x >= 0)
        assert same(results[-1], several(4))
        assert [len(each) for each in results[1:3]] == [3, 3]
        assert [task for task, _ in results.items()] == [0, 1, 2, 4]

    @every_layout
    @pytest.mark.parametrize("axis", [0, 1])
    def test_a_row_of_the_common_array(self, tmp_path, layout, axis):
        shape = (None, 3) if axis == 0 else (3, None)
        results = run(row, tmp_path, range(5), result_shape=shape, **LAYOUTS[layout])

        assert all(same(results[x], row(x)) for x in (0, 1, 2, 4))

    @every_layout
    def test_of_a_grid_it_goes_by_the_tasks(self, tmp_path, layout):
        results = run(
            square, tmp_path, Grid(x=[1, 2], y=[5, 6, 7]), result_shape=(None,), **LAYOUTS[layout]
        )

        assert [float(value) for value in results] == [6, 7, 8, 9, 10, 11]

    @every_layout
    def test_rows_of_differing_length(self, tmp_path, layout):
        shape = (None, np.inf)
        results = run(ragged, tmp_path, range(4), result_shape=shape, **LAYOUTS[layout])

        n_padded = 4 if layout == "single" else 2
        assert len(results[1]) == n_padded
        assert same(results[1][:2], ragged(1))

    @every_layout
    def test_a_failed_task_says_why(self, tmp_path, layout):
        results = run(several, tmp_path, range(5), **LAYOUTS[layout])

        with pytest.raises(NoResultError, match="task 3 of several has failed: ValueError: three"):
            results[3]
        with pytest.raises(IndexError, match="there is no task 5"):
            results[5]
        assert [(each.task, each.arguments) for each in results.failed] == [(3, {"x": 3})]
        assert results.failed[0].error == "ValueError: three is odd"
        assert results.missing.tolist() == [3]

    @every_layout
    def test_named_arrays_of_rows(self, tmp_path, layout):
        def f(x):
            return {"power": np.arange(3.0) + x, "peak": float(x)}

        shapes = {"power": (None, 3), "peak": (None,)}
        results = run(f, tmp_path, Grid(x=[1, 2]), result_shape=shapes, **LAYOUTS[layout])

        assert results.names == ("power", "peak")
        assert results[1]["power"].tolist() == [2, 3, 4]
        assert results[1]["peak"] == 2
        assert results.to_pandas()["peak"].tolist() == [1, 2]
        assert results.to_xarray().power.sel(x=2).values.tolist() == [2, 3, 4]

    @every_layout
    def test_named_results(self, tmp_path, layout):
        def f(x):
            return {"power": np.arange(3.0) + x, "label": f"t{x}", "peak": x}

        results = run(f, tmp_path, Grid(x=[1, 2]), **LAYOUTS[layout])

        assert results.names == ("power", "label", "peak")
        assert list(results[1]) == ["power", "label", "peak"]
        assert results[1]["power"].tolist() == [2, 3, 4]
        assert (results[1]["label"], results[1]["peak"]) == ("t2", 2)
        assert list(results.to_pandas())[:3] == ["x", "label", "peak"]
        found = results.to_xarray()
        assert found.power.sel(x=2).values.tolist() == [2, 3, 4]
        assert found.label.values.tolist() == ["t1", "t2"]

    @every_layout
    def test_rows_of_a_form_that_the_first_result_gives(self, tmp_path, layout):
        def f(x):
            return {"power": np.arange(3.0) + x, "peak": x}

        results = run(f, tmp_path, Grid(x=[1, 2]), result_shape="auto", **LAYOUTS[layout])

        assert results[1]["power"].tolist() == [2, 3, 4]
        assert results.names == ("power", "peak")
        assert results.to_pandas()["peak"].tolist() == [1, 2]
        assert results.to_xarray().power.sel(x=2).values.tolist() == [2, 3, 4]

    def test_a_name_for_what_brings_none(self, tmp_path):
        results = run(square, tmp_path, [1, 2], result_names=("area",))

        assert results.to_pandas()["area"].tolist() == [1, 4]
        assert results.to_xarray()["area"].values.tolist() == [1, 4]

    def test_nothing_and_lone_numbers(self, tmp_path):
        results = run(lambda x: None if x else 2.5, tmp_path, [0, 1])

        assert results[1] is None
        assert results[0].tolist() == [2.5]


class TestStates:
    def kill(self, folder, func, layout, **more):
        (folder / "program.py").write_text(PROGRAM)
        options = repr({**LAYOUTS[layout], **more})
        command = [sys.executable, "program.py", func, options]
        ran = subprocess.run(command, cwd=folder, capture_output=True, timeout=60)
        assert ran.returncode == -9, ran.stderr

    @every_layout
    @pytest.mark.parametrize("func", ["several", "row"])
    def test_a_killed_run_before_any_recover(self, tmp_path, layout, func):
        self.kill(tmp_path, func, layout, **(ROWS if func == "row" else {}))
        results = acme_mpi.open(tmp_path / "out")

        done = [task for task, _ in results.items()]
        assert done == list(range(len(done)))
        assert all(same(results[x], globals()[func](x, f"n{x}")) for x in done if x != 3)
        assert results.arguments["name"].tolist() == [f"n{k}" for k in range(9)]
        with pytest.raises(NoResultError, match=r"task 8 of .* has no result yet; .*status"):
            results[8]
        assert len(results.to_pandas()) == 9

    @every_layout
    @pytest.mark.parametrize("more", [{}, ROWS])
    def test_a_folder_that_has_moved(self, tmp_path, layout, more):
        run(row, tmp_path, range(5), **LAYOUTS[layout], **more)
        (tmp_path / "out").rename(tmp_path / "elsewhere")

        results = acme_mpi.open(tmp_path / "elsewhere" / "row.h5")
        assert same(results[4], row(4))
        assert results.arguments["x"].tolist() == [0, 1, 2, 3, 4]

    def test_a_link_to_the_container(self, tmp_path):
        run(row, tmp_path, range(3))
        (tmp_path / "latest.h5").symlink_to(tmp_path / "out" / "row.h5")

        assert same(acme_mpi.open(tmp_path / "latest.h5")[1], row(1))

    def test_nothing_is_written(self, tmp_path):
        run(row, tmp_path, range(5)).close()
        out = tmp_path / "out"
        before = {path: path.stat().st_mtime_ns for path in [out, *out.rglob("*")]}
        results = acme_mpi.open(out)
        results.to_pandas(), results.to_xarray().load(), repr(results), results._repr_html_()

        assert {path: path.stat().st_mtime_ns for path in [out, *out.rglob("*")]} == before

    @every_layout
    @pytest.mark.parametrize("more", [{}, ROWS])
    def test_while_the_run_goes_on(self, tmp_path, layout, more):
        gate, out = tmp_path / "gate", tmp_path / "out"
        os.mkfifo(gate)

        def waits(x, gate):
            if x == 3:
                with open(gate) as file:
                    file.read()  # until the other end is closed
            return np.arange(3.0) + x

        options = {**LAYOUTS[layout], **more}
        thread = threading.Thread(
            target=acme_mpi.map,
            args=(waits, range(4), str(gate)),
            kwargs={"output_dir": str(out), **options},
        )
        thread.start()
        try:
            with open(gate, "w"):  # task 3 runs now; what came before it is on its way
                results = acme_mpi.open(out)
                found = list(results.items())
                assert all(same(value, np.arange(3.0) + x) for x, value in found)
                with pytest.raises(NoResultError, match="being computed"):
                    results[3]
        finally:
            thread.join()
        assert len(list(acme_mpi.open(out).items())) == 4

    @every_layout
    def test_a_run_in_this_process_is_not_disturbed(self, tmp_path, layout):
        """HDF5 gives all who open one file in one process one view of it."""
        flag = tmp_path / "mended"

        def f(x, flag):
            if x == 3 and not os.path.exists(flag):
                raise ValueError
            return np.arange(3.0) + x

        results = run(f, tmp_path, range(4), str(flag), **LAYOUTS[layout])
        assert same(results[0], np.arange(3.0))
        flag.touch()
        again = run(f, tmp_path, range(4), str(flag), resume="failed", **LAYOUTS[layout])

        assert [len(value) for value in again] == [3] * 4
        assert same(results[0], np.arange(3.0))

    @pytest.mark.parametrize("is_running", [False, True])
    def test_a_change_that_is_half_made_is_seen_as_made(self, tmp_path, monkeypatch, is_running):
        """As a kill leaves it, or a run that is making it: the log is complete, the file is not."""
        run(row, tmp_path, range(5))
        payload = next((tmp_path / "out" / "row_payload").iterdir())
        whole = payload.read_bytes()
        log_of(tmp_path, (0, whole[:600]), n_bytes=len(whole))
        payload.write_bytes(bytes(600) + whole[600:])
        monkeypatch.setattr(Recorded, "is_running", lambda self: is_running)

        assert same(acme_mpi.open(tmp_path / "out")[4], row(4))
        assert payload.read_bytes()[:600] == bytes(600)

    def test_check_sees_a_change_that_is_half_made_as_made(self, tmp_path, capsys):
        run(row, tmp_path, range(5))
        payload = next((tmp_path / "out" / "row_payload").iterdir())
        whole = payload.read_bytes()
        log_of(tmp_path, (0, whole[:600]), n_bytes=len(whole))
        payload.write_bytes(bytes(600) + whole[600:])

        assert run_command(["check", str(tmp_path / "out")]) == 0
        assert "4 of 5 tasks are done; all" in capsys.readouterr().out

    @pytest.mark.parametrize("is_running", [False, True])
    def test_check_looks_again_at_what_a_run_may_be_changing(
        self, tmp_path, monkeypatch, capsys, is_running
    ):
        run(row, tmp_path, range(5), payload="computation")
        measure, n_looks = ComputationStore.measure, []

        def measured_late(store, record):
            n_looks.append(record)
            if len(n_looks) == 1:
                raise KeyError("comp_0")
            return measure(store, record)

        monkeypatch.setattr(ComputationStore, "measure", measured_late)
        if is_running:
            monkeypatch.setattr(commands, "holder", lambda folder: SimpleNamespace(is_alive=True))

        status = run_command(["check", str(tmp_path / "out")])
        assert (status, len(n_looks)) == ((0, 5) if is_running else (74, 4))

    def test_what_is_read_while_a_change_begins_is_read_again(self, tmp_path, monkeypatch):
        run(row, tmp_path, range(5))
        payload = next((tmp_path / "out" / "row_payload").iterdir())
        monkeypatch.setattr(Recorded, "is_running", lambda self: True)
        results = acme_mpi.open(tmp_path / "out")
        read, n_reads = results.reader._read, []

        def read_half(*args):
            n_reads.append(args)
            found = read(*args)
            if len(n_reads) > 1:
                return found
            log_of(tmp_path, (0, payload.read_bytes()[:600]), n_bytes=payload.stat().st_size)
            return found._replace(parts=[])

        monkeypatch.setattr(results.reader, "_read", read_half)
        assert same(results[4], row(4))
        assert len(n_reads) == 2


class TestMistakes:
    @pytest.mark.parametrize("index", ["power", 1.0, None, [1, 2], (0, 1)])
    def test_results_are_taken_by_task(self, tmp_path, index):
        with pytest.raises(TypeError, match="by tasks, an integer or a slice") as caught:
            run(square, tmp_path, [1, 2])[index]

        assert isinstance(caught.value, InputError)
        assert repr(index) in str(caught.value)

    def test_arguments_that_are_no_labels_are_told(self, tmp_path):
        arguments = run(square, tmp_path, [1, 2], 3).arguments

        with pytest.raises(KeyError, match="y: no label of the tasks; these are x; what all"):
            arguments["y"]
        assert "y" not in arguments
        assert arguments.get("y") is None

    def test_a_failure_without_words_is_its_type(self, tmp_path):
        assert [each.error for each in run(silent, tmp_path, [1]).failed] == ["ValueError"]

    def test_the_command_for_a_task_without_a_result_can_be_typed(self, tmp_path):
        results = run(square, tmp_path / "my results", range(3), only=[0])

        with pytest.raises(NoResultError, match=r"status '.*/my results/out'` says how"):
            results[1]


class TestArguments:
    def test_of_a_grid_they_are_made_of_its_axes(self, tmp_path):
        results = run(square, tmp_path, Grid(x=[1, 2], y=[5, 6, 7]))

        assert results.arguments["x"].tolist() == [1, 1, 1, 2, 2, 2]
        assert results.arguments["y"].tolist() == [5, 6, 7] * 2
        assert results.arguments.of_task(4) == {"x": 2, "y": 6}

    @pytest.mark.parametrize("dtype", [">i4", ">f8"])
    def test_numbers_of_other_machines_can_be_selected_and_sorted(self, tmp_path, dtype):
        grid = Grid(x=np.array([3, 1, 2], dtype))
        results = run(dying, tmp_path, grid, result_shape=(None,), result_dtype=dtype)

        assert results.to_xarray()["result_0"].sel(x=2).values == 2
        assert results.to_pandas().sort_values("result_0")["x"].tolist() == [2, 3, 1]
        assert results.to_pandas().groupby("x")["result_0"].sum().tolist() == [0, 2, 3]

    def test_times_are_times(self, tmp_path):
        days = [datetime.datetime(2024, 5, day) for day in (1, 2)]
        results = run(lambda day: day.day, tmp_path, PerTask(days))

        assert results.arguments["day"].dtype.kind == "M"
        assert results.to_xarray()["day"].dt.day.values.tolist() == [1, 2]

    def test_without_labels_there_are_none(self, tmp_path):
        run(square, tmp_path, [1, 2])
        (tmp_path / "out" / ".acme_mpi" / "square" / FILE).unlink()

        results = acme_mpi.open(tmp_path / "out")
        assert not results.arguments
        assert results.to_pandas()["result_0"].tolist() == [1, 4]

    def test_damaged_ones_are_told(self, tmp_path, caplog):
        run(square, tmp_path, [1, 2])
        with open(tmp_path / "out" / ".acme_mpi" / "square" / FILE, "r+b") as file:
            file.write(b"x" * 100)

        assert not acme_mpi.open(tmp_path / "out").arguments
        assert "its checksum differs; the tasks have no such labels" in caplog.text


class TestLibraries:
    """Of what is not installed an error says how to install it."""

    @pytest.mark.parametrize(
        ("library", "way", "extra"),
        [("pandas", "to_pandas", "tables"), ("xarray", "to_xarray", "labels")],
    )
    def test_a_missing_one(self, tmp_path, monkeypatch, library, way, extra):
        results = run(square, tmp_path, [1, 2])
        monkeypatch.setitem(sys.modules, library, None)

        with pytest.raises(InputError, match=rf"acme-mpi\[{extra}\]"):
            getattr(results, way)()

    def test_without_dask_arrays_are_read(self, tmp_path, monkeypatch):
        results = run(square, tmp_path, [1, 2])
        monkeypatch.setitem(sys.modules, "dask.array", None)

        assert isinstance(results.to_xarray().result_0.data, np.ndarray)
        monkeypatch.setattr("acme_mpi.reading.dataset.available_bytes", lambda: 1)
        with pytest.raises(InputError, match="result_0 takes 16 bytes, and there are 1 bytes"):
            results.to_xarray()

    def test_without_pandas_there_is_a_head(self, tmp_path, monkeypatch):
        results = run(square, tmp_path, [1, 2])
        monkeypatch.setitem(sys.modules, "pandas", None)

        assert "<td>4</td>" in results._repr_html_()


class TestTables:
    @every_layout
    def test_a_row_for_each_task(self, tmp_path, layout):
        table = run(scalars, tmp_path, range(4), **LAYOUTS[layout]).to_pandas()

        assert table.index.name == "task"
        assert list(table) == [
            *("x", "result_0", "result_1", "result_2", "result_3"),
            *("seconds", "host", "rank", "peak_memory", "error"),
        ]
        assert table["x"].tolist() == [0, 1, 2, 3]
        assert table["result_0"].dtype == "Int64"
        assert table["result_1"].dtype == "boolean"
        assert table["result_2"].dropna().tolist() == [0, 0.5, 1.5]
        assert table["result_3"].dropna().tolist() == ["t0", "t1", "t3"]
        assert table["error"].dropna().to_dict() == {2: "ValueError: two"}
        assert (table["seconds"].dropna() >= 0).all()

    def test_how_long_a_task_took_that_has_died_is_not_known(self, tmp_path):
        results = run(dying, tmp_path, range(3))

        assert np.isnan(results.durations).tolist() == [False, True, False]
        assert results.to_pandas()["seconds"].isna().tolist() == [False, True, False]

    @every_layout
    def test_stacked_numbers_are_a_column(self, tmp_path, layout):
        options = {"result_shape": (None,), "result_dtype": "int32", **LAYOUTS[layout]}
        table = run(square, tmp_path, range(4), **options).to_pandas()

        assert table["result_0"].tolist() == [0, 1, 4, 9]
        assert table["result_0"].dtype == "int32"

    def test_arrays_are_no_column(self, tmp_path):
        table = run(several, tmp_path, range(3)).to_pandas()

        assert list(table)[:2] == ["x", "result_1"]

    @every_layout
    @pytest.mark.parametrize("shape", [(None, np.inf), (np.inf, None)])
    def test_rows_of_differing_length_are_no_column(self, tmp_path, layout, shape):
        results = run(ragged, tmp_path, range(4), result_shape=shape, **LAYOUTS[layout])

        assert list(results.to_pandas())[:2] == ["x", "seconds"]
        assert "4 of 4 tasks done" in results._repr_html_()

    @every_layout
    def test_rows_of_one_entry_are_a_column(self, tmp_path, layout):
        shape = (None, np.inf)
        results = run(lambda x: [x / 2], tmp_path, range(3), result_shape=shape, **LAYOUTS[layout])

        assert results.to_pandas()["result_0"].tolist() == [0, 0.5, 1]

    @every_layout
    def test_records_are_no_column(self, tmp_path, layout):
        table = run(lambda x: np.zeros(1, "i4,f8"), tmp_path, [1, 2], **LAYOUTS[layout]).to_pandas()

        assert list(table)[:2] == ["x", "seconds"]

    def test_columns_of_one_name_are_told_apart(self, tmp_path):
        def f(host, power):
            return {"power": host + power, "task": 1}

        results = run(f, tmp_path, [1, 2], [3, 4])
        assert list(results.to_pandas())[:4] == ["host", "argument_power", "power", "task"]
        assert list(results.to_pandas())[5] == "task_host"
        found = results.to_xarray()
        assert found.power.dims == ("argument_task",)
        assert found.argument_power.values.tolist() == [3, 4]


class TestLabelledArrays:
    @every_layout
    @pytest.mark.parametrize("more", [{}, {"result_shape": (None,)}])
    def test_a_grid_gives_the_dimensions(self, tmp_path, layout, more):
        axes = Grid(x=[1, 2], y=[5, 6, 7])
        found = run(square, tmp_path, axes, **LAYOUTS[layout], **more).to_xarray()

        assert dict(found.sizes) == {"x": 2, "y": 3}
        assert found.result_0.sel(x=2, y=6).values == 10
        assert found.result_0.values.tolist() == [[6, 7, 8], [9, 10, 11]]

    @every_layout
    def test_tasks_are_a_dimension_with_their_arguments(self, tmp_path, layout):
        found = run(row, tmp_path, range(5), list("abcde"), **LAYOUTS[layout]).to_xarray()

        assert dict(found.sizes) == {"task": 5, "result_0_axis_0": 3}
        assert found.result_0.isel(task=2).values.tolist() == [2, 3, 4]
        assert np.isnan(found.result_0.isel(task=3)).all()
        assert found.set_xindex("name").sel(name="e").x == 4
        assert found.attrs["function"] == "row"

    def test_only_what_is_asked_for_is_read(self, tmp_path, monkeypatch):
        results = run(row, tmp_path, range(5), **ROWS)
        found = results.to_xarray()
        seen = []
        rows = results.reader.rows
        monkeypatch.setattr(
            results.reader,
            "rows",
            lambda k, tasks: (seen.append(tasks.tolist()), rows(k, tasks))[1],
        )

        assert found.result_0.isel(task=[4]).values.tolist() == [[4, 5, 6]]
        assert len(seen) == 1

    def test_rows_are_not_read_for_the_form_of_what_lies_beside_them(self, tmp_path, monkeypatch):
        results = run(lambda x: (np.full(3, x), x), tmp_path, range(3), **ROWS)
        monkeypatch.setattr(results.reader, "_rows_of", None)

        assert dict(results.to_xarray().sizes) == {"task": 3, "result_0_axis_0": 3}
        assert results.to_pandas()["result_1"].tolist() == [0, 1, 2]

    def test_whole_numbers_and_booleans_are_float_where_tasks_are_missing(self, tmp_path):
        found = run(scalars, tmp_path, range(4)).to_xarray()

        assert found.result_0.dtype == found.result_1.dtype == float
        assert found.result_1.values[[0, 1, 3]].tolist() == [0, 0, 1]
        assert found.result_3.values.tolist() == ["t0", "t1", "", "t3"]

    @every_layout
    @pytest.mark.parametrize("shape", [(None, np.inf), (np.inf, None)])
    def test_rows_of_differing_length_are_padded(self, tmp_path, layout, shape):
        results = run(ragged, tmp_path, range(4), result_shape=shape, **LAYOUTS[layout])

        found = results.to_xarray().result_0
        assert found.dims == ("task", "result_0_axis_0")
        rows = [[0, *[np.nan] * 3], [0, 1, *[np.nan] * 2], [0, 1, 2, np.nan], [0, 1, 2, 3]]
        np.testing.assert_array_equal(found.values, rows)
        np.testing.assert_array_equal(found[1:3, 2].values, [np.nan, 2])

    @every_layout
    def test_where_a_task_returns_nothing_it_is_missing(self, tmp_path, layout):
        results = run(sparse, tmp_path, range(3), **LAYOUTS[layout])

        found = pickle.loads(pickle.dumps(results)).to_xarray().load()
        np.testing.assert_array_equal(found.array, [[np.nan, np.nan], [1, 2], [2, 3]])
        np.testing.assert_array_equal(found.number, [0, np.nan, 2])
        assert found.text.values.tolist() == ["a", "a", ""]

    def test_records_are_zero_where_a_task_is_missing(self, tmp_path):
        results = run(lambda x: None if x == 1 else np.ones(2, "i4,f8"), tmp_path, range(2))

        values = results.to_xarray().result_0.values
        assert values.tolist() == [[(1, 1.0)] * 2, [(0, 0.0)] * 2]

    @every_layout
    def test_a_tuple_may_be_shorter_in_some_tasks(self, tmp_path, layout):
        results = run(lambda x: (x,) * (x + 1), tmp_path, range(2), **LAYOUTS[layout])

        np.testing.assert_array_equal(results.to_xarray().result_1, [np.nan, 1])

    def test_results_that_differ_in_shape_are_refused(self, tmp_path):
        results = run(ragged, tmp_path, range(3))

        with pytest.raises(InputError, match=r"\(1,\) in task 0, \(2,\) in task 1; .*np.inf"):
            results.to_xarray()

    @every_layout
    def test_axes_of_results_keep_their_names(self, tmp_path, layout):
        found = run(spectrum, tmp_path, range(1, 4), **LAYOUTS[layout]).to_xarray()

        assert found["power"].dims == ("task", "f", "channel")
        assert found["f"].values.tolist() == [0.5, 1.0, 1.5]
        assert found["day"].dtype.kind == "M"
        assert found["power"].sel(task=2, f=1.0, channel="b").values == 4.5
        assert found.coords["gain"].dims == ("task",)
        assert found.coords["gain"].values.tolist() == [1, 2, 3]
        assert found.coords["argument_f"].dims == ("task",)
        assert set(found.data_vars) == {"power"}

    def test_axes_of_a_grid_stand_before_those_of_results(self, tmp_path):
        found = run(spectrum, tmp_path, Grid(f=[1, 2], gain=[3, 4, 5])).to_xarray()

        assert found["power"].dims == ("argument_f", "argument_gain", "f", "channel")
        assert found["power"].sel(argument_f=2, argument_gain=5, f=0.5, channel="a").values == 2

    def test_an_argument_that_is_called_as_an_axis_of_results_gives_way(self, tmp_path):
        def f(result_0_axis_0):
            return np.arange(3.0) + result_0_axis_0

        array = run(f, tmp_path, Grid(result_0_axis_0=[1, 2])).to_xarray()["result_0"]

        assert array.dims == ("argument_result_0_axis_0", "result_0_axis_0")
        assert array.shape == (2, 3)

    def test_coordinates_that_differ_are_variables(self, tmp_path):
        found = run(moving, tmp_path, range(3)).to_xarray()

        assert found["values"].dims == ("task", "values_axis_0", "k")
        assert found.coords["t"].dims == ("task", "t_axis_0")
        assert found["t"].values.tolist() == [[0, 1], [1, 2], [2, 3]]
        assert found["k"].values.tolist() == [7, 8, 9]

    def test_arrays_among_others_share_axes_that_are_equal(self, tmp_path):
        found = run(two_arrays, tmp_path, range(3)).to_xarray()

        assert found["a"].dims == ("task", "f")
        assert found["b"].dims == ("task", "f", "b_axis_1")
        assert found["c"].dims == ("task", "c_axis_0")
        assert found["f"].values.tolist() == [0.5, 1.5]
        assert found["s"].dims == ("task",)

    def test_without_a_result_nothing_has_a_name(self, tmp_path):
        with pytest.raises(acme_mpi.TaskError):
            acme_mpi.map(lambda x: 1 / x, [0], output_dir=str(tmp_path))

        assert not acme_mpi.open(tmp_path).to_xarray().data_vars

    def test_results_with_names_are_exported(self, tmp_path):
        run(spectrum, tmp_path, range(1, 4)).to_xarray().to_netcdf(
            tmp_path / "x.nc", engine="h5netcdf"
        )
        with xarray.open_dataset(tmp_path / "x.nc", engine="h5netcdf") as found:
            assert found["power"].dims == ("task", "f", "channel")

    def test_an_empty_selection_and_no_tasks(self, tmp_path):
        found = run(row, tmp_path, range(5), **ROWS).to_xarray()

        assert found.result_0[:0].values.shape == (0, 3)


class TestPickles:
    def test_they_are_loaded_if_that_is_said(self, tmp_path):
        out = str(tmp_path / "out")
        with ParallelMap(lambda x: {1, x}, range(2), output_dir=out, logfile=False) as pmap:
            pmap.compute()
        results = acme_mpi.open(out)

        with pytest.raises(InputError, match="allow_pickle=True"):
            results[1]
        assert acme_mpi.open(out, allow_pickle=True)[0] == {0, 1}
        with pytest.raises(InputError, match="pickled"):
            results.to_xarray()
        assert len(results.to_pandas()) == 2

    def test_a_run_of_pickles(self, tmp_path):
        out = str(tmp_path / "out")
        with ParallelMap(
            square, range(2), output_dir=out, write_pickle=True, logfile=False
        ) as pmap:
            pmap.compute()

        assert acme_mpi.open(out, allow_pickle=True)[1] == 1

    def test_opened_results_can_be_sent(self, tmp_path):
        results = run(row, tmp_path, range(5))

        assert same(pickle.loads(pickle.dumps(results))[4], row(4))


class TestPlaces:
    def test_several_functions_are_named(self, tmp_path):
        run(row, tmp_path, range(2))
        acme_mpi.map(square, [1, 2], output_dir=str(tmp_path / "out"))

        with pytest.raises(InputError, match=r"choose one by `name` .*: row, square"):
            acme_mpi.open(tmp_path / "out")
        assert acme_mpi.open(tmp_path / "out", "square")[1] == 4
        assert acme_mpi.open(tmp_path / "out" / "row.h5").name == "row"
        with pytest.raises(InputError, match="no results of 'cube'"):
            acme_mpi.open(tmp_path / "out", name="cube")

    @pytest.mark.parametrize("path", [None, 5, ["f.h5"]])
    def test_what_is_no_path_is_told(self, path):
        with pytest.raises(TypeError, match=r"`path` has to be .*directory, .* not") as caught:
            acme_mpi.open(path)

        assert isinstance(caught.value, InputError)
        assert ("map" in str(caught.value)) == isinstance(path, list)

    def test_a_place_without_results(self, tmp_path):
        with pytest.raises(InputError, match="holds no run"):
            acme_mpi.open(tmp_path)
        with pytest.raises(InputError, match="there is nothing at"):
            acme_mpi.open(tmp_path / "nowhere")
