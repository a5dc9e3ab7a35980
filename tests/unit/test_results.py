"""What a return value becomes: parts, a row, or a refusal that says expected and got."""

from __future__ import annotations

import datetime
import enum
import fractions
import math
import pathlib
import pickle
import re
from collections import namedtuple

import numpy as np
import pytest

import acme_mpi
from acme_mpi import InputError
from acme_mpi.results.checksum import checksum
from acme_mpi.results.convert import ResultError
from acme_mpi.results.encoder import Ways, encoder_of
from acme_mpi.results.parts import PLACED_BYTES, is_pickle, is_placed, names_of, parts_of, to_parts
from acme_mpi.results.spec import MisfitError, RowSpec, make_row_spec, to_row
from acme_mpi.tasks.pickling import Frozen, dump_values, load_values

LARGE = np.arange(PLACED_BYTES // 8, dtype=np.float64)  # just large enough to be placed
POINT = np.dtype([("x", "<f8"), ("n", "<i2")])


OVERLAPPING = np.dtype(
    {"names": ["w", "lo", "hi"], "formats": ["u4", "u2", "u2"], "offsets": [0, 0, 2]}
)
RECORDS = np.array([(1.0, 2)], POINT).view(np.recarray)


Pair = namedtuple("Pair", "left right")


class Meters(np.ndarray):
    pass


class Colour(enum.StrEnum):
    RED = "red"


def spec_of(*shape, dtype="float64") -> RowSpec:
    """Return the RowSpec of a `result_shape`."""
    spec = make_row_spec(shape, dtype)
    assert spec is not None
    return spec


def assert_same(part, expected) -> None:
    """Check that two parts are equal bit by bit."""
    if expected is None:
        assert part is None
        return
    assert isinstance(part, np.ndarray)
    assert (part.dtype, part.shape) == (expected.dtype, expected.shape)
    if expected.dtype.kind == "O":
        assert part.tolist() == expected.tolist()
    else:
        assert part.tobytes() == expected.tobytes()


def strings(*values, shape=None):
    array = np.empty(len(values), object)
    array[:] = values
    return array if shape is None else array.reshape(shape)


class TestToParts:
    @pytest.mark.parametrize(
        ("value", "expected"),
        [
            (3, [np.array([3])]),
            (-(2**63), [np.array([-(2**63)])]),
            (2**64 - 1, [np.array([2**64 - 1], np.uint64)]),
            (2.5, [np.array([2.5])]),
            (True, [np.array([True])]),
            (1 + 2j, [np.array([1 + 2j])]),
            (np.float16(1.5), [np.array([1.5], np.float16)]),
            (np.int8(-3), [np.array([-3], np.int8)]),
            (b"bytes", [np.array([b"bytes"])]),
            ("text", [strings("text")]),
            ("", [strings("")]),
            ("Größe \U0001f600", [strings("Größe \U0001f600")]),
            (np.str_("text"), [strings("text")]),
            (None, [None]),
        ],
    )
    def test_a_lone_scalar_has_shape_1(self, value, expected):
        parts = to_parts(value)

        assert len(parts) == len(expected)
        assert_same(parts[0], expected[0])

    @pytest.mark.parametrize(
        "array",
        [
            np.arange(6).reshape(2, 3),
            np.arange(6, dtype=">f8"),
            np.array([True, False]),
            np.array([1 + 2j], np.complex64),
            np.ones((2, 2), np.float16),
            np.array(5.0),
            np.empty((0, 3)),
            np.array([(1.0, 2), (3.0, 4)], POINT),
            np.array([b"a", b"bc"]),
        ],
    )
    def test_an_array_stays_as_it_is(self, array):
        (part,) = to_parts(array)

        assert_same(part, array)

    @pytest.mark.parametrize("array", [np.ones(2).view(Meters), RECORDS])
    def test_a_subclass_becomes_a_plain_array(self, array):
        """The agent, which knows no foreign types, gets plain arrays of plain dtypes."""
        (part,) = to_parts(array)

        assert type(part) is np.ndarray
        assert part.dtype.type is not np.record
        assert part.tobytes() == array.tobytes()

    @pytest.mark.parametrize(
        ("value", "expected"),
        [
            ([1, 2, 3], np.array([1, 2, 3])),
            ([1, 2.5], np.array([1, 2.5])),
            ([], np.empty(0)),
            (["a", "Größe"], strings("a", "Größe")),
            ([b"a", b"bc"], np.array([b"a", b"bc"])),
            ([True, False], np.array([True, False])),
        ],
    )
    def test_a_list_of_scalars_is_one_array(self, value, expected):
        (part,) = to_parts(value)

        assert_same(part, expected)

    @pytest.mark.parametrize("value", [np.array(["a", "Größe"]), strings("a", "Größe")])
    def test_an_array_of_strings_is_an_array_of_objects(self, value):
        (part,) = to_parts(value)

        assert_same(part, strings("a", "Größe"))

    @pytest.mark.parametrize(
        ("value", "expected"),
        [
            ((1, 2.5), [np.array(1), np.array(2.5)]),
            ((), [np.empty(0)]),
            ((np.ones(2), None, "s"), [np.ones(2), None, strings("s", shape=())]),
            ([np.ones(2), np.ones(3)], [np.ones(2), np.ones(3)]),
            ([[1], [1, 2]], [np.array([1]), np.array([1, 2])]),
            ([1, None], [np.array(1), None]),
            (([1, 2], ["a"]), [np.array([1, 2]), strings("a")]),
        ],
    )
    def test_tuples_of_more_than_scalars_are_several_parts(self, value, expected):
        """Tuples and lists of more than scalars are several parts."""
        parts = to_parts(value)

        assert len(parts) == len(expected)
        for part, each in zip(parts, expected, strict=True):
            assert_same(part, each)

    def test_an_enumeration_of_strings_is_its_plain_text(self):
        """Only plain values cross the channel."""
        for value in (Colour.RED, [Colour.RED], (Colour.RED, 1), strings(Colour.RED)):
            part = to_parts(value)[0]

            assert [type(entry) for entry in part.flat] == [str]
            assert part.flat[0] == "red"

    @pytest.mark.parametrize(
        ("value", "got"),
        [
            (object(), "a value of type builtins.object"),
            ({"a": 1}, "a value of type builtins.dict"),
            ({1, 2}, "a value of type builtins.set"),
            (lambda: None, "a value of type builtins.function"),
            (np.ma.masked_array([1, 2], [True, False]), "a masked array; return its .data"),
            ((1, [np.ma.array([1.0, 99.0], mask=[0, 1])] * 2), "a masked array; return"),
            ([[np.ma.masked, 1.0]], "a masked array; return"),
            (np.zeros(2, OVERLAPPING), "whose fields overlap"),
            (np.zeros(2, [("inner", OVERLAPPING, (2,))]), "whose fields overlap"),
            ([1, "a"], "a list that mixes strings and numbers; return a tuple"),
            (2**70, "an object array that holds int"),
            (np.array([object()]), "an object array that holds object"),
            (np.array([None, "a"]), "an object array that holds NoneType"),
            (np.array(["2024-01-01"], "M8[D]"), "which HDF5 does not know; return .astype"),
            (np.array([1], "m8[s]"), "which HDF5 does not know; return .astype"),
            (np.zeros(2, "V3"), "which HDF5 does not know"),
            (([[1], [1, 2]], 3), "a list that is not rectangular; return a tuple of arrays"),
            ((1, {"a": 1}), "a value of type builtins.dict"),
            ((1, {"a": 1}), "return its entries one by one, each under a name"),
            (datetime.date(2024, 1, 1), "return its .isoformat()"),
            (datetime.timedelta(1), "return its .total_seconds()"),
            (pathlib.PurePath("a"), "return it as a str"),
            (fractions.Fraction(1, 3), "return it as a float"),
            ({1, 2}, "return what is in it as a list"),
            (object(), "return what it consists of"),
            (np.array([1, "a"], object), "return an array of one dtype, or a tuple"),
            (np.zeros(1, [("name", "U3")]), "have bytes, such as 'S20', for text in records"),
        ],
    )
    def test_what_hdf5_cannot_hold_is_refused_with_its_kind(self, value, got):
        with pytest.raises(ResultError) as caught:
            to_parts(value)

        assert got in str(caught.value)

    def test_what_knows_to_be_an_array_is_refused_with_how(self):
        pandas = pytest.importorskip("pandas")

        with pytest.raises(ResultError, match=r"return its \.to_numpy\(\)"):
            to_parts(pandas.Series([1]))

    @pytest.mark.parametrize(
        "value",
        [
            "with a zero \0 inside",
            "half a surrogate \ud800",
            ["a", "\0"],
            ("a", "\ud800"),
            np.array(["a\0b"], object),
        ],
        ids=ascii,
    )
    def test_strings_that_hdf5_cannot_hold_are_refused(self, value):
        """The check is made here, because the agent that writes must not meet them."""
        with pytest.raises(ResultError, match=r"string|text|str"):
            to_parts(value)

    @pytest.mark.parametrize("field", ["O", "M8[s]", "U4"])
    def test_structured_arrays_that_hdf5_cannot_hold_are_refused(self, field):
        """Structured arrays with fields that HDF5 cannot hold are refused."""
        with pytest.raises(ResultError, match="HDF5"):
            to_parts(np.zeros(2, [("x", "f8"), ("y", field)]))


class TestToRow:
    @pytest.mark.parametrize(
        ("value", "shape", "dtype", "expected"),
        [
            (2, (None,), "float64", np.array(2.0)),
            (np.float64(2), (None,), "float64", np.array(2.0)),
            (True, (None,), "float64", np.array(1.0)),
            ([1, 2], (None, 2), "float64", np.array([1.0, 2.0])),
            (np.ones((2, 3)), (2, None, 3), "float32", np.ones((2, 3), np.float32)),
            (np.arange(3), (None, 3), "complex128", np.arange(3) + 0j),
            (np.arange(3), (None, 3), ">i8", np.arange(3).astype(">i8")),
            (np.ones(5), (None, np.inf), "float64", np.ones(5)),
            (np.ones((5, 2)), (np.inf, None, 2), "float64", np.ones((5, 2))),
            (np.empty((0, 2)), (None, 0, 2), "float64", np.empty((0, 2))),
            (np.array([True]), (None, 1), "bool", np.array([True])),
        ],
    )
    def test_values_that_fit_are_cast(self, value, shape, dtype, expected):
        assert_same(to_row(value, spec_of(*shape, dtype=dtype)), expected)

    @pytest.mark.parametrize(
        ("value", "got"),
        [
            (1.5, "got shape () float64"),
            (np.ones(4), "got shape (4,) float64"),
            (np.ones((3, 1)), "got shape (3, 1) float64"),
            (np.ones(3) * 1j, "got dtype complex128"),
            (np.array([b"a", b"b", b"c"]), "got dtype |S1"),
            (["a", "b", "c"], "got dtype object"),
            ("abc", "got 'abc'"),
            (None, "got None"),
        ],
    )
    def test_a_value_that_does_not_fit_is_refused_with_both_sides(self, value, got):
        with pytest.raises(ResultError) as caught:
            to_row(value, spec_of(None, 3))

        assert str(caught.value).startswith("expected shape (3,) float64, got ")
        assert got in str(caught.value)

    def test_floats_are_not_cut_to_integers(self):
        with pytest.raises(ResultError, match=r"expected shape \(\) int64, got dtype float64"):
            to_row(2.0, spec_of(None, dtype="int64"))

    @pytest.mark.parametrize(
        ("value", "dtype"), [(300, "int8"), (2**40, "int32"), (np.array([1, -129]), "int8")]
    )
    def test_integers_beyond_the_range_are_refused(self, value, dtype):
        """NumPy would turn 300 into 44 without a word."""
        spec = spec_of(*((None,) if np.ndim(value) == 0 else (None, 2)), dtype=dtype)

        with pytest.raises(
            ResultError, match=rf"expected .* {dtype}, got .*(300|1099511627776|-129)"
        ):
            to_row(value, spec)

    def test_a_python_integer_in_range_fits_an_unsigned_dtype(self):
        assert_same(to_row(255, spec_of(None, dtype="uint8")), np.array(255, np.uint8))

    def test_only_lengths_along_an_unlimited_axis_are_free(self):
        """Lengths along an unlimited axis are free but not the others."""
        spec = spec_of(None, 2, np.inf)

        assert to_row(np.ones((2, 7)), spec).shape == (2, 7)
        with pytest.raises(ResultError, match=r"expected shape \(2, inf\) .*got shape \(3, 7\)"):
            to_row(np.ones((3, 7)), spec)

    def test_what_hdf5_cannot_hold_is_refused(self):
        with pytest.raises(ResultError, match=r"a value of type builtins\.dict"):
            to_row({}, spec_of(None))


class TestMakeRowSpec:
    @pytest.mark.parametrize(
        ("result_shape", "shape", "axis"),
        [
            ((None,), (), 0),
            ((None, 3), (3,), 0),
            ([3, None], (3,), 1),
            ((2, 3, None), (2, 3), 2),
            ((2.0, None, np.int64(4)), (2, 4), 1),
            ((None, np.inf), (math.inf,), 0),
            ((None, 0), (0,), 0),
        ],
    )
    def test_none_is_the_axis_of_the_tasks(self, result_shape, shape, axis):
        spec = make_row_spec(result_shape, "float")

        assert spec == RowSpec(shape, axis, "<f8")

    def test_no_shape_gives_no_spec(self):
        assert make_row_spec(None, "float") is None

    @pytest.mark.parametrize(
        ("dtype", "expected"),
        [("float", "<f8"), (int, "<i8"), (np.dtype(">c8"), ">c8"), ("?", "|b1"), ("f2", "<f2")],
    )
    def test_every_spelling_of_a_dtype_is_taken(self, dtype, expected):
        spec = make_row_spec((None,), dtype)

        assert spec is not None
        assert spec.dtype == expected

    @pytest.mark.parametrize(
        ("result_shape", "text"),
        [
            ("abc", "has to be either `None` or tuple, not <class 'str'>"),
            (5, "has to be either `None` or tuple, not <class 'int'>"),
            ((), "must contain exactly one `None` entry, not ()"),
            ((3, 4), "must contain exactly one `None` entry, not (3, 4)"),
            ((None, None), "must contain exactly one `None` entry"),
            ((None, "a"), "must only contain numerical values, not 'a'"),
            ((None, True), "must only contain numerical values, not True"),
            ((None, 2j), "must only contain numerical values, not 2j"),
            ((None, -1), "must only contain non-negative integers, not -1"),
            ((None, 1.5), "must only contain non-negative integers, not 1.5"),
            ((None, 10**30), f"must only contain non-negative integers, not {10**30}"),
            ((None, -math.inf), "must only contain non-negative integers, not -inf"),
            ((None, math.nan), "must only contain non-negative integers, not nan"),
            ((None, math.inf, math.inf), "more than one `np.inf`"),
            ((None, 2**40, 2**20), "has 9223372036854775808 bytes for each task"),
        ],
    )
    def test_a_wrong_shape_is_refused_with_what_is_allowed(self, result_shape, text):
        with pytest.raises(InputError) as caught:
            make_row_spec(result_shape, "float")

        assert text in str(caught.value)
        assert "result_shape" in str(caught.value)

    @pytest.mark.parametrize(
        "dtype",
        [
            "nonsense",
            "U5",
            "O",
            "M8[s]",
            "S3",
            "f8,i4",
            "f8,,",
            3.5,
            [("x", "f8")],
            {"a": 1},
            {"names": ["a"], "formats": []},
        ],
    )
    def test_a_wrong_dtype_is_refused(self, dtype):
        with pytest.raises(InputError, match="`result_dtype` has to be"):
            make_row_spec((None,), dtype)

    @pytest.mark.parametrize("axis", [0, 1, 2])
    def test_stacked_shape_has_the_tasks_at_their_axis(self, axis):
        shape = [4, 5]
        shape.insert(axis, None)

        stacked = spec_of(*shape).stacked_shape(9)

        assert stacked[axis] == 9
        assert [n for k, n in enumerate(stacked) if k != axis] == [4, 5]

    def test_stacked_shape_replaces_the_unlimited_axis(self):
        assert spec_of(np.inf, None, 2).stacked_shape(9, (7, 2)) == (7, 9, 2)

    def test_row_bytes(self):
        assert spec_of(3, None, 4, dtype="complex64").row_bytes == 96


def encode(values, spec=None, in_memory=False, place=None):
    """Return the Content of the values of tasks 0, 1, ..."""
    encoder = encoder_of(spec, in_memory, Ways(place, dump_values, Frozen))
    for index, value in enumerate(values):
        encoder.add(index, value)
    return encoder.take()


def encode_as_runners_do(values, spec=None, in_memory=False):
    """Return the same, plain values being appended."""
    encoder = encoder_of(spec, in_memory, Ways(None, dump_values, Frozen))
    plain, append = encoder.plain
    for index, value in enumerate(values):
        if type(value) in plain:
            append(value)
        else:
            encoder.add(index, value)
            plain, append = encoder.plain
    return encoder.take()


@pytest.mark.parametrize("shape", [None, (None,), (None, 2)])
@pytest.mark.parametrize("in_memory", [True, False])
def test_plain_values_become_what_others_do(shape, in_memory):
    spec = None if shape is None else spec_of(*shape)
    one = {None: 0.5, (None,): 0.5, (None, 2): np.ones(2)}[shape]
    mixed = [one, one, (one, "more"), one, True, 7, 2**63, "text", None, 1j]
    values = mixed if spec is None else mixed[:4]

    content = encode_as_runners_do(values, spec, in_memory)

    expected = encode(values, spec, in_memory)
    assert pickle.dumps(content) == pickle.dumps(expected)


class Sites:
    """Places every array that is asked for, and notes what is written."""

    def __init__(self, takes=lambda index, k: True):
        self.takes, self.asked, self.written = takes, [], {}

    def __call__(self, index, k, shape, dtype):
        self.asked.append((index, k, shape, dtype))
        if not self.takes(index, k):
            return None
        return lambda array: self.written.update({(index, k): array.copy()})


class TestEncoder:
    def test_with_a_spec_the_values_are_rows(self):
        content = encode([[1, 2], np.array([3.5, 4])], spec_of(None, 2))

        assert_same(content.rows, np.array([[1, 2], [3.5, 4]]))
        assert (content.parts, content.values) == (None, None)

    @pytest.mark.parametrize("value", [1.5, np.float64(1.5), np.array(1.5)])
    def test_scalar_rows_of_any_type_mix(self, value):
        assert_same(encode([0.5, value, 2], spec_of(None)).rows, np.array([0.5, 1.5, 2]))

    def test_no_values_make_empty_rows(self):
        assert_same(encode([], spec_of(None, 3, dtype="i4")).rows, np.empty((0, 3), "i4"))

    def test_further_values_of_a_tuple_are_parts_beside_the_rows(self):
        content = encode([1.5, (2.5, "a", None), (3.5,), 4.5, (5.5, 6)], spec_of(None))

        assert_same(content.rows, np.array([1.5, 2.5, 3.5, 4.5, 5.5]))
        parts = [parts_of(each) for each in content.parts]
        assert [len(each) for each in parts] == [0, 2, 0, 0, 1]
        assert_same(parts[1][0], strings("a", shape=()))
        assert parts[1][1] is None
        assert_same(parts[4][0], np.array(6))

    def test_rows_of_differing_length_are_parts(self):
        content = encode([np.ones(2), (np.ones(3), 7)], spec_of(None, np.inf))

        assert content.rows is None
        parts = [parts_of(each) for each in content.parts]
        assert [[part.shape for part in each] for each in parts] == [[(2,)], [(3,), ()]]

    def test_without_a_spec_every_task_has_its_parts(self):
        content = encode([1, 2.5, True, 1j, "a", (1, 2), None])

        parts = [parts_of(each) for each in content.parts]
        expected = [to_parts(value) for value in [1, 2.5, True, 1j, "a", (1, 2), None]]
        for each, want in zip(parts, expected, strict=True):
            for part, array in zip(each, want, strict=True):
                assert_same(part, array)

    def test_in_memory_values_of_any_type_come_back(self):
        values = [1, {"a": {2}}, None, np.ones(3), 2**70]

        content = encode(values, in_memory=True)

        loaded, _ = load_values(content.values, content.buffers)
        assert repr(loaded) == repr(values)

    @pytest.mark.parametrize("spec", [None, spec_of(None, 2), spec_of(None, np.inf)])
    def test_a_refused_value_leaves_nothing_behind(self, spec):
        encoder, reference = encoder_of(spec, False), encoder_of(spec, False)
        for value in ([1, 2], {}, ([3, 4], {}), [5, 6]):
            try:
                encoder.add(0, value)
            except ResultError:
                continue
            reference.add(0, value)

        taken, expected = encoder.take(), reference.take()
        if taken.rows is not None:
            assert_same(taken.rows, expected.rows)
            assert len(taken.rows) == 2
        assert len(taken.parts or []) == len(expected.parts or [])

    def test_a_refused_row_of_several_says_what_a_tuple_means(self):
        with pytest.raises(ResultError, match=r"expected shape \(2,\) .* a tuple is several"):
            encode([(1, 2, 3)], spec_of(None, 2))

    def test_an_empty_tuple_does_not_fit_a_row(self):
        with pytest.raises(ResultError, match="expected shape"):
            encode([()], spec_of(None))

    @pytest.mark.parametrize(
        ("spec", "in_memory"),
        [
            (None, False),
            (None, True),
            (spec_of(None, 2), False),
            (spec_of(None, 2), True),
            (spec_of(None, np.inf), False),
        ],
    )
    def test_a_reused_buffer_keeps_each_result(self, spec, in_memory):
        """A buffer that the function uses again keeps each result."""
        encoder, buffer = encoder_of(spec, in_memory, Ways(None, dump_values, Frozen)), np.zeros(2)
        for index in range(3):
            buffer[:] = index
            encoder.add(index, buffer)
        content = encoder.take()

        if content.values is not None:
            rows, _ = load_values(content.values, content.buffers)
        elif content.rows is not None:
            rows = content.rows
        else:
            rows = [parts[0] for parts in content.parts]
        assert [row[0] for row in rows] == [0, 1, 2]

    def test_a_reused_list_in_a_tuple_keeps_each_result(self):
        encoder, reused = encoder_of(None, True, Ways(None, dump_values, Frozen)), [0]
        for index in range(3):
            reused[0] = index
            encoder.add(index, (index, reused))

        content = encoder.take()
        assert load_values(content.values, content.buffers)[0] == [(0, [0]), (1, [1]), (2, [2])]

    def test_only_what_can_change_is_pickled_at_once(self):
        fixed = [1.5, (1, "a", None), np.float64(2), (np.int8(3), 1j), ()]

        def freeze(value):
            raise AssertionError(f"{value!r} was pickled by itself")

        encoder = encoder_of(None, True, Ways(None, dump_values, freeze))
        for index, value in enumerate(fixed):
            encoder.add(index, value)

        content = encoder.take()
        found, _ = load_values(content.values, content.buffers)
        assert found == fixed
        assert [*map(type, found)] == [*map(type, fixed)]

    def test_a_reused_array_of_strings_keeps_each_result(self):
        """An array of strings that the function uses again keeps each result."""
        encoder, buffer = encoder_of(None, False), strings("")
        for index in range(3):
            buffer[:] = str(index)
            encoder.add(index, buffer)

        assert [parts[0].tolist() for parts in encoder.take().parts] == [["0"], ["1"], ["2"]]

    def test_take_empties_it(self):
        encoder = encoder_of(None, False)
        encoder.add(0, 1)
        encoder.take()

        assert encoder.take().parts == []
        assert encoder.n_bytes == 0

    def test_it_knows_how_much_it_holds(self):
        encoder = encoder_of(None, False)
        encoder.add(0, np.ones(1000))

        assert encoder.n_bytes >= 8000


class TestNames:
    """Results with names: all tasks of a run have the same."""

    @pytest.mark.parametrize(
        ("value", "names", "shapes"),
        [
            ({"b": 1.5, "a": [1, 2]}, ("b", "a"), [(), (2,)]),
            ({"power": 1.5}, ("power",), [()]),
            (Pair("text", None), ("left", "right"), [(), None]),
        ],
    )
    def test_they_go_along_with_the_parts_in_their_order(self, value, names, shapes):
        (parts,) = encode([value]).parts

        assert names_of(parts) == names
        assert [None if p is None else p.shape for p in parts_of(parts)] == shapes

    def test_without_any_there_are_none(self):
        assert [names_of(parts) for parts in encode([1, (2, 3), "a", np.ones(2)]).parts] == [()] * 4

    def test_the_first_result_says_in_which_order_they_are(self):
        first, second = encode([{"b": 1, "a": 2}, {"a": 4, "b": 3}]).parts

        assert names_of(first) == names_of(second) == ("b", "a")
        assert [part.item() for part in parts_of(second)] == [3, 4]

    def test_a_result_with_others_is_refused_with_both(self):
        text = (
            "expected results called a, b, as the first that ended: all tasks of a run have the "
            "same; missing: b; not expected: c, d"
        )
        with pytest.raises(ResultError, match=text):
            encode([{"a": 1, "b": 2}, 5, (1, 2), {"c": 1, "a": 2, "d": 3}])

    def test_a_refused_result_decides_nothing(self):
        encoder = encoder_of(None, False)
        with pytest.raises(ResultError):
            encoder.add(0, {"a": set()})
        encoder.add(1, {"b": 1})

        assert [names_of(parts) for parts in encoder.take().parts] == [("b",)]

    def test_others_may_have_decided_before(self):
        asked = []

        def agree(names):
            asked.append(names)
            return ("a", "b")

        encoder = encoder_of(None, False, agree=agree)
        encoder.add(0, {"b": 1, "a": 2})
        encoder.add(1, {"b": 3, "a": 4})
        with pytest.raises(ResultError, match="not expected: c"):
            encoder.add(2, {"a": 1, "b": 2, "c": 3})

        assert asked == [("b", "a")]
        assert [names_of(parts) for parts in encoder.take().parts] == [("a", "b")] * 2

    @pytest.mark.parametrize("value", [(1, 2), {"phase": 2, "power": 1}, [[1], [2]]])
    def test_users_name_the_values(self, value):
        encoder = encoder_of(None, False, names=("power", "phase"))
        encoder.add(0, value)

        (parts,) = encoder.take().parts
        assert names_of(parts) == ("power", "phase")
        assert [part.item() for part in parts_of(parts)] == [1, 2]

    def test_the_only_value_keeps_its_form(self):
        encoder = encoder_of(None, False, names=("power",))
        for index, value in enumerate((1.5, np.ones((2, 2)), (1.5,), None)):
            encoder.add(index, value)

        taken = encoder.take().parts
        assert [names_of(parts) for parts in taken] == [("power",)] * 4
        shapes = [part if part is None else part.shape for (part,) in map(parts_of, taken)]
        assert shapes == [(1,), (2, 2), (), None]

    @pytest.mark.parametrize(
        ("value", "text"),
        [
            (1.5, "expected 2 result(s), power, phase; got 1"),
            ((1, 2, 3), "expected 2 result(s), power, phase; got 3"),
            ((), "expected 2 result(s), power, phase; got 0"),
            ({"power": 1}, "expected results called power, phase; missing: phase"),
            (Pair(1, 2), "missing: power, phase; not expected: left, right"),
        ],
    )
    def test_values_that_users_have_named_otherwise_are_refused(self, value, text):
        """Also where what HDF5 cannot hold may be pickled."""
        encoder = encoder_of(
            None, False, Ways(to_pickle=pickle.dumps, may_pickle=True), names=("power", "phase")
        )
        with pytest.raises(MisfitError, match=re.escape(text)):
            encoder.add(0, value)

    def test_what_differs_is_pickled_where_that_is_allowed(self):
        encoder = encoder_of(None, False, Ways(to_pickle=pickle.dumps, may_pickle=True))
        for index, value in enumerate(({"a": 1}, {"b": 2}, {3: 4})):
            encoder.add(index, value)

        content = encoder.take()
        assert [is_pickle(parts) for parts in content.parts] == [False, True, True]
        assert [pickle.loads(parts) for parts in content.parts[1:]] == [[{"b": 2}], [{3: 4}]]
        assert content.unstorable[0] == 1

    def test_large_ones_are_placed_by_their_numbers_in_the_order_of_the_run(self):
        sites = Sites()
        content = encode([{"a": 1, "b": LARGE}, {"b": LARGE + 1, "a": LARGE + 2}], place=sites)

        assert [asked[:2] for asked in sites.asked] == [(0, 1), (1, 0), (1, 1)]
        assert_same(sites.written[1, 1], LARGE + 1)
        assert [names_of(parts) for parts in content.parts] == [("a", "b")] * 2


class TestPlacing:
    def test_large_parts_are_placed_and_small_ones_travel(self):
        sites = Sites()
        content = encode([(LARGE, 1, LARGE[:-1])], place=sites)

        assert sites.asked == [(0, 0, LARGE.shape, "<f8")]
        assert_same(sites.written[0, 0], LARGE)
        assert [is_placed(part) for part in content.parts[0]] == [True, False, False]

    def test_large_rows_are_placed(self):
        sites = Sites()
        content = encode([LARGE, LARGE + 1], spec_of(None, len(LARGE)), place=sites)

        assert [is_placed(row) for row in content.rows] == [True, True]
        assert_same(sites.written[1, 0], LARGE + 1)

    def test_rows_of_which_some_are_placed_stay_in_order(self):
        """A store may refuse a place for one row and grant it for the next."""
        sites = Sites(takes=lambda index, k: index in (1, 2, 5))
        content = encode([LARGE + k for k in range(6)], spec_of(None, len(LARGE)), place=sites)

        assert [is_placed(row) for row in content.rows] == [False, True, True, False, False, True]
        for k in (0, 3, 4):
            assert_same(content.rows[k], LARGE + k)
        assert content.rows[5] == (LARGE.nbytes, checksum(LARGE + 5))

    def test_parts_beside_a_row_count_from_one(self):
        sites = Sites()
        encode([(0.5, LARGE)], spec_of(None), place=sites)

        assert sites.asked == [(0, 1, LARGE.shape, "<f8")]

    def test_a_row_of_differing_length_is_placed_as_a_part(self):
        sites = Sites()
        content = encode([LARGE], spec_of(None, np.inf), place=sites)

        assert (0, 0) in sites.written
        assert is_placed(content.parts[0][0])

    @pytest.mark.parametrize("spec", [None, spec_of(None, len(LARGE))])
    def test_without_a_place_the_array_travels(self, spec):
        content = encode([LARGE], spec, place=Sites(takes=lambda index, k: False))

        assert_same(content.rows[0] if spec else content.parts[0][0], LARGE)

    def test_strings_and_structured_arrays_are_not_placed(self):
        sites = Sites()
        encode([np.zeros(10_000, POINT), np.full(10_000, "text", object)], place=sites)

        assert sites.asked == []

    def test_in_memory_nothing_is_placed(self):
        sites = Sites()
        encode([LARGE], in_memory=True, place=sites)

        assert sites.asked == []

    def test_an_error_while_writing_is_not_a_result(self):
        def refuse(index, k, shape, dtype):
            def write(array):
                raise OSError("no space left")

            return write

        encoder = encoder_of(spec_of(None, len(LARGE)), False, Ways(refuse))
        with pytest.raises(OSError, match="no space"):
            encoder.add(0, LARGE)

        content = encoder.take()
        assert len(content.rows) == 0


class TestColumns:
    """Several stacked arrays, by name."""

    spec = make_row_spec({"power": (None, 2), "peak": (None,)}, {"peak": "int16"})

    def test_they_are_numbered_and_have_types_of_their_own(self):
        assert [(c.name, c.dataset, c.shape, c.dtype) for c in self.spec.columns] == [
            ("power", "result_0", (2,), "<f8"),
            ("peak", "result_1", (), "<i2"),
        ]

    @pytest.mark.parametrize(
        ("shape", "dtype", "message"),
        [
            ({}, "float", "nothing to store"),
            ({1: (None,)}, "float", "names of results are strings"),
            ({"a/b": (None,)}, "float", "names in HDF5 have neither"),
            ({"a": (None,), "b": (None, np.inf)}, "float", "b: an axis `np.inf` is possible in"),
            ({"a": (2,)}, "float", "a: `result_shape` must contain exactly one `None`"),
            ({"a": (None,)}, {"b": "int"}, "names 'b', and `result_shape` has a"),
            ({"a": (None,)}, {"a": "U5"}, "a: `result_dtype` has to be a boolean or numeric"),
        ],
    )
    def test_mistakes_are_told(self, shape, dtype, message):
        with pytest.raises(InputError, match=message):
            make_row_spec(shape, dtype)

    @pytest.mark.parametrize(
        ("value", "message"),
        [
            ({"power": [1, 2]}, "expected results called power, peak, got power"),
            ({"power": [1, 2], "phase": 3}, "got power, phase"),
            ({"power": [1], "peak": 1}, r"power: expected shape \(2,\) float64, got shape \(1,\)"),
            ({"power": [1, 2], "peak": 1.5}, "peak: expected shape"),
            (([1, 2],), "expected a dict, or a tuple, of power, peak, got a tuple of 1"),
            ([1, 2], "got a list"),
        ],
    )
    def test_a_result_that_does_not_fit_fails(self, value, message):
        encoder = encoder_of(self.spec, in_memory=False)
        with pytest.raises(ResultError, match=message):
            encoder.add(0, value)
        assert [len(rows) for rows in encoder.take().columns] == [0, 0]

    def test_in_memory_they_are_a_dict(self):
        stacks = acme_mpi.map(
            lambda x: {"peak": x, "power": [x, -x]},
            [1, 2, 3],
            result_shape={"power": (2, None), "peak": (None,)},
            write_worker_results=False,
        )

        assert {name: stack.tolist() for name, stack in stacks.items()} == {
            "power": [[1, 2, 3], [-1, -2, -3]],
            "peak": [1, 2, 3],
        }
