"""The program of `test_map`: every kind of result through every kind of store, on any world.

    mpiexec -n N python map_modes.py FOLDER

calls `acme_mpi.map` once per case and store. Files go to ``FOLDER/<case>-<store>/``, what every
rank got is compared among the ranks, and rank 0 writes ``FOLDER/reports.pickle``.
"""

from __future__ import annotations

import pickle
import sys
from pathlib import Path
from typing import Any

import numpy as np

STORES: dict[str, dict[str, Any]] = {
    "rank": {},
    "computation": {"payload": "computation"},
    "single_file": {"single_file": True},
    "memory": {"write_worker_results": False},
}
DTYPES = [
    "b1",
    "i1",
    "i2",
    "i4",
    "i8",
    "u1",
    "u2",
    "u4",
    "u8",
    "f2",
    "f4",
    "f8",
    "g",
    "c8",
    "c16",
    "G",
    ">i4",
    ">f8",
]
LARGE = np.arange(20_000.0).reshape(100, 200)  # 160 kB: written in place, not sent

# A value, and the datasets that it becomes: arrays, tuples of str, or None.
VALUES: list[tuple[Any, list[Any]]] = [
    (18, [np.array([18])]),
    (-1.5, [np.array([-1.5])]),
    (True, [np.array([True])]),
    (1 - 2j, [np.array([1 - 2j])]),
    (float("nan"), [np.array([np.nan])]),
    (-0.0, [np.array([-0.0])]),
    (float("inf"), [np.array([np.inf])]),
    (np.float32(0.1), [np.array([0.1], np.float32)]),
    (np.uint64(2**64 - 1), [np.array([2**64 - 1], np.uint64)]),
    (np.array(3.5), [np.array(3.5)]),
    *((a, [a]) for a in (np.arange(6).reshape(2, 3).astype(dtype) for dtype in DTYPES)),
    (np.asfortranarray(np.arange(6).reshape(2, 3)), [np.arange(6).reshape(2, 3)]),
    (np.arange(10)[::3], [np.array([0, 3, 6, 9])]),
    ([1, 2, 3], [np.array([1, 2, 3])]),
    ("text", [("text",)]),
    ("Grüße, 世界 🙂", [("Grüße, 世界 🙂",)]),
    ("", [("",)]),
    (["a", "bcd", "é"], [("a", "bcd", "é")]),
    (np.array([["a", "bc"], ["é", ""]]), [("a", "bc", "é", "")]),
    (np.array(["x", "yy"], object), [("x", "yy")]),
    (b"bytes", [np.array([b"bytes"])]),
    (None, [None]),
    ([], [np.empty(0)]),
    (np.empty((0, 3), np.int32), [np.empty((0, 3), np.int32)]),
    ((1, 2.5), [np.array(1), np.array(2.5)]),
    ((np.arange(3), "s", None, True), [np.arange(3), ("s",), None, np.array(True)]),
    ([np.arange(2), np.arange(5)], [np.arange(2), np.arange(5)]),
    ([[1, 2], [3]], [np.array([1, 2]), np.array([3])]),
    (LARGE, [LARGE]),
    (LARGE.T, [np.ascontiguousarray(LARGE.T)]),
    ((LARGE, "with", LARGE > 7.0), [LARGE, ("with",), LARGE > 7.0]),
    (["long " * 20_000], [("long " * 20_000,)]),
    *((np.arange(n), [np.arange(n)]) for n in (1, 5, 2, 9)),
]
ROW_DTYPES = ["b1", "i4", "u2", "f4", "f8", "c16"]


def f(x: Any, y: Any, z: Any = 3) -> Any:
    return (x + y) * z


def value(taskID: int) -> Any:
    return VALUES[taskID][0]


def row(i: int, shape: tuple[int, ...], dtype: str) -> Any:
    n = int(np.prod(shape))
    return (np.arange(n) + i * n).reshape(shape).astype(dtype)


def ragged_row(i: int) -> Any:
    return np.arange(i, dtype=float)


def row_and_more(i: int) -> Any:
    return np.array([i, -i]), f"task {i}", np.arange(i)


def half_of(i: int) -> float:
    return i / 2


def fail_at_the_ends(i: int, n: int) -> Any:
    if i in (0, n - 1):
        raise ValueError(f"no result for {i}")
    return i * 10


def fail_always(i: int) -> None:
    raise ZeroDivisionError(i)


def wrong_shape(i: int) -> Any:
    return np.zeros(3 if i != 2 else 4)


def wrong_dtype(i: int) -> Any:
    return i if i != 1 else 1 + 1j


