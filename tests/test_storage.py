"""Stores: what the runs of one form leave in HDF5, read back by plain h5py, bit by bit.

The store in memory is the oracle. This file is also the script by which real ranks write.
"""

from __future__ import annotations

import contextlib
import faulthandler
import gc
import os
import resource
import shutil
import subprocess
import sys
import traceback
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest

from acme_mpi.call import Options, Output, Work
from acme_mpi.checksum import SUM
from acme_mpi.comm import SerialWorld, ThreadWorld, World, finalize, make_world
from acme_mpi.errors import InputError, StoreError
from acme_mpi.journal import Block, pack_record, read_journal
from acme_mpi.results import PLACED_BYTES, Encoder, RowSpec, make_row_spec, to_parts
from acme_mpi.runner.base import Outcome
from acme_mpi.runner.pickling import Frozen, dump_values
from acme_mpi.session.values import values_of
from acme_mpi.storage import (
    STORES,
    Layout,
    MemoryStore,
    Store,
    Stored,
    StoreKind,
    container,
    find_store,
    linked,
    make_store,
    packed_rows,
    payload_file,
)
from acme_mpi.storage.beginning import Wanted, begin
from acme_mpi.storage.committer import Committer
from acme_mpi.storage.description import Description
from acme_mpi.storage.faults import faults
from acme_mpi.storage.folders import choose_layout, make_folders
from acme_mpi.storage.records import read_history
from acme_mpi.storage.verify import look

FAILED = object()  # in the place of the value of a task that has no result
KINDS = [each.name for each in STORES.values() if each.has_container]
N_LARGE = PLACED_BYTES // 8  # float64 values that are just enough to be placed
POINT = np.dtype([("x", "<f8"), ("n", ">i2"), ("v", "<f4", (2,))])

every_kind = pytest.mark.parametrize("kind", KINDS)
every_size = pytest.mark.parametrize("size", [1, 3])


@dataclass(frozen=True)
class Case:
    """The return values of all tasks of a run, and the form that the user asked for."""

    values: Sequence[Any]
    shape: tuple[Any, ...] | None = None
    dtype: Any = "float64"

    @property
    def spec(self) -> RowSpec | None:
        return make_row_spec(self.shape, self.dtype)

    @property
    def missing(self) -> list[int]:
        return [index for index, value in enumerate(self.values) if value is FAILED]


def large(seed: int = 0, n: int = N_LARGE, dtype: Any = "f8") -> Any:
    """Return an array that is written in place."""
    return ((np.arange(n) * 7 + seed) % 100).astype(dtype)


def grid(seed: int, *shape: int) -> Any:
    return np.arange(np.prod(shape)).reshape(shape) + 100.0 * seed


# Values of any form; each task becomes a group.
FREE = {
    "integers": Case([0, -(2**63), 2**63 - 1, np.int8(-3), np.uint64(2**64 - 1)]),
    "floats": Case([0.5, -0.0, np.nan, np.inf, np.float32(1.5), np.float16(1e-7)]),
    "booleans": Case([True, False, np.array([True, False])]),
    "complex": Case([1 + 2j, np.complex64(1j), np.array([1j, complex("nan")])]),
    "float16": Case([np.ones((2, 3), np.float16) * k for k in range(3)]),
    "big endian": Case([np.arange(5, dtype=">f8"), np.arange(5, dtype=">i2")]),
    "strings": Case(["text", "", "Größe \U0001f600", ["a", "", "Größe"], np.array([["a", "bc"]])]),
    "bytes": Case([b"text", [b"a", b"bc"], b"\xff"]),
    "nothing": Case([None, None]),
    "empty": Case([[], np.empty((0, 3)), np.empty((2, 0), "i4"), (), np.array([], object)]),
    "ragged": Case([np.arange(k) for k in range(5)]),
    "several": Case([(1, 2.5), (np.ones(3), "text", None), [[1], [1, 2]], (True,), ("a", ["b"])]),
    "structured": Case([np.array([(1.5, 2, (3, 4))] * k, POINT) for k in (1, 3)]),
    "scalars in arrays": Case([np.array(5), np.array("text"), np.array(1j)]),
    "fortran order": Case([np.asfortranarray(grid(1, 3, 4)), grid(2, 4, 3).T, grid(3, 9)[::2]]),
    "mixed": Case([1, "a", None, 2.5, np.ones(3), (1, None), [], True, 1j, b"x", ["a"], 3, 4]),
    "failed first, last and in between": Case(
        [FAILED, 1, 2, FAILED, FAILED, 5, 6, 7, FAILED, 9, 10, 11, FAILED]
    ),
    "all failed": Case([FAILED] * 4),
    "no tasks": Case([]),
    "more than ten": Case(list(range(25))),
    "large": Case([large(k) for k in range(4)]),
    "large and small": Case([large(1), 2, FAILED, (large(3), "a", large(4), None), large(5), 6]),
    "large of every dtype": Case(
        [large(1, PLACED_BYTES, d) for d in ("?", "i1", "f2", ">f8", "c8", "S3")]
        + [np.asfortranarray(large(2, 4 * N_LARGE).reshape(2, 2, -1))]
    ),
    "large structured and strings": Case(
        [np.zeros(N_LARGE, POINT), np.array(["Größe"] * N_LARGE, object)]
    ),
}

