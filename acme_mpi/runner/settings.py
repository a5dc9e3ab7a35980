"""``--set NAME=VALUE``: values are JSON, else strings, and what is Python's way is not guessed."""

from __future__ import annotations

import ast
import json
import os
import re
import shlex
import warnings
from typing import Any

from acme_mpi.errors import InputError
from acme_mpi.tasks.argument_files import distinct

# Numbers that are none in JSON, or a list of numbers that is none, as NumPy prints it.
_LIKE_NUMBERS = re.compile(r"[+-]?(nan|inf|infinity)|[\[({][-+.,\s0-9eEjJ]*[\])}]?", re.IGNORECASE)
_LIKE_A_RANGE = re.compile(r"range\(([-+,\s0-9]+)\)")
_MOST_SPELLED = 20  # items of a range
_CANNOT_BE_READ = (ValueError, SyntaxError, TypeError, MemoryError, RecursionError)


def as_utf8(text: str) -> str:
    """Return a word of the command line as it was typed, where the locale is "C" and knows ASCII.

    Names in Python's source are UTF-8 in any locale; paths stay as they came, as they lead back.
    """
    try:
        return os.fsencode(text).decode()
    except UnicodeError:
        return text


def parse_setting(text: str) -> tuple[str, Any]:
    """Return (name, value) of ``name=value``; the value is JSON, else a string.

    Raises
    ------
    InputError
        There is no ``=``, the name is not an identifier, or the value is a literal of Python's and
        no JSON, so that a string is hardly meant.
    """
    name, equals, value = as_utf8(text).partition("=")
    if not equals or not name.isidentifier():
        raise InputError(f"--set needs NAME=VALUE with a parameter's name, not {text!r}")
    try:
        return name, json.loads(value, object_pairs_hook=distinct)
    except json.JSONDecodeError:
        _refuse_python(name, value)
        return name, value
    except (ValueError, RecursionError) as error:  # thousands of digits, or of brackets
        raise InputError(f"--set {name}: {value!r} cannot be read as JSON: {error}") from None


def _refuse_python(name: str, value: str) -> None:
    word = value.strip()
    try:
        with warnings.catch_warnings(action="ignore"):
            literal = ast.literal_eval(word)
        if literal is ...:
            return
        spelled = _literal_as_json(literal)
    except _CANNOT_BE_READ:
        if _LIKE_NUMBERS.fullmatch(word):
            spelled = _numbers_as_json(word)
        else:
            try:
                spelled = _without_quotes_as_json(word)
            except _CANNOT_BE_READ:
                return
    how = f"--set {shlex.quote(f'{name}={spelled}')}"
    if not spelled:
        how = "which has nothing for it; put it into a .npz file of arguments"
    text = shlex.quote(f"{name}={json.dumps(value)}")
    raise InputError(
        f"--set {name}: {value!r} looks like a value in Python, but has to be JSON: {how}\n"
        f"  To pass it as a string: --set {text}"
    )


def _literal_as_json(literal: Any) -> str:
    """Return how JSON spells a value, empty if it cannot."""
    try:
        return json.dumps(literal, default=_members)
    except TypeError:
        return ""


def _members(value: Any) -> list[Any]:
    if isinstance(value, set):
        return list(value)
    raise TypeError


def _numbers_as_json(text: str) -> str:
    """Return how JSON spells a number that Python has no literal for, or a list of numbers."""
    word = text.lower().lstrip("+-")
    if word == "nan":
        return "NaN"
    if word.startswith("inf"):
        return "-Infinity" if text.startswith("-") else "Infinity"
    numbers = re.findall(r"[-+.0-9a-z]+", text, re.IGNORECASE)
    try:
        return json.dumps([json.loads(number) for number in numbers])
    except ValueError:
        return ""


def _without_quotes_as_json(text: str) -> str:
    """Return how JSON spells a range, or a list or dict whose quotes a shell has taken.

    A single name in brackets is none: it is a set of characters, or a place to fill in.
    """
    if found := _LIKE_A_RANGE.fullmatch(text):
        numbers = range(*ast.literal_eval(f"[{found[1]}]"))
        return json.dumps([*numbers]) if len(numbers) <= _MOST_SPELLED else ""
    if not text.startswith(("[", "(", "{")) or not re.search("[,:]", text):
        raise ValueError("no list")
    tree = _Quoted().visit(ast.parse(text, mode="eval").body)
    return _literal_as_json(ast.literal_eval(tree))


class _Quoted(ast.NodeTransformer):
    """Makes numbers of names that mean NaN or infinity, and strings of all others."""

    def visit_Name(self, node: ast.Name) -> ast.Constant:
        try:
            return ast.Constant(float(node.id))
        except ValueError:
            return ast.Constant(node.id)
