"""A value becomes an array that HDF5 holds exactly, or is refused with what is wrong with it."""

from __future__ import annotations

import bisect
import math

import h5py
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as npst

from acme_mpi.results.checksum import checksum
from acme_mpi.results.convert import MAX_TYPE_BYTES, ResultError, _type_bytes, misfit, to_array
from acme_mpi.results.parts import to_parts
from acme_mpi.results.spec import make_row_spec, to_row
from acme_mpi.storage import hdf5

pytestmark = pytest.mark.once

UNION = np.dtype({"names": ["w", "lo", "hi"], "formats": ["u4", "u2", "u2"], "offsets": [0, 0, 2]})
GAPS = np.dtype({"names": ["b", "a"], "formats": ["i4", "i8"], "offsets": [12, 0], "itemsize": 24})
MASKED = np.ma.array([1.0, 99.0], mask=[0, 1])


def columns(n, kind):
    return np.dtype([(f"c{i}", *kind) for i in range(n)])


def type_bytes(n, kind):
    return _type_bytes(columns(n, kind)) if n else 0


def stored(part):
    """Return a part as it is read from a file into which it was written."""
    with h5py.File("any", "w", driver="core", backing_store=False, libver=hdf5.LIBVER) as file:
        hdf5.write_part(file.id, b"result_0", part)
        return next(hdf5.read_parts(file))


class TestRefused:
    @pytest.mark.parametrize(
        ("value", "why"),
        [
            (np.zeros(3, UNION), "fields overlap"),
            (np.zeros(1, [("x", UNION)]), "fields overlap"),
            (np.zeros(1, [("x", UNION, (2,))]), "fields overlap"),
            (np.zeros(1, [("a", "S0"), ("b", "i4")]), "no bytes"),
            (np.zeros(1, [("a", "i4", (0,))]), "members of shape"),
            (np.zeros(1, [("a\0b", "i4")]), "no text"),
            (np.zeros(1, [("\udc80", "i4")]), "no text"),
            (np.zeros(1, [("a", "U3")]), "does not know"),
            (np.zeros(1, columns(3000, ["f8"])), "description takes"),
            (np.ones((1,) * 33), "33 dimensions"),
            (MASKED, "masked"),
            ([MASKED] * 2, "masked"),
            ([[MASKED], [MASKED]], "masked"),
            ([1.0, np.ma.masked], "masked"),
            (b"ab\0\0", "end in NUL"),
            (np.bytes_(b"ab\0"), "end in NUL"),
            ([b"a", b"b\0"], "end in NUL"),
            ([[b"a"], [b"b\0"]], "end in NUL"),
            ([[1, 2**63 + 1], [-1, 0]], "integer|object"),
            ([2**63 + 1, -1], "integer|object"),
            ([2**53 + 1, 0.5], "9007199254740993"),
            ([np.int64(2**62 + 1), 0.5], "4611686018427387905"),
            ([b"a", "b"], "text and bytes"),
            ([1, "a"], "strings and numbers"),
            ([["a\0"], ["b"]], "NUL"),
        ],
    )
    def test_what_would_change(self, value, why):
        with pytest.raises(ResultError, match=why):
            to_array(value)

    @pytest.mark.parametrize(
        "kind", [["f8"], ["c8"], ["S3"], ["?"], ["f4", (2, 3)], [GAPS]], ids=str
    )
    def test_the_first_record_of_too_many_fields(self, kind):
        """The rule is that of HDF5, to the field."""
        last = bisect.bisect(range(9999), MAX_TYPE_BYTES, key=lambda n: type_bytes(n, kind)) - 1

        assert stored(to_array(np.zeros(1, columns(last, kind)))).size == 1
        with pytest.raises(ResultError):
            to_array(np.zeros(1, columns(last + 1, kind)))
        with pytest.raises((ValueError, RuntimeError)):
            stored(np.zeros(1, columns(last + 1, kind)))

    def test_more_dimensions_than_hdf5_has_in_a_result_shape(self):
        with pytest.raises(ValueError, match="33 entries"):
            make_row_spec((None, *[1] * 32), "float")


