"""Results in the formats of others, and the commands that show and write them."""

from __future__ import annotations

import contextlib
import datetime
import io
import json

import numpy as np
import pandas
import pytest
import xarray

import acme_mpi
from acme_mpi import Grid, InputError, PerTask, PlaceError
from acme_mpi.cli.commands import run_command
from acme_mpi.reading.blocks import block_shape, chunk_shape
from acme_mpi.reading.export import FORMATS, export

pytestmark = pytest.mark.once


def several(x, name):
    if x == 2:
        raise ValueError("two is odd")
    return x * 1j, x > 1, x, f"text {name}", np.arange(3, dtype="f2") + x


def plain(x, y=0):
    return np.full(4, x + y)


def run(func, folder, *args, **options):
    with contextlib.suppress(acme_mpi.TaskError):
        acme_mpi.map(func, *args, output_dir=str(folder / "out"), **options)
    return acme_mpi.open(folder / "out")


@pytest.fixture
def results(tmp_path):
    return run(several, tmp_path, range(4), list("abcd"))


class TestFormats:
    def test_a_table_as_text(self, results, tmp_path):
        export(results, "csv", str(tmp_path / "t.csv"))

        found = pandas.read_csv(tmp_path / "t.csv", index_col="task")
        assert list(found)[:4] == ["x", "name", "result_0", "result_1"]
        assert found["result_3"][3] == "text d"
        assert found["error"].dropna().tolist() == ["ValueError: two is odd"]

    def test_a_table_with_types(self, results, tmp_path):
        export(results, "parquet", str(tmp_path / "t.parquet"))

        found = pandas.read_parquet(tmp_path / "t.parquet")
        assert found["result_2"].dtype == "Int64"
        assert found["result_1"].dtype == "boolean"
        assert found["result_0_imag"].dropna().tolist() == [0, 1, 3]

    def test_netcdf_of_what_it_has_not_itself(self, results, tmp_path):
        export(results, "netcdf", str(tmp_path / "t.nc"))

        with xarray.open_dataset(tmp_path / "t.nc", engine="h5netcdf") as found:
            assert found["name"].values.tolist() == list("abcd")
            assert found.result_0_imag.values[[0, 1, 3]].tolist() == [0, 1, 3]
            assert found.result_4.dtype == "f4"
            assert found.result_3.values.tolist() == ["text a", "text b", "", "text d"]
            assert np.isnan(found.result_1.values[2])

    def test_zarr(self, results, tmp_path):
        export(results, "zarr", str(tmp_path / "t.zarr"))

        found = xarray.open_zarr(tmp_path / "t.zarr")
        assert found.result_0.values[[0, 1, 3]].tolist() == [0, 1j, 3j]
        assert found["name"].values.tolist() == list("abcd")

    @pytest.mark.parametrize("form", ["netcdf", "zarr"])
    def test_types_that_are_whole_stay(self, tmp_path, form):
        def f(x, day):
            return x, x > 1, np.uint8(x), np.int64(2**60 + x)

        days = [datetime.datetime(2024, 5, day) for day in (1, 2, 3)]
        results = run(f, tmp_path, range(3), PerTask(days))
        export(results, form, str(tmp_path / "t"))

        with xarray.open_dataset(
            tmp_path / "t", engine={"netcdf": "h5netcdf"}.get(form, form)
        ) as found:
            assert [found[f"result_{k}"].dtype.str for k in range(4)] == [
                "<i8",
                "|b1",
                "|u1",
                "<i8",
            ]
            assert found.result_3.values.tolist() == [2**60, 2**60 + 1, 2**60 + 2]
            assert found.day.values.astype("M8[D]").astype(str)[2] == "2024-05-03"

    @pytest.mark.parametrize("form", ["netcdf", "zarr"])
    def test_long_doubles_become_doubles(self, tmp_path, form):
        def f(x):
            return np.full(2, x / np.longdouble(3)), np.full(2, x * 1j / np.longdouble(3))

        export(run(f, tmp_path, [1, 2]), form, str(tmp_path / "t"))

        engine = {"netcdf": "h5netcdf"}.get(form, form)
        with xarray.open_dataset(tmp_path / "t", engine=engine) as found:
            imag = found.result_1.imag if form == "zarr" else found.result_1_imag
            assert found.result_0.dtype == imag.dtype == np.float64
            assert (
                found.result_0.values.tolist() == imag.values.tolist() == [[1 / 3] * 2, [2 / 3] * 2]
            )

    def test_in_a_table_with_types_too(self, tmp_path):
        wide = np.array([1, 2], "g")
        results = run(lambda x: (x / 3, x * 1j), tmp_path, PerTask(wide))

        export(results, "parquet", str(tmp_path / "t"))

        found = pandas.read_parquet(tmp_path / "t")
        assert found["result_0"].tolist() == [1 / 3, 2 / 3]
        assert found[["x", "result_1_imag"]].to_numpy().tolist() == [[1, 1], [2, 2]]

    def test_a_grid_keeps_its_axes(self, tmp_path):
        results = run(plain, tmp_path, Grid(x=[1, 2], y=[3, 4, 5]), result_shape=(None, 4))
        export(results, "netcdf", str(tmp_path / "t.nc"))

        with xarray.open_dataset(tmp_path / "t.nc", engine="h5netcdf") as found:
            assert found.result_0.dims == ("x", "y", "result_0_axis_0")
            assert found.result_0.sel(x=2, y=5).values.tolist() == [7] * 4

    def test_records_are_refused(self, tmp_path):
        results = run(lambda x: np.zeros(2, "i4,f8"), tmp_path, [1, 2])

        with pytest.raises(InputError, match="holds records"):
            export(results, "netcdf", str(tmp_path / "t.nc"))
        assert [path.name for path in tmp_path.iterdir()] == ["out"]

    @pytest.mark.parametrize("form", sorted(FORMATS))
    def test_a_place_that_cannot_be_written_is_told(self, results, tmp_path, form):
        (tmp_path / "file").touch()

        with pytest.raises(acme_mpi.StoreError, match=r"cannot write .*file/t"):
            export(results, form, str(tmp_path / "file" / "t"))

    @pytest.mark.parametrize("form", FORMATS)
    def test_nothing_is_overwritten(self, results, tmp_path, form):
        (tmp_path / "t").write_text("mine")

        with pytest.raises(PlaceError, match="never overwritten"):
            export(results, form, str(tmp_path / "t"))
        assert (tmp_path / "t").read_text() == "mine"


