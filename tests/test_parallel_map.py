"""`ParallelMap` on its own terms: keywords, results, attributes, failures, debugging, messages.

What needs one rank alone is called in this process. `parallel_map_program` shows what every rank of
an SPMD script sees, `CONVERSATION` what a person at a terminal does.
"""

from __future__ import annotations

import contextlib
import functools
import io
import json
import os
import pickle
import re
import sys
import tempfile
import threading
import traceback
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import parallel_map_program
import pytest
from conftest import by_stacks
from parallel_map_program import MEMORY, WRONG, f, fail_at

from acme_mpi import (
    ACMEdaemon,
    InputError,
    ParallelMap,
    PerTask,
    PlaceError,
    StoreError,
    TaskError,
    get_client,
    local_cluster_setup,
)
from acme_mpi.session import current

pytestmark = pytest.mark.slow

LOG = r"ACME_\w+_\d{8}-\d{6}\.log"
CALL = (f, [2, 4, 6, 8], 4)
VALUES = [18, 24, 30, 36]
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
ON_DISK = [{}, {"payload": "rank"}, {"single_file": True}]
EVERYWHERE = [*ON_DISK, MEMORY]


@pytest.fixture(scope="module", autouse=True)
def runner() -> Iterator[None]:
    """Use one runner for all tests of this module, and end it."""
    yield
    local_cluster_setup().close()


@pytest.fixture(autouse=True)
def folder(tmp_path, monkeypatch) -> Path:
    """Work in a new directory."""
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture
def said(caplog) -> Callable[[], list[tuple[str, str]]]:
    """Return the function that returns (level, text) of every message so far."""
    return lambda: [(each.levelname, each.getMessage()) for each in caplog.records]


def visible(folder: Path | str) -> list[str]:
    """Return what a directory shows, log files as LOG."""
    return sorted(re.sub(LOG, "LOG", path.name) for path in Path(folder).glob("[!.]*"))


def scalars(container: str | None) -> list[Any]:
    """Return the ``result_0`` of all groups of a container, which are single numbers."""
    with h5py.File(container, "r") as file:
        return [group["result_0"][()].item() for group in file.values()]


def rows(pmap: ParallelMap, results: Any) -> Any:
    """Return the stacked array of a computation, wherever it is."""
    if pmap.results_container is None:
        return results
    with h5py.File(pmap.results_container, "r") as file:
        return file["result_0"][()]


class Terminal(io.StringIO):
    """Standard input at which somebody sits and has typed something."""

    def isatty(self) -> bool:
        return True


class Ranks:
    """What three ranks have seen, and what they have said."""

    def __init__(self, folder: Path, stderr: str) -> None:
        self.stderr = stderr
        self.seen = [pickle.loads((folder / f"{rank}.pickle").read_bytes()) for rank in range(3)]

    def __getitem__(self, name: str) -> list[Any]:
        return [each[name] for each in self.seen]


@pytest.fixture(scope="module")
def ranks(mpiexec, tmp_path_factory) -> Ranks:
    """Run the program once."""
    base = tmp_path_factory.mktemp("ranks")
    for name in ("work", "reports"):
        (base / name).mkdir()
    ParallelMap(*CALL, output_dir=str(base / "there")).compute()
    ran = mpiexec(3, parallel_map_program.__file__, base / "reports", cwd=base / "work")
    assert ran.returncode == 0, ran.stderr
    return Ranks(base / "reports", ran.stderr)


@pytest.mark.parametrize("number", range(len(WRONG)), ids=[text[14:44] for *_, text in WRONG])
def test_a_wrong_call_is_one_clear_error_on_every_rank(ranks, number):
    _, _, error, text = WRONG[number]

    first, *others = [each[number] for each in ranks["wrong"]]

    assert first[1].startswith(text)
    assert {error.__name__, "InputError"} <= set(first[0])
    assert others == [first, first]


def test_what_is_wrong_on_one_rank_is_raised_on_all(ranks):
    first, *others = ranks["wrong on rank 1"]

    assert "rank 1: " in first[1]
    assert "`verbose` has to be `True`, `False` or `None`, not 'yes'" in first[1]
    assert others == [first, first]


def test_debug_has_to_be_a_flag(ranks):
    first, *others = ranks["wrong debug"]

    assert first[1] == "<ParallelMap> `debug` has to be `True` or `False`, not 'yes'"
    assert {"TypeError", "InputError"} <= set(first[0])
    assert others == [first, first]


def test_wrong_calls_make_nothing(ranks):
    assert ranks["made"] == [[], [], []]


def test_a_call_with_several_mistakes_raises_one_error():
    with pytest.raises(InputError, match=r"^<ParallelMap> .*$"):
        ParallelMap(*CALL, n_inputs=0, verbose="yes", logfile=1)


