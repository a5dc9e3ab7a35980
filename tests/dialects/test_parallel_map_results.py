"""Where the results of `ParallelMap` are, and what they look like."""

from __future__ import annotations

import os
import pickle
import re
import tempfile
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
from computing import CALL, EVERYWHERE, ON_DISK, VALUES, failure_of, scalars, visible
from parallel_map_program import MEMORY, f, fail_at

from acme_mpi import InputError, ParallelMap, PlaceError, StoreError

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("module_runner", "folder")]

# Ways to keep results: keywords, the paths that are returned, what a user sees in the directory.
LAYOUTS = {
    "computation": ({}, [f"f_payload/f_{i}.h5" for i in range(4)], ["f.h5", "f_payload"]),
    "rank": ({"payload": "rank"}, ["f.h5"], ["f.h5", "f_payload"]),
    "single_file": ({"single_file": True}, ["f.h5"], ["f.h5"]),
    "write_pickle": (
        {"write_pickle": True},
        [f"f_{i}.pickle" for i in range(4)],
        [f"f_{i}.pickle" for i in range(4)],
    ),
}


def rows(pmap: ParallelMap, results: Any) -> Any:
    """Return the stacked array of a computation, wherever it is."""
    if pmap.results_container is None:
        return results
    with h5py.File(pmap.results_container, "r") as file:
        return file["result_0"][()]


@pytest.mark.parametrize("layout", LAYOUTS)
def test_each_layout_returns_its_paths_and_shows_nothing_else(layout):
    keywords, paths, shown = LAYOUTS[layout]

    results = ParallelMap(*CALL, output_dir="out", **keywords).compute()

    assert results == [os.path.abspath(f"out/{path}") for path in paths]
    assert visible("out") == sorted(["LOG", *shown])
    assert [path.name for path in Path("out").glob(".*")] == [".acme_mpi"]


@pytest.mark.parametrize("keywords", ON_DISK)
def test_the_container_has_a_group_per_call(keywords):
    pmap = ParallelMap(*CALL, **keywords)
    pmap.compute()

    with h5py.File(pmap.results_container, "r") as file:
        assert list(file) == ["comp_0", "comp_1", "comp_2", "comp_3"]
    assert scalars(pmap.results_container) == VALUES


def test_the_home_directory_may_be_meant(folder, monkeypatch):
    monkeypatch.setenv("HOME", str(folder / "home"))

    pmap = ParallelMap(*CALL, output_dir="~/out")

    assert pmap.output_dir == str(folder / "home" / "out")


def test_results_in_memory_leave_nothing(folder):
    assert ParallelMap(*CALL, **MEMORY).compute() == VALUES
    assert list(folder.iterdir()) == []


def test_a_map_that_never_computes_leaves_nothing(folder):
    with ParallelMap(*CALL, output_dir="out", logfile="log") as pmap:
        pass

    assert pmap.results_container == str(folder / "out" / "f.h5")
    assert list(folder.iterdir()) == []


def test_several_values_in_memory_are_a_tuple_per_call():
    assert ParallelMap(divmod, [7, 9], 4, **MEMORY).compute() == [(1, 3), (2, 1)]


def test_a_pickle_holds_what_was_returned():
    paths = ParallelMap(lambda i: {i: (i, None)}, range(2), write_pickle=True).compute()

    assert [pickle.loads(Path(path).read_bytes()) for path in paths] == [
        {0: (0, None)},
        {1: (1, None)},
    ]


def test_only_what_hdf5_cannot_hold_is_pickled(said):
    def odd_fives(i: int) -> Any:
        return ({i}, i) if i in (5, 15, 55) else i

    pmap = ParallelMap(odd_fives, range(60))
    paths = pmap.compute()

    endings = ["pickle" if i in (5, 15, 55) else "h5" for i in range(60)]
    assert [Path(p).name for p in paths] == [
        f"odd_fives_{i}.{end}" for i, end in enumerate(endings)
    ]
    for i in (5, 15, 55):
        assert pickle.loads(Path(paths[i]).read_bytes()) == [{i}, i]
    assert scalars(pmap.results_container) == [i for i in range(60) if i not in (5, 15, 55)]
    [warning] = [text for level, text in said() if level == "WARNING"]
    assert warning.startswith("3 results have been pickled, because HDF5 cannot hold them: ")
    assert "odd_fives_5.pickle" in warning
    assert "That of task 5 was a value of type builtins.set" in warning


def test_the_paths_of_pickles_follow_that_of_the_container():
    pmap = ParallelMap(lambda i: {i} if i == 1 else i, range(3), output_dir="out", payload="rank")

    container, path = pmap.compute()

    assert container == pmap.results_container
    assert pickle.loads(Path(path).read_bytes()) == [{1}]


