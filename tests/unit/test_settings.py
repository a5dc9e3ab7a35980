"""``--set NAME=VALUE``: JSON, else a string, and nothing that is both meant and mistaken."""

from __future__ import annotations

import shlex

import pytest

from acme_mpi import InputError
from acme_mpi.runner.settings import parse_setting

pytestmark = pytest.mark.once


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("3", 3),
        ("3.5", 3.5),
        ("1e5", 1e5),
        ("[1, 2]", [1, 2]),
        ('{"a": null}', {"a": None}),
        ("true", True),
        ("null", None),
        ("Infinity", float("inf")),
        ('"(1, 2)"', "(1, 2)"),
        # Strings, as no literal of Python's looks like them.
        ("a b", "a b"),
        ("", ""),
        ("007", "007"),
        ("[a-z]+", "[a-z]+"),
        ("...", "..."),
        ("2024-10-15", "2024-10-15"),
        ("10:30", "10:30"),
        ("1/3", "1/3"),
        ("1.2.3", "1.2.3"),
        ("Smith, J", "Smith, J"),
        ("x=y", "x=y"),
        ("nano", "nano"),
        ("f(x)", "f(x)"),
        ("[abc]", "[abc]"),
        ("{name}", "{name}"),
        ("{x:>10}", "{x:>10}"),
        ("[text](address)", "[text](address)"),
    ],
)
def test_a_value_is_json_else_a_string(text, value):
    assert parse_setting(f"x={text}") == ("x", value)


PYTHON = {
    "(1,2)": "[1, 2]",
    "1,2": "[1, 2]",
    "'abc'": '"abc"',
    "None": "null",
    "True": "true",
    " False ": "false",
    "0x10": "16",
    "1_000": "1000",
    "[1, 2,]": "[1, 2]",
    "[1, 'a']": '[1, "a"]',
    "{'a': (None, True)}": '{"a": [null, true]}',
    "{1}": "[1]",
    ".5": "0.5",
    "+5": "5",
    "5.": "5.0",
    "nan": "NaN",
    "-inf": "-Infinity",
    "[1 2 3]": "[1, 2, 3]",
    "[1, 2": "[1, 2]",
    "()": "[]",
    "[a, b]": '["a", "b"]',
    "{a: 1}": '{"a": 1}',
    "(a, (1, b))": '["a", [1, "b"]]',
    "[1, -inf]": "[1, -Infinity]",
    "range(1, 6, 2)": "[1, 3, 5]",
}


@pytest.mark.parametrize("text", PYTHON)
def test_python_that_is_no_json_is_refused_with_both_ways(text):
    """What is Python and no JSON is refused with both ways to say it."""
    with pytest.raises(InputError) as caught:
        parse_setting(f"x={text}")

    told, as_string = str(caught.value).splitlines()
    assert repr(text) in told
    meant, string = (
        parse_setting(shlex.split(line.rpartition("--set ")[2])[0]) for line in (told, as_string)
    )
    assert meant == parse_setting(f"x={PYTHON[text]}")
    assert string == ("x", text)


@pytest.mark.parametrize("text", ["1+2j", "3j", "b'ab'", "{(1, 2): 3}", "range(0, 21)"])
def test_what_json_cannot_say_goes_into_a_file(text):
    with pytest.raises(InputError, match=r"\.npz"):
        parse_setting(f"x={text}")


@pytest.mark.parametrize("text", ["9" * 5000, "[" * 100_000])
def test_a_monster_is_refused_in_few_words(text):
    with pytest.raises(InputError, match="cannot be read as JSON") as caught:
        parse_setting(f"x={text}")

    assert len(str(caught.value)) < 1000


@pytest.mark.parametrize("text", ["x", "=1", "a b=1", "1=1"])
def test_a_setting_needs_a_name(text):
    with pytest.raises(InputError, match="NAME=VALUE"):
        parse_setting(text)


def test_an_object_has_each_name_once():
    with pytest.raises(InputError, match="the name 'a' is there twice"):
        parse_setting('x={"a": 1, "a": 2}')
