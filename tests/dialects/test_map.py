"""`acme_mpi.map` in SPMD scripts: every kind of result, store and world size; calls that are wrong.

Starts are dear, so few programs do much: `map_modes` runs all cases on one world, and the tests
look at what it left. Each test states one fact about one of its cases.
"""

from __future__ import annotations

import json
import pickle
import shutil
import subprocess
import textwrap
from collections.abc import Callable
from pathlib import Path
from typing import Any

import map_modes
import numpy as np
import pytest
from conftest import by_stacks
from map_modes import ROW_DTYPES, STORES, VALUES, canonical, content_bytes

import acme_mpi

pytestmark = pytest.mark.slow

SIZES = [0, 2, 3, 5]  # 0: without a launcher
EACH_SIZE = by_stacks(SIZES, every=[2], many=[5])
FILES = [store for store in STORES if store != "memory"]
CASES = map_modes.make_cases()
COMPLETE = [name for name in CASES if "fail" not in name and "wrong" not in name]
SHAPED = [name for name in COMPLETE if "result_shape" in CASES[name][2]]


class Modes:
    """What `map_modes` has left on one world."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.reports = pickle.loads((root / "reports.pickle").read_bytes())

    def folder(self, case: str, store: str) -> Path:
        return self.root / f"{case}-{store}"

    def container(self, case: str, store: str) -> Path:
        name = CASES[case][0].__name__
        return self.folder(case, store) / f"{name}.h5"


@pytest.fixture(scope="module")
def modes(mpiexec, tmp_path_factory) -> Callable[[int], Modes]:
    """Return the function that runs all cases on `n` ranks, once."""
    done: dict[int, Any] = {}

    def run(n: int) -> Modes:
        if n not in done:
            root = tmp_path_factory.mktemp(f"modes{n}")
            try:
                ran = mpiexec(n, map_modes.__file__, root, timeout_s=120)
            except pytest.fail.Exception as late:
                done[n] = str(late)
            else:
                done[n] = Modes(root) if ran.returncode == 0 else ran.stdout + ran.stderr
        if isinstance(done[n], str):
            pytest.fail(f"map_modes on {n} ranks:\n{done[n][-4000:]}")
        return done[n]

    return run


def stored(part: Any) -> tuple[Any, ...]:
    """Return what `content_of` shall find for one part of a result."""
    if part is None:
        return "<f8", None, b""
    return part.dtype.str, part.shape, content_bytes(part)


def expected_rows(case: str) -> Any:
    """Return the stacked array that a case with a result shape has to give."""
    func, args, kwargs = CASES[case]
    n_tasks = len(args[0])
    rows = [func(args[0][i], *args[1:]) for i in range(n_tasks)]
    rows = [row[0] if isinstance(row, tuple) else row for row in rows]
    dtype = np.dtype(kwargs.get("result_dtype", float))
    axis = kwargs["result_shape"].index(None)
    if case == "ragged":
        longest = max(len(row) for row in rows)
        rows = [np.pad(row, (0, longest - len(row)), constant_values=np.nan) for row in rows]
    inner = tuple(n for n in kwargs["result_shape"] if n is not None)
    if not rows:
        rows = np.empty((0, *inner))
    return np.ascontiguousarray(np.moveaxis(np.array(rows), 0, axis).astype(dtype))


@pytest.mark.parametrize("n", EACH_SIZE)
def test_every_rank_gets_the_same(modes, n):
    different = [key for key, (_, same) in modes(n).reports.items() if not all(same)]

    assert different == []
    assert all(len(same) == max(n, 1) for _, same in modes(n).reports.values())


@pytest.mark.parametrize("isolation", ["", "-inline"])
@pytest.mark.parametrize("store", STORES)
@pytest.mark.parametrize("n", EACH_SIZE)
def test_the_four_results(modes, content_of, n, store, isolation):
    if store == "memory":
        values, _, _ = modes(n).reports[f"f{isolation}", store][0]
        assert values == canonical([18, 24, 30, 36])
        return

    content = content_of(modes(n).container(f"f{isolation}", store))

    assert list(content) == [f"comp_{i}/result_0" for i in range(4)]
    assert list(content.values()) == [stored(np.array([v])) for v in (18, 24, 30, 36)]


@pytest.mark.parametrize("case", ["f-rows", "f-rows-inline", "f-rows-int"])
@pytest.mark.parametrize("store", FILES)
@pytest.mark.parametrize("n", EACH_SIZE)
def test_the_four_results_in_one_dataset(modes, content_of, n, store, case):
    dtype = CASES[case][2].get("result_dtype", "float64")

    content = content_of(modes(n).container(case, store))

    assert content == {"result_0": stored(np.array([18, 24, 30, 36], dtype))}


@pytest.mark.parametrize("store", FILES)
@pytest.mark.parametrize("n", EACH_SIZE)
def test_each_result_is_stored_as_what_it_is(modes, content_of, n, store):
    content = content_of(modes(n).container("value", store))

    for index, (value, parts) in enumerate(VALUES):
        found = {k: v for k, v in content.items() if k.startswith(f"comp_{index}/")}
        assert list(found) == [f"comp_{index}/result_{k}" for k in range(len(parts))], value
        for part, (kind, shape, data) in zip(parts, found.values(), strict=True):
            if isinstance(part, tuple):
                assert (kind, data) == ("str", part)
            else:
                assert (kind, shape, data) == stored(part)


def test_strings_keep_their_shape(modes, content_of):
    content = content_of(modes(2).container("value", "rank"))
    shapes = {
        data: shape
        for kind, shape, data in (content[f"comp_{i}/result_0"] for i in range(len(VALUES)))
        if kind == "str"
    }

    assert shapes["text",] == (1,)
    assert shapes["a", "bcd", "é"] == (3,)
    assert shapes["a", "bc", "é", ""] == (2, 2)


@pytest.mark.parametrize("case", ["value", "value-inline"])
@pytest.mark.parametrize("n", EACH_SIZE)
def test_values_in_memory_are_what_the_function_returned(modes, n, case):
    (_, values), _, _ = modes(n).reports[case, "memory"][0]

    for value, (given, _) in zip(values, VALUES, strict=True):
        assert value == canonical(given)


@pytest.mark.parametrize("case", SHAPED)
@pytest.mark.parametrize("store", FILES)
def test_rows_are_stacked_along_the_task_axis(modes, content_of, store, case):
    content = content_of(modes(2).container(case, store))

    assert content["result_0"] == stored(expected_rows(case))


@pytest.mark.parametrize("case", [name for name in SHAPED if name not in ("ragged", "more")])
def test_rows_in_memory_are_the_stacked_array(modes, case):
    array, _, _ = modes(2).reports[case, "memory"][0]

    assert array == canonical(expected_rows(case))


@pytest.mark.parametrize("n", EACH_SIZE)
def test_further_return_values_stand_beside_the_rows(modes, content_of, n):
    for store in FILES:
        content = content_of(modes(n).container("more", store))
        assert list(content) == ["result_0"] + [
            f"comp_{i}/result_{k}" for i in range(7) for k in (1, 2)
        ]
        assert [content[f"comp_{i}/result_1"][2] for i in range(7)] == [
            (f"task {i}",) for i in range(7)
        ]
        assert content["comp_6/result_2"] == stored(np.arange(6))


@pytest.mark.once  # it needs runs of all sizes
@pytest.mark.parametrize("case", CASES)
def test_content_does_not_depend_on_ranks_or_store(modes, content_of, case):
    """Bit by bit: 2 and 3 ranks, no launcher, and every store of the same shape and dtype."""
    contents = {
        (n, store): content_of(modes(n).container(case, store))
        for n in (0, 2, 3)
        for store in FILES
    }
    reference = contents[0, "rank"]

    assert [key for key, content in contents.items() if content != reference] == []
    assert [key for key, found in contents.items() if list(found) != list(reference)] == []


@pytest.mark.parametrize("case", [f"rows-{dtype}" for dtype in ROW_DTYPES])
def test_the_dataset_has_the_dtype_that_was_asked_for(modes, content_of, case):
    kind, shape, _ = content_of(modes(2).container(case, "single_file"))["result_0"]

    assert (kind, shape) == (np.dtype(case.removeprefix("rows-")).str, (5, 2, 3))


@pytest.mark.parametrize("n", EACH_SIZE)
def test_more_ranks_than_tasks(modes, content_of, n):
    for store in FILES:
        content = content_of(modes(n).container("f-one", store))
        assert content == {"comp_0/result_0": stored(np.array([18]))}


@pytest.mark.parametrize("n", EACH_SIZE)
def test_no_tasks_leave_an_empty_container(modes, content_of, n):
    for store in FILES:
        assert content_of(modes(n).container("f-none", store)) == {}
        rows = content_of(modes(n).container("f-none-rows", store))
        assert rows == {"result_0": stored(np.empty(0))}
    assert modes(n).reports["f-none", "memory"][0][0] == canonical([])


@pytest.mark.parametrize("store", STORES)
@pytest.mark.parametrize("n", EACH_SIZE)
def test_the_first_and_the_last_task_may_fail(modes, content_of, n, store):
    for case in ("ends-fail", "ends-fail-rows", "ends-fail-int"):
        results, failures, error = modes(n).reports[case, store][0]
        assert failures == [(i, "ValueError", f"no result for {i}") for i in (0, 4)], case
        assert error.startswith("2 of 5 tasks failed, first: task 0 on rank ")
    results, _, _ = modes(n).reports["ends-fail", store][0]
    if store == "memory":
        assert results == canonical([None, 10, 20, 30, None])
        return
    content = content_of(modes(n).container("ends-fail", store))
    assert content == {f"comp_{i}/result_0": stored(np.array([10 * i])) for i in (1, 2, 3)}


@pytest.mark.parametrize("store", FILES)
def test_rows_of_failed_tasks_are_nan_and_listed(modes, content_of, store):
    floats = content_of(modes(2).container("ends-fail-rows", store))
    integers = content_of(modes(2).container("ends-fail-int", store))

    missing = ("<i8", (2,), [0, 4])
    rows = np.array([np.nan, 10, 20, 30, np.nan])
    assert floats == {"result_0": stored(rows), "result_0@missing": missing}
    rows = np.array([0, 10, 20, 30, 0])
    assert integers == {"result_0": stored(rows), "result_0@missing": missing}


@pytest.mark.parametrize("store", FILES)
@pytest.mark.parametrize("n", by_stacks([0, 2], twice=[2]))
def test_a_container_is_made_though_every_task_fails(modes, content_of, n, store):
    assert content_of(modes(n).container("all-fail", store)) == {}
    rows = content_of(modes(n).container("all-fail-rows", store))
    assert rows == {
        "result_0": stored(np.full(3, np.nan)),
        "result_0@missing": ("<i8", (3,), [0, 1, 2]),
    }


@pytest.mark.parametrize("store", STORES)
@pytest.mark.parametrize("n", by_stacks([0, 2], twice=[2]))
def test_a_result_that_does_not_fit_fails_its_task(modes, n, store):
    """A result that does not fit fails its task with expected and got."""
    _, shape, _ = modes(n).reports["wrong-shape", store][0]
    _, dtype, _ = modes(n).reports["wrong-dtype", store][0]

    (index, kind, message) = shape[0]
    assert (len(shape), index, kind) == (1, 2, "ResultError")
    assert "expected shape (3,) float64, got shape (4,)" in message
    (index, kind, message) = dtype[0]
    assert (len(dtype), index, kind) == (1, 1, "ResultError")
    assert "expected shape () float64, got dtype complex128" in message


@pytest.mark.parametrize("n", EACH_SIZE)
def test_file_names_are_returned(modes, n):
    reports = modes(n).reports
    paths = [f"f-computation/f_payload/f_{i}.h5" for i in range(4)]

    assert reports["f", "rank"][0][0] == canonical(["f-rank/f.h5"])
    assert reports["f", "single_file"][0][0] == canonical(["f-single_file/f.h5"])
    assert reports["f", "computation"][0][0] == canonical(paths)
    paths = [
        f"ends-fail-computation/fail_at_the_ends_payload/fail_at_the_ends_{i}.h5" for i in range(5)
    ]
    assert reports["ends-fail", "computation"][0][0] == canonical([None, *paths[1:4], None])


@pytest.mark.parametrize("store", FILES)
def test_users_see_container_payload_and_log_only(modes, store):
    names = {
        path.name.split("_2")[0] for path in modes(2).folder("f", store).iterdir()
    }  # without the log's time

    payload = set() if store == "single_file" else {"f_payload"}
    assert names == {"f.h5", "ACME_f", ".acme_mpi"} | payload


def test_a_payload_file_per_computation_holds_its_results_alone(modes, content_of):
    payload = modes(2).folder("more", "computation") / "row_and_more_payload"

    content = content_of(payload / "row_and_more_3.h5")

    assert list(content) == ["result_0", "result_1", "result_2"]
    assert content["result_1"] == ("str", (), ("task 3",))


def test_the_output_directory_may_be_a_path(tmp_path):
    files = acme_mpi.map(abs, [-1, 2], output_dir=tmp_path / "out", isolate=False)

    assert files == [str(tmp_path / "out" / "abs.h5")]


@pytest.mark.parametrize("case", ["value", "f-rows", "more", "ragged"])
@pytest.mark.parametrize("store", FILES)
def test_a_moved_output_directory_still_works(modes, content_of, tmp_path, store, case):
    original = modes(2).container(case, store)
    before = content_of(original)
    # Moved and not copied: nothing is left at the old place that links could find.
    moved = tmp_path / "elsewhere" / "renamed"
    moved.parent.mkdir()
    shutil.move(original.parent, moved)
    try:
        after = content_of(moved / original.name)
    finally:
        shutil.move(moved, original.parent)

    assert after == before


@pytest.mark.skipif(shutil.which("h5dump") is None, reason="h5dump is not installed")
@pytest.mark.parametrize("store", FILES)
def test_h5dump_reads_everything(modes, store):
    def dump(case: str) -> str:
        container = modes(2).container(case, store)
        ran = subprocess.run(
            ["h5dump", container.name],
            cwd=container.parent,
            capture_output=True,
            text=True,
            timeout=60,
        )
        assert ran.returncode == 0, ran.stderr
        assert "unable" not in ran.stdout + ran.stderr
        return ran.stdout

    assert "(0): 18, 24, 30, 36" in dump("f-rows")
    text = dump("f")
    assert [f"(0): {n}" in text for n in (18, 24, 30, 36)] == [True] * 4
    text = dump("value")
    assert '"text"' in text
    assert "NULL" in text  # the dataspace of None


CALLS = """
import json, os, sys, logging, threading
import numpy as np
from mpi4py import MPI