@pytest.mark.parametrize("keywords", EVERYWHERE)
@pytest.mark.parametrize("shape", [(None,), (None, 2, 3), (2, None, 3), (2, 3, None)])
def test_rows_are_stacked_where_none_stands(shape, keywords):
    row = np.arange(6.0).reshape(2, 3) if len(shape) > 1 else np.float64(1)
    pmap = ParallelMap(lambda i: row * i, range(4), result_shape=shape, **keywords)

    stacked = rows(pmap, pmap.compute())

    expected = np.stack([row * i for i in range(4)], axis=shape.index(None))
    np.testing.assert_array_equal(stacked, expected)


@pytest.mark.parametrize("keywords", ON_DISK)
@pytest.mark.parametrize("shape", [(None, np.inf), (np.inf, None)])
def test_an_unlimited_axis_is_as_long_as_the_longest_result(shape, keywords):
    pmap = ParallelMap(lambda n: np.ones(n), [1, 3], result_shape=shape, **keywords)
    pmap.compute()

    stacked = np.moveaxis(rows(pmap, None), shape.index(None), 0)

    np.testing.assert_array_equal(stacked, [[1, np.nan, np.nan], [1, 1, 1]])


@pytest.mark.parametrize("keywords", EVERYWHERE)
@pytest.mark.parametrize("dtype", ["float16", "int64", "complex64", "bool"])
def test_rows_have_the_dtype_that_was_asked_for(dtype, keywords):
    pmap = ParallelMap(
        lambda i: i == 1, range(3), result_shape=(None,), result_dtype=dtype, **keywords
    )

    stacked = rows(pmap, pmap.compute())

    assert stacked.dtype == np.dtype(dtype)
    assert stacked.tolist() == [0, 1, 0]


@pytest.mark.parametrize("keywords", ON_DISK)
def test_further_values_lie_beside_the_rows(keywords, content_of):
    pmap = ParallelMap(divmod, [7, 9], 4, result_shape=(None,), **keywords)
    pmap.compute()

    found = set(content_of(pmap.results_container))
    assert found == {"result_0", "comp_0/result_1", "comp_1/result_1"}


def test_further_values_follow_the_rows_in_memory():
    stacked, *others = ParallelMap(divmod, [7, 9], 4, result_shape=(None,), **MEMORY).compute()

    assert stacked.tolist() == [1, 2]
    assert others == [3, 1]


@pytest.mark.parametrize(
    ("keywords", "text"),
    [
        (
            {"output_dir": "out", **MEMORY},
            "Output directory specification has no effect if `write_worker_results` is `False`.",
        ),
        (
            {"single_file": True, **MEMORY},
            "Generating a single output file only possible if `write_worker_results` is `True`.",
        ),
        (
            {"write_pickle": True, **MEMORY},
            "Pickling of results only possible if `write_worker_results` is `True`.",
        ),
        (
            {"write_pickle": True, "result_shape": (None,)},
            "Pickling of results does not support output array shape specification.",
        ),
    ],
)
def test_a_keyword_without_effect_is_a_warning(keywords, text, said):
    pmap = ParallelMap(*CALL, **keywords)

    assert ("WARNING", text) in said()
    assert (pmap.single_file, pmap.result_shape, pmap.results_container) == (False, None, None)


@pytest.mark.parametrize("layout", LAYOUTS)
def test_results_of_the_same_function_are_never_overwritten(layout):
    keywords, paths, _ = LAYOUTS[layout]
    ParallelMap(*CALL, output_dir="out", **keywords).compute()
    before = Path("out", paths[0]).read_bytes()

    with pytest.raises(OSError, match=r"^<ParallelMap> automatic creation of output folder out "):
        ParallelMap(*CALL, output_dir="out", **keywords)

    assert Path("out", paths[0]).read_bytes() == before


def test_results_that_appear_before_compute_are_not_overwritten():
    pmap = ParallelMap(*CALL, output_dir="out")
    ParallelMap(*CALL, output_dir="out").compute()

    with pytest.raises(PlaceError, match=r"^<ParallelMap> automatic creation of output folder out"):
        pmap.compute()


def test_a_map_in_memory_can_be_computed_twice():
    pmap = ParallelMap(*CALL, **MEMORY)

    assert [pmap.compute(), pmap.compute()] == [VALUES, VALUES]


def test_a_map_in_files_cannot_be_computed_twice():
    pmap = ParallelMap(*CALL)
    pmap.compute()

    with pytest.raises(PlaceError, match=re.escape(f"output folder {pmap.output_dir} failed: ")):
        pmap.compute()

    assert scalars(pmap.results_container) == VALUES


@pytest.mark.once
@pytest.mark.parametrize("layout", LAYOUTS)
def test_where_results_go_is_listed(layout):
    pmap = ParallelMap(*CALL, **LAYOUTS[layout][0])

    listed = pmap.config.kwargv["outFile"]

    assert pmap.compute() == listed
    assert all(map(os.path.isfile, listed))


