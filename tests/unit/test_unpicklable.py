"""Which part cannot be pickled is told by the names that a user gave."""

import functools
import threading

import pytest

from acme_mpi.errors import InputError
from acme_mpi.session.taught import TaughtFunctions
from acme_mpi.tasks.pickling import pickle_given
from acme_mpi.tasks.unpicklable import unpicklable_part

lock = threading.Lock()
settings = {"a": [1, {"deep": lock}]}


def holds():
    with lock:
        return 1


def calls():
    return holds()


def reads():
    return settings["a"]


def has_default(x, guard=lock):
    return x, guard


def closes_over(variable):
    return lambda: variable


class Logged:
    def __init__(self):
        self.log = lock

    def method(self, x):
        return x


class Odd:
    def __reduce__(self):
        raise ValueError("not today")


@pytest.mark.parametrize(
    ("value", "said"),
    [
        (holds, "`lock`, a global of `value`"),
        (calls, "`lock`, a global of `holds`"),
        (reads, "`settings['a'][1]['deep']`, a global of `value`"),
        (closes_over(lock), "`variable`, in the closure of `value`"),
        (has_default, "`value.__defaults__[0]`"),
        (Logged().method, "`value.__self__.log`"),
        (functools.partial(max, lock), "`value.args[0]`"),
        ([1, (2, {"k": lock})], "`value[1][1]['k']`"),
        (lock, "`value`"),
        (Odd(), "`value`"),
        (max, ""),
        ([1, 2.0, "x"], ""),
    ],
)
def test_a_part_has_its_name(value, said, by_value):
    assert unpicklable_part(value, "value") == said


@pytest.fixture
def by_value():
    """Functions of this module travel as those of a script do."""
    import sys

    from cloudpickle import register_pickle_by_value, unregister_pickle_by_value

    register_pickle_by_value(sys.modules[__name__])
    yield
    unregister_pickle_by_value(sys.modules[__name__])


def test_what_contains_itself_comes_to_an_end(by_value):
    around = [lock]
    around.append(around)
    assert unpicklable_part(around, "x") == "`x[0]`"


def test_a_call_says_it():
    import acme_mpi

    with pytest.raises(InputError, match=r"lock' object \(`y\['k'\]`\); make"):
        acme_mpi.map(lambda x, y: x, [1], {"k": lock})


def test_a_pool_s_error_has_a_note(by_value):
    with pytest.raises(TypeError) as plain:
        pickle_given(holds)
    with pytest.raises(TypeError) as noted:
        TaughtFunctions(1, print).known(holds)
    assert noted.value.args == plain.value.args
    assert noted.value.__notes__ == ["what cannot be pickled is `lock`, a global of `holds`"]
