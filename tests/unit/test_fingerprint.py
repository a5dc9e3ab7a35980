"""Equal values have equal digests in every process, and what differs is told in words."""

from __future__ import annotations

import enum
import functools
import importlib
import itertools
import math
import os
import pickle
import platform
import re
import subprocess
import sys
import threading
import time
from collections import Counter, OrderedDict, defaultdict, deque, namedtuple
from dataclasses import dataclass

import h5py
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from acme_mpi import PerTask, Shared
from acme_mpi.tasks import digest as digest_module
from acme_mpi.tasks.changes import changes, version_changes, without_source
from acme_mpi.tasks.digest import digest
from acme_mpi.tasks.distributing import distribute
from acme_mpi.tasks.fingerprint import fingerprint_of, versions

pytestmark = pytest.mark.once

NUMBERS = itertools.count()
Pair = namedtuple("Pair", "a b")


class Colour(enum.Enum):
    RED = 1
    BLUE = 2


@dataclass
class Model:
    width: float
    tags: object = None

    def run(self, x):
        return x * self.width

    @classmethod
    def make(cls, x):
        return cls(x)

    def __call__(self, x):
        return x


class Slots:
    __slots__ = ("a",)

    def __init__(self, a):
        self.a = a


def f(x, y=2):
    return x + y


def fingerprint(func=f, *args, options=None, **kwargs):
    """Return the fingerprint of a call."""
    return fingerprint_of(func, distribute(func, args, kwargs), options or {})


def fresh(text: str) -> str:
    """Return an equal string that is another object."""
    return "".join(list(text))


# No two of them are the same argument.
VALUES = [
    None,
    True,
    1,
    1.0,
    1 + 0j,
    "1",
    b"1",
    bytearray(b"1"),
    0.0,
    -0.0,
    math.nan,
    10**30,
    "",
    [],
    (),
    {},
    set(),
    frozenset(),
    [1],
    (1,),
    {1},
    frozenset({1}),
    {1: 1},
    [[1]],
    [(1,)],
    [1, 2],
    [2, 1],
    [12],
    ["1", "2"],
    ["12"],
    [["1"], "2"],
    [["1", "2"]],
    [[], []],
    [[[]]],
    range(3),
    range(0, 3, 2),
    slice(3),
    slice(0, 3),
    ...,
    NotImplemented,
    {"a": 1, "b": 2},
    {"a": 2, "b": 1},
    {"a": {"b": 1}},
    {1: {2}},
    {1: {2: 3}},
    np.float64(1),
    np.float32(1),
    np.int64(1),
    np.str_("1"),
    np.datetime64("2020-01-01"),
    np.ones(2),
    np.ones(2, "f4"),
    np.ones(2, ">f8"),
    np.ones((2, 1)),
    np.ones(()),
    np.ones(0),
    np.ones((0, 2)),
    np.array([1, "a", None], object),
    np.array([[1], [2]], object),
    np.array(["ab"]),
    np.array([b"ab"]),
    np.ones(2, np.longdouble),
    np.ones(2, bool),
    np.zeros(2, [("x", "f8"), ("n", "i1")]),
    np.zeros(2, [("y", "f8"), ("n", "i1")]),
    np.ma.array([1, 2]),
    np.ma.array([1, 2], mask=[0, 1]),
    np.dtype("f8"),
    np.dtype("f4"),
    Model(1),
    Model(2),
    Model(1, {"a"}),
    Pair(1, 2),
    Slots(1),
    Slots(2),
    Colour.RED,
    Colour.BLUE,
    OrderedDict(a=1),
    Counter("a"),
    defaultdict(int, a=1),
    deque([1]),
    deque([1], 2),
    re.compile("a"),
    re.compile("b"),
    re.compile("a", re.IGNORECASE),
    ValueError("a"),
    math,
    os,
    math.sin,
    math.cos,
    np.sin,
    np.cos,
    np.mean,
    np.median,
    len,
    max,
    str,
    int,
    Model,
    Colour,
    Slots,
    "a".upper,
    "b".upper,
    "a".lower,
    str.upper,
    str.lower,
    f,
    fingerprint,
    Model(1).run,
    Model(2).run,
    Model.make,
    Model.run,
    vars(Model)["make"],
    functools.partial(f, 1),
    functools.partial(f, 2),
    functools.partial(f, x=1),
    lambda: 1,
    lambda: 2,
    functools.lru_cache(f),
    functools.lru_cache(fingerprint),
    np.random.default_rng(1),
    np.random.default_rng(2),
    np.random.RandomState(1),
]