# Values of one form; they become rows of one dataset.
ROWS = {
    "scalars": Case([k / 3 for k in range(13)], (None,)),
    "scalars of other types": Case([1, True, np.float32(0.5), np.array(2)], (None,)),
    "axis 0": Case([grid(k, 2, 3) for k in range(11)], (None, 2, 3)),
    "axis 1": Case([grid(k, 2, 3) for k in range(11)], (2, None, 3)),
    "axis 2": Case([grid(k, 2, 3) for k in range(11)], (2, 3, None)),
    "integers": Case([[k, -k] for k in range(5)], (None, 2), "int32"),
    "booleans": Case([[True, False]] * 4, (None, 2), "bool"),
    "complex": Case([[1j * k, k] for k in range(4)], (2, None), "complex64"),
    "float16": Case([np.float16(k) / 3 for k in range(4)], (None,), "float16"),
    "big endian": Case([[k, 0.5] for k in range(4)], (None, 2), ">f8"),
    "no entries": Case([np.empty((0, 2))] * 4, (None, 0, 2)),
    "one task": Case([3.5], (None,)),
    "no tasks": Case([], (None, 2)),
    "all failed": Case([FAILED] * 3, (None, 2)),
    "failed": Case([FAILED, 1, FAILED, FAILED, 4, 5, 6, FAILED], (None,)),
    "failed integers": Case([[1, 2], FAILED, [3, 4]], (None, 2), "int64"),
    "failed booleans": Case([True, FAILED, True], (None,), "bool"),
    "failed complex": Case([FAILED, 1j], (None,), "complex128"),
    "failed on axis 1": Case([grid(0, 2), FAILED, grid(2, 2), grid(3, 2)], (2, None)),
    "further values": Case(
        [1, (2, "a"), (3, None, np.ones(2)), FAILED, (5,), 6, (7, large(7))], (None,)
    ),
    "large": Case([large(k) for k in range(5)], (None, N_LARGE)),
    "large with failures": Case([FAILED, large(1), large(2), FAILED, large(4)], (None, N_LARGE)),
    "large on axis 1": Case([large(k).reshape(2, -1) for k in range(4)], (2, None, N_LARGE // 2)),
    "large on the last axis": Case([large(k) for k in range(4)], (N_LARGE, None)),
    "large with further values": Case(
        [(large(k), k, large(k + 50)) for k in range(4)], (None, N_LARGE)
    ),
}

# One axis differs from task to task; rows are padded.
RAGGED = {
    "one axis": Case([np.arange(k) for k in (2, 0, 5, 3)], (None, np.inf)),
    "in front": Case([grid(k, k, 2) for k in (3, 1, 2)], (np.inf, None, 2)),
    "behind": Case([grid(k, 2, k) for k in (3, 1, 2)], (2, np.inf, None)),
    "integers": Case([np.arange(k) for k in (1, 3)], (None, np.inf), "int32"),
    "failed": Case([FAILED, np.ones(2), FAILED, np.ones(3)], (None, np.inf)),
    "all failed": Case([FAILED] * 3, (None, np.inf)),
    "no tasks": Case([], (None, np.inf)),
    "all empty": Case([np.empty(0)] * 3, (None, np.inf)),
    "further values": Case([(np.ones(k), f"task {k}") for k in (2, 1, 3)], (None, np.inf)),
    "large": Case([large(k, N_LARGE + 10 * k) for k in range(4)], (None, np.inf)),
}

CASES = {
    **{f"free-{name}": case for name, case in FREE.items()},
    **{f"rows-{name}": case for name, case in ROWS.items()},
    **{f"ragged-{name}": case for name, case in RAGGED.items()},
}


def encode(
    store: Store,
    case: Case,
    chunk: range,
    in_memory: bool = False,
    grants: Callable[[int, int], bool] = lambda index, k: True,
) -> Outcome:
    """Return the outcome of a chunk; large arrays are written where the store says."""

    def place(index: int, k: int, shape: tuple[int, ...], dtype: str) -> Any:
        site = store.place(index, k, shape, dtype) if grants(index, k) else None
        return None if site is None else lambda array: write_at(*site, array)

    can_place = store.can_place and not in_memory
    encoder = Encoder(case.spec, in_memory, place if can_place else None, dump_values, Frozen)
    failures = []
    for index in chunk:
        if case.values[index] is FAILED:
            failures.append({"index": index, "type": "ValueError", "message": "bad"})
        else:
            encoder.add(index, case.values[index])
    return Outcome(chunk.start, chunk.stop, failures, encoder.take(), 1000)


def write_at(path: str, offset: int, array: Any) -> None:
    descriptor = os.open(path, os.O_WRONLY)
    try:
        os.pwrite(descriptor, array.tobytes("C"), offset)
    finally:
        os.close(descriptor)


def make_layout(*where: Any) -> Layout:
    """Make the directories of a run; kind, name, output directory and base as `choose_layout`."""
    layout = choose_layout(*where)
    make_folders(where[0], layout)
    return layout


def open_store(world: World, kind: str, directory: Path | str, case: Case) -> Store:
    """Return an open store of this rank. Collective."""
    layout = world.bcast(
        make_layout(kind, "f", str(directory), os.getcwd()) if world.is_master else None
    )
    store = make_store(kind, world, layout, case.spec, len(case.values))
    store.open()
    return store


def write_case(
    world: World, kind: str, directory: Path | str, case: Case, n_chunk: int = 3, **options: Any
) -> Stored:
    """Write all tasks of a case in chunks, dealt to the ranks in turn. Collective."""
    store = open_store(world, kind, directory, case)
    n_tasks = len(case.values)
    chunks = [range(k, min(k + n_chunk, n_tasks)) for k in range(0, n_tasks, n_chunk)]
    for chunk in chunks[world.rank :: world.size]:
        store.write(encode(store, case, chunk, **options))
    store.close()
    world.barrier()  # the container is made from what all ranks have recorded
    return store.commit()


def run_world(size: int, func: Callable[[World], Any]) -> list[Any]:
    """Call ``func(world)`` on the ranks of a world of one of the two kinds."""
    return [func(SerialWorld())] if size == 1 else ThreadWorld.run(size, func)


def store_case(kind: str, size: int, directory: Path, case: Case, **options: Any) -> Path:
    """Write a case and return the path of its container."""

    def write(world: World) -> Stored:
        return write_case(world, kind, directory, case, **options)

    stored = run_world(size, write)
    paths = {each.container for each in stored}
    assert paths == {find_store(kind).layout(str(directory), "f").container}
    return Path(paths.pop())


def from_memory(case: Case) -> tuple[Any, list[Any]]:
    """Return (stacked rows or None, value or further values of every task) of the oracle."""
    world, spec, n_tasks = SerialWorld(), case.spec, len(case.values)
    store = MemoryStore(world, Layout("", "f"), spec, n_tasks)
    if spec is None:
        store.write(encode(store, case, range(n_tasks), in_memory=True))
        return None, values_of(store.commit(), Options(Work("f", n_tasks), Output("memory")))[0]
    if spec.is_ragged:
        return pad(case), [further(value) for value in case.values]
    plain = [first(value) for value in case.values]
    store.write(encode(store, Case(plain, case.shape, case.dtype), range(n_tasks)))
    rows, _ = values_of(store.commit(), Options(Work("f", n_tasks, spec), Output("memory")))
    return rows, [further(value) for value in case.values]


def first(value: Any) -> Any:
    return value[0] if isinstance(value, tuple) else value


def further(value: Any) -> tuple[Any, ...]:
    return value[1:] if isinstance(value, tuple) else ()


def pad(case: Case) -> Any:
    """Return the rows of differing length as one array, by plain NumPy."""
    spec = case.spec
    assert spec is not None
    rows = {k: np.asarray(first(v)) for k, v in enumerate(case.values) if v is not FAILED}
    longest = max((row.shape[spec.shape.index(np.inf)] for row in rows.values()), default=0)
    shape = [longest if n == np.inf else int(n) for n in spec.shape]
    blank = np.nan if np.dtype(spec.dtype).kind in "fc" else 0
    stacked = np.full((len(case.values), *shape), blank, spec.dtype)
    for index, row in rows.items():
        stacked[(index, *(slice(0, n) for n in row.shape))] = row
    return np.ascontiguousarray(np.moveaxis(stacked, 0, spec.axis))


def describe(part: Any) -> tuple[Any, ...]:
    """Return an array as `content_of` describes the dataset that it becomes."""
    if part is None:
        return "<f8", None, b""
    if part.dtype.kind in "OU":
        return "str", part.shape, tuple(part.ravel().tolist())
    kind = part.dtype.descr if part.dtype.names else part.dtype.str
    return kind, part.shape, part.tobytes()


def expected_content(case: Case) -> dict[str, tuple[Any, ...]]:
    """Return what the container of a case has to hold, and nothing else."""
    rows, values = from_memory(case)
    content = {}
    if rows is not None:
        content["result_0"] = describe(rows)
        if case.missing:
            content["result_0@missing"] = ("<i8", (len(case.missing),), case.missing)
    for index, value in enumerate(values):
        if rows is None and case.values[index] is not FAILED:
            for k, part in enumerate(to_parts(value)):
                content[f"comp_{index}/result_{k}"] = describe(part)
        elif rows is not None:
            for k, entry in enumerate(value, 1):
                (part,) = to_parts((entry,))
                content[f"comp_{index}/result_{k}"] = describe(part)
    return content


def every_case_of(*stores: StoreKind) -> pytest.MarkDecorator:
    """Have a test called for each of some stores, with all cases that it can hold."""
    pairs = [
        pytest.param(store.name, case, id=f"{store.name}-{name}")
        for store in stores
        for name, case in CASES.items()
        if store.holds_ragged or case.spec is None or not case.spec.is_ragged
    ]
    return pytest.mark.parametrize(("kind", "case"), pairs)


@every_size
class Conformance:
    """What every store of the table does that makes a container.

    Subclasses say which `kind`, and the fixture `content_of` how its container is read.
    """

    def test_the_container_holds_what_memory_holds(self, kind, size, case, tmp_path, content_of):
        path = store_case(kind, size, tmp_path / "out", case)

        assert content_of(path) == expected_content(case)

    def test_what_is_recorded_is_found_again_in_the_files(self, kind, size, case, tmp_path):
        """And only that: `check` finds no fault in what was not touched."""
        store_case(kind, size, tmp_path / "out", case)
        layout, n_tasks = find_store(kind).layout(str(tmp_path / "out"), "f"), len(case.values)
        store = make_store(kind, SerialWorld(), layout, case.spec, n_tasks)
        history = read_history(layout.dot_folder)

        assert np.flatnonzero(~history.is_done(n_tasks)).tolist() == case.missing
        assert list(faults(store, history.done)) == []
        assert look(store, history)[0] == []


@every_case_of(*(STORES[kind] for kind in KINDS))
class TestConformance(Conformance):
    """Of the stores whose container is HDF5."""


def test_a_rank_that_lets_go_of_a_task_leaves_the_files_of_others_alone(tmp_path, content_of):
    """The array was placed for a runner that died; another rank has the task now."""
    case = Case([large(0), (large(1), large(2))])

    def write(world: World) -> None:
        store = open_store(world, "computation", tmp_path / "out", case)
        if world.is_master:
            assert store.place(1, 0, (N_LARGE,), "<f8") is not None
            store.let_go(range(1, 2))
        world.barrier()
        if not world.is_master:
            store.write(encode(store, case, range(2)))
        world.barrier()
        store.close()
        world.barrier()
        store.commit()

    run_world(2, write)

    assert content_of(tmp_path / "out" / "f.h5") == expected_content(case)


@pytest.mark.parametrize("name", [name for name in CASES if "large" in name])
@every_kind
def test_some_large_arrays_may_be_refused_a_place(kind, name, tmp_path, content_of):
    case = CASES[name]
    path = store_case(
        kind, 1, tmp_path / "out", case, n_chunk=4, grants=lambda index, k: (index + k) % 3 != 1
    )

    assert content_of(path) == expected_content(case)
    layout, n_tasks = Layout(str(path.parent), "f"), len(case.values)
    store = make_store(kind, SerialWorld(), layout, case.spec, n_tasks)
    assert list(faults(store, read_history(layout.dot_folder).done)) == []


# Results whose 64-bit words add up to zero, or to the same in another order.
PLAIN = {
    "ones": (np.ones(2**16), np.zeros(2**16)),
    "threes": (np.full(2**17, 3.0), np.zeros(2**17)),
    "ordered": (np.arange(2.0**14), np.arange(2.0**14)[::-1]),
    "small": (np.arange(4.0), np.arange(4.0)[::-1]),
    "blocks": (np.repeat([1.0, 2.0], 2**14), np.repeat([2.0, 1.0], 2**14)),
}


@pytest.mark.parametrize("name", PLAIN)
@pytest.mark.parametrize("as_rows", [False, True], ids=["groups", "rows"])
@every_kind
def test_zeroed_and_exchanged_words_are_found(kind, as_rows, name, tmp_path):
    value, other = PLAIN[name]
    case = Case([value, value + 7, value + 9], (None, len(value)) if as_rows else None)
    path = store_case(kind, 1, tmp_path / "out", case, n_chunk=1)
    store = make_store(kind, SerialWorld(), Layout(str(path.parent), "f"), case.spec, 3)
    done = read_history(store.layout.dot_folder).done
    assert list(faults(store, done)) == []

    (file,) = {each for each in path.parent.rglob("*.h5") if value.tobytes() in each.read_bytes()}
    file.write_bytes(file.read_bytes().replace(value.tobytes(), other.tobytes()))

    found = list(faults(store, done))
    assert found
    assert found[0].startswith("tasks 0 to 0: ")


@pytest.mark.parametrize(
    "name",
    ["free-mixed", "free-large and small", "rows-further values", "rows-large", "rows-axis 1"],
)
@every_kind
def test_sums_of_earlier_versions_are_still_compared(kind, name, tmp_path):
    case = CASES[name]
    path = store_case(kind, 1, tmp_path / "out", case)
    layout, n_tasks = Layout(str(path.parent), "f"), len(case.values)
    store = make_store(kind, SerialWorld(), layout, case.spec, n_tasks)
    ((blocks, _),) = read_journal(layout.journal(0))
    blocks = blocks[blocks["kind"] == Block.DONE]  # of files they did not speak
    digests = [store.measure(SumOf(block)) for block in blocks]
    Path(layout.journal(0)).write_bytes(
        b"".join(
            pack_record(
                range(block["first"], block["first"] + block["count"]),
                form=int(block["form"]),
                payload=int(block["payload"]),
                offset=int(block["offset"]),
                n_bytes=digest.n_bytes,
                checksum=digest.number,
                digest=SUM,
            )
            for block, digest in zip(blocks, digests, strict=True)
        )
    )

    done = read_history(layout.dot_folder).done
    assert set(done["digest"]) == {SUM}
    assert list(faults(store, done)) == []
    done["checksum"][-1] ^= 1
    assert f"tasks {done['first'][-1]} to" in next(faults(store, done))


class SumOf(dict[str, Any]):
    """A record as an earlier version has written it."""

    def __init__(self, block: Any) -> None:
        super().__init__({name: block[name] for name in block.dtype.names}, rank=0, digest=SUM)


@every_kind
class TestContainer:
    @pytest.mark.parametrize("n_chunk", [1, 2, 7, 100])
    @every_size
    def test_it_does_not_depend_on_the_chunks(self, kind, size, n_chunk, tmp_path, content_of):
        case = CASES["rows-further values"]
        path = store_case(kind, size, tmp_path / "out", case, n_chunk=n_chunk)

        assert content_of(path) == expected_content(case)

    def test_its_groups_come_in_task_order(self, kind, tmp_path):
        """Also where ranks, chunks and the alphabet have another one."""
        case = Case([k if k % 7 else FAILED for k in range(30)])
        path = store_case(kind, 3, tmp_path / "out", case)

        with h5py.File(path) as file:
            assert list(file) == [f"comp_{k}" for k in range(30) if k % 7]

    def test_a_task_without_a_result_is_a_hole_and_nothing_else_is_there(self, kind, tmp_path):
        path = store_case(kind, 1, tmp_path / "out", Case([FAILED, 1, FAILED]))

        with h5py.File(path) as file:
            assert list(file) == ["comp_1"]
            assert dict(file.attrs) == {}

    @pytest.mark.parametrize("shape", [(None, 2), (2, None), (None, np.inf)])
    def test_missing_rows_are_listed_and_nan(self, kind, shape, tmp_path):
        case = Case([[1, 2], FAILED, [3, 4], FAILED], shape)
        path = store_case(kind, 3, tmp_path / "out", case, n_chunk=1)

        with h5py.File(path) as file:
            rows = np.moveaxis(file["result_0"][()], shape.index(None), 0)
            assert file["result_0"].attrs["missing"].tolist() == [1, 3]
        np.testing.assert_array_equal(rows, [[1, 2], [np.nan] * 2, [3, 4], [np.nan] * 2])

    def test_without_missing_rows_there_is_no_such_attribute(self, kind, tmp_path):
        path = store_case(kind, 1, tmp_path / "out", Case([1.0, 2.0], (None,)))

        with h5py.File(path) as file:
            assert dict(file["result_0"].attrs) == {}

    def test_thousands_of_missing_rows_are_listed(self, kind, tmp_path):
        """An attribute above 64 KiB needs another place in the file."""
        case = Case([1.0] + [FAILED] * 9000, (None,))
        path = store_case(kind, 1, tmp_path / "out", case, n_chunk=5000)

        with h5py.File(path) as file:
            assert file["result_0"].attrs["missing"].tolist() == list(range(1, 9001))

    @pytest.mark.parametrize("name", ["free-mixed", "rows-further values", "ragged-one axis"])
    @every_size
    def test_it_works_in_another_directory(self, kind, size, name, tmp_path, content_of):
        path = store_case(kind, size, tmp_path / "out", CASES[name])
        (tmp_path / "elsewhere").mkdir()
        shutil.move(tmp_path / "out", tmp_path / "elsewhere" / "moved")

        assert content_of(tmp_path / "elsewhere" / "moved" / path.name) == expected_content(
            CASES[name]
        )

    def test_it_works_from_any_working_directory(self, kind, tmp_path, content_of, monkeypatch):
        store_case(kind, 1, tmp_path / "out", CASES["free-mixed"])
        monkeypatch.chdir(tmp_path)

        assert content_of(Path("out") / "f.h5") == expected_content(CASES["free-mixed"])

    @pytest.mark.parametrize("name", ["free-mixed", "rows-further values", "ragged-further values"])
    def test_h5dump_reads_all_of_it(self, kind, name, tmp_path):
        if shutil.which("h5dump") is None:
            pytest.skip("h5dump is not installed")
        path = store_case(kind, 3, tmp_path / "out", CASES[name])

        for each in [path, *path.parent.rglob("*_payload/*.h5")]:
            done = subprocess.run(
                ["h5dump", "--enable-error-stack", str(each)],
                capture_output=True,
                text=True,
                timeout=60,
            )
            assert done.returncode == 0, done.stderr
            assert "unable" not in done.stderr
            assert "result_" in done.stdout

    def test_long_doubles_keep_their_value(self, kind, tmp_path):
        """Not their bytes: some of the 16 belong to no number."""
        values = np.ones((2, 3), np.longdouble) / 3
        path = store_case(kind, 1, tmp_path / "out", Case(list(values)))

        with h5py.File(path) as file:
            assert file["comp_1/result_0"].dtype == values.dtype
            np.testing.assert_array_equal(file["comp_1/result_0"][()], values[1])

    def test_bytes_that_nobody_wrote_are_nowhere(self, kind, tmp_path, content_of):
        """Datasets are created without a fill: every byte has to come from somewhere."""
        case = Case([np.zeros(k * 1000) for k in range(1, 9)])
        path = store_case(kind, 3, tmp_path / "out", case)

        for _, shape, data in content_of(path).values():
            assert data == bytes(8 * shape[0])

    def test_its_folder_holds_nothing_that_a_user_need_not_see(self, kind, tmp_path):
        path = store_case(kind, 3, tmp_path / "out", CASES["free-mixed"])

        visible = {each.name for each in path.parent.iterdir() if not each.name.startswith(".")}
        assert visible == {"f.h5"} | (set() if kind == "single_file" else {"f_payload"})

    def test_functions_share_a_directory(self, kind, tmp_path, content_of):
        first_path = store_case(kind, 1, tmp_path / "out", Case([1, 2]))
        layout = make_layout(kind, "g", str(tmp_path / "out"), os.getcwd())
        store = make_store(kind, SerialWorld(), layout, None, 1)
        store.open()
        store.write(encode(store, Case([3]), range(1)))
        store.close()
        store.commit()

        assert content_of(first_path) == expected_content(Case([1, 2]))
        assert content_of(tmp_path / "out" / "g.h5") == expected_content(Case([3]))

    def test_a_name_and_a_directory_outside_ascii_work(self, kind, tmp_path, content_of):
        layout = make_layout(kind, "größe", str(tmp_path / "Ø aus"), os.getcwd())
        for case in (Case([1, "a"]),):
            store = make_store(kind, SerialWorld(), layout, None, 2)
            store.open()
            store.write(encode(store, case, range(2)))
            store.close()
            assert content_of(store.commit().container) == expected_content(case)

    def test_an_existing_container_is_never_overwritten(self, kind, tmp_path):
        store_case(kind, 1, tmp_path / "out", Case([1]))

        wanted = Wanted(Description("f", 1, kind), str(tmp_path / "out"), os.getcwd())
        with pytest.raises(InputError, match=r"f\.h5 exists and is never overwritten"):
            begin(wanted, print)

    def test_other_programs_may_hold_it_open(self, kind, tmp_path):
        """No lock stays behind, and none is asked for by a reader."""
        path = store_case(kind, 1, tmp_path / "out", Case([1.0], (None,)))

        with h5py.File(path) as one, h5py.File(path) as other:
            assert one["result_0"][0] == other["result_0"][0] == 1.0


class TestReturned:
    def paths(self, kind, directory, case, size=3):
        def write(world):
            return write_case(world, kind, directory, case).paths

        ranks = run_world(size, write)
        assert all(each == ranks[0] for each in ranks)
        return ranks[0]

    @pytest.mark.parametrize("kind", ["rank", "single_file"])
    def test_it_is_the_container(self, kind, tmp_path):
        assert self.paths(kind, tmp_path / "out", Case([1, 2])) == [str(tmp_path / "out" / "f.h5")]

    def test_with_a_file_per_computation_it_is_their_paths_in_task_order(self, tmp_path):
        paths = self.paths("computation", tmp_path / "out", Case([1, FAILED, 3, 4]))

        folder = tmp_path / "out" / "f_payload"
        assert paths == [str(folder / "f_0.h5"), None, *(str(folder / f"f_{k}.h5") for k in (2, 3))]
        with h5py.File(paths[2]) as file:
            assert file["result_0"][()].tolist() == [3]

    @every_size
    @pytest.mark.parametrize("root", [None, 0, 2])
    def test_in_memory_it_is_the_results_on_every_rank_or_on_one(self, root, size):
        case = Case([1, "a", FAILED, np.ones(2)])

        def write(world):
            store = MemoryStore(world, Layout("", "f"), None, 4)
            for index in range(world.rank, 4, world.size):
                chunk = range(index, index + 1)
                store.write(encode(store, case, chunk, in_memory=True))
            return store.commit(root)

        if root is not None and root >= size:
            return
        for rank, stored in enumerate(run_world(size, write)):
            if root in (None, rank):
                values, _ = values_of(stored, Options(Work("f", 4), Output("memory")))
                assert repr(values) == repr([1, "a", None, np.ones(2)])
            else:
                assert stored.pieces == []


@pytest.mark.parametrize("kind", ["rank", "computation"])
class TestUnequalRows:
    """ACME shows ``is_virtual`` and ``maxshape`` of an unlimited axis."""

    @pytest.mark.parametrize("name", RAGGED)
    def test_they_are_mapped_without_a_limit(self, kind, name, tmp_path):
        case = RAGGED[name]
        path = store_case(kind, 2, tmp_path / "out", case)

        with h5py.File(path) as file:
            rows = file["result_0"]
            assert rows.is_virtual == (rows.size > 0)
            assert rows.maxshape == tuple(
                None if wanted == np.inf else n
                for n, wanted in zip(rows.shape, case.shape, strict=True)
            )

    def test_very_many_are_copied(self, kind, tmp_path, monkeypatch, content_of):
        monkeypatch.setattr(linked, "MAX_MAPPINGS", 3)
        case = RAGGED["one axis"]
        path = store_case(kind, 2, tmp_path / "out", case)

        with h5py.File(path) as file:
            assert not file["result_0"].is_virtual
        assert content_of(path) == expected_content(case)

    def test_each_is_read_once_to_be_copied(self, kind, tmp_path, monkeypatch):
        """How long it is shows without that."""
        monkeypatch.setattr(linked, "MAX_MAPPINGS", 0)
        store = open_store(SerialWorld(), kind, tmp_path / "out", RAGGED["one axis"])
        store.write(encode(store, RAGGED["one axis"], range(4)))
        store.close()
        n_read, read = [0], h5py.Dataset.__getitem__

        def count(dataset, *where):
            n_read[0] += 1
            return read(dataset, *where)

        monkeypatch.setattr(h5py.Dataset, "__getitem__", count)
        store.commit()

        assert n_read == [4]

    def found(self, kind: str, path: Path, case: Case) -> list[str]:
        """Return what `check` says."""
        store = make_store(kind, SerialWorld(), Layout(str(path.parent), "f"), case.spec, 4)
        return list(faults(store, read_history(store.layout.dot_folder).done))

    def test_copies_of_an_earlier_version_are_compared(self, kind, tmp_path, monkeypatch):
        case = RAGGED["one axis"]
        with monkeypatch.context() as earlier:
            earlier.setattr(linked, "MAX_MAPPINGS", 0)
            path = store_case(kind, 2, tmp_path / "out", case)

        assert self.found(kind, path, case) == []
        with h5py.File(path, "r+") as file:
            file["result_0"][2, 1] = 7
        assert self.found(kind, path, case) == [f"{path}: rows 2 to 2 of result_0 differ"]

    def test_another_mapping_is_found(self, kind, tmp_path):
        case = RAGGED["one axis"]
        path = store_case(kind, 2, tmp_path / "out", case)
        with h5py.File(path, "r+") as file:
            other = h5py.VirtualLayout((4, 5), "f8", maxshape=(4, None))
            other[0, :2] = h5py.VirtualSource("f_payload/f_0.h5", "result_0", (2,))
            del file["result_0"]
            file.create_virtual_dataset("result_0", other, fillvalue=np.nan)

        assert f"{path}: result_0 is not what journals say" in self.found(kind, path, case)

    @pytest.mark.parametrize("damage", [os.remove, lambda path: path.write_bytes(b"")])
    def test_a_payload_that_is_damaged_is_named(self, kind, damage, tmp_path):
        case = RAGGED["one axis"]
        path = store_case(kind, 1, tmp_path / "out", case)
        (damaged,) = (tmp_path / "out" / "f_payload").glob("f_*0.h5")
        damage(damaged)

        said = self.found(kind, path, case)

        assert said
        assert all(str(damaged) in each for each in said)

    def test_a_directory_can_be_moved(self, kind, tmp_path, monkeypatch, content_of):
        case = RAGGED["further values"]
        store_case(kind, 1, tmp_path / "out", case)
        (tmp_path / "out").rename(tmp_path / "moved")
        monkeypatch.chdir("/")

        assert content_of(tmp_path / "moved" / "f.h5") == expected_content(case)


class TestManyFiles:
    @pytest.fixture
    def n_descriptors(self):
        """Few descriptors: a virtual dataset over many files would read NaN without an error."""
        limits = resource.getrlimit(resource.RLIMIT_NOFILE)
        n = max(len(os.listdir("/proc/self/fd")) + 60, 320)
        resource.setrlimit(resource.RLIMIT_NOFILE, (n, limits[1]))
        yield n
        resource.setrlimit(resource.RLIMIT_NOFILE, limits)

    @pytest.mark.parametrize(
        ("kind", "size", "shape"),
        [
            ("rank", 1, (None,)),
            ("rank", 3, (2, None)),
            ("computation", 1, (None, 2)),
            ("computation", 3, (None,)),
            ("rank", 3, (None, np.inf)),
            ("computation", 1, (np.inf, None)),
        ],
    )
    def test_more_than_256_files_with_rows_are_read_completely(
        self, kind, size, shape, tmp_path, monkeypatch, n_descriptors, content_of
    ):
        monkeypatch.setattr(payload_file, "MAX_BYTES", 1)  # every outcome gets a new file
        row = [0.5] * (len(shape) - 1) * 2 or 0.5
        case = Case([row if k % 100 != 7 else FAILED for k in range(300)], shape)
        path = store_case(kind, size, tmp_path / "out", case, n_chunk=1)

        assert len(list((tmp_path / "out" / "f_payload").iterdir())) > 256
        with h5py.File(path) as file:
            assert not file["result_0"].is_virtual
        assert content_of(path) == expected_content(case)

    @every_kind
    @every_size
    def test_payload_files_are_changed_after_so_many_groups(
        self, kind, size, tmp_path, monkeypatch, content_of
    ):
        monkeypatch.setattr(payload_file, "MAX_GROUPS", 4)
        case = Case([(k, large(k)) if k % 5 == 0 else k for k in range(40)])
        path = store_case(kind, size, tmp_path / "out", case)

        assert content_of(path) == expected_content(case)
        if kind == "rank":
            files = sorted(p.name for p in (tmp_path / "out" / "f_payload").iterdir())
            assert len(files) > size
            assert files[:2] == ["f_rank0_0.h5", "f_rank0_1.h5"]
            for name in files:
                with h5py.File(tmp_path / "out" / "f_payload" / name) as file:
                    assert len(file) <= 4 + 2  # the chunk that fills a file ends in it

    @pytest.mark.parametrize("name", ["rows-axis 1", "rows-large", "rows-further values"])
    @every_size
    def test_payload_files_are_changed_after_so_many_bytes(
        self, name, size, tmp_path, monkeypatch, content_of
    ):
        monkeypatch.setattr(payload_file, "MAX_BYTES", 1)
        path = store_case("rank", size, tmp_path / "out", CASES[name], n_chunk=1)

        assert len(list((tmp_path / "out" / "f_payload").iterdir())) > size
        assert content_of(path) == expected_content(CASES[name])

    def test_payload_files_are_changed_after_so_many_large_rows(
        self, tmp_path, monkeypatch, content_of
    ):
        monkeypatch.setattr(payload_file, "MAX_GROUPS", 2)
        path = store_case("rank", 1, tmp_path / "out", CASES["rows-large"], n_chunk=1)

        assert len(list((tmp_path / "out" / "f_payload").iterdir())) == 3
        assert content_of(path) == expected_content(CASES["rows-large"])

    @pytest.mark.parametrize(
        ("shape", "chunk"),
        [
            ((None, 20_001), (1, 10_001)),
            ((20_001, None), (10_001, 1)),
            ((3, None, 1, 20_001), (1, 1, 1, 10_001)),  # do not lie in one piece
            ((3, None, 1, 20_000), (1, 1, 1, 10_000)),
            ((5, None, 4_000), (3, 1, 4_000)),
            ((None, 9_000), (1, 9_000)),
        ],
        ids=str,
    )
    def test_rows_larger_than_a_chunk_of_hdf5_may_be(
        self, shape, chunk, tmp_path, monkeypatch, content_of
    ):
        monkeypatch.setattr(packed_rows, "MAX_CHUNK_BYTES", 100_000)
        row_shape = [n for n in shape if n is not None]
        case = Case([FAILED if k == 1 else grid(k, *row_shape) for k in range(4)], shape)
        path = store_case("rank", 1, tmp_path / "out", case)

        assert content_of(path) == expected_content(case)
        with h5py.File(tmp_path / "out" / "f_payload" / "f_rank0_0.h5") as file:
            assert file["result_0"].chunks == chunk

    @pytest.mark.parametrize("max_runs", [1, 2, 3])
    @pytest.mark.parametrize("name", ["rows-axis 0", "rows-axis 1", "rows-failed"])
    def test_rows_in_many_pieces_are_mapped_in_several_steps(
        self, name, max_runs, tmp_path, monkeypatch, content_of
    ):
        monkeypatch.setattr(container, "MAX_RUNS", max_runs)
        path = store_case("rank", 3, tmp_path / "out", CASES[name], n_chunk=1)

        assert content_of(path) == expected_content(CASES[name])

    @every_kind
    def test_rows_that_were_written_out_of_order_stand_in_task_order(
        self, kind, tmp_path, content_of
    ):
        """A worker gets tasks that another has given back."""
        case = Case([float(k) for k in range(20)], (None,))
        store = open_store(SerialWorld(), kind, tmp_path / "out", case)
        for start in (15, 0, 10, 5):
            store.write(encode(store, case, range(start, start + 5)))
        store.close()

        assert content_of(store.commit().container) == expected_content(case)


@every_kind
class TestRetry:
    """A runner died after it had asked for places: its task is called again, maybe elsewhere."""

    def place_and_die(self, store: Store, index: int, value: Any) -> None:
        """Ask for all places of a value and write garbage, but never report."""
        case = Case([FAILED] * index + [value], None if store.spec is None else self.shape)
        encode(store, case, range(index, index + 1))

    shape: Any = None

    @pytest.mark.parametrize(
        ("attempt", "value"),
        [
            (large(9), large(0)),
            (large(9), 0.5),
            (large(9), "text"),
            ((large(9), large(9)), (large(0), large(1))),
            ((large(9), large(9)), large(0)),
            ((large(9), large(9)), (0.5, large(0))),
            ((0.5, large(9)), (large(0), 0.5)),
            (large(9, 2 * N_LARGE), large(0)),
            (large(9, N_LARGE, "i8"), large(0)),
        ],
        ids=[
            "large-large",
            "large-small",
            "large-string",
            "two-two",
            "two-one",
            "two-second",
            "second-first",
            "longer-large",
            "integers-floats",
        ],
    )
    @pytest.mark.parametrize("n_attempts", [1, 3])
    def test_only_the_last_attempt_counts(
        self, kind, attempt, value, n_attempts, tmp_path, content_of
    ):
        case = Case([1, value, 3])
        store = open_store(SerialWorld(), kind, tmp_path / "out", case)
        store.write(encode(store, case, range(1)))
        for _ in range(n_attempts):
            self.place_and_die(store, 1, attempt)
        store.write(encode(store, case, range(1, 3)))
        store.close()

        assert content_of(store.commit().container) == expected_content(case)

    @pytest.mark.parametrize("shape", [(None, N_LARGE), (N_LARGE, None), (None, np.inf)])
    def test_only_the_last_attempt_counts_among_rows(self, kind, shape, tmp_path, content_of):
        self.shape = shape
        case = Case([large(k) for k in range(3)], shape)
        store = open_store(SerialWorld(), kind, tmp_path / "out", case)
        store.write(encode(store, case, range(1)))
        self.place_and_die(store, 1, large(9))
        self.place_and_die(store, 1, (large(9), large(8)))
        store.write(encode(store, case, range(1, 3)))
        store.close()

        assert content_of(store.commit().container) == expected_content(case)

    @pytest.mark.parametrize("shape", [None, (None, N_LARGE), (None, np.inf)])
    def test_a_task_that_dies_for_good_is_a_hole(self, kind, shape, tmp_path, content_of):
        self.shape = shape
        case = Case([large(0), FAILED, large(2)], shape)
        store = open_store(SerialWorld(), kind, tmp_path / "out", case)
        store.write(encode(store, case, range(1)))
        self.place_and_die(store, 1, large(9))
        store.write(encode(store, case, range(1, 3)))
        store.close()

        assert content_of(store.commit().container) == expected_content(case)

    @pytest.mark.parametrize("shape", [None, (None, N_LARGE)])
    def test_another_rank_may_do_it(self, kind, shape, tmp_path, content_of):
        self.shape = shape
        case = Case([large(0), large(1), large(2)], shape)

        def write(world):
            store = open_store(world, kind, tmp_path / "out", case)
            if world.rank == 1:
                self.place_and_die(store, 1, large(9))
            world.barrier()
            if world.rank == 1:
                store.close()
            world.barrier()
            if world.rank == 0:
                store.write(encode(store, case, range(3)))
                store.close()
            return store.commit().container

        path = ThreadWorld.run(2, write)[0]
        assert content_of(path) == expected_content(case)


@contextlib.contextmanager
def full_disk(max_bytes: int = 200_000) -> Iterator[None]:
    """Let no file of this process grow beyond `max_bytes`, as on a full disk."""
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (max_bytes, limits[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)


def call_in_child(func: Callable[[], str]) -> str:
    """Return what `func` returns in a fork of this process, which has to end well.

    A library that cannot get rid of its data may crash the process, also later.
    """
    reader, writer = os.pipe()
    pid = os.fork()
    if pid == 0:
        code = 1
        try:
            faulthandler.disable()
            os.close(reader)
            text = func()
            gc.collect()
            os.write(writer, text.encode())
            code = 0
        except BaseException:
            traceback.print_exc()
        finally:
            sys.stderr.flush()
            os._exit(code)
    os.close(writer)
    with open(reader) as file:
        text = file.read()
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0, "the process has crashed"
    return text


def make_useless(path: Path) -> None:
    """Put a file in the place of a directory: whoever is asked, even root cannot write there."""
    shutil.rmtree(path)
    path.touch()


class TestRefusals:
    """A medium that refuses is a StoreError with the path, whatever refuses and when."""

    N_BYTES = 150_000

    def write_until_refused(self, kind, directory, case) -> str:
        """Return the text of the StoreError of a run on a full disk."""

        def write() -> None:
            store = open_store(SerialWorld(), kind, directory, case)
            try:
                for k in range(len(case.values)):
                    store.write(encode(store, case, range(k, k + 1)))
            finally:
                store.close()
            store.commit()

        def call() -> str:
            with full_disk(), pytest.raises(StoreError) as caught:
                write()
            return str(caught.value)

        return call_in_child(call)

    @pytest.mark.parametrize(
        "case",
        [
            Case([np.ones(N_BYTES // 8)] * 8),
            Case([np.ones(N_BYTES // 8)] * 8, (None, N_BYTES // 8)),
            Case([np.ones(N_BYTES // 8)] * 8, (None, np.inf)),
            Case([np.ones(1000)] * 100, (None, 1000)),
            Case([np.ones(1000)] * 100),
        ],
        ids=["large", "large rows", "ragged", "small rows", "small"],
    )
    @pytest.mark.parametrize("kind", ["rank", "single_file"])
    def test_a_full_disk(self, kind, case, tmp_path):
        text = self.write_until_refused(kind, tmp_path / "out", case)

        assert str(tmp_path / "out") in text
        assert "File too large" in text

    def test_a_full_disk_under_one_file_per_computation(self, tmp_path):
        text = self.write_until_refused("computation", tmp_path / "out", Case([np.ones(50_000)]))

        assert "f_payload/f_0.h5" in text
        assert "File too large" in text

    @pytest.mark.parametrize("kind", ["rank", "computation"])
    @pytest.mark.parametrize("value", [1, large(0)], ids=["small", "large"])
    def test_a_payload_folder_that_is_gone(self, kind, value, tmp_path):
        case = Case([value])
        store = open_store(SerialWorld(), kind, tmp_path / "out", case)
        make_useless(tmp_path / "out" / "f_payload")

        with pytest.raises(StoreError, match="f_payload"):
            store.write(encode(store, case, range(1)))
        store.close()

    @every_kind
    def test_a_journal_that_cannot_be_written(self, kind, tmp_path):
        case = Case([1])
        store = open_store(SerialWorld(), kind, tmp_path / "out", case)
        if kind == "single_file":
            (tmp_path / "out" / ".acme_mpi" / "f" / "run0_rank0.journal").mkdir()
        else:
            make_useless(tmp_path / "out" / ".acme_mpi" / "f")

        with pytest.raises(StoreError, match="journal"):
            self.write_and_close(store, case)

    def write_and_close(self, store, case):
        try:
            store.write(encode(store, case, range(1)))
        finally:
            store.close()

    @every_kind
    @every_size
    @pytest.mark.parametrize("shape", [None, (None, 2), (None, np.inf)])
    def test_a_container_that_cannot_be_made_is_an_error_on_every_rank(
        self, kind, size, shape, tmp_path
    ):
        case = Case([[1, 2], [3, 4]], shape)
        errors = []

        def write(world):
            store = open_store(world, kind, tmp_path / "out", case)
            if world.is_master:
                store.write(encode(store, case, range(2)))
            store.close()
            world.barrier()
            if world.is_master:
                (tmp_path / "out" / "f.h5").mkdir()
                (tmp_path / "out" / "f.h5" / "occupied").touch()
            world.barrier()
            try:
                store.commit()
            except StoreError as error:
                errors.append(str(error))

        run_world(size, write)

        assert len(errors) == size
        assert len(set(errors)) == 1
        assert str(tmp_path / "out") in errors[0]

    @every_size
    @pytest.mark.parametrize("is_full", [True, False])
    def test_a_shared_file_that_cannot_be_made_is_an_error_on_every_rank(
        self, size, is_full, tmp_path
    ):
        """A disk that is too small is found before any task has run."""
        case = Case([np.zeros(50_000)] * 3, (None, 50_000))
        errors = []

        def open_it(world: World) -> None:
            layout = world.bcast(
                make_layout("single_file", "f", str(tmp_path / "out"), os.getcwd())
                if world.is_master
                else None
            )
            store = make_store("single_file", world, layout, case.spec, 3)
            if world.is_master and not is_full:
                make_useless(Path(layout.dot_folder))
            world.barrier()
            try:
                store.open()
            except StoreError as error:
                errors.append(str(error))

        def call() -> str:
            with full_disk() if is_full else contextlib.nullcontext():
                run_world(size, open_it)
            return "\n".join(errors)

        texts = call_in_child(call).split("\n")
        assert len(texts) == size
        assert len(set(texts)) == 1
        assert "f.h5.partial" in texts[0]

    @every_kind
    def test_a_payload_that_has_vanished_before_the_commit(self, kind, tmp_path, content_of):
        """The container is made of what is there, or the error names the file."""
        case = Case([np.ones(2), np.ones(3)], (None, np.inf))
        store = open_store(SerialWorld(), kind, tmp_path / "out", case)
        store.write(encode(store, case, range(2)))
        store.close()
        for path in (tmp_path / "out").rglob("f_*.h5"):
            path.unlink()

        with pytest.raises(StoreError, match=r"f_|payload|spool"):
            store.commit()

    @every_kind
    def test_what_was_recorded_before_is_safe(self, kind, tmp_path):
        """On a disk that is full in the middle and has room again at the end."""

        def call() -> str:
            store = open_store(SerialWorld(), kind, tmp_path / "out", Case([1, 2, FAILED]))
            store.write(encode(store, Case([1, 2]), range(2)))
            full = Case([FAILED, FAILED, np.ones(PLACED_BYTES // 8 - 1)])
            with full_disk(20_000), contextlib.suppress(StoreError):
                store.write(encode(store, full, range(2, 3)))
            with contextlib.suppress(StoreError):
                store.close()
            return store.commit().container

        with h5py.File(call_in_child(call)) as file:
            assert file["comp_0/result_0"][()].tolist() == [1]
            assert file["comp_1/result_0"][()].tolist() == [2]


@pytest.mark.parametrize("kind", ["rank", "computation"])
@pytest.mark.parametrize("shape", [None, (None,)])
def test_a_payload_that_is_deleted_before_it_is_linked_is_named(kind, shape, tmp_path):
    """The common dataset would read as if its tasks were missing."""
    case = Case([1.0, 2.0], shape)
    store = open_store(SerialWorld(), kind, tmp_path / "out", case)
    store.write(encode(store, case, range(2)))
    store.close()
    victim = min((tmp_path / "out" / "f_payload").iterdir())
    victim.unlink()

    with pytest.raises(StoreError, match=f"{victim.name} was deleted"):
        store.commit()


class TestDurability:
    @every_kind
    @pytest.mark.parametrize("shape", [None, (None,), (None, np.inf)])
    def test_what_is_closed_is_journalled(self, kind, shape, tmp_path):
        values = [np.ones(k) for k in (1, 2)] if shape == (None, np.inf) else [1.0, 2.0]
        case = Case([*values, FAILED], shape)
        store = open_store(SerialWorld(), kind, tmp_path / "out", case)
        store.write(encode(store, case, range(3)))
        store.close()

        ((records, _),) = read_journal(store.layout.journal(0))
        ended = records[records["kind"] == Block.DONE]
        done = [i for r in ended for i in range(r["first"], r["first"] + r["count"])]
        assert done == [0, 1]

    def test_a_sync_comes_before_its_record(self, tmp_path, monkeypatch):
        calls = []
        real_sync, real_write = os.fdatasync, os.write
        monkeypatch.setattr(
            os, "fdatasync", lambda fd: calls.append(os.readlink(f"/proc/self/fd/{fd}"))
        )
        monkeypatch.setattr(
            os,
            "write",
            lambda fd, data: calls.append("record") or real_write(fd, data),
        )
        committer = Committer(str(tmp_path / "journal"))
        with open(tmp_path / "results", "wb") as file:
            committer.commit([file.fileno()], [pack_record(range(3))])
            committer.close()
        monkeypatch.undo()

        assert real_sync is os.fdatasync
        assert calls[:2] == [str(tmp_path / "results"), "record"]
        assert calls[2:] == [str(tmp_path / "journal")]

    def test_files_may_be_closed_as_soon_as_they_are_handed_over(self, tmp_path):
        committer = Committer(str(tmp_path / "journal"))
        before = len(os.listdir("/proc/self/fd"))
        for k in range(50):
            with open(tmp_path / f"results{k}", "wb") as file:
                committer.commit([file.fileno()], [pack_record(range(k, k + 1))])
        committer.close()

        ((records, _),) = read_journal(str(tmp_path / "journal"))
        assert records["first"].tolist() == list(range(50))
        assert len(os.listdir("/proc/self/fd")) == before

    def test_a_journal_that_is_deleted_after_its_last_record_is_an_error(self, tmp_path):
        committer = Committer(str(tmp_path / "journal"))
        with open(tmp_path / "results", "wb") as file:
            committer.commit([file.fileno()], [pack_record(range(3))])
            while not (tmp_path / "journal").exists():
                pass
            (tmp_path / "journal").unlink()

        with pytest.raises(StoreError, match=r"journal: No such file"):
            committer.close()

    def test_an_error_of_the_disk_is_raised_at_the_latest_at_the_end(self, tmp_path, monkeypatch):
        def refuse(descriptor):
            raise OSError(5, "Input/output error")

        monkeypatch.setattr(os, "fdatasync", refuse)
        committer = Committer(str(tmp_path / "journal"))
        with open(tmp_path / "results", "wb") as file:
            committer.commit([file.fileno()], [pack_record(range(3))])

        with pytest.raises(StoreError, match="Input/output error"):
            committer.close()

    def test_after_an_error_nothing_more_is_recorded(self, tmp_path, monkeypatch):
        def refuse(descriptor):
            raise OSError(5, "Input/output error")

        committer = Committer(str(tmp_path / "journal"))
        with open(tmp_path / "results", "wb") as file:
            committer.commit([file.fileno()], [pack_record(range(3))])
            with monkeypatch.context() as patch:
                patch.setattr(os, "fdatasync", refuse)
                for _ in range(3):
                    try:
                        committer.commit([file.fileno()], [pack_record(range(3, 4))])
                    except StoreError:
                        break
                with pytest.raises(StoreError):
                    committer.close()

        ((records, _),) = read_journal(str(tmp_path / "journal"))
        assert 3 not in records["first"]

    def test_a_committer_without_work_makes_no_file(self, tmp_path):
        Committer(str(tmp_path / "journal")).close()

        assert list(tmp_path.iterdir()) == []


# Parallel HDF5 is used for the rows of a single file, and where rows of payloads are copied.
BY_REAL_RANKS = [("single_file", name) for name in CASES] + [
    (kind, name)
    for kind in ("rank", "computation")
    for name in CASES
    if name.startswith("ragged-") or name in ("free-mixed", "rows-axis 1", "rows-further values")
]


def main(directory: str) -> None:
    """Write every case in every kind of store as one rank of a real world."""
    world = make_world()
    for kind, name in BY_REAL_RANKS:
        try:
            write_case(world, kind, folder_of(directory, kind, name), CASES[name])
        except BaseException:
            # Alone here, this rank would keep the others waiting.
            print(f"{kind} {name}: {traceback.format_exc()}", file=sys.stderr, flush=True)
            world.abort(1)
    finalize()


def folder_of(directory: Path | str, kind: str, name: str) -> Path:
    return Path(directory) / f"{kind}-{list(CASES).index(name)}"


@pytest.fixture(scope="module")
def written_by_real_ranks(mpiexec, tmp_path_factory) -> Path:
    """Return the directory in which three real ranks have written everything."""
    directory = tmp_path_factory.mktemp("real")
    done = mpiexec(3, __file__, directory, timeout_s=120)
    assert done.returncode == 0, done.stderr
    return directory


@pytest.mark.parametrize(("kind", "name"), BY_REAL_RANKS)
@pytest.mark.slow
@pytest.mark.every
def test_real_ranks_write_the_same(kind, name, written_by_real_ranks, content_of):
    """With a parallel build of h5py this is parallel HDF5, with a serial one it is not."""
    folder = folder_of(written_by_real_ranks, kind, name)

    assert content_of(folder / "f.h5") == expected_content(CASES[name])


if __name__ == "__main__":
    main(sys.argv[1])
