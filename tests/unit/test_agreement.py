"""Ranks agree: one decision, or one exception on every rank."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from acme_mpi import errors
from acme_mpi.comm import ThreadWorld, pack_error, settle, unpack_error
from acme_mpi.errors import AcmeMpiError, InputError, InputTypeError, PlaceError

pytestmark = pytest.mark.once


def settle_on(
    size: int, faults: dict[int, AcmeMpiError], decide: Callable[[Any], Any]
) -> list[Any]:
    """Return what `settle` returns or raises on each of `size` ranks that bring their numbers."""

    def enter(world: ThreadWorld) -> Any:
        try:
            return settle(world, faults.get(world.rank), world.rank, decide)
        except AcmeMpiError as error:
            return type(error), str(error)

    return ThreadWorld.run(size, enter)


@pytest.mark.parametrize("size", [1, 3])
class TestSettle:
    def test_every_rank_gets_what_rank_0_decides_of_what_all_bring(self, size):
        assert settle_on(size, {}, sum) == [sum(range(size))] * size

    def test_what_the_decision_raises_is_raised_on_every_rank(self, size):
        def refuse(brought: list[int]) -> None:
            raise PlaceError("f.h5 exists")

        assert settle_on(size, {}, refuse) == [(PlaceError, "f.h5 exists")] * size

    def test_what_the_system_refuses_is_raised_on_every_rank(self, size):
        def look(brought: list[int]) -> None:
            raise FileNotFoundError("the working directory is gone")

        assert settle_on(size, {}, look) == [(PlaceError, "the working directory is gone")] * size

    def test_rank_0s_own_error_is_raised_and_nothing_decided(self, size):
        faults = {rank: InputTypeError(f"mistake {rank}") for rank in range(size)}
        decisions: list[Any] = []

        assert settle_on(size, faults, decisions.append) == [(InputTypeError, "mistake 0")] * size
        assert decisions == []


def test_errors_of_other_ranks_are_raised_as_one():
    """Errors of other ranks are raised as one with their numbers."""
    faults = {1: InputTypeError("not a number"), 3: InputError("too small")}
    text = "rank 1: not a number\nrank 3: too small"

    assert settle_on(4, faults, sum) == [(InputTypeError, text)] * 4


@pytest.mark.parametrize(
    "kind",
    [
        each
        for each in vars(errors).values()
        if isinstance(each, type) and issubclass(each, Exception)
    ],
)
def test_an_error_keeps_class_and_text_on_its_way(kind):
    error = unpack_error(pack_error(kind("what is wrong")))

    assert (type(error), str(error)) == (kind, "what is wrong")