class TestDigest:
    def test_what_differs_has_different_digests(self):
        digests = [digest(value) for value in VALUES]

        assert "unknown" not in digests
        shown = {
            each: [repr(v) for v, d in zip(VALUES, digests, strict=True) if d == each]
            for each in digests
        }
        assert [values for values in shown.values() if len(values) > 1] == []

    def test_it_is_short_text(self):
        assert re.fullmatch("[0-9a-f]{32}", digest(list(range(1000))))

    @pytest.mark.slow
    def test_it_is_the_same_in_all_processes(self):
        code = "import test_fingerprint as t; print([t.digest(value) for value in t.VALUES])"
        outputs = {
            subprocess.run(
                [sys.executable, "-c", code],
                env={**os.environ, "PYTHONHASHSEED": seed},
                cwd=os.path.dirname(__file__),
                stdout=subprocess.PIPE,
                timeout=60,
                check=True,
            ).stdout
            for seed in ("1", "2")
        }

        assert len(outputs) == 1

    @pytest.mark.slow
    def test_functions_without_source_have_one_in_all_processes(self):
        code = """
from acme_mpi.tasks.digest import digest
N = 3
class A:
    def __init__(self, tags): self.tags = tags
    def run(self, x): return {y for y in self.tags if y in {'a', 'b', 'c'}}
    @property
    def p(self): return super().__repr__()
def outer(n, names=frozenset('abc')):
    def g(x): return [x + y for y in range(n)] if x in {'a', 'b'} else g(x)
    return g
a = A({'x', 'y', 'z'})
print([digest(v) for v in (outer, outer(1), outer(2), a, a.run, A, A.p, lambda: {'x', 'y'})])
"""
        outputs = [
            subprocess.run(
                [sys.executable, "-c", code],
                env={**os.environ, "PYTHONHASHSEED": seed},
                stdout=subprocess.PIPE,
                timeout=60,
                check=True,
                text=True,
            ).stdout
            for seed in ("1", "2")
        ]

        assert outputs[0] == outputs[1]
        assert len(set(outputs[0].split())) == 8
        assert "unknown" not in outputs[0]

    @pytest.mark.slow
    @given(
        st.recursive(
            st.none() | st.booleans() | st.integers() | st.floats() | st.text() | st.binary(),
            lambda some: st.lists(some) | st.dictionaries(st.text(), some) | st.tuples(some, some),
            max_leaves=20,
        )
    )
    def test_a_copy_has_the_same_one(self, value):
        assert digest(pickle.loads(pickle.dumps(value))) == digest(value)

    def test_identity_does_not_count(self):
        one, row = "some text", [1, 2]

        assert digest([one, one]) == digest([one, fresh(one)])
        assert digest([row, row]) == digest([row, [1, 2]])
        assert digest(Model(one, one)) == digest(Model(one, fresh(one)))
        assert digest({fresh("a"): 1}) == digest({"a": 1})

    def test_the_order_of_keys_does_not_count(self):
        assert digest({"a": 1, "b": [2]}) == digest({"b": [2], "a": 1})

    def test_the_layout_of_an_array_does_not_count(self):
        array = np.arange(24.0).reshape(4, 6)
        wide = np.zeros((4, 12))
        wide[:, ::2] = array

        digests = {digest(each) for each in (array, np.asfortranarray(array), wide[:, ::2])}
        assert len(digests) == 1
        assert digest(array.T) == digest(array.T.copy()) != digest(array)

    def test_a_large_array_is_read_block_by_block(self, monkeypatch):
        monkeypatch.setattr(digest_module, "_BLOCK_BYTES", 1000)
        array = np.arange(6000.0).reshape(20, -1)

        assert digest(np.asfortranarray(array)) == digest(array)
        assert digest(array.T) == digest(array.T.copy())

    def test_bytes_that_are_not_part_of_the_values_do_not_count(self):
        padded = np.dtype({"names": ["a", "b"], "formats": ["i1", "g"], "offsets": [0, 16]})
        arrays = [np.frombuffer(bytearray([k] * 64), padded).copy() for k in (0, 255)]
        for array in arrays:
            array["a"], array["b"] = 1, 2.5

        assert digest(arrays[0]) == digest(arrays[1])

    def test_a_memory_map_is_its_values(self, tmp_path):
        np.save(tmp_path / "a.npy", np.arange(5))

        assert digest(np.load(tmp_path / "a.npy", mmap_mode="r")) == digest(np.arange(5))

    def test_it_notices_one_changed_number_in_many(self):
        numbers = list(range(200_000))
        other = numbers.copy()
        other[150_000] = 0

        assert digest(numbers) != digest(other)
        assert digest(np.array(numbers)) != digest(np.array(other))

    @pytest.mark.parametrize("kind", [int, float, str])
    @pytest.mark.slow
    def test_a_million_numbers_take_less_than_half_a_second(self, kind):
        numbers = [kind(number) for number in range(1_000_000)]

        begin = time.process_time()
        digest(numbers)

        assert time.process_time() - begin < 0.5

    def test_what_contains_itself_has_one(self):
        def cyclic(first):
            value = [first, {}]
            value[1]["self"] = value
            value.append(Model(1, value))
            return value

        assert digest(cyclic(1)) == digest(cyclic(1)) != digest(cyclic(2))
        assert digest(cyclic(1)) != "unknown"

    def test_what_is_shared_many_times_is_looked_at_once(self):
        value = [object]
        for _ in range(sys.getrecursionlimit()):
            value = [value, value]
        nested = [[1]]
        for _ in range(50):
            nested = [nested, nested]

        assert digest(value) == "unknown", "too deep for Python's stack"
        assert digest(nested) != "unknown"

    def test_a_complete_graph_of_references_takes_no_time(self):
        """A graph in which everything refers to everything takes no time."""

        def graph(n):
            nodes = [[k] for k in range(n)]
            for node in nodes:
                node.extend(nodes)
            return nodes

        assert digest(graph(30)) == digest(graph(30)) != "unknown"

    @pytest.mark.parametrize("value", [threading.Lock(), (x for x in "ab"), sys.stdout.buffer])
    def test_what_cannot_be_pickled_is_unknown(self, value):
        assert digest(value) == "unknown"

    def test_the_rest_counts_beside_what_cannot_be_pickled(self):
        digests = [digest([threading.Lock(), 1]), digest([threading.Lock(), 2])]

        assert len(set(digests)) == 2
        assert "unknown" not in digests

    def test_an_object_whose_methods_raise_is_unknown(self):
        class Bad:
            def __reduce_ex__(self, protocol):
                raise KeyError("bad")

            def __eq__(self, other):
                raise KeyError("bad")

            __hash__ = None  # type: ignore[assignment]

        assert digest(Bad()) == "unknown"