import acme_mpi
from acme_mpi import PerTask, Shared

world = MPI.COMM_WORLD
facts = {}
warned = []


class Keep(logging.Handler):
    def emit(self, record):
        if record.levelno >= logging.WARNING:
            warned.append(record.getMessage())


logging.getLogger("acme_mpi").addHandler(Keep())


def f(x, y, z=3):
    return (x + y) * z


def fail_at(i, bad):
    if i in bad:
        raise KeyError(f"bad {i}")
    return i + 0.5


def fact(name, value):
    everybody = world.gather(value)
    if world.rank == 0:
        facts[name] = everybody


def outcome(*args, **kwargs):
    try:
        result = acme_mpi.map(*args, **kwargs)
    except acme_mpi.AcmeMpiError as error:
        return type(error).__name__, str(error)
    return "result", result.tolist() if isinstance(result, np.ndarray) else result


MEMORY = {"write_worker_results": False}
STORES = {"rank": {}, "computation": {"payload": "computation"}, "single": {"single_file": True}}
"""

WRONG = (
    CALLS
    + """
unpicklable = threading.Lock()
WRONG = {
    "nothing-to-split": ((f, 2, 4), {}),
    "ambiguous": ((f, [1, 2], [1, 2, 3]), {}),
    "too-many-arguments": ((f, [1, 2], 3, 4, 5), {}),
    "unknown-argument": ((f, [1, 2], 3), {"w": 4}),
    "not-callable": ((3, [1, 2]), {}),
    "n_inputs-none-fits": ((f, [1, 2], 3), {"n_inputs": 5}),
    "n_inputs-zero": ((f, [1, 2], 3), {"n_inputs": 0}),
    "lengths-differ": ((f, PerTask([1, 2]), PerTask([1, 2, 3])), {}),
    "axis": ((f, PerTask(np.ones((2, 3)), axis=2), 3), {}),
    "two-None": ((f, [1, 2], 3), {"result_shape": (None, None)}),
    "no-None": ((f, [1, 2], 3), {"result_shape": (3,)}),
    "negative-shape": ((f, [1, 2], 3), {"result_shape": (None, -1)}),
    "shape-not-a-tuple": ((f, [1, 2], 3), {"result_shape": 3}),
    "dtype": ((f, [1, 2], 3), {"result_shape": (None,), "result_dtype": "no such"}),
    "dtype-of-strings": ((f, [1, 2], 3), {"result_shape": (None,), "result_dtype": "U5"}),
    "payload": ((f, [1, 2], 3), {"payload": "node"}),
    "single_file-in-memory": ((f, [1, 2], 3), {"single_file": True, **MEMORY}),
    "single_file-per-computation": (
        (f, [1, 2], 3), {"single_file": True, "payload": "computation"}
    ),
    "inf-in-memory": ((f, [1, 2], 3), {"result_shape": (None, np.inf), **MEMORY}),
    "root-with-files": ((f, [1, 2], 3), {"root": 0}),
    "root-too-high": ((f, [1, 2], 3), {"root": 99, **MEMORY}),
    "output_dir": ((f, [1, 2], 3), {"output_dir": 7}),
    "comm": ((f, [1, 2], 3), {"comm": "world"}),
    "isolate": ((f, [1, 2], 3), {"isolate": "no"}),
    "write_worker_results": ((f, [1, 2], 3), {"write_worker_results": None}),
    "arguments-twice": ((f, [1, 2]), {"y": 3, "arguments": {"y": 3}}),
    "arguments-not-a-dict": ((f, [1, 2], 3), {"arguments": [1]}),
    "unpicklable": ((f, [1, 2]), {"y": unpicklable}),
}
for name, (args, kwargs) in WRONG.items():
    fact(name, outcome(*args, **kwargs))
