"""Tables of parameters: a row for each task."""

from __future__ import annotations

import datetime

import numpy as np
import pytest

import acme_mpi
from acme_mpi import InputError, PerTask
from acme_mpi.tasks.argument_files import load_arguments
from acme_mpi.tasks.distributing import distribute
from acme_mpi.tasks.tables import parse_table

pandas = pytest.importorskip("pandas")
pytestmark = pytest.mark.once

TEXT = "x,name,scale,flag\n1,a,0.5,True\n2,b c,1e3,False\n3,NA,-2,True\n"
VALUES = {
    "x": [1, 2, 3],
    "name": ["a", "b c", "NA"],
    "scale": [0.5, 1000.0, -2.0],
    "flag": [True, False, True],
}


def f(x, name, scale, flag=None, y=0):
    return x, name, scale, flag, y


def read(path, **dtypes):
    args, kwargs = load_arguments(str(path), False, dtypes)
    assert args == []
    return {name: marked.value for name, marked in kwargs.items()}


@pytest.fixture
def write(tmp_path):
    def write(text, name="args.csv"):
        path = tmp_path / name
        path.write_text(text)
        return path

    return write


class TestFiles:
    @pytest.mark.parametrize("suffix", [".csv", ".tsv", ".parquet"])
    def test_columns_have_their_names_and_types(self, tmp_path, suffix):
        path = tmp_path / f"args{suffix}"
        table = pandas.DataFrame(VALUES)
        if suffix == ".parquet":
            pytest.importorskip("pyarrow")
            table.to_parquet(path)
        else:
            table.to_csv(path, index=False, sep="," if suffix == ".csv" else "\t")

        columns = read(path)

        assert {name: list(values) for name, values in columns.items()} == VALUES
        dtypes = [columns[name].dtype.kind for name in ("x", "scale", "flag")]
        assert dtypes == ["i", "f", "b"]
        assert {type(each) for each in columns["name"]} == {str}

    def test_each_row_is_a_task(self, write):
        args, kwargs = load_arguments(str(write(TEXT)), False)
        tasks = distribute(f, args, {**kwargs, "y": 7})

        calls = [f(*args, **kwargs) for args, kwargs in tasks.calls(0, 3)]
        assert calls == [(*row, 7) for row in zip(*VALUES.values(), strict=True)]

    def test_a_type_may_be_said(self, write):
        columns = read(write("id,x\n007,1\n008,2\n"), id="str", x="float32")

        assert columns["id"] == ["007", "008"]
        assert columns["x"].dtype == np.float32

    def test_a_gap_may_be_nan_if_that_is_said(self, write):
        np.testing.assert_array_equal(read(write("x,y\n1,1\n,2\n"), x="float")["x"], [1, np.nan])

    def test_a_gap_in_times_is_no_time_if_that_is_said(self, write):
        days = read(write("x,y\n2020-01-01,1\n,2\n"), x="datetime64[D]")["x"]

        assert days.tolist() == [datetime.date(2020, 1, 1), None]

    def test_digits_may_be_lost_where_that_is_said(self, write):
        columns = read(write("x,y\n9007199254740993,0.1\n2,inf\n"), x="float", y="float32")

        assert columns["x"].tolist() == [2.0**53, 2.0]
        assert columns["y"].tolist() == [np.float32(0.1), np.inf]

    @pytest.mark.parametrize("word", ["NA", "nan", "NaN", "N/A", "null", "None"])
    def test_a_word_among_numbers_is_a_gap_and_among_words_a_word(self, write, word):
        path = write(f"x,y,z\n1.5,a,{word}\n{word},{word},NA\n")

        columns = read(path, x="float")

        np.testing.assert_array_equal(columns["x"], [1.5, np.nan])
        assert columns["y"] == ["a", word]
        assert columns["z"] == [word, "NA"]
        assert read(path, x="str")["x"] == ["1.5", word]

    @pytest.mark.parametrize(
        ("text", "dtypes", "message"),
        [
            ("x,y\n1,\n2,3\n4,\n", {}, r"column `y` has no value in rows 0, 2 \(counted from 0"),
            ("x,y\n" + "1,\n" * 9, {}, "in rows 0, 1, 2, 3, 4 and 4 more"),
            (",x\n0,1\n", {}, "column 0 has no name .*index=False"),
            ("x,x\n0,1\n", {}, "several columns are called 'x'"),
            ("x,y\n", {}, "has no rows, so there would be no task"),
            ("", {}, "is empty; its first line has to name the columns"),
            ("x\n1\na\n", {"x": "int"}, "column `x` cannot be int64: .*'a'"),
            ("x\n1\n", {"y": "int"}, "has no column 'y'; there are x"),
            ("x\n1\n", {"x": "integer"}, "has to be one of int, float, bool, str, or"),
            ('x\n"1\n', {}, "cannot be read as a table"),
            ("x;y\n1,5;2\n", {}, "has one column, 'x;y', .* separated by ';', not by ','"),
            ("x\n1,5\n2,5\n", {}, "more values than its first line has names .* decimal point"),
            ("x,y\n1,2,3\n4,5,6\n", {}, "more values than its first line has names"),
            ("x,y\n1,2,\n4,5,6\n", {}, "more values than its first line has names"),
            ("x\n1.5\nNA\n", {}, "column `x` has no value in row 1"),
            ("x\nnan\n1\nNULL\n2\n", {}, "column `x` has no value in rows 0, 2"),
            ("x\nTrue\nNA\n", {"x": "bool"}, "column `x` has no value in row 1"),
            ("x\n1\n1.5\n", {"x": "int"}, "cannot be int64: '1.5' in row 1 would become 1"),
            ("x\n1\n300\n", {"x": "int8"}, "'300' in row 1 would become 44"),
            ("x\n-1\n", {"x": "uint8"}, "'-1' in row 0 would become 255"),
            ("x\n1e300\n", {"x": "float32"}, r"'1e\+300' in row 0 would become inf"),
            ("x\nTrue\nno\n", {"x": "bool"}, "'no' in row 1 would become True"),
            ("x\n2\n", {"x": "bool"}, "'2' in row 0 would become True"),
            ("x\n2020-01-01T10\n", {"x": "datetime64[D]"}, "T10' in row 0 would become 2020-01-01"),
        ],
    )
    def test_mistakes_are_told(self, write, text, dtypes, message):
        with pytest.raises(InputError, match=message):
            read(write(text), **dtypes)

    def test_a_folder_may_be_called_like_a_home(self, tmp_path, monkeypatch):
        monkeypatch.chdir(tmp_path)
        (tmp_path / "~").mkdir()
        (tmp_path / "~" / "x.csv").write_text("x\n1\n")

        assert read("~/x.csv")["x"].tolist() == [1]

    @pytest.mark.parametrize(
        "text",
        ["\ufeffx,y\n1,2\n", 'x,"y"\r\n1,2\r\n', "x,y\n\n1,2", "x,y\n1,2,\n", "\n\nx,y\n1,2\n"],
    )
    def test_tables_of_other_programs_are_read(self, write, text):
        columns = read(write(text))

        assert {name: each.tolist() for name, each in columns.items()} == {"x": [1], "y": [2]}

    def test_what_is_no_text_is_told(self, tmp_path):
        for content in (b"x,y\n\xff\xfe,2\n", b"\xff\xfex\n1\n", bytes(100)):
            (tmp_path / "x.csv").write_bytes(content)
            with pytest.raises(InputError, match=r"x\.csv"):
                read(tmp_path / "x.csv")

    def test_text_in_another_encoding_is_told_what_to_do(self, write, tmp_path):
        (tmp_path / "x.csv").write_bytes("x,name\n1,Müller\n".encode("latin-1"))

        with pytest.raises(InputError, match="UTF-8: iconv -f"):
            read(tmp_path / "x.csv")

    @pytest.mark.parametrize("n", [10, 600_000])
    def test_numbers_and_words_are_words_in_a_table_of_any_length(self, write, n):
        text = "x\n" + "\n".join(map(str, range(n))) + "\na\n"

        for found in (
            read(write(text))["x"],
            parse_table(text.encode(), "standard input", ",", {})["x"],
        ):
            assert (len(found), found[:2], found[-2:]) == (n + 1, ["0", "1"], [str(n - 1), "a"])

    def test_a_column_whose_name_is_no_identifier_is_an_argument(self, write):
        args, kwargs = load_arguments(str(write("a b,class\n1,x\n2,y\n")), False)
        tasks = distribute(lambda **given: given, args, kwargs)

        assert [given for _, given in tasks.calls(0, 2)] == [
            {"a b": 1, "class": "x"},
            {"a b": 2, "class": "y"},
        ]
        with pytest.raises(InputError, match="'a b'"):
            distribute(f, args, kwargs)

    def test_mixed_types_are_told(self, tmp_path):
        with pytest.raises(InputError, match=r"several types: 1 in row 0, 'a' in row 1"):
            distribute(f, [PerTask(pandas.DataFrame({"x": [1, "a"]}))], {})

    def test_a_type_for_another_file_is_refused(self, tmp_path):
        path = tmp_path / "x.npy"
        np.save(path, [1])

        with pytest.raises(InputError, match="--dtype is for tables"):
            load_arguments(str(path), False, {"x": "int"})

    def test_without_pandas_it_says_what_to_install(self, write, monkeypatch):
        monkeypatch.setitem(__import__("sys").modules, "pandas", None)

        with pytest.raises(InputError, match=r"pip install 'acme-mpi\[tables\]'"):
            read(write(TEXT))