class TestKept:
    @pytest.mark.parametrize(
        "value",
        [
            np.array(b"ab", "S10"),
            np.array([b"ab", b""], "S10"),
            np.array(3, ">i4"),
            np.zeros(2, GAPS),
            np.array((1, 2.5), [("a", "i1"), ("b", "f8")]),
            np.arange(6.0).reshape(2, 3).T,
            np.broadcast_to(1.0, (5,)),
            np.zeros((0, 3)),
            np.longdouble(1) / 3,
            np.float16(1.5),
            np.rec.array([(1, 2.5)], names="a,b"),
            b"ab",
            [True, 2.5],
            [2**53, 0.5],
            ["a", "\N{SNOWMAN}"],
        ],
        ids=str,
    )
    def test_as_it_was(self, value):
        part = to_array(value)
        read = stored(part)

        assert read.dtype == part.dtype
        assert read.shape == part.shape
        assert checksum(read) == checksum(part)

    def test_metadata_does_not_colour_others(self):
        kind = h5py.enum_dtype({"A": 1})
        with h5py.File("any", "w", driver="core", backing_store=False) as file:
            hdf5.write_part(file.id, b"a", to_array(np.array([1], kind)))
            hdf5.write_part(file.id, b"b", to_array(np.array([7], "i8")))
            kinds = [h5py.check_enum_dtype(file[name].dtype) for name in "ab"]

        assert kinds == [None, None]

    def test_metadata_of_any_kind_stays_at_home(self):
        part = to_array(np.zeros(1, np.dtype([("a", np.dtype("f8", metadata={"c": object}))])))

        assert part.dtype["a"].metadata is None

    def test_booleans_as_rows_of_any_integer(self):
        spec = make_row_spec((None, 2), "uint64")

        assert to_row(np.array([True, False]), spec).tolist() == [1, 0]
        assert misfit(np.array([], "i8"), np.dtype("u1")) is None


NUMBERS = st.one_of(
    npst.boolean_dtypes(),
    npst.integer_dtypes(endianness="?"),
    npst.floating_dtypes(endianness="?"),
    npst.complex_number_dtypes(endianness="?"),
    npst.byte_string_dtypes(min_len=1),
)
FIELD = st.one_of(NUMBERS, npst.array_dtypes(NUMBERS, min_size=1, max_size=2))
DTYPES = st.one_of(
    NUMBERS,
    npst.array_dtypes(FIELD, allow_subarrays=True),
    npst.unicode_string_dtypes(),
    npst.datetime64_dtypes(),
)


@st.composite
def arrays(draw):
    dtype = draw(DTYPES)
    if dtype.names and draw(st.booleans()):  # fields anywhere, some over others
        offsets = [draw(st.integers(0, 20)) for _ in dtype.names]
        formats = [dtype[name] for name in dtype.names]
        dtype = np.dtype({"names": list(dtype.names), "formats": formats, "offsets": offsets})
    shape = draw(npst.array_shapes(min_dims=0, min_side=0, max_side=3))
    data = draw(st.binary(min_size=1, max_size=64))
    n_bytes = math.prod(shape) * dtype.itemsize
    if dtype.kind in "UM":
        return np.zeros(shape, dtype)
    array = np.frombuffer((data * (n_bytes // len(data) + 1))[:n_bytes], dtype).reshape(shape)
    return array.T if draw(st.booleans()) else array


def check_value(value):
    try:
        parts = to_parts(value)
    except ResultError:
        return
    for part in parts:
        read = stored(part)
        assert read.dtype == part.dtype
        assert read.shape == part.shape
        assert checksum(read) == checksum(part)
        if part.dtype.kind == "O":
            assert read.tolist() == part.tolist()


@settings(max_examples=150, deadline=None)
@given(arrays())
def test_what_is_taken_reads_back_the_same(value):
    check_value(value)


@pytest.mark.many
@settings(max_examples=20_000, deadline=None)
@given(arrays())
def test_what_is_taken_reads_back_the_same_many(value):
    check_value(value)
