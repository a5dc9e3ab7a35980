"""Whether who has run a script meant to call a function of it: ``script.py f`` for ``script.py:f``.

The script is read, not run: what it defines is seen by its text.
"""

from __future__ import annotations

import ast
import os
import shlex
from collections.abc import Sequence
from typing import NamedTuple

MAX_BYTES = 10**6
# What does nothing but define names; without decorators, which may do anything.
_DEFINITIONS = (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef, ast.Import, ast.ImportFrom)


class Meant(NamedTuple):
    """A function of a script that was probably meant.

    Attributes
    ----------
    text : str
        What to tell the user.
    is_certain : bool
        Whether the script can have done nothing, as it only defines.
    """

    text: str
    is_certain: bool


def function_meant(command: Sequence[str]) -> Meant | None:
    """Return which function was meant by the first word behind a script; None if none was.

    Parameters
    ----------
    command : sequence of str
        The script's path, or ``-m`` and a module's name, then its own arguments. It has made no
        call.
    """
    is_module = command[0] == "-m"
    target, *rest = command[1:] if is_module else command
    path = f"{target.replace('.', os.sep)}.py" if is_module else target
    if not rest or not all(part.isidentifier() for part in rest[0].split(".")):
        return None
    try:
        with open(path, "rb") as file:
            body = ast.parse(file.read(MAX_BYTES)).body
    except (OSError, ValueError, SyntaxError, RecursionError, MemoryError):
        return None
    name = rest[0]
    if not _defines(body, name.split(".")):
        return None
    line = shlex.join(["python", "-m", "acme_mpi", f"{target}:{name}", *rest[1:]])
    text = (
        f"{target} was run as a script and has made no call of acme_mpi; to call its function "
        f"{name!r}, join the two by a colon: {line}"
    )
    return Meant(text, all(map(_only_defines, body)))


def _defines(body: Sequence[ast.stmt], names: Sequence[str]) -> bool:
    """Tell whether a body defines a function of these names, the last one inside of classes."""
    name, *inner = names
    for node in body:
        if isinstance(node, ast.ClassDef) and node.name == name and inner:
            return _defines(node.body, inner)
        if isinstance(node, ast.Assign) and isinstance(node.value, ast.Lambda):
            found = [target.id for target in node.targets if isinstance(target, ast.Name)]
        else:
            found = [node.name] if isinstance(node, _DEFINITIONS[:2]) else []
        if name in found and not inner:
            return True
    return False


def _only_defines(node: ast.stmt) -> bool:
    if isinstance(node, (ast.Assign, ast.AnnAssign)):
        return isinstance(node.value, (ast.Constant, ast.Lambda, type(None)))
    is_docstring = isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant)
    has_decorators = bool(getattr(node, "decorator_list", []))
    return is_docstring or (isinstance(node, _DEFINITIONS) and not has_decorators)