@pytest.mark.parametrize("name", ["places", "paths", "values", "failure", "dry-run"])
def test_all_ranks_see_the_same(ranks, name):
    first, *others = ranks[name]

    assert others == [first, first]


def test_the_arguments_of_rank_0_count(ranks):
    assert ranks["values"][0] == [18, 24]


def test_arguments_that_were_changed_on_every_rank_count(ranks):
    assert ranks["changed"] == [[6 * [7, 8], 8 * [7, 8]]] * 3


def test_n_workers_of_the_ranks_call_tasks(ranks):
    agents = ranks["process"]
    n_workers, processes = ranks["workers"][0]

    assert n_workers == 2
    assert {agent for agent, _ in processes} == set(agents[:2])
    assert len(processes) == 2


def test_errors_that_are_caught_leave_no_traceback(ranks):
    assert "Traceback" not in ranks.stderr


def test_what_the_launcher_has_decided_is_said_once(ranks):
    assert ranks.stderr.count("`partition` and `mem_per_worker` changed nothing: ") == 1


def test_a_run_is_announced_once_in_a_job(ranks):
    started = "<ParallelMap> INFO: Preparing 200 parallel calls of `meet` using 2 workers\n"

    assert ranks.stderr.count(started) == 1
    assert ranks.stderr.count("<ParallelMap> ERROR: 1 of 3 tasks failed") == 1


def test_the_first_map_adds_a_handler_and_the_import_none(ranks):
    assert ranks["handlers of the import"] == [0, 0, 0]
    assert ranks["handlers"][0] == 1


def test_debugging_calls_in_the_process_of_rank_0(ranks):
    expected = [(index, ranks["process"][0]) for index in range(3)]

    assert ranks["debug"] == [expected] * 3


def test_debugging_raises_on_every_rank(ranks):
    assert [(classes[0], text) for classes, text in ranks["debug failure"]] == [
        ("KeyError", "'bad 1'")
    ] * 3


def test_debugging_raises_what_cannot_travel_as_a_task_error(ranks):
    """Rank 0 raises the exception itself."""
    assert [(classes[0], text) for classes, text in ranks["odd failure"]] == [
        ("TwoWords", "odd words"),
        ("TaskError", "TwoWords on rank 0: odd words"),
        ("TaskError", "TwoWords on rank 0: odd words"),
    ]


def test_a_failed_dry_run_raises_on_every_rank(ranks):
    first, *others = ranks["failed dry-run"]

    assert first[0][0] == "TaskError"
    assert others == [first, first]


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


@pytest.mark.parametrize("spelling", [None, "config", "daemon"])
def test_attributes_in_every_spelling(folder, monkeypatch, spelling):
    monkeypatch.delenv("SLURM_JOB_ID", raising=False)
    pmap = ParallelMap(f, [2, 4, 6], y=4, output_dir="out", result_shape=(None,), stop_client=True)
    expected = {
        "func": f,
        "n_inputs": 3,
        "n_calls": 3,
        "argv": [[2, 4, 6], [4]],
        "kwargv": {"outFile": [str(folder / "out" / "f_payload" / f"f_{i}.h5") for i in range(3)]},
        "n_workers": 1,
        "output_dir": str(folder / "out"),
        "out_dir": str(folder / "out"),
        "results_container": str(folder / "out" / "f.h5"),
        "result_shape": (3,),
        "result_dtype": np.dtype(float),
        "stacking_dim": 0,
        "single_file": False,
        "write_pickle": False,
        "collect_results": False,
        "stop_client": True,
        "has_slurm": False,
    }

    holder = pmap if spelling is None else getattr(pmap, spelling)

    assert {name: getattr(holder, name) for name in expected} == expected
    assert list(holder.task_ids) == [0, 1, 2]
    assert holder.client.n_workers == 1
    assert Path(holder.logfile).parent == folder / "out"


def test_attributes_of_rows_name_the_axis_of_the_tasks():
    pmap = ParallelMap(*CALL, result_shape=(2, None, np.inf), result_dtype="float16")

    assert pmap.result_shape == (2, 4, np.inf)
    assert pmap.stacking_dim == 1
    assert np.dtype(pmap.result_dtype) == np.float16


@pytest.mark.parametrize("keywords", [MEMORY, {"write_pickle": True}])
def test_without_a_container_its_name_is_none(keywords):
    assert ParallelMap(*CALL, **keywords).results_container is None


def test_what_with_binds_computes():
    with ParallelMap(*CALL, **MEMORY) as pmap:
        results = pmap.compute()

    assert results == VALUES
    assert isinstance(pmap, ACMEdaemon)


