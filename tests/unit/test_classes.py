"""Classes of a script come back as the caller's own, on every rank and in every session."""

from __future__ import annotations

import json

import pytest

PROGRAM = """
import dataclasses
import enum
import json
import os
import typing

import acme_mpi


class State(enum.Enum):
    OK = 1


@dataclasses.dataclass
class Point:
    x: int
    n_made: typing.ClassVar[int] = 0

    def scaled(self):
        return self.x * FACTOR


class Pair(typing.NamedTuple):
    first: int


@dataclasses.dataclass(slots=True)
class Slotted:
    x: int


class Derived(Slotted):
    __slots__ = ("__private", "kept")

    def __init__(self, x):
        super().__init__(x)
        self.__private = self.kept = x

    def __eq__(self, other):
        return (self.x, self.__private, self.kept) == (other.x, other.__private, other.kept)


class Bad(Exception):
    def __init__(self, code):
        super().__init__(code)


def make_local():
    class Local:
        pass

    return Local


FACTOR = 2
Local = make_local()


def f(i, given):
    assert isinstance(given, Point) and given == Point(i)
    slotted = Derived(i)
    assert not hasattr(slotted, "__dict__")
    return State.OK, Point(i), Pair(i), Bad(i), Local(), State, given, slotted


if __name__ == "__main__":
    found = []
    for scale in (1, 2):
        FACTOR = Point.n_made = scale
        points = [Point(i) for i in range(12)]
        values = acme_mpi.map(f, range(12), points, write_worker_results=False)
        FACTOR = Point.n_made = 7
        for i, each in enumerate(values):
            state, point, pair, bad, local, kind, given, slotted = each
            same = [state is State.OK, point == Point(i), type(pair) is Pair, type(bad) is Bad]
            same += [type(local) is Local, kind is State, given == points[i], point.n_made == 7]
            same += [type(slotted) is Derived, slotted == Derived(i)]
            found.append([*same, point.scaled() == 7 * i, Point.scaled.__globals__ is globals()])

    class State(enum.Enum):
        OK = "another"

    (value,) = acme_mpi.map(f, [0], [Point(0)], write_worker_results=False)
    found.append([value[0] is State.OK])
    with open(f"same{os.getpid()}.json", "w") as file:
        json.dump(found, file)
"""


@pytest.mark.parametrize(
    ("n", "mode"),
    [
        pytest.param(0, [], marks=pytest.mark.once),
        pytest.param(2, ["-m", "acme_mpi"], marks=pytest.mark.once),
        (3, []),
    ],
)
def test_classes_come_back_as_the_callers_own(mpiexec, tmp_path, n, mode):
    (tmp_path / "program.py").write_text(PROGRAM)

    ran = mpiexec(n, *mode, "program.py", cwd=tmp_path)

    assert ran.returncode == 0, ran.stderr
    found = [json.loads(path.read_text()) for path in tmp_path.glob("same*.json")]
    assert found == [[[True] * 12] * 24 + [[True]]] * (3 if n == 3 else 1)