# One rank alone is wrong; the others are told.
if world.rank == 1:
    fact("one-rank-alone", outcome(f, 2, 4))
else:
    fact("one-rank-alone", outcome(f, [1, 2], 4))
fact("afterwards", outcome(f, [2, 4], 4, **MEMORY))
fact("created", sorted(os.listdir()))
if world.rank == 0:
    print(json.dumps(facts))
"""
)
EXPLANATIONS = {
    "nothing-to-split": ["found 0 objects", "PerTask", "n_inputs=N"],
    "ambiguous": ["found 2 objects containing 2 to 3 elements", "'x' has 2", "'y' has 3", "Shared"],
    "too-many-arguments": ["f(x, y, z=3)"],
    "unknown-argument": ["'w'", "f(x, y, z=3)"],
    "not-callable": ["callable", "int"],
    "n_inputs-none-fits": ["required length of 5", "'x' has 2"],
    "n_inputs-zero": ["`n_inputs`", "0"],
    "lengths-differ": ["'x' has 2", "'y' has 3"],
    "axis": ["'x'", "axis 2", "(2, 3)"],
    "two-None": ["exactly one `None`"],
    "no-None": ["exactly one `None`"],
    "negative-shape": ["non-negative", "-1"],
    "shape-not-a-tuple": ["tuple"],
    "dtype": ["`result_dtype`", "no such"],
    "dtype-of-strings": ["`result_dtype`", "U5"],
    "payload": ["'rank' or 'computation'", "'node'"],
    "single_file-in-memory": ["`single_file`", "write_worker_results"],
    "single_file-per-computation": ["`single_file`", "payload"],
    "inf-in-memory": ["np.inf", "write_worker_results"],
    "root-with-files": ["`root`", "write_worker_results=False"],
    "root-too-high": ["`root`", "99"],
    "output_dir": ["`output_dir`", "int"],
    "comm": ["`comm`", "communicator", "'world'"],
    "isolate": ["`isolate`", "'no'"],
    "write_worker_results": ["`write_worker_results`", "None"],
    "arguments-twice": ["given twice", "y"],
    "arguments-not-a-dict": ["`arguments`", "[1]"],
    "unpicklable": ["pickle", "inside the function"],
    "one-rank-alone": ["rank 1", "found 0 objects"],
}


def run_program(mpiexec: Any, folder: Path, n: int, text: str) -> dict[str, Any]:
    """Run an SPMD program that prints JSON; return that, with its stderr."""
    script = folder / "program.py"
    script.write_text(textwrap.dedent(text))
    work = folder / "work"
    work.mkdir(exist_ok=True)
    ran = mpiexec(n, script, cwd=work)
    assert ran.returncode == 0, ran.stderr
    return {**json.loads(ran.stdout), "stderr": ran.stderr}


OF_THE_WRONG_TYPE = {
    *("shape-not-a-tuple", "dtype", "output_dir", "comm", "isolate", "write_worker_results")
}


@pytest.fixture(scope="module")
def wrong(mpiexec, tmp_path_factory) -> dict[str, Any]:
    """Return what every rank of three got for every wrong call."""
    return run_program(mpiexec, tmp_path_factory.mktemp("wrong"), 3, WRONG)


@pytest.mark.parametrize("mistake", EXPLANATIONS)
def test_a_wrong_call_raises_alike_on_every_rank(wrong, mistake):
    first, *others = wrong[mistake]

    assert first[0] == ("InputTypeError" if mistake in OF_THE_WRONG_TYPE else "InputError")
    for text in EXPLANATIONS[mistake]:
        assert text in first[1]
    assert others == [first, first]


def test_wrong_calls_create_nothing(wrong):
    assert wrong["created"] == [[], [], []]


def test_a_wrong_call_does_not_hinder_the_next(wrong):
    assert wrong["afterwards"] == [["result", [18, 24]]] * 3


RIGHT = (
    CALLS
    + """