def test_parameters_with_a_default_are_keywords():
    """However they are given."""
    pmap = ParallelMap(f, [2, 4], 4, [5, 6], **MEMORY)

    assert (pmap.argv, pmap.kwargv) == ([[2, 4], [4]], {"z": [5, 6]})


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        (lambda pmap: pmap.kwargv.update(z=[[5, 6]]), [6 * [5, 6], 8 * [5, 6]]),
        (lambda pmap: pmap.kwargv.update(z=np.array([1, 2])), [6, 16]),
        (lambda pmap: pmap.kwargv.clear(), [18, 24]),
        (lambda pmap: pmap.argv.__setitem__(1, [0, 1]), [10, 30]),
        (lambda pmap: setattr(pmap, "argv", [[0], [1]]), [5, 6]),
    ],
    ids=["shared", "array", "default", "positional", "replaced"],
)
def test_arguments_may_be_changed_before_compute(change, expected):
    """As Syncopy does, which takes back that an argument was split."""
    pmap = ParallelMap(f, [2, 4], 4, z=[5, 6], **MEMORY)
    change(pmap)

    assert pmap.compute() == expected


@pytest.mark.parametrize(
    ("change", "text"),
    [
        (lambda pmap: pmap.kwargv.update(z=[1, 2, 3]), "`z` has to be a list or array of 2"),
        (lambda pmap: pmap.kwargv.update(z=3), "`z` has to be a list or array of 2"),
        (lambda pmap: pmap.kwargv.update(z={5, 6}), "`z` has to be a list or array of 2"),
        (lambda pmap: pmap.kwargv.update(z={"a": 5}), "`z` has to be a list or array of 2"),
        (lambda pmap: pmap.argv.append([1]), "argv"),
        (lambda pmap: pmap.argv.pop(), "argv"),
        (lambda pmap: pmap.kwargv.update(w=[1]), "'w'"),
    ],
    ids=["wrong length", "number", "set", "dict", "too many", "too few", "unknown"],
)
def test_a_wrong_change_is_an_input_error(change, text):
    pmap = ParallelMap(f, [2, 4], 4, z=[5, 6], output_dir="out")
    change(pmap)

    with pytest.raises(InputError, match=r"^<ParallelMap> ") as caught:
        pmap.compute()

    assert text in str(caught.value)
    assert not Path("out").exists()


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
    pmap = ParallelMap(dict, [{"a": 1}])
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
def test_a_parameter_that_is_called_as_the_list_of_files_is_the_functions():
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


def failure_of(pmap: ParallelMap) -> TaskError:
    with pytest.raises(TaskError) as caught:
        pmap.compute()
    return caught.value


def test_a_task_error_begins_with_the_number_and_the_ids_of_failed_tasks():
    error = failure_of(ParallelMap(fail_at, range(6), {1, 4}, **MEMORY))

    first = str(error).splitlines()[0]
    assert first == "Parallel computation failed: 2/6 tasks failed or stalled: 1, 4"
    assert isinstance(error, RuntimeError)


def test_a_task_error_names_the_first_twenty_tasks():
    error = failure_of(ParallelMap(fail_at, range(30), set(range(30)), **MEMORY))

    first = str(error).splitlines()[0]
    assert first.endswith(f"failed or stalled: {', '.join(map(str, range(20)))}, ...")


def test_a_task_error_has_one_traceback_of_each_kind_and_three_at_most():
    def fail_in_many_ways(i: int) -> None:
        raise (KeyError, ValueError, LookupError, OSError)[i % 4](f"call {i}")

    text = str(failure_of(ParallelMap(fail_in_many_ways, range(8), **MEMORY)))

    assert text.count("Traceback (most recent call last):") == 3
    assert set(re.findall(r"call (\d)", text)) == {"0", "1", "2"}


def test_a_task_error_says_where_results_and_log_are():
    pmap = ParallelMap(fail_at, range(3), {1})

    text = str(failure_of(pmap))

    assert f"  The other 2 results are in {pmap.results_container}\n" in text
    assert text.endswith(f"  Log file: {pmap.logfile}")


def test_failures_are_records():
    error = failure_of(ParallelMap(fail_at, range(6), {1, 4}, **MEMORY))

    assert [(each.index, each.type, each.message) for each in error.failures] == [
        (1, "KeyError", "'bad 1'"),
        (4, "KeyError", "'bad 4'"),
    ]
    assert error.failures[0].call == "fail_at(1, {1, 4})"
    assert 'raise KeyError(f"bad {i}")' in error.failures[0].traceback


@pytest.mark.parametrize(
    ("keywords", "expected"),
    [
        (MEMORY, [0, None, 2]),
        ({}, ["fail_at_0.h5", None, "fail_at_2.h5"]),
        ({"write_pickle": True}, ["fail_at_0.pickle", None, "fail_at_2.pickle"]),
    ],
)
def test_results_of_a_task_error_have_holes(keywords, expected):
    results = failure_of(ParallelMap(fail_at, range(3), {1}, **keywords)).results

    assert [Path(each).name if isinstance(each, str) else each for each in results] == expected