class TestHDF5:
    @pytest.fixture
    def path(self, tmp_path):
        path = tmp_path / "a.h5"
        with h5py.File(path, "w") as file:
            file["x"], file["g/y"] = [1, 2, 3], [1, 2, 3]
        return path

    def test_the_same_object_of_the_same_file_has_one_digest(self, path):
        found = []
        for _ in range(2):
            with h5py.File(path, "r") as file:
                found.append([digest(each) for each in (file, file["x"], file["g"], file["g/y"])])

        assert found[0] == found[1]
        assert len(set(found[0])) == 4
        assert "unknown" not in found[0]

    def test_a_file_that_was_written_since_has_another(self, path):
        with h5py.File(path, "r") as file:
            before = digest(file["x"])
        os.utime(path, ns=(0, 0))

        with h5py.File(path, "r") as file:
            assert digest(file["x"]) != before

    def test_an_object_of_a_closed_file_is_unknown(self, path):
        with h5py.File(path, "r") as file:
            dataset = file["x"]

        assert digest(dataset) == "unknown"


class TestFunctions:
    @pytest.fixture
    def load(self, tmp_path, monkeypatch):
        """Return a function that makes a module of a text and returns its `f`."""
        monkeypatch.syspath_prepend(tmp_path)
        monkeypatch.setattr(sys, "dont_write_bytecode", True)

        def load(text):
            name = f"module_of_test_{next(NUMBERS)}"
            (tmp_path / f"{name}.py").write_text(text)
            importlib.invalidate_caches()
            return importlib.import_module(name).f

        return load

    def test_the_place_of_a_function_does_not_count(self, load):
        text = "def f(x):\n    return x\n"

        assert digest(load(text)) == digest(load(f"\n\n{text}"))

    @pytest.mark.parametrize(
        ("text", "other"),
        [
            ("def f(x):\n    return x\n", "def f(x):\n    return -x\n"),
            ("N = 1\ndef f(x, y=N): pass", "N = 2\ndef f(x, y=N): pass"),
            ("N = 1\ndef f(x, *, y=N): pass", "N = 2\ndef f(x, *, y=N): pass"),
            (
                "def g(n):\n    return lambda: n\nf = g(1)",
                "def g(n):\n    return lambda: n\nf = g(2)",
            ),
            ("g, f = (lambda: 1), (lambda: 2)", "f, g = (lambda: 1), (lambda: 2)"),
            ("f = lambda: lambda: 1", "f = lambda: lambda: 2"),
            (
                "class A:\n    def f(self): return self.g()\n    def g(self): return 1\nf = A().f",
                "class A:\n    def f(self): return self.g()\n    def g(self): return 2\nf = A().f",
            ),
            (
                "class B:\n    n = 1\nclass A(B):\n    def __call__(self): pass\nf = A()",
                "class B:\n    n = 2\nclass A(B):\n    def __call__(self): pass\nf = A()",
            ),
            ("class f:\n    n = 1", "class f:\n    n = 2"),
            (
                "import functools\ndef d(g):\n    @functools.wraps(g)\n    def w(x): return g(x)\n"
                "    return w\n@d\ndef f(x): return 1",
                "import functools\ndef d(g):\n    @functools.wraps(g)\n    def w(x): return g(-x)\n"
                "    return w\n@d\ndef f(x): return 1",
            ),
            (
                "import functools\n@functools.cache\ndef f(x): return 1",
                "import functools\n@functools.cache\ndef f(x): return 2",
            ),
        ],
    )
    def test_what_a_function_does_and_what_is_bound_to_it_counts(self, load, text, other):
        assert digest(load(text)) != digest(load(other))

    def test_having_been_called_does_not_count(self):
        def g(n):
            return lambda x: x + n + sum(range(3))

        func = g(1)
        before = digest(func)
        for k in range(5000):
            func(k)

        assert digest(func) == before

    def test_a_function_that_refers_to_itself_has_one(self):
        def g(x):
            return g(x - 1) if x else 0

        assert digest(g) != "unknown"

    def test_a_name_that_is_not_assigned_yet_does_no_harm(self):
        def g():
            return later

        assert digest(g) != "unknown"
        later = 1