rank = world.rank

# --- failures
try:
    acme_mpi.map(fail_at, list(range(6)), [1, 4], n_inputs=6, **MEMORY)
except acme_mpi.TaskError as error:
    caught = error
fact("task-error", [
    str(caught), isinstance(caught, RuntimeError), caught.results,
    [[e.index, e.type, e.message, e.rank, e.attempt] for e in caught.failures],
])
fact("failure", [caught.failures[0].traceback, caught.failures[0].call,
                 caught.failures[0].location, caught.failures[0].host])
for root in (0, 2):
    try:
        acme_mpi.map(fail_at, list(range(6)), [1, 4], n_inputs=6, root=root, **MEMORY)
    except acme_mpi.TaskError as error:
        fact(f"task-error-root-{root}", error.results)
try:
    acme_mpi.map(fail_at, list(range(3)), [1], n_inputs=3, result_shape=(None,), **MEMORY)
except acme_mpi.TaskError as error:
    fact("task-error-rows", repr(error.results))

# --- one rank's arguments differ
warned.clear()
fact("differs", outcome(f, [2, 4], 4 + (rank == 1), **MEMORY))
fact("differs-warned", list(warned))
warned.clear()
fact("differs-array", outcome(f, x=np.arange(2.0) + (rank == 2), y=4, **MEMORY)[0])
fact("differs-array-warned", list(warned))
warned.clear()
fact("same", outcome(f, [2, 4], np.ones((2, 2)), **MEMORY)[0])
fact("same-warned", list(warned))

