"""`ParallelMap` on its own terms: keywords, attributes, arguments, kinds of functions.

What needs one rank alone is called in this process; `parallel_map_program` shows what every rank of
an SPMD script sees.
"""

from __future__ import annotations

import contextlib
import functools
import os
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import parallel_map_program
import pytest
from computing import CALL, VALUES, scalars, visible
from parallel_map_program import MEMORY, WRONG, f, fail_at

from acme_mpi import ACMEdaemon, InputError, ParallelMap, PerTask, TaskError, get_client
from acme_mpi.session import current

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("module_runner", "folder")]


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


def test_a_directory_may_be_a_path(folder):
    with ParallelMap(f, [2, 4], y=4, output_dir=folder / "out") as pmap:
        paths = pmap.compute()

    assert pmap.output_dir == str(folder / "out")
    assert [Path(path).parent for path in paths] == [folder / "out" / "f_payload"] * 2


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


def test_only_marked_directories_are_removed(folder):
    """Only directories with the mark of a finished run are removed."""
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
