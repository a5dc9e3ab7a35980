"""Results of every form, written into stores, and what has to be found there."""

from __future__ import annotations

import os
from collections import namedtuple
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from acme_mpi.comm import SerialWorld, ThreadWorld, World
from acme_mpi.engine.call import Options, Output, Work
from acme_mpi.history.folders import choose_layout, make_folders
from acme_mpi.results.encoder import Ways, encoder_of
from acme_mpi.results.foreign import take_apart
from acme_mpi.results.form import agreed
from acme_mpi.results.named import Named, named
from acme_mpi.results.parts import PLACED_BYTES, to_parts
from acme_mpi.results.spec import RowSpec, make_row_spec, on_grid
from acme_mpi.runner.base import Outcome
from acme_mpi.session.values import values_of
from acme_mpi.storage import STORES, Layout, MemoryStore, Store, Stored, find_store, make_store
from acme_mpi.tasks.pickling import Frozen, dump_values

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
    shape: tuple[Any, ...] | dict[str, tuple[Any, ...]] | None = None
    dtype: Any = "float64"
    grid: tuple[int, ...] = ()

    @property
    def spec(self) -> RowSpec | None:
        return on_grid(make_row_spec(self.shape, self.dtype), self.grid)

    @property
    def missing(self) -> list[int]:
        return [index for index, value in enumerate(self.values) if value is FAILED]


def large(seed: int = 0, n: int = N_LARGE, dtype: Any = "f8") -> Any:
    """Return an array that is written in place."""
    return ((np.arange(n) * 7 + seed) % 100).astype(dtype)


def masked(values: Any, mask: Any) -> Any:
    return np.ma.array(values, mask=mask)


def grid(seed: int, *shape: int) -> Any:
    return np.arange(np.prod(shape)).reshape(shape) + 100.0 * seed


# What a function returns with names.
Peak = namedtuple("Peak", "position height")


@dataclass
class Fit:
    """Has names in an order that is not the alphabet's."""

    slope: Any
    offset: Any
    errors: Any


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
    "dicts": Case(
        [{"power": k, "a b": np.arange(k), "Größe": f"task {k}", "nothing": None} for k in range(4)]
    ),
    "one name": Case([{"power": 2.5}, FAILED, {"power": np.ones(3)}, {"power": "text"}]),
    "named tuples": Case([Peak(k, [k, 2]) for k in range(3)]),
    "dataclasses": Case([Fit(1.5, np.float32(k), np.ones((k, 2))) for k in range(3)]),
    "names of some": Case([1, {"b": 1, "a": 2}, (3, 4), None, {"b": "x", "a": large(2)}]),
    "names in another order": Case([{"b": 1, "a": "one"}, {"a": "two", "b": 2}]),
    "names that are numbers of results": Case([{"result_0": large(1), "result_1": 2}] * 2),
    "large with names": Case(
        [{"z": large(k), "b": k, "y": large(k + 1), "a": None} for k in range(3)]
        + [{"z": 1, "b": large(5), "y": large(6), "a": "small"}, FAILED]
    ),
    "masked arrays": Case(
        [
            *(masked([1.0, k], [k == 1, False]) for k in range(3)),
            FAILED,
            masked(large(1), False),
            masked(["a", "Größe"], [True, False]),
        ]
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
    "on a grid": Case(list(range(12)), (None,), grid=(3, 4)),
    "on a grid of three axes": Case(
        [FAILED if k in (7, 8, 23) else k for k in range(24)], (None,), "int16", (2, 3, 4)
    ),
    "on a grid of thin axes": Case([[k, -k] for k in range(5)], (None, 2), grid=(1, 5, 1, 1)),
    "on a grid, axis 1": Case([grid(k, 2, 3) for k in range(12)], (2, None, 3), grid=(4, 3)),
    "on a grid, failed on axis 1": Case(
        [grid(0, 2), FAILED, FAILED, *(grid(k, 2) for k in range(3, 8))], (2, None), grid=(2, 4)
    ),
    "on a grid, large": Case(
        [FAILED if k == 1 else large(k) for k in range(6)], (None, N_LARGE), grid=(2, 3)
    ),
    "on a grid, further values": Case([(k, "a" * k) for k in range(6)], (None,), grid=(3, 2)),
}