# --- each rank calls its own function
seen = acme_mpi.map(lambda i: (rank, os.getppid()), list(range(60)), **MEMORY)
fact("own-function", seen)
fact("agent", os.getpid())

# --- communicators
half = world.Split(rank % 2)
fact("halves", outcome(lambda i: (i, rank % 2), list(range(20)), comm=half, **MEMORY))
fact("halves-files", [
    os.path.relpath(p) for p in
    acme_mpi.map(f, [2, 4, 6, 8], 4, comm=half, output_dir=f"half{rank % 2}")
])
fact("self", outcome(f, [2, 4], rank, comm=MPI.COMM_SELF, **MEMORY))
if rank == 0:
    alone = outcome(f, [1], 1, comm=MPI.COMM_SELF, **MEMORY)
fact("one-rank-only", alone if rank == 0 else None)

# --- root
for root in (None, 0, 2):
    fact(f"root-{root}", outcome(f, [2, 4, 6, 8], 4, root=root, **MEMORY))
fact("root-rows", outcome(f, [2, 4], 4, root=1, result_shape=(None,), **MEMORY))


# --- names that collide
def collide(func, comm, root, n_inputs, payload=0):
    return [func, comm, root, n_inputs, payload]


fact("collide", outcome(
    collide, arguments={"func": [1, 2], "comm": "c", "root": 5, "n_inputs": "n"}, **MEMORY
))