def make_cases() -> dict[str, tuple[Any, ...]]:
    """Return (function, args, kwargs) of each case; kwargs go to `map`."""
    shaped = {"result_shape": (None,)}
    cases: dict[str, tuple[Any, ...]] = {
        "f": (f, ([2, 4, 6, 8], 4), {}),
        "f-inline": (f, ([2, 4, 6, 8], 4), {"isolate": False}),
        "f-rows": (f, ([2, 4, 6, 8], 4), shaped),
        "f-rows-inline": (f, ([2, 4, 6, 8], 4), {**shaped, "isolate": False}),
        "f-rows-int": (f, ([2, 4, 6, 8], 4), {**shaped, "result_dtype": "int32"}),
        "f-one": (f, ([2], 4), {}),
        "f-one-rows": (f, ([2], 4), shaped),
        "f-none": (f, ([], 4), {}),
        "f-none-rows": (f, ([], 4), shaped),
        "value": (value, (), {"n_inputs": len(VALUES)}),
        "value-inline": (value, (), {"n_inputs": len(VALUES), "isolate": False}),
        "ragged": (ragged_row, ([3, 0, 5, 1, 2],), {"result_shape": (None, np.inf)}),
        "more": (row_and_more, (list(range(7)),), {"result_shape": (None, 2)}),
        # More files than one virtual dataset may join.
        "many-rows": (half_of, (range(300),), shaped),
        "ends-fail": (fail_at_the_ends, (list(range(5)), 5), {}),
        "ends-fail-rows": (fail_at_the_ends, (list(range(5)), 5), shaped),
        "ends-fail-int": (fail_at_the_ends, (range(5), 5), {**shaped, "result_dtype": "i8"}),
        "all-fail": (fail_always, (list(range(3)),), {}),
        "wrong-shape": (wrong_shape, (list(range(4)),), {"result_shape": (None, 3)}),
        "wrong-dtype": (wrong_dtype, (list(range(4)),), shaped),
    }
    for dtype in ROW_DTYPES:
        kwargs = {"result_shape": (None, 2, 3), "result_dtype": dtype}
        cases[f"rows-{dtype}"] = row, (list(range(5)), (2, 3), dtype), {**kwargs, "n_inputs": 5}
    for name, shape in (("first", (None, 60, 200)), ("mid", (60, None, 200)), ("last", (2, None))):
        in_axis: dict[str, Any] = {"result_shape": shape, "n_inputs": 5}
        inner = tuple(n for n in shape if n is not None)
        cases[f"axis-{name}"] = row, (list(range(5)), inner, "f8"), in_axis
    cases["all-fail-rows"] = fail_always, (list(range(3)),), shaped
    return cases


def canonical(thing: Any) -> Any:
    """Return a value as plain tuples, equal only if types, dtypes, shapes and bits are."""
    if isinstance(thing, (list, tuple)):
        return type(thing).__name__, tuple(canonical(entry) for entry in thing)
    if isinstance(thing, np.ndarray) and thing.dtype.kind == "O":
        return "strings", thing.shape, tuple(thing.ravel().tolist())
    if isinstance(thing, (np.ndarray, np.generic)):
        array = np.asarray(thing)
        return type(thing).__name__, array.dtype.str, array.shape, content_bytes(array)
    return type(thing).__name__, repr(thing)


def content_bytes(array: Any) -> Any:
    """Return the bits of an array; of 80-bit numbers not those that only fill them up."""
    return repr(array.tolist()) if array.dtype.char in "gG" else array.tobytes()


def call(func: Any, args: Any, kwargs: Any, root: Path) -> Any:
    """Call `map`; return what came back, as plain values."""
    import acme_mpi

    failures: list[Any] = []
    error = ""
    try:
        result = acme_mpi.map(func, *args, **kwargs)
    except acme_mpi.TaskError as caught:
        result, error = caught.results, str(caught)
        failures = [(each.index, each.type, each.message) for each in caught.failures]
    except acme_mpi.AcmeMpiError as caught:
        return None, [], f"{type(caught).__name__}: {caught}"
    if isinstance(result, list) and kwargs.get("write_worker_results", True):
        result = [path and str(Path(path).relative_to(root)) for path in result]
    return canonical(result), failures, error


def main() -> None:
    from mpi4py import MPI

    import acme_mpi  # noqa: F401  (before the clock of the first call)

    world = MPI.COMM_WORLD
    root = Path(sys.argv[1]).resolve()
    reports = {}
    for case, (func, args, kwargs) in make_cases().items():
        for store, options in STORES.items():
            if case == "ragged" and store == "memory":
                continue
            folder = str(root / f"{case}-{store}")
            got = call(func, args, {**kwargs, **options, "output_dir": folder}, root)
            everybody = world.gather(got)
            if everybody is not None:
                reports[case, store] = got, [each == got for each in everybody]
    if world.rank == 0:
        (root / "reports.pickle").write_bytes(pickle.dumps(reports))


if __name__ == "__main__":
    main()
