"""What users type: numbers are ASCII, wrong words meet the right ones, long ones are shortened."""

from __future__ import annotations

import pytest

from acme_mpi import InputError, Rules
from acme_mpi.spelling import did_you_mean, file_did_you_mean, shortened, whole_number

pytestmark = pytest.mark.once


@pytest.mark.parametrize(("text", "number"), [("0", 0), ("-12", -12), ("+3", 3), ("007", 7)])
def test_a_whole_number_is_read(text, number):
    assert whole_number(text) == number


@pytest.mark.parametrize(
    "text",
    [
        "",
        "-",
        "--1",
        "1_0",
        " 1",
        "1\n",
        "\u00b2",
        "\u0664",
        "\uff11",
        "1.0",
        "0x1",
        "9" * 19,
        "9" * 5000,
    ],
)
def test_anything_else_is_no_number(text):
    assert whole_number(text) is None


@pytest.mark.parametrize("name", ["timeout", "memory", "time_limit"])
@pytest.mark.parametrize(
    "text", ["\u0664", "1\u00b2", "\u0664s", "9" * 5000, f"{'9' * 5000}:00", "1\u20092G"]
)
def test_rules_read_ascii_numbers_of_a_sensible_length(name, text):
    with pytest.raises(InputError, match="has to be"):
        Rules(**{name: text})


@pytest.mark.parametrize("text", ["soon,fail=\u0661", "now,fail=\u00b2%"])
def test_halt_reads_ascii_numbers(text):
    with pytest.raises(InputError, match="has to be"):
        Rules(halt=text)


def test_the_nearest_known_word_is_offered():
    """The nearest known word is offered and nothing for what is far."""
    assert did_you_mean("--ouput", ["--output-dir", "--output", "-q"]) == (
        " (did you mean '--output'?)"
    )
    assert did_you_mean("F", ["g", "f"]) == " (did you mean 'f'?)"
    assert did_you_mean("elephant", ["x", "y"]) == ""
    assert did_you_mean("a" * 10_000, ["x"]) == ""


def test_the_nearest_file_beside_it_is_offered(tmp_path):
    (tmp_path / "args.npz").touch()

    wrong = str(tmp_path / "arg.npz")
    assert file_did_you_mean(wrong) == f" (did you mean {str(tmp_path / 'args.npz')!r}?)"
    assert file_did_you_mean(wrong, ".py") == ""
    assert file_did_you_mean("no/such/folder/x") == ""


def test_long_words_and_lines_lose_their_middle():
    text = f"bad 'a{'b' * 9000}c'\n" + "word " * 3000 + "end"

    short = shortened(text)

    assert len(short) < 2000
    assert short.startswith("bad 'abb")
    assert "bbc'\n" in short
    assert short.endswith("word end")
    assert shortened("a plain message\nof two lines") == "a plain message\nof two lines"
    assert len(str(InputError("x" * 9000))) < 400
    assert InputError("x" * 9000).args == ("x" * 9000,)
