"""In tasks, what goes by names of the script's ``__main__`` works as in the script."""

from __future__ import annotations

import json

import pytest

pytestmark = pytest.mark.once

PROGRAM = """
import contextlib
import functools
import json
import multiprocessing
import pickle
from concurrent.futures import ProcessPoolExecutor
from typing import Generic, NamedTuple, NewType, ParamSpec, TypedDict, TypeVar

import acme_mpi

P = ParamSpec("P")
Index = NewType("Index", int)


class Base(TypedDict):
    x: int


class Row(Base):
    y: int


T = TypeVar("T")


class Pair(NamedTuple, Generic[T]):
    first: T
    second: T


class Point:
    def __init__(self, x):
        self.x = x


def double(x):
    return 2 * x


def shifted(point):
    return Point(point.x + 1)


@functools.lru_cache(maxsize=8)
def fib(n):
    return n if n < 2 else fib(n - 1) + fib(n - 2)


def by_pickle(i):
    return pickle.loads(pickle.dumps((Point(i), double)))[1](i)


def by_fork(i):
    with multiprocessing.get_context("fork").Pool(2) as pool:
        return [each.x for each in pool.map(shifted, [Point(i), Point(2)])]


def by_spawn(i):
    with ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as pool:
        return pool.submit(shifted, Point(i)).result().x


def by_cache(i):
    return fib(i), fib.cache_parameters()["maxsize"]


@functools.singledispatch
def kind(value):
    return "object"


@kind.register
def _(value: int):
    return "int"


@contextlib.contextmanager
def opened(x):
    yield x


class Lazy:
    @functools.cached_property
    def value(self):
        return 3

    @functools.singledispatchmethod
    def kind(self, value):
        return kind(value)

    @kind.register
    def _(self, value: str):
        return "str"


def by_what_decorators_have_made(i):
    with multiprocessing.get_context("fork").Pool(1) as pool:
        with pickle.loads(pickle.dumps(opened))(i) as x:
            return [*pool.map(kind, [i, ""]), *pool.map(fib, [i]), x]


def by_decorators(i):
    lazy = Lazy()
    return lazy.value, lazy.kind(i), lazy.kind(""), lazy.kind(1.5)


def typed(i: Index, *args: P.args) -> Row:
    return Row(x=Index(i), y=1)


def paired(i) -> Pair[int]:
    return Pair(i, 2)


if __name__ == "__main__":
    funcs = [by_pickle, by_fork, by_spawn, by_cache, fib]
    funcs += [by_what_decorators_have_made, by_decorators, typed, paired]
    found = [acme_mpi.map(func, [30], write_worker_results=False)[0] for func in funcs]
    with open("found.json", "w") as file:
        json.dump(found, file)
"""


@pytest.mark.parametrize("mode", [(), ("-m", "acme_mpi")], ids=["itself", "served"])
def test_names_of_the_script_are_found_in_tasks(mpiexec, tmp_path, mode):
    (tmp_path / "program.py").write_text(PROGRAM)

    ran = mpiexec(0, *mode, "program.py", cwd=tmp_path)

    assert ran.returncode == 0, ran.stderr
    found = json.loads((tmp_path / "found.json").read_text())
    assert found == [
        *[60, [31, 3], 31, [832040, 8], 832040],
        ["int", "object", 832040, 30],
        [3, "int", "str", "object"],
        {"x": 30, "y": 1},
        [30, 2],
    ]