def test_results_of_other_tasks_are_safe():
    pmap = ParallelMap(fail_at, range(3), {1})
    failure_of(pmap)

    assert scalars(pmap.results_container) == [0, 2]


def test_the_callers_traceback_shows_the_failed_function_once(mpiexec, write_script):
    """Messages and exception go to the same terminal."""
    path = write_script("""
        from acme_mpi import ParallelMap


        def fail(x):
            raise KeyError("bad")


        ParallelMap(fail, [1, 2], write_worker_results=False).compute()
    """)

    ran = mpiexec(0, path)

    assert ran.returncode == 1
    assert ran.stderr.count('raise KeyError("bad")') == 1
    assert ran.stderr.count("Parallel computation failed: 2/2 tasks") == 1
    assert ran.stderr.count("<ParallelMap> ERROR: ") == 1


def test_debugging_calls_in_this_process_and_thread():
    def where(i: int) -> tuple[int, int, int]:
        return i, os.getpid(), threading.get_ident()

    results = ParallelMap(where, range(3), **MEMORY).compute(debug=True)

    assert results == [(i, os.getpid(), threading.get_ident()) for i in range(3)]


def test_debugging_passes_the_callers_own_objects():
    """Also what cannot be pickled."""
    lock, called = threading.Lock(), []

    def call(i: int, it: Any) -> None:
        called.append((i, it))

    ParallelMap(call, range(2), it=lock, **MEMORY).compute(debug=True)

    assert called == [(0, lock), (1, lock)]


@pytest.mark.parametrize("keywords", EVERYWHERE)
def test_debugging_gives_the_results_of_a_run(keywords):
    pmap = ParallelMap(*CALL, output_dir="debugged", **keywords)
    results = pmap.compute(debug=True)

    if pmap.results_container is None:
        assert results == VALUES
    else:
        assert scalars(pmap.results_container) == VALUES
        undebugged = ParallelMap(*CALL, output_dir="run", **keywords).compute()
        assert [path.replace("debugged", "run") for path in results] == undebugged


@pytest.mark.parametrize("error", [KeyError("bad"), SystemExit(3), KeyboardInterrupt()])
def test_debugging_raises_the_exception_itself(error):
    def fail(i: int) -> None:
        raise error

    with pytest.raises(type(error)) as caught:
        ParallelMap(fail, [0], **MEMORY).compute(debug=True)

    assert caught.value is error


def test_debugging_shows_the_call_of_compute_and_the_users_frames():
    with pytest.raises(KeyError) as caught:
        ParallelMap(fail_at, [1], {1}, **MEMORY).compute(debug=True)

    here, *frames = traceback.extract_tb(caught.value.__traceback__)
    assert here.filename == __file__
    assert [frame.name for frame in frames] == ["compute", "fail_at"]
    assert caught.value.__context__ is None
    assert caught.value.__cause__ is None


def test_debugging_keeps_the_traceback_of_an_exception_that_is_false():
    class EmptyError(Exception):
        def __len__(self) -> int:
            return 0

    def fail(i: int) -> None:
        raise EmptyError

    with pytest.raises(EmptyError) as caught:
        ParallelMap(fail, [0], **MEMORY).compute(debug=True)

    assert caught.traceback[-1].name == "fail"


def test_debugging_stops_at_the_first_exception_and_keeps_earlier_results():
    called = []

    def call(i: int) -> int:
        called.append(i)
        return fail_at(i, {97})

    pmap = ParallelMap(call, range(100), payload="rank")
    with pytest.raises(KeyError):
        pmap.compute(debug=True)

    assert called == list(range(98))
    assert scalars(pmap.results_container) == list(range(97))


def test_debugging_leaves_nothing_if_the_first_task_fails(folder):
    with pytest.raises(KeyError):
        ParallelMap(fail_at, [1, 2], {1}).compute(debug=True)

    assert list(folder.iterdir()) == []


def test_a_run_that_comes_to_nothing_leaves_other_log_files_alone():
    def fail_at_home(i: int) -> int:
        return i

    other = ParallelMap(fail_at_home, [1], output_dir="out")
    other.compute()
    with pytest.raises(KeyError):
        ParallelMap(fail_at, [1], {1}, output_dir="out").compute(debug=True)

    assert visible("out") == ["LOG", "fail_at_home.h5", "fail_at_home_payload"]
    assert Path(str(other.logfile)).exists()


def test_a_dry_run_says_what_one_task_has_taken(said):
    ParallelMap(*CALL, dryrun=True)

    first, second, third = [text for _, text in said()]
    assert re.fullmatch(
        r"Performing a single dry-run of f simulating randomly picked worker #[0-3] with "
        r"automatically distributed arguments",
        first,
    )
    assert re.fullmatch(
        r"Dry-run completed\. Elapsed time is \d+\.\d+ seconds, estimated memory consumption was "
        r"\d+\.\d\d MB\.",
        second,
    )
    assert re.fullmatch(
        r"All 4 calls on 1 worker.* would take .+; .+ in files; .+ of memory per rank\.", third
    )