class TestBlocks:
    @pytest.mark.parametrize(
        ("shape", "n_axes", "chunk", "block"),
        [
            ((1000, 1000), 1, (131, 1000), (2096, 1000)),
            ((10**7,), 1, (131072,), (2097152,)),
            ((3, 4), 2, (3, 4), (3, 4)),
            ((5, 2**24), 1, (1, 2**24), (1, 2**24)),
            ((100, 300, 512), 2, (1, 256, 512), (13, 300, 512)),
        ],
    )
    def test_they_are_whole_chunks(self, shape, n_axes, chunk, block):
        found = block_shape(shape, n_axes, 8)

        assert chunk_shape(shape, n_axes, 8) == tuple(map(min, chunk, shape))
        assert found == tuple(map(min, block, shape))


class TestCommands:
    def test_show_prints_the_first_rows(self, results, tmp_path, capsys):
        assert run_command(["show", str(tmp_path / "out"), "-n", "3"]) == 0

        told = capsys.readouterr().out.splitlines()
        assert told[0].startswith("several: 3 of 4 tasks done, 1 failed, in /")
        assert told[1].split()[:4] == ["task", "x", "name", "result_0"]
        assert told[4].split()[-4:] == ["ValueError:", "two", "is", "odd"]
        assert told[5] == "  ... and 1 more"

    def test_failed_lists_tasks_arguments_and_errors(self, results, tmp_path, capsys):
        assert run_command(["failed", str(tmp_path / "out")]) == 0
        assert capsys.readouterr().out == "2\tx=2, name='c'\tValueError: two is odd\n"

        assert run_command(["failed", "--json", str(tmp_path / "out")]) == 0
        assert json.loads(capsys.readouterr().out) == [
            {"task": 2, "arguments": {"x": 2, "name": "c"}, "error": "ValueError: two is odd"}
        ]

    def test_export_writes_one_file(self, results, tmp_path, capsys):
        path = str(tmp_path / "t.csv")

        assert run_command(["export", str(tmp_path / "out"), "--csv", path]) == 0
        assert "3 of 4 tasks done, 1 failed; written to" in capsys.readouterr().out
        assert run_command(["export", str(tmp_path / "out"), "--csv", path]) == 2

    def test_a_table_is_printed(self, results, tmp_path, monkeypatch, capsys):
        monkeypatch.chdir(tmp_path)

        assert run_command(["export", str(tmp_path / "out"), "--csv", "-"]) == 0

        found = pandas.read_csv(io.StringIO(capsys.readouterr().out), index_col="task")
        assert found["name"].tolist() == list("abcd")
        assert not (tmp_path / "-").exists()
        assert run_command(["export", str(tmp_path / "out"), "--netcdf", "-"]) == 2
        assert "netcdf cannot be printed" in capsys.readouterr().err

    def test_several_functions_are_shown_and_one_is_exported(self, results, tmp_path, capsys):
        run_more = str(tmp_path / "out")
        acme_mpi.map(plain, [1, 2], output_dir=run_more)

        assert run_command(["show", run_more]) == 0
        assert capsys.readouterr().out.count(" tasks done") == 2
        assert run_command(["export", run_more, "--csv", str(tmp_path / "t.csv")]) == 2
        words = ["export", run_more, "--name", "plain", "--csv", str(tmp_path / "t.csv")]
        assert run_command(words) == 0

    def test_a_place_without_results_is_one_line(self, tmp_path, capsys):
        assert run_command(["show", str(tmp_path)]) == 2
        assert "holds no run" in capsys.readouterr().err


def test_a_table_of_parameters_becomes_a_labelled_table(mpiexec, tmp_path):
    (tmp_path / "study.py").write_text("def fit(width, label):\n    return width / 2, label * 2\n")
    given = pandas.DataFrame({"width": np.arange(1000) / 4, "label": list("abcd") * 250})
    given.to_csv(tmp_path / "given.csv", index=False)

    words = ("-m", "acme_mpi", "study.py:fit", "given.csv", "--output-dir", "out")
    assert mpiexec(2, *words, cwd=tmp_path).returncode == 0
    results = acme_mpi.open(tmp_path / "out")
    table = results.to_pandas()
    assert table[["width", "label"]].equals(given.rename_axis("task"))
    assert (table["result_0"] == given["width"] / 2).all()
    array = results.to_xarray()
    assert array.result_1.values[17] == "bb"
    assert array.width.values[17] == 4.25
