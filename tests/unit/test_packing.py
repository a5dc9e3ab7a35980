"""Function and arguments as one segment that runners map."""

from __future__ import annotations

import dataclasses
import datetime
import enum
import pickle
import threading
from pathlib import Path

import numpy as np
import pytest

from acme_mpi.tasks import packing
from acme_mpi.tasks.distributing import distribute
from acme_mpi.tasks.markers import PerTask, Shared
from acme_mpi.tasks.packing import BLOCK_ITEMS, Items, pack, unpack

pytestmark = pytest.mark.once

LARGE = np.arange(10_000.0)


def f(x, y=None):
    return x


def sent(*args, n_inputs="auto", **kwargs):
    """Return the tasks of a call of `f` as a runner has them."""
    return unpack(pack(None, distribute(f, args, kwargs, n_inputs)))[1]


def values_of(tasks, start=0, stop=None):
    return [args[0] for args, _ in tasks.calls(start, tasks.n_tasks if stop is None else stop)]


def called_with(tasks, start=0, stop=None):
    """Return the arguments with which a function is called, one tuple per task."""
    seen = []
    call = tasks.bound(lambda *args: seen.append(args))
    for row in tasks.rows(start, tasks.n_tasks if stop is None else stop):
        call(row)
    return seen


class Loaded:
    """Notes who is loaded."""

    names: list[str] = []  # noqa: RUF012 (it is to be shared)

    def __init__(self, name):
        self.name = name

    def __getstate__(self):
        return self.name

    def __setstate__(self, name):
        self.name = name
        self.names.append(name)


class Unloadable:
    def __reduce__(self):
        return int, ("spam",)


def test_the_function_travels_if_it_is_given():
    tasks = distribute(f, [[1, 2]], {})

    assert unpack(pack(None, tasks))[0] is None
    assert unpack(pack(lambda x: x + 1, tasks))[0](1) == 2


@pytest.mark.parametrize(
    "values",
    [
        [1, 2.5, None, "a", b"b", 1j, True],
        list(range(3 * BLOCK_ITEMS + 5)),
        [f"{k}" for k in range(BLOCK_ITEMS + 1)],
        tuple(range(5000)),
        [[k, k + 1] for k in range(50)],
        [{"k": k} for k in range(50)],
        range(7),
    ],
    ids=lambda values: f"{type(values).__name__} of {len(values)}",
)
def test_items_arrive_as_they_are(values):
    tasks = sent(values)

    assert values_of(tasks) == list(values)
    assert values_of(tasks, 2, 5) == list(values[2:5])
    assert [type(value) for value in values_of(tasks)] == [type(value) for value in values]


def test_arrays_are_read_only_views_of_the_segment():
    """Arrays are views of the segment that cannot be written to."""
    tasks = sent(PerTask(np.ones((5, 10_000))), Shared(LARGE))

    for args, _ in tasks.calls(0, 5):
        for array in args:
            assert not array.flags.writeable
            assert not array.flags.owndata
            with pytest.raises(ValueError, match="read-only"):
                array += 1
    assert np.array_equal(args[1], LARGE)


def test_arrays_begin_where_numpy_likes_it():
    tasks = sent([LARGE + k for k in range(5)])

    for array in values_of(tasks):
        assert array.ctypes.data % 64 == 0


ARRAYS = {
    "small": np.arange(10.0),
    "large": np.arange(100_000.0),
    "empty": np.zeros((0, 3)),
    "scalar": np.array(5.0),
    "not contiguous": np.zeros((40, 40))[::2, ::3],
    "in columns": np.zeros((4, 6), order="F"),
    "times": np.array(["2020-01-01"], "M8[D]"),
    "records": np.array([(1, 2.0)], [("a", int), ("b", float)]),
    "objects": np.array([[1, "x"], [None, 2.0]], dtype=object),
}


class Holder:
    def __init__(self, content):
        self.content = content


PLACES = {
    "bare": (lambda array: array, lambda value: value),
    "tuple": (lambda array: (1, array), lambda value: value[1]),
    "list": (lambda array: [array], lambda value: value[0]),
    "dict": (lambda array: {"k": {"w": [array]}}, lambda value: value["k"]["w"][0]),
    "object": (Holder, lambda value: value.content),
}


@pytest.mark.parametrize("place", PLACES)
@pytest.mark.parametrize("mark", [Shared, lambda value: PerTask([value])], ids=["shared", "split"])
@pytest.mark.parametrize("name", ARRAYS)
def test_no_array_can_be_written_to_wherever_it_is(name, mark, place):
    array, (put, get) = ARRAYS[name], PLACES[place]

    ((value,),) = called_with(sent(mark(put(array)), n_inputs=1))

    value = get(value)
    assert not value.flags.writeable
    assert (value.dtype, value.tolist()) == (array.dtype, array.tolist())


