"""What names a return value brings, and the form on which the ranks of a run agree."""

from __future__ import annotations

import threading
from collections import OrderedDict, namedtuple
from dataclasses import dataclass, field
from enum import StrEnum

import numpy as np
import pytest

from acme_mpi.results import form
from acme_mpi.results.convert import ResultError
from acme_mpi.results.form import FORM, agreed, form_of
from acme_mpi.results.named import named

pytestmark = pytest.mark.once


class Word(StrEnum):
    POWER = "power"


Pair = namedtuple("Pair", "power phase")
Nothing = namedtuple("Nothing", "")


@dataclass
class Fit:
    power: float
    phase: float = 2.0
    parts: list[int] = field(default_factory=list)


@dataclass
class Empty:
    pass


@pytest.mark.parametrize(
    ("value", "names", "values"),
    [
        ({"power": 1, "phase": 2}, ("power", "phase"), [1, 2]),
        (OrderedDict(b=1, a=2), ("b", "a"), [1, 2]),
        (Pair(1, 2), ("power", "phase"), [1, 2]),
        (Fit(1.0), ("power", "phase", "parts"), [1.0, 2.0, []]),
        ({Word.POWER: 1}, ("power",), [1]),
        ({"Größe": 1, "a b": 2, "..": 3}, ("Größe", "a b", ".."), [1, 2, 3]),
        ({"result_0": 1, "result_1": 2, "result_01": 3}, ("result_0", "result_1", "result_01"), 0),
    ],
)
def test_dicts_named_tuples_and_dataclasses_bring_names(value, names, values):
    found = named(value)

    assert found.names == names
    assert all(type(name) is str for name in found.names)
    assert list(found.values) == (values or [1, 2, 3])


@pytest.mark.parametrize(
    "value",
    [1, "text", None, (1, 2), [1, 2], np.ones(2), np.ones(1, [("a", "f8")]), Fit, Nothing(), {1}],
)
def test_all_else_brings_none(value):
    assert named(value) is None


@pytest.mark.parametrize(
    ("value", "why"),
    [
        ({}, "without entries"),
        (Empty(), "without entries"),
        ({1: 2}, "a result called 1, of type int: names of results are strings"),
        ({"a": 1, None: 2}, "a result called None, of type NoneType"),
        ({"a/b": 1}, "a result called 'a/b', and names in HDF5 have neither / nor NUL"),
        ({"a\0": 1}, "neither / nor NUL"),
        ({"": 1}, "a result called '', which HDF5 does not take for a name"),
        ({".": 1}, "does not take"),
        ({"a" * 1001: 1}, "at most 1000 bytes"),
        ({"\udc80": 1}, "valid Unicode"),
        ({"a": 1, "result_0": 2}, "as which number 0 is known, and this is number 1"),
        ({"result_2": 1}, "as which number 2 is known"),
    ],
)
def test_what_cannot_be_a_name_is_refused(value, why):
    with pytest.raises(ResultError, match=why):
        named(value)


class TestForm:
    def test_the_first_one_decides(self, tmp_path):
        first, second = {"names": ["power", "Größe"]}, {"names": ["other"]}

        assert form_of(str(tmp_path)) is None
        assert agreed(str(tmp_path), first) == first
        assert agreed(str(tmp_path), second) == form_of(str(tmp_path)) == first
        assert [path.name for path in tmp_path.iterdir()] == [FORM]

    def test_all_who_come_at_once_get_the_same(self, tmp_path):
        begin, found = threading.Barrier(8), []

        def propose(k):
            begin.wait()
            found.append(agreed(str(tmp_path), {"k": k})["k"])

        threads = [threading.Thread(target=propose, args=(k,)) for k in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()

        assert len(found) == 8
        assert len(set(found)) == 1

    def test_where_no_file_has_two_names_it_is_copied(self, tmp_path, monkeypatch):
        def refuse(*paths):
            raise OSError(form.errno.EPERM, "no links")

        monkeypatch.setattr(form.os, "link", refuse)

        assert agreed(str(tmp_path), {"k": 1}) == agreed(str(tmp_path), {"k": 2}) == {"k": 1}

    def test_what_is_no_form_is_told(self, tmp_path, monkeypatch):
        monkeypatch.setattr(form, "HALF_WRITTEN_S", 0)
        (tmp_path / FORM).write_text("[1")

        with pytest.raises(ValueError, match=r"damaged: .*form\.json"):
            agreed(str(tmp_path), {})