def test_a_dry_run_calls_one_task_and_leaves_nothing(folder):
    calls = folder / "calls"
    calls.mkdir()

    ParallelMap(lambda i: (calls / str(i)).touch(), range(50), dryrun=True, output_dir="out")

    assert len(list(calls.iterdir())) == 1
    assert not Path("out").exists()


def test_without_a_terminal_a_dry_run_goes_on():
    assert ParallelMap(*CALL, dryrun=True, **MEMORY).compute() == VALUES


@pytest.mark.parametrize("answer", ["", "y", "Yes"])
def test_a_dry_run_that_is_answered_by_yes_goes_on(monkeypatch, answer):
    monkeypatch.setattr("sys.stdin", Terminal(f"{answer}\n"))

    assert ParallelMap(*CALL, dryrun=True, **MEMORY).compute() == VALUES


@pytest.mark.parametrize("answer", ["n", "No"])
def test_a_dry_run_that_is_answered_by_no_is_the_end(monkeypatch, folder, answer):
    monkeypatch.setattr("sys.stdin", Terminal(f"{answer}\n"))

    with ParallelMap(*CALL, dryrun=True) as pmap:
        assert pmap.compute() is None

    assert list(folder.iterdir()) == []


def test_a_dry_run_asks_nothing_if_it_is_not_to(monkeypatch):
    monkeypatch.setattr("sys.stdin", Terminal("n\n"))

    pmap = ParallelMap(*CALL, dryrun=True, setup_interactive=False, **MEMORY)

    assert sys.stdin.read() == "n\n"
    assert pmap.compute() == VALUES


def test_a_failed_dry_run_is_a_task_error_and_leaves_nothing(folder):
    with pytest.raises(TaskError) as caught:
        ParallelMap(fail_at, [7, 7, 7], {7}, dryrun=True)

    [failure] = caught.value.failures
    assert failure.index in range(3)
    assert failure.type == "KeyError"
    assert str(caught.value).startswith(f"the dry-run of fail_at failed: task {failure.index} on ")
    assert 'raise KeyError(f"bad {i}")' in str(caught.value)
    assert list(folder.iterdir()) == []


CONVERSATION = """
import json, os, pty, sys

lines, command = json.loads(sys.argv[1]), sys.argv[2:]
pid, terminal = pty.fork()
if pid == 0:
    os.execvp(command[0], command)
said = ""
while True:
    try:
        new = os.read(terminal, 4096).decode(errors="replace")
    except OSError:  # nobody holds the other end any more
        break
    sys.stdout.write(new)
    sys.stdout.flush()
    said += new
    if lines and lines[0][0] in said:
        said = said.partition(lines[0][0])[2]
        os.write(terminal, (lines.pop(0)[1] + "\\n").encode())
sys.exit(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]))
"""
INTERACTIVE = """
import json
import os
import sys
from pathlib import Path

from acme_mpi import ParallelMap


def f(x, y, z=3):
    return (x + y) * z


def stop(x):
    inner = 1000 * x
    breakpoint()
    return inner


declined = ParallelMap(f, [2, 4], 4, dryrun=True, output_dir="out").compute(), os.listdir()
accepted = ParallelMap(f, [2, 4], 4, dryrun=True, write_worker_results=False).compute()
debugged = ParallelMap(stop, [7, 8], write_worker_results=False).compute(debug=True)
Path(sys.argv[1]).write_text(json.dumps([declined, accepted, debugged]))
"""
# What is waited for, and what is typed then. A launcher may keep back a prompt, but no line.
TYPED = [("[Y/n]", "n"), ("[Y/n]", ""), *(2 * [("-> return inner", "inner += 5\nc")])]
# Ways to start a script: ranks, and what stands before its name.
STARTS = {"plain": (0, []), "SPMD": (2, []), "script mode": (2, ["-m", "acme_mpi"])}


@pytest.fixture(scope="module", params=by_stacks(STARTS, every=["SPMD", "script mode"]))
def conversation(request, mpiexec, tmp_path_factory) -> tuple[str, Any, Any, Any]:
    """Return what is said on a terminal from which a script is started, and what that gets."""
    n, options = STARTS[request.param]
    if n and mpiexec.program is None:
        pytest.skip("there is no mpiexec")
    base = tmp_path_factory.mktemp("terminal")
    script, report = base / "script.py", base / "report.json"
    script.write_text(INTERACTIVE)
    launcher = [mpiexec.program, "-n", str(n)] if n else []
    command = [*launcher, sys.executable, *options, script, report]
    ran = mpiexec(0, "-c", CONVERSATION, json.dumps(TYPED), *command, timeout_s=30)
    assert ran.returncode == 0, ran.stdout
    return ran.stdout, *json.loads(report.read_text())