# --- in this process
def where(i):
    return world.rank, os.getpid()


fact("inline", outcome(where, list(range(30)), isolate=False, **MEMORY))
communicator = world.Split(0 if rank == 0 else 1)
fact("inline-live", outcome(
    lambda i: communicator.Get_size(), list(range(10)), isolate=False, n_inputs=10, **MEMORY
))

# --- distribution
fact("split-axis", outcome(
    lambda a, b: [a.tolist(), b.tolist()],
    PerTask(np.arange(6).reshape(2, 3), axis=1), Shared(np.arange(3)), **MEMORY
))
fact("equal-calls", outcome(lambda x: x, 7, n_inputs=5, **MEMORY))
fact("generator", outcome(lambda x: x + 1, (k for k in range(4)), **MEMORY))
fact("builtin", outcome(max, [1, 5, 2], 3, **MEMORY))
fact("task-id", outcome(lambda x, taskID: [x, taskID], ["a", "b", "c"], **MEMORY))
fact("task-id-inline", outcome(
    lambda x, taskID: [x, taskID], ["a", "b", "c"], isolate=False, **MEMORY
))
for store, kwargs in STORES.items():
    for shape in ({}, {"result_shape": (None,), "result_dtype": "i8"}):
        name = f"ids-{store}" + "-rows" * bool(shape)
        acme_mpi.map(lambda taskID: taskID, n_inputs=9, output_dir=name, **kwargs, **shape)

