"""Function and arguments as one segment that runners map."""

from __future__ import annotations

import threading

import numpy as np
import pytest

from acme_mpi.runner import packing
from acme_mpi.runner.packing import BLOCK_ITEMS, Items, pack, unpack
from acme_mpi.tasks import PerTask, Shared, distribute

pytestmark = pytest.mark.once

LARGE = np.arange(10_000.0)


def f(x, y=None):
    return x


def sent(*args, n_inputs="auto", **kwargs):
    """Return the tasks of a call of `f` as a runner has them."""
    return unpack(pack(None, distribute(f, args, kwargs, n_inputs)))[1]


def values_of(tasks, start=0, stop=None):
    return [args[0] for args, _ in tasks.calls(start, tasks.n_tasks if stop is None else stop)]


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


def test_arrays_are_views_of_the_segment_that_cannot_be_written_to():
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


def test_small_arrays_belong_to_the_task():
    (array,) = values_of(sent([np.zeros(3)]))
    array += 1

    assert array.tolist() == [1, 1, 1]


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