def test_a_dry_run_asks_on_the_terminal(conversation):
    question = "Do you want to continue executing f with the provided arguments? [Y/n]"

    assert conversation[0].count(question) == 2


def test_what_is_answered_on_the_terminal_counts(conversation):
    _, declined, accepted, _ = conversation

    assert declined == [None, []]
    assert accepted == [18, 24]


def test_a_breakpoint_opens_the_debugger_in_every_task(conversation):
    """There the user has added 5 to a variable of the function."""
    assert conversation[-1] == [7005, 8005]


@pytest.mark.parametrize(
    ("verbose", "levels"),
    [
        (None, {"INFO", "ANNOUNCE", "WARNING"}),
        (True, {"DEBUG", "INFO", "ANNOUNCE", "WARNING"}),
        (False, {"WARNING"}),
    ],
)
def test_verbose_is_the_least_level(said, verbose, levels):
    ParallelMap(*CALL, verbose=verbose, output_dir="out", **MEMORY).compute()

    assert {level for level, _ in said()} == levels


def test_a_run_says_what_it_does_and_where_results_are(said):
    pmap = ParallelMap(*CALL)
    pmap.compute()

    (_, start), *_, (level, end) = said()
    assert start == "Preparing 4 parallel calls of `f` using 1 workers"
    assert level == "ANNOUNCE"
    assert end.startswith("SUCCESS!")
    assert end.endswith(f"Results have been saved to {pmap.results_container}")


def test_a_run_says_where_results_are_that_the_container_cannot_hold(said):
    ParallelMap(lambda i: {i}, range(2), output_dir="out").compute()

    end = said()[-1][1]
    assert end.endswith(f", 2 of them as pickles to {os.path.abspath('out/lambda_payload')}")


def test_a_run_in_memory_says_that_it_is_finished(said):
    ParallelMap(*CALL, **MEMORY).compute()

    assert said()[-1][1].startswith("SUCCESS!")
    assert said()[-1][1].endswith("Finished parallel computation")


def test_messages_go_to_where_stderr_is_now():
    """A test runner or a notebook puts another one in its place."""
    ParallelMap(*CALL, **MEMORY)
    with contextlib.redirect_stderr(io.StringIO()) as stderr:
        ParallelMap(*CALL, **MEMORY).compute()

    assert "<ParallelMap> INFO: Preparing 4 parallel calls of `f`" in stderr.getvalue()


@pytest.mark.parametrize(
    ("keywords", "expected"),
    [
        ({"output_dir": "out"}, f"out/{LOG}"),
        ({"output_dir": "out", "logfile": True}, f"out/{LOG}"),
        ({"output_dir": "out", "logfile": False}, None),
        ({"output_dir": "out", "logfile": "my.log"}, r"my\.log"),
        (MEMORY, None),
        ({"logfile": True, **MEMORY}, LOG),
        ({"logfile": "~/my.log", **MEMORY}, r"home/my\.log"),
    ],
)
def test_where_the_log_file_is(folder, monkeypatch, keywords, expected):
    (folder / "home").mkdir()
    monkeypatch.setenv("HOME", str(folder / "home"))
    pmap = ParallelMap(*CALL, **keywords)
    pmap.compute()

    logs = [str(path) for path in folder.rglob("*.log")]

    assert logs == ([] if expected is None else [pmap.logfile])
    if expected is None:
        assert pmap.logfile is None
    else:
        assert re.fullmatch(expected, os.path.relpath(logs[0]))
        assert "INFO Preparing 4 parallel calls of `f`" in Path(logs[0]).read_text()


def test_the_log_file_is_written_continuously():
    """A task can read what was said before it."""
    path = os.path.abspath("log")

    def read(_: int) -> str:
        return Path(path).read_text()

    [text] = ParallelMap(read, [0], logfile=path, **MEMORY).compute()

    assert "Preparing 1 parallel calls" in text
    assert "SUCCESS!" not in text
    assert "SUCCESS!" in Path(path).read_text()


def test_an_existing_log_file_is_appended_to_with_a_warning(said):
    Path("log").write_text("first\n")

    ParallelMap(*CALL, logfile="log", **MEMORY).compute()

    warning = f"log-file {os.path.abspath('log')} already exists, appending to it"
    assert ("WARNING", warning) in said()
    assert Path("log").read_text().startswith("first\n")
    assert "SUCCESS!" in Path("log").read_text()


def test_a_log_file_is_of_one_run():
    ParallelMap(*CALL, logfile="first", **MEMORY).compute()
    before = Path("first").read_text()

    ParallelMap(*CALL, logfile=False, **MEMORY).compute()

    assert Path("first").read_text() == before