# --- storage
open("a-file", "w").close()
fact("below-a-file", outcome(f, [2, 4], 4, output_dir="a-file/out"))
acme_mpi.map(f, [2, 4], 4, output_dir="again")
before = os.stat("again/f.h5").st_mtime_ns
fact("again", outcome(f, [3, 5], 4, output_dir="again"))
fact("again-untouched", before == os.stat("again/f.h5").st_mtime_ns)


def g(x):
    return x


fact("beside", [os.path.relpath(p) for p in acme_mpi.map(g, [1, 2], output_dir="again")])

# --- what is in the directory after default calls
paths = acme_mpi.map(f, [2, 4], 4)
fact("default", [os.path.relpath(p) for p in paths])
if rank == 0:
    facts["pids"] = facts.pop("agent")
    print(json.dumps(facts))
"""
)


@pytest.fixture(scope="module")
def right_folder(tmp_path_factory) -> Path:
    """Return the folder of the program of `right`."""
    return tmp_path_factory.mktemp("right")


@pytest.fixture(scope="module")
def right(mpiexec, right_folder) -> dict[str, Any]:
    """Return what each of three ranks got for calls that are right."""
    return run_program(mpiexec, right_folder, 3, RIGHT)


def test_every_rank_raises_the_same_task_error(right):
    first, *others = right["task-error"]

    text, is_runtime_error, results, failures = first
    assert text.startswith("2 of 6 tasks failed, first: task 1 on rank ")
    assert is_runtime_error
    assert results == [0.5, None, 2.5, 3.5, None, 5.5]
    assert [failure[:3] for failure in failures] == [
        [1, "KeyError", "'bad 1'"],
        [4, "KeyError", "'bad 4'"],
    ]
    assert all(rank in (0, 1, 2) and attempt == 1 for *_, rank, attempt in failures)
    assert others == [first, first]


def test_a_failure_shows_the_user_code_alone(right):
    traceback, call, location, host = right["failure"][0]

    assert "raise KeyError" in traceback
    assert "acme_mpi/" not in traceback.replace("program.py", "")
    assert call == "fail_at(1, [1, 4])"
    line = RIGHT.splitlines().index('        raise KeyError(f"bad {i}")') + 1
    assert location.endswith(f"program.py:{line}")
    assert host


def test_results_of_a_task_error_go_to_the_root_alone(right):
    results = [0.5, None, 2.5, 3.5, None, 5.5]

    assert right["task-error-root-0"] == [results, None, None]
    assert right["task-error-root-2"] == [None, None, results]


def test_rows_of_a_task_error_are_nan(right):
    assert right["task-error-rows"] == ["array([0.5, nan, 2.5])"] * 3


def test_rank_0s_arguments_count_and_another_is_named(right):
    """The arguments of rank 0 count and a rank that differs is named."""
    assert right["differs"] == [["result", [18, 24]]] * 3
    warned = right["differs-warned"]
    assert warned[0] == ["argument `y` differs on rank(s) 1; the value of rank 0 is used"]
    assert right["differs-array-warned"][0] == [
        "argument `x` differs on rank(s) 2; the value of rank 0 is used"
    ]


def test_ranks_that_agree_are_not_warned_about(right):
    assert right["same"] == ["result"] * 3
    assert right["same-warned"] == [[], [], []]


def test_each_rank_calls_its_own_function_in_a_child(right):
    """The closure of rank r says r, and its parent is the agent of rank r."""
    seen = right["own-function"][0]

    assert len(seen) == 60
    assert {tuple(pair) for pair in seen} <= set(enumerate(right["pids"]))


def test_two_halves_run_at_once(right):
    assert right["halves"] == [["result", [[i, r % 2] for i in range(20)]] for r in range(3)]
    assert right["halves-files"] == [[f"half{r % 2}/f.h5"] for r in range(3)]


def test_a_communicator_of_one_rank(right):
    assert right["self"] == [["result", [(2 + r) * 3, (4 + r) * 3]] for r in range(3)]
    assert right["one-rank-only"] == [["result", [6]], None, None]


@pytest.mark.parametrize("root", [0, 2])
def test_results_in_memory_go_to_the_root_alone(right, root):
    expected = [["result", None]] * 3
    expected[root] = ["result", [18, 24, 30, 36]]

    assert right[f"root-{root}"] == expected
    assert right["root-None"] == [["result", [18, 24, 30, 36]]] * 3
    assert right["root-rows"] == [["result", None], ["result", [18, 24]], ["result", None]]


def test_arguments_with_names_of_our_own_keywords(right):
    expected = [[k, "c", 5, "n", 0] for k in (1, 2)]

    assert right["collide"] == [["result", expected]] * 3


def test_without_isolation_ranks_call_the_function_themselves(right):
    """And rank 0, which hands out, does not."""
    kind, seen = right["inline"][0]

    assert kind == "result"
    assert {tuple(pair) for pair in seen} <= set(list(enumerate(right["pids"]))[1:])


def test_without_isolation_functions_may_use_live_objects(right):
    assert right["inline-live"] == [["result", [2] * 10]] * 3


def test_marked_arguments(right):
    expected = [[[k, k + 3], [0, 1, 2]] for k in range(3)]

    assert right["split-axis"] == [["result", expected]] * 3


def test_equal_calls(right):
    assert right["equal-calls"] == [["result", [7] * 5]] * 3


def test_generators_and_functions_without_a_signature(right):
    assert right["generator"] == [["result", [1, 2, 3, 4]]] * 3
    assert right["builtin"] == [["result", [3, 5, 3]]] * 3


def test_task_id_is_the_index_in_every_mode(right, right_folder, content_of):
    expected = [["a", 0], ["b", 1], ["c", 2]]
    assert right["task-id"] == [["result", expected]] * 3
    assert right["task-id-inline"] == [["result", expected]] * 3
    for folder in ("ids-rank", "ids-computation", "ids-single"):
        content = content_of(right_folder / "work" / folder / "lambda.h5")
        assert list(content.values()) == [stored(np.array([i])) for i in range(9)], folder
        content = content_of(right_folder / "work" / f"{folder}-rows" / "lambda.h5")
        assert content == {"result_0": stored(np.arange(9))}, folder


def test_a_directory_that_cannot_be_made_is_refused_alike_on_every_rank(right):
    first, *others = right["below-a-file"]

    assert first[0] == "PlaceError"
    assert "a-file/out" in first[1]
    assert "Not a directory" in first[1]
    assert others == [first, first]


def test_a_container_is_never_overwritten(right):
    first, *others = right["again"]

    assert first[0] == "PlaceError"
    assert "again/f.h5 exists" in first[1]
    assert others == [first, first]
    assert right["again-untouched"] == [True] * 3


def test_two_functions_share_a_directory(right):
    assert right["beside"] == [["again/g.h5"]] * 3


def test_the_default_directory_is_named_after_the_time(right):
    first, *others = right["default"]

    name, container = first[0].split("/")
    assert container == "f.h5"
    date, time_, fraction = name.removeprefix("ACME_").split("-")
    assert [len(date), len(time_), len(fraction)] == [8, 6, 6]
    assert others == [first, first]


LATE = (
    CALLS
    + """