class TestFingerprint:
    def test_it_is_a_flat_dict_of_short_strings(self):
        found = fingerprint(f, [1, 2, 3], np.ones((2, 2)), options={"result_shape": "(None, 2)"})

        assert list(found) == [
            *("function", "source", "argument x", "argument y", "n_inputs", "result_shape")
        ]
        assert found["function"] == "f"
        assert found["argument x"] == f"split {digest([1, 2, 3])}"
        assert found["argument y"] == f"shared {digest(np.ones((2, 2)))}"
        assert found["n_inputs"] == "3"
        assert found["result_shape"] == "(None, 2)"
        assert all(isinstance(value, str) and len(value) < 80 for value in found.values())

    def test_arguments_without_a_name_are_called_by_number(self):
        assert "argument number 0" in fingerprint(max, [1, 2], 3)

    def test_the_same_computation_has_no_changes(self):
        assert changes(fingerprint(f, [1, 2]), fingerprint(f, [1, 2])) == []

    def test_a_partial_function_counts_with_its_arguments(self):
        old = fingerprint(functools.partial(f, y=1), [1, 2])
        new = fingerprint(functools.partial(f, y=2), [1, 2])

        assert changes(old, new) == ["the source of `f` has changed"]


class TestCalled:
    @pytest.fixture
    def find(self, tmp_path, monkeypatch):
        """Return a function that writes both modules and returns the fingerprint of f."""
        monkeypatch.syspath_prepend(tmp_path)
        monkeypatch.setattr(sys, "dont_write_bytecode", True)

        def find(helpers, mine="import called_helpers\ndef f(x): return called_helpers.g(x)\n"):
            for name, text in (("called_helpers", helpers), ("called_mine", mine)):
                (tmp_path / f"{name}.py").write_text(text)
                monkeypatch.delitem(sys.modules, name, raising=False)
            importlib.invalidate_caches()
            return fingerprint(importlib.import_module("called_mine").f, [1, 2])

        yield find
        for name in ("called_helpers", "called_mine"):
            sys.modules.pop(name, None)

    def test_a_helper_of_a_helper_in_another_module_is_named(self, find):
        text = "def g(x): return h(x)\ndef h(x): return g(x) if x else {}\n"
        old, new = find(text.format(1)), find(text.format(22))

        assert changes(old, new) == [
            "the source of `called_helpers.h` has changed, to which `f` refers"
        ]
        assert changes(without_source(old), without_source(new)) == []
        assert changes(old, find(text.format(1))) == []

    @pytest.mark.parametrize(
        ("helpers", "use"),
        [
            ("def g(x): return {}", "h.g(x)"),
            ("def g(x): return {}", "functools.partial(h.g, x)()"),
            ("def g(x, y): return {}\np = functools.partial(g, 1)", "h.p(x)"),
            ("@wrapped\ndef g(x): return {}", "h.g(x)"),
            ("@functools.lru_cache\ndef g(x): return {}", "h.g(x)"),
            ("@contextlib.contextmanager\ndef g(x): yield {}", "h.g(x)"),
            ("@np.vectorize\ndef g(x): return {}", "h.g(x)"),
            ("@functools.singledispatch\ndef g(x): return {}", "h.g(x)"),
            (
                "@functools.singledispatch\ndef a(x): pass\n@a.register\ndef g(x: int): return {}",
                "h.a(x)",
            ),
            ("def g(x): return {}\nways = dict(a=g)", "h.ways['a'](x)"),
            ("def g(x): return {}\nways = [None, g]", "h.ways[1](x)"),
            ("class g:\n    def m(self, x): return {}", "h.g().m(x)"),
            ("class g:\n    def m(self, x): return {}\none = g()", "h.one.m(x)"),
            ("def g(x): return {}\nclass A:\n    def m(self, x): return g(x)", "h.A().m(x)"),
            ("def g(): return {}\nclass A:\n    def m(self): return g()\none = A()", "h.one.m()"),
            (
                "def g(): return {}\nclass A:\n    def m(self): return g()\nclass B(A): pass",
                "h.B().m()",
            ),
            (
                "def g(): return {}\nclass A:\n    @functools.cached_property\n"
                "    def m(self): return g()",
                "h.A().m",
            ),
        ],
    )
    def test_helpers_are_found_however_they_are_reached(self, find, helpers, use):
        common = (
            "import contextlib, functools\nimport numpy as np\ndef wrapped(func):\n"
            "    @functools.wraps(func)\n    def w(*args): return func(*args)\n    return w\n"
        )
        mine = f"import functools\nimport called_helpers as h\ndef f(x): return {use}\n"
        old = find(common + helpers.format(1), mine)
        new = find(common + helpers.format(22), mine)

        assert changes(old, new) == [
            "the source of `called_helpers.g` has changed, to which `f` refers"
        ]
        assert changes(old, find(common + helpers.format(1), mine)) == []

    @pytest.mark.parametrize(
        ("helpers", "use"),
        [
            ("def g(x): return {}", "getattr(h, 'g')(x)"),
            ("def g(x): return {}", "__import__('called_helpers').g(x)"),
            ("g = {}", "h.g"),
        ],
    )
    def test_what_the_documents_say_is_not_seen(self, find, helpers, use):
        mine = f"import called_helpers as h\ndef f(x): return {use}\n"

        assert changes(find(helpers.format(1), mine), find(helpers.format(22), mine)) == []

    def test_a_script_and_the_module_of_it_have_the_same_helpers(self, find, monkeypatch):
        mine = "def f(x): return g(x)\ndef g(x): return 1\n"
        as_module = find("", mine)
        module = sys.modules["called_mine"]
        for func in (module.f, module.g):
            monkeypatch.setattr(func, "__module__", "__main__")

        as_script = fingerprint(module.f, [1, 2])

        assert as_script == as_module
        assert any(key.startswith("called ") for key in as_script)

    def test_a_run_that_was_recorded_without_helpers_is_the_same(self, find):
        new = find("def g(x): return x\n")
        old = {key: value for key, value in new.items() if not key.startswith("called ")}

        assert old != new
        assert changes(old, new) == changes(new, old) == []

    def test_more_than_fifty_have_one_digest(self, find):
        text = "".join(f"def g{k}(x): return {k}\n" for k in range(60))
        calls = ", ".join(f"g{k}(x)" for k in range(60))
        old = find(f"{text}def g(x): return {calls}\n")
        new = find(f"{text.replace('return 7', 'return -7')}def g(x): return {calls}\n")

        assert len(changes(old, new)) == 1
        assert sum(key.startswith("called ") for key in new) == 1

    def test_functions_that_are_installed_do_not_count(self, find):
        mine = "import numpy as np, textwrap\ndef f(x): return np.mean(x), textwrap.dedent('')\n"

        assert not any(key.startswith("called ") for key in find("", mine))