def test_a_failed_run_is_told_in_the_log_file():
    failure_of(ParallelMap(fail_at, range(3), {1}, logfile="log", **MEMORY))

    assert "ERROR 1 of 3 tasks failed, first: task 1" in Path("log").read_text()


def positional_only(x: Any, y: Any, /, z: Any) -> Any:
    return x, y, z


def keyword_only(x: Any, *, y: Any, z: Any = 0) -> Any:
    return x, y, z


def starred(x: Any, *args: Any, **kwargs: Any) -> Any:
    return x, args, kwargs


def named_like_ours(key: Any, workers: Any = 0, index: Any = 0, tasks: Any = 0) -> Any:
    """Dask, too, has keywords of its own that are called like the first two."""
    return key, workers, index, tasks


class Scale:
    def __init__(self, factor: int) -> None:
        self.factor = factor

    def __call__(self, x: int) -> int:
        return x * self.factor

    def method(self, x: int) -> int:
        return -x * self.factor

    @classmethod
    def class_method(cls, x: int) -> tuple[str, int]:
        return cls.__name__, x

    @staticmethod
    def static_method(x: int) -> int:
        return x + 1


def make_adder(n: int) -> Callable[[int], int]:
    def add(x: int) -> int:
        return x + n

    return add


# Arguments and keywords of `ParallelMap`, and the results.
FUNCTIONS: dict[str, tuple[tuple[Any, ...], dict[str, Any], list[Any]]] = {
    "lambda": ((lambda x: x + 1, [1, 2]), {}, [2, 3]),
    "closure": ((make_adder(5), [1, 2]), {}, [6, 7]),
    "partial": ((functools.partial(f, y=4, z=1), [2, 4]), {}, [6, 8]),
    "callable": ((Scale(3), [1, 2]), {}, [3, 6]),
    "method": ((Scale(3).method, [1, 2]), {}, [-3, -6]),
    "class method": ((Scale.class_method, [1, 2]), {}, [("Scale", 1), ("Scale", 2)]),
    "static method": ((Scale.static_method, [1, 2]), {}, [2, 3]),
    "class": ((complex, [1, 2], 3), {}, [1 + 3j, 2 + 3j]),
    "max": ((max, [1, 5], 3), {}, [3, 5]),
    "method of a type": ((str.upper, ["a", "b"]), {}, ["A", "B"]),
    "numpy.std": ((np.std, PerTask([[1, 3], [5, 5]])), {}, [1, 0]),
    "positional-only": ((positional_only, [1, 2], 3), {"z": 4}, [(1, 3, 4), (2, 3, 4)]),
    "keyword-only": ((keyword_only, 1), {"y": [2, 3]}, [(1, 2, 0), (1, 3, 0)]),
    "stars": (
        (starred, [1, 2], 3, [4, 5]),
        {"w": [6, 7], "v": 8},
        [(1, (3, 4), {"w": 6, "v": 8}), (2, (3, 5), {"w": 7, "v": 8})],
    ),
    "names of ours": (
        (named_like_ours, [1, 2]),
        {"workers": 3, "index": 4, "tasks": 5},
        [(1, 3, 4, 5), (2, 3, 4, 5)],
    ),
}


@pytest.mark.parametrize("kind", FUNCTIONS)
def test_every_kind_of_function_can_be_called(kind):
    args, kwargs, expected = FUNCTIONS[kind]

    assert ParallelMap(*args, **kwargs, **MEMORY).compute() == expected


@pytest.mark.parametrize(
    ("kind", "name"),
    [("lambda", "lambda"), ("partial", "f"), ("callable", "Scale"), ("numpy.std", "std")],
)
def test_files_are_named_after_the_function(kind, name):
    args, kwargs, expected = FUNCTIONS[kind]

    paths = ParallelMap(*args, **kwargs, output_dir="out").compute()

    assert [Path(path).name for path in paths] == [f"{name}_{i}.h5" for i in range(2)]
    assert scalars(f"out/{name}.h5") == expected


def days_ago(path: Path, n_days: float) -> None:
    """Let the run of a directory have ended long ago."""
    [finished] = path.glob(".acme_mpi/*/finished")
    stamp = finished.stat().st_mtime - n_days * 86400
    os.utime(finished, (stamp, stamp))


def test_runs_that_ended_long_ago_are_removed(folder, said):
    old, new = (Path(ParallelMap(*CALL).compute()[0]).parents[1] for _ in range(2))
    days_ago(old, 8)
    days_ago(new, 6)

    ParallelMap(*CALL, cleanup_threshold_days=7, **MEMORY)

    assert list(folder.iterdir()) == [new]
    assert ("INFO", f"Removed {old}") in said()


