"""What pools and executors are given: checked, and as a stream takes it."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

from acme_mpi.errors import InputError, InputTypeError
from acme_mpi.rules import Rules
from acme_mpi.session.keywords import check_rules
from acme_mpi.session.stream import Setup, Stream


def check_count(name: str, value: object, none: str = " or None") -> None:
    """Check a whole number >= 1; None is one if `none` says so.

    Raises
    ------
    InputTypeError, InputError
        It is something else.
    """
    if value is None and none:
        return
    words = f"`{name}` has to be a whole number >= 1{none}, not {value!r}"
    if isinstance(value, bool) or not hasattr(value, "__index__"):
        raise InputTypeError(words)
    if value.__index__() < 1:
        raise InputError(words)


def make_setup(
    initializer: Callable[..., object] | None, initargs: Iterable[Any], rules: Rules | None
) -> Setup:
    """Return a setup of checked values.

    Raises
    ------
    InputTypeError
        One of them has the wrong type.
    """
    if initializer is not None and not callable(initializer):
        raise InputTypeError(f"initializer must be a callable or None, not {initializer!r}")
    return Setup(initializer, tuple(initargs), check_rules(rules))


def limit_ranks(setup: Setup, stream: Stream | None, n_wanted: int | None) -> int:
    """Return how many ranks call tasks at the same time; 0: this rank has served another one."""
    if stream is None:
        return 0
    if n_wanted is None or n_wanted >= stream.size:
        return stream.size
    setup.n_ranks = int(n_wanted)
    return setup.n_ranks


def served(what: str) -> InputError:
    """Return the error for a call by a rank that has served the pools of rank 0."""
    return InputError(
        f"rank 0 alone calls the methods of this {what}; this rank has served it, and it is closed"
        f" now\n  Put the calls under `if {what}.is_master():`, or leave before them: "
        f"`if not {what}.is_master(): {what}.wait(); sys.exit(0)`"
    )