@pytest.mark.once
@pytest.mark.parametrize("layout", ["computation", "single_file", "write_pickle"])
def test_results_go_where_they_are_wanted(folder, layout):
    pmap = ParallelMap(*CALL, output_dir="out", **LAYOUTS[layout][0])
    usual = pmap.kwargv["outFile"]
    wanted = [str(folder / "mine" / f"{i}.data") for i in range(len(usual))]
    pmap.kwargv["outFile"] = wanted

    assert pmap.compute() == wanted
    assert [Path(path).read_bytes() for path in wanted] == [Path(p).read_bytes() for p in usual]
    again = ParallelMap(*CALL, output_dir="out", resume=True, **LAYOUTS[layout][0])
    again.kwargv["outFile"] = [os.fsencode("new.data"), *map(Path, wanted[1:])]
    assert again.compute() == [str(folder / "new.data"), *wanted[1:]]


@pytest.mark.once
def test_tasks_that_fail_have_no_file_where_it_was_wanted(folder):
    pmap = ParallelMap(fail_at, [0, 1, 2], {1}, n_inputs=3)
    pmap.kwargv["outFile"] = ["a.h5", "b.h5", "c.h5"]

    assert failure_of(pmap).results == [str(folder / "a.h5"), None, str(folder / "c.h5")]
    assert visible(folder)[1:] == ["a.h5", "c.h5"]


@pytest.mark.once
def test_results_that_cannot_go_where_they_are_wanted_are_kept(folder):
    pmap = ParallelMap(*CALL)
    usual = pmap.kwargv["outFile"]
    pmap.kwargv["outFile"] = [str(folder / "file" / str(i)) for i in range(4)]
    Path("file").touch()

    with pytest.raises(StoreError, match=f"cannot write {folder}/file/0: "):
        pmap.compute()

    assert all(map(os.path.isfile, usual))


@pytest.mark.once
def test_no_file_is_touched_beside_those_that_are_wanted(folder):
    (folder / "mine.h5.partial").write_text("a download")
    pmap = ParallelMap(*CALL, single_file=True)
    pmap.kwargv["outFile"] = ["mine.h5"]

    assert scalars(*pmap.compute()) == VALUES
    assert (folder / "mine.h5.partial").read_text() == "a download"
    assert visible(folder)[1:] == ["mine.h5", "mine.h5.partial"]


@pytest.mark.once
def test_results_on_another_file_system_are_copied(folder, tmp_path):
    with tempfile.TemporaryDirectory(dir="/dev/shm") as other:
        pmap = ParallelMap(*CALL, single_file=True)
        pmap.kwargv["outFile"] = [f"{other}/mine.h5"]

        assert scalars(*pmap.compute()) == VALUES


@pytest.mark.once
def test_what_becomes_a_pickle_is_called_so(folder):
    pmap = ParallelMap(set, [[1, 2]])
    pmap.kwargv["outFile"] = ["mine.h5"]

    assert pmap.compute() == [str(folder / "mine.pickle")]


@pytest.mark.once
@pytest.mark.parametrize(
    ("keywords", "files", "text"),
    [
        ({}, ["a"], "has to be a list of 2 path"),
        ({}, "ab", "has to be a list of 2 path"),
        ({}, [1, 2], "has to be a list of 2 path"),
        ({}, ["a", "b/../a"], "has a path twice"),
        ({}, ["a", "there"], "there is "),
        ({"payload": "rank"}, ["a"], "Choose `output_dir` instead"),
    ],
)
def test_where_results_cannot_go_is_said_before_the_run(keywords, files, text):
    Path("there").touch()
    pmap = ParallelMap(f, [1, 2], 4, output_dir="out", **keywords)
    pmap.kwargv["outFile"] = files

    with pytest.raises(InputError if "there" not in files else PlaceError, match=text) as caught:
        pmap.compute()

    assert str(caught.value).startswith("<ParallelMap> `kwargv['outFile']`")
    assert not Path("out").exists()


@pytest.mark.once
def test_a_parameter_called_outfile_is_the_functions():
    """A parameter that is called as the list of files is the function's."""

    def named(x, outFile="own"):
        return outFile

    def gathering(x, **given):
        return list(given)

    pmap = ParallelMap(named, [1, 2])
    assert "outFile" not in pmap.kwargv
    assert [h5py.File(path)["result_0"].asstr()[0] for path in pmap.compute()] == ["own"] * 2
    assert scalars(ParallelMap(named, [1, 2], outFile=[3, 4]).compute() and pmap.results_container)
    pmap = ParallelMap(gathering, [1, 2], a=3, write_pickle=True)
    assert [pickle.loads(Path(path).read_bytes()) for path in pmap.compute()] == [["a"]] * 2