class TestDataFrames:
    def test_one_that_is_split_gives_each_task_a_row(self):
        table = pandas.DataFrame(VALUES)

        found = acme_mpi.map(f, PerTask(table), y=1, write_worker_results=False)

        assert found == [(*row, 1) for row in zip(*VALUES.values(), strict=True)]

    def test_its_columns_may_be_given_by_name(self):
        table = pandas.DataFrame(VALUES)

        found = acme_mpi.map(f, **table, y=1, write_worker_results=False)

        assert found == [(*row, 1) for row in zip(*VALUES.values(), strict=True)]

    def test_a_series_beside_a_list_is_shared(self):
        weights = pandas.Series([1.0, 2.0])
        tasks = distribute(f, [[1, 2], "a"], {"scale": weights})

        assert [args[2] is weights for args, _ in tasks.calls(0, 2)] == [True, True]

    def test_a_column_that_is_no_parameter_is_named_with_the_closest_one(self):
        table = pandas.DataFrame({"x": [1], "nmae": ["a"], "scale": [1.0]})

        with pytest.raises(InputError, match=r"'nmae' \(did you mean 'name'"):
            distribute(f, [PerTask(table)], {})

    def test_what_can_be_done_about_a_column_is_told_in_python_too(self):
        gap, mixed = pandas.DataFrame({"x": [1, np.nan]}), pandas.DataFrame({"x": [1, "a"]})

        with pytest.raises(InputError, match=r"in Python NAME=PerTask\(df\['NAME'\]\)"):
            distribute(lambda x: x, [PerTask(gap)], {})
        tasks = distribute(lambda x: x, [], {"x": PerTask(gap["x"])})
        np.testing.assert_equal([call[0][0] for call in tasks.calls(0, 2)], [1, np.nan])
        with pytest.raises(InputError, match=r"in Python df\.astype\(\{'NAME': str\}\)"):
            distribute(lambda x: x, [PerTask(mixed)], {})

    def test_another_axis_of_a_table_is_refused(self):
        with pytest.raises(InputError, match=r"`axis` is 0, not 1; .* PerTask\(df\.T\)"):
            distribute(f, [PerTask(pandas.DataFrame(VALUES), axis=1)], {})

    def test_a_column_that_is_given_twice_is_refused(self):
        with pytest.raises(InputError, match="given twice, as a column and otherwise: x"):
            distribute(f, [PerTask(pandas.DataFrame(VALUES))], {"x": 1})


def test_the_command_line_takes_tables(mpiexec, write, tmp_path):
    write(TEXT)
    write("def f(x, name, scale, flag):\n    return f'{name}{x * scale:g}'\n", "mymod.py")
    command = ["-m", "acme_mpi", "mymod:f", "args.csv", "--dtype", "x=float", "--no-write"]

    ran = mpiexec(0, *command, cwd=tmp_path)
    piped = mpiexec(0, *command[:3], "-", *command[4:], cwd=tmp_path, input=TEXT)
    wrong = mpiexec(0, *command[:-2], "x", "--no-write", cwd=tmp_path)
    grid = mpiexec(0, *command, "--grid", "x", cwd=tmp_path)

    assert [line.split()[-1].strip("'") for line in ran.stdout.splitlines()] == [
        "a0.5",
        "c2000",
        "NA-6",
    ], ran.stderr
    assert piped.stdout == ran.stdout
    assert "--dtype needs NAME=TYPE" in wrong.stderr
    assert "--grid x: the argument is split already, as a column of a table is" in grid.stderr
