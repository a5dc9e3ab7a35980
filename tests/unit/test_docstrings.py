"""What the docstrings of all public names say is complete, and their examples are true."""

from __future__ import annotations

import doctest
import inspect
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from numpydoc.docscrape import ClassDoc, FunctionDoc

import acme_mpi

pytestmark = pytest.mark.once

ROOT = Path(__file__).parents[2]
PUBLIC = sorted({*acme_mpi.__all__, "map", "open"} - {"__version__"})
THINGS = {name: getattr(acme_mpi, name) for name in PUBLIC}
ERRORS = [name for name, thing in THINGS.items() if hasattr(thing, "__traceback__")]
FUNCTIONS = [name for name in PUBLIC if inspect.isfunction(THINGS[name])]
TALKERS = ["Executor", "Job", "ParallelMap", "Pool"]  # whose methods are for users
METHODS = [
    f"{name}.{method}"
    for name in TALKERS
    for method, value in vars(THINGS[name]).items()
    if inspect.isfunction(value) and not method.startswith("_")
]
COLLECTIVE = re.compile(r"\b(Collective|Independent)\b")


def found(name: str) -> Any:
    """Return what a name, perhaps of a method, stands for."""
    first, _, method = name.partition(".")
    return getattr(THINGS[first], method) if method else THINGS[first]


def parsed(thing: Any) -> Any:
    return ClassDoc(thing) if inspect.isclass(thing) else FunctionDoc(thing)


def explained(document: Any) -> set[str]:
    entries = [each.name for each in (*document["Parameters"], *document["Attributes"])]
    return {name.lstrip("*") for entry in entries for name in entry.split(", ")}


def parameters(thing: Any) -> Iterator[str]:
    for name in inspect.signature(thing).parameters:
        if name not in ("self", "cls"):
            yield name


# A job is made by `submit`, and an error by us.
@pytest.mark.parametrize("name", sorted({*PUBLIC} - {*ERRORS, "Job"}) + METHODS)
def test_every_parameter_is_explained(name):
    """A docstring may refer to that of another name, in backticks."""
    document = parsed(found(name))
    left = set(parameters(found(name))) - explained(document)

    whole = inspect.getdoc(found(name)) or ""
    assert not left or re.search(r"(?i)\b(as|as in|of|begin an?) `\w+`", whole), left


@pytest.mark.parametrize("name", FUNCTIONS)
def test_functions_tell_returns_errors_and_who_calls(name):
    document = parsed(THINGS[name])

    assert COLLECTIVE.search(THINGS[name].__doc__)
    assert document["Raises"]
    assert document["Returns"] or inspect.signature(THINGS[name]).return_annotation == "None"


@pytest.mark.parametrize("name", TALKERS)
def test_classes_that_talk_to_ranks_tell_who_makes_them(name):
    assert COLLECTIVE.search(THINGS[name].__doc__)


@pytest.mark.parametrize("name", sorted({*PUBLIC} - {*ERRORS}))
def test_there_is_an_example(name):
    assert parsed(THINGS[name])["Examples"] or "has an example" in THINGS[name].__doc__


@pytest.mark.parametrize("name", PUBLIC)
def test_the_example_is_true(name, folder, capsys):
    """Functions of examples are the user's: they belong to no module of ours."""
    names = {"__name__": "__main__"}
    finder = doctest.DocTestFinder(recurse=False)
    (example,) = finder.find(THINGS[name], name, module=False, globs=names, extraglobs={})

    ran = doctest.DocTestRunner(optionflags=doctest.ELLIPSIS).run(example)

    assert ran.failed == 0, capsys.readouterr().out


def test_the_reference_has_every_public_name():
    reference = (ROOT / "docs" / "reference.rst").read_text()

    assert sorted(re.findall(r"^\.\. auto\w+:: (\w+)$", reference, re.MULTILINE)) == PUBLIC