import acme_mpi.comm.mpi

acme_mpi.comm.mpi.ROLL_CALL_S = 0.05


class Release(logging.Handler):
    # Lets rank 1 go as soon as it is named.
    def emit(self, record):
        if "still waiting" in record.getMessage():
            world.send(record.getMessage(), 1)


if world.rank == 0:
    logging.getLogger("acme_mpi").addHandler(Release())
named = world.recv(source=0) if world.rank == 1 else None
results = outcome(f, [2, 4, 6, 8], 4, **MEMORY)
fact("results", results)
fact("named", named)
if world.rank == 0:
    print(json.dumps(facts))
"""
)


def test_a_rank_that_does_not_come_is_named(mpiexec, tmp_path):
    """Rank 1 comes only when rank 0 has said that it is missing."""
    said = run_program(mpiexec, tmp_path, 3, LATE)

    assert "rank(s) 1 of 3 have not made this call after 10 s" in said["named"][1]
    assert said["results"] == [["result", [18, 24, 30, 36]]] * 3


def test_importing_the_package_does_not_initialise_mpi(mpiexec, tmp_path):
    ran = mpiexec(0, "-c", "import sys, acme_mpi; print('mpi4py.MPI' in sys.modules)")

    assert ran.stdout == "False\n"


EARLY = """
import os, sys
from acme_mpi.comm import start
from acme_mpi.linux.processes import children_of

def load():
    print(len(children_of(os.getpid())), flush=True)
    return mpi()

mpi, start._load_mpi = start._load_mpi, load
import acme_mpi
acme_mpi.map(abs, [-1, 2], isolate=sys.argv[1] == "isolated", write_worker_results=False)
"""


@pytest.mark.parametrize(("how", "n"), [("isolated", 1), ("inline", 0)])
def test_a_ranks_runner_starts_before_mpi_does(mpiexec, how, n):
    assert mpiexec(1, "-c", EARLY, how).stdout == f"{n}\n"
