"""The git commit of the folder in which a function is written, without git."""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterator
from types import CodeType
from typing import Any

_COMMIT = re.compile(r"[0-9a-f]{40}([0-9a-f]{24})?")  # SHA-1 or SHA-256
_MOST_WRAPPERS = 100
_MOST_BYTES = 64 * 1024**2


def commit_of(func: Callable[..., Any]) -> str:
    """Return the commit that is checked out where a function's file lies; empty if none is known.

    Whether files have changed since is not looked at.

    Parameters
    ----------
    func : callable
        With a source in a file.
    """
    for _ in range(_MOST_WRAPPERS):  # an object may have any attribute, without end
        if hasattr(func, "__code__") or not hasattr(func, "func"):
            break
        func = func.func
    code = getattr(func, "__code__", None)
    path = code.co_filename if isinstance(code, CodeType) else ""
    # An environment may lie in a repository to which what is installed in it does not belong.
    if not os.path.isfile(path) or "-packages" + os.sep in path:
        return ""
    try:
        return _commit(os.path.dirname(os.path.realpath(path)))
    except (OSError, ValueError):
        return ""


def _commit(folder: str) -> str:
    for above in _upwards(folder):
        found = os.path.join(above, ".git")
        if os.path.isfile(found):  # of a worktree, or a submodule
            link = _text(found).removeprefix("gitdir:").strip()
            found = os.path.join(above, link)
        if os.path.isdir(found):
            return _head(found)
    return ""


def _upwards(folder: str) -> Iterator[str]:
    yield folder
    while (above := os.path.dirname(folder)) != folder:
        folder = above
        yield folder


def _head(git: str) -> str:
    head = _text(os.path.join(git, "HEAD")).strip()
    if not head.startswith("ref:"):
        return head if _COMMIT.fullmatch(head) else ""
    name = head.removeprefix("ref:").strip()
    if name.startswith(os.sep) or ".." in name.split("/"):
        return ""
    folders = [git]
    common = os.path.join(git, "commondir")
    if os.path.isfile(common):
        folders.append(os.path.join(git, _text(common).strip()))
    for each in folders:
        loose = os.path.join(each, *name.split("/"))
        commit = _text(loose).strip() if os.path.isfile(loose) else _packed(each, name)
        if _COMMIT.fullmatch(commit):
            return commit
    return ""


def _packed(git: str, name: str) -> str:
    path = os.path.join(git, "packed-refs")
    lines = _text(path).splitlines() if os.path.isfile(path) else []
    return next((line.split()[0] for line in lines if line.split()[1:] == [name]), "")


def _text(path: str) -> str:
    with open(path, encoding="utf-8") as file:
        return file.read(_MOST_BYTES)