def test_arrays_of_the_function_are_its_own():
    """As in Python: a work space among the globals stays one, be it small or large."""
    spaces = [np.zeros(10), np.zeros(100_000)]

    def g():
        return [np.add(space, 1, out=space)[-1] for space in spaces]

    own, _ = unpack(pack(g, distribute(f, [[1]], {})))

    assert [own(), own()] == [[1, 1], [2, 2]]


@pytest.mark.parametrize(
    "value",
    [
        {"a": 1, "b": [2, 3]},
        {"a": 1},
        [1, 2.5, "x"],
        [[1], [2]],
        {1, 2},
        bytearray(b"ab"),
        np.ma.array([1.0, 2.0], mask=[0, 1]),
        np.random.default_rng(3),
        ({"in": "a tuple"}, 1),
    ],
    ids=lambda value: type(value).__name__,
)
def test_what_can_be_changed_is_another_object_for_each_task(value):
    seen = called_with(sent(Shared(value), Shared(value), n_inputs=3))

    assert len({id(first) for first, _ in seen}) == 3
    assert all(first is second for first, second in seen)
    again = pickle.dumps(pickle.loads(pickle.dumps(value)))
    assert all(pickle.dumps(first) == again for first, _ in seen)


def test_common_parts_of_arguments_are_common_to_the_copies():
    """Parts that arguments have in common are common to the copies."""
    part = {"n": 1}
    tasks = sent(Shared({"part": part}), Shared([part]), n_inputs=2)

    for first, second in called_with(tasks):
        assert first["part"] is second[0]
        first["part"]["n"] += 1
        assert second == [{"n": 2}]


class Color(enum.Enum):
    RED = 1


@dataclasses.dataclass(frozen=True)
class Fixed:
    x: int
    y: tuple[float, ...]


@pytest.mark.parametrize(
    "value",
    [
        5,
        "text",
        (1, ("a", frozenset({2}))),
        np.float64(3),
        np.arange(4.0),
        (np.arange(4), None),
        Color.RED,
        Fixed(1, (2.0,)),
        Path("x"),
        datetime.date(2020, 1, 1),
        range(5),
        len,
        Color,
    ],
    ids=lambda value: type(value).__name__,
)
def test_what_cannot_be_changed_is_one_object_for_all_tasks(value):
    tasks = sent(Shared(value), n_inputs=3)

    assert not tasks.makes_anew
    assert len({id(each) for each in values_of(tasks)}) == 1
    assert tasks.bound(len) is len


def test_values_that_are_loaded_together_are_copied(monkeypatch):
    """Values that are loaded together are copied for their tasks."""
    monkeypatch.setattr(packing, "ROOM_BYTES", 100)
    common = {"table": list(range(100)), "large": LARGE}
    tasks = sent([(k, common) for k in range(100)])

    for k in (3, 4, 3):
        ((value,),) = called_with(tasks, k, k + 1)
        assert value[0] == k
        assert value[1]["table"] == list(range(100))
        value[1]["table"].clear()
        assert not value[1]["large"].flags.writeable


def test_an_array_that_occurs_in_many_items_is_there_once():
    segment = pack(None, distribute(f, [[(LARGE, k) for k in range(100)]], {}))

    assert segment.n_bytes < 2 * LARGE.nbytes
    assert [k for _, k in values_of(unpack(segment)[1])] == list(range(100))


def test_a_task_loads_its_own_item_alone():
    tasks = sent([Loaded(name) for name in "abcdef"])
    Loaded.names.clear()

    (value,) = values_of(tasks, 3, 4)

    assert value.name == "d"
    assert Loaded.names == ["d"]


def test_an_item_that_cannot_be_loaded_costs_its_task_alone():
    tasks = sent([1, Unloadable(), 3])

    assert values_of(tasks, 0, 1) == [1]
    with pytest.raises(ValueError, match="spam"):
        values_of(tasks, 1, 2)
    assert values_of(tasks, 2, 3) == [3]


@pytest.mark.parametrize("is_shared", [True, False])
def test_items_that_share_much_travel_together(monkeypatch, is_shared):
    """Else what they share would be there as often as there are items."""
    monkeypatch.setattr(packing, "ROOM_BYTES", 100_000)
    common = {f"{k}": k for k in range(1000)}
    values = [(common if is_shared else dict(common), k) for k in range(100)]

    segment = pack(None, distribute(f, [values], {}))
    tasks = unpack(segment)[1]

    assert isinstance(tasks.arguments[0].value, Items) != is_shared
    assert (segment.n_bytes < 100_000) == is_shared
    assert values_of(tasks) == values


def test_a_million_numbers_are_few_objects():
    tasks = sent([0.5 * k for k in range(1_000_000)])
    items = tasks.arguments[0].value

    assert len(items.edges) < 1000
    assert values_of(tasks, 999_999) == [499_999.5]


def test_what_cannot_be_pickled_is_refused():
    with pytest.raises(TypeError, match="lock"):
        pack(None, distribute(f, [[threading.Lock()]], {}))
