"""What is done before an exception that nobody has caught is shown, in Python and in IPython."""

from __future__ import annotations

import functools
import sys
from collections.abc import Callable
from typing import Any


def before_uncaught(tell: Callable[[BaseException], None]) -> None:
    """Have ``tell(error)`` called before an uncaught exception is shown, as it would be without it.

    IPython, and so Jupyter, has a method of its shell for that, and takes no notice of
    `sys.excepthook`.
    """
    ipython = sys.modules.get("IPython")
    shell = None if ipython is None else ipython.get_ipython()
    holder, name = (sys, "excepthook") if shell is None else (shell, "showtraceback")
    show = getattr(holder, name)
    if getattr(show, "tell", None) is tell:
        return

    @functools.wraps(show)
    def telling(*given: Any, **keywords: Any) -> None:
        error = _error_of(*given, **keywords)
        if error is not None:
            tell(error)
        show(*given, **keywords)

    telling.tell = tell  # type: ignore[attr-defined]
    setattr(holder, name, telling)


def _error_of(first: Any = None, *others: Any, **keywords: Any) -> BaseException | None:
    """Return the exception that `sys.excepthook`, or IPython's ``showtraceback``, is called for."""
    if isinstance(first, type):
        return others[0]  # type: ignore[no-any-return]
    return (first or keywords.get("exc_tuple") or sys.exc_info())[1]