def test_only_directories_with_the_mark_of_a_finished_run_are_removed(folder):
    kept = {folder / name for name in ("ACME_thesis", "ACME_notes", "ACME_link", "results")}
    (folder / "ACME_thesis" / ".acme_mpi").mkdir(parents=True)
    (folder / "ACME_notes").touch()
    ParallelMap(*CALL, output_dir="results").compute()
    (folder / "ACME_link").symlink_to("results")
    unfinished = ParallelMap(fail_at, range(3), {1})
    with pytest.raises(KeyError):
        unfinished.compute(debug=True)

    ParallelMap(*CALL, cleanup_threshold_days=0, **MEMORY)

    assert set(folder.iterdir()) == kept | {Path(str(unfinished.output_dir))}


def test_the_directory_of_the_new_run_is_not_removed():
    name = "ACME_20260101-000000-000000"
    ParallelMap(*CALL, output_dir=name).compute()

    ParallelMap(divmod, [7, 9], 4, output_dir=name, cleanup_threshold_days=0).compute()

    assert visible(name) == ["LOG", "LOG", "divmod.h5", "divmod_payload", "f.h5", "f_payload"]


def test_nothing_is_removed_unless_it_is_asked_for(folder):
    old = Path(ParallelMap(*CALL).compute()[0]).parents[1]
    days_ago(old, 1000)

    ParallelMap(*CALL, **MEMORY).compute()

    assert list(folder.iterdir()) == [old]


@pytest.mark.once
def test_a_quiet_log_file_has_what_the_constructor_has_said(tmp_path):
    pmap = ParallelMap(
        abs,
        [1, 2],
        output_dir=str(tmp_path),
        verbose=False,
        write_pickle=True,
        result_shape=(None,),
    )
    pmap.compute()

    text = Path(pmap.logfile).read_text()
    assert "Pickling of results does not support output array shape specification." in text
    assert " INFO Preparing 2 parallel calls of `abs`" in text


@pytest.mark.once
def test_every_log_file_has_what_is_said_once(said):
    """Whichever run was the first that it was said of."""
    pmaps = [ParallelMap(*CALL, n_workers=8, output_dir=each) for each in ("first", "second")]
    for pmap in pmaps:
        pmap.compute()

    text = "`n_workers` is 8, but the job has 1 rank(s): all are used."
    assert [text in Path(pmap.logfile).read_text() for pmap in pmaps] == [True, True]
    assert [text in each for _, each in said()].count(True) == 1


@pytest.mark.once
def test_without_a_client_nothing_is_called():
    with ParallelMap(f, [1, 2], 4, write_worker_results=False) as pmap:
        pmap.config.client = None

        assert pmap.compute() is None


@pytest.mark.once
def test_a_large_argument_is_warned_of(caplog, monkeypatch):
    monkeypatch.setattr(ParallelMap, "_maxArgSize", 1)

    ParallelMap(f, [1, 2], np.zeros((2, 2**17)), n_inputs=2, write_worker_results=False)

    assert "argument size 2.00 MB exceeds recommended limit of 1 MB. Distributing" in caplog.text
    assert " `y` is sent to every node once" in caplog.text


@pytest.mark.once
def test_an_array_is_no_dtype():
    with pytest.raises(TypeError, match="`result_dtype` has to be a string, not <class"):
        ParallelMap(f, [1, 2], 4, result_shape=(None,), result_dtype=np.ones(3))


@pytest.fixture
def no_map(monkeypatch) -> None:
    """Forget the objects of other tests, which tracebacks of parametrized errors still hold."""
    monkeypatch.setattr(current(), "users", [])


@pytest.mark.once
def test_within_with_the_client_in_use_can_be_had(no_map):
    with ParallelMap(f, [1, 2], 4, **MEMORY) as outer:
        with ParallelMap(f, [1, 2], 4, **MEMORY) as pmap:
            assert get_client() is pmap.client
            pmap.client = None
        assert get_client() is outer.client

    with pytest.raises(ValueError, match="No global client found"):
        get_client()


@pytest.mark.once
def test_without_with_the_client_in_use_can_be_had(no_map):
    """Until the end of its use is said, or nobody has it any more."""
    first = ParallelMap(f, [1, 2], 4, **MEMORY)
    last = ParallelMap(f, [1, 2], 4, **MEMORY)

    assert get_client() is last.client
    last.cleanup()
    assert get_client() is first.client
    first.client.close()
    with pytest.raises(ValueError, match="No global client found"):
        get_client()
    last = ParallelMap(fail_at, [1, 2], {1}, **MEMORY)
    with contextlib.suppress(TaskError):
        last.compute()
    del last
    with pytest.raises(ValueError, match="No global client found"):
        get_client()


@pytest.mark.once
@pytest.mark.parametrize("given", ["x", 3])
def test_a_daemon_is_made_by_parallel_map_only(given):
    with pytest.raises(TypeError) as caught:
        ACMEdaemon(given)

    text = f"`pmap` has to be a `ParallelMap` instance, not {type(given)}"
    assert text in str(caught.value)
