"""The README says what is true: the tests that it names are there, and so are the options."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from acme_mpi.options import make_parser

pytestmark = pytest.mark.once

TESTS = Path(__file__).parent
README = (TESTS.parent / "README.md").read_text()
NAMED = re.findall(r"`(test_\w+)::(test_\w+)`", README)


def section(title: str) -> str:
    """Return the text below a heading, up to the next one."""
    return README.split(f"### {title}\n")[1].split("\n##")[0]


@pytest.mark.parametrize(("file", "test"), sorted(set(NAMED)))
def test_the_named_test_exists(file, test):
    assert re.search(rf"def {test}\(", (TESTS / f"{file}.py").read_text())


def test_every_fault_has_a_test():
    rows = [line for line in section("What happens if ...").splitlines() if line.startswith("| ")]

    assert len(rows) > 20
    for row in rows[2:]:
        assert re.search(r"\| `test_\w+::test_\w+` \|$", row), row


@pytest.mark.parametrize(
    "option",
    sorted(
        text
        for action in make_parser()._actions
        for text in action.option_strings
        if text.startswith("--") and text not in ("--help", "--version", "--quiet", "--verbose")
    ),
)
def test_every_option_is_in_the_readme(option):
    assert option in README