# Rows of several datasets.
COLUMNS = {
    "one column": Case([{"a": k} for k in range(5)], {"a": (None,)}),
    "two columns": Case(
        [{"a": k, "b": [k, -k]} for k in range(7)],
        {"a": (None,), "b": (None, 2)},
        {"b": "int16"},
    ),
    "tuples, and in any order": Case(
        [(1, 2), {"b": 4, "a": 3}, (5, 6), {"a": 7, "b": 8}], {"a": (None,), "b": (None,)}
    ),
    "columns, failed": Case(
        [FAILED if k in (0, 3, 4) else {"a": k, "b": 1j * k} for k in range(7)],
        {"a": (None,), "b": (None,)},
        {"a": "int64", "b": "complex128"},
    ),
    "columns on several axes": Case(
        [{"a": grid(k, 2), "b": grid(k, 3, 2)} for k in range(6)],
        {"a": (2, None), "b": (None, 3, 2)},
    ),
    "columns, all on the last axis": Case(
        [FAILED if k == 2 else {"a": grid(k, 2), "b": grid(k, 3)} for k in range(6)],
        {"a": (2, None), "b": (3, None)},
    ),
    "columns on a grid": Case(
        [FAILED if k == 4 else {"a": k, "b": grid(k, 2)} for k in range(6)],
        {"a": (None,), "b": (2, None)},
        grid=(3, 2),
    ),
    "small and large columns": Case(
        [FAILED if k == 1 else {"a": k, "b": large(k), "c": [k]} for k in range(5)],
        {"a": (None,), "b": (None, N_LARGE), "c": (None, 1)},
    ),
    "large columns alone": Case(
        [{"a": large(k), "b": large(-k, N_LARGE + 3)} for k in range(5)],
        {"a": (None, N_LARGE), "b": (None, N_LARGE + 3)},
    ),
    "columns, no tasks": Case([], {"a": (None, 2), "b": (None,)}),
    "columns, all failed": Case([FAILED] * 3, {"a": (None, 2), "b": (None,)}),
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
    "on a grid": Case(
        [FAILED if k == 4 else np.arange(k) for k in range(6)], (None, np.inf), grid=(2, 3)
    ),
    "on a grid, in front": Case(
        [grid(k, k % 3 + 1, 2) for k in range(6)], (np.inf, None, 2), grid=(3, 2)
    ),
}

CASES = {
    **{f"free-{name}": case for name, case in FREE.items()},
    **{f"rows-{name}": case for name, case in ROWS.items()},
    **{f"columns-{name}": case for name, case in COLUMNS.items()},
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
    agree = None if in_memory else partial(agreed_names, store.layout.dot_folder)
    encoder = encoder_of(
        case.spec,
        in_memory,
        Ways(place if can_place else None, dump_values, Frozen),
        agree=agree,
    )
    failures = []
    for index in chunk:
        if case.values[index] is FAILED:
            failures.append({"index": index, "type": "ValueError", "message": "bad"})
        else:
            encoder.add(index, case.values[index])
    return Outcome(chunk.start, chunk.stop, failures, encoder.take(), 1000)


def agreed_names(folder: str, names: tuple[str, ...]) -> tuple[str, ...]:
    return tuple(agreed(folder, {"names": names})["names"])


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
    plain = list(case.values) if spec.names else [first(value) for value in case.values]
    plain_case = Case(plain, case.shape, case.dtype, case.grid)
    store.write(encode(store, plain_case, range(n_tasks), in_memory=True))
    rows, _ = values_of(store.commit(), Options(Work("f", n_tasks, spec), Output("memory")))
    return rows, [] if spec.names else [further(value) for value in case.values]


def first(value: Any) -> Any:
    return value[0] if isinstance(value, tuple) else value


def further(value: Any) -> tuple[Any, ...]:
    return value[1:] if isinstance(value, tuple) else ()


def first_names(case: Case) -> tuple[str, ...]:
    """Return the names of the first value that has some, in whose order all are stored."""
    return next(found.names for found in map(named, case.values) if found is not None)


def in_order(found: Named, names: tuple[str, ...]) -> tuple[Any, ...]:
    return tuple(found.values[found.names.index(name)] for name in names)


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
        within = tuple(slice(0, n) for n in row.shape)
        stacked[index][within] = row
    whole = np.ascontiguousarray(np.moveaxis(stacked, 0, spec.axis))
    return whole.reshape(spec.whole_shape(len(case.values), stacked.shape[1:]))


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
    spec = case.spec
    for column in spec.columns if spec is not None else ():
        stack = rows[column.name] if column.name else rows
        content[column.dataset] = describe(stack)
        if case.missing:
            content[f"{column.dataset}@missing"] = ("<i8", (len(case.missing),), case.missing)
    for index, value in enumerate(values):
        if rows is None and case.values[index] is not FAILED:
            if (apart := take_apart(value)) is not None:
                text = apart.text()
                content[f"comp_{index}@acme_mpi"] = (f"<U{len(text)}", (), text)
                value = dict(apart.arrays)
            found = named(value)
            names = () if found is None else found.names if apart else first_names(case)
            parts = to_parts(value) if found is None else to_parts(in_order(found, names))
            for k, part in enumerate(parts):
                content[f"comp_{index}/result_{k}"] = describe(part)
                if names:
                    content[f"comp_{index}/{names[k]}"] = describe(part)
        elif rows is not None:
            for k, entry in enumerate(value, 1):
                (part,) = to_parts((entry,))
                content[f"comp_{index}/result_{k}"] = describe(part)
    return content