class TestChanges:
    @pytest.mark.parametrize(
        ("old", "new", "sentences"),
        [
            (([1, 2],), ([1, 3],), ["argument `x` has changed"]),
            (([1, 2], 1), ([1, 2],), ["argument `y` is gone"]),
            (([1, 2],), ([1, 2], 1), ["argument `y` is new"]),
            (
                ([1, 2],),
                ([1, 2, 3],),
                ["argument `x` has changed", "the number of tasks is 3 and was 2"],
            ),
            (
                ([1, 2], PerTask([3, 4])),
                ([1, 2], Shared([3, 4])),
                ["argument `y` is shared and was split"],
            ),
        ],
    )
    def test_arguments_are_named(self, old, new, sentences):
        assert changes(fingerprint(f, *old), fingerprint(f, *new)) == sentences

    def test_another_function_is_named(self):
        def g(x):
            return x

        assert changes(fingerprint(f, [1]), fingerprint(g, [1])) == [
            "the function is `g` and was `f`",
            "the source of `g` has changed",
        ]

    @pytest.mark.parametrize(
        ("old", "new", "sentence"),
        [
            ({"shape": "2"}, {"shape": "3"}, "`shape` is 3 and was 2"),
            ({}, {"shape": "3"}, "`shape` is 3 and was not there"),
            ({"shape": "2"}, {}, "`shape` was 2 and is not there"),
        ],
    )
    def test_options_are_shown_with_their_values(self, old, new, sentence):
        assert changes(old, new) == [sentence]

    def test_versions_are_told_apart_from_changes(self):
        old = {"version numpy": "1.26", "version h5py": "3.12", "a": "1"}
        new = {"version numpy": "2.0", "version python": "3.13", "a": "2"}

        assert changes(old, new) == ["`a` is 2 and was 1"]
        assert version_changes(old, new) == [
            "numpy is 2.0 and was 1.26",
            "python is 3.13 and was not there",
            "h5py was 3.12 and is not there",
        ]


def test_the_versions_are_those_in_use():
    found = versions()

    assert found["version python"] == platform.python_version()
    assert found["version numpy"] == np.__version__
    assert found["version h5py"] == h5py.__version__
    assert all(key.startswith("version ") for key in found)


@pytest.mark.slow
def test_the_versions_do_not_need_h5py():
    code = (
        "import sys; from acme_mpi.tasks.digest import digest; "
        "from acme_mpi.tasks.fingerprint import versions; "
        "versions(); digest([{1}]); "
        "sys.exit('h5py' in sys.modules)"
    )

    assert subprocess.run([sys.executable, "-c", code], timeout=60).returncode == 0
